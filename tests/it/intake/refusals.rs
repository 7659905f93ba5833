//! What is wrong with a job, told with its place.

use std::time::Duration;

use campaign_dispatch::intake::lane::Step;
use chrono::{TimeDelta, Utc};
use lapin::BasicProperties;
use serde_json::{Value, json};

use super::{World, accepted, job, phone, rejected, to};
use crate::support::{eventually::eventually, soon};

fn with(pointer: &str, value: Value) -> Value {
    let mut body = job("1", &[to(&phone(1))]);
    match body.pointer_mut(pointer) {
        Some(place) => *place = value,
        None => body[pointer.trim_start_matches('/')] = value,
    }
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_json_is_told_with_line_and_column() {
    let mut world = World::new().await;
    let body = b"{\"schema\": \"send-job/v1\",\n oops".to_vec();
    let answer = world.give_bytes(body).await;
    assert_eq!(answer.http_status(), 400);
    let refused = rejected(answer);
    let error = &refused.errors[0];
    assert_eq!(refused.producer, "unknown");
    assert_eq!(error.code, "malformed_json");
    assert!(error.reason.contains("line 2 column 2"), "{}", error.reason);
    world.end().await;
}

/// A value put into a good job, the pointer of the complaint, its code, and what was meant.
const UNKNOWN: &[[&str; 5]] = &[
    ["/recipient", "[]", "/recipient", "unknown_field", "recipients"],
    ["/business_number", "\"+81312345687\"", "/business_number", "unknown_number", "+81312345678"],
    ["/template/name", "\"spring_offers\"", "/template/name", "unknown_template", "spring_offer"],
    ["/template/language", "\"ko\"", "/template/language", "unknown_language", "en_US"],
    ["/producer", "\"shops\"", "/producer", "unknown_producer", "shop"],
    ["/params", "{\"body.shopp\": \"x\"}", "/params/body.shopp", "unknown_slot", "body.shop"],
    ["/channel", "\"viber\"", "/channel", "wrong_channel", "whatsapp"],
];

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_name_is_told_with_its_place_and_what_was_meant() {
    let mut world = World::new().await;
    for [pointer, value, at, code, meant] in UNKNOWN.iter().copied() {
        let value = serde_json::from_str(value).unwrap();
        let refused = rejected(world.give(with(pointer, value)).await);
        let error = &refused.errors[0];
        assert_eq!((error.pointer.as_str(), error.code.as_ref()), (at, code));
        let first = error.did_you_mean.first().map(String::as_str);
        assert_eq!(first, Some(meant), "{code}");
    }
    // Every one of them is listed, and none took the job's name.
    let listed: i64 = world.db.one("SELECT count(*) FROM rejected_job WHERE source = 'http'").await;
    assert_eq!(listed, 7);
    assert_eq!(accepted(world.give(with("/campaign", json!("x"))).await).accepted, 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_is_refused() {
    let mut world = World::new().await;
    let far = (Utc::now() + TimeDelta::days(181)).to_rfc3339();
    let gone = json!({"name": "gone", "language": "ja"});
    for (pointer, value, code) in [
        ("/template", gone, "template_unusable"),
        ("/send_at", json!(far), "too_far_ahead"),
        ("/expires_at", json!("2020-01-01T00:00:00Z"), "expires_too_early"),
        ("/recipients", json!([]), "no_good_recipient"),
        ("/recipients", json!([{"to": "+8190"}]), "no_good_recipient"),
        ("/audience", json!({"group": "vip"}), "contradiction"),
    ] {
        let refused = rejected(world.give(with(pointer, value)).await);
        assert_eq!(refused.errors[0].code, code);
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn good_rows_go_on() {
    let mut world = World::new().await;
    let mut rows: Vec<Value> = (0..20).map(|n| to(&phone(n))).collect();
    rows[16] = to("+8190");
    rows[17] = json!({"to": phone(17)});
    rows[18] = to(&format!(" {} ", phone(3)));
    let answer = accepted(world.give(job("1", &rows)).await);
    assert_eq!((answer.accepted, answer.rejected), (17, 3));
    let told: Vec<_> = answer.rejections.iter().map(|r| (r.row, r.pointer.as_str(), r.code.as_ref())).collect();
    let expected = [
        (17, "/recipients/16/to", "invalid_number"),
        (18, "/recipients/17/params/body.name", "missing_slot"),
        (19, "/recipients/18/to", "duplicate_recipient"),
    ];
    assert_eq!(told, expected);
    assert!(answer.rejections[2].reason.contains("row 19") && answer.rejections[2].reason.contains("row 4"));
    assert_eq!(world.db.one::<i64>("SELECT count(*) FROM batch_rejected").await, 3);
    // The repeat is answered from what was kept.
    assert_eq!(accepted(world.give(job("1", &rows)).await), answer);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_job_is_refused_and_its_neighbours_are_not() {
    let mut world = World::new().await;
    let topology = world.broker.topology();
    topology.declare(&world.peer.channel).await.unwrap();
    let mut huge = job("huge", &[]);
    huge["campaign"] = json!("x".repeat(50 * 1024 * 1024));
    let neighbours = [job("a", &[to(&phone(1))]), huge, job("b", &[to(&phone(2))])];
    for body in neighbours {
        world.peer.publish(&topology.entry(), "jobs", body.to_string().as_bytes(), BasicProperties::default()).await;
    }
    let mut answered = 0;
    while answered < 3 {
        match soon("the jobs are taken", world.lanes[0].step(&world.stop)).await {
            Step::Answered(count) => answered += count,
            Step::Stopping => panic!("stopped"),
        }
    }
    assert_eq!(world.db.one::<i64>("SELECT count(*) FROM batch").await, 2);
    let listed: Value =
        world.db.one("SELECT errors FROM rejected_job WHERE producer = 'shop' AND job_id = 'huge'").await;
    assert_eq!(listed[0]["code"], "too_large");
    let rows: Vec<Value> = (0..1001).map(|n| to(&phone(n))).collect();
    let answer = world.give(job("many", &rows)).await;
    assert_eq!((answer.http_status(), rejected(answer).errors[0].code.as_ref()), (413, "too_many_recipients"));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_refused_by_a_copy_of_the_registry_that_cannot_be_read_again() {
    const ROLLBACKS: &str = "SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()";
    let mut world = World::new().await;
    // Newer than the copy, which nobody can bring up to date for a while.
    world
        .db
        .run(
            "INSERT INTO business_number (account_id, business_number, provider_number_id, status)
                 SELECT id, '+81399990001', '2', 'connected' FROM account;
             UPDATE registry_version SET version = version + 1; ALTER TABLE registry_version RENAME TO hidden",
        )
        .await;
    let store = world.db.store.clone();
    let before: i64 = world.db.one(ROLLBACKS).await;
    let back = async {
        eventually("the registry is asked for", Duration::from_mins(1), async || {
            let now: i64 = sqlx::query_scalar(ROLLBACKS).fetch_one(store.pool()).await.unwrap();
            (now > before).then_some(())
        })
        .await;
        sqlx::raw_sql("ALTER TABLE hidden RENAME TO registry_version").execute(store.pool()).await.unwrap();
    };
    let (answer, ()) = tokio::join!(world.give(with("/business_number", json!("+81399990001"))), back);
    assert_eq!(accepted(answer).accepted, 1);
    world.end().await;
}
