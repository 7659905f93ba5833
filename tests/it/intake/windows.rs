//! Hours of the recipients: each message waits for its own window.

use campaign_dispatch::{
    domain::ids::TenantId,
    intake::{Claim, Road, Submission, reach::Reach},
};
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::{America::New_York, Asia::Tokyo, Europe::Berlin};
use serde_json::{Value, json};

use super::{
    World, accepted,
    audience_groups::{add, give, group, named, planned},
    job, phone, rejected, to,
};
use crate::support::hours::TwoHours;

const GERMAN: &str = "+4915112345678";
const AMERICAN: &str = "+12125552368";

fn in_zone(number: &str, zone: &str) -> Value {
    let mut recipient = to(number);
    recipient["time_zone"] = json!(zone);
    recipient
}

/// What the forecast knows of a job.
async fn reach(world: &World, body: &Value) -> Reach {
    let claim = Claim::Token { tenant: TenantId(1), producer: None };
    let submission = Submission { claim, body: body.to_string().into(), is_dry_run: true };
    world.intake.outlook(Road::Bulk, &submission).await.unwrap().reach.unwrap()
}

/// When the work of each message is due and ends, in order.
async fn times(world: &World) -> Vec<(DateTime<Utc>, Option<DateTime<Utc>>)> {
    sqlx::query_as("SELECT wake_at, until FROM work ORDER BY batch_id, seq")
        .fetch_all(world.db.store.pool())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_message_waits_for_the_window_of_its_recipient() {
    let mut world = World::new().await;
    let at = Utc::now();
    let hours = TwoHours::open_in(Tokyo, at);
    let people = [
        to(&phone(1)),
        in_zone(AMERICAN, "Asia/Tokyo"),
        in_zone(&phone(2), "America/New_York"),
        to(GERMAN),
        // Anywhere from Adak to New York, where no two hours are the same.
        to("+12125552369"),
    ];
    let mut body = job("1", &people);
    body["windows"] = json!({"spans": hours.spans(), "time_zone": "Asia/Tokyo"});
    body["expires_at"] = json!((at + TimeDelta::days(3)).to_rfc3339());
    assert_eq!(accepted(world.give(body).await).accepted, 5);
    let times = times(&world).await;
    let closes = hours.next(Tokyo, at).1;
    for (place, (due, until)) in times[..2].iter().enumerate() {
        assert!(*due <= Utc::now(), "{place} is due");
        assert_eq!(*until, Some(closes), "{place}");
    }
    for (place, zone) in [(2, New_York), (3, Berlin)] {
        let (opens, closes) = hours.next(zone, at);
        assert_eq!(times[place], (opens, Some(closes)), "{zone}");
    }
    assert_eq!(times[4].1, Some(DateTime::UNIX_EPOCH), "it is not sent");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_zone_of_a_group_is_that_of_its_members_who_have_none() {
    let mut world = World::new().await;
    let vip = group(&world, "vip").await;
    let members: Vec<Value> =
        (0..4).map(|n| to(&phone(n))).chain([to(GERMAN), in_zone(AMERICAN, "America/New_York")]).collect();
    add(&world, vip, &members).await;
    let at = Utc::now();
    let hours = TwoHours::open_in(Tokyo, at);
    let mut body = named("1", "vip");
    body["windows"] = json!({"spans": hours.spans(), "time_zone": "Europe/Berlin"});
    // One who has no name for the template is not sent to, and not foreseen.
    add(&world, vip, &[json!({"to": phone(9)})]).await;
    let reach = reach(&world, &body).await;
    let mut foreseen: Vec<_> = reach.windows.iter().flatten().map(|(window, people)| (window.until, *people)).collect();
    foreseen.sort_unstable();
    let closing = |zone| Some(hours.next(zone, at).1);
    assert_eq!((foreseen, reach.without), (vec![(closing(Tokyo), 5), (closing(New_York), 1)], 0));
    assert_eq!(accepted(give(&mut world, &body).await).accepted, 6);
    planned(&world).await;
    let times = times(&world).await;
    assert_eq!(times.len(), 6);
    // By address: the American first, the German second.
    assert_eq!(times[0].0, hours.next(New_York, at).0);
    let closes = hours.next(Tokyo, at).1;
    assert!(times[1..].iter().all(|(due, until)| *due <= Utc::now() && *until == Some(closes)), "{times:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rows_of_an_import_have_windows_of_their_own() {
    let mut world = World::new().await;
    let file = "to,name,time_zone\n+819012345001,a,\n+12125552368,b,\n+12125552369,c,Asia/Tokyo\n+4915112345678,d,\n";
    let summary = world.import(file.as_bytes(), false).await.unwrap();
    assert_eq!(summary.good, 4, "{summary:?}");
    let at = Utc::now();
    let hours = TwoHours::open_in(Tokyo, at);
    let mut body = job("1", &[]);
    body.as_object_mut().unwrap().remove("recipients");
    body["audience"] = json!({"import": summary.id});
    body["windows"] = json!({"spans": hours.spans(), "time_zone": "Asia/Tokyo"});
    let reach = reach(&world, &body).await;
    assert_eq!((reach.windows.unwrap().values().sum::<u32>(), reach.without), (3, 1));
    accepted(world.give(body).await);
    planned(&world).await;
    let times = times(&world).await;
    let closes = Some(hours.next(Tokyo, at).1);
    let until: Vec<_> = times.iter().map(|(_, until)| *until).collect();
    // A chunk is three rows: the last stands in the second.
    let berlin = hours.next(Berlin, at);
    assert_eq!(until, [closes, Some(DateTime::UNIX_EPOCH), closes, Some(berlin.1)]);
    assert_eq!(times[3].0, berlin.0);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_windows_is_told_with_its_place() {
    let mut world = World::new().await;
    let mut told = async |windows: Value| {
        let mut body = job("1", &[to(&phone(1))]);
        body["windows"] = windows;
        let errors = rejected(world.give(body).await).errors;
        errors.into_iter().map(|error| format!("{} {}", error.pointer, error.code)).collect::<Vec<_>>()
    };
    let form = json!({"spans": [{"days": "mon", "from": "09:00"}, 7], "except_dates": ["soon"], "zone": "UTC"});
    let expected = [
        "/windows/zone unknown_field",
        "/windows/spans/0/days wrong_type",
        "/windows/spans/0/until missing_field",
        "/windows/spans/1 wrong_type",
        "/windows/except_dates/0 ill_formed",
        "/windows/time_zone missing_field",
    ];
    assert_eq!(told(form).await, expected);
    let meaning = json!({"spans": [{"days": ["monday"], "from": "9:00", "until": "25:00"}], "time_zone": "Asia/Tokio"});
    let expected = [
        "/windows/spans/0/days/0 unknown_word",
        "/windows/spans/0/from ill_formed",
        "/windows/spans/0/until ill_formed",
        "/windows/time_zone unknown_time_zone",
    ];
    assert_eq!(told(meaning).await, expected);
    let none = json!({"spans": [], "time_zone": "Asia/Tokyo"});
    assert_eq!(told(none).await, ["/windows/spans missing_field"]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_due_yet_is_not_parked_and_stays_so_when_the_hold_ends() {
    let mut world = World::new().await;
    let mut later = job("1", &[json!({"to": phone(1)})]);
    later["template"]["name"] = json!("parcel");
    later["params"] = json!({});
    let mut elsewhere = later.clone();
    later["send_at"] = json!((Utc::now() + TimeDelta::hours(2)).to_rfc3339());
    elsewhere["job_id"] = json!("2");
    elsewhere["recipients"][0]["time_zone"] = json!("America/New_York");
    elsewhere["windows"] = json!({"spans": TwoHours::open_in(Tokyo, Utc::now()).spans(), "time_zone": "Asia/Tokyo"});
    for body in [later, elsewhere] {
        assert_eq!(accepted(world.give(body).await).holds.len(), 1, "it waits for the template");
    }
    world.db.run("UPDATE hold SET closed_at = now(), closed_by = 'test'").await;
    let mut connection = world.db.store.acquire().await.unwrap();
    let hold = campaign_dispatch::domain::ids::HoldId(world.db.one("SELECT id FROM hold").await);
    campaign_dispatch::store::work::sweep::unpark_hold(&mut connection, hold, 100).await.unwrap();
    drop(connection);
    let ready: i64 = world.db.one("SELECT count(*) FROM work WHERE stage = 'ready' AND wake_at > now()").await;
    assert_eq!(ready, 2);
    world.end().await;
}
