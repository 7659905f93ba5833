//! The audit of tallies: what they say beside what a recount of the rows finds, in one snapshot.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    domain::ids::BatchId,
    store::{Doing as _, StoreError},
};

/// What is compared, in the order of both arrays.
pub const COMPARED: [&str; 13] = [
    "pending",
    "uncertain",
    "accepted",
    "sent",
    "delivered",
    "read",
    "failed",
    "expired",
    "suppressed",
    "cancelled",
    "recipients",
    "work rows",
    "unsure work rows",
];

/// A batch whose tally is not what its rows say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Which batch.
    pub batch: BatchId,
    /// What the tally says.
    pub told: Vec<i64>,
    /// What the rows say.
    pub found: Vec<i64>,
}

/// Recounts these batches. One statement is one snapshot, and tallies change in the transaction that changes the rows:
/// a difference is a fault, never a moment.
pub async fn recount(connection: &mut PgConnection, batches: &[BatchId]) -> Result<Vec<Difference>, StoreError> {
    let batches: Vec<Uuid> = batches.iter().map(|b| b.0).collect();
    let rows = sqlx::query!(
        r#"
        SELECT c.batch_id AS "batch_id!", c.told AS "told!", c.found AS "found!"
        FROM (
            SELECT b.batch_id,
                   ARRAY[t.pending, t.uncertain, t.accepted, t.sent, t.delivered, t.read, t.failed, t.expired, t.suppressed,
                         t.cancelled, b.recipients, t.pending + t.uncertain, t.uncertain]::bigint[] AS told,
                   r.states || ARRAY[r.messages, w.rows, w.unsure] AS found
            FROM unnest($1::uuid[]) AS u(batch_id)
            JOIN batch b ON b.batch_id = u.batch_id AND b.state = 'planned'
            JOIN batch_tally t ON t.batch_id = b.batch_id
            CROSS JOIN LATERAL (
                SELECT count(*) AS messages,
                       ARRAY[count(*) FILTER (WHERE m.state = 'pending'), count(*) FILTER (WHERE m.state = 'uncertain'),
                             count(*) FILTER (WHERE m.state = 'accepted'), count(*) FILTER (WHERE m.state = 'sent'),
                             count(*) FILTER (WHERE m.state = 'delivered'), count(*) FILTER (WHERE m.state = 'read'),
                             count(*) FILTER (WHERE m.state = 'failed'), count(*) FILTER (WHERE m.state = 'expired'),
                             count(*) FILTER (WHERE m.state = 'suppressed'), count(*) FILTER (WHERE m.state = 'cancelled')]
                           AS states
                FROM message m WHERE m.batch_id = b.batch_id
            ) r
            CROSS JOIN LATERAL (
                SELECT count(*) AS rows, count(*) FILTER (WHERE w.stage = 'unsure') AS unsure
                FROM work w WHERE w.batch_id = b.batch_id
            ) w
        ) c
        WHERE c.told IS DISTINCT FROM c.found
        "#,
        &batches
    )
    .fetch_all(connection)
    .await
    .doing("recount a batch")?;
    let differences = rows.into_iter();
    Ok(differences.map(|row| Difference { batch: BatchId(row.batch_id), told: row.told, found: row.found }).collect())
}

/// Remembers which of the recounted batches differ, and how; those that are right again are forgotten.
pub async fn remember(
    connection: &mut PgConnection,
    recounted: &[BatchId],
    differences: &[(BatchId, String)],
) -> Result<(), StoreError> {
    let recounted: Vec<Uuid> = recounted.iter().map(|b| b.0).collect();
    let (batches, details): (Vec<Uuid>, Vec<&str>) =
        differences.iter().map(|(batch, detail)| (batch.0, detail.as_str())).unzip();
    sqlx::query!(
        "WITH right_again AS (
             DELETE FROM tally_difference WHERE batch_id = ANY ($1) AND NOT batch_id = ANY ($2)
         )
         INSERT INTO tally_difference (batch_id, detail) SELECT * FROM unnest($2::uuid[], $3::text[])
         ON CONFLICT (batch_id) DO UPDATE SET detail = excluded.detail",
        &recounted,
        &batches,
        &details as &[&str]
    )
    .execute(connection)
    .await
    .doing("remember tallies that differ")?;
    Ok(())
}

/// Batches that differed at their last recount, to be looked at again whatever their state.
pub async fn remembered(connection: &mut PgConnection) -> Result<Vec<BatchId>, StoreError> {
    let batches = sqlx::query_scalar!("SELECT batch_id FROM tally_difference")
        .fetch_all(connection)
        .await
        .doing("read which tallies differ")?;
    Ok(batches.into_iter().map(BatchId).collect())
}

/// A completed batch that is to be audited.
#[derive(Debug, Clone, Copy)]
pub struct Completed {
    /// Which.
    pub batch: BatchId,
    /// How many messages it has.
    pub recipients: i32,
    /// When it was completed last.
    pub since: DateTime<Utc>,
}

/// Completed batches that are to be audited, the oldest completion first.
pub async fn completed(connection: &mut PgConnection, most: i64) -> Result<Vec<Completed>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT a.batch_id AS "batch_id!", a.since AS "since!", coalesce(b.recipients, 0) AS "recipients!"
           FROM (SELECT * FROM batch_to_audit ORDER BY since LIMIT $1) a LEFT JOIN batch b ON b.batch_id = a.batch_id"#,
        most
    )
    .fetch_all(connection)
    .await
    .doing("look for completed batches")?;
    let completed = rows.into_iter();
    Ok(completed
        .map(|row| Completed { batch: BatchId(row.batch_id), recipients: row.recipients, since: row.since })
        .collect())
}

/// Notes that these were audited, unless they were completed once more meanwhile.
pub async fn audited(connection: &mut PgConnection, done: &[Completed]) -> Result<(), StoreError> {
    let batches: Vec<Uuid> = done.iter().map(|c| c.batch.0).collect();
    let since: Vec<DateTime<Utc>> = done.iter().map(|c| c.since).collect();
    sqlx::query!(
        "DELETE FROM batch_to_audit a USING unnest($1::uuid[], $2::timestamptz[]) AS u(batch_id, since)
         WHERE a.batch_id = u.batch_id AND a.since = u.since",
        &batches,
        &since
    )
    .execute(connection)
    .await
    .doing("note audited batches")?;
    Ok(())
}
