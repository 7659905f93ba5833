//! Leases as the database keeps them: they live as long as their worker's row.

use std::time::Duration;

use campaign_dispatch::{
    domain::ids::NumberId,
    store::{
        leases,
        work::{self, Want},
    },
};
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use super::support::{
    eventually::eventually,
    world::{Plan, World},
};

const TTL: Duration = Duration::from_secs(10);
const WAIT: Duration = Duration::from_secs(1);

fn numbers(count: usize) -> Plan {
    Plan { limits: vec![Some(80); count], ..Plan::default() }
}

/// Lets a worker's row have expired `ago` seconds ago.
async fn expire(connection: &mut PgConnection, worker: Uuid, ago: f64) {
    sqlx::query("UPDATE worker SET expires_at = now() - make_interval(secs => $2) WHERE worker_id = $1")
        .bind(worker)
        .bind(ago)
        .execute(connection)
        .await
        .unwrap();
}

/// Lets a new worker hold a number that nobody held.
pub(crate) async fn hold(connection: &mut PgConnection, worker: Uuid, number: NumberId, ttl: Duration) -> Uuid {
    leases::greet(connection, worker, "a", ttl).await.unwrap();
    leases::take(connection, worker, &[number], WAIT).await.unwrap()[0].lease
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_with_its_worker_and_the_taker_waits_from_there() {
    let world = World::start(numbers(2)).await;
    let mut connection = world.store.connect("test").await.unwrap();
    let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
    leases::greet(&mut connection, first, "a", TTL).await.unwrap();
    leases::greet(&mut connection, second, "b", TTL).await.unwrap();
    let both = [world.number(1), world.number(2)];
    let taken = leases::take(&mut connection, first, &both, WAIT).await.unwrap();
    assert_eq!(taken.iter().filter(|taken| taken.not_before.is_zero()).count(), 2);
    assert!(leases::take(&mut connection, second, &both, WAIT).await.unwrap().is_empty());
    assert!(leases::renew(&mut connection, first, TTL).await.unwrap());

    expire(&mut connection, first, 0.4).await;
    assert!(!leases::renew(&mut connection, first, TTL).await.unwrap(), "an expired worker does not come back");
    // Not found dead yet, so not free yet.
    assert!(leases::take(&mut connection, second, &both, WAIT).await.unwrap().is_empty());
    let shares = leases::shares(&mut connection).await.unwrap();
    assert_eq!((shares.workers, shares.free.len()), (1, 0));
    assert_eq!(leases::shares(&mut connection).await.unwrap().free.len(), 2);
    let again = leases::take(&mut connection, second, &both, WAIT).await.unwrap();
    assert_eq!(again.len(), 2);
    for taken in &again {
        assert!(taken.not_before > Duration::from_millis(200) && taken.not_before < Duration::from_millis(600));
    }
    leases::leave(&mut connection, second).await.unwrap();
    assert_eq!(leases::held_by(&mut connection, second).await.unwrap().len(), 2, "who holds something does not leave");

    // Given up, a number whose calls nobody counted waits for them to leave the window.
    let given = |taken: &leases::Taken, calls| leases::GivenUp { number: taken.number, lease: taken.lease, calls };
    let leases_of: Vec<_> = again.iter().map(|taken| given(taken, None)).collect();
    leases::give_up(&mut connection, &leases_of, Duration::from_secs(1)).await.unwrap();
    leases::leave(&mut connection, second).await.unwrap();
    leases::greet(&mut connection, first, "a", TTL).await.unwrap();
    let third = leases::take(&mut connection, first, &both, WAIT).await.unwrap();
    assert!(third.iter().all(|taken| taken.not_before > Duration::from_millis(800)), "{third:?}");

    // With its calls the next holder goes on from them, once the wait that this one still had is over.
    sqlx::query("UPDATE number_lease SET next_send_at = now()").execute(&mut connection).await.unwrap();
    let ago = |ms| Duration::from_millis(ms);
    let calls = |taken: &leases::Taken| (taken.number == both[0]).then(|| vec![ago(900), ago(500)]);
    let leases_of: Vec<_> = third.iter().map(|taken| given(taken, calls(taken))).collect();
    leases::give_up(&mut connection, &leases_of, Duration::from_secs(1)).await.unwrap();
    let fourth = leases::take(&mut connection, first, &both, WAIT).await.unwrap();
    let of = |number| fourth.iter().find(|taken| taken.number == number).unwrap();
    assert!(of(both[0]).not_before.is_zero() && of(both[1]).not_before > ago(800), "{fourth:?}");
    let [older, younger] = of(both[0]).calls[..] else { panic!("{fourth:?}") };
    assert!(older.abs_diff(younger + ago(400)) < ago(1) && younger >= ago(500), "{fourth:?}");
    assert!(of(both[1]).calls.is_empty());
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM number_lease WHERE calls_at IS NOT NULL")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(kept, 0, "calls are handed on once");
    drop(connection);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_under_way_and_a_burial_exclude_each_other() {
    let world = World::start(numbers(1)).await;
    let mut renewing = world.store.connect("test").await.unwrap();
    let mut other = world.store.connect("test").await.unwrap();
    let worker = Uuid::new_v4();
    hold(&mut renewing, worker, world.number(1), TTL).await;
    // A renewal that began in time and is not committed: the row reads as expired to others, and nobody takes it.
    expire(&mut renewing, worker, -0.3).await;
    let mut tx = renewing.begin().await.unwrap();
    assert!(leases::renew(&mut tx, worker, TTL).await.unwrap());
    eventually("the old end has passed", Duration::from_secs(5), async || {
        sqlx::query_scalar::<_, bool>("SELECT expires_at < now() FROM worker")
            .fetch_one(&mut other)
            .await
            .unwrap()
            .then_some(())
    })
    .await;
    leases::shares(&mut other).await.unwrap();
    tx.commit().await.unwrap();
    assert!(leases::shares(&mut other).await.unwrap().free.is_empty());
    // A burial that comes first: the renewal, which began before the end, waits for it and finds its worker dead.
    expire(&mut other, worker, -0.3).await;
    let mut tx = renewing.begin().await.unwrap();
    sqlx::query("SELECT now()").execute(&mut *tx).await.unwrap();
    eventually("a burial", Duration::from_secs(5), async || {
        leases::shares(&mut other).await.unwrap();
        sqlx::query_scalar::<_, bool>("SELECT is_dead FROM worker").fetch_one(&mut other).await.unwrap().then_some(())
    })
    .await;
    assert!(!leases::renew(&mut tx, worker, TTL).await.unwrap());
    drop(tx);
    drop((renewing, other));
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_under_a_lost_lease_or_a_dead_worker_takes_nothing() {
    let world = World::start(numbers(1)).await;
    let number = world.number(1);
    world.batch(number, "offer", 0, 60).await;
    let mut connection = world.store.connect("test").await.unwrap();
    let worker = Uuid::new_v4();
    let lease = hold(&mut connection, worker, number, TTL).await;
    let group = work::look(&mut connection, &[number], 10).await.unwrap()[0];
    let want = |lease| Want { number, lease, lane: group.lane, group: group.group, most: 5 };
    let mut claim = async |lease| {
        work::claim(&mut connection, &[want(lease)], usize::MAX, Uuid::new_v4(), TTL).await.unwrap().messages.len()
    };
    assert_eq!(claim(lease).await, 5);
    assert_eq!(claim(Uuid::new_v4()).await, 0);
    let mut other = world.store.connect("test").await.unwrap();
    expire(&mut other, worker, 0.1).await;
    assert_eq!(claim(lease).await, 0);
    drop((connection, other));
    sqlx::query("UPDATE work SET stage = 'ready'").execute(world.store.pool()).await.unwrap();
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_row_expired_enters_again_under_a_new_name_and_sends_on() {
    let world = World::start_with(numbers(2), &[("DISPATCH__LEASE__RENEW_S", "1")]).await;
    let worker = world.work();
    let mut connection = world.database.connect().await;
    world.batch(world.number(1), "offer", 0, 10).await;
    world.all_called(Duration::from_secs(30)).await;
    let before: Uuid = sqlx::query_scalar("SELECT worker_id FROM worker").fetch_one(&mut connection).await.unwrap();
    expire(&mut connection, before, 0.1).await;
    eventually("a new life with both numbers", Duration::from_secs(30), async || {
        let held: i64 = sqlx::query_scalar("SELECT count(*) FROM number_lease WHERE worker_id <> $1")
            .bind(before)
            .fetch_one(&mut connection)
            .await
            .unwrap();
        (held == 2).then_some(())
    })
    .await;
    world.batch(world.number(1), "offer", 10_000, 10).await;
    let counts = world.all_called(Duration::from_secs(30)).await;
    assert_eq!((counts.sent(), world.ledger().totals.doubled), (20, 0));
    worker.drain().await;
    let left: i64 =
        sqlx::query_scalar("SELECT (SELECT count(*) FROM worker) + (SELECT count(worker_id) FROM number_lease)")
            .fetch_one(&mut connection)
            .await
            .unwrap();
    assert_eq!(left, 0, "a worker that drains leaves nothing behind");
    world.finish().await;
}
