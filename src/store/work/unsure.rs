//! Work whose call is in doubt: what the policy must know, waiting on, and what a person's decision is about.

use std::time::Duration;

use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use crate::{
    domain::{
        ids::{BatchId, MessageKey, TenantId},
        lane::Lane,
        uncertain::UncertainOverrides,
    },
    store::{Doing as _, StoreError},
};

/// An uncertain message whose next decision is due.
#[derive(Debug, Clone, Copy)]
pub struct Unsure {
    /// The message.
    pub key: MessageKey,
    /// The call in doubt.
    pub attempt: i16,
    /// Its category.
    pub lane: Lane,
    /// Since the call.
    pub age: Duration,
    /// Until the end of the message's life, or of its recipient's window; zero when it is past.
    pub left: Duration,
    /// The account's own policies.
    pub overrides: UncertainOverrides,
}

/// Uncertain messages whose next decision is due, at most `most`.
pub async fn due(connection: &mut PgConnection, most: i64) -> Result<Vec<Unsure>, StoreError> {
    let rows = sqlx::query!(
        r#"
        SELECT w.batch_id, w.seq, w.attempt, w.lane::text AS "lane!",
               -- There always is a row of the attempt; without one nothing was called before the batch was due.
               extract(epoch FROM now() - coalesce(a.at, b.send_at))::float8 AS "age!",
               extract(epoch FROM least(b.expires_at, w.until) - now())::float8 AS "left!",
               ac.uncertain AS "overrides: Json<UncertainOverrides>"
        FROM (
            SELECT * FROM work WHERE stage <> 'ready' AND stage = 'unsure' AND wake_at <= now() ORDER BY wake_at LIMIT $1
        ) w
        JOIN batch b ON b.batch_id = w.batch_id
        JOIN account ac ON ac.id = b.account_id
        LEFT JOIN attempt a ON a.batch_id = w.batch_id AND a.seq = w.seq AND a.attempt = w.attempt AND a.outcome = 'unknown'
        "#,
        most
    )
    .fetch_all(connection)
    .await
    .doing("look for uncertain work")?;
    let due = rows.into_iter().map(|row| Unsure {
        key: MessageKey { batch_id: BatchId(row.batch_id), seq: row.seq },
        attempt: row.attempt,
        lane: row.lane.parse().unwrap_or(Lane::Marketing),
        age: Duration::try_from_secs_f64(row.age).unwrap_or(Duration::ZERO),
        left: Duration::try_from_secs_f64(row.left).unwrap_or(Duration::ZERO),
        overrides: row.overrides.0,
    });
    Ok(due.collect())
}

/// Lets uncertain work wait on for so long, if it is still about the same call.
pub async fn wait(connection: &mut PgConnection, waits: &[(MessageKey, i16, Duration)]) -> Result<u64, StoreError> {
    if waits.is_empty() {
        return Ok(0);
    }
    let batches: Vec<Uuid> = waits.iter().map(|(key, _, _)| key.batch_id.0).collect();
    let seqs: Vec<i32> = waits.iter().map(|(key, _, _)| key.seq).collect();
    let attempts: Vec<i16> = waits.iter().map(|(_, attempt, _)| *attempt).collect();
    let seconds: Vec<f64> = waits.iter().map(|(_, _, wait)| wait.as_secs_f64()).collect();
    let done = sqlx::query!(
        "WITH due AS (
             SELECT w.batch_id, w.seq, u.wait
             FROM unnest($1::uuid[], $2::int[], $3::smallint[], $4::float8[]) AS u(batch_id, seq, attempt, wait)
             JOIN work w ON w.batch_id = u.batch_id AND w.seq = u.seq AND w.stage = 'unsure' AND w.attempt = u.attempt
             ORDER BY w.batch_id, w.seq FOR UPDATE OF w SKIP LOCKED
         )
         UPDATE work w SET wake_at = now() + make_interval(secs => due.wait) FROM due
         WHERE w.batch_id = due.batch_id AND w.seq = due.seq",
        &batches,
        &seqs,
        &attempts,
        &seconds
    )
    .execute(connection)
    .await
    .doing("let uncertain work wait")?;
    Ok(done.rows_affected())
}

/// Which uncertain messages a decision is about.
#[derive(Debug, Clone, Default)]
pub struct UnsureFilter {
    /// Only of this batch.
    pub batch: Option<BatchId>,
    /// Only of these numbers.
    pub numbers: Option<Vec<i32>>,
    /// Only these.
    pub keys: Option<Vec<MessageKey>>,
}

/// A tenant's uncertain messages in key order, those after `after`, with the call in doubt.
pub async fn matching(
    connection: &mut PgConnection,
    tenant: TenantId,
    filter: &UnsureFilter,
    after: MessageKey,
    most: i64,
) -> Result<Vec<(MessageKey, i16)>, StoreError> {
    let (batches, seqs): (Vec<Uuid>, Vec<i32>) =
        filter.keys.iter().flatten().map(|key| (key.batch_id.0, key.seq)).unzip();
    let rows = sqlx::query!(
        "SELECT w.batch_id, w.seq, w.attempt FROM work w JOIN batch b ON b.batch_id = w.batch_id
         WHERE w.stage <> 'ready' AND w.stage = 'unsure' AND b.tenant_id = $1
           AND ($2::uuid IS NULL OR w.batch_id = $2) AND ($3::int[] IS NULL OR w.number_id = ANY ($3))
           AND (NOT $4 OR (w.batch_id, w.seq) IN (SELECT u.batch_id, u.seq FROM unnest($5::uuid[], $6::int[]) u(batch_id, seq)))
           AND (w.batch_id, w.seq) > ($7, $8)
         ORDER BY w.batch_id, w.seq LIMIT $9",
        tenant.0,
        filter.batch.map(|b| b.0),
        filter.numbers.as_deref(),
        filter.keys.is_some(),
        &batches,
        &seqs,
        after.batch_id.0,
        after.seq,
        most
    )
    .fetch_all(connection)
    .await
    .doing("look for uncertain messages")?;
    let found = rows.into_iter();
    Ok(found.map(|row| (MessageKey { batch_id: BatchId(row.batch_id), seq: row.seq }, row.attempt)).collect())
}
