//! How many messages are in which state, by day, number, template, campaign or error.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use super::{ChecklistError, lists::span, which::refused};
use crate::{
    domain::ids::TenantId,
    store::{
        Store,
        checklist::{
            self,
            reports::{self, By, ReportRow},
        },
    },
};

/// Which report.
#[derive(Debug, Clone, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ReportQuery {
    /// day, `business_number`, template, campaign or error.
    #[param(inline)]
    pub by: By,
    /// IANA: where a day begins; UTC unless told.
    pub zone: Option<String>,
    /// Batches due then or later, and failures of then or later; the day six days before `until` unless told.
    pub since: Option<DateTime<Utc>>,
    /// Before then; now unless told.
    pub until: Option<DateTime<Utc>>,
}

/// Counts of messages.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Report {
    /// What it counts by.
    pub by: By,
    /// Where its days begin.
    pub zone: String,
    /// From then on.
    pub since: DateTime<Utc>,
    /// Before then.
    pub until: DateTime<Utc>,
    /// By key; errors the most frequent first.
    pub rows: Vec<ReportRow>,
}

/// Counts a tenant's messages. It goes through the batches that are due in the range: a batch is as cheap as a message, so
/// the range and not the messages decides what it costs.
pub async fn report(store: &Store, tenant: TenantId, query: &ReportQuery) -> Result<Report, ChecklistError> {
    let zone = query.zone.as_deref().unwrap_or("UTC");
    let zone: Tz = zone.parse().map_err(|_| {
        refused("/zone", "unknown_time_zone", &format!("`{zone}` is no time zone; for example Asia/Tokyo"))
    })?;
    let mut connection = store.acquire().await?;
    let range = reports::range(&mut connection, span(query.since, query.until)?, zone.name()).await?;
    let rows = if query.by == By::Error {
        let numbers = checklist::all_number_ids(&mut connection, tenant).await?;
        reports::by_error(&mut connection, &numbers, range).await?
    } else {
        reports::by_state(&mut connection, tenant, query.by, range, zone.name()).await?
    };
    let (since, until) = range;
    Ok(Report { by: query.by, zone: zone.name().to_owned(), since, until, rows })
}
