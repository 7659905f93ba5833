//! Lists by every filter and by time, exports, reports, and who may read the views.

use std::time::Duration;

use calamine::{Data, Reader as _, Xlsx};
use campaign_dispatch::{
    domain::{event::Wanted, ids::MessageKey, message::MessageEvent},
    registry::tokens::Scope,
    store::messages::{self, Change, Rules},
};
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use super::{
    api::pages,
    served::{Served, registry, seed},
    support::world::{Plan, World},
};

/// What [`registry`] has, and a second account with a number and a template of its own.
fn two_accounts() -> Value {
    let mut all = registry();
    let mut account = all["accounts"][0].clone();
    account["name"] = json!("second");
    account["waba_id"] = json!("2002");
    all["accounts"].as_array_mut().unwrap().push(account);
    all["producers"].as_array_mut().unwrap().push(json!({"name": "crm"}));
    let number = json!({"account": "second", "business_number": "+15550002222", "provider_number_id": "1002"});
    all["numbers"].as_array_mut().unwrap().push(number);
    let mut template = all["templates"][0].clone();
    (template["account"], template["name"], template["category"]) =
        (json!("second"), json!("notice"), json!("utility"));
    template["provider_template_id"] = json!("900700");
    all["templates"].as_array_mut().unwrap().push(template);
    all
}

async fn served(options: &PgConnectOptions) -> (Served, String, Vec<uuid::Uuid>) {
    let served = Served::over(options).await;
    let admin = served.token(&[Scope::Admin]).await;
    let secrets = json!({"access_token": "t0ken", "app_secret": "s3cret", "verify_token": "v"});
    let secrets = json!({"default/main": secrets, "default/second": secrets});
    let body = json!({"registry": two_accounts(), "secrets": secrets});
    let (status, answer) = served.call(&admin, reqwest::Method::PUT, "/v1/registry", Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let batches = seed(
        &served,
        &[
            &["sent", "sent", "failed"],
            &["pending", "pending"],
            &["sent"],
            &["failed"],
            &["uncertain", "sent"],
            &["pending"],
        ],
    )
    .await;
    let mut connection = served.store.acquire().await.unwrap();
    for statement in [
        "UPDATE batch SET account_id = a.id, number_id = n.id, template_id = t.id, lane = 'utility', campaign = 'spring', producer = 'crm'
         FROM account a JOIN business_number n ON n.account_id = a.id JOIN template t ON t.account_id = a.id
         WHERE a.name = 'second' AND job_id = 'job-2'",
        "UPDATE message m SET ref = 'crm-7' FROM batch b WHERE b.batch_id = m.batch_id AND b.job_id = 'job-0' AND m.seq = 2",
        // The job's number is its hour, the place its minute.
        "UPDATE message m SET accepted_at = timestamptz '2026-01-10 00:00Z'
                + make_interval(hours => substr(b.job_id, 5)::int, mins => m.seq)
         FROM batch b WHERE b.batch_id = m.batch_id AND m.state = 'sent'",
        "INSERT INTO sent_group (number_id, batch_id, first_at, last_at, seqs)
         SELECT b.number_id, m.batch_id, min(m.accepted_at), max(m.accepted_at), array_agg(m.seq)
         FROM message m JOIN batch b USING (batch_id) WHERE m.accepted_at IS NOT NULL GROUP BY 1, 2",
        "UPDATE failed_message f SET failed_at = timestamptz '2026-02-01 00:00Z' + make_interval(hours => substr(b.job_id, 5)::int)
         FROM batch b WHERE b.batch_id = f.batch_id",
        "UPDATE work w SET wake_at = timestamptz '2026-03-01 00:00Z' + make_interval(hours => substr(b.job_id, 5)::int, mins => w.seq)
         FROM batch b WHERE b.batch_id = w.batch_id",
    ] {
        sqlx::raw_sql(statement).execute(&mut *connection).await.unwrap();
    }
    drop(connection);
    (served, admin, batches)
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn every_filter_finds_its_messages_in_the_order_of_the_list(_: PgPoolOptions, options: PgConnectOptions) {
    let (served, admin, batches) = served(&options).await;
    let id = |batch: usize, seq: i32| format!("{}.{seq}", batches[batch]);
    let spring = vec![id(2, 1)];
    let january = "since=2026-01-10T00:00:00Z&until=2026-02-01T00:00:00Z";
    let cases = [
        ("list=sent&campaign=spring", spring.clone()),
        ("list=sent&account=second", spring.clone()),
        ("list=sent&template=notice", spring.clone()),
        ("list=sent&template=900700", spring.clone()),
        ("list=sent&category=utility", spring.clone()),
        ("list=sent&producer=crm", spring.clone()),
        ("list=sent&number=%2B15550002222", spring.clone()),
        ("state=sent&producer=crm&campaign=spring", spring),
        ("list=sent&campaign=none", vec![]),
        ("list=sent&channel=whatsapp", vec![id(4, 2), id(2, 1), id(0, 1), id(0, 2)]),
        ("list=sent&category=marketing", vec![id(4, 2), id(0, 1), id(0, 2)]),
        ("list=sent&job_id=job-0", vec![id(0, 1), id(0, 2)]),
        ("list=pending&producer=shop", vec![id(5, 1), id(1, 1), id(1, 2)]),
        ("list=failed&template=spring_offer", vec![id(3, 1), id(0, 3)]),
        ("ref=crm-7", vec![id(0, 2)]),
        ("list=failed&ref=crm-7", vec![]),
        ("code=131026", vec![id(3, 1), id(0, 3)]),
        ("code=131026&since=2026-02-01T01:00:00Z", vec![id(3, 1)]),
        ("code=9", vec![]),
        // By time: each end is where it says.
        (january, vec![]),
        ("list=sent&since=2026-01-10T00:01:00Z&until=2026-01-10T00:02:00Z", vec![id(0, 1)]),
        ("list=sent&since=2026-01-10T00:02:00Z", vec![id(4, 2), id(2, 1), id(0, 2)]),
        ("list=sent&until=2026-01-10T02:01:00Z", vec![id(0, 1), id(0, 2)]),
        ("list=sent&producer=shop&since=2026-01-10T00:02:00Z", vec![id(4, 2), id(0, 2)]),
        ("list=sent&state=read&since=2026-01-10T00:02:00Z", vec![]),
        ("list=failed&until=2026-02-01T03:00:00Z", vec![id(0, 3)]),
        ("list=pending&since=2026-03-01T01:02:00Z", vec![id(1, 2), id(5, 1)]),
        ("list=pending&until=2026-03-01T01:02:00Z&producer=shop", vec![id(1, 1)]),
        ("list=uncertain&since=2026-03-01T04:01:00Z&until=2026-03-01T04:02:00Z", vec![id(4, 1)]),
        ("list=sent&recipient=%2B819012345602&since=2026-01-10T01:00:00Z", vec![id(4, 2)]),
    ];
    for (filter, expected) in &cases {
        for limit in [1, 2, 500] {
            let found = pages(&served, &admin, &format!("/v1/messages?{filter}"), limit).await;
            let found: Vec<_> = found.iter().map(|row| row["id"].as_str().unwrap()).collect();
            assert_eq!(found, *expected, "{filter} by {limit}");
        }
    }
    let path = format!("/v1/messages?list=sent&batch={}&{january}", batches[0]);
    assert_eq!(pages(&served, &admin, &path, 1).await.len(), 2);
    let found = served.get(&admin, "/v1/messages?since=2026-03-01T00:00:00Z").await.1;
    assert_eq!(found["items"].as_array().unwrap().len(), 10, "all goes by when its batch is due");
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn many_numbers_are_listed_as_few_are(_: PgPoolOptions, options: PgConnectOptions) {
    let (served, admin, batches) = served(&options).await;
    let mut connection = served.store.acquire().await.unwrap();
    sqlx::raw_sql(
        "INSERT INTO business_number (account_id, business_number, provider_number_id, status)
         SELECT a.id, '+1555001' || n, n, 'connected' FROM account a, generate_series(1000, 1099) n WHERE a.name = 'second'",
    )
    .execute(&mut *connection)
    .await
    .unwrap();
    drop(connection);
    let id = |batch: usize, seq: i32| format!("{}.{seq}", batches[batch]);
    for (filter, expected) in [
        ("list=sent&since=2026-01-10T00:02:00Z", vec![id(4, 2), id(2, 1), id(0, 2)]),
        ("list=sent&account=second&since=2026-01-10T00:02:00Z", vec![id(2, 1)]),
        ("list=failed&until=2026-02-01T04:00:00Z", vec![id(3, 1), id(0, 3)]),
        ("list=failed&account=second&until=2026-02-01T04:00:00Z", vec![]),
        ("code=131026&since=2026-02-01T01:00:00Z", vec![id(3, 1)]),
    ] {
        for limit in [1, 500] {
            let found = pages(&served, &admin, &format!("/v1/messages?{filter}"), limit).await;
            let found: Vec<_> = found.iter().map(|row| row["id"].as_str().unwrap()).collect();
            assert_eq!(found, *expected, "{filter} by {limit}");
        }
    }
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn batches_are_found_by_all_that_they_have(_: PgPoolOptions, options: PgConnectOptions) {
    let (served, admin, batches) = served(&options).await;
    for filter in
        ["campaign=spring", "account=second", "template=notice", "category=utility", "producer=crm", "job_id=job-2"]
    {
        let (_, found) = served.get(&admin, &format!("/v1/batches?{filter}")).await;
        assert_eq!(
            (&found["items"][0]["batch_id"], found["items"].as_array().unwrap().len()),
            (&json!(batches[2]), 1),
            "{filter}"
        );
    }
    let (_, all) = served.get(&admin, "/v1/batches").await;
    let third = all["items"][2]["created_at"].as_str().unwrap().replace('+', "%2B");
    for (range, count) in [("since", 3), ("until", 3)] {
        for also in ["", "&number=%2B15550001111&producer=shop", "&channel=whatsapp"] {
            let path = format!("/v1/batches?{range}={third}{also}");
            let found = pages(&served, &admin, &path, 1).await.len();
            let of_second = usize::from(range == "until" && also.contains("number"));
            assert_eq!(found, count - of_second, "{path}");
        }
    }
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn what_cannot_be_asked_is_refused_by_name(_: PgPoolOptions, options: PgConnectOptions) {
    let (served, admin, batches) = served(&options).await;
    let key = format!("{}.1", batches[0]);
    let by_time = format!("/v1/messages?list=sent&since=2026-01-02T00:00:00Z&after={key}");
    let by_batch = format!("/v1/messages?after=1750030073000001.{key}");
    let cases = [
        ("/v1/messages?account=third", "/account"),
        ("/v1/messages?template=none", "/template"),
        ("/v1/batches?template=notice&category=marketing", "/template"),
        ("/v1/messages?since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z", "/since"),
        // A place of a list by batch is none of a list by time, and the other way round.
        (by_time.as_str(), "/after"),
        (by_batch.as_str(), "/after"),
        ("/v1/messages/export?format=csv&limit=5", "/limit"),
        ("/v1/reports?by=day&zone=Asia/Nowhere", "/zone"),
    ];
    for (path, pointer) in cases {
        let (status, answer) = served.get(&admin, path).await;
        assert_eq!(
            (status, &answer["errors"][0]["pointer"]),
            (StatusCode::UNPROCESSABLE_ENTITY, &json!(pointer)),
            "{path}"
        );
    }
    for path in ["/v1/messages?channel=fax", "/v1/messages/export", "/v1/messages/export?format=pdf", "/v1/reports"] {
        assert_eq!(served.get(&admin, path).await.0, StatusCode::BAD_REQUEST, "{path}");
    }
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn a_list_is_exported_whole_and_as_text(_: PgPoolOptions, options: PgConnectOptions) {
    let (served, admin, _) = served(&options).await;
    let whole = served.token(&[Scope::Read, Scope::Pii]).await;
    let mut connection = served.store.acquire().await.unwrap();
    sqlx::raw_sql("UPDATE message SET ref = '=1+1' WHERE ref = 'crm-7'").execute(&mut *connection).await.unwrap();
    let path = "/v1/messages/export?format=csv&list=sent&job_id=job-0";
    let (status, masked) = served.get(&admin, path).await;
    assert_eq!(status, StatusCode::OK);
    let masked = masked.as_str().unwrap();
    assert_eq!(masked.lines().count(), 3, "{masked}");
    assert!(masked.contains("\"'=1+1\"") && !masked.contains("+819012345602"), "{masked}");
    assert!(served.get(&whole, path).await.1.as_str().unwrap().contains("\"+819012345602\""));

    let url = format!("{}/v1/messages/export?format=xlsx&list=sent", served.url);
    let file = served.client().get(url).bearer_auth(&whole).send().await.unwrap().bytes().await.unwrap();
    let mut book = Xlsx::new(std::io::Cursor::new(file)).unwrap();
    let sheet = book.worksheet_range_at(0).unwrap().unwrap();
    assert_eq!(sheet.height(), 5);
    assert!(
        sheet
            .rows()
            .any(|row| row[1] == Data::String("+819012345602".to_owned()) && row[2] == Data::String("=1+1".to_owned()))
    );

    let (_, batches) = served.get(&admin, "/v1/batches/export?format=csv&campaign=spring").await;
    assert_eq!(batches.as_str().unwrap().lines().count(), 2, "{batches}");
    let (_, received) = served.get(&admin, "/v1/received/export?format=csv").await;
    assert_eq!(received.as_str().unwrap().lines().count(), 1, "{received}");
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn reports_count_every_state(_: PgPoolOptions, options: PgConnectOptions) {
    let (served, admin, _) = served(&options).await;
    let soon = "until=2100-01-01T00:00:00Z&since=2026-01-01T00:00:00Z";
    for (by, keys) in [
        ("business_number", vec!["+15550001111", "+15550002222"]),
        ("template", vec!["notice ja", "spring_offer ja"]),
        ("campaign", vec!["", "spring"]),
    ] {
        let (_, report) = served.get(&admin, &format!("/v1/reports?by={by}&{soon}")).await;
        let rows = report["rows"].as_array().unwrap();
        assert_eq!(rows.iter().map(|row| row["key"].as_str().unwrap()).collect::<Vec<_>>(), keys, "{by}");
        let sum = |state: &str| rows.iter().map(|row| row[state].as_i64().unwrap()).sum::<i64>();
        let counts = ["batches", "messages", "pending", "uncertain", "sent", "failed", "read"].map(sum);
        assert_eq!(counts, [6, 10, 3, 1, 4, 2, 0], "{by}");
    }
    let (_, days) = served.get(&admin, "/v1/reports?by=day&zone=Asia/Tokyo").await;
    let today: String =
        sqlx::query_scalar("SELECT to_char(max(send_at) AT TIME ZONE 'Asia/Tokyo', 'YYYY-MM-DD') FROM batch")
            .fetch_one(&mut *served.store.acquire().await.unwrap())
            .await
            .unwrap();
    assert_eq!(
        (&days["rows"].as_array().unwrap().last().unwrap()["key"], &days["zone"]),
        (&json!(today), &json!("Asia/Tokyo"))
    );
    let (_, errors) = served.get(&admin, &format!("/v1/reports?by=error&{soon}")).await;
    assert_eq!((&errors["rows"][0]["key"], &errors["rows"][0]["failed"]), (&json!("131026"), &json!(2)));
    let other = served.token_for("default", &[Scope::Publish]).await;
    assert_eq!(served.get(&other, "/v1/reports?by=day").await.0, StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_is_found_by_number_and_time_however_it_became_known() {
    let world = World::start(Plan::default()).await;
    let batch = world.batch(world.number(1), "offer", 0, 6).await;
    let mut connection = world.database.connect().await;
    sqlx::raw_sql("UPDATE work SET stage = 'calling', attempt = 1, wake_at = now() + interval '1 minute'")
        .execute(&mut connection)
        .await
        .unwrap();
    let told = "2026-01-31T08:59:59Z".parse().unwrap();
    let change = |seq, event, at| Change { at, ..Change::new(MessageKey { batch_id: batch, seq }, 1, event) };
    let rules = Rules { grace: Duration::from_mins(1), events: Wanted::DEFAULT };
    let groups = [
        // A settle; callbacks of calls that are not settled; a settle of what callbacks told before, and a repeat.
        vec![change(1, MessageEvent::Accepted, None), change(2, MessageEvent::Accepted, None)],
        vec![
            change(3, MessageEvent::Sent, Some(told)),
            change(4, MessageEvent::Delivered, Some(told)),
            change(1, MessageEvent::Sent, Some(told)),
        ],
        vec![
            change(3, MessageEvent::Accepted, None),
            change(5, MessageEvent::Accepted, None),
            change(1, MessageEvent::Accepted, None),
        ],
        // A call nobody knows of, and the late news that lifts it.
        vec![change(6, MessageEvent::Unknown, None)],
        vec![change(6, MessageEvent::Read, Some(told))],
    ];
    for group in &groups {
        messages::apply(&mut connection, group, rules).await.unwrap();
    }
    let found: Vec<(i32, bool, i64)> = sqlx::query_as(
        "SELECT m.seq, m.accepted_at = '2026-01-31T09:00:00Z', count(*) FROM sent_group g CROSS JOIN unnest(g.seqs) AS s(seq)
         JOIN message m ON m.batch_id = g.batch_id AND m.seq = s.seq AND m.accepted_at BETWEEN g.first_at AND g.last_at
         GROUP BY 1, 2 ORDER BY 1",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let expected = [(1, false, 1), (2, false, 1), (3, true, 1), (4, true, 1), (5, false, 1), (6, true, 1)];
    assert_eq!(found, expected);
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM sent_group").fetch_one(&mut connection).await.unwrap();
    assert_eq!(rows, 4, "one for each group of changes, number and batch");
    world.finish().await;
}
