//! The facts that say why a message waits.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    domain::{
        hold::{HoldScope, Resume, Route},
        ids::{AccountId, BatchId, MessageKey, NumberId, TemplateId, TenantId},
        lane::Lane,
        why::{BatchFacts, CallFacts, HoldFacts, Stage, SuppressionFacts, WorkFacts},
    },
    store::{Doing as _, StoreError},
};

/// The batch with the way it goes out.
#[derive(Debug, Clone)]
pub struct Way {
    /// The batch.
    pub batch: BatchFacts,
    /// What decides which holds cover it.
    pub route: Route,
    /// The number.
    pub number: String,
    /// Messages a second that it may send; absent is unlimited.
    pub limit_per_s: Option<i32>,
    /// Those it sends after the provider throttled it.
    pub rate_per_s: Option<i32>,
    /// Whether a living worker holds it.
    pub has_worker: bool,
    /// The database's clock.
    pub now: DateTime<Utc>,
}

/// A batch of a tenant with the way it goes out.
pub async fn way(connection: &mut PgConnection, tenant: TenantId, batch: BatchId) -> Result<Option<Way>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT b.campaign, b.state = 'planned' AS "is_planned!", b.created_at, b.send_at, b.expires_at, b.cancelled_at,
                  b.windows IS NOT NULL AS "has_hours!", b.account_id, b.number_id, b.template_id, b.lane::text AS "lane!",
                  a.provider, a.portfolio, n.business_number, n.limit_per_s, l.rate_per_s AS "rate_per_s?",
                  EXISTS (SELECT FROM worker o WHERE o.worker_id = l.worker_id AND NOT o.is_dead AND o.expires_at > now())
                      AS "has_worker!", now() AS "now!"
           FROM batch b
           JOIN account a ON a.id = b.account_id
           JOIN business_number n ON n.id = b.number_id
           LEFT JOIN number_lease l ON l.number_id = b.number_id
           WHERE b.batch_id = $1 AND b.tenant_id = $2"#,
        batch.0,
        tenant.0
    )
    .fetch_optional(connection)
    .await
    .doing("read the way of a batch")?;
    Ok(row.map(|row| Way {
        batch: BatchFacts {
            id: batch,
            campaign: row.campaign,
            is_planned: row.is_planned,
            created_at: row.created_at,
            send_at: row.send_at,
            expires_at: row.expires_at,
            cancelled_at: row.cancelled_at,
            has_hours: row.has_hours,
        },
        route: Route {
            provider: row.provider,
            portfolio: row.portfolio.map(|portfolio| format!("{tenant}/{portfolio}")),
            account: AccountId(row.account_id),
            number: NumberId(row.number_id),
            template: TemplateId(row.template_id),
            lane: row.lane.parse().unwrap_or(Lane::Marketing),
        },
        number: row.business_number,
        limit_per_s: row.limit_per_s,
        rate_per_s: row.rate_per_s,
        has_worker: row.has_worker,
        now: row.now,
    }))
}

/// Open holds of these scopes, those of the first scope first.
pub async fn holds(connection: &mut PgConnection, scopes: &[HoldScope]) -> Result<Vec<HoldFacts>, StoreError> {
    let scopes: Vec<String> = scopes.iter().map(ToString::to_string).collect();
    let rows = sqlx::query!(
        "SELECT id, scope, cause, detail, resume, since, until, probe_at FROM hold
         WHERE closed_at IS NULL AND scope = ANY($1) ORDER BY array_position($1, scope), id",
        &scopes
    )
    .fetch_all(connection)
    .await
    .doing("read the holds over a message")?;
    let holds = rows.into_iter().map(|row| HoldFacts {
        id: row.id,
        scope: row.scope,
        cause: row.cause,
        detail: row.detail,
        resume: row.resume.parse().unwrap_or(Resume::Person),
        since: row.since,
        until: row.until,
        probe_at: row.probe_at,
        advice: None,
    });
    Ok(holds.collect())
}

/// The suppression for which a claim would not call a message, the widest of several.
pub async fn suppression(
    connection: &mut PgConnection,
    route: &Route,
    tenant: TenantId,
    recipient: &str,
) -> Result<Option<SuppressionFacts>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT id, scope, source, since FROM suppression
           WHERE recipient = $1 AND tenant_id = $2 AND lifted_at IS NULL AND (account_id IS NULL OR account_id = $3)
             AND (scope <> 'marketing' OR $4)
           ORDER BY array_position(ARRAY['tenant', 'account', 'marketing'], scope) LIMIT 1"#,
        recipient,
        tenant.0,
        route.account.0,
        route.lane == Lane::Marketing
    )
    .fetch_optional(connection)
    .await
    .doing("look whether a recipient is suppressed")?;
    Ok(row.and_then(|row| {
        Some(SuppressionFacts { id: row.id, scope: row.scope.parse().ok()?, source: row.source, since: row.since })
    }))
}

/// What is left to do for a message, and whose turn it takes.
pub async fn work(connection: &mut PgConnection, key: MessageKey) -> Result<Option<(WorkFacts, Uuid)>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT stage::text AS "stage!", wake_at, until, turn_group FROM work WHERE batch_id = $1 AND seq = $2"#,
        key.batch_id.0,
        key.seq
    )
    .fetch_optional(connection)
    .await
    .doing("read the work of a message")?;
    Ok(row.map(|row| {
        let stage = row.stage.parse().unwrap_or(Stage::Ready);
        (WorkFacts { stage, wake_at: row.wake_at, until: row.until }, row.turn_group)
    }))
}

/// The latest call for a message that did not end accepted.
pub async fn last_call(connection: &mut PgConnection, key: MessageKey) -> Result<Option<CallFacts>, StoreError> {
    sqlx::query_as!(
        CallFacts,
        "SELECT at, code, reason FROM attempt WHERE batch_id = $1 AND seq = $2 ORDER BY attempt DESC, at DESC LIMIT 1",
        key.batch_id.0,
        key.seq
    )
    .fetch_optional(connection)
    .await
    .doing("read the latest call for a message")
}

/// Due messages of a number that take turns as one.
#[derive(Debug, Clone, Copy)]
pub struct DueGroup {
    /// In which lane.
    pub lane: Lane,
    /// Whose turn.
    pub group: Uuid,
    /// How many.
    pub messages: i64,
    /// Those that are due before the message that is asked about.
    pub before: i64,
}

/// What a number has to send now, but for batches that are held. What is due as early as the message goes by its key.
pub async fn due_groups(
    connection: &mut PgConnection,
    number: NumberId,
    key: MessageKey,
    wake_at: DateTime<Utc>,
) -> Result<Vec<DueGroup>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT g.lane AS "lane!", g.turn_group AS "turn_group!", g.messages AS "messages!", g.before AS "before!"
           FROM (SELECT w.lane::text AS lane, w.turn_group, count(*) AS messages,
                        count(*) FILTER (WHERE (w.wake_at, w.batch_id, w.seq) < ($2, $3, $4)) AS before
                 FROM work w WHERE w.stage = 'ready' AND w.number_id = $1 AND w.wake_at <= now()
                 GROUP BY w.lane, w.turn_group) g
           WHERE NOT EXISTS (SELECT FROM hold h WHERE h.closed_at IS NULL AND h.scope = 'batch:' || g.turn_group)"#,
        number.0,
        wake_at,
        key.batch_id.0,
        key.seq
    )
    .fetch_all(connection)
    .await
    .doing("read what a number has to send now")?;
    let groups = rows.into_iter().filter_map(|row| {
        let lane = row.lane.parse().ok()?;
        Some(DueGroup { lane, group: row.turn_group, messages: row.messages, before: row.before })
    });
    Ok(groups.collect())
}

/// What is left of a batch, by stage.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Left {
    /// To be claimed when they are due.
    pub ready: i64,
    /// Waiting under a hold.
    pub parked: i64,
    /// Being called.
    pub calling: i64,
    /// Called, and nobody knows.
    pub uncertain: i64,
}

/// Counts what is left of a batch.
pub async fn left(connection: &mut PgConnection, batch: BatchId) -> Result<Left, StoreError> {
    sqlx::query_as!(
        Left,
        r#"SELECT count(*) FILTER (WHERE stage = 'ready') AS "ready!", count(*) FILTER (WHERE stage = 'parked') AS "parked!",
                  count(*) FILTER (WHERE stage = 'calling') AS "calling!", count(*) FILTER (WHERE stage = 'unsure') AS "uncertain!"
           FROM work WHERE batch_id = $1"#,
        batch.0
    )
    .fetch_one(connection)
    .await
    .doing("count what is left of a batch")
}

/// The message of a batch that would go next: the first that is ready, else one that is parked, being called, or in doubt.
pub async fn next(connection: &mut PgConnection, batch: BatchId) -> Result<Option<MessageKey>, StoreError> {
    let seq = sqlx::query_scalar!(
        "SELECT seq FROM work WHERE batch_id = $1
         ORDER BY CASE stage WHEN 'ready' THEN 0 WHEN 'parked' THEN 1 WHEN 'calling' THEN 2 ELSE 3 END, wake_at, seq LIMIT 1",
        batch.0
    )
    .fetch_optional(connection)
    .await
    .doing("look for the next message of a batch")?;
    Ok(seq.map(|seq| MessageKey { batch_id: batch, seq }))
}
