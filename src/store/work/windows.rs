//! Work whose recipients have hours: `wake_at` is when the window of its recipient opens, `until` when that closes.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use crate::{
    domain::{
        address::Address,
        ids::{BatchId, MessageKey},
        schedule::{Finder, Hours, Opening},
    },
    store::{Doing as _, StoreError},
};

/// The `until` of work whose recipient has no window: long past.
const NEVER: DateTime<Utc> = DateTime::UNIX_EPOCH;

/// Messages of a batch that have no window yet.
#[derive(Debug)]
pub struct Unplaced {
    batch: BatchId,
    hours: Hours,
    send_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    messages: Vec<(i32, Address, Option<String>)>,
}

/// A message with its window; without one it is not sent.
#[derive(Debug, Clone, Copy)]
pub struct Placed {
    key: MessageKey,
    opening: Option<Opening>,
}

impl Unplaced {
    /// Finds the windows. Those that are open already and close after the end need none.
    pub fn place(self) -> Vec<Placed> {
        let mut finder = Finder::new(&self.hours, self.send_at, self.expires_at);
        let placed = self.messages.iter().map(|(seq, recipient, time_zone)| Placed {
            key: MessageKey { batch_id: self.batch, seq: *seq },
            opening: finder.find(recipient, time_zone.as_deref()),
        });
        let always = Some(Opening { at: self.send_at, until: None });
        placed.filter(|placed| placed.opening != always).collect()
    }
}

/// The messages of a batch after this one, if the batch has hours.
pub async fn read(connection: &mut PgConnection, batch: BatchId, after: i32) -> Result<Option<Unplaced>, StoreError> {
    let found = sqlx::query!(
        r#"SELECT windows AS "windows!: Json<Hours>", send_at, expires_at FROM batch
           WHERE batch_id = $1 AND windows IS NOT NULL"#,
        batch.0
    )
    .fetch_optional(&mut *connection)
    .await
    .doing("read the windows of a batch")?;
    let Some(found) = found else {
        return Ok(None);
    };
    let rows =
        sqlx::query!("SELECT seq, recipient, time_zone FROM message WHERE batch_id = $1 AND seq > $2", batch.0, after)
            .fetch_all(connection)
            .await
            .doing("read whose windows are to be found")?;
    let messages = rows.into_iter().map(|row| (row.seq, Address::from_store(row.recipient), row.time_zone));
    let (hours, send_at, expires_at) = (found.windows.0, found.send_at, found.expires_at);
    Ok(Some(Unplaced { batch, hours, send_at, expires_at, messages: messages.collect() }))
}

/// Writes the windows of messages whose work is ready.
pub async fn write(connection: &mut PgConnection, placed: &[Placed]) -> Result<(), StoreError> {
    if placed.is_empty() {
        return Ok(());
    }
    let opens: Vec<Option<DateTime<Utc>>> = placed.iter().map(|p| p.opening.map(|opening| opening.at)).collect();
    let until: Vec<Option<DateTime<Utc>>> =
        placed.iter().map(|p| p.opening.map_or(Some(NEVER), |opening| opening.until)).collect();
    sqlx::query!(
        "UPDATE work w SET wake_at = greatest(w.wake_at, u.opens), until = u.until
         FROM unnest($1::uuid[], $2::int[], $3::timestamptz[], $4::timestamptz[]) AS u(batch_id, seq, opens, until)
         WHERE w.batch_id = u.batch_id AND w.seq = u.seq",
        &placed.iter().map(|p| p.key.batch_id.0).collect::<Vec<Uuid>>(),
        &placed.iter().map(|p| p.key.seq).collect::<Vec<i32>>(),
        &opens as &[Option<DateTime<Utc>>],
        &until as &[Option<DateTime<Utc>>]
    )
    .execute(connection)
    .await
    .doing("write the windows of messages")?;
    Ok(())
}

/// Gives work that came back the windows that it had, where its batch has hours.
pub(in crate::store) async fn restore(tx: &mut PgConnection, keys: &[MessageKey]) -> Result<(), StoreError> {
    if keys.is_empty() {
        return Ok(());
    }
    let rows = sqlx::query!(
        r#"SELECT m.batch_id, m.seq, m.recipient, m.time_zone, b.windows AS "windows!: Json<Hours>", b.send_at, b.expires_at
           FROM unnest($1::uuid[], $2::int[]) AS u(batch_id, seq)
           JOIN message m ON m.batch_id = u.batch_id AND m.seq = u.seq
           JOIN batch b ON b.batch_id = u.batch_id
           WHERE b.windows IS NOT NULL"#,
        &keys.iter().map(|key| key.batch_id.0).collect::<Vec<Uuid>>(),
        &keys.iter().map(|key| key.seq).collect::<Vec<i32>>()
    )
    .fetch_all(&mut *tx)
    .await
    .doing("read the windows of work that comes back")?;
    let placed: Vec<Placed> = rows
        .into_iter()
        .flat_map(|row| {
            let message = (row.seq, Address::from_store(row.recipient), row.time_zone);
            let (hours, batch) = (row.windows.0, BatchId(row.batch_id));
            let (send_at, expires_at) = (row.send_at, row.expires_at);
            Unplaced { batch, hours, send_at, expires_at, messages: vec![message] }.place()
        })
        .collect();
    write(tx, &placed).await
}
