//! The batches of firings: which is whose, and the holds they meet.

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Campaign, Person};
use crate::{
    domain::{
        campaign::CampaignState,
        hold::{HoldScope, OpenHold, Resume},
        ids::{BatchId, HoldId, TenantId},
    },
    store::{Doing as _, StoreError, jobs::JobKey},
};

/// The cause of the hold on a batch whose campaign is paused.
pub const PAUSED: &str = "campaign_paused";
/// The cause of the hold on a batch that another person has to let through.
pub const APPROVAL: &str = "approval";

/// What the campaign says about a batch that intake is writing.
#[derive(Debug, Clone)]
pub struct Tied {
    /// The batch.
    pub batch: BatchId,
    /// Whether its campaign fires, or was stopped meanwhile.
    pub state: CampaignState,
    /// The campaign's key.
    pub campaign: String,
    /// With more recipients it waits for another person.
    pub approval_over: Option<i64>,
    /// Who started it.
    pub by: Person,
    /// Whether the firing was given up meanwhile.
    pub is_cancelled: bool,
}

/// Ties batches to the firings whose jobs they come from. The campaigns stay locked against being paused until the
/// transaction ends: whoever pauses one afterwards finds the batch.
pub async fn tie(connection: &mut PgConnection, jobs: &[(&JobKey, BatchId)]) -> Result<Vec<Tied>, StoreError> {
    let tenants: Vec<i32> = jobs.iter().map(|(key, _)| key.tenant.0).collect();
    let producers: Vec<String> = jobs.iter().map(|(key, _)| key.producer.clone()).collect();
    let ids: Vec<String> = jobs.iter().map(|(key, _)| key.job_id.clone()).collect();
    let batches: Vec<Uuid> = jobs.iter().map(|(_, batch)| batch.0).collect();
    sqlx::query!(
        "SELECT c.id FROM campaign c
         WHERE c.id IN (SELECT o.campaign_id FROM occurrence o
                        JOIN unnest($1::int[], $2::text[], $3::text[]) AS u(tenant_id, producer, job_id)
                          USING (tenant_id, producer, job_id))
         ORDER BY c.id FOR SHARE",
        &tenants,
        &producers,
        &ids
    )
    .fetch_all(&mut *connection)
    .await
    .doing("lock the campaigns of jobs")?;
    let rows = sqlx::query!(
        r#"UPDATE occurrence o SET batch_id = u.batch_id
           FROM unnest($1::int[], $2::text[], $3::text[], $4::uuid[]) AS u(tenant_id, producer, job_id, batch_id), campaign c
           WHERE o.tenant_id = u.tenant_id AND o.producer = u.producer AND o.job_id = u.job_id
             AND o.state = 'fired' AND c.id = o.campaign_id
           RETURNING u.batch_id AS "batch_id!", c.key, c.state, o.approval_over, o.started_by, o.started_token,
                     o.cancelled_at IS NOT NULL AS "is_cancelled!""#,
        &tenants,
        &producers,
        &ids,
        &batches
    )
    .fetch_all(connection)
    .await
    .doing("tie batches to occurrences")?;
    let tied = rows.into_iter().map(|row| Tied {
        batch: BatchId(row.batch_id),
        state: row.state.parse().unwrap_or(CampaignState::Archived),
        campaign: row.key,
        approval_over: row.approval_over,
        by: Person { name: row.started_by, token: row.started_token },
        is_cancelled: row.is_cancelled,
    });
    Ok(tied.collect())
}

/// Whether a job is one that a firing published.
pub async fn is_fired(connection: &mut PgConnection, job: &JobKey) -> Result<bool, StoreError> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM occurrence
                          WHERE tenant_id = $1 AND producer = $2 AND job_id = $3 AND state = 'fired') AS "is_fired!""#,
        job.tenant.0,
        job.producer,
        job.job_id
    )
    .fetch_one(connection)
    .await
    .doing("look for the firing of a job")
}

/// A hold that a batch of a campaign opens with.
#[derive(Debug, Clone)]
pub struct BatchHold {
    /// Whose batch.
    pub tenant: TenantId,
    /// Which.
    pub batch: BatchId,
    /// Why, in one word.
    pub cause: &'static str,
    /// Why.
    pub detail: String,
    /// The token that may not close it.
    pub not_by: Option<Uuid>,
}

/// Opens holds on batches that are being written.
pub async fn open_holds(connection: &mut PgConnection, holds: &[BatchHold]) -> Result<Vec<OpenHold>, StoreError> {
    if holds.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query!(
        "INSERT INTO hold (tenant_id, scope, cause, detail, resume, not_by)
         SELECT u.tenant_id, u.scope, u.cause, u.detail, $6, u.not_by
         FROM unnest($1::int[], $2::text[], $3::text[], $4::text[], $5::uuid[]) AS u(tenant_id, scope, cause, detail, not_by)
         RETURNING id, scope, cause",
        &holds.iter().map(|hold| hold.tenant.0).collect::<Vec<_>>(),
        &holds.iter().map(|hold| HoldScope::Batch(hold.batch).to_string()).collect::<Vec<_>>(),
        &holds.iter().map(|hold| hold.cause.to_owned()).collect::<Vec<_>>(),
        &holds.iter().map(|hold| hold.detail.clone()).collect::<Vec<_>>(),
        &holds.iter().map(|hold| hold.not_by).collect::<Vec<_>>() as &[Option<Uuid>],
        Resume::Person.as_str()
    )
    .fetch_all(connection)
    .await
    .doing("open the holds of campaigns")?;
    let opened = rows.into_iter().map(|row| OpenHold {
        id: HoldId(row.id),
        scope: row.scope,
        cause: row.cause,
        until: None,
        is_probed: false,
        is_probe_due: false,
        probes: 0,
    });
    Ok(opened.collect())
}

/// What a person who stopped a campaign found under way.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct UnderWay {
    /// Batches that wait from now on, or are given up.
    pub batches: i64,
    /// Messages of them that were being called already.
    pub calling: i64,
}

/// Opens a hold on every batch of a paused campaign that is not through.
pub async fn hold_batches(
    connection: &mut PgConnection,
    campaign: &Campaign,
    by: &str,
) -> Result<UnderWay, StoreError> {
    let found = sqlx::query!(
        r#"WITH RECURSIVE mine AS (
               -- With the batches that send their messages again.
               SELECT o.batch_id FROM occurrence o
               WHERE o.campaign_id = $1 AND o.state = 'fired' AND o.batch_id IS NOT NULL
               UNION
               SELECT r.batch_id FROM mine JOIN batch r ON r.resend_of = mine.batch_id
           ), live AS MATERIALIZED (
               SELECT m.batch_id FROM mine m
               WHERE EXISTS (SELECT FROM work w WHERE w.batch_id = m.batch_id AND w.stage <> 'unsure')
                  OR EXISTS (SELECT FROM batch b WHERE b.batch_id = m.batch_id AND b.state = 'planning')
           ), opened AS (
               INSERT INTO hold (tenant_id, scope, cause, detail, resume)
               SELECT $2, 'batch:' || batch_id, $3, $4, $5 FROM live
               ON CONFLICT (scope, cause) WHERE closed_at IS NULL DO NOTHING
           )
           SELECT (SELECT count(*) FROM live) AS "batches!",
                  (SELECT count(*) FROM work w JOIN live USING (batch_id) WHERE w.stage = 'calling') AS "calling!""#,
        campaign.id,
        campaign.tenant.0,
        PAUSED,
        format!("{by} paused the campaign {}", campaign.key),
        Resume::Person.as_str()
    )
    .fetch_one(connection)
    .await
    .doing("hold the batches of a campaign")?;
    Ok(UnderWay { batches: found.batches, calling: found.calling })
}

/// Gives up what a campaign has fired and not sent yet, also what intake takes later.
pub async fn cancel_batches(connection: &mut PgConnection, campaign: i32) -> Result<UnderWay, StoreError> {
    let found = sqlx::query_as!(
        UnderWay,
        r#"WITH RECURSIVE mine AS (
               -- With the batches that send their messages again.
               SELECT o.batch_id FROM occurrence o
               WHERE o.campaign_id = $1 AND o.state = 'fired' AND o.batch_id IS NOT NULL
               UNION
               SELECT r.batch_id FROM mine JOIN batch r ON r.resend_of = mine.batch_id
           ), given_up AS (
               UPDATE occurrence SET cancelled_at = now()
               WHERE campaign_id = $1 AND state = 'fired' AND cancelled_at IS NULL AND expires_at > now()
           ), live AS MATERIALIZED (
               SELECT m.batch_id FROM mine m
               WHERE EXISTS (SELECT FROM work w WHERE w.batch_id = m.batch_id AND w.stage <> 'unsure')
                  OR EXISTS (SELECT FROM batch b WHERE b.batch_id = m.batch_id AND b.state = 'planning')
           ), marked AS (
               UPDATE batch b SET cancelled_at = coalesce(b.cancelled_at, now()) FROM live WHERE b.batch_id = live.batch_id
           )
           SELECT (SELECT count(*) FROM live) AS "batches!",
                  (SELECT count(*) FROM work w JOIN live USING (batch_id) WHERE w.stage = 'calling') AS "calling!""#,
        campaign
    )
    .fetch_one(connection)
    .await
    .doing("cancel the batches of a campaign")?;
    Ok(found)
}

/// Closes those holds again; says how many.
pub async fn release_batches(connection: &mut PgConnection, campaign: i32, by: &str) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "WITH RECURSIVE mine AS (
             SELECT o.batch_id FROM occurrence o
             WHERE o.campaign_id = $1 AND o.state = 'fired' AND o.batch_id IS NOT NULL
             UNION
             SELECT r.batch_id FROM mine JOIN batch r ON r.resend_of = mine.batch_id
         )
         UPDATE hold SET closed_at = now(), closed_by = $3, reason = 'the campaign was resumed'
         WHERE closed_at IS NULL AND cause = $2 AND scope IN (SELECT 'batch:' || batch_id FROM mine)",
        campaign,
        PAUSED,
        by
    )
    .execute(connection)
    .await
    .doing("release the batches of a campaign")?;
    Ok(done.rows_affected())
}
