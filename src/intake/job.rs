//! The contract of jobs, version 1: what producers publish and what they are answered. Within v1 fields are only added.

use std::borrow::Cow;

use chrono::{DateTime, FixedOffset, NaiveDate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::{
    Channel,
    canary::CanaryWish,
    ids::{BatchId, HoldId},
    named,
    schedule::Window,
    template::Params,
};

/// Recipients refused that an answer shows; all stand in `GET /v1/batches/{id}/rejected`.
pub const REJECTIONS_SHOWN: usize = 100;

/// The value of `schema` of a job to send.
pub const SEND_JOB: &str = "send-job/v1";
/// The value of `schema` of a job that cancels another.
pub const CANCEL_JOB: &str = "cancel-job/v1";
/// The value of `schema` of an answer.
pub const JOB_ANSWER: &str = "job-answer/v1";

/// A request to send one template to many people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SendJob {
    /// `send-job/v1`.
    pub schema: String,
    /// Names the job among all of its producer: a repeat gets the first answer and sends nothing. 1 to 128 characters.
    pub job_id: String,
    /// Who publishes it, as registered.
    pub producer: String,
    /// Needed only when the number exists on more than one channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<Channel>,
    /// The identity to send from, as registered.
    pub business_number: String,
    /// What to send.
    pub template: TemplateRef,
    /// Values for every recipient that has none of its own, by slot.
    #[serde(default, skip_serializing_if = "Params::is_empty")]
    pub params: Params,
    /// A name to find the batch by. At most 256 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub campaign: Option<String>,
    /// Not before; in the past means now. At most 180 days ahead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_at: Option<DateTime<FixedOffset>>,
    /// Not after. Counted from `send_at` by default: 10 min for authentication, 24 h for utility and marketing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<FixedOffset>>,
    /// Hours of the recipients in which it may go out. Each message waits for the first window of its recipient that opens
    /// before `expires_at`, and expires when that closes; one that has none is not sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<JobWindows>,
    /// How many go out first, whose outcomes decide about the rest; `false` for none. By default as in the settings, which
    /// concern large marketing batches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryWish>,
    /// Which events are wanted beside failures, which are always told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<Notify>,
    /// Who gets it, at most 1 000. Either this or `audience`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipients: Option<Vec<Recipient>>,
    /// Who gets it, as kept here: an import, or an audience group as it is when the job is taken. Either this or `recipients`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<Audience>,
}

/// Hours on the wall clock of each recipient: of its `time_zone`, else the audience group's, else of the country of its
/// number; in a country of several zones the hours that are open in all of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JobWindows {
    /// The hours, at least one.
    pub spans: Vec<Window>,
    /// Days of the recipient's calendar on which no window opens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except_dates: Vec<NaiveDate>,
    /// The clock of recipients of whom nothing says where they live: IANA, for example `Asia/Tokyo`.
    pub time_zone: String,
}

/// A template by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TemplateRef {
    /// As the provider knows it.
    pub name: String,
    /// For example `ja` or `en_US`.
    pub language: String,
}

named! {
    /// An event a producer may ask for.
    pub enum Notify {
        /// Reached the recipient's device.
        Delivered = "delivered",
        /// Opened.
        Read = "read",
        /// Answered.
        Received = "received",
    }
}

/// One recipient of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipient {
    /// What the channel takes: a number in E.164, a mailbox, or the provider's user id.
    pub to: String,
    /// Its own values, by slot.
    #[serde(default, skip_serializing_if = "Params::is_empty")]
    pub params: Params,
    /// The producer's name for the recipient, given back in events. At most 256 characters.
    #[serde(rename = "ref", default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// An IANA time zone, for example `Asia/Tokyo`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
}

/// Recipients that are kept here: exactly one of the fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// An import, by its id.
    Import(Uuid),
    /// An audience group, by its name.
    Group(String),
}

/// A request to stop an earlier job: what has not been sent yet is not sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelJob {
    /// `cancel-job/v1`.
    pub schema: String,
    /// Who published the job.
    pub producer: String,
    /// The job to cancel.
    pub job_id: String,
}

/// The answer to a job: the same body by HTTP, as event and as reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum JobAnswer {
    /// It is kept and will be sent.
    Accepted(AcceptedJob),
    /// It is not; it may be corrected and published again under the same `job_id`.
    Rejected(RejectedJob),
}

/// What became of an accepted job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct AcceptedJob {
    /// `job-answer/v1`.
    pub schema: Cow<'static, str>,
    /// Whose job it is.
    pub producer: String,
    /// Its name.
    pub job_id: String,
    /// The batch to ask about.
    pub batch_id: BatchId,
    /// Recipients that will be sent to. None for a cancellation.
    pub accepted: i64,
    /// Recipients that will not.
    pub rejected: i64,
    /// The first of them.
    pub rejections: Vec<Rejection>,
    /// What the batch waits for before anything is sent.
    pub holds: Vec<MetHold>,
}

/// Why a job was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct RejectedJob {
    /// `job-answer/v1`.
    pub schema: Cow<'static, str>,
    /// Whose job it is; `unknown` when that cannot be read.
    pub producer: String,
    /// Its name, when it can be read.
    pub job_id: Option<String>,
    /// Everything that is wrong with it.
    pub errors: Vec<JobError>,
}

/// A recipient that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct Rejection {
    /// The place in `recipients`, from 1; of an audience group, the line that the member has in an export.
    pub row: i32,
    /// The value, as a JSON pointer into the job; of a member of an audience group, `/audience/group/params/<slot>`.
    pub pointer: String,
    /// Stable, for machines.
    pub code: Cow<'static, str>,
    /// For people.
    pub reason: String,
    /// What was probably meant, the nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub did_you_mean: Vec<String>,
}

/// Something wrong with a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct JobError {
    /// The value, as a JSON pointer into the job; empty for the job as a whole.
    pub pointer: String,
    /// Stable, for machines.
    pub code: Cow<'static, str>,
    /// For people.
    pub reason: String,
    /// What was probably meant, the nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub did_you_mean: Vec<String>,
}

/// A hold the batch meets at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct MetHold {
    /// The hold.
    pub id: HoldId,
    /// What it covers.
    pub scope: String,
    /// Why, in one word.
    pub cause: String,
    /// When it ends by itself.
    pub until: Option<DateTime<chrono::Utc>>,
}

impl JobError {
    /// An error with no suggestion.
    pub fn new(pointer: impl Into<String>, code: &'static str, reason: impl Into<String>) -> Self {
        // Postgres keeps no NUL, and both may quote what somebody sent.
        let clean = |text: String| if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text };
        let (pointer, reason) = (clean(pointer.into()), clean(reason.into()));
        Self { pointer, code: Cow::Borrowed(code), reason, did_you_mean: Vec::new() }
    }

    /// The same with what was probably meant.
    #[must_use]
    pub fn meant(mut self, names: Vec<String>) -> Self {
        self.did_you_mean = names;
        self
    }

    /// The same, seen as the reason why one recipient is refused.
    pub fn of_row(self, row: i32) -> Rejection {
        let Self { pointer, code, reason, did_you_mean } = self;
        Rejection { row, pointer, code, reason, did_you_mean }
    }
}

impl From<Rejection> for JobError {
    fn from(rejection: Rejection) -> Self {
        let Rejection { row: _, pointer, code, reason, did_you_mean } = rejection;
        Self { pointer, code, reason, did_you_mean }
    }
}

impl JobAnswer {
    /// A refusal.
    pub fn refused(producer: Option<&str>, job_id: Option<&str>, errors: Vec<JobError>) -> Self {
        Self::Rejected(RejectedJob {
            schema: Cow::Borrowed(JOB_ANSWER),
            producer: producer.unwrap_or("unknown").to_owned(),
            job_id: job_id.map(str::to_owned),
            errors,
        })
    }

    /// The producer it is for; `unknown` when that could not be read.
    pub fn producer(&self) -> &str {
        match self {
            Self::Accepted(job) => &job.producer,
            Self::Rejected(job) => &job.producer,
        }
    }

    /// The HTTP status that says the same: 202, 400, 403, 409, 413 or 422.
    pub fn http_status(&self) -> u16 {
        let Self::Rejected(job) = self else {
            return 202;
        };
        let has = |codes: &[&str]| job.errors.iter().any(|error| codes.contains(&error.code.as_ref()));
        if has(&["malformed_json"]) {
            400
        } else if has(&["other_producer"]) {
            403
        } else if has(&["job_id_reused"]) {
            409
        } else if has(&["too_large", "too_many_recipients"]) {
            413
        } else {
            422
        }
    }
}
