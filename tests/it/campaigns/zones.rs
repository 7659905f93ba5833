//! Campaigns whose windows are the recipients' own.

use chrono::{DateTime, Utc};
use chrono_tz::Asia::Tokyo;
use serde_json::{Value, json};

use super::{document, operator::Operator};
use crate::{
    journey::Home,
    support::{hours::TwoHours, world::Plan},
};

#[tokio::test(flavor = "multi_thread")]
async fn each_recipient_gets_it_by_its_own_clock() {
    let home = Home::start(Plan { limits: vec![Some(80)], ..Plan::default() }).await;
    let ann = Operator::of(&home, "ann").await;
    let hours = TwoHours::open_in(Tokyo, Utc::now());
    let person = |to: &str, zone: Option<&str>| {
        let mut person = json!({"to": to, "params": {"body.name": "佐藤"}});
        if let Some(zone) = zone {
            person["time_zone"] = json!(zone);
        }
        person
    };
    let people = [
        person("+819020000001", None),
        person("+12125552368", Some("Asia/Tokyo")),
        person("+819020000002", Some("America/New_York")),
        person("+4915112345678", None),
        person("+12125552369", None),
    ];
    let mut tour = document("tour", &json!("on_demand"));
    tour["audience"] = json!({ "recipients": people });
    tour["windows"] = hours.spans();
    tour["window_zone"] = json!("recipient");
    tour["expires_after"] = json!("2d");
    assert_eq!(ann.put(&tour, "").await.0, 200);

    let forecast = ann.get("/v1/campaigns/tour/forecast").await;
    assert_eq!(forecast["recipients"], 4, "{forecast}");
    assert_eq!(forecast["left_out"], json!([{"code": "window", "recipients": 1}]));
    let time = |value: &Value| DateTime::parse_from_rfc3339(value.as_str().unwrap()).unwrap().to_utc();
    assert!(time(&forecast["start"]) <= Utc::now(), "{forecast}");
    let last = hours.next(chrono_tz::America::New_York, Utc::now()).0;
    assert!((time(&forecast["finish"]) - last).num_seconds().abs() < 5, "{forecast}");

    let (status, run) = ann.post("/v1/campaigns/tour/run", None).await;
    assert_eq!((status, &run["send_at"]), (202, &Value::Null), "{run}");
    home.states(&[("expired", 1), ("pending", 2), ("read", 2)]).await;
    let mut connection = home.world.database.connect().await;
    let waiting: Vec<(i32, DateTime<Utc>, DateTime<Utc>)> =
        sqlx::query_as("SELECT seq, due_at, window_closes_at FROM checklist.pending ORDER BY seq")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    let expected = [(3, chrono_tz::America::New_York), (4, chrono_tz::Europe::Berlin)].map(|(seq, zone)| {
        let (opens, closes) = hours.next(zone, Utc::now());
        (seq, opens, closes)
    });
    assert_eq!(waiting, expected);

    // One window closes before its message could go, the other opens.
    for statement in ["UPDATE work SET until = now() WHERE seq = 4", "UPDATE work SET wake_at = now() WHERE seq = 3"] {
        sqlx::query(statement).execute(&mut connection).await.unwrap();
    }
    home.states(&[("expired", 2), ("read", 3)]).await;
    let codes: Vec<(i32, String, String)> = sqlx::query_as("SELECT seq, code, reason FROM failed_message ORDER BY seq")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    let codes: Vec<_> = codes.iter().map(|(seq, code, _)| (*seq, code.as_str())).collect();
    assert_eq!(codes, [(4, "window_closed"), (5, "window")]);
    let attempts: i64 = sqlx::query_scalar("SELECT count(*) FROM attempt").fetch_one(&mut connection).await.unwrap();
    assert_eq!(attempts, 0, "what expires was not called");
    drop(connection);
    home.finish().await;
}
