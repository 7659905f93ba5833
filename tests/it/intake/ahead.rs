//! Jobs that are taken and checked while those before them are written.

use campaign_dispatch::{
    intake::{Intake, lane::Step},
    settings::Settings,
};
use serde_json::json;

use super::{World, job, phone, to};
use crate::support::{broker::message, soon};

const JOBS: usize = 250;

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

    let Settings { intake: settings, canary, .. } = Settings::load(None, std::iter::empty()).unwrap();
    let (store, directory) = (world.db.store.clone(), world.directory.clone());
    let (_first, [mut lane, _urgent]) = Intake::new(store, directory, &world.broker.broker, settings, canary);
    let Step::Answered(written) = soon("the first group", lane.step(&world.stop)).await else { panic!("it stops") };
    let jobs = "SELECT count(*) FROM job";
    assert_eq!(world.db.one::<i64>(jobs).await, i64::try_from(written).unwrap(), "what is ahead is not written");
    let stopped = world.stop.child_token();
    stopped.cancel();
    lane.run(stopped).await;

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
