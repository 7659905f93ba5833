//! Failed messages that somebody sees to: acknowledged, or sent again as new ones.
//!
//! A message that is sent again keeps what became of it. Its re-send is a message of a new batch with the same place, named
//! by `message.resent_in`, which is written once, with the row locked: two at the same time make one. Whatever lifts the
//! first message afterwards does so under the same lock and finds the link, so that its re-send is given up
//! ([`note_vain`]).

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use crate::{
    domain::{
        ids::{BatchId, MessageKey, TenantId},
        resend::Same,
    },
    store::{Doing as _, StoreError, work::windows},
};

/// Which failures.
#[derive(Debug, Clone, Default)]
pub struct FailedFilter {
    /// From these numbers.
    pub numbers: Vec<i32>,
    /// Of this batch.
    pub batch: Option<BatchId>,
    /// With this code.
    pub code: Option<String>,
    /// Of this campaign.
    pub campaign: Option<String>,
    /// These.
    pub keys: Option<Vec<MessageKey>>,
}

impl FailedFilter {
    /// The condition on `failed_message f`.
    fn push(&self, sql: &mut QueryBuilder<Postgres>) {
        sql.push(" f.number_id = ANY(").push_bind(self.numbers.clone()).push(")");
        if let Some(batch) = self.batch {
            sql.push(" AND f.batch_id = ").push_bind(batch.0);
        }
        if let Some(code) = &self.code {
            sql.push(" AND f.code = ").push_bind(code.clone());
        }
        if let Some(campaign) = &self.campaign {
            sql.push(" AND f.batch_id IN (SELECT c.batch_id FROM batch c WHERE c.campaign = ");
            sql.push_bind(campaign.clone()).push(")");
        }
        if let Some(keys) = &self.keys {
            let (batches, seqs): (Vec<Uuid>, Vec<i32>) = keys.iter().map(|key| (key.batch_id.0, key.seq)).unzip();
            sql.push(" AND (f.batch_id, f.seq) IN (SELECT * FROM unnest(").push_bind(batches).push("::uuid[], ");
            sql.push_bind(seqs).push("::int[]))");
        }
    }
}

/// A failed message with all that decides whether it is sent again.
#[derive(Debug, Clone, sqlx::FromRow)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of a row")]
pub struct FailedRow {
    /// Its batch.
    pub batch_id: Uuid,
    /// Its place.
    pub seq: i32,
    /// From which number.
    pub number_id: i32,
    /// Whose code it is.
    pub provider: String,
    /// The code.
    pub code: String,
    /// When it failed.
    pub failed_at: DateTime<Utc>,
    /// Whether it is failed or expired still.
    pub is_failed: bool,
    /// Whether it was sent again.
    pub is_resent: bool,
    /// Whether somebody has seen to it.
    pub is_acknowledged: bool,
    /// Whether the recipient does not want it.
    pub is_opt_out: bool,
    /// Whether its batch was given up.
    pub is_cancelled: bool,
    /// Whether its campaign is paused.
    pub is_campaign_paused: bool,
    /// The provider's word for the state of its template.
    pub template_status: String,
    /// In which lane.
    pub lane: String,
    /// What became of the same text to the same person in another message.
    same: Option<String>,
    /// Equal for the same text to the same person.
    pub text: String,
}

impl FailedRow {
    /// Which message.
    pub const fn key(&self) -> MessageKey {
        MessageKey { batch_id: BatchId(self.batch_id), seq: self.seq }
    }

    /// What became of the same text to the same person in another message.
    pub fn same(&self) -> Option<Same> {
        self.same.as_deref().and_then(|same| same.parse().ok())
    }
}

/// One of a tenant sends again at a time, or sees to failures, until the transaction ends.
pub async fn take_turn(connection: &mut PgConnection, tenant: TenantId) -> Result<(), StoreError> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtext('resend'), $1)", tenant.0)
        .execute(connection)
        .await
        .doing("wait for another re-send")?;
    Ok(())
}

/// Keeps a tenant's campaigns from being paused until the transaction ends: whoever pauses one afterwards finds the batches
/// that send its messages again.
pub async fn lock_campaigns(connection: &mut PgConnection, tenant: TenantId) -> Result<(), StoreError> {
    sqlx::query!("SELECT id FROM campaign WHERE tenant_id = $1 ORDER BY id FOR SHARE", tenant.0)
        .fetch_all(connection)
        .await
        .doing("lock campaigns")?;
    Ok(())
}

/// How many failures there are.
pub async fn count(connection: &mut PgConnection, filter: &FailedFilter) -> Result<i64, StoreError> {
    let mut sql = QueryBuilder::<Postgres>::new("SELECT count(*) FROM failed_message f WHERE");
    filter.push(&mut sql);
    sql.build_query_scalar().fetch_one(connection).await.doing("count failures")
}

/// Failures in order of their keys, those after `after`.
pub async fn failed(
    connection: &mut PgConnection,
    filter: &FailedFilter,
    after: MessageKey,
    limit: i64,
) -> Result<Vec<FailedRow>, StoreError> {
    let mut sql = QueryBuilder::<Postgres>::new(
        "WITH f AS MATERIALIZED (SELECT f.* FROM failed_message f WHERE (f.batch_id, f.seq) > (",
    );
    sql.push_bind(after.batch_id.0).push(", ").push_bind(after.seq).push(") AND");
    filter.push(&mut sql);
    sql.push(" ORDER BY f.batch_id, f.seq LIMIT ").push_bind(limit);
    sql.push(
        ") SELECT f.batch_id, f.seq, f.number_id, a.provider, f.code, f.failed_at,
                m.state IN ('failed', 'expired') AS is_failed, m.resent_in IS NOT NULL AS is_resent,
                f.acknowledged IS NOT NULL AS is_acknowledged,
                f.class = 'opt_out' OR EXISTS (
                    SELECT FROM suppression s
                    WHERE s.recipient = m.recipient AND s.tenant_id = b.tenant_id AND s.lifted_at IS NULL
                      AND (s.account_id IS NULL OR s.account_id = b.account_id)
                      AND (s.scope <> 'marketing' OR b.lane = 'marketing')
                ) AS is_opt_out,
                b.cancelled_at IS NOT NULL AS is_cancelled,
                c.id IS NOT NULL AS is_campaign_paused, t.status AS template_status, b.lane::text AS lane, same.same,
                md5(concat_ws(' ', b.template_id, m.recipient, b.params || coalesce(m.params, '{}'))) AS text
         FROM f
         JOIN batch b ON b.batch_id = f.batch_id
         JOIN message m ON m.batch_id = f.batch_id AND m.seq = f.seq
         JOIN account a ON a.id = b.account_id
         JOIN template t ON t.id = b.template_id
         LEFT JOIN campaign c ON c.tenant_id = b.tenant_id AND c.key = b.campaign AND c.state = 'paused'
         LEFT JOIN LATERAL (
             SELECT CASE WHEN bool_or(x.accepted_at IS NOT NULL AND x.state NOT IN ('pending', 'uncertain')) THEN 'received'
                         ELSE 'under_way' END AS same
             FROM message x JOIN batch y ON y.batch_id = x.batch_id
             WHERE x.recipient = m.recipient AND x.batch_id <> m.batch_id AND y.tenant_id = b.tenant_id
               AND y.template_id = b.template_id
               AND y.params || coalesce(x.params, '{}') = b.params || coalesce(m.params, '{}')
               AND (x.state IN ('pending', 'uncertain')
                    OR x.state IN ('accepted', 'sent', 'delivered', 'read') AND x.accepted_at > f.failed_at)
             HAVING count(*) > 0
         ) same ON true
         ORDER BY f.batch_id, f.seq",
    );
    sql.build_query_as().fetch_all(connection).await.doing("look for failures")
}

/// Locks those of these messages, in key order, that are failed and were not sent again.
pub async fn lock(connection: &mut PgConnection, keys: &[MessageKey]) -> Result<Vec<MessageKey>, StoreError> {
    let (batches, seqs): (Vec<Uuid>, Vec<i32>) = keys.iter().map(|key| (key.batch_id.0, key.seq)).unzip();
    let rows = sqlx::query!(
        "SELECT m.batch_id, m.seq
         FROM unnest($1::uuid[], $2::int[]) AS u(batch_id, seq)
         JOIN message m ON m.batch_id = u.batch_id AND m.seq = u.seq
         WHERE m.state IN ('failed', 'expired') AND m.resent_in IS NULL
         ORDER BY m.batch_id, m.seq FOR NO KEY UPDATE OF m",
        &batches,
        &seqs
    )
    .fetch_all(connection)
    .await
    .doing("lock failed messages")?;
    Ok(rows.into_iter().map(|row| MessageKey { batch_id: BatchId(row.batch_id), seq: row.seq }).collect())
}

/// A batch that sends messages of another one again.
#[derive(Debug, Clone, Copy)]
pub struct NewResend {
    /// Whose messages.
    pub of: BatchId,
    /// The new one.
    pub batch: BatchId,
    /// How many.
    pub messages: i32,
    /// Whose turn its work takes.
    pub turn_group: Uuid,
}

/// When re-sends go out.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Not before; absent is at once.
    pub send_at: Option<DateTime<Utc>>,
    /// Not after; absent is as long after the start as the first one lived.
    pub expires_at: Option<DateTime<Utc>>,
}

/// Writes the new batches and their messages, in the name of an act. The messages are locked.
pub async fn insert(
    connection: &mut PgConnection,
    batches: &[NewResend],
    messages: &[MessageKey],
    times: Times,
    act: i64,
) -> Result<u64, StoreError> {
    let (of, seqs): (Vec<Uuid>, Vec<i32>) = messages.iter().map(|key| (key.batch_id.0, key.seq)).unzip();
    let done = sqlx::query_file!(
        "src/store/resends/insert.sql",
        &batches.iter().map(|b| b.of.0).collect::<Vec<_>>(),
        &batches.iter().map(|b| b.batch.0).collect::<Vec<_>>(),
        &batches.iter().map(|b| b.messages).collect::<Vec<_>>(),
        &batches.iter().map(|b| b.turn_group).collect::<Vec<_>>(),
        &of,
        &seqs,
        times.send_at,
        times.expires_at,
        act
    )
    .execute(&mut *connection)
    .await
    .doing("send failed messages again")?;
    let again: HashMap<BatchId, BatchId> = batches.iter().map(|batch| (batch.of, batch.batch)).collect();
    let keys =
        messages.iter().filter_map(|key| Some(MessageKey { batch_id: *again.get(&key.batch_id)?, seq: key.seq }));
    let keys: Vec<MessageKey> = keys.collect();
    windows::restore(connection, &keys).await?;
    Ok(done.rows_affected())
}

/// Says of failures that they are seen to; returns how many were not before.
pub async fn acknowledge(connection: &mut PgConnection, filter: &FailedFilter, act: i64) -> Result<u64, StoreError> {
    let mut sql = QueryBuilder::<Postgres>::new("UPDATE failed_message f SET acknowledged = ");
    sql.push_bind(act).push(" WHERE f.acknowledged IS NULL AND");
    filter.push(&mut sql);
    let done = sql.build().execute(connection).await.doing("acknowledge failures")?;
    Ok(done.rows_affected())
}

/// How many failures are not acknowledged yet.
pub async fn count_open(connection: &mut PgConnection, filter: &FailedFilter) -> Result<i64, StoreError> {
    let mut sql =
        QueryBuilder::<Postgres>::new("SELECT count(*) FROM failed_message f WHERE f.acknowledged IS NULL AND");
    filter.push(&mut sql);
    sql.build_query_scalar().fetch_one(connection).await.doing("count failures")
}

/// Notes the re-sends of messages that arrived after all, and the re-sends of these.
pub(in crate::store) async fn note_vain(tx: &mut PgConnection, lifted: &[MessageKey]) -> Result<(), StoreError> {
    if lifted.is_empty() {
        return Ok(());
    }
    let (batches, seqs): (Vec<Uuid>, Vec<i32>) = lifted.iter().map(|key| (key.batch_id.0, key.seq)).unzip();
    sqlx::query!(
        "WITH RECURSIVE again AS (
             SELECT m.resent_in, m.seq FROM unnest($1::uuid[], $2::int[]) AS u(batch_id, seq)
             JOIN message m ON m.batch_id = u.batch_id AND m.seq = u.seq AND m.resent_in IS NOT NULL
             UNION
             SELECT m.resent_in, m.seq FROM again
             JOIN message m ON m.batch_id = again.resent_in AND m.seq = again.seq AND m.resent_in IS NOT NULL
         )
         INSERT INTO resend_in_vain (batch_id, seq) SELECT resent_in, seq FROM again ORDER BY 1, 2 ON CONFLICT DO NOTHING",
        &batches,
        &seqs
    )
    .execute(tx)
    .await
    .doing("note re-sends in vain")?;
    Ok(())
}

/// Re-sends in vain that wait to be called, at most `most`: to be given up. Forgets those that have ended; those that are
/// being called or in doubt stay noted, in case they come back.
pub async fn in_vain(connection: &mut PgConnection, most: i64) -> Result<Vec<(MessageKey, i16)>, StoreError> {
    let rows = sqlx::query!(
        r#"WITH ended AS (
               DELETE FROM resend_in_vain v WHERE (v.batch_id, v.seq) IN (
                   SELECT e.batch_id, e.seq FROM resend_in_vain e
                   WHERE NOT EXISTS (SELECT FROM work w WHERE w.batch_id = e.batch_id AND w.seq = e.seq)
                   ORDER BY e.batch_id, e.seq LIMIT $1 FOR UPDATE SKIP LOCKED)
           )
           SELECT w.batch_id, w.seq, w.attempt FROM resend_in_vain v
           JOIN work w ON w.batch_id = v.batch_id AND w.seq = v.seq AND w.stage IN ('ready', 'parked')
           LIMIT $1"#,
        most
    )
    .fetch_all(connection)
    .await
    .doing("look for re-sends in vain")?;
    let found = rows.into_iter();
    Ok(found.map(|row| (MessageKey { batch_id: BatchId(row.batch_id), seq: row.seq }, row.attempt)).collect())
}
