//! Callbacks that changed no message: those that wait for one, and those that are kept.

use serde_json::Value;
use sqlx::PgConnection;

use crate::{
    domain::ids::AccountId,
    store::{Doing as _, StoreError},
};

/// A callback, or a part of one, to be kept.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Whose hook it came to.
    pub account: AccountId,
    /// `inbound`, `management`, `unparsed` or `unmatched`.
    pub kind: &'static str,
    /// Its JSON.
    pub body: String,
}

/// A callback that waits.
#[derive(Debug)]
pub struct Waiting {
    /// The row.
    pub id: i64,
    /// Whose hook it came to.
    pub account: AccountId,
    /// As it was stored.
    pub event: Value,
    /// Seconds since it came.
    pub waited_s: i64,
}

/// Keeps callbacks.
pub async fn keep(connection: &mut PgConnection, kept: &[Kept]) -> Result<(), StoreError> {
    if kept.is_empty() {
        return Ok(());
    }
    let accounts: Vec<i32> = kept.iter().map(|k| k.account.0).collect();
    let kinds: Vec<&str> = kept.iter().map(|k| k.kind).collect();
    let bodies: Vec<&str> = kept.iter().map(|k| k.body.as_str()).collect();
    sqlx::query!(
        "INSERT INTO callback_kept (account_id, kind, body) SELECT * FROM unnest($1::int[], $2::text[], $3::text[])",
        &accounts,
        &kinds as &[&str],
        &bodies as &[&str]
    )
    .execute(connection)
    .await
    .doing("keep callbacks")?;
    Ok(())
}

/// Lets callbacks wait a second.
pub async fn wait(connection: &mut PgConnection, waiting: &[(AccountId, Value)]) -> Result<(), StoreError> {
    if waiting.is_empty() {
        return Ok(());
    }
    let accounts: Vec<i32> = waiting.iter().map(|(account, _)| account.0).collect();
    let events: Vec<Value> = waiting.iter().map(|(_, event)| event.clone()).collect();
    sqlx::query!(
        "INSERT INTO callback_waiting (account_id, event, next_try_at)
         SELECT u.account_id, u.event, now() + interval '1 second' FROM unnest($1::int[], $2::jsonb[]) AS u(account_id, event)",
        &accounts,
        &events
    )
    .execute(connection)
    .await
    .doing("let callbacks wait")?;
    Ok(())
}

/// Waiting callbacks that are due, oldest first.
pub async fn waiting(connection: &mut PgConnection, most: i64) -> Result<Vec<Waiting>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT id, account_id, event, extract(epoch FROM now() - created_at)::bigint AS "waited_s!"
           FROM callback_waiting WHERE next_try_at <= now() ORDER BY next_try_at, id LIMIT $1"#,
        most
    )
    .fetch_all(connection)
    .await
    .doing("read waiting callbacks")?;
    let waiting = rows.into_iter().map(|row| Waiting {
        id: row.id,
        account: AccountId(row.account_id),
        event: row.event,
        waited_s: row.waited_s,
    });
    Ok(waiting.collect())
}

/// Ends the waiting of some, and lets others wait longer each time, at most a minute.
pub async fn settle_waiting(connection: &mut PgConnection, done: &[i64], again: &[i64]) -> Result<(), StoreError> {
    sqlx::query!("DELETE FROM callback_waiting WHERE id = ANY ($1)", done)
        .execute(&mut *connection)
        .await
        .doing("end the waiting of callbacks")?;
    sqlx::query!(
        "UPDATE callback_waiting SET tries = tries + 1,
             next_try_at = now() + make_interval(secs => least(60, power(2, tries)::float8)) WHERE id = ANY ($1)",
        again
    )
    .execute(connection)
    .await
    .doing("let callbacks wait longer")?;
    Ok(())
}
