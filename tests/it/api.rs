//! The API: who may ask, what is answered to what is wrong, pages.

use campaign_dispatch::registry::tokens::Scope;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::served::{Served, registry, seed, settings};

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn a_token_opens_what_its_scopes_name(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    let reader = served.token(&[Scope::Read]).await;
    assert_eq!(served.get(&reader, "/v1/batches").await.0, StatusCode::OK);
    let (status, answer) = served.get(&reader, "/v1/tokens").await;
    assert_eq!((status, &answer["errors"][0]["code"]), (StatusCode::FORBIDDEN, &json!("missing_scope")));
    let close = json!({"reason": "x"});
    assert_eq!(served.call(&reader, Method::POST, "/v1/holds/1/close", Some(close)).await.0, StatusCode::FORBIDDEN);

    let unknown = served.get("cdt_guess", "/v1/batches").await;
    assert_eq!((unknown.0, &unknown.1["errors"][0]["code"]), (StatusCode::UNAUTHORIZED, &json!("unknown_token")));
    let none = served.client().get(format!("{}/v1/batches", served.url)).send().await.unwrap();
    assert_eq!(none.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(none.headers()["www-authenticate"], "Bearer");
    assert!(none.headers().contains_key("x-request-id"));
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn tokens_are_made_listed_and_revoked(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    let admin = served.token(&[Scope::Admin]).await;
    let wish = json!({"name": "orders", "scopes": ["publish"], "producer": "orders"});
    let (status, made) = served.call(&admin, Method::POST, "/v1/tokens", Some(wish)).await;
    assert_eq!(status, StatusCode::CREATED);
    assert!(made["token"].as_str().unwrap().starts_with("cdt_"));
    served.directory.refresh().await.unwrap();
    assert!(served.directory.current().producers.contains_key("orders"));
    let (_, list) = served.get(&admin, "/v1/tokens").await;
    assert_eq!(list[0]["producer"], "orders");
    assert!(!list.to_string().contains(made["token"].as_str().unwrap()));
    let id = made["id"].as_str().unwrap();
    assert_eq!(served.call(&admin, Method::DELETE, &format!("/v1/tokens/{id}"), None).await.0, StatusCode::NO_CONTENT);
    assert_eq!(served.call(&admin, Method::DELETE, &format!("/v1/tokens/{id}"), None).await.0, StatusCode::NOT_FOUND);
    let (status, _) = served.get(made["token"].as_str().unwrap(), "/v1/batches").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let (status, answer) =
        served.call(&admin, Method::POST, "/v1/tokens", Some(json!({"name": "", "scopes": []}))).await;
    assert_eq!((status, answer["errors"].as_array().unwrap().len()), (StatusCode::UNPROCESSABLE_ENTITY, 2));
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn a_token_that_asks_too_often_is_told_to_wait(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::with(
        &options,
        &settings(&[("DISPATCH__HTTP__REQUESTS_PER_S", "1"), ("DISPATCH__BROKER__URL", "amqp://127.0.0.1:1")]),
    )
    .await;
    let reader = served.token(&[Scope::Read]).await;
    let other = served.token(&[Scope::Read]).await;
    // One a second: on a machine that is slow for a moment the second request may still be in time, not all.
    let asked = (0..10).map(|_| served.client().get(format!("{}/v1/batches", served.url)).bearer_auth(&reader).send());
    let answers = futures_util::future::join_all(asked).await;
    let early = answers.into_iter().flatten().find(|answer| answer.status() == StatusCode::TOO_MANY_REQUESTS).unwrap();
    assert_eq!(early.headers()["retry-after"], "1");
    assert_eq!(served.get(&other, "/v1/batches").await.0, StatusCode::OK);
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn whatever_is_wrong_is_answered_in_one_form(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    let admin = served.token(&[Scope::Admin]).await;
    served.put_registry(&admin, &registry()).await;
    let cases = [
        ("/v1/batches?nmber=1", StatusCode::BAD_REQUEST, "invalid_query"),
        ("/v1/batches?number=%2B15550001112", StatusCode::UNPROCESSABLE_ENTITY, "unknown_number"),
        ("/v1/batches?after=x", StatusCode::UNPROCESSABLE_ENTITY, "invalid_cursor"),
        ("/v1/messages?recipient=080", StatusCode::UNPROCESSABLE_ENTITY, "invalid_recipient"),
        ("/v1/batches?producer=%00", StatusCode::BAD_REQUEST, "invalid_query"),
        ("/v1/messages?state=lost", StatusCode::BAD_REQUEST, "invalid_query"),
        ("/v1/batches/nonsense", StatusCode::NOT_FOUND, "not_found"),
        ("/v1/messages/nonsense", StatusCode::NOT_FOUND, "not_found"),
        ("/v1/nonsense", StatusCode::NOT_FOUND, "not_found"),
    ];
    for (path, status, code) in cases {
        let (found, answer) = served.get(&admin, path).await;
        assert_eq!((found, &answer["errors"][0]["code"]), (status, &json!(code)), "{path}");
    }
    let (_, answer) = served.get(&admin, "/v1/batches?number=%2B15550001112").await;
    assert_eq!(answer["errors"][0]["did_you_mean"], json!(["+15550001111"]));
    assert_eq!(served.call(&admin, Method::POST, "/v1/batches", None).await.0, StatusCode::METHOD_NOT_ALLOWED);
    let large = json!({"name": "x".repeat(100_000), "scopes": ["read"]});
    let (status, answer) = served.call(&admin, Method::POST, "/v1/tokens", Some(large)).await;
    assert_eq!((status, &answer["errors"][0]["code"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!("too_large")));
    let broken =
        served.client().post(format!("{}/v1/tokens", served.url)).bearer_auth(&admin).body("{").send().await.unwrap();
    assert_eq!(broken.status(), StatusCode::BAD_REQUEST);
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn machines_ask_without_a_token(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    assert_eq!(served.get("", "/healthz").await.0, StatusCode::OK);
    let (status, ready) = served.get("", "/readyz").await;
    assert_eq!((status, &ready["checks"][0]["detail"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("gone")));
    assert_eq!(served.get("", "/metrics").await.0, StatusCode::OK);
    let (_, contract) = served.get("", "/openapi.json").await;
    assert!(contract["paths"]["/v1/messages"]["get"].is_object());
}

/// All pages of a list, by `limit` rows.
pub(crate) async fn pages(served: &Served, token: &str, path: &str, limit: u16) -> Vec<Value> {
    let mut rows = Vec::new();
    let mut after = String::new();
    loop {
        let joint = if path.contains('?') { '&' } else { '?' };
        let (status, page) = served.get(token, &format!("{path}{joint}limit={limit}{after}")).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= usize::from(limit));
        rows.extend(items.iter().cloned());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return rows,
        }
    }
}

fn column(rows: &[Value], name: &str) -> Vec<String> {
    rows.iter().map(|row| row[name].as_str().map_or_else(|| row[name].to_string(), str::to_owned)).collect()
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn every_list_has_each_of_its_messages_once(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    let admin = served.token(&[Scope::Admin]).await;
    served.put_registry(&admin, &registry()).await;
    let batches = seed(
        &served,
        &[
            &["sent", "failed", "pending"],
            &["pending", "pending"],
            &["sent"],
            &["failed"],
            &["uncertain", "sent"],
            &["pending"],
        ],
    )
    .await;
    let id = |batch: usize, seq: i32| format!("{}.{seq}", batches[batch]);
    let lists = [
        (
            "all",
            vec![id(5, 1), id(4, 1), id(4, 2), id(3, 1), id(2, 1), id(1, 1), id(1, 2), id(0, 1), id(0, 2), id(0, 3)],
        ),
        ("sent", vec![id(4, 2), id(2, 1), id(0, 1)]),
        ("pending", vec![id(5, 1), id(1, 1), id(1, 2), id(0, 3)]),
        ("failed", vec![id(3, 1), id(0, 2)]),
        ("uncertain", vec![id(4, 1)]),
    ];
    for (list, expected) in &lists {
        for limit in [1, 2, 500] {
            let path = format!("/v1/messages?list={list}");
            assert_eq!(column(&pages(&served, &admin, &path, limit).await, "id"), *expected, "{list} by {limit}");
            let path = format!("{path}&number=%2B15550001111");
            assert_eq!(column(&pages(&served, &admin, &path, limit).await, "id"), *expected, "{list} of the number");
        }
    }
    let path = format!("/v1/messages?list=pending&batch={}", batches[0]);
    assert_eq!(column(&pages(&served, &admin, &path, 1).await, "id"), [id(0, 3)]);
    let path = "/v1/messages?state=failed&recipient=%2B819012345602";
    assert_eq!(column(&pages(&served, &admin, path, 1).await, "id"), [id(0, 2)]);
    let path = "/v1/messages?recipient=+81-90-1234-5602";
    assert_eq!(column(&pages(&served, &admin, path, 2).await, "id"), [id(4, 2), id(1, 2), id(0, 2)]);
    let newest: Vec<_> = batches.iter().rev().map(ToString::to_string).collect();
    for path in ["/v1/batches", "/v1/batches?number=%2B15550001111", "/v1/batches?producer=shop"] {
        for limit in [1, 4, 50] {
            assert_eq!(column(&pages(&served, &admin, path, limit).await, "batch_id"), newest, "{path} by {limit}");
        }
    }
    let one = pages(&served, &admin, "/v1/batches?job_id=job-4", 5).await;
    assert_eq!((column(&one, "batch_id"), &one[0]["uncertain"]), (vec![newest[1].clone()], &json!(1)));
    let (_, single) = served.get(&admin, &format!("/v1/batches/{}", batches[3])).await;
    assert_eq!((&single["failed"], &single["pending"]), (&json!(1), &json!(0)));

    let other = {
        served.put_registry(&admin, &json!({"tenants": [{"name": "other"}], "accounts": registry()["accounts"]})).await;
        served.token_for("other", &[Scope::Admin]).await
    };
    for path in ["/v1/messages", "/v1/messages?list=pending", "/v1/messages?list=failed", "/v1/batches"] {
        assert_eq!(served.get(&other, path).await.1["items"], json!([]), "{path}");
    }
    assert_eq!(served.get(&other, &format!("/v1/messages/{}", id(0, 1))).await.0, StatusCode::NOT_FOUND);
    assert_eq!(served.get(&other, "/v1/failures").await.1, json!([]));
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn addresses_are_whole_only_with_the_scope_pii(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    let admin = served.token(&[Scope::Admin]).await;
    served.put_registry(&admin, &registry()).await;
    let batch = seed(&served, &[&["sent"]]).await[0];
    let whole = served.token(&[Scope::Read, Scope::Pii]).await;
    for path in ["/v1/messages".to_owned(), format!("/v1/messages/{batch}.1")] {
        let (_, masked) = served.get(&admin, &path).await;
        assert!(!masked.to_string().contains("+819012345601"), "{masked}");
        assert!(served.get(&whole, &path).await.1.to_string().contains("+819012345601"));
    }
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn failures_come_with_advice(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    let admin = served.token(&[Scope::Admin]).await;
    served.put_registry(&admin, &registry()).await;
    let batches = seed(&served, &[&["failed", "failed", "sent"], &["failed"]]).await;
    let (_, failures) = served.get(&admin, "/v1/failures").await;
    assert_eq!((&failures[0]["code"], &failures[0]["messages"]), (&json!("131026"), &json!(3)));
    assert!(!failures[0]["advice"]["ja"].as_str().unwrap().is_empty());
    assert!(["now", "later", "never"].contains(&failures[0]["resend"].as_str().unwrap()));
    let (_, of_batch) = served.get(&admin, &format!("/v1/failures?batch={}", batches[1])).await;
    assert_eq!(of_batch[0]["messages"], 1);
}

fn job(id: &str) -> Value {
    json!({
        "schema": "send-job/v1", "job_id": id, "producer": "shop", "business_number": "+15550001111",
        "template": {"name": "spring_offer", "language": "ja"},
        "recipients": [{"to": "+819012345678", "params": {"body.1": "佐藤"}}, {"to": "+81 12", "params": {"body.1": "鈴木"}}]
    })
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn a_job_is_answered_the_same_way_each_time(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    let admin = served.token(&[Scope::Admin]).await;
    served.put_registry(&admin, &registry()).await;
    let post = async |path: &str, body: Value| served.call(&admin, Method::POST, path, Some(body)).await;

    let (status, dry) = post("/v1/jobs?dry_run=true", job("a")).await;
    assert_eq!((status, &dry["accepted"]), (StatusCode::ACCEPTED, &json!(1)), "{dry}");
    assert_eq!(served.get(&admin, "/v1/batches").await.1["items"], json!([]));

    let (status, first) = post("/v1/jobs", job("a")).await;
    assert_eq!((status, &first["status"]), (StatusCode::ACCEPTED, &json!("accepted")), "{first}");
    assert_eq!((&first["accepted"], &first["rejections"][0]["row"]), (&json!(1), &json!(2)));
    assert_eq!(post("/v1/jobs", job("a")).await, (StatusCode::ACCEPTED, first.clone()));
    let mut other = job("a");
    other["campaign"] = json!("another");
    assert_eq!(post("/v1/jobs", other).await.0, StatusCode::CONFLICT);
    let (_, rejected) =
        served.get(&admin, &format!("/v1/batches/{}/rejected", first["batch_id"].as_str().unwrap())).await;
    assert_eq!(rejected["items"][0]["pointer"], "/recipients/1/to", "{rejected}");

    let mut wrong = job("b");
    wrong["template"]["name"] = json!("spring_ofer");
    let (status, refused) = post("/v1/jobs", wrong).await;
    assert_eq!(
        (status, &refused["errors"][0]["did_you_mean"][0]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("spring_offer"))
    );
    let (_, listed) = served.get(&admin, "/v1/jobs/rejected").await;
    assert!(column(listed["items"].as_array().unwrap(), "job_id").contains(&"b".to_owned()), "{listed}");

    let reader = served.token(&[Scope::Read]).await;
    assert_eq!(served.call(&reader, Method::POST, "/v1/jobs", Some(job("c"))).await.0, StatusCode::FORBIDDEN);
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn a_job_of_50_mb_is_told_to_import(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    let admin = served.token(&[Scope::Admin]).await;
    let (status, answer) = served.call(&admin, Method::POST, "/v1/jobs", Some(json!("x".repeat(50 << 20)))).await;
    assert_eq!((status, &answer["errors"][0]["code"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!("too_large")));
    assert!(answer["errors"][0]["reason"].as_str().unwrap().contains("/v1/imports"));
}
