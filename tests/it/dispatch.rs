//! Claim, pace, send, settle against the simulator.

use std::time::Duration;

use super::support::world::{Plan, World};

const LONG: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn every_message_is_called_once() {
    let world = World::start(Plan {
        limits: vec![None, None],
        ..Plan::default()
    })
    .await;
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
