//! Messages by list: sent, pending, failed, uncertain, all.
//!
//! The order is the latest due batch first, within a batch by place. Each list walks the batches that can have rows for
//! it: pending and uncertain those of `work`, failed those of `failed_message` (by jumping from batch to batch in the
//! primary key), sent and all those of `batch`. So a list costs what its page has, not what the tables have.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use crate::{
    domain::{
        ids::{BatchId, MessageKey, TenantId},
        message::MessageState,
        named,
    },
    store::{Doing as _, StoreError},
};

named! {
    /// What became of messages, as operators group it.
    pub enum List {
        /// Every message.
        All = "all",
        /// Taken by the provider.
        Sent = "sent",
        /// Still to be sent.
        Pending = "pending",
        /// Failed or expired.
        Failed = "failed",
        /// Called, and nobody knows.
        Uncertain = "uncertain",
    }
}

impl List {
    const fn states(self) -> &'static [&'static str] {
        match self {
            Self::All => &[],
            Self::Sent => &["accepted", "sent", "delivered", "read"],
            Self::Pending => &["pending"],
            Self::Failed => &["failed", "expired"],
            Self::Uncertain => &["uncertain"],
        }
    }

    /// The narrow table that has a row for each of its messages.
    const fn table(self) -> &'static str {
        match self {
            Self::All | Self::Sent => "message",
            Self::Pending | Self::Uncertain => "work",
            Self::Failed => "failed_message",
        }
    }

    /// The list that is all messages of this state and perhaps more.
    pub const fn of(state: MessageState) -> Self {
        match state {
            MessageState::Pending => Self::Pending,
            MessageState::Uncertain => Self::Uncertain,
            MessageState::Accepted | MessageState::Sent | MessageState::Delivered | MessageState::Read => Self::Sent,
            MessageState::Failed | MessageState::Expired => Self::Failed,
            MessageState::Suppressed | MessageState::Cancelled => Self::All,
        }
    }
}

/// Which messages.
#[derive(Debug, Clone)]
pub struct MessageFilter {
    /// Which list.
    pub list: List,
    /// Only of this batch.
    pub batch: Option<BatchId>,
    /// Only of these numbers.
    pub numbers: Option<Vec<i32>>,
    /// Only to this recipient.
    pub recipient: Option<String>,
    /// Only in this state.
    pub state: Option<MessageState>,
    /// Only after this one in the order of the list.
    pub after: Option<MessageKey>,
    /// How many at most.
    pub limit: i64,
}

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

const SHOWN: &str = "v.batch_id, v.seq, v.producer, v.job_id, v.campaign, v.channel, v.account, v.business_number,
    v.template, v.language, v.category, v.recipient, v.ref, v.state, v.attempt, v.provider_message_id, v.code, v.send_at,
    v.expires_at, v.accepted_at, v.sent_at, v.delivered_at, v.read_at, v.ended_at, w.stage::text AS stage,
    w.wake_at AS due_at, nullif(w.until, 'epoch'::timestamptz) AS window_closes_at, w.hold_id, f.class, f.reason, f.failed_at";
/// The rows of `k`, whole. OFFSET 0 keeps the view from being joined before the page is cut.
const WHOLE: &str = " CROSS JOIN LATERAL
    (SELECT * FROM checklist.messages m WHERE m.batch_id = k.batch_id AND m.seq = k.seq OFFSET 0) v
    LEFT JOIN work w ON w.batch_id = k.batch_id AND w.seq = k.seq
    LEFT JOIN failed_message f ON f.batch_id = k.batch_id AND f.seq = k.seq ORDER BY k.batch_id DESC, k.seq";

/// A page of messages.
pub async fn list(
    connection: &mut PgConnection,
    tenant: TenantId,
    filter: &MessageFilter,
) -> Result<Vec<MessageRow>, StoreError> {
    let mut sql = QueryBuilder::<Postgres>::new("WITH RECURSIVE ");
    push_batches(&mut sql, tenant, filter);
    sql.push(", k AS MATERIALIZED (SELECT r.batch_id, r.seq FROM g CROSS JOIN LATERAL (SELECT b.batch_id FROM batch b LEFT JOIN batch_tally t ON t.batch_id = b.batch_id WHERE b.batch_id = g.batch_id AND b.tenant_id = ");
    sql.push_bind(tenant.0);
    push_numbers(&mut sql, filter);
    if filter.list == List::Sent && filter.recipient.is_none() {
        // A batch that has sent nothing yet is passed by instead of being read to its end.
        sql.push(" AND (t.batch_id IS NULL OR t.accepted + t.sent + t.delivered + t.read > 0)");
    }
    sql.push(" LIMIT 1) b CROSS JOIN LATERAL (");
    push_rows(&mut sql, filter);
    sql.push(") r LIMIT ").push_bind(filter.limit).push(") SELECT ").push(SHOWN).push(" FROM k").push(WHOLE);
    sql.build_query_as().fetch_all(connection).await.doing("list messages")
}

/// The batches to look into as `g`, in the order of the list, made one by one as the page needs them.
fn push_batches(sql: &mut QueryBuilder<Postgres>, tenant: TenantId, filter: &MessageFilter) {
    let from = filter.after.map(|key| key.batch_id.0);
    let push_from = |sql: &mut QueryBuilder<Postgres>, column: &str| {
        if let Some(from) = from {
            sql.push(" AND ").push(column).push(" <= ").push_bind(from);
        }
    };
    if let Some(batch) = filter.batch {
        sql.push("g AS (SELECT b.batch_id FROM batch b WHERE b.batch_id = ").push_bind(batch.0);
        push_from(sql, "b.batch_id");
        sql.push(")");
    } else if let Some(recipient) = &filter.recipient {
        sql.push("g AS (SELECT m.batch_id FROM message m WHERE m.recipient = ").push_bind(recipient.clone());
        push_from(sql, "m.batch_id");
        sql.push(" ORDER BY m.batch_id DESC)");
    } else if filter.list.table() == "message" {
        sql.push("g AS (SELECT b.batch_id FROM batch b WHERE b.tenant_id = ").push_bind(tenant.0);
        push_numbers(sql, filter);
        push_from(sql, "b.batch_id");
        sql.push(" ORDER BY b.batch_id DESC)");
    } else {
        // Jumps over all rows of a batch at once: the next batch is the first key below this one's.
        let table = filter.list.table();
        sql.push("g AS ((SELECT t.batch_id FROM ").push(table).push(" t WHERE true");
        push_from(sql, "t.batch_id");
        sql.push(" ORDER BY t.batch_id DESC LIMIT 1) UNION ALL SELECT n.batch_id FROM g CROSS JOIN LATERAL (SELECT t.batch_id FROM ")
            .push(table)
            .push(" t WHERE t.batch_id < g.batch_id ORDER BY t.batch_id DESC LIMIT 1) n)");
    }
}

fn push_numbers(sql: &mut QueryBuilder<Postgres>, filter: &MessageFilter) {
    match filter.numbers.as_deref() {
        // An equality, not `= ANY`, lets the index give the order.
        Some([number]) => drop(sql.push(" AND b.number_id = ").push_bind(*number)),
        Some(numbers) => drop(sql.push(" AND b.number_id = ANY(").push_bind(numbers.to_vec()).push(")")),
        None => {}
    }
}

/// The rows of one batch that belong to the list.
fn push_rows(sql: &mut QueryBuilder<Postgres>, filter: &MessageFilter) {
    let table = filter.list.table();
    sql.push("SELECT m.batch_id, m.seq FROM message m");
    let seq = if table == "message" {
        "m.seq"
    } else {
        sql.push(" JOIN ")
            .push(table)
            .push(" d ON d.batch_id = m.batch_id AND d.seq = m.seq AND d.batch_id = g.batch_id");
        "d.seq"
    };
    sql.push(" WHERE m.batch_id = g.batch_id");
    if let Some(after) = filter.after {
        sql.push(" AND ").push(seq).push(" > CASE WHEN g.batch_id = ").push_bind(after.batch_id.0);
        sql.push(" THEN ").push_bind(after.seq).push(" ELSE 0 END");
    }
    if let Some(recipient) = &filter.recipient {
        sql.push(" AND m.recipient = ").push_bind(recipient.clone());
    }
    if let Some(state) = filter.state {
        sql.push(" AND m.state = ").push_bind(state.as_str()).push("::message_state");
    } else if !filter.list.states().is_empty() {
        sql.push(" AND m.state = ANY(").push_bind(filter.list.states()).push("::message_state[])");
    }
    sql.push(" ORDER BY ").push(seq).push(" LIMIT ").push_bind(filter.limit);
}

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
