//! Campaigns that say themselves how many of their messages go out first.

use campaign_dispatch::simulator::{Fault, FaultAction, FaultMatch};
use serde_json::{Value, json};

use super::{LONG, document, operator::Operator};
use crate::{
    journey::Home,
    support::{eventually::eventually, world::Plan},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_of_its_own_lets_so_many_through_until_they_have_outcomes() {
    let home = Home::start(Plan::default()).await;
    let ann = Operator::of(&home, "ann").await;
    // The provider is slow: what is let through before the first outcome is exactly the canary.
    let slow = home.world.simulator.add_fault(Fault { when: FaultMatch::default(), action: FaultAction::Slow(1000) });
    let mut orders = document("orders", &json!("on_demand"));
    orders["template"]["name"] = json!("order");
    orders["canary"] = json!({"messages": 3, "wait": "10m"});
    assert_eq!(ann.put(&orders, "").await.0, 200);
    let forecast = ann.get("/v1/campaigns/orders/forecast").await;
    assert_eq!((&forecast["canary"], &forecast["recipients"]), (&json!(3), &json!(30)), "{forecast}");
    assert_eq!(ann.post("/v1/campaigns/orders/run", None).await.0, 202);
    eventually("the first are out", LONG, async || (home.world.ledger().totals.calls >= 3).then_some(())).await;
    let mut connection = home.world.database.connect().await;
    let ready: i64 =
        sqlx::query_scalar("SELECT count(*) FROM work WHERE stage = 'ready'").fetch_one(&mut connection).await.unwrap();
    assert_eq!((ready, home.world.ledger().totals.calls), (27, 3));
    home.world.simulator.clear_faults(Some(slow));
    home.states(&[("read", 30)]).await;
    let canary: (i32, i32, i32, i32, Option<String>) = sqlx::query_as(
        "SELECT let_through, good, fault_percent, wait_s, closed_by FROM canary c JOIN hold h ON h.id = c.hold_id",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(canary, (3, 3, 30, 600, Some("canary".to_owned())));
    drop(connection);
    home.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_campaign_that_does_without_sends_all_at_once() {
    let home = Home::start(Plan::default()).await;
    let ann = Operator::of(&home, "ann").await;
    home.world.simulator.add_fault(Fault { when: FaultMatch::default(), action: FaultAction::Slow(1000) });
    let people: Vec<Value> = (0..150)
        .map(|i| json!({"to": format!("+8190{:08}", 20_000_000 + i), "params": {"body.name": "佐藤"}}))
        .collect();
    let mut large = document("large", &json!("on_demand"));
    large["audience"] = json!({ "recipients": people });
    assert_eq!(ann.put(&large, "").await.0, 200);
    assert_eq!(ann.get("/v1/campaigns/large/forecast").await["canary"], json!(20), "as in the settings");
    large["canary"] = json!(false);
    let (_, changed) = ann.put(&large, "").await;
    assert_eq!(changed["differences"], json!([{"field": "canary", "before": null, "after": false}]));
    assert_eq!(ann.get("/v1/campaigns/large/forecast").await["canary"], Value::Null);
    assert_eq!(ann.post("/v1/campaigns/large/run", None).await.0, 202);
    home.states(&[("read", 150)]).await;
    let mut connection = home.world.database.connect().await;
    let canaries: i64 = sqlx::query_scalar("SELECT count(*) FROM canary").fetch_one(&mut connection).await.unwrap();
    assert_eq!(canaries, 0);
    drop(connection);
    home.finish().await;
}
