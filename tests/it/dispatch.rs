//! Claim, pace, send, settle against the simulator.

use std::{sync::Arc, time::Duration};

use campaign_dispatch::{
    domain::lane::Lane,
    simulator::{Fault, FaultAction, FaultMatch},
};

use super::support::{
    eventually::eventually,
    world::{Plan, World},
};

const LONG: Duration = Duration::from_mins(1);

fn unlimited(numbers: usize) -> Plan {
    Plan { limits: vec![None; numbers], ..Plan::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_is_called_once() {
    let world = World::start(unlimited(2)).await;
    let worker = world.work();
    world.batch(world.number(1), "offer", 0, 3000).await;
    world.batch(world.number(2), "order", 10_000, 20).await;
    world.batch(world.number(2), "order", 20_000, 1).await;
    let counts = world.all_called(LONG).await;
    assert_eq!(counts.sent(), 3021);
    let ledger = world.ledger();
    assert_eq!((ledger.totals.accepted, ledger.totals.doubled), (3021, 0));
    worker.drain().await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_numbers_have_work_only_so_much_is_claimed_ahead() {
    const NUMBERS: usize = 50;
    // What may wait before another claim, that claim, and the open calls.
    const MOST: i64 = 4_000 + 2_000 + 5;
    let mut world = World::start(unlimited(NUMBERS)).await;
    Arc::make_mut(&mut world.settings).dispatch.in_flight_max = 5;
    world.simulator.add_fault(Fault { when: FaultMatch::default(), action: FaultAction::Slow(2_000) });
    for n in 1..=NUMBERS {
        world.batch(world.number(n), "offer", u32::try_from(n).unwrap() * 10_000, 200).await;
    }
    let worker = world.work();
    let mut before = 0;
    let claimed = eventually("no more is claimed", LONG, async || {
        let claimed: i64 = sqlx::query_scalar("SELECT count(*) FROM work WHERE stage = 'calling'")
            .fetch_one(world.store.pool())
            .await
            .unwrap();
        let is_all = claimed >= 4_000 && claimed == before;
        before = claimed;
        is_all.then_some(claimed)
    })
    .await;
    assert!(claimed <= MOST, "{claimed}");

    let password = world.batch_in(Lane::Authentication, world.number(NUMBERS), "order", 900_000, 1).await;
    eventually("authentication is claimed all the same", LONG, async || {
        let waits: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT FROM work WHERE batch_id = $1 AND stage = 'ready')")
                .bind(password.0)
                .fetch_one(world.store.pool())
                .await
                .unwrap();
        (!waits).then_some(())
    })
    .await;
    world.simulator.clear_faults(None);
    worker.drain().await;
    assert_eq!(world.ledger().totals.doubled, 0);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn authentication_goes_out_while_a_newsletter_fills_the_open_calls() {
    let mut world = World::start(Plan { limits: vec![None, Some(20), None], ..Plan::default() }).await;
    let settings = Arc::make_mut(&mut world.settings);
    (settings.dispatch.in_flight_max, settings.dispatch.drain_s, settings.provider.timeout_ms) = (80, 1, 120_000);
    let newsletter = FaultMatch { template: Some("offer".to_owned()), ..FaultMatch::default() };
    world.simulator.add_fault(Fault { when: newsletter, action: FaultAction::Slow(120_000) });
    // Two seconds' worth of the second number's limit are all it may have open; the first fills the rest.
    world.batch(world.number(2), "offer", 10_000, 100).await;
    let worker = world.work();
    eventually("the second number is full", LONG, async || (world.ledger().totals.calls == 36).then_some(())).await;
    world.batch(world.number(1), "offer", 20_000, 100).await;
    eventually("the process is full", LONG, async || (world.ledger().totals.calls == 72).then_some(())).await;
    for n in 1..=3 {
        world.batch_in(Lane::Authentication, world.number(n), "order", 900_000, 1).await;
    }
    eventually("the passwords are sent", LONG, async || (world.counts().await.sent() == 3).then_some(())).await;
    assert_eq!(world.ledger().totals.calls, 75, "and nothing else");
    worker.drain().await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_share_the_numbers_and_no_second_holds_more_than_the_limit() {
    let world = World::start(Plan { limits: vec![Some(80); 4], ..Plan::default() }).await;
    for n in 1..=4 {
        world.batch(world.number(n), "offer", u32::try_from(n).unwrap() * 10_000, 400).await;
    }
    let first = world.work();
    eventually("the first worker sends", LONG, async || (world.ledger().totals.accepted > 100).then_some(())).await;
    let second = world.work();
    world.all_called(LONG).await;
    let holders: i64 = sqlx::query_scalar("SELECT count(DISTINCT worker_id) FROM number_lease")
        .fetch_one(&mut world.database.connect().await)
        .await
        .unwrap();
    assert_eq!(holders, 2, "the second worker took its share");
    let ledger = world.ledger();
    assert_eq!((ledger.totals.accepted, ledger.totals.doubled), (1600, 0));
    for (id, number) in &ledger.numbers {
        assert!(number.worst_second <= 80, "{id}: {number:?}");
    }
    first.drain().await;
    second.drain().await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_batch_does_not_wait_behind_a_large_one() {
    let world = World::start(Plan { limits: vec![Some(80)], ..Plan::default() }).await;
    let number = world.number(1);
    world.batch(number, "offer", 0, 2000).await;
    let small = world.batch(number, "offer", 50_000, 60).await;
    let worker = world.work();
    let mut connection = world.database.connect().await;
    eventually("the small batch is done", Duration::from_secs(5), async || {
        let left: i32 = sqlx::query_scalar("SELECT pending FROM batch_tally WHERE batch_id = $1")
            .bind(small.0)
            .fetch_one(&mut connection)
            .await
            .unwrap();
        (left == 0).then_some(())
    })
    .await;
    worker.drain().await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_leaves_nothing_in_calling_and_another_worker_goes_on() {
    let world = World::start(Plan { limits: vec![Some(80), None], ..Plan::default() }).await;
    world.simulator.add_fault(Fault { when: FaultMatch::default(), action: FaultAction::Slow(300) });
    world.batch(world.number(1), "offer", 0, 200).await;
    world.batch(world.number(2), "offer", 10_000, 2000).await;
    let first = world.work();
    eventually("calls are open", LONG, async || (world.ledger().totals.calls > 50).then_some(())).await;
    first.drain().await;
    let mut connection = world.database.connect().await;
    let calling: i64 = sqlx::query_scalar("SELECT count(*) FROM work WHERE stage <> 'ready'")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(calling, 0);
    let second = world.work();
    let counts = world.all_called(LONG).await;
    assert_eq!((counts.sent(), world.ledger().totals.doubled), (2200, 0));
    second.drain().await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_token_parks_everything_and_fails_nothing() {
    let world = World::start(Plan { limits: vec![None], ..Plan::default() }).await;
    let fault = world.simulator.add_fault(Fault {
        when: FaultMatch { after_calls: 100, ..FaultMatch::default() },
        action: FaultAction::TokenExpired,
    });
    world.batch(world.number(1), "offer", 0, 3000).await;
    let worker = world.work();
    let mut connection = world.database.connect().await;
    let mut held = world.database.connect().await;
    let (scope, cause) = eventually("a hold is open", LONG, async || {
        sqlx::query_as::<_, (String, String)>("SELECT scope, cause FROM hold WHERE closed_at IS NULL")
            .fetch_optional(&mut held)
            .await
            .unwrap()
    })
    .await;
    assert!(scope.starts_with("account:") && cause == "190", "{scope} {cause}");
    eventually("nothing is being called", LONG, async || {
        let calling: i64 =
            sqlx::query_scalar("SELECT count(*) FROM work WHERE stage = 'calling'").fetch_one(&mut held).await.unwrap();
        (calling == 0).then_some(())
    })
    .await;
    let charged: i64 =
        sqlx::query_scalar("SELECT count(*) FROM work WHERE charged > 0").fetch_one(&mut connection).await.unwrap();
    let counts = world.counts().await;
    assert_eq!((counts.of("failed"), counts.of("uncertain"), charged), (0, 0, 0));
    // The cause is mended, and a person closes the hold.
    world.simulator.clear_faults(Some(fault));
    sqlx::query("UPDATE hold SET closed_at = now(), closed_by = 'test'").execute(&mut connection).await.unwrap();
    sqlx::query("UPDATE work SET stage = 'ready', hold_id = NULL, wake_at = now() WHERE stage = 'parked'")
        .execute(&mut connection)
        .await
        .unwrap();
    let counts = world.all_called(LONG).await;
    assert_eq!((counts.sent(), world.ledger().totals.doubled), (3000, 0));
    worker.drain().await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_end_as_their_class_says() {
    let world = World::start(Plan { limits: vec![None], suffix_faults: false }).await;
    let recipient = |suffix: &str| FaultMatch { suffix: Some(suffix.to_owned()), ..FaultMatch::default() };
    // Throttled once, then fine; refused for good; taken and cut; an answer that is no answer.
    world
        .simulator
        .add_fault(Fault { when: FaultMatch { count: Some(1), ..recipient("0001") }, action: FaultAction::Throttle });
    world.simulator.add_fault(Fault { when: recipient("0002"), action: FaultAction::Error(131_021, None) });
    world.simulator.add_fault(Fault { when: recipient("0003"), action: FaultAction::DropAfterAccept });
    world.simulator.add_fault(Fault { when: recipient("0004"), action: FaultAction::Html502 });
    let batch = world.batch(world.number(1), "offer", 0, 60).await;
    let worker = world.work();
    let counts = world.all_called(LONG).await;
    assert_eq!((counts.sent(), counts.of("failed"), counts.of("uncertain")), (57, 1, 2));
    let mut connection = world.database.connect().await;
    let failed: (i32, String) = sqlx::query_as("SELECT seq, code FROM failed_message WHERE batch_id = $1")
        .bind(batch.0)
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(failed, (2, "131021".to_owned()));
    let throttled: (i16, i64) = sqlx::query_as(
        "SELECT m.attempt, (SELECT count(*) FROM attempt a WHERE a.batch_id = m.batch_id AND a.seq = m.seq) FROM message m WHERE m.batch_id = $1 AND m.seq = 1",
    )
    .bind(batch.0)
    .fetch_one(&mut connection)
    .await
    .unwrap();
    // A starved machine may lose a claim before its call: that is an attempt too, without a row.
    assert!(throttled.0 >= 2 && throttled.1 == 1, "one refused call, one accepted: {throttled:?}");
    let totals = world.ledger().totals;
    assert_eq!((totals.calls, totals.doubled), (61, 0), "each once, and the throttled one again");
    worker.drain().await;
    world.finish().await;
}

async fn rate(world: &World) -> Option<i32> {
    sqlx::query_scalar("SELECT rate_per_s FROM number_lease").fetch_one(world.store.pool()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_number_goes_slower_and_the_next_worker_goes_on_at_its_rate() {
    let world = World::start(Plan { limits: vec![Some(80)], ..Plan::default() }).await;
    world.simulator.add_fault(Fault { when: FaultMatch::default(), action: FaultAction::Throttle429 });
    let first = world.work();
    world.batch(world.number(1), "offer", 0, 80).await;
    eventually("a tenth of the limit", LONG, async || (rate(&world).await == Some(8)).then_some(())).await;
    first.drain().await;
    assert_eq!(rate(&world).await, Some(8));
    let charged: Option<i16> =
        sqlx::query_scalar("SELECT max(charged) FROM work").fetch_one(world.store.pool()).await.unwrap();
    let counts = world.counts().await;
    assert_eq!((counts.of("pending"), charged), (80, Some(0)), "a throttled message waits and pays nothing");

    world.simulator.clear_faults(None);
    world.simulator.reset();
    sqlx::query("UPDATE work SET wake_at = now()").execute(world.store.pool()).await.unwrap();
    let second = world.work();
    let counts = world.all_called(LONG).await;
    assert_eq!(counts.sent(), 80);
    let ledger = world.ledger();
    let worst = ledger.numbers.values().map(|number| number.worst_second_any).max();
    assert!(worst.is_some_and(|worst| worst <= 8), "{:?}", ledger.numbers);
    assert_eq!((ledger.totals.accepted, ledger.totals.doubled), (80, 0));

    // Quiet for a minute is not over yet; a number that loses its limit has no rate.
    assert_eq!(rate(&world).await, Some(8));
    sqlx::query("UPDATE business_number SET limit_per_s = NULL").execute(world.store.pool()).await.unwrap();
    sqlx::query("UPDATE registry_version SET version = version + 1").execute(world.store.pool()).await.unwrap();
    eventually("no rate", LONG, async || rate(&world).await.is_none().then_some(())).await;
    second.drain().await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_too_early_for_its_recipient_waits_without_a_call() {
    let settings = [("DISPATCH__PACING__PAIR_EVERY_S", "1"), ("DISPATCH__PACING__PAIR_BURST", "2")];
    let world = World::start_with(unlimited(1), &settings).await;
    for _ in 0..4 {
        world.batch(world.number(1), "order", 7, 1).await;
    }
    world.batch(world.number(1), "order", 100, 60).await;
    let worker = world.work();
    let counts = world.all_called(LONG).await;
    assert_eq!(counts.sent(), 64);
    let again: i64 = sqlx::query_scalar("SELECT count(*) FROM message WHERE attempt > 1")
        .fetch_one(world.store.pool())
        .await
        .unwrap();
    let refused: i64 = sqlx::query_scalar("SELECT count(*) FROM attempt WHERE outcome <> 'accepted'")
        .fetch_one(world.store.pool())
        .await
        .unwrap();
    assert_eq!((again, refused), (2, 0));
    let ledger = world.ledger();
    assert_eq!(ledger.numbers.values().map(|number| number.calls).sum::<usize>(), 64);
    worker.drain().await;
    world.finish().await;
}
