//! Firings: one row each, whoever ticks.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Campaign, Person};
use crate::{
    domain::campaign::{OccurrenceState, SkipReason},
    store::{Doing as _, StoreError},
};

/// A firing as people see it.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OccurrenceRow {
    /// When it was to fire.
    pub fire_at: DateTime<Utc>,
    /// The name of the run, when a person asked for it; empty when the schedule did.
    pub run: String,
    /// waiting, fired or skipped.
    pub state: String,
    /// Why it was skipped, in one word.
    pub reason: Option<String>,
    /// The job it published.
    pub job_id: String,
    /// Whose campaign it was, or who ran it.
    pub started_by: String,
    /// Not before, when a window opens later.
    pub send_at: Option<DateTime<Utc>>,
    /// Not after.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was decided.
    pub decided_at: DateTime<Utc>,
    /// What was sent by it, once its job was taken.
    pub batch_id: Option<Uuid>,
    /// Why its job was refused.
    #[schema(value_type = Option<Object>)]
    pub refused: Option<Value>,
}

/// A firing to be recorded.
#[derive(Debug, Clone)]
pub struct NewOccurrence<'a> {
    /// When it was to fire.
    pub fire_at: DateTime<Utc>,
    /// Empty, or the name of the run.
    pub run: &'a str,
    /// The job it publishes.
    pub job_id: &'a str,
    /// Where it stands.
    pub state: OccurrenceState,
    /// Why it is skipped.
    pub reason: Option<SkipReason>,
    /// Who started it.
    pub by: &'a Person,
    /// Not before.
    pub send_at: Option<DateTime<Utc>>,
    /// Not after; of one that is skipped, nothing.
    pub expires_at: Option<DateTime<Utc>>,
    /// With more recipients it waits for another person.
    pub approval_over: Option<i64>,
}

/// A firing that waits.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// When it was to fire.
    pub fire_at: DateTime<Utc>,
    /// Empty, or the name of the run.
    pub run: String,
    /// The job it will publish.
    pub job_id: String,
}

/// Records a firing of a locked campaign; `false` when it stands already.
pub async fn insert(
    connection: &mut PgConnection,
    campaign: &Campaign,
    new: &NewOccurrence<'_>,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "INSERT INTO occurrence (campaign_id, fire_at, run, tenant_id, producer, job_id, state, reason, started_by,
                                 started_token, send_at, expires_at, approval_over)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT DO NOTHING",
        campaign.id,
        new.fire_at,
        new.run,
        campaign.tenant.0,
        campaign.producer,
        new.job_id,
        new.state.as_str(),
        new.reason.map(SkipReason::as_str),
        new.by.name,
        new.by.token,
        new.send_at,
        new.expires_at,
        new.approval_over
    )
    .execute(connection)
    .await
    .doing("record an occurrence")?;
    Ok(done.rows_affected() == 1)
}

/// Firings of a locked campaign that wait, the oldest first.
pub async fn waiting(connection: &mut PgConnection, campaign: i32) -> Result<Vec<Waiting>, StoreError> {
    sqlx::query_as!(
        Waiting,
        "SELECT fire_at, run, job_id FROM occurrence WHERE campaign_id = $1 AND state = 'waiting' ORDER BY fire_at, run",
        campaign
    )
    .fetch_all(connection)
    .await
    .doing("read the occurrences that wait")
}

/// Ends the waiting of a firing.
pub async fn settle_waiting(
    connection: &mut PgConnection,
    campaign: i32,
    waiting: &Waiting,
    reason: Option<SkipReason>,
    send_at: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
) -> Result<bool, StoreError> {
    let state = if reason.is_some() { OccurrenceState::Skipped } else { OccurrenceState::Fired };
    let done = sqlx::query!(
        "UPDATE occurrence SET state = $4, reason = $5, send_at = $6, expires_at = $7, decided_at = now()
         WHERE campaign_id = $1 AND fire_at = $2 AND run = $3 AND state = 'waiting'",
        campaign,
        waiting.fire_at,
        waiting.run,
        state.as_str(),
        reason.map(SkipReason::as_str),
        send_at,
        expires_at
    )
    .execute(connection)
    .await
    .doing("end the waiting of an occurrence")?;
    Ok(done.rows_affected() == 1)
}

/// Skips everything that waits.
pub async fn skip_waiting(connection: &mut PgConnection, campaign: i32, reason: SkipReason) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE occurrence SET state = 'skipped', reason = $2, expires_at = NULL, decided_at = now()
         WHERE campaign_id = $1 AND state = 'waiting'",
        campaign,
        reason.as_str()
    )
    .execute(connection)
    .await
    .doing("skip the occurrences that wait")?;
    Ok(())
}

/// Whether an earlier firing still has messages to send: it waits, its job is on its way, or its batch is not through.
/// Calls whose outcome nobody knows do not count: they were made.
pub async fn is_running(
    connection: &mut PgConnection,
    campaign: i32,
    before: DateTime<Utc>,
    run: &str,
) -> Result<bool, StoreError> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT FROM occurrence o
               WHERE o.campaign_id = $1 AND o.state <> 'skipped' AND o.expires_at > now() AND (o.fire_at, o.run) < ($2, $3)
                 AND (o.state = 'waiting'
                      OR (o.batch_id IS NULL AND NOT EXISTS (
                              SELECT FROM rejected_job r
                              WHERE r.tenant_id = o.tenant_id AND r.producer = o.producer AND r.job_id = o.job_id))
                      OR EXISTS (SELECT FROM work w WHERE w.batch_id = o.batch_id AND w.stage <> 'unsure')
                      OR EXISTS (SELECT FROM batch b WHERE b.batch_id = o.batch_id AND b.state = 'planning'
                                 AND b.cancelled_at IS NULL))
           ) AS "is_running!""#,
        campaign,
        before,
        run
    )
    .fetch_one(connection)
    .await
    .doing("look for an occurrence under way")
}

/// A campaign's firings, the newest first, below `before`.
pub async fn list(
    connection: &mut PgConnection,
    campaign: i32,
    before: Option<DateTime<Utc>>,
    limit: i64,
) -> Result<Vec<OccurrenceRow>, StoreError> {
    sqlx::query_as!(
        OccurrenceRow,
        "SELECT o.fire_at, o.run, o.state, o.reason, o.job_id, o.started_by, o.send_at, o.expires_at, o.decided_at,
                  o.batch_id,
                  CASE WHEN o.batch_id IS NULL AND o.state = 'fired' THEN (
                      SELECT r.errors FROM rejected_job r
                      WHERE r.tenant_id = o.tenant_id AND r.producer = o.producer AND r.job_id = o.job_id LIMIT 1)
                  END AS refused
           FROM occurrence o
           WHERE o.campaign_id = $1 AND ($2::timestamptz IS NULL OR o.fire_at < $2)
           ORDER BY o.fire_at DESC, o.run LIMIT $3",
        campaign,
        before,
        limit
    )
    .fetch_all(connection)
    .await
    .doing("list occurrences")
}

/// The firing that published a job.
pub async fn of_job(
    connection: &mut PgConnection,
    campaign: i32,
    job_id: &str,
) -> Result<Option<OccurrenceRow>, StoreError> {
    sqlx::query_as!(
        OccurrenceRow,
        "SELECT fire_at, run, state, reason, job_id, started_by, send_at, expires_at, decided_at, batch_id,
                NULL::jsonb AS refused
         FROM occurrence WHERE campaign_id = $1 AND job_id = $2",
        campaign,
        job_id
    )
    .fetch_optional(connection)
    .await
    .doing("find an occurrence")
}

/// Forgets firings that are older than everything they led to, at most `most`; says how many.
pub async fn delete_old(connection: &mut PgConnection, kept_from: DateTime<Utc>, most: i64) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "DELETE FROM occurrence WHERE (campaign_id, fire_at, run) IN (
             SELECT campaign_id, fire_at, run FROM occurrence
             WHERE fire_at < $1 AND state <> 'waiting' ORDER BY fire_at LIMIT $2)",
        kept_from,
        most
    )
    .execute(connection)
    .await
    .doing("delete old occurrences")?;
    Ok(done.rows_affected())
}
