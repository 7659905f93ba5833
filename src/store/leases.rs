//! Leases: who may send for which number, and how the workers share them.
//!
//! A lease lasts as long as its worker's row, which one small statement renews for any number of numbers. A row that
//! expired is first marked dead, under its lock, and only then are its numbers free: so a renewal that was long under
//! way cannot bring a worker back whose numbers are taken.

use std::{collections::BTreeMap, time::Duration};

use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    domain::ids::NumberId,
    fault::{self, Point},
    store::{Doing as _, Store, StoreError},
};

/// A lease that was just taken.
#[derive(Debug, Clone)]
pub struct Taken {
    /// The number.
    pub number: NumberId,
    /// The fence: random, so that no restored backup issues it again.
    pub lease: Uuid,
    /// Nothing may be sent before this much time has passed: an earlier holder's calls may still fill the second.
    pub not_before: Duration,
    /// What the last holder sent at, where the provider throttled it.
    pub rate: Option<u32>,
    /// How long ago the last holder's calls were, as far as they still count.
    pub calls: Vec<Duration>,
}

/// A lease that its holder gives up after the last call.
#[derive(Debug, Clone)]
pub struct GivenUp {
    /// The number.
    pub number: NumberId,
    /// The holder's fence.
    pub lease: Uuid,
    /// How long ago its calls were, as far as they still count; absent where nobody counted them.
    pub calls: Option<Vec<Duration>>,
}

/// The rate of a number as its holder changed it.
#[derive(Debug, Clone, Copy)]
pub struct NewRate {
    /// The number.
    pub number: NumberId,
    /// The holder's fence.
    pub lease: Uuid,
    /// Messages a second; absent is the limit.
    pub rate: Option<u32>,
}

/// What a number without a limit counts for when workers share.
pub const UNLIMITED_WEIGHT: i64 = 1000;

/// How the numbers stand between the workers.
#[derive(Debug, Default)]
pub struct Shares {
    /// Workers alive, this one included.
    pub workers: i64,
    /// Numbers without a living holder.
    pub free: Vec<NumberId>,
}

/// A new worker enters, alive for `ttl`.
pub async fn greet(connection: &mut PgConnection, worker: Uuid, host: &str, ttl: Duration) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO worker (worker_id, host, expires_at) VALUES ($1, $2, now() + make_interval(secs => $3))",
        worker,
        host,
        ttl.as_secs_f64()
    )
    .execute(connection)
    .await
    .doing("say that the worker lives")?;
    Ok(())
}

/// Renews a worker and with it all its leases; one that expired has lost them and stays so.
pub async fn renew(connection: &mut PgConnection, worker: Uuid, ttl: Duration) -> Result<bool, StoreError> {
    fault::pass(Point::RenewBefore)?;
    let done = sqlx::query!(
        "UPDATE worker SET expires_at = now() + make_interval(secs => $2)
         WHERE worker_id = $1 AND NOT is_dead AND expires_at > now()",
        worker,
        ttl.as_secs_f64()
    )
    .execute(connection)
    .await
    .doing("renew the leases")?;
    Ok(done.rows_affected() == 1)
}

/// The leases of a worker as the database has them: asked for after an answer was lost.
pub async fn held_by(connection: &mut PgConnection, worker: Uuid) -> Result<Vec<(NumberId, Uuid)>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT number_id, lease_id AS "lease_id!" FROM number_lease WHERE worker_id = $1 AND lease_id IS NOT NULL"#,
        worker
    )
    .fetch_all(connection)
    .await
    .doing("read the worker's leases")?;
    Ok(rows.into_iter().map(|row| (NumberId(row.number_id), row.lease_id)).collect())
}

/// Marks workers dead whose row expired, and says how the numbers stand between the living. What it marks counts as
/// free at the next look.
pub async fn shares(connection: &mut PgConnection) -> Result<Shares, StoreError> {
    let row = sqlx::query!(
        r#"
        WITH expired AS (
            SELECT worker_id FROM worker WHERE NOT is_dead AND expires_at < now()
            ORDER BY worker_id FOR UPDATE SKIP LOCKED
        ), buried AS (
            UPDATE worker w SET is_dead = true FROM expired WHERE w.worker_id = expired.worker_id
        )
        SELECT (SELECT count(*) FROM worker WHERE NOT is_dead AND expires_at > now()) AS "workers!",
               ARRAY (
                   SELECT number_id FROM number_lease WHERE worker_id IS NULL
                   UNION ALL
                   SELECT l.number_id FROM worker w JOIN number_lease l ON l.worker_id = w.worker_id WHERE w.is_dead
               ) AS "free!"
        "#
    )
    .fetch_one(connection)
    .await
    .doing("look for numbers without a holder")?;
    Ok(Shares { workers: row.workers, free: row.free.into_iter().map(NumberId).collect() })
}

/// Takes numbers that nobody holds or whose holder is dead. After a death nothing is sent for `wait` after its row expired.
pub async fn take(
    connection: &mut PgConnection,
    worker: Uuid,
    numbers: &[NumberId],
    wait: Duration,
) -> Result<Vec<Taken>, StoreError> {
    fault::pass(Point::LeaseBefore)?;
    let numbers: Vec<i32> = numbers.iter().map(|n| n.0).collect();
    let rows = sqlx::query!(
        r#"
        -- Locked, so that nobody buries and forgets a worker that is about to hold something.
        WITH me AS MATERIALIZED (
            SELECT worker_id FROM worker WHERE worker_id = $1 AND NOT is_dead AND expires_at > now() FOR SHARE
        ), free AS (
            SELECT l.number_id, w.expires_at, l.calls_at
            FROM number_lease l LEFT JOIN worker w ON w.worker_id = l.worker_id
            WHERE l.number_id = ANY ($2) AND (l.worker_id IS NULL OR w.is_dead) AND EXISTS (SELECT FROM me)
            ORDER BY l.number_id FOR UPDATE OF l SKIP LOCKED
        )
        UPDATE number_lease l
        SET lease_id = gen_random_uuid(), worker_id = $1, calls_at = NULL,
            -- greatest() passes over the holder that there was not
            next_send_at = greatest(l.next_send_at, free.expires_at + make_interval(secs => $3))
        FROM free WHERE l.number_id = free.number_id
        RETURNING l.number_id, l.lease_id AS "lease_id!", l.rate_per_s,
                  extract(epoch FROM greatest(now(), least(l.next_send_at, now() + interval '1 minute')) - now())::float8 AS "wait!",
                  ARRAY (SELECT extract(epoch FROM now() - at)::float8 FROM unnest(free.calls_at) at) AS "calls!"
        "#,
        worker,
        &numbers,
        wait.as_secs_f64()
    )
    .fetch_all(connection)
    .await
    .doing("take leases")?;
    fault::pass(Point::LeaseAfter)?;
    let taken = rows.into_iter().map(|row| Taken {
        number: NumberId(row.number_id),
        lease: row.lease_id,
        not_before: Duration::try_from_secs_f64(row.wait).unwrap_or_default(),
        rate: row.rate_per_s.and_then(|rate| u32::try_from(rate).ok()),
        calls: row.calls.into_iter().map(|age| Duration::try_from_secs_f64(age).unwrap_or_default()).collect(),
    });
    Ok(taken.collect())
}

/// Writes rates that changed, of numbers that are still the writer's.
pub async fn write_rates(connection: &mut PgConnection, changes: &[NewRate]) -> Result<(), StoreError> {
    let numbers: Vec<i32> = changes.iter().map(|change| change.number.0).collect();
    let fences: Vec<Uuid> = changes.iter().map(|change| change.lease).collect();
    let rates: Vec<Option<i32>> =
        changes.iter().map(|change| change.rate.and_then(|rate| i32::try_from(rate).ok())).collect();
    sqlx::query!(
        "WITH mine AS (
             SELECT l.number_id, u.rate FROM unnest($1::int[], $2::uuid[], $3::int[]) AS u(number_id, lease_id, rate)
             JOIN number_lease l ON l.number_id = u.number_id AND l.lease_id = u.lease_id
             ORDER BY l.number_id FOR UPDATE OF l
         )
         UPDATE number_lease l SET rate_per_s = mine.rate FROM mine WHERE l.number_id = mine.number_id",
        &numbers,
        &fences,
        &rates as &[Option<i32>]
    )
    .execute(connection)
    .await
    .doing("write the rates of throttled numbers")?;
    Ok(())
}

/// The rates of the numbers that do not send at their limit.
pub async fn rates(store: &Store) -> Result<BTreeMap<NumberId, u32>, StoreError> {
    let rows =
        sqlx::query!(r#"SELECT number_id, rate_per_s AS "rate_per_s!" FROM number_lease WHERE rate_per_s IS NOT NULL"#)
            .fetch_all(store.pool())
            .await
            .doing("read the rates of throttled numbers")?;
    Ok(rows
        .into_iter()
        .filter_map(|row| Some((NumberId(row.number_id), u32::try_from(row.rate_per_s).ok()?)))
        .collect())
}

/// Gives numbers up after their last call. The next holder goes on from the calls, or waits for `rest` where nobody
/// counted them.
pub async fn give_up(connection: &mut PgConnection, leases: &[GivenUp], rest: Duration) -> Result<(), StoreError> {
    let numbers: Vec<i32> = leases.iter().map(|given| given.number.0).collect();
    let fences: Vec<Uuid> = leases.iter().map(|given| given.lease).collect();
    let counted: Vec<bool> = leases.iter().map(|given| given.calls.is_some()).collect();
    let (callers, ages): (Vec<i32>, Vec<f64>) = leases
        .iter()
        .flat_map(|given| given.calls.iter().flatten().map(|age| (given.number.0, age.as_secs_f64())))
        .unzip();
    sqlx::query!(
        "WITH call AS (
             SELECT number_id, array_agg(now() - make_interval(secs => age)) AS calls_at
             FROM unnest($5::int[], $6::float8[]) AS u(number_id, age) GROUP BY number_id
         ), mine AS (
             SELECT l.number_id, call.calls_at, CASE WHEN u.counted THEN 0 ELSE $4::float8 END AS rest
             FROM unnest($1::int[], $2::uuid[], $3::bool[]) AS u(number_id, lease_id, counted)
             JOIN number_lease l ON l.number_id = u.number_id AND l.lease_id = u.lease_id
             LEFT JOIN call ON call.number_id = u.number_id
             ORDER BY l.number_id FOR UPDATE OF l
         )
         UPDATE number_lease l
         SET lease_id = NULL, worker_id = NULL, calls_at = mine.calls_at,
             -- The holder may itself still have had to wait.
             next_send_at = greatest(l.next_send_at, now() + make_interval(secs => mine.rest))
         FROM mine WHERE l.number_id = mine.number_id",
        &numbers,
        &fences,
        &counted,
        rest.as_secs_f64(),
        &callers,
        &ages
    )
    .execute(connection)
    .await
    .doing("give leases up")?;
    fault::pass(Point::GiveUpAfter)?;
    Ok(())
}

/// A worker that holds nothing any more leaves, so that the others share its numbers at once. Those that died and hold
/// nothing any more are forgotten with it.
pub async fn leave(connection: &mut PgConnection, worker: Uuid) -> Result<(), StoreError> {
    sqlx::query!(
        "DELETE FROM worker w
         WHERE (w.worker_id = $1 OR w.is_dead) AND NOT EXISTS (SELECT FROM number_lease l WHERE l.worker_id = w.worker_id)",
        worker
    )
    .execute(connection)
    .await
    .doing("say that the worker has gone")?;
    Ok(())
}
