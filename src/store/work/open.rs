//! Batches that have work left, found by jumping over the rows of each in the primary key: one probe a batch, whatever
//! it holds.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    domain::ids::{BatchId, MessageKey},
    store::{Doing as _, StoreError},
};

/// A batch that has work left.
#[derive(Debug, Clone, Copy)]
pub struct OpenBatch {
    /// Which.
    pub batch: BatchId,
    /// How many messages it has.
    pub recipients: i32,
    /// Its life has ended.
    pub is_overdue: bool,
    /// It has a tally, and all its messages have been made.
    pub is_counted: bool,
}

/// Open batches in key order, those after `after`, at most `most`; with `due` only those that may be sent already.
pub async fn batches(
    connection: &mut PgConnection,
    after: BatchId,
    due: bool,
    most: i32,
) -> Result<Vec<OpenBatch>, StoreError> {
    let rows = sqlx::query!(
        r#"
        WITH RECURSIVE ending AS MATERIALIZED (
            SELECT CASE WHEN $2 THEN uuid_floor(now()) ELSE 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid END AS batch_id
        ), open AS (
            (SELECT w.batch_id, 1 AS place FROM work w
             WHERE w.batch_id > $1 AND w.batch_id < (SELECT batch_id FROM ending) ORDER BY w.batch_id LIMIT 1)
            UNION ALL
            SELECT next.batch_id, open.place + 1
            FROM open
            CROSS JOIN LATERAL (
                SELECT w.batch_id FROM work w
                WHERE w.batch_id > open.batch_id AND w.batch_id < (SELECT batch_id FROM ending)
                ORDER BY w.batch_id LIMIT 1
            ) next
            WHERE open.place < $3
        )
        SELECT b.batch_id AS "batch_id!", b.recipients AS "recipients!", b.expires_at <= now() AS "overdue!",
               t.batch_id IS NOT NULL AND b.state = 'planned' AS "counted!"
        FROM open
        JOIN batch b ON b.batch_id = open.batch_id
        LEFT JOIN batch_tally t ON t.batch_id = b.batch_id
        ORDER BY b.batch_id
        "#,
        after.0,
        due,
        most
    )
    .fetch_all(connection)
    .await
    .doing("look for open batches")?;
    let open = rows.into_iter().map(|row| OpenBatch {
        batch: BatchId(row.batch_id),
        recipients: row.recipients,
        is_overdue: row.overdue,
        is_counted: row.counted,
    });
    Ok(open.collect())
}

/// Ready work of these batches, at most `most`. Batches with a turn of their own are found by it, so that what else
/// they have waiting costs nothing; the others are small.
pub async fn ready(
    connection: &mut PgConnection,
    batches: &[BatchId],
    most: i64,
) -> Result<Vec<(MessageKey, i16)>, StoreError> {
    let batches: Vec<Uuid> = batches.iter().map(|b| b.0).collect();
    let rows = sqlx::query!(
        r#"
        SELECT w.batch_id AS "batch_id!", w.seq AS "seq!", w.attempt AS "attempt!"
        FROM unnest($1::uuid[]) AS u(batch_id)
        JOIN batch b ON b.batch_id = u.batch_id
        CROSS JOIN LATERAL (
            (SELECT w.batch_id, w.seq, w.attempt FROM work w
             WHERE w.stage = 'ready' AND w.number_id = b.number_id AND w.lane = b.lane AND w.turn_group = b.batch_id
             ORDER BY w.wake_at LIMIT $2)
            UNION ALL
            (SELECT w.batch_id, w.seq, w.attempt FROM work w
             WHERE b.recipients <= 1000 AND w.batch_id = b.batch_id AND w.stage = 'ready' AND w.turn_group <> b.batch_id)
        ) w
        LIMIT $2
        "#,
        &batches,
        most
    )
    .fetch_all(connection)
    .await
    .doing("look for work past its end")?;
    let found = rows.into_iter();
    Ok(found.map(|row| (MessageKey { batch_id: BatchId(row.batch_id), seq: row.seq }, row.attempt)).collect())
}
