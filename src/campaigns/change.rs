//! What people do to campaigns: apply, run, pause, resume, archive, cancel.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    CampaignError,
    fire::{Firing, Wanted},
    read::{Definition, Flaw},
};
use crate::{
    domain::{
        campaign::{CampaignState, Decision, JOB_PREFIX, SkipReason},
        ids::TenantId,
        named,
    },
    store::{
        Connection, Store,
        campaigns::{
            self, Applied, Campaign, Person,
            batches::{self, UnderWay},
            occurrences::{self, OccurrenceRow},
        },
        session::{Work, commit},
    },
};

/// Longest name of a run, so that its job id is short enough.
const RUN_CHARS: usize = 48;

named! {
    /// What an application did.
    pub enum Change {
        /// It is new.
        Created = "created",
        /// It differs from what was.
        Changed = "changed",
        /// It is as it was.
        Unchanged = "unchanged",
    }
}

/// What an application changed, or would.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Changed {
    /// The campaign.
    pub key: String,
    /// What was done.
    pub change: Change,
    /// Which fields differ.
    #[serde(default)]
    pub differences: Vec<Differences>,
    /// When it fires next.
    pub next_fire_at: Option<DateTime<Utc>>,
}

/// A field that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Differences {
    /// Which.
    pub field: String,
    /// What it was; null when it was not given.
    #[schema(value_type = Object)]
    pub before: Value,
    /// What it is.
    #[schema(value_type = Object)]
    pub after: Value,
}

/// A wish to run a campaign now.
#[derive(Debug, Default, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    /// Names the run: the same name again runs nothing and gives the first answer. 1 to 48 of a-z, A-Z, 0-9, `.`, `_`, `-`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Whose campaigns, and who changes them.
#[derive(Debug, Clone, Copy)]
pub struct Means<'a> {
    /// The database.
    pub store: &'a Store,
    /// Whose campaigns.
    pub tenant: TenantId,
    /// Who changes them.
    pub by: &'a Person,
    /// The setting.
    pub approval_over: i64,
}

/// Makes a campaign what its document says. With `is_dry_run` it only says what would change.
///
/// # Errors
/// When it would never fire, or is archived.
pub async fn apply(
    means: Means<'_>,
    definition: &Definition,
    producer: &str,
    is_dry_run: bool,
) -> Result<Changed, CampaignError> {
    let document = serde_json::to_value(&definition.document).unwrap_or_default();
    let (key, Means { store, tenant, by, approval_over }) = (&definition.document.key, means);
    let mut work = store.begin().await?;
    let found = campaigns::lock(&mut work, tenant, key).await?;
    let applied = |next_fire_at| Applied { producer, document: &document, next_fire_at, by };
    let Some(campaign) = found else {
        let next_fire_at = first(definition, Utc::now())?;
        let is_new = campaigns::insert(&mut work, tenant, key, &applied(next_fire_at)).await?;
        if !is_new {
            return Err(conflict("applied_at_once", "somebody else applied it at the same time: look and apply again"));
        }
        return done(work, is_dry_run, changed(key, Change::Created, &Value::Null, &document, next_fire_at)).await;
    };
    if campaign.state == CampaignState::Archived {
        return Err(conflict("archived", "it is archived: choose another key"));
    }
    if campaign.document == document && campaign.producer == producer {
        return Ok(changed(key, Change::Unchanged, &document, &document, campaign.next_fire_at));
    }
    let next_fire_at = if same_times(&campaign.document, &document) {
        campaign.next_fire_at
    } else {
        let next = first(definition, campaign.now)?;
        // What the old schedule owes is decided by it.
        if let Ok(firing) = Firing::of(&campaign, approval_over) {
            firing.settle(&mut work).await?;
        }
        next
    };
    campaigns::update(&mut work, campaign.id, &applied(next_fire_at)).await?;
    done(work, is_dry_run, changed(key, Change::Changed, &campaign.document, &document, next_fire_at)).await
}

/// The first firing after now, which a schedule by the clock must have.
fn first(definition: &Definition, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, CampaignError> {
    use super::document::Schedule;
    let next = definition.rules.next(now).map(|firing| firing.at);
    let flaw = match (&definition.document.schedule, next) {
        (Schedule::Once(_), None) => Flaw::new("/schedule/once", "in_the_past", "lies in the past"),
        (Schedule::Cron(_), None) => Flaw::new("/schedule/cron", "never_fires", "has no time between now and `end`"),
        (Schedule::OnDemand, _) | (_, Some(_)) => return Ok(next),
    };
    Err(CampaignError::Refused(vec![flaw]))
}

/// Whether two documents fire at the same times.
fn same_times(before: &Value, after: &Value) -> bool {
    ["schedule", "time_zone", "start", "end", "except_dates"].iter().all(|field| before[field] == after[field])
}

async fn done(work: Work<'static>, is_dry_run: bool, changed: Changed) -> Result<Changed, CampaignError> {
    if !is_dry_run {
        commit(work, "commit a campaign").await?;
    }
    Ok(changed)
}

fn changed(key: &str, change: Change, before: &Value, after: &Value, next_fire_at: Option<DateTime<Utc>>) -> Changed {
    let none = Map::new();
    let (old, new) = (before.as_object().unwrap_or(&none), after.as_object().unwrap_or(&none));
    let fields: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let value = |fields: &Map<String, Value>, field: &str| fields.get(field).cloned().unwrap_or(Value::Null);
    let differences = fields
        .into_iter()
        .filter(|field| old.get(*field) != new.get(*field))
        .map(|field| Differences { field: field.clone(), before: value(old, field), after: value(new, field) })
        .collect();
    Changed { key: key.to_owned(), change, differences, next_fire_at }
}

/// Fires a campaign now. The caller tells the outbox.
///
/// # Errors
/// When it is paused or archived, when an earlier firing still sends and `overlap` is `skip`, or no window opens.
pub async fn run(means: Means<'_>, key: &str, request: &RunRequest) -> Result<OccurrenceRow, CampaignError> {
    let Means { store, tenant, by, approval_over } = means;
    let name = request.name.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > RUN_CHARS || !name.chars().all(is_name) {
        let reason = "must have 1 to 48 of a-z, A-Z, 0-9, `.`, `_` and `-`";
        return Err(CampaignError::Refused(vec![Flaw::new("/name", "ill_formed", reason)]));
    }
    let mut work = store.begin().await?;
    let campaign = locked(&mut work, tenant, key).await?;
    let job_id = format!("{JOB_PREFIX}{key}:run:{name}");
    if let Some(first) = occurrences::of_job(&mut work, campaign.id, &job_id).await? {
        return Ok(first);
    }
    if campaign.state != CampaignState::Active {
        return Err(conflict(campaign.state.as_str(), format!("it is {}: nothing was run", campaign.state)));
    }
    let firing = Firing::of(&campaign, approval_over).map_err(CampaignError::Refused)?;
    let is_running = occurrences::is_running(&mut work, campaign.id, campaign.now, &name).await?;
    let decision = firing.definition.rules.begin(campaign.now, campaign.now, is_running);
    if let Decision::Skip(reason) = decision {
        let told = match reason {
            SkipReason::Overlap => {
                "an earlier firing still has messages to send, and `overlap` is skip: nothing was run"
            }
            _ => "no window opens while its messages would live: nothing was run",
        };
        return Err(conflict(reason.as_str(), told));
    }
    let wanted = Wanted { fire_at: campaign.now, run: &name, job_id: &job_id, by };
    firing.record(&mut work, wanted, decision).await?;
    let row = occurrences::of_job(&mut work, campaign.id, &job_id).await?.ok_or(CampaignError::Unknown)?;
    commit(work, "commit the run of a campaign").await?;
    Ok(row)
}

/// Stops a campaign: it fires no more, and the batches that are under way wait.
///
/// # Errors
/// When there is none, or it is archived.
pub async fn pause(means: Means<'_>, key: &str) -> Result<UnderWay, CampaignError> {
    let Means { store, tenant, by, .. } = means;
    let mut work = store.begin().await?;
    let campaign = locked(&mut work, tenant, key).await?;
    refuse_archived(&campaign)?;
    campaigns::set_state(&mut work, campaign.id, CampaignState::Paused, &by.name).await?;
    let under_way = batches::hold_batches(&mut work, &campaign, &by.name).await?;
    commit(work, "pause a campaign").await?;
    Ok(under_way)
}

/// Lets a campaign go on; says how many batches do. What it would have fired meanwhile is not made up for.
///
/// # Errors
/// When there is none, or it is archived.
pub async fn resume(means: Means<'_>, key: &str) -> Result<u64, CampaignError> {
    let Means { store, tenant, by, .. } = means;
    let mut work = store.begin().await?;
    let campaign = locked(&mut work, tenant, key).await?;
    refuse_archived(&campaign)?;
    if let Ok(firing) = Firing::of(&campaign, means.approval_over) {
        // What was due while it was paused is recorded so, although nobody ticked since.
        firing.settle(&mut work).await?;
    }
    campaigns::set_state(&mut work, campaign.id, CampaignState::Active, &by.name).await?;
    let released = batches::release_batches(&mut work, campaign.id, &by.name).await?;
    commit(work, "resume a campaign").await?;
    Ok(released)
}

/// Ends a campaign for good. What it has fired goes on, or waits when it was paused.
///
/// # Errors
/// When there is none.
pub async fn archive(means: Means<'_>, key: &str) -> Result<(), CampaignError> {
    let Means { store, tenant, by, .. } = means;
    let mut work = store.begin().await?;
    end(&mut work, tenant, key, by).await?;
    commit(work, "archive a campaign").await?;
    Ok(())
}

/// Ends a campaign for good, and gives up what it has fired and not sent yet.
///
/// # Errors
/// When there is none.
pub async fn cancel(means: Means<'_>, key: &str) -> Result<UnderWay, CampaignError> {
    let Means { store, tenant, by, .. } = means;
    let mut work = store.begin().await?;
    let campaign = end(&mut work, tenant, key, by).await?;
    let under_way = batches::cancel_batches(&mut work, campaign.id).await?;
    commit(work, "cancel a campaign").await?;
    Ok(under_way)
}

async fn end(work: &mut Work<'_>, tenant: TenantId, key: &str, by: &Person) -> Result<Campaign, CampaignError> {
    let campaign = locked(work, tenant, key).await?;
    if campaign.state != CampaignState::Archived {
        campaigns::set_state(work, campaign.id, CampaignState::Archived, &by.name).await?;
        occurrences::skip_waiting(work, campaign.id, SkipReason::Archived).await?;
    }
    Ok(campaign)
}

async fn locked(connection: &mut Connection, tenant: TenantId, key: &str) -> Result<Campaign, CampaignError> {
    campaigns::lock(connection, tenant, key).await?.ok_or(CampaignError::Unknown)
}

fn refuse_archived(campaign: &Campaign) -> Result<(), CampaignError> {
    if campaign.state == CampaignState::Archived {
        return Err(conflict("archived", "it is archived"));
    }
    Ok(())
}

fn conflict(code: &'static str, reason: impl Into<String>) -> CampaignError {
    CampaignError::Conflict { code, reason: reason.into() }
}
