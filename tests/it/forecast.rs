//! What forecasts say by the terms of an account: tier, countries, rates.

use campaign_dispatch::registry::tokens::Scope;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::served::{Served, registry, seed};

const NEW: &str = "+819012345699";
const AMERICAN: &str = "+12125552368";
const GERMAN: &str = "+4915112345678";

fn with_terms() -> Value {
    let mut file = registry();
    let account = &mut file["accounts"][0];
    account["portfolio"] = json!("acme");
    account["tier"] = json!("50");
    account["countries"] = json!(["JP", "US"]);
    account["rates"] =
        json!({"currency": "USD", "default": "0.1", "marketing": {"countries": {"JP": "0.0618", "US": "0.025"}}});
    file
}

fn job(people: &[&str]) -> Value {
    let recipients: Vec<Value> = people.iter().map(|to| json!({"to": to, "params": {"1": "佐藤"}})).collect();
    json!({"schema": "send-job/v1", "job_id": "1", "producer": "shop", "business_number": "+15550001111",
        "template": {"name": "spring_offer", "language": "ja"}, "recipients": recipients})
}

async fn run(served: &Served, sql: &'static str) {
    sqlx::raw_sql(sql).execute(served.store.pool()).await.unwrap();
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn tier_and_countries_leave_out_and_the_rest_is_priced(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    let (admin, token) =
        (served.token(&[Scope::Admin]).await, served.token(&[Scope::Publish, Scope::Read, Scope::Operate]).await);
    assert_eq!(served.put_registry(&admin, &with_terms()).await.0, StatusCode::OK);
    // 49 people, of whom one was written to twice, leave room for one.
    seed(&served, &[&["sent"; 49], &["sent"]]).await;
    run(&served, "UPDATE message SET accepted_at = now() - interval '23 hours'").await;
    let people = ["+819012345601", NEW, AMERICAN, GERMAN];
    let forecast = async |job: &Value| {
        let (status, forecast) = served.call(&token, Method::POST, "/v1/forecast", Some(job.clone())).await;
        assert_eq!(status, StatusCode::OK, "{forecast}");
        forecast
    };
    let told = forecast(&job(&people)).await;
    assert_eq!(told["recipients"], 2);
    assert_eq!(told["left_out"], json!([{"code": "country", "recipients": 1}, {"code": "tier", "recipients": 1}]));
    assert_eq!(told["tier"], json!({"limit": "50", "used": 49}));
    let japan = json!({"country": "JP", "recipients": 2, "each": "0.0618", "sum": "0.1236"});
    assert_eq!(told["cost"], json!({"currency": "USD", "total": "0.1236", "by_country": [japan], "unpriced": 0}));

    // The portfolio counts, not the number; and after 24 hours nobody does.
    run(
        &served,
        "INSERT INTO account (tenant_id, name, portfolio, channel, provider, base_url, api_version, waba_id, credentials, app_digest)
             SELECT tenant_id, 'second', portfolio, channel, provider, base_url, api_version, '2002', credentials, app_digest FROM account;
         INSERT INTO business_number (account_id, business_number, provider_number_id, status)
             SELECT id, '+15550002222', '1002', 'connected' FROM account WHERE name = 'second';
         UPDATE batch SET number_id = (SELECT id FROM business_number WHERE provider_number_id = '1002')",
    )
    .await;
    assert_eq!(forecast(&job(&people)).await["tier"]["used"], 49);
    run(&served, "UPDATE account SET portfolio = 'other' WHERE name = 'second'").await;
    assert_eq!(forecast(&job(&people)).await["tier"]["used"], 0);
    run(&served, "UPDATE account SET portfolio = 'acme'; UPDATE message SET accepted_at = now() - interval '25 hours'")
        .await;
    let told = forecast(&job(&people)).await;
    assert_eq!(
        (&told["recipients"], &told["tier"]["used"], &told["cost"]["total"]),
        (&json!(3), &json!(0), &json!("0.1486"))
    );

    // Groups and campaigns as well.
    let wish = json!({"name": "vip", "channel": "whatsapp"});
    assert_eq!(served.call(&token, Method::POST, "/v1/audiences", Some(wish)).await.0, StatusCode::CREATED);
    let members: Vec<Value> = people.iter().map(|to| json!({"to": to, "params": {"1": "佐藤"}})).collect();
    let members = json!({ "members": members });
    assert_eq!(served.call(&token, Method::POST, "/v1/audiences/vip/members", Some(members)).await.0, StatusCode::OK);
    let campaign = json!({"schema": "campaign/v1", "key": "spring", "business_number": "+15550001111",
        "template": {"name": "spring_offer", "language": "ja"}, "audience": {"group": "vip"},
        "schedule": "on_demand", "time_zone": "Asia/Tokyo"});
    let (status, answer) = served.call(&token, Method::PUT, "/v1/campaigns/spring", Some(campaign)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let (_, told) = served.get(&token, "/v1/campaigns/spring/forecast").await;
    assert_eq!((&told["recipients"], &told["cost"]["total"]), (&json!(3), &json!("0.1486")), "{told}");
    assert_eq!(told["left_out"], json!([{"code": "country", "recipients": 1}]));
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn terms_are_kept_shown_and_checked(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    let admin = served.token(&[Scope::Admin]).await;
    served.put_registry(&admin, &registry()).await;
    let (_, account) = served.get(&admin, "/v1/accounts/main").await;
    assert_eq!((&account["tier"], &account["countries"], &account["rates"]), (&Value::Null, &json!([]), &Value::Null));
    let (_, answer) = served.put_registry(&admin, &with_terms()).await;
    assert_eq!(answer["changes"][1]["became"], "updated", "{answer}");
    let (_, answer) = served.put_registry(&admin, &with_terms()).await;
    assert_eq!(answer["changes"][1]["became"], "unchanged", "{answer}");
    let (_, account) = served.get(&admin, "/v1/accounts/main").await;
    assert_eq!(account["tier"], "50");
    assert_eq!(account["rates"], with_terms()["accounts"][0]["rates"]);

    let mut wrong = with_terms();
    wrong["accounts"][0]["countries"] = json!(["JP", "Japan"]);
    let (status, answer) = served.put_registry(&admin, &wrong).await;
    let first = &answer["errors"][0];
    assert_eq!((status, &first["pointer"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("/accounts/0/countries")));
    wrong["accounts"][0]["rates"]["default"] = json!(0.1);
    let (status, answer) = served.put_registry(&admin, &wrong).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "a float is no amount: {answer}");
}
