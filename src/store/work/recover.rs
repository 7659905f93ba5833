//! Work that may have been called on a timeline that the database has lost.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::{
    domain::ids::{BatchId, HoldId, MessageKey},
    store::{Doing as _, StoreError},
};

/// Until when something may have been sent that is not known of.
#[derive(Debug, Clone, Copy)]
pub struct Until {
    /// When the hold over everything was opened that a lost timeline or a silence asks for; else now.
    pub at: DateTime<Utc>,
    /// That hold.
    pub hold: Option<HoldId>,
}

/// Reads until when. Nothing was sent after the hold was opened, so what became due since then was not called.
pub async fn until(connection: &mut PgConnection) -> Result<Until, StoreError> {
    let row = sqlx::query!(
        r#"SELECT now() AS "now!", h.id AS "id?", h.since AS "since?"
           FROM (SELECT 1) one LEFT JOIN hold h
             ON h.scope = 'everything' AND h.cause IN ('timeline', 'gap') AND h.closed_at IS NULL
           ORDER BY h.since LIMIT 1"#
    )
    .fetch_one(connection)
    .await
    .doing("look for the hold over everything")?;
    Ok(Until { at: row.since.unwrap_or(row.now), hold: row.id.map(HoldId) })
}

/// Work that may have been called between `since` and `until`, in key order, after `after`: what was being called, what
/// was due and what a hold that somebody may have closed kept from being sent. Calls that are in doubt already are among
/// them once, because the policy may have called again.
pub async fn doubtful(
    connection: &mut PgConnection,
    since: DateTime<Utc>,
    until: DateTime<Utc>,
    after: MessageKey,
    most: i64,
) -> Result<Vec<(MessageKey, i16)>, StoreError> {
    let rows = sqlx::query!(
        "SELECT w.batch_id, w.seq, w.attempt FROM work w JOIN batch b ON b.batch_id = w.batch_id
         WHERE (w.batch_id, w.seq) > ($3, $4) AND b.created_at <= $2
           AND CASE w.stage
                   WHEN 'calling' THEN true
                   WHEN 'ready' THEN w.wake_at <= $2 AND b.expires_at > $1
                   WHEN 'parked' THEN b.send_at <= $2 AND b.expires_at > $1
                   ELSE w.attempt = (SELECT m.attempt FROM message m WHERE m.batch_id = w.batch_id AND m.seq = w.seq)
               END
         ORDER BY w.batch_id, w.seq LIMIT $5",
        since,
        until,
        after.batch_id.0,
        after.seq,
        most
    )
    .fetch_all(connection)
    .await
    .doing("look for work that may have been called")?;
    let found = rows.into_iter();
    Ok(found.map(|row| (MessageKey { batch_id: BatchId(row.batch_id), seq: row.seq }, row.attempt)).collect())
}
