//! A person decides about uncertain messages, over the API.

use campaign_dispatch::registry::tokens::Scope;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::served::{Served, registry, seed};

const RESOLVE: &str = "/v1/uncertain/resolve";

async fn resolve(served: &Served, token: &str, body: Value) -> Value {
    let (status, answer) = served.call(token, Method::POST, RESOLVE, Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

async fn states(served: &Served) -> Vec<String> {
    let sql = "SELECT state::text FROM message ORDER BY batch_id, seq";
    sqlx::query_scalar(sql).fetch_all(served.store.pool()).await.unwrap()
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn uncertain_messages_are_listed_and_resolved(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    let admin = served.token(&[Scope::Admin, Scope::Operate]).await;
    served.put_registry(&admin, &registry()).await;
    let batches =
        seed(&served, &[&["uncertain", "uncertain", "uncertain", "sent"], &["uncertain", "pending"], &["uncertain"]])
            .await;
    sqlx::query("INSERT INTO attempt SELECT batch_id, seq, attempt, 'unknown', 'timeout', 'uncertain', 'no answer in time', now() FROM work WHERE stage = 'unsure'")
        .execute(served.store.pool())
        .await
        .unwrap();
    let (_, page) = served.get(&admin, "/v1/uncertain?limit=2").await;
    assert_eq!(
        (page["items"].as_array().unwrap().len(), &page["items"][0]["call_code"]),
        (2, &json!("timeout")),
        "{page}"
    );
    let (_, rest) = served.get(&admin, &format!("/v1/uncertain?after={}", page["next"].as_str().unwrap())).await;
    assert_eq!((rest["items"].as_array().unwrap().len(), rest["next"].is_null()), (3, true));
    assert!(rest["items"][0]["recipient"].as_str().unwrap().contains('*'), "masked: {rest}");

    let id = |batch: usize, seq: i32| format!("{}.{seq}", batches[batch]);
    let counted =
        resolve(&served, &admin, json!({"number": "+15550001111", "as": "failed", "reason": "r", "dry_run": true}))
            .await;
    assert_eq!(counted, json!({"found": 5, "resolved": 0, "moved": 0}));
    assert_eq!(states(&served).await.iter().filter(|s| *s == "uncertain").count(), 5);

    // By id: one of them is not uncertain, one is unknown.
    let named = json!({"messages": [id(0, 1), id(0, 4), id(0, 1), id(0, 99)], "as": "sent", "reason": "seen in the report", "evidence": "report 7"});
    assert_eq!(resolve(&served, &admin, named.clone()).await, json!({"found": 1, "resolved": 1, "moved": 2}));
    assert_eq!(resolve(&served, &admin, named).await, json!({"found": 0, "resolved": 0, "moved": 3}), "once");
    // By batch, then by number; filters narrow each other.
    let none = json!({"batch": batches[1], "messages": [id(0, 2)], "as": "failed", "reason": "r"});
    assert_eq!(resolve(&served, &admin, none).await, json!({"found": 0, "resolved": 0, "moved": 1}));
    let batch = json!({"batch": batches[0], "as": "failed", "reason": "not in the report"});
    assert_eq!(resolve(&served, &admin, batch).await, json!({"found": 2, "resolved": 2, "moved": 0}));
    let number = json!({"number": "+15550001111", "as": "resend", "reason": "not in the report"});
    assert_eq!(resolve(&served, &admin, number).await, json!({"found": 2, "resolved": 2, "moved": 0}));
    assert_eq!(states(&served).await, ["accepted", "failed", "failed", "sent", "pending", "pending", "pending"]);

    let (_, message) = served.get(&admin, &format!("/v1/messages/{}", id(0, 1))).await;
    let decision = &message["decisions"][0];
    assert_eq!(
        (&decision["decision"], &decision["decided_by"], &decision["reason"], &decision["evidence"]),
        (&json!("sent"), &json!("token:test"), &json!("seen in the report"), &json!("report 7"))
    );
    let (_, failed) = served.get(&admin, &format!("/v1/messages/{}", id(0, 2))).await;
    assert_eq!(failed["code"], "unknown_outcome");
    crate::support::world::assert_balanced(&mut served.store.acquire().await.unwrap()).await;
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn a_decision_needs_a_filter_a_reason_and_the_right_token(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    let admin = served.token(&[Scope::Admin, Scope::Operate]).await;
    let mut wanted = registry();
    wanted["tenants"] = json!([{"name": "other"}]);
    served.put_registry(&admin, &wanted).await;
    let batches = seed(&served, &[&["uncertain", "uncertain"]]).await;
    let id = format!("{}.1", batches[0]);
    let reader = served.token(&[Scope::Read]).await;
    let wish = json!({"batch": batches[0], "as": "resend", "reason": "r"});
    assert_eq!(served.call(&reader, Method::POST, RESOLVE, Some(wish.clone())).await.0, StatusCode::FORBIDDEN);
    let many: Vec<&str> = vec![&id; 5001];
    for (body, code) in [
        (json!({"as": "resend", "reason": "r"}), "no_filter"),
        (json!({"batch": batches[0], "as": "resend", "reason": " "}), "empty"),
        (json!({"number": "+1", "as": "resend", "reason": "r"}), "unknown_number"),
        (json!({"messages": ["x"], "as": "resend", "reason": "r"}), "invalid_message_id"),
        (json!({"messages": many, "as": "resend", "reason": "r"}), "too_many"),
        (json!({"batch": batches[0], "as": "lost", "reason": "r"}), "invalid"),
        (json!({"batch": batches[0], "as": "sent", "reason": "r", "after": "x"}), "invalid_cursor"),
    ] {
        let (status, answer) = served.call(&admin, Method::POST, RESOLVE, Some(body.clone())).await;
        assert_eq!((status, &answer["errors"][0]["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!(code)), "{body}");
    }
    // Another tenant sees and moves nothing.
    let other = served.token_for("other", &[Scope::Admin, Scope::Operate]).await;
    assert_eq!(served.get(&other, "/v1/uncertain").await.1["items"], json!([]));
    assert_eq!(resolve(&served, &other, wish).await, json!({"found": 0, "resolved": 0, "moved": 0}));
    let named = json!({"messages": [id], "as": "resend", "reason": "r"});
    assert_eq!(resolve(&served, &other, named).await, json!({"found": 0, "resolved": 0, "moved": 1}));
    assert_eq!(states(&served).await, ["uncertain", "uncertain"]);
    // What concerns all tenants is for the one that runs the installation.
    let recover = json!({"since": "2026-01-01T00:00:00Z", "dry_run": true});
    assert_eq!(served.call(&other, Method::POST, "/v1/recover", Some(recover.clone())).await.0, StatusCode::FORBIDDEN);
    let (status, answer) = served.call(&admin, Method::POST, "/v1/recover", Some(recover)).await;
    assert_eq!((status, &answer["found"]), (StatusCode::OK, &json!(2)), "{answer}");
    let ahead = json!({"since": "2999-01-01T00:00:00Z"});
    let (status, _) = served.call(&admin, Method::POST, "/v1/recover", Some(ahead)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn an_account_keeps_the_policies_its_file_says(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    let admin = served.token(&[Scope::Admin]).await;
    let mut wanted = registry();
    wanted["accounts"][0]["uncertain"] = json!({"marketing": "resend"});
    let (status, answer) = served.put_registry(&admin, &wanted).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let (_, account) = served.get(&admin, "/v1/accounts/main").await;
    assert_eq!(account["uncertain"], json!({"marketing": "resend"}));
    let (_, again) = served.put_registry(&admin, &wanted).await;
    assert!(again["changes"].as_array().unwrap().iter().all(|c| c["became"] == "unchanged"), "{again}");
    wanted["accounts"][0]["uncertain"] = json!({"marketing": "never"});
    assert_eq!(served.put_registry(&admin, &wanted).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    served.put_registry(&admin, &registry()).await;
    assert_eq!(served.get(&admin, "/v1/accounts/main").await.1["uncertain"], json!({}));
}
