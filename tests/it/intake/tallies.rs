//! Which batches are counted by state, and so told when they end.

use campaign_dispatch::{intake::Intake, settings::Settings};

use super::{World, accepted, audience_groups::give_to, job, phone, to};

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_one_is_counted_where_its_end_is_to_be_told() {
    let mut world = World::new().await;
    accepted(world.give(job("1", &[to(&phone(1))])).await);
    assert_eq!(world.db.one::<i64>("SELECT count(*) FROM batch_tally").await, 0);
    let Settings { intake: mut settings, canary, .. } = Settings::load(None, std::iter::empty()).unwrap();
    settings.tell_of_one = true;
    let (store, directory) = (world.db.store.clone(), world.directory.clone());
    let (intake, [mut lane, _urgent]) = Intake::new(store, directory, &world.broker.broker, settings, canary);
    accepted(give_to(&intake, &mut lane, &job("2", &[to(&phone(1))])).await);
    let kept = "SELECT string_agg(b.job_id || ' ' || t.pending, ', ') FROM batch_tally t JOIN batch b USING (batch_id)";
    assert_eq!(world.db.one::<String>(kept).await, "2 1");
    world.end().await;
}
