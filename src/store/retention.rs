//! Dropping what is older than it is kept: whole months of what is partitioned, the rest in chunks.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::store::{Doing as _, StoreError};

/// The first instant that is kept, by the database's clock: the begin of a month.
pub async fn kept_from(connection: &mut PgConnection, months: u32) -> Result<DateTime<Utc>, StoreError> {
    sqlx::query_scalar!(
        r#"SELECT date_trunc('month', (now() AT TIME ZONE 'UTC') - make_interval(months => $1)) AT TIME ZONE 'UTC' AS "from!""#,
        i32::try_from(months).unwrap_or(i32::MAX)
    )
    .fetch_one(connection)
    .await
    .doing("read from when things are kept")
}

/// The months before `kept_from` that still have a partition, the oldest first, by their first instant.
pub async fn old_months(
    connection: &mut PgConnection,
    kept_from: DateTime<Utc>,
) -> Result<Vec<DateTime<Utc>>, StoreError> {
    sqlx::query_scalar!(
        r#"
        SELECT DISTINCT m.first AS "first!"
        FROM pg_inherits i
        JOIN pg_class c ON c.oid = i.inhrelid
        JOIN pg_class p ON p.oid = i.inhparent AND p.relname IN ('batch', 'message', 'failed_message', 'attempt', 'decision', 'sent_group')
        CROSS JOIN LATERAL (SELECT to_timestamp(right(c.relname, 7) || ' +00', 'YYYY_MM TZH') AS first) m
        WHERE m.first < $1
        ORDER BY 1
        "#,
        kept_from
    )
    .fetch_all(connection)
    .await
    .doing("list the months that are kept")
}

/// Drops a month, unless there is work left in it.
pub async fn drop_month(connection: &mut PgConnection, first: DateTime<Utc>) -> Result<bool, StoreError> {
    let dropped =
        sqlx::query_scalar!("SELECT drop_month($1)", first).fetch_one(connection).await.doing("drop a month")?;
    Ok(dropped.unwrap_or_default())
}

/// Deletes tallies of batches that are gone, at most `most`; says how many.
pub async fn delete_tallies(
    connection: &mut PgConnection,
    kept_from: DateTime<Utc>,
    most: i64,
) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "DELETE FROM batch_tally WHERE batch_id IN (
             SELECT t.batch_id FROM batch_tally t
             WHERE t.batch_id < uuid_floor($1) AND NOT EXISTS (SELECT FROM batch b WHERE b.batch_id = t.batch_id)
             ORDER BY t.batch_id LIMIT $2)",
        kept_from,
        most
    )
    .execute(connection)
    .await
    .doing("delete old tallies")?;
    Ok(done.rows_affected())
}

/// Deletes refused recipients of batches that are gone, at most `most`; says how many.
pub async fn delete_rejected(
    connection: &mut PgConnection,
    kept_from: DateTime<Utc>,
    most: i64,
) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "DELETE FROM batch_rejected WHERE (batch_id, row, pointer) IN (
             SELECT r.batch_id, r.row, r.pointer FROM batch_rejected r
             WHERE r.batch_id < uuid_floor($1) AND NOT EXISTS (SELECT FROM batch b WHERE b.batch_id = r.batch_id)
             ORDER BY r.batch_id, r.row, r.pointer LIMIT $2)",
        kept_from,
        most
    )
    .execute(connection)
    .await
    .doing("delete old refusals")?;
    Ok(done.rows_affected())
}

/// Deletes kept callbacks that are old, at most `most`; says how many. They are numbered as they came.
pub async fn delete_callbacks(
    connection: &mut PgConnection,
    kept_from: DateTime<Utc>,
    most: i64,
) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "DELETE FROM callback_kept WHERE id IN (
             SELECT c.id FROM (SELECT id, received_at FROM callback_kept ORDER BY id LIMIT $2) c WHERE c.received_at < $1)",
        kept_from,
        most
    )
    .execute(connection)
    .await
    .doing("delete old callbacks")?;
    Ok(done.rows_affected())
}

/// Deletes messages of recipients that are old, at most `most`; says how many.
pub async fn delete_received(
    connection: &mut PgConnection,
    kept_from: DateTime<Utc>,
    most: i64,
) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "DELETE FROM inbound_message WHERE id IN (
             SELECT i.id FROM account a
             -- each account by its own index
             CROSS JOIN LATERAL (SELECT id FROM inbound_message WHERE account_id = a.id AND received_at < $1
                                 ORDER BY received_at, id LIMIT $2) i
             LIMIT $2)",
        kept_from,
        most
    )
    .execute(connection)
    .await
    .doing("delete old inbound messages")?;
    Ok(done.rows_affected())
}

/// How many blocks the longest partition of the job ids has.
pub async fn job_blocks(connection: &mut PgConnection) -> Result<i64, StoreError> {
    sqlx::query_scalar!(
        r#"SELECT coalesce(max(pg_relation_size(inhrelid) / current_setting('block_size')::bigint), 0) AS "blocks!"
           FROM pg_inherits WHERE inhparent = 'job'::regclass"#
    )
    .fetch_one(connection)
    .await
    .doing("measure the job ids")
}

/// Deletes the job ids of batches that are gone, within these blocks of each partition. They have no index by age,
/// which every job would pay for: they are gone through block by block, once in a long while.
pub async fn delete_jobs(
    connection: &mut PgConnection,
    kept_from: DateTime<Utc>,
    from_block: i64,
    to_block: i64,
) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "DELETE FROM job j
         WHERE j.ctid >= format('(%s,0)', $2::bigint)::tid AND j.ctid < format('(%s,0)', $3::bigint)::tid
           AND j.batch_id < uuid_floor($1) AND NOT EXISTS (SELECT FROM batch b WHERE b.batch_id = j.batch_id)",
        kept_from,
        from_block,
        to_block
    )
    .execute(connection)
    .await
    .doing("delete old job ids")?;
    Ok(done.rows_affected())
}
