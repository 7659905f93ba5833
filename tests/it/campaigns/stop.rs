//! What a person stops by its name: a batch, a message, a campaign.

use std::sync::Arc;

use campaign_dispatch::app::{self, Role};
use serde_json::{Value, json};

use super::{
    LONG, document,
    operator::{Operator, all_parked},
};
use crate::{
    journey::Home,
    support::{eventually::eventually, world::Plan},
};

fn why() -> Value {
    json!({"reason": "a wrong price"})
}

/// A batch of 30 of a campaign, of which some are sent.
async fn under_way(home: &Home, ann: &Operator) -> String {
    assert_eq!(ann.put(&document("slow", &json!("on_demand")), "").await.0, 200);
    assert_eq!(ann.post("/v1/campaigns/slow/run", None).await.0, 202);
    eventually("some are sent", LONG, async || (home.world.ledger().totals.accepted > 3).then_some(())).await;
    ann.get("/v1/campaigns/slow/occurrences").await[0]["batch_id"].as_str().unwrap().to_owned()
}

fn slow() -> Plan {
    Plan { limits: vec![Some(5)], ..Plan::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_batch_waits_and_goes_on_with_exactly_the_rest() {
    let home = Home::start(slow()).await;
    let ann = Operator::of(&home, "ann").await;
    let batch = under_way(&home, &ann).await;
    let path = |what: &str| format!("/v1/batches/{batch}/{what}");
    assert_eq!(ann.post(&path("pause"), Some(&json!({"reason": " "}))).await.0, 422);
    let (status, stopped) = ann.post(&path("pause"), Some(&why())).await;
    assert_eq!(status, 200, "{stopped}");
    assert!(stopped["waiting"].as_i64().unwrap() > 0, "{stopped}");
    all_parked(&home).await;
    let sent = home.world.ledger().totals.accepted;
    // A message of it is given up meanwhile: it is never called, and no second time.
    let message = format!("/v1/messages/{batch}.30/cancel");
    assert_eq!(ann.post(&message, Some(&why())).await.0, 204);
    let (status, again) = ann.post(&message, Some(&why())).await;
    assert_eq!((status, &again["errors"][0]["code"]), (409, &json!("ended")), "{again}");
    assert_eq!(ann.post(&format!("/v1/messages/{batch}.31/cancel"), Some(&why())).await.0, 404);
    assert_eq!(home.world.ledger().totals.accepted, sent, "nothing is sent while it is paused");
    let (status, released) = ann.post(&path("resume"), Some(&why())).await;
    assert_eq!((status, released), (200, json!({"was_paused": true, "holds": []})));
    assert_eq!(ann.post(&path("resume"), Some(&why())).await.1["was_paused"], false);
    home.states(&[("cancelled", 1), ("read", 29)]).await;
    let totals = home.world.ledger().totals;
    assert_eq!((totals.accepted, totals.doubled), (29, 0));
    home.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_batch_sends_nothing_more_and_stays_balanced() {
    let home = Home::start(slow()).await;
    let ann = Operator::of(&home, "ann").await;
    let batch = under_way(&home, &ann).await;
    let path = format!("/v1/batches/{batch}/cancel");
    let (status, stopped) = ann.post(&path, Some(&why())).await;
    assert_eq!(status, 200, "{stopped}");
    assert!(stopped["waiting"].as_i64().unwrap() > 0, "{stopped}");
    eventually("nothing is left to do", LONG, async || {
        let found = ann.get(&format!("/v1/batches/{batch}")).await;
        (found["pending"] == 0).then_some(())
    })
    .await;
    let calls = home.world.ledger().totals.calls;
    let given_up = home.world.counts().await.of("cancelled");
    assert_eq!(given_up + i64::try_from(calls).unwrap(), 30, "what is not given up was called, once");
    let (status, again) = ann.post(&path, Some(&why())).await;
    assert_eq!((status, again), (200, json!({"waiting": 0, "calling": 0, "uncertain": 0})));
    let nobodys = "/v1/batches/01900000-0000-7000-8000-000000000001/cancel";
    assert_eq!(ann.post(nobodys, Some(&why())).await.0, 404);
    home.states(&[("cancelled", given_up), ("read", 30 - given_up)]).await;
    assert_eq!(home.world.ledger().totals.calls, calls);
    home.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_campaign_gives_up_what_is_under_way_and_what_is_still_on_its_way() {
    let home = Home::with(slow(), &[Role::Http]).await;
    let ann = Operator::of(&home, "ann").await;
    assert_eq!(ann.put(&document("slow", &json!("on_demand")), "").await.0, 200);
    assert_eq!(ann.post("/v1/campaigns/slow/run", None).await.0, 202);
    let (status, found) = ann.post("/v1/campaigns/slow/cancel", None).await;
    assert_eq!((status, found), (200, json!({"batches": 0, "calling": 0})), "its job is still owed");
    assert_eq!(ann.get("/v1/campaigns/slow").await["state"], "archived");
    // Whoever publishes and takes the job now finds it given up.
    let mut other = app::start(Arc::clone(&home.world.settings), Role::ALL).await.unwrap();
    home.states(&[("cancelled", 30)]).await;
    assert_eq!(home.world.ledger().totals.calls, 0);
    other.stop();
    other.ended().await.unwrap();
    home.finish().await;
}
