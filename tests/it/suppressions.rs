//! Who must not be messaged: between intake and claim, by what recipients say, by the provider's codes, by people.

use std::time::Duration;

use campaign_dispatch::{
    domain::{
        ids::{AccountId, BatchId, TenantId},
        suppression::{SuppressionScope, SuppressionSource},
    },
    registry::tokens::Scope,
    simulator::{Fault, FaultAction, FaultMatch},
    store::suppressions::{self, Cover, Lifted, Resume, Stop},
};
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::{
    journey::{Home, job},
    served::{Served, registry},
    support::{
        broker::Peer,
        eventually::eventually,
        world::{Plan, World},
    },
};

const LONG: Duration = Duration::from_mins(1);
const PERSON: &str = "+819010000000";

fn stop(scope: SuppressionScope, recipient: &str, at: Option<DateTime<Utc>>) -> Stop {
    let account = (scope != SuppressionScope::Tenant).then_some(AccountId(1));
    let cover = Cover { tenant: TenantId(1), account, scope };
    let (recipient, detail) = (recipient.to_owned(), "test".to_owned());
    Stop { cover, recipient, source: SuppressionSource::Keyword, detail, at }
}

async fn suppress(world: &World, scope: SuppressionScope, recipient: &str) {
    let stops = [stop(scope, recipient, None)];
    assert_eq!(suppressions::stop(&mut world.store.acquire().await.unwrap(), &stops).await.unwrap(), 1);
}

/// Recipients of a batch that were not called, with the code.
async fn spared(world: &World, batch: BatchId) -> Vec<(String, String)> {
    sqlx::query_as(
        "SELECT recipient, code FROM message WHERE batch_id = $1 AND state = 'suppressed' AND ended_at IS NOT NULL ORDER BY 1",
    )
    .bind(batch.0)
    .fetch_all(world.store.pool())
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_opts_out_between_intake_and_claim_is_not_called_and_marketing_stops_marketing_only() {
    let world = World::start(Plan::default()).await;
    let number = world.number(1);
    let marketing = world.batch(number, "offer", 0, 60).await;
    let utility = world.batch(number, "order", 0, 60).await;
    let code = world.batch(number, "order", 0, 5).await;
    for statement in [
        "UPDATE batch SET lane = 'authentication' WHERE batch_id = $1",
        "UPDATE work SET lane = 'authentication' WHERE batch_id = $1",
    ] {
        sqlx::query(statement).bind(code.0).execute(world.store.pool()).await.unwrap();
    }
    suppress(&world, SuppressionScope::Marketing, "+819000000001").await;
    suppress(&world, SuppressionScope::Account, "+819000000002").await;
    suppress(&world, SuppressionScope::Tenant, "+819000000003").await;
    // Neither of another tenant, nor one that was lifted, nor of another account.
    for sql in [
        "INSERT INTO tenant (name) VALUES ('other')",
        "INSERT INTO suppression (tenant_id, scope, recipient, source) SELECT id, 'tenant', '+819000000004', 'api' FROM tenant WHERE name = 'other'",
        "INSERT INTO suppression (tenant_id, scope, recipient, source, lifted_at, lifted_by) VALUES (1, 'tenant', '+819000000005', 'api', now(), 'x')",
        "INSERT INTO account (tenant_id, name, channel, provider, base_url, api_version, waba_id, credentials, app_digest)
         SELECT tenant_id, 'second', channel, provider, base_url, api_version, '2002', credentials, app_digest FROM account",
        "INSERT INTO suppression (tenant_id, account_id, scope, recipient, source) SELECT 1, id, 'account', '+819000000005', 'api' FROM account WHERE name = 'second'",
    ] {
        sqlx::raw_sql(sql).execute(world.store.pool()).await.unwrap();
    }
    let worker = world.work();
    let counts = world.all_called(LONG).await;
    assert_eq!((counts.sent(), counts.of("suppressed")), (118, 7));
    let told = |rows: &[(&str, &str)]| {
        rows.iter().map(|(to, code)| ((*to).to_owned(), (*code).to_owned())).collect::<Vec<_>>()
    };
    let wide = [("+819000000002", "suppressed_account"), ("+819000000003", "suppressed_tenant")];
    assert_eq!(
        spared(&world, marketing).await,
        told(&[&[("+819000000001", "suppressed_marketing")], &wide[..]].concat())
    );
    assert_eq!(spared(&world, utility).await, told(&wide));
    assert_eq!(spared(&world, code).await, told(&wide));
    let ledger = world.ledger();
    assert_eq!((ledger.totals.calls, ledger.totals.accepted), (118, 118), "who is suppressed is not called");
    let attempts: i64 = sqlx::query_scalar("SELECT count(*) FROM attempt").fetch_one(world.store.pool()).await.unwrap();
    assert_eq!(attempts, 0);
    worker.drain().await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_not_made_to_who_opted_out_meanwhile() {
    let world = World::start_with(Plan::default(), &[("DISPATCH__RETRY__CEILING_S", "1")]).await;
    let refused = FaultMatch { suffix: Some("0001".to_owned()), ..FaultMatch::default() };
    world.simulator.add_fault(Fault { when: refused, action: FaultAction::Throttle });
    let batch = world.batch(world.number(1), "offer", 0, 3).await;
    let worker = world.work();
    eventually("it was refused once", LONG, async || {
        let tried: i64 =
            sqlx::query_scalar("SELECT count(*) FROM attempt").fetch_one(world.store.pool()).await.unwrap();
        (tried > 0).then_some(())
    })
    .await;
    suppress(&world, SuppressionScope::Marketing, "+819000000001").await;
    let counts = world.all_called(LONG).await;
    assert_eq!((counts.sent(), counts.of("suppressed")), (2, 1));
    assert_eq!(spared(&world, batch).await.len(), 1);
    worker.drain().await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_was_said_later_changes_something() {
    let world = World::start(Plan::default()).await;
    let mut connection = world.store.acquire().await.unwrap();
    let at = |seconds| Utc::now() - TimeDelta::hours(1) + TimeDelta::seconds(seconds);
    let resume = |seconds, is_told_by_provider| Resume {
        tenant: TenantId(1),
        account: AccountId(1),
        recipient: PERSON.to_owned(),
        is_told_by_provider,
        detail: "test".to_owned(),
        at: at(seconds),
    };
    let stop_at = |seconds| stop(SuppressionScope::Marketing, PERSON, Some(at(seconds)));
    let stops = [stop_at(10), stop_at(20), stop_at(15)];
    assert_eq!(suppressions::stop(&mut connection, &stops).await.unwrap(), 1, "one person, one suppression");
    assert_eq!(suppressions::stop(&mut connection, &stops).await.unwrap(), 0, "a repeat");
    assert_eq!(suppressions::resume(&mut connection, &[resume(12, true)]).await.unwrap(), 0, "older than the stop");
    assert_eq!(suppressions::resume(&mut connection, &[resume(30, false)]).await.unwrap(), 1);
    assert_eq!(suppressions::stop(&mut connection, &stops).await.unwrap(), 0, "older than the resume");
    assert_eq!(suppressions::stop(&mut connection, &[stop_at(40)]).await.unwrap(), 1);
    // A wider one is for a person to lift, and what the provider knows for the provider.
    let wide = [stop(SuppressionScope::Account, PERSON, None), stop(SuppressionScope::Tenant, PERSON, None)];
    assert_eq!(suppressions::stop(&mut connection, &wide).await.unwrap(), 2);
    assert_eq!(suppressions::stop(&mut connection, &wide).await.unwrap(), 0);
    sqlx::query("UPDATE suppression SET source = 'provider_code' WHERE scope = 'marketing' AND lifted_at IS NULL")
        .execute(&mut *connection)
        .await
        .unwrap();
    assert_eq!(suppressions::resume(&mut connection, &[resume(50, false)]).await.unwrap(), 0);
    assert_eq!(suppressions::resume(&mut connection, &[resume(50, true), resume(51, true)]).await.unwrap(), 1);
    let open: Vec<i64> = sqlx::query_scalar("SELECT id FROM suppression WHERE lifted_at IS NULL ORDER BY id")
        .fetch_all(&mut *connection)
        .await
        .unwrap();
    assert_eq!(open.len(), 2);
    let lift = async |connection: &mut _, tenant| {
        suppressions::lift(connection, tenant, open[0], "me", "asked").await.unwrap()
    };
    assert_eq!(lift(&mut connection, TenantId(2)).await, Lifted::Unknown);
    assert_eq!(lift(&mut connection, TenantId(1)).await, Lifted::Now);
    assert_eq!(lift(&mut connection, TenantId(1)).await, Lifted::Before);
    drop(connection);
    world.finish().await;
}

/// A webhook with one value of a field.
fn webhook(field: &str, value: &Value) -> Value {
    json!({"object": "whatsapp_business_account", "entry": [{"id": "2001", "changes": [{"field": field, "value": value}]}]})
}

fn written(messages: &[(&str, &str, &str, i64)]) -> Value {
    let messages: Vec<Value> = messages
        .iter()
        .map(|(from, id, body, at)| {
            json!({"from": from, "id": id, "timestamp": at.to_string(), "type": "text", "text": {"body": body}})
        })
        .collect();
    let metadata = json!({"display_phone_number": "81312340001", "phone_number_id": "1001"});
    webhook("messages", &json!({"messaging_product": "whatsapp", "metadata": metadata, "messages": messages}))
}

fn preference(who: &str, value: &str, at: i64) -> Value {
    let said = json!({"wa_id": who, "detail": "…", "category": "marketing_messages", "value": value, "timestamp": at});
    webhook("user_preferences", &json!({"contacts": [], "user_preferences": [said]}))
}

async fn in_force(home: &Home, wanted: i64) {
    eventually(&format!("{wanted} suppressions are in force"), LONG, async || {
        let found: i64 = sqlx::query_scalar("SELECT count(*) FROM suppression WHERE lifted_at IS NULL")
            .fetch_one(home.world.store.pool())
            .await
            .unwrap();
        (found == wanted).then_some(())
    })
    .await;
}

async fn received(home: &Home, wanted: i64) {
    eventually(&format!("{wanted} messages were received"), LONG, async || {
        let found: i64 = sqlx::query_scalar("SELECT count(*) FROM inbound_message")
            .fetch_one(home.world.store.pool())
            .await
            .unwrap();
        (found == wanted).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_recipients_say_is_kept_and_obeyed_until_they_say_otherwise() {
    let home = Home::start(Plan::default()).await;
    let peer = Peer::new().await;
    let (person, other, now) = (PERSON.trim_start_matches('+'), "819010000001", Utc::now().timestamp() - 600);
    // Postgres keeps no NUL: it must not stop what comes after it.
    let stop = written(&[(person, "wamid.1", "ｓｔｏｐ ", now), (other, "wamid.2", "stop it\0?", now)]);
    for _ in 0..2 {
        assert_eq!(home.signed(&stop).await, 200);
    }
    received(&home, 2).await;
    in_force(&home, 1).await;
    home.publish(&peer, &job("1", 0..3)).await;
    home.states(&[("read", 2), ("suppressed", 1)]).await;
    // The account is named by the preference, the number by the message.
    assert_eq!(home.signed(&preference(person, "resume", now + 60)).await, 200);
    in_force(&home, 0).await;
    home.publish(&peer, &job("2", 0..3)).await;
    home.states(&[("read", 5), ("suppressed", 1)]).await;
    // What was heard before changes nothing.
    assert_eq!(home.signed(&stop).await, 200);
    assert_eq!(home.signed(&written(&[(other, "wamid.3", "配信停止", now + 90)])).await, 200);
    in_force(&home, 1).await;
    received(&home, 3).await;
    assert_eq!(home.signed(&preference(person, "stop", now + 120)).await, 200);
    in_force(&home, 2).await;
    let rows: Vec<(String, String, Option<String>)> =
        sqlx::query_as("SELECT recipient, source, lifted_by FROM suppression ORDER BY id")
            .fetch_all(home.world.store.pool())
            .await
            .unwrap();
    let row = |to: &str, source: &str, by: Option<&str>| (to.to_owned(), source.to_owned(), by.map(str::to_owned));
    let expected = [
        row(PERSON, "keyword", Some("recipient")),
        row("+819010000001", "keyword", None),
        row(PERSON, "preference", None),
    ];
    assert_eq!(rows, expected);
    home.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_providers_word_makes_one_and_utility_still_goes_out() {
    let home = Home::start(Plan::default()).await;
    let peer = Peer::new().await;
    let person = FaultMatch { suffix: Some("0000".to_owned()), count: Some(1), ..FaultMatch::default() };
    home.world.simulator.add_fault(Fault { when: person, action: FaultAction::AsyncError(131_050) });
    home.world.simulator.add_fault(Fault { when: FaultMatch::default(), action: FaultAction::DuplicateCallbacks });
    home.publish(&peer, &job("1", 0..3)).await;
    home.states(&[("failed", 1), ("read", 2)]).await;
    in_force(&home, 1).await;
    let (source, detail): (String, String) =
        sqlx::query_as("SELECT source, detail FROM suppression WHERE recipient = $1")
            .bind(PERSON)
            .fetch_one(home.world.store.pool())
            .await
            .unwrap();
    assert_eq!((source.as_str(), detail.as_str()), ("provider_code", "131050"));
    home.publish(&peer, &job("2", 0..3)).await;
    home.states(&[("failed", 1), ("read", 4), ("suppressed", 1)]).await;
    let mut order = job("3", 0..3);
    order["template"]["name"] = json!("order");
    home.publish(&peer, &order).await;
    home.states(&[("failed", 1), ("read", 7), ("suppressed", 1)]).await;
    in_force(&home, 1).await;
    home.finish().await;
}

/// A registry, somebody who operates, and somebody who sees all.
async fn people(options: &PgConnectOptions) -> (Served, String, String) {
    let served = Served::over(options).await;
    let admin = served.token(&[Scope::Admin]).await;
    assert_eq!(served.put_registry(&admin, &registry()).await.0, StatusCode::OK);
    let operator = served.token(&[Scope::Operate, Scope::Publish, Scope::Read]).await;
    let whole = served.token(&[Scope::Read, Scope::Pii]).await;
    (served, operator, whole)
}

fn marketing(to: &[&str]) -> Value {
    json!({"to": to, "scope": "marketing", "account": "main", "reason": "phoned"})
}

async fn upload(served: &Served, token: &str, path: &str, file: &'static str) -> (StatusCode, Value) {
    let request = served.client().post(format!("{}{path}", served.url)).bearer_auth(token).body(file);
    let answer = request.send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

const FILE: &str = "/v1/suppressions/import?scope=tenant&country=JP&reason=old%20list";

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn people_suppress_and_are_told_what_is_wrong(_: PgPoolOptions, options: PgConnectOptions) {
    let (served, operator, _) = people(&options).await;
    let add = async |body: Value| served.call(&operator, Method::POST, "/v1/suppressions", Some(body)).await;
    let wish = marketing(&["+81 90-1234-5678", "080", "+819012345678"]);
    let (status, told) = add(wish.clone()).await;
    assert_eq!(
        (status, &told["added"], &told["unchanged"], &told["bad"]),
        (StatusCode::OK, &json!(1), &json!(1), &json!(1)),
        "{told}"
    );
    assert_eq!((&told["rejections"][0]["row"], &told["rejections"][0]["code"]), (&json!(2), &json!("invalid_number")));
    let (_, told) = add(wish).await;
    assert_eq!((&told["added"], &told["unchanged"]), (&json!(0), &json!(2)));
    for (body, code) in [
        (json!({"to": ["+819012345678"], "scope": "marketing", "reason": "r"}), "missing_account"),
        (json!({"to": ["+819012345678"], "scope": "account", "account": "mian", "reason": "r"}), "unknown_account"),
        (json!({"to": ["+819012345678"], "scope": "tenant", "account": "main", "reason": "r"}), "not_with_tenant"),
        (json!({"to": ["+819012345678"], "scope": "tenant", "reason": "\0"}), "ill_formed"),
        (json!({"to": ["+819012345678"], "scope": "tenant", "reason": " "}), "empty"),
        (json!({"to": [], "scope": "tenant", "reason": "r"}), "too_many_addresses"),
    ] {
        let (status, told) = add(body).await;
        assert_eq!((status, &told["errors"][0]["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!(code)), "{told}");
    }
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn a_file_is_taken_row_by_row(_: PgPoolOptions, options: PgConnectOptions) {
    let (served, operator, _) = people(&options).await;
    let (_, told) = upload(&served, &operator, FILE, "name,to\n佐藤,090-1234-5679\n鈴木,12\n,\n").await;
    assert_eq!((&told["rows"], &told["added"], &told["bad"]), (&json!(2), &json!(1), &json!(1)), "{told}");
    assert_eq!(told["rejections"][0]["row"], 3);
    let (status, told) = upload(&served, &operator, FILE, "name\nx\n").await;
    assert_eq!((status, &told["errors"][0]["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("missing_column")));
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn suppressions_are_listed_and_lifted(_: PgPoolOptions, options: PgConnectOptions) {
    let (served, operator, whole) = people(&options).await;
    let body = Some(marketing(&["+819012345678"]));
    assert_eq!(served.call(&operator, Method::POST, "/v1/suppressions", body).await.0, StatusCode::OK);
    let (_, told) = upload(&served, &operator, FILE, "to\n09012345679\n").await;
    assert_eq!(told["added"], 1, "{told}");
    let (_, list) = served.get(&operator, "/v1/suppressions").await;
    assert_eq!(list["items"].as_array().unwrap().len(), 2, "{list}");
    assert!(!list.to_string().contains("+819012345678"), "masked");
    let (_, list) = served.get(&whole, "/v1/suppressions?recipient=%2B819012345678&scope=marketing&source=api").await;
    let first = &list["items"][0];
    assert_eq!(
        (&first["recipient"], &first["account"], &first["detail"]),
        (&json!("+819012345678"), &json!("main"), &json!("test: phoned"))
    );
    let path = format!("/v1/suppressions/{}", first["id"]);
    let lift =
        async |reason: &str| served.call(&operator, Method::DELETE, &format!("{path}?reason={reason}"), None).await.0;
    assert_eq!(lift("").await, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(lift("wrote%20again").await, StatusCode::NO_CONTENT);
    assert_eq!(lift("again").await, StatusCode::CONFLICT);
    let (_, list) = served.get(&whole, "/v1/suppressions?all=true&recipient=%2B819012345678").await;
    assert_eq!((&list["items"][0]["lifted_by"], &list["items"][0]["reason"]), (&json!("test"), &json!("wrote again")));
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn forecasts_leave_out_who_is_suppressed(_: PgPoolOptions, options: PgConnectOptions) {
    let (served, operator, _) = people(&options).await;
    let body = Some(marketing(&["+819012345678"]));
    assert_eq!(served.call(&operator, Method::POST, "/v1/suppressions", body).await.0, StatusCode::OK);
    let (_, told) = upload(&served, &operator, FILE, "to\n09012345679\n").await;
    assert_eq!(told["added"], 1, "{told}");
    let offer = json!({"schema": "send-job/v1", "job_id": "1", "producer": "shop", "business_number": "+15550001111",
        "template": {"name": "spring_offer", "language": "ja"},
        "recipients": [{"to": "+819012345678", "params": {"1": "a"}}, {"to": "+819012345680", "params": {"1": "b"}}]});
    let (_, told) = served.call(&operator, Method::POST, "/v1/forecast", Some(offer.clone())).await;
    assert_eq!(
        (&told["recipients"], &told["left_out"]),
        (&json!(1), &json!([{"code": "suppressed", "recipients": 1}])),
        "{told}"
    );

    // The same of a group, and of an import.
    let wish = json!({"name": "vip", "channel": "whatsapp"});
    assert_eq!(served.call(&operator, Method::POST, "/v1/audiences", Some(wish)).await.0, StatusCode::CREATED);
    let members = json!({"members": offer["recipients"]});
    assert_eq!(
        served.call(&operator, Method::POST, "/v1/audiences/vip/members", Some(members)).await.0,
        StatusCode::OK
    );
    let file = "to,1\n+819012345678,a\n+819012345680,b\n+819012345679,c\n";
    let path = "/v1/imports?business_number=%2B15550001111&template=spring_offer&language=ja";
    let (_, made) = upload(&served, &operator, path, file).await;
    for (audience, reached, spared) in [(json!({"group": "vip"}), 1, 1), (json!({"import": made["id"]}), 1, 2)] {
        let mut job = offer.clone();
        job.as_object_mut().unwrap().remove("recipients");
        job["audience"] = audience;
        let (_, told) = served.call(&operator, Method::POST, "/v1/forecast", Some(job)).await;
        let left_out = json!([{"code": "suppressed", "recipients": spared}]);
        assert_eq!((&told["recipients"], &told["left_out"]), (&json!(reached), &left_out), "{told} {made}");
    }
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn what_was_received_is_listed_by_page_and_masked(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    let admin = served.token(&[Scope::Admin]).await;
    assert_eq!(served.put_registry(&admin, &registry()).await.0, StatusCode::OK);
    let (reader, whole) = (served.token(&[Scope::Read]).await, served.token(&[Scope::Read, Scope::Pii]).await);
    // 120 messages, three in each second of 40; every fourth to no number that is known.
    sqlx::raw_sql(
        "INSERT INTO inbound_message (account_id, number_id, provider_message_id, sender, kind, text, received_at)
         SELECT a.id, CASE WHEN i % 4 > 0 THEN n.id END, 'wamid.' || i, '+8190123456' || lpad((i % 10)::text, 2, '0'), 'text', 'text ' || i,
                timestamptz '2026-01-31T23:59:30Z' + make_interval(secs => i / 3)
         FROM account a, business_number n, generate_series(0, 119) i",
    )
    .execute(served.store.pool())
    .await
    .unwrap();
    let walk = async |filter: &str| {
        let (mut ids, mut next) = (Vec::new(), String::new());
        loop {
            let (status, page) = served.get(&whole, &format!("/v1/received?limit=7{filter}{next}")).await;
            assert_eq!(status, StatusCode::OK, "{page}");
            ids.extend(page["items"].as_array().unwrap().iter().map(|item| item["id"].as_i64().unwrap()));
            match page["next"].as_str() {
                Some(after) => next = format!("&after={after}"),
                None => return ids,
            }
        }
    };
    let all = walk("").await;
    let mut sorted = all.clone();
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    sorted.dedup();
    assert_eq!((all.len(), &all), (120, &sorted), "each once, the latest first");
    assert_eq!(walk("&number=%2B15550001111").await.len(), 90);
    assert_eq!(walk("&account=main").await.len(), 120);
    assert_eq!(walk("&account=other").await.len(), 0);
    assert_eq!(walk("&sender=%2B819012345603").await.len(), 12);
    assert_eq!(
        walk("&since=2026-01-31T23:59:40Z&until=2026-02-01T00:00:00Z").await.len(),
        60,
        "half-open, across months"
    );
    assert_eq!(served.get(&whole, "/v1/received?after=x").await.0, StatusCode::UNPROCESSABLE_ENTITY);
    let (_, page) = served.get(&reader, "/v1/received?limit=1").await;
    let item = &page["items"][0];
    assert_eq!((&item["text"], &item["kind"], &item["account"]), (&Value::Null, &json!("text"), &json!("main")));
    assert!(item["sender"].as_str().unwrap().contains('*'));
}
