//! Jobs that are taken and checked while those before them are written.

use std::time::Duration;

use campaign_dispatch::{
    intake::{Intake, IntakeLane, lane::Step},
    settings::Settings,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{World, job, phone, to};
use crate::support::{broker::message, eventually::eventually, soon};

const JOBS: usize = 250;

impl World {
    /// Intake of another process of the same installation.
    pub(super) fn beside(&self) -> (Intake, [IntakeLane; 2]) {
        let Settings { intake: settings, canary, .. } = Settings::load(None, std::iter::empty()).unwrap();
        Intake::new(self.db.store.clone(), self.directory.clone(), &self.broker.broker, settings, canary)
    }
}

/// Ends a lane between two steps: what it took and did not answer goes back.
async fn stop(lane: IntakeLane) {
    let stopped = CancellationToken::new();
    stopped.cancel();
    lane.run(stopped).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_ahead_is_written_in_order_and_comes_again_when_it_was_not() {
    let mut world = World::new().await;
    let (entry, publisher) = (world.broker.topology().entry(), world.broker.broker.publisher());
    let mut bodies: Vec<_> =
        (1..=JOBS).map(|n| job(&format!("order-{n}"), &[to(&phone(n)), to(&phone(n + JOBS))])).collect();
    // The end of a group, and what is taken while that is written.
    let cancel = json!({"schema": "cancel-job/v1", "producer": "shop", "job_id": "order-150"});
    bodies.insert(150, cancel);
    let all = bodies.iter().map(|body| message(entry.clone(), "jobs", &body.to_string())).collect();
    soon("the confirms", publisher.publish(all)).await.unwrap();

    let (_first, [mut lane, _urgent]) = world.beside();
    let Step::Answered(written) = soon("the first group", lane.step(&world.stop)).await else { panic!("it stops") };
    let jobs = "SELECT count(*) FROM job";
    assert_eq!(world.db.one::<i64>(jobs).await, i64::try_from(written).unwrap(), "what is ahead is not written");
    stop(lane).await;

    while world.db.one::<i64>(jobs).await < 250 {
        soon("the rest", world.lanes[0].step(&world.stop)).await;
    }
    let kept: String = world
        .db
        .one("SELECT concat_ws(' ', count(*), sum(recipients), string_agg(job_id, ' ') FILTER (WHERE cancelled_at IS NOT NULL)) FROM batch")
        .await;
    assert_eq!(kept, "250 500 order-150");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_in_mid_write_comes_again() {
    let mut world = World::new().await;
    let (entry, publisher) = (world.broker.topology().entry(), world.broker.broker.publisher());
    let body = job("order-1", &[to(&phone(1))]).to_string();
    soon("the confirm", publisher.publish(vec![message(entry, "jobs", &body)])).await.unwrap();

    let (_first, [mut lane, _urgent]) = world.beside();
    let mut in_the_way = world.db.store.pool().begin().await.unwrap();
    sqlx::query("LOCK TABLE job IN SHARE MODE").execute(&mut *in_the_way).await.unwrap();
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'job'::regclass";
    tokio::select! {
        step = lane.step(&world.stop) => panic!("{step:?} while the table is locked"),
        () = eventually("the write waits", Duration::from_secs(30), async || {
            (world.db.one::<i64>(waits).await > 0).then_some(())
        }) => {}
    }
    in_the_way.rollback().await.unwrap();
    stop(lane).await;

    soon("the job", world.lanes[0].step(&world.stop)).await;
    assert_eq!(world.db.one::<i64>("SELECT count(*) FROM job").await, 1);
    world.end().await;
}
