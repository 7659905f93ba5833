//! Leases: who may send for which number, and how the workers share them.

use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    domain::ids::NumberId,
    store::{Doing as _, StoreError},
};

/// A lease that was just taken.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    /// The number.
    pub number: NumberId,
    /// The fence: random, so that no restored backup issues it again.
    pub lease: Uuid,
    /// Nothing may be sent before this much time has passed: an earlier holder's calls may still fill the second.
    pub not_before: Duration,
}

/// A number nobody holds, or one of ours, with its weight.
#[derive(Debug, Clone, Copy)]
pub struct Weighed {
    /// The number.
    pub number: NumberId,
    /// Its limit, or [`UNLIMITED_WEIGHT`].
    pub weight: i64,
}

/// What a number without a limit counts for when workers share.
pub const UNLIMITED_WEIGHT: i64 = 1000;

/// How the numbers stand between the workers.
#[derive(Debug, Default)]
pub struct Shares {
    /// Workers alive, this one included.
    pub workers: i64,
    /// The weight of all numbers.
    pub total: i64,
    /// Numbers without a living holder.
    pub free: Vec<NumberId>,
}

/// Says that a worker lives.
pub async fn greet(connection: &mut PgConnection, worker: Uuid, host: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO worker (worker_id, host) VALUES ($1, $2) ON CONFLICT (worker_id) DO UPDATE SET seen_at = now()",
        worker,
        host
    )
    .execute(connection)
    .await
    .doing("say that the worker lives")?;
    Ok(())
}

/// Says that a worker has gone, so that the others share its numbers at once.
pub async fn leave(connection: &mut PgConnection, worker: Uuid) -> Result<(), StoreError> {
    sqlx::query!("DELETE FROM worker WHERE worker_id = $1 OR seen_at < now() - interval '1 day'", worker)
        .execute(connection)
        .await
        .doing("say that the worker has gone")?;
    Ok(())
}

/// Renews all leases of a worker in one statement; those not returned are lost.
pub async fn renew(
    connection: &mut PgConnection,
    worker: Uuid,
    ttl: Duration,
) -> Result<Vec<(NumberId, Uuid)>, StoreError> {
    let rows = sqlx::query!(
        r#"UPDATE number_lease SET expires_at = now() + make_interval(secs => $2)
           WHERE worker_id = $1 AND lease_id IS NOT NULL AND expires_at > now() RETURNING number_id, lease_id AS "lease_id!""#,
        worker,
        ttl.as_secs_f64()
    )
    .fetch_all(connection)
    .await
    .doing("renew leases")?;
    Ok(rows.into_iter().map(|row| (NumberId(row.number_id), row.lease_id)).collect())
}

/// How the numbers stand between the workers seen within `ttl`.
pub async fn shares(connection: &mut PgConnection, ttl: Duration) -> Result<Shares, StoreError> {
    let row = sqlx::query!(
        r#"SELECT (SELECT count(*) FROM worker WHERE seen_at > now() - make_interval(secs => $1)) AS "workers!",
                  (SELECT coalesce(sum(coalesce(limit_per_s, $2)), 0)::bigint FROM business_number) AS "total!""#,
        ttl.as_secs_f64(),
        i32::try_from(UNLIMITED_WEIGHT).unwrap_or(i32::MAX)
    )
    .fetch_one(&mut *connection)
    .await
    .doing("count workers")?;
    let free = sqlx::query_scalar!("SELECT number_id FROM number_lease WHERE expires_at < now() ORDER BY random()")
        .fetch_all(connection)
        .await
        .doing("look for numbers without a holder")?;
    Ok(Shares { workers: row.workers, total: row.total, free: free.into_iter().map(NumberId).collect() })
}

/// Takes numbers whose lease has expired or was given up. After an expiry nothing is sent for `wait` after its end.
pub async fn take(
    connection: &mut PgConnection,
    worker: Uuid,
    numbers: &[NumberId],
    ttl: Duration,
    wait: Duration,
) -> Result<Vec<Taken>, StoreError> {
    let numbers: Vec<i32> = numbers.iter().map(|n| n.0).collect();
    let rows = sqlx::query!(
        r#"
        WITH free AS (
            SELECT number_id FROM number_lease WHERE number_id = ANY ($2) AND expires_at < now()
            ORDER BY number_id FOR UPDATE SKIP LOCKED
        )
        UPDATE number_lease l
        SET lease_id = gen_random_uuid(), worker_id = $1, expires_at = now() + make_interval(secs => $3),
            next_send_at = greatest(l.next_send_at, CASE WHEN l.lease_id IS NULL THEN l.next_send_at
                                                         ELSE l.expires_at + make_interval(secs => $4) END)
        FROM free WHERE l.number_id = free.number_id
        RETURNING l.number_id, l.lease_id AS "lease_id!",
                  extract(epoch FROM greatest(now(), least(l.next_send_at, now() + interval '1 minute')) - now())::float8 AS "wait!"
        "#,
        worker,
        &numbers,
        ttl.as_secs_f64(),
        wait.as_secs_f64()
    )
    .fetch_all(connection)
    .await
    .doing("take leases")?;
    let taken = rows.into_iter().map(|row| Taken {
        number: NumberId(row.number_id),
        lease: row.lease_id,
        not_before: Duration::try_from_secs_f64(row.wait).unwrap_or_default(),
    });
    Ok(taken.collect())
}

/// Gives a number up after its last call: the next holder waits until that call has left the window.
pub async fn give_up(
    connection: &mut PgConnection,
    number: NumberId,
    lease: Uuid,
    rest: Duration,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE number_lease SET lease_id = NULL, worker_id = NULL, expires_at = '-infinity',
             next_send_at = now() + make_interval(secs => $3)
         WHERE number_id = $1 AND lease_id = $2",
        number.0,
        lease,
        rest.as_secs_f64()
    )
    .execute(connection)
    .await
    .doing("give a lease up")?;
    Ok(())
}
