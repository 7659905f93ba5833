//! Campaigns in the hands of people, by the API.

use serde_json::{Value, json};

use super::{LONG, document};
pub(super) use crate::support::operator::Operator;
use crate::{
    journey::Home,
    support::{eventually::eventually, world::Plan},
};

/// Waits until nothing is on its way to the provider.
pub(super) async fn all_parked(home: &Home) {
    let mut connection = home.world.database.connect().await;
    eventually("what waits is parked", LONG, async || {
        let stages: Vec<String> =
            sqlx::query_scalar("SELECT DISTINCT stage::text FROM work").fetch_all(&mut connection).await.unwrap();
        (stages == ["parked"]).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_fires_by_the_clock_through_the_queue_to_the_provider() {
    let home = Home::start(Plan::default()).await;
    let ann = Operator::of(&home, "ann").await;
    let at = (chrono::Utc::now() + chrono::Duration::seconds(2)).to_rfc3339();
    let once = document("once", &json!({ "once": at }));
    let (status, would) = ann.put(&once, "?dry_run=true").await;
    assert_eq!((status, &would["change"]), (200, &json!("created")), "{would}");
    assert_eq!(ann.get("/v1/campaigns").await, json!([]));
    assert_eq!(ann.put(&once, "").await.1["change"], "created");
    assert_eq!(ann.put(&once, "").await.1["change"], "unchanged");
    home.states(&[("read", 30)]).await;
    let rows = ann.get("/v1/campaigns/once/occurrences").await;
    assert_eq!((rows.as_array().unwrap().len(), &rows[0]["state"]), (1, &json!("fired")), "{rows}");
    let batch = ann.get(&format!("/v1/batches/{}", rows[0]["batch_id"].as_str().unwrap())).await;
    assert_eq!((&batch["campaign"], &batch["job_id"]), (&json!("once"), &rows[0]["job_id"]), "{batch}");
    assert_eq!(ann.get("/v1/campaigns/once").await["next_fire_at"], Value::Null);
    assert_eq!(home.world.ledger().totals.doubled, 0);
    home.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_named_once_and_waits_for_another_person() {
    let home = Home::start(Plan::default()).await;
    let (ann, ben) = (Operator::of(&home, "ann").await, Operator::of(&home, "ben").await);
    let mut asked = document("asked", &json!("on_demand"));
    asked["approval_over"] = json!(10);
    assert_eq!(ann.put(&asked, "").await.0, 200);
    let name = json!({"name": "first"});
    let (status, first) = ann.post("/v1/campaigns/asked/run", Some(&name)).await;
    assert_eq!((status, &first["state"]), (202, &json!("fired")), "{first}");
    let (_, again) = ann.post("/v1/campaigns/asked/run", Some(&name)).await;
    assert_eq!(again["job_id"], first["job_id"]);
    home.states(&[("pending", 30)]).await;
    // While it waits, another run would overlap.
    let (status, refused) = ann.post("/v1/campaigns/asked/run", None).await;
    assert_eq!((status, &refused["errors"][0]["code"]), (409, &json!("overlap")), "{refused}");
    let hold = ann.get("/v1/holds?open=true").await["items"][0].clone();
    assert_eq!(hold["cause"], "approval", "{hold}");
    let close = format!("/v1/holds/{}/close", hold["id"]);
    let reason = json!({"reason": "looks good"});
    assert_eq!(ann.post(&close, Some(&reason)).await.0, 403, "not by the one who ran it");
    assert_eq!(home.world.ledger().totals.calls, 0);
    assert_eq!(ben.post(&close, Some(&reason)).await.0, 204);
    home.states(&[("read", 30)]).await;
    let test = json!({"to": ["+819099990001"]});
    assert_eq!(ann.post("/v1/campaigns/asked/test", Some(&test)).await.0, 202);
    home.states(&[("read", 31)]).await;
    let six = json!({"to": ["1", "2", "3", "4", "5", "6"]});
    assert_eq!(ann.post("/v1/campaigns/asked/test", Some(&six)).await.0, 422);
    assert_eq!(ann.get("/v1/campaigns/asked/occurrences").await.as_array().unwrap().len(), 1, "a test counts nowhere");
    home.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_holds_what_is_under_way_and_a_resume_sends_exactly_the_rest() {
    let home = Home::start(Plan { limits: vec![Some(5)], ..Plan::default() }).await;
    let ann = Operator::of(&home, "ann").await;
    let slow = document("slow", &json!("on_demand"));
    assert_eq!(ann.put(&slow, "").await.0, 200);
    assert_eq!(ann.post("/v1/campaigns/slow/run", None).await.0, 202);
    eventually("some are sent", LONG, async || (home.world.ledger().totals.accepted > 3).then_some(())).await;
    let (status, under_way) = ann.post("/v1/campaigns/slow/pause", None).await;
    assert_eq!((status, &under_way["batches"]), (200, &json!(1)), "{under_way}");
    all_parked(&home).await;
    let sent = home.world.ledger().totals.accepted;
    assert!(sent < 30, "{sent}");
    assert_eq!(ann.post("/v1/campaigns/slow/run", None).await.0, 409, "a paused campaign is not run");
    assert_eq!(home.world.ledger().totals.accepted, sent, "nothing is sent while it is paused");
    let (status, resumed) = ann.post("/v1/campaigns/slow/resume", None).await;
    assert_eq!((status, &resumed["batches"]), (200, &json!(1)));
    home.states(&[("read", 30)]).await;
    let totals = home.world.ledger().totals;
    assert_eq!((totals.accepted, totals.doubled), (30, 0));
    home.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_firing_that_waits_goes_when_the_earlier_one_is_through() {
    let home = Home::start(Plan { limits: vec![Some(20)], ..Plan::default() }).await;
    let ann = Operator::of(&home, "ann").await;
    let mut patient = document("patient", &json!("on_demand"));
    patient["overlap"] = json!("wait");
    assert_eq!(ann.put(&patient, "").await.0, 200);
    assert_eq!(ann.post("/v1/campaigns/patient/run", None).await.1["state"], "fired");
    assert_eq!(ann.post("/v1/campaigns/patient/run", None).await.1["state"], "waiting");
    home.states(&[("read", 60)]).await;
    let mut connection = home.world.database.connect().await;
    let overlapping: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM message a, message b WHERE a.batch_id < b.batch_id AND a.accepted_at > b.accepted_at",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(overlapping, 0, "the second began after the first was through");
    drop(connection);
    home.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_document_is_told_with_its_place() {
    let home = Home::start(Plan::default()).await;
    let ann = Operator::of(&home, "ann").await;
    let told = async |change: &dyn Fn(&mut Value)| {
        let mut wrong = document("wrong", &json!({"cron": "0 9 * * mon-fri"}));
        change(&mut wrong);
        let (status, answer) = ann.put(&wrong, "").await;
        assert_eq!(status, 422, "{answer}");
        let first = &answer["errors"][0];
        format!("{} {}", first["pointer"].as_str().unwrap(), first["code"].as_str().unwrap())
    };
    assert_eq!(told(&|d| d["schedule"] = json!({"cron": "0 0 9 * * *"})).await, "/schedule/cron invalid_cron");
    assert_eq!(told(&|d| d["schedule"] = json!({"once": "2020-01-01T00:00:00Z"})).await, "/schedule/once in_the_past");
    assert_eq!(told(&|d| d["end"] = json!("2020-01-01T00:00:00Z")).await, "/schedule/cron never_fires");
    assert_eq!(told(&|d| d["template"]["name"] = json!("offr")).await, "/template/name unknown_template");
    assert_eq!(told(&|d| d["producer"] = json!("shoop")).await, "/producer unknown_producer");
    assert_eq!(told(&|d| d["time_zone"] = json!("Asia/Tokio")).await, "/time_zone unknown_time_zone");
    let place = told(&|d| d["audience"]["recipients"][3]["to"] = json!("12")).await;
    assert_eq!(place, "/audience/recipients/3/to invalid_number");

    // One that is good, and then another: the difference is told, and what the clock does to its firings.
    let mut daily = document("daily", &json!({"cron": "30 2 * * *"}));
    daily["time_zone"] = json!("America/New_York");
    assert_eq!(ann.put(&daily, "").await.1["change"], "created");
    daily["overlap"] = json!("wait");
    let (_, changed) = ann.put(&daily, "").await;
    assert_eq!(changed["differences"], json!([{"field": "overlap", "before": "skip", "after": "wait"}]));
    let next = ann.get("/v1/campaigns/daily/next?count=100").await;
    let next = next.as_array().unwrap();
    assert_eq!(next.len(), 100);
    assert_eq!(next[0]["utc"], changed["next_fire_at"]);
    assert_eq!(ann.post("/v1/campaigns/daily/archive", None).await.0, 204);
    assert_eq!(ann.put(&daily, "").await.0, 409);
    assert_eq!(ann.get("/v1/campaigns").await, json!([]));
    assert_eq!(ann.get("/v1/campaigns?all=true").await[0]["state"], "archived");
    home.finish().await;
}
