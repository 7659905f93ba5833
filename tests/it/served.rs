//! The API on a port of its own, over a database of its own.

use std::{sync::Arc, time::Duration};

use campaign_dispatch::{
    broker::{Broker, BrokerOptions},
    domain::ids::TenantId,
    http::{self, HttpState},
    intake::Intake,
    providers::{self, http::HttpClient},
    registry::tokens::{self, Scope, TokenRequest},
    settings::Settings,
    store::{Store, messages::Rules, registry::Directory, vault::Vault},
};
use metrics_exporter_prometheus::PrometheusBuilder;
use reqwest::{Method, StatusCode};
use secrecy::SecretString;
use serde_json::{Value, json};
use sqlx::{ConnectOptions as _, postgres::PgConnectOptions};
use tokio_util::sync::CancellationToken;

/// A running API and what tests reach around it.
pub(crate) struct Served {
    pub(crate) store: Store,
    pub(crate) directory: Directory,
    pub(crate) url: String,
    client: reqwest::Client,
}

/// Settings as a test wants them.
pub(crate) fn settings(pairs: &[(&str, &str)]) -> Settings {
    let own = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Settings::load(None, own).unwrap()
}

impl Served {
    /// Serves over the database that `sqlx::test` made.
    pub(crate) async fn over(options: &PgConnectOptions) -> Self {
        Self::with(options, &settings(&[("DISPATCH__BROKER__URL", "amqp://127.0.0.1:1")])).await
    }

    pub(crate) async fn with(options: &PgConnectOptions, settings: &Settings) -> Self {
        let store = Store::new(&SecretString::from(options.to_url_lossy().to_string()), 4).unwrap();
        let directory = Directory::new(store.clone(), Vault::new([7; 32]));
        directory.refresh().await.unwrap();
        let broker = Broker::start(&BrokerOptions::from_settings(&settings.broker), CancellationToken::new()).unwrap();
        let (intake, lanes) =
            Intake::new(store.clone(), directory.clone(), &broker, settings.intake.clone(), settings.canary.clone());
        for lane in lanes {
            tokio::spawn(lane.run(CancellationToken::new()));
        }
        let state = HttpState {
            store: store.clone(),
            directory: directory.clone(),
            intake,
            providers: providers::registry(&HttpClient::new(&settings.provider).unwrap()),
            metrics: PrometheusBuilder::new().build_recorder().handle(),
            readiness: Arc::new(|| {
                Box::pin(async { vec![http::Check { name: "broker".into(), ok: false, detail: "gone".to_owned() }] })
            }),
            settings: settings.http.clone(),
            inline_bytes: settings.intake.inline_bytes,
            campaigns: settings.campaigns.clone(),
            rules: Rules { grace: Duration::from_secs(settings.uncertain.grace_s), events: settings.events.wanted() },
            upkeep: None,
            broker: broker.clone(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, http::router(state)).await });
        Self { store, directory, url, client: reqwest::Client::new() }
    }

    /// A token of the tenant `default`.
    pub(crate) async fn token(&self, scopes: &[Scope]) -> String {
        self.token_for("default", scopes).await
    }

    pub(crate) async fn token_for(&self, tenant: &str, scopes: &[Scope]) -> String {
        let request = TokenRequest {
            name: "test".to_owned(),
            scopes: scopes.to_vec(),
            producer: None,
            tenant: Some(tenant.to_owned()),
        };
        tokens::create(&self.store, None, &request).await.unwrap().token
    }

    pub(crate) async fn call(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let mut request = self.client.request(method, format!("{}{path}", self.url)).bearer_auth(token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub(crate) async fn get(&self, token: &str, path: &str) -> (StatusCode, Value) {
        self.call(token, Method::GET, path, None).await
    }

    pub(crate) async fn put_registry(&self, token: &str, registry: &Value) -> (StatusCode, Value) {
        let secrets = json!({"default/main": {"access_token": "t0ken", "app_secret": "s3cret", "verify_token": "v"}});
        let body = json!({ "registry": registry, "secrets": secrets });
        self.call(token, Method::PUT, "/v1/registry", Some(body)).await
    }

    pub(crate) fn client(&self) -> &reqwest::Client {
        &self.client
    }
}

/// One account with one number and one template.
pub(crate) fn registry() -> Value {
    json!({
        "producers": [{"name": "shop"}],
        "accounts": [{
            "name": "main", "channel": "whatsapp", "provider": "whatsapp_cloud", "base_url": "http://127.0.0.1:9",
            "api_version": "v25.0", "waba_id": "2001",
            "credentials": {"access_token": {"env": "A"}, "app_secret": {"env": "B"}, "verify_token": {"env": "C"}}
        }],
        "numbers": [{"account": "main", "business_number": "+15550001111", "provider_number_id": "1001", "limit": 80}],
        "templates": [{
            "account": "main", "name": "spring_offer", "language": "ja", "category": "marketing", "status": "approved",
            "components": [{"type": "BODY", "text": "{{1}}様", "example": {"body_text": [["佐藤"]]}}]
        }]
    })
}

/// Batches with messages in them, as intake and dispatch leave them: number 1, template 1, the tenant `default`.
/// `states` are the messages of each batch, the oldest batch first.
pub(crate) async fn seed(served: &Served, states: &[&[&str]]) -> Vec<uuid::Uuid> {
    let tenant = TenantId(1);
    let mut made = Vec::new();
    let mut connection = served.store.acquire().await.unwrap();
    for (age, states) in states.iter().rev().enumerate().rev() {
        let due = chrono::Utc::now() - chrono::Duration::seconds(i64::try_from(age).unwrap());
        let batch = campaign_dispatch::domain::ids::BatchId::due_at(due).0;
        sqlx::query(
            "INSERT INTO batch (batch_id, tenant_id, producer, job_id, account_id, number_id, template_id, lane, state,
                                recipients, send_at, expires_at, created_at)
             VALUES ($1, $2, 'shop', $3, 1, 1, 1, 'marketing', 'planned', $4, $5, $5 + interval '1 day', $5)",
        )
        .bind(batch)
        .bind(tenant.0)
        .bind(format!("job-{}", made.len()))
        .bind(i32::try_from(states.len()).unwrap())
        .bind(due)
        .execute(&mut *connection)
        .await
        .unwrap();
        sqlx::query(
            "INSERT INTO job (tenant_id, producer, job_id, body_sha256, batch_id) VALUES ($1, 'shop', $2, '', $3)",
        )
        .bind(tenant.0)
        .bind(format!("job-{}", made.len()))
        .bind(batch)
        .execute(&mut *connection)
        .await
        .unwrap();
        if states.len() > 1 {
            let count = |state: &str| i32::try_from(states.iter().filter(|s| **s == state).count()).unwrap();
            sqlx::query(
                "INSERT INTO batch_tally (batch_id, pending, uncertain, sent, failed) VALUES ($1, $2, $3, $4, $5)",
            )
            .bind(batch)
            .bind(count("pending"))
            .bind(count("uncertain"))
            .bind(count("sent"))
            .bind(count("failed"))
            .execute(&mut *connection)
            .await
            .unwrap();
        }
        for (place, state) in states.iter().enumerate() {
            insert_message(&mut connection, batch, i32::try_from(place).unwrap() + 1, state).await;
        }
        made.push(batch);
    }
    made
}

async fn insert_message(connection: &mut sqlx::PgConnection, batch: uuid::Uuid, seq: i32, state: &str) {
    sqlx::query(
        "INSERT INTO message (batch_id, seq, recipient, state, code) VALUES ($1, $2, $3, $4::message_state,
                CASE WHEN $4 = 'failed' THEN '131026' END)",
    )
    .bind(batch)
    .bind(seq)
    .bind(format!("+8190123456{seq:02}"))
    .bind(state)
    .execute(&mut *connection)
    .await
    .unwrap();
    if matches!(state, "pending" | "uncertain") {
        sqlx::query(
            "INSERT INTO work (batch_id, seq, number_id, lane, stage, turn_group, wake_at)
             VALUES ($1, $2, 1, 'marketing', CASE WHEN $3 = 'pending' THEN 'ready' ELSE 'unsure' END::work_stage, $1, now())",
        )
        .bind(batch)
        .bind(seq)
        .bind(state)
        .execute(&mut *connection)
        .await
        .unwrap();
    }
    if state == "failed" {
        sqlx::query(
            "INSERT INTO failed_message (batch_id, seq, number_id, template_id, attempt, code, class, reason, failed_at)
             VALUES ($1, $2, 1, 1, 1, '131026', 'recipient', 'Message undeliverable', now())",
        )
        .bind(batch)
        .bind(seq)
        .execute(&mut *connection)
        .await
        .unwrap();
    }
}
