//! The contract of campaigns, version 1. Within v1 fields are only added.

use chrono::{DateTime, FixedOffset, NaiveDate, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::{Channel, campaign::Overlap, canary::CanaryWish, schedule::Window, template::Params};

/// The value of `schema` of a campaign.
pub const CAMPAIGN: &str = "campaign/v1";

/// A campaign: what is sent to whom, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CampaignDocument {
    /// `campaign/v1`.
    pub schema: String,
    /// Names it within the tenant: 1 to 64 of a-z, 0-9, `.`, `_` and `-`. Also the `campaign` of its batches.
    pub key: String,
    /// Who its jobs are published for: by default whom the token speaks for, else the tenant's only producer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub producer: Option<String>,
    /// Needed only when the number exists on more than one channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<Channel>,
    /// The identity to send from, as registered.
    pub business_number: String,
    /// What to send.
    pub template: CampaignTemplate,
    /// Values for every recipient that has none of its own, by slot.
    #[serde(default, skip_serializing_if = "Params::is_empty")]
    pub params: Params,
    /// Which events are wanted beside failures: delivered, read, received.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<String>,
    /// Who gets it, read at each firing.
    pub audience: Audience,
    /// When it fires.
    pub schedule: Schedule,
    /// The zone of the schedule, and of the windows and `except_dates` unless `window_zone` says otherwise: IANA, for example
    /// `Asia/Tokyo`.
    pub time_zone: String,
    /// A cron schedule does not fire before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<DateTime<FixedOffset>>,
    /// A cron schedule does not fire at this time or after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<DateTime<FixedOffset>>,
    /// Days on which nothing is fired and no window opens; with `window_zone` `recipient` windows go by the days of the
    /// recipient's calendar.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except_dates: Vec<NaiveDate>,
    /// When messages may go out; none is always. A firing outside waits for the next window, and what is not sent when the
    /// window closes expires.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Window>,
    /// Whose hours the windows are. With the recipients' a firing goes out at once, and each message waits for the first
    /// window of its recipient while it lives.
    #[serde(default)]
    pub window_zone: WindowZone,
    /// How late a firing may begin when nothing ran at its time: `90s`, `15m`, `24h`, `2d`.
    #[serde(default = "late_within")]
    pub late_within: String,
    /// What a firing does while an earlier one still has messages to send.
    #[serde(default = "overlap")]
    pub overlap: Overlap,
    /// How long messages live, counted from the firing.
    #[serde(default = "expires_after")]
    pub expires_after: String,
    /// With more recipients a firing waits for another person's token (the setting `campaigns.approval_over` may be
    /// stricter).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval_over: Option<i64>,
    /// How many messages of a firing go out first, whose outcomes decide about the rest; `false` for none. By default as in
    /// the settings, which concern large marketing batches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryWish>,
}

fn late_within() -> String {
    "15m".to_owned()
}

fn expires_after() -> String {
    "24h".to_owned()
}

const fn overlap() -> Overlap {
    Overlap::Skip
}

/// A template by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CampaignTemplate {
    /// As the provider knows it.
    pub name: String,
    /// For example `ja` or `en_US`.
    pub language: String,
}

/// Who gets it: exactly one of the fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// At most 1 000 recipients, each as in a job: `to`, `params`, `ref`, `time_zone`.
    #[schema(value_type = Vec<Object>)]
    Recipients(Vec<Value>),
    /// An import, by its id.
    Import(Uuid),
    /// An audience group, by its name.
    Group(String),
}

/// When it fires: exactly one of the three.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// At one time (RFC 3339 with an offset).
    Once(DateTime<FixedOffset>),
    /// crontab(5): five fields, or `@daily` and its like; as day of the month `L` is the last one.
    Cron(String),
    /// When somebody runs it.
    OnDemand,
}

/// Whose hours windows are.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WindowZone {
    /// The campaign's `time_zone`.
    #[default]
    Campaign,
    /// Each recipient's own: the recipient's `time_zone`, else the audience group's, else the country's of the number; in a
    /// country of several zones the hours that are open in all of them. The campaign's where nothing says.
    Recipient,
}

impl CampaignDocument {
    /// The job that a firing publishes.
    pub fn job(
        &self,
        producer: &str,
        job_id: &str,
        send_at: Option<DateTime<Utc>>,
        expires_at: DateTime<Utc>,
    ) -> Value {
        let mut job = json!({
            "schema": "send-job/v1", "job_id": job_id, "producer": producer, "business_number": self.business_number,
            "template": self.template, "params": self.params, "campaign": self.key, "notify": self.notify,
            "expires_at": expires_at,
        });
        let mut set = |field: &str, value: Value| job[field] = value;
        if let Some(channel) = self.channel {
            set("channel", json!(channel));
        }
        if let Some(send_at) = send_at {
            set("send_at", json!(send_at));
        }
        if self.window_zone == WindowZone::Recipient {
            let windows =
                json!({"spans": self.windows, "except_dates": self.except_dates, "time_zone": self.time_zone});
            set("windows", windows);
        }
        if let Some(canary) = &self.canary {
            set("canary", json!(canary));
        }
        match &self.audience {
            Audience::Recipients(recipients) => set("recipients", json!(recipients)),
            Audience::Import(id) => set("audience", json!({ "import": id })),
            Audience::Group(name) => set("audience", json!({ "group": name })),
        }
        job
    }

    /// A job to a few numbers that counts for no campaign: with the values of the document, of its first recipient, and
    /// those given, the last of which win.
    pub fn test_job(&self, producer: &str, job_id: &str, to: &[String], params: &Params) -> Value {
        let first = match &self.audience {
            Audience::Recipients(recipients) => recipients.first(),
            Audience::Import(_) | Audience::Group(_) => None,
        };
        let mut values = self.params.clone();
        let own = first.and_then(|first| Params::deserialize(&first["params"]).ok()).unwrap_or_default();
        values.extend(own);
        values.extend(params.clone());
        let recipients: Vec<Value> = to.iter().map(|to| json!({ "to": to })).collect();
        let mut job = json!({
            "schema": "send-job/v1", "job_id": job_id, "producer": producer, "business_number": self.business_number,
            "template": self.template, "params": values, "recipients": recipients,
        });
        if let Some(channel) = self.channel {
            job["channel"] = json!(channel);
        }
        job
    }
}
