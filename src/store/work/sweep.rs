//! Work that waits for something other than its turn: lapsed claims, ended holds, cancelled batches.

use sqlx::PgConnection;

use crate::{
    domain::{
        ids::{BatchId, HoldId, MessageKey, NumberId},
        message::Late,
    },
    fault::{self, Point},
    store::{Doing as _, StoreError},
};

/// A claim whose deadline passed without an outcome.
#[derive(Debug, Clone, Copy)]
pub struct Lapsed {
    /// The message.
    pub key: MessageKey,
    /// The call that may have been made.
    pub attempt: i16,
}

/// Claims past their deadline, at most `most`: their worker died, froze or lost the database.
pub async fn lapsed(connection: &mut PgConnection, most: i64) -> Result<Vec<Lapsed>, StoreError> {
    let rows = sqlx::query!(
        "SELECT batch_id, seq, attempt FROM work
         WHERE stage <> 'ready' AND stage = 'calling' AND wake_at <= now() ORDER BY wake_at LIMIT $1",
        most
    )
    .fetch_all(connection)
    .await
    .doing("look for lapsed claims")?;
    let lapsed = rows
        .into_iter()
        .map(|row| Lapsed { key: MessageKey { batch_id: BatchId(row.batch_id), seq: row.seq }, attempt: row.attempt });
    Ok(lapsed.collect())
}

/// Parked work whose message's life has ended, at most `most`: to be settled as expired.
pub async fn parked_expired(connection: &mut PgConnection, most: i64) -> Result<Vec<Lapsed>, StoreError> {
    let rows = sqlx::query!(
        "SELECT w.batch_id, w.seq, w.attempt FROM work w JOIN batch b ON b.batch_id = w.batch_id
         WHERE w.stage <> 'ready' AND w.stage = 'parked' AND w.wake_at <= now() AND b.expires_at <= now()
         ORDER BY w.wake_at LIMIT $1",
        most
    )
    .fetch_all(connection)
    .await
    .doing("look for expired work")?;
    let expired = rows
        .into_iter()
        .map(|row| Lapsed { key: MessageKey { batch_id: BatchId(row.batch_id), seq: row.seq }, attempt: row.attempt });
    Ok(expired.collect())
}

/// Uncalled work whose recipient's window has closed, or never opens, at most `most`: to be settled as expired.
pub async fn closed(connection: &mut PgConnection, most: i64) -> Result<Vec<(MessageKey, i16, Late)>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT w.batch_id, w.seq, w.attempt, work_late(w.until, b.expires_at) AS "late!"
           FROM (SELECT * FROM work WHERE until <= now() AND stage IN ('ready', 'parked') ORDER BY until LIMIT $1) w
           JOIN batch b ON b.batch_id = w.batch_id"#,
        most
    )
    .fetch_all(connection)
    .await
    .doing("look for closed windows")?;
    let closed = rows.into_iter().map(|row| {
        let key = MessageKey { batch_id: BatchId(row.batch_id), seq: row.seq };
        (key, row.attempt, row.late.parse().unwrap_or(Late::Window))
    });
    Ok(closed.collect())
}

/// Gives parked work back whose hold has ended by the clock; the claim parks it again if another covers it. The numbers
/// concerned are returned, for a wake-up.
pub async fn unpark_due(connection: &mut PgConnection, most: i64) -> Result<Vec<NumberId>, StoreError> {
    let rows = sqlx::query_scalar!(
        "WITH due AS (
             SELECT batch_id, seq FROM work WHERE stage <> 'ready' AND stage = 'parked' AND wake_at <= now()
             ORDER BY wake_at LIMIT $1 FOR UPDATE SKIP LOCKED
         )
         UPDATE work w SET stage = 'ready', hold_id = NULL, wake_at = now() FROM due
         WHERE w.batch_id = due.batch_id AND w.seq = due.seq RETURNING w.number_id",
        most
    )
    .fetch_all(connection)
    .await
    .doing("give parked work back")?;
    Ok(distinct(rows))
}

/// Gives back at most `most` rows parked under a closed hold.
pub async fn unpark_hold(
    connection: &mut PgConnection,
    hold: HoldId,
    most: i64,
) -> Result<(usize, Vec<NumberId>), StoreError> {
    let rows = sqlx::query_scalar!(
        "WITH due AS (
             SELECT batch_id, seq FROM work WHERE hold_id = $1 ORDER BY batch_id, seq LIMIT $2 FOR UPDATE SKIP LOCKED
         )
         UPDATE work w SET stage = 'ready', hold_id = NULL, wake_at = now() FROM due
         WHERE w.batch_id = due.batch_id AND w.seq = due.seq RETURNING w.number_id",
        hold.0,
        most
    )
    .fetch_all(connection)
    .await
    .doing("give held work back")?;
    fault::pass(Point::UnparkAfter)?;
    Ok((rows.len(), distinct(rows)))
}

/// Uncalled work of cancelled batches, at most `most`, to be settled as cancelled.
pub async fn of_cancelled(connection: &mut PgConnection, most: i64) -> Result<Vec<(MessageKey, i16)>, StoreError> {
    let rows = sqlx::query!(
        // The inner limit makes it go from the batches to their work, never over all work.
        "SELECT w.batch_id, w.seq, w.attempt FROM batch b
         CROSS JOIN LATERAL (SELECT w.batch_id, w.seq, w.attempt FROM work w
                             WHERE w.batch_id = b.batch_id AND w.stage IN ('ready', 'parked') LIMIT $1) w
         WHERE b.cancelled_at > now() - interval '1 day' LIMIT $1",
        most
    )
    .fetch_all(connection)
    .await
    .doing("look for cancelled work")?;
    Ok(rows
        .into_iter()
        .map(|row| (MessageKey { batch_id: BatchId(row.batch_id), seq: row.seq }, row.attempt))
        .collect())
}

fn distinct(mut numbers: Vec<i32>) -> Vec<NumberId> {
    numbers.sort_unstable();
    numbers.dedup();
    numbers.into_iter().map(NumberId).collect()
}
