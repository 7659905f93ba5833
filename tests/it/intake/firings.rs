//! Jobs of our own campaigns, by the urgent road.

use lapin::BasicProperties;
use serde_json::{Value, json};

use super::{World, job, phone, to};

const FIRING: &str = "
    INSERT INTO campaign (tenant_id, key, producer, document, applied_by, applied_token)
        VALUES (1, 'codes', 'shop', '{}', 'ann', gen_random_uuid());
    INSERT INTO occurrence (campaign_id, fire_at, run, tenant_id, producer, job_id, state, started_by, started_token, expires_at)
        SELECT id, now(), o.name, 1, 'shop', 'campaign:codes:run:' || o.name, o.state, 'ann', gen_random_uuid(), now() + interval '1 hour'
        FROM campaign, (VALUES ('1', 'fired'), ('2', 'waiting')) AS o (name, state);";

#[tokio::test(flavor = "multi_thread")]
async fn a_firing_is_taken_from_the_urgent_queue_whatever_its_template_has_become() {
    let mut world = World::new().await;
    // It was of authentication when it fired.
    let fired = job("campaign:codes:run:1", &[to(&phone(1))]);
    world.take("jobs.urgent", fired.to_string().as_bytes(), BasicProperties::default()).await;
    let refused = "SELECT count(*) FROM rejected_job WHERE errors -> 0 ->> 'code' = 'not_urgent'";
    assert_eq!(world.db.one::<i64>(refused).await, 1, "a name alone opens no door");
    world.db.run(FIRING).await;
    // Neither does the name of another producer's firing, nor of one that has not fired.
    let mut foreign = fired.clone();
    foreign["producer"] = json!("bank");
    let waiting = job("campaign:codes:run:2", &[to(&phone(1))]);
    for body in [foreign, waiting] {
        world.take("jobs.urgent", body.to_string().as_bytes(), BasicProperties::default()).await;
    }
    assert_eq!(world.db.one::<i64>(refused).await, 3);
    for _ in 0..2 {
        world.take("jobs.urgent", fired.to_string().as_bytes(), BasicProperties::default()).await;
    }
    assert_eq!(world.db.one::<i64>("SELECT count(*) FROM rejected_job").await, 3);
    let taken: Value = world
        .db
        .one("SELECT jsonb_agg(jsonb_build_array(b.lane, o.run)) FROM batch b JOIN occurrence o USING (batch_id)")
        .await;
    assert_eq!(taken, json!([["marketing", "1"]]), "once, and in the lane of its category");
    world.end().await;
}
