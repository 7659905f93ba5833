//! Messages as lists show them, and what is kept about one.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use crate::{
    domain::ids::{BatchId, MessageKey, TenantId},
    store::{Doing as _, StoreError},
};

/// A message as `checklist.messages` has it, with what `work` and `failed_message` add.
#[derive(Debug, Clone, sqlx::FromRow, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[expect(missing_docs, reason = "the views' columns; the migration comments each of them")]
pub struct MessageRow {
    pub batch_id: Uuid,
    pub seq: i32,
    pub producer: String,
    pub job_id: String,
    pub campaign: Option<String>,
    pub channel: String,
    pub account: String,
    pub business_number: String,
    pub template: String,
    pub language: String,
    pub category: String,
    pub recipient: String,
    pub r#ref: Option<String>,
    pub state: String,
    pub attempt: i16,
    pub provider_message_id: Option<String>,
    pub code: Option<String>,
    pub send_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub accepted_at: Option<DateTime<Utc>>,
    pub sent_at: Option<DateTime<Utc>>,
    pub delivered_at: Option<DateTime<Utc>>,
    pub read_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    pub stage: Option<String>,
    pub due_at: Option<DateTime<Utc>>,
    #[serde(default)]
    pub window_closes_at: Option<DateTime<Utc>>,
    pub hold_id: Option<i64>,
    pub class: Option<String>,
    pub reason: Option<String>,
    pub failed_at: Option<DateTime<Utc>>,
    /// Of a list by time: the time it goes by.
    #[sqlx(default)]
    #[serde(skip)]
    pub list_at: Option<DateTime<Utc>>,
}

/// A call that did not end accepted.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct AttemptRow {
    /// Which call.
    pub attempt: i16,
    /// What became of it.
    pub outcome: String,
    /// The provider's code.
    pub code: String,
    /// What it means.
    pub class: String,
    /// The provider's words.
    pub reason: String,
    /// When.
    pub at: DateTime<Utc>,
}

/// A decision about a call whose outcome nobody knew.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct DecisionRow {
    /// Which call.
    pub attempt: i16,
    /// sent, failed or resend.
    pub decision: String,
    /// `policy`, or `token:<name>`.
    pub decided_by: String,
    /// Why.
    pub reason: String,
    /// What it was decided by.
    pub evidence: String,
    /// When.
    pub at: DateTime<Utc>,
}

/// The call that makes a message uncertain.
#[derive(Debug, Clone)]
pub struct Doubt {
    /// The message.
    pub key: MessageKey,
    /// When it was called.
    pub called_at: DateTime<Utc>,
    /// What happened, in one word.
    pub code: String,
    /// What happened.
    pub reason: String,
}

pub(super) const SHOWN: &str = "v.batch_id, v.seq, v.producer, v.job_id, v.campaign, v.channel, v.account, v.business_number,
    v.template, v.language, v.category, v.recipient, v.ref, v.state, v.attempt, v.provider_message_id, v.code, v.send_at,
    v.expires_at, v.accepted_at, v.sent_at, v.delivered_at, v.read_at, v.ended_at, w.stage::text AS stage,
    w.wake_at AS due_at, nullif(w.until, 'epoch'::timestamptz) AS window_closes_at, w.hold_id, f.class, f.reason, f.failed_at";
/// The rows of `k`, whole. OFFSET 0 keeps the tables from being joined whole: each row is looked up by its key.
pub(super) const WHOLE: &str = " CROSS JOIN LATERAL
    (SELECT * FROM checklist.messages m WHERE m.batch_id = k.batch_id AND m.seq = k.seq OFFSET 0) v
    LEFT JOIN LATERAL (SELECT * FROM work w WHERE w.batch_id = k.batch_id AND w.seq = k.seq OFFSET 0) w ON true
    LEFT JOIN LATERAL (SELECT * FROM failed_message f WHERE f.batch_id = k.batch_id AND f.seq = k.seq OFFSET 0) f ON true";

/// One message of a tenant.
pub async fn find(
    connection: &mut PgConnection,
    tenant: TenantId,
    key: MessageKey,
) -> Result<Option<MessageRow>, StoreError> {
    let mut sql = QueryBuilder::<Postgres>::new("SELECT ");
    sql.push(SHOWN)
        .push(" FROM (SELECT b.batch_id, ")
        .push_bind(key.seq)
        .push("::int AS seq FROM batch b WHERE b.batch_id = ");
    sql.push_bind(key.batch_id.0).push(" AND b.tenant_id = ").push_bind(tenant.0).push(") k").push(WHOLE);
    sql.build_query_as().fetch_optional(connection).await.doing("look for a message")
}

/// The calls for a message that did not end accepted, in order.
pub async fn attempts(connection: &mut PgConnection, key: MessageKey) -> Result<Vec<AttemptRow>, StoreError> {
    sqlx::query_as!(
        AttemptRow,
        "SELECT attempt, outcome, code, class, reason, at FROM attempt WHERE batch_id = $1 AND seq = $2 ORDER BY at, attempt",
        key.batch_id.0,
        key.seq
    )
    .fetch_all(connection)
    .await
    .doing("list the attempts of a message")
}

/// What was decided about a message, in order.
pub async fn decisions(connection: &mut PgConnection, key: MessageKey) -> Result<Vec<DecisionRow>, StoreError> {
    sqlx::query_as!(
        DecisionRow,
        "SELECT attempt, decision, decided_by, reason, evidence, at FROM decision WHERE batch_id = $1 AND seq = $2 ORDER BY at",
        key.batch_id.0,
        key.seq
    )
    .fetch_all(connection)
    .await
    .doing("list the decisions about a message")
}

/// The calls in doubt of these messages.
pub async fn doubts(connection: &mut PgConnection, keys: &[MessageKey]) -> Result<Vec<Doubt>, StoreError> {
    let (batches, seqs): (Vec<Uuid>, Vec<i32>) = keys.iter().map(|key| (key.batch_id.0, key.seq)).unzip();
    let rows = sqlx::query!(
        "SELECT a.batch_id, a.seq, a.at, a.code, a.reason
         FROM unnest($1::uuid[], $2::int[]) AS u(batch_id, seq)
         JOIN work w ON w.batch_id = u.batch_id AND w.seq = u.seq
         JOIN attempt a ON a.batch_id = u.batch_id AND a.seq = u.seq AND a.attempt = w.attempt AND a.outcome = 'unknown'",
        &batches,
        &seqs
    )
    .fetch_all(connection)
    .await
    .doing("list the calls in doubt")?;
    let doubts = rows.into_iter().map(|row| Doubt {
        key: MessageKey { batch_id: BatchId(row.batch_id), seq: row.seq },
        called_at: row.at,
        code: row.code,
        reason: row.reason,
    });
    Ok(doubts.collect())
}
