//! The registry: a file made so, whole or not at all.

use campaign_dispatch::registry::tokens::Scope;
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::served::{Served, registry};

fn became(answer: &Value) -> Vec<(&str, &str)> {
    answer["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| (change["kind"].as_str().unwrap(), change["became"].as_str().unwrap()))
        .collect()
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn applying_twice_changes_nothing(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    let admin = served.token(&[Scope::Admin]).await;
    let (status, answer) = served.put_registry(&admin, &registry()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let created = [("producer", "created"), ("account", "created"), ("number", "created"), ("template", "created")];
    assert_eq!(became(&answer), created);
    let version = served.directory.current().version;

    let (_, again) = served.put_registry(&admin, &registry()).await;
    assert!(became(&again).iter().all(|(_, became)| *became == "unchanged"), "{again}");
    assert!(!served.directory.refresh().await.unwrap());
    assert_eq!(served.directory.current().version, version);
    let account = served.directory.current().accounts.values().next().cloned().unwrap();
    assert_eq!(account.access.as_ref().unwrap().credentials.0.len(), 3);
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn every_problem_is_told_and_nothing_is_applied(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    let admin = served.token(&[Scope::Admin]).await;
    let mut file = registry();
    file["accounts"][0]["provider"] = json!("whatsapp_clod");
    file["numbers"][0]["account"] = json!("mian");
    file["templates"][0]["components"] = json!([{"type": "BODY", "text": "{{1}} {{3}}"}]);
    file["templates"][0]["account"] = json!("other");
    let (status, answer) = served.put_registry(&admin, &file).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let codes: Vec<_> = answer["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| (e["pointer"].as_str().unwrap(), e["code"].as_str().unwrap()))
        .collect();
    assert!(codes.contains(&("/accounts/0/provider", "unknown_provider")), "{answer}");
    assert!(codes.contains(&("/numbers/0/account", "unknown_account")), "{answer}");
    assert!(codes.contains(&("/templates/0/account", "unknown_account")), "{answer}");
    assert_eq!(answer["errors"][0]["did_you_mean"][0], "whatsapp_cloud");
    let (_, accounts) = served.get(&admin, "/v1/accounts").await;
    assert_eq!(accounts, json!([]));
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn an_account_needs_the_credentials_of_its_provider(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    let admin = served.token(&[Scope::Admin]).await;
    let body = json!({"registry": registry(), "secrets": {"default/main": {"access_token": "x"}}});
    let (status, answer) = served.call(&admin, reqwest::Method::PUT, "/v1/registry", Some(body)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(answer["errors"][0]["code"], "missing_credential", "{answer}");
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn a_status_opens_its_hold_and_closes_it(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    let admin = served.token(&[Scope::Admin]).await;
    let mut file = registry();
    file["templates"][0]["status"] = json!("paused");
    file["numbers"][0]["status"] = json!("disconnected");
    served.put_registry(&admin, &file).await;
    let (_, holds) = served.get(&admin, "/v1/holds?open=true").await;
    let open: Vec<_> = holds["items"].as_array().unwrap().iter().map(|h| h["cause"].as_str().unwrap()).collect();
    assert_eq!(open, ["template_status", "number_status"]);

    // A person may close such a hold; the same status told again does not open another.
    let id = &holds["items"][0]["id"];
    let close = json!({"reason": "the provider says it is a mistake"});
    let (status, _) =
        served.call(&admin, reqwest::Method::POST, &format!("/v1/holds/{id}/close"), Some(close.clone())).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let (status, _) = served.call(&admin, reqwest::Method::POST, &format!("/v1/holds/{id}/close"), Some(close)).await;
    assert_eq!(status, StatusCode::CONFLICT);
    served.put_registry(&admin, &file).await;
    served.put_registry(&admin, &registry()).await;
    let (_, holds) = served.get(&admin, "/v1/holds").await;
    let closed: Vec<_> = holds["items"].as_array().unwrap().iter().map(|h| h["closed_by"].as_str().unwrap()).collect();
    assert_eq!(closed, ["test", "registry"]);
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn lists_show_slots_and_no_secret(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    let admin = served.token(&[Scope::Admin]).await;
    served.put_registry(&admin, &registry()).await;
    let (_, account) = served.get(&admin, "/v1/accounts/main").await;
    assert_eq!(account["credentials"], json!(["access_token", "app_secret", "verify_token"]));
    assert!(account["hook_path"].as_str().unwrap().starts_with("/hooks/whatsapp_cloud/"));
    assert!(!account.to_string().contains("s3cret"));
    let (_, templates) = served.get(&admin, "/v1/templates").await;
    let (status, template) = served.get(&admin, &format!("/v1/templates/{}", templates[0]["id"])).await;
    assert_eq!((status, &template["slots"][0]["name"]), (StatusCode::OK, &json!("body.1")));
    let (_, numbers) = served.get(&admin, "/v1/numbers").await;
    assert_eq!((&numbers[0]["limit"], &numbers[0]["rate"]), (&json!(80), &json!(80)));
    sqlx::query("UPDATE number_lease SET rate_per_s = 40").execute(served.store.pool()).await.unwrap();
    let (_, numbers) = served.get(&admin, "/v1/numbers").await;
    assert_eq!((&numbers[0]["limit"], &numbers[0]["rate"]), (&json!(80), &json!(40)));
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn a_tenant_writes_and_sees_only_its_own(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    let admin = served.token(&[Scope::Admin]).await;
    served.put_registry(&admin, &registry()).await;
    served.put_registry(&admin, &json!({"tenants": [{"name": "other"}], "accounts": registry()["accounts"]})).await;
    let other = served.token_for("other", &[Scope::Admin]).await;
    let (status, answer) = served.put_registry(&other, &registry()).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(answer["errors"][0]["code"], "other_tenant");
    assert_eq!(served.get(&other, "/v1/accounts").await.1, json!([]));
    assert_eq!(served.get(&other, "/v1/accounts/main").await.0, StatusCode::NOT_FOUND);
}
