//! What people are to be told: written with the alarms it is about, told in order, then deleted.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::{
    domain::named,
    store::{Doing as _, StoreError},
};

named! {
    /// How people are told.
    pub enum Way {
        /// A POST to a chat tool.
        Http = "http",
        /// A mail.
        Mail = "mail",
    }
}

/// A message that this process, and no other, is to tell now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// Its row; the same however often it is told.
    pub id: i64,
    /// What it says.
    pub text: String,
    /// When it was written.
    pub created_at: DateTime<Utc>,
    /// How often it was tried, this time included.
    pub tries: i32,
    /// How long ago it was written.
    pub age: Duration,
}

/// Owes a message, by each way.
pub async fn insert(connection: &mut PgConnection, ways: &[Way], text: &str) -> Result<(), StoreError> {
    let ways: Vec<String> = ways.iter().map(ToString::to_string).collect();
    sqlx::query!("INSERT INTO notification (way, text) SELECT way, $2 FROM unnest($1::text[]) way", &ways, text)
        .execute(connection)
        .await
        .doing("owe a notification")?;
    Ok(())
}

/// The oldest message of a way, when it is due: the others wait behind it, so that no end is told before its beginning. It
/// is nobody else's for `lease`.
pub async fn take(
    connection: &mut PgConnection,
    way: Way,
    lease: Duration,
) -> Result<Option<Notification>, StoreError> {
    let row = sqlx::query!(
        r#"WITH oldest AS (
               SELECT id, next_try_at FROM notification WHERE way = $1 ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED
           )
           UPDATE notification n SET tries = n.tries + 1, next_try_at = now() + make_interval(secs => $2)
           FROM oldest
           WHERE n.id = oldest.id AND oldest.next_try_at <= now()
             -- The oldest that is not locked is not yet the oldest.
             AND NOT EXISTS (SELECT FROM notification o WHERE o.way = $1 AND o.id < n.id)
           RETURNING n.id, n.text, n.created_at, n.tries, extract(epoch FROM now() - n.created_at)::float8 AS "age!""#,
        way.as_str(),
        lease.as_secs_f64()
    )
    .fetch_optional(connection)
    .await
    .doing("take a notification")?;
    Ok(row.map(|row| Notification {
        id: row.id,
        text: row.text,
        created_at: row.created_at,
        tries: row.tries,
        age: Duration::try_from_secs_f64(row.age).unwrap_or_default(),
    }))
}

/// Tells it again after `wait`.
pub async fn wait(connection: &mut PgConnection, id: i64, wait: Duration) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE notification SET next_try_at = now() + make_interval(secs => $2) WHERE id = $1",
        id,
        wait.as_secs_f64()
    )
    .execute(connection)
    .await
    .doing("put a notification off")?;
    Ok(())
}

/// It was told, or is given up.
pub async fn delete(connection: &mut PgConnection, id: i64) -> Result<(), StoreError> {
    sqlx::query!("DELETE FROM notification WHERE id = $1", id)
        .execute(connection)
        .await
        .doing("delete a notification")?;
    Ok(())
}
