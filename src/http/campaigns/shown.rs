//! What is asked about campaigns and what is answered.

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    campaigns::CampaignDocument,
    domain::{campaign::CampaignState, schedule::Shift, template::Params},
};

/// How a campaign is applied.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ApplyQuery {
    /// Only tell what would change.
    #[serde(default)]
    #[param(required = false)]
    pub(in crate::http) dry_run: bool,
}

/// Which campaigns.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ListQuery {
    /// Archived ones too.
    #[serde(default)]
    #[param(required = false)]
    pub(in crate::http) all: bool,
}

/// How many firings ahead.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct NextQuery {
    /// So many, 10 unless told, at most 100.
    pub(in crate::http) count: Option<usize>,
}

/// Which occurrences.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct OccurrenceQuery {
    /// Rows, 50 unless told, at most 500.
    pub(in crate::http) limit: Option<i64>,
    /// Only those before this time.
    pub(in crate::http) before: Option<DateTime<Utc>>,
}

/// A campaign as it stands.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CampaignInfo {
    /// Its name.
    pub key: String,
    /// Whether it fires.
    pub state: CampaignState,
    /// Who its jobs are published for.
    pub producer: String,
    /// When it fires next.
    pub next_fire_at: Option<DateTime<Utc>>,
    /// Who applied it last.
    pub applied_by: String,
    /// When.
    pub applied_at: DateTime<Utc>,
    /// Who paused, resumed or archived it last.
    pub changed_by: Option<String>,
    /// When.
    pub changed_at: Option<DateTime<Utc>>,
    /// As it was applied.
    #[schema(value_type = CampaignDocument)]
    pub document: Value,
}

/// A firing ahead.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NextFiring {
    /// The instant.
    pub utc: DateTime<Utc>,
    /// What the campaign's wall clock then shows, with its offset.
    pub local: String,
    /// What the schedule says.
    pub wall: NaiveDateTime,
    /// `gap`: that time does not exist, the first after it is taken; `fold`: it exists twice, the first is taken.
    pub daylight_saving: Shift,
}

/// A campaign that goes on.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Resumed {
    /// Batches that waited and go on.
    pub batches: u64,
}

/// To whom a test goes.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TestRequest {
    /// At most five.
    pub to: Vec<String>,
    /// Values by slot, beside those of the document and of its first recipient.
    #[serde(default)]
    pub params: Params,
}
