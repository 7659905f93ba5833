//! What operators ask and do: why something waits, what failed, what is sent again, what was done.

mod kinds;
mod resend;
mod why;

use campaign_dispatch::registry::tokens::Scope;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::served::{Served, registry, seed};

/// The API with a registry, and a token that may all.
async fn served(options: &PgConnectOptions) -> (Served, String) {
    let served = Served::over(options).await;
    let admin = served.token(&[Scope::Admin]).await;
    served.put_registry(&admin, &registry()).await;
    (served, admin)
}

async fn post(served: &Served, token: &str, path: &str, body: Value) -> Value {
    let (status, answer) = served.call(token, Method::POST, path, Some(body.clone())).await;
    assert!(status.is_success(), "{path} {body}: {answer}");
    answer
}

async fn run(served: &Served, sql: &'static str) {
    sqlx::raw_sql(sql).execute(served.store.pool()).await.unwrap();
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn what_somebody_has_seen_to_leaves_the_list_of_failures(_: PgPoolOptions, options: PgConnectOptions) {
    let (served, admin) = served(&options).await;
    let batches = seed(&served, &[&["failed", "failed", "sent"], &["failed"]]).await;
    let (_, failures) = served.get(&admin, "/v1/failures?lang=ja").await;
    let first = &failures[0];
    assert_eq!(
        (&first["messages"], &first["scope"], &first["resend"]),
        (&json!(3), &json!("recipient"), &json!("never"))
    );
    assert_eq!(first["advised"], first["advice"]["ja"]);
    assert_eq!(first["sample_message"], json!(format!("{}.1", batches[1])), "the latest of them");
    let client = served.client().get(format!("{}/v1/failures", served.url)).bearer_auth(&admin);
    let told: Value = client.header("accept-language", "fr, ja;q=0.9").send().await.unwrap().json().await.unwrap();
    assert_eq!(told[0]["advised"], told[0]["advice"]["ja"]);

    let path = "/v1/failures/acknowledge";
    let which = json!({"code": "131026", "batch": batches[0]});
    let mut wish = which.clone();
    wish["dry_run"] = json!(true);
    assert_eq!(post(&served, &admin, path, wish).await, json!({"found": 2, "acknowledged": 0}));
    let mut wish = which.clone();
    wish["note"] = json!("numbers were corrected");
    assert_eq!(post(&served, &admin, path, wish.clone()).await, json!({"found": 2, "acknowledged": 2}));
    assert_eq!(post(&served, &admin, path, wish).await, json!({"found": 0, "acknowledged": 0}), "once");
    let (_, left) = served.get(&admin, "/v1/failures").await;
    assert_eq!((&left[0]["messages"], &left[0]["acknowledged"]), (&json!(1), &json!(0)));
    let (_, all) = served.get(&admin, "/v1/failures?all=true").await;
    assert_eq!((&all[0]["messages"], &all[0]["acknowledged"]), (&json!(3), &json!(2)));

    let (_, audit) = served.get(&admin, "/v1/audit?act=acknowledge").await;
    let act = &audit["items"][0];
    assert_eq!(audit["items"].as_array().unwrap().len(), 1, "what moved nothing is no act: {audit}");
    assert_eq!(
        (&act["token"], &act["reason"], &act["count"], &act["filter"]),
        (&json!("test"), &json!("numbers were corrected"), &json!(2), &which)
    );
    let (_, message) = served.get(&admin, &format!("/v1/messages/{}.1", batches[0])).await;
    let entry = message["history"].as_array().unwrap().iter().find(|e| e["what"] == "acknowledge").unwrap();
    assert_eq!((&entry["by"], &entry["kind"]), (&json!("test"), &json!("audit")));

    let reader = served.token(&[Scope::Read]).await;
    let note = json!({"code": "131026", "note": "x"});
    assert_eq!(served.call(&reader, Method::POST, path, Some(note)).await.0, StatusCode::FORBIDDEN);
    for (body, code) in [
        (json!({"note": "x"}), "no_filter"),
        (json!({"code": "131026"}), "empty"),
        (json!({"code": "131026", "note": "x", "bach": "y"}), "invalid"),
    ] {
        let (status, answer) = served.call(&admin, Method::POST, path, Some(body)).await;
        assert_eq!((status, &answer["errors"][0]["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!(code)));
    }
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn every_act_leaves_a_row_that_says_who_and_why(_: PgPoolOptions, options: PgConnectOptions) {
    let (served, admin) = served(&options).await;
    let batches = seed(&served, &[&["pending", "pending", "uncertain"], &["pending"]]).await;
    let because = |reason: &str| json!({ "reason": reason });
    let batch = format!("/v1/batches/{}", batches[0]);
    post(&served, &admin, &format!("{batch}/pause"), because("wrong text")).await;
    post(&served, &admin, &format!("{batch}/resume"), because("it was right")).await;
    let message = format!("{}.1", batches[0]);
    post(&served, &admin, &format!("/v1/messages/{message}/cancel"), because("asked us to")).await;
    let held = post(&served, &admin, "/v1/holds", json!({"scope": "everything", "reason": "fire drill"})).await;
    let unwanted = json!({"to": ["+819012345678"], "scope": "tenant", "reason": "wrote to us"});
    post(&served, &admin, "/v1/suppressions", unwanted.clone()).await;
    post(&served, &admin, "/v1/suppressions", unwanted).await;
    let (_, list) = served.get(&admin, "/v1/suppressions").await;
    let path = format!("/v1/suppressions/{}?reason=changed%20mind", list["items"][0]["id"]);
    assert_eq!(served.call(&admin, Method::DELETE, &path, None).await.0, StatusCode::NO_CONTENT);
    post(&served, &admin, &format!("/v1/holds/{}/close", held["id"]), because("over")).await;
    let resolve = json!({"batch": batches[0], "as": "failed", "reason": "not in the report"});
    post(&served, &admin, "/v1/uncertain/resolve", resolve).await;
    post(&served, &admin, &format!("/v1/batches/{}/cancel", batches[1]), because("too late")).await;

    let (_, audit) = served.get(&admin, "/v1/audit").await;
    let acts: Vec<(&str, &str, i64)> = audit["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| (a["act"].as_str().unwrap(), a["reason"].as_str().unwrap(), a["count"].as_i64().unwrap()))
        .collect();
    assert_eq!(
        acts,
        [
            ("cancel", "too late", 1),
            ("resolve", "not in the report", 1),
            ("hold_close", "over", 0),
            ("unsuppress", "changed mind", 1),
            ("suppress", "wrote to us", 1),
            ("hold_open", "fire drill", 1),
            ("cancel", "asked us to", 1),
            ("resume", "it was right", 1),
            ("pause", "wrong text", 2),
            ("registry_apply", "", 4),
        ]
    );
    assert!(audit["items"].as_array().unwrap().iter().all(|act| act["token"] == "test"));
    let (_, page) = served.get(&admin, "/v1/audit?limit=1").await;
    let (_, next) = served.get(&admin, &format!("/v1/audit?limit=1&after={}", page["next"].as_str().unwrap())).await;
    assert_eq!(next["items"][0]["act"], "resolve");
    // A message shows what concerned it, in the order of time.
    let (_, shown) = served.get(&admin, &format!("/v1/messages/{message}")).await;
    let history: Vec<&str> = shown["history"].as_array().unwrap().iter().map(|e| e["what"].as_str().unwrap()).collect();
    assert_eq!(history[0], "taken");
    let acts: Vec<&str> = history.iter().copied().filter(|what| ["pause", "resume", "cancel"].contains(what)).collect();
    assert_eq!(acts, ["pause", "resume", "cancel"], "{history:?}");
    let times: Vec<&str> = shown["history"].as_array().unwrap().iter().map(|e| e["at"].as_str().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    // Another tenant sees none of it.
    served.put_registry(&admin, &json!({"tenants": [{"name": "other"}], "accounts": registry()["accounts"]})).await;
    let other = served.token_for("other", &[Scope::Admin]).await;
    assert_eq!(served.get(&other, "/v1/audit").await.1["items"], json!([]));
}
