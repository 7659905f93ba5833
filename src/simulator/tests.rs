//! The simulator as its callers see it: over HTTP, with a receiver for its callbacks.

use std::{collections::BTreeMap, num::NonZeroU32, path::PathBuf, time::Duration};

use axum::{Router, body::Bytes, routing::post};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;
use crate::{
    domain::{Category, Channel},
    registry::file::{AccountEntry, CredentialSource, NumberEntry, ParameterFormat, TemplateEntry},
};

const TOKEN: &str = "v1.0a1b2c3d.0192d0c7-7d2a-7aaa-8aaa-123456789abc";

fn registry(limit: Option<u32>) -> RegistryFile {
    let folder = std::env::temp_dir().join(format!("simulator-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(&folder).unwrap();
    let secret = |name: &str| {
        std::fs::write(folder.join(name), format!("{name}-value\n")).unwrap();
        (name.to_owned(), CredentialSource::File(folder.join(name)))
    };
    let default = "default".to_owned();
    RegistryFile {
        accounts: vec![AccountEntry {
            name: "main".to_owned(),
            tenant: default.clone(),
            portfolio: None,
            channel: Channel::Whatsapp,
            provider: "whatsapp_cloud".to_owned(),
            base_url: "http://127.0.0.1:1".to_owned(),
            api_version: "v25.0".to_owned(),
            waba_id: "2001".to_owned(),
            uncertain: crate::domain::uncertain::UncertainOverrides::default(),
            tier: None,
            countries: std::collections::BTreeSet::new(),
            rates: None,
            credentials: ["access_token", "app_secret", "verify_token"].map(secret).into(),
        }],
        numbers: vec![NumberEntry {
            account: "main".to_owned(),
            tenant: default.clone(),
            business_number: "+15550001111".to_owned(),
            provider_number_id: "1001".to_owned(),
            limit: limit.and_then(NonZeroU32::new),
            status: "connected".to_owned(),
        }],
        templates: vec![TemplateEntry {
            account: "main".to_owned(),
            tenant: default,
            name: "offer".to_owned(),
            language: "ja".to_owned(),
            provider_template_id: None,
            category: Category::Utility,
            status: "approved".to_owned(),
            parameter_format: ParameterFormat::Positional,
            components: vec![json!({"type":"BODY","text":"Hello {{1}}"})],
        }],
        ..RegistryFile::default()
    }
}

struct World {
    running: Running,
    client: reqwest::Client,
}

async fn world(limit: Option<u32>, change: impl FnOnce(&mut SimulatorSettings)) -> World {
    let mut settings = SimulatorSettings::new(registry(limit), PathBuf::new());
    settings.telling.delay_ms = 5;
    change(&mut settings);
    World { running: start(settings).await.unwrap(), client: client().unwrap() }
}

fn message(to: &str, opaque: &str) -> Value {
    json!({"messaging_product":"whatsapp","recipient_type":"individual","to":to,"type":"template",
        "biz_opaque_callback_data":opaque,
        "template":{"name":"offer","language":{"code":"ja"},"components":[
            {"type":"body","parameters":[{"type":"text","text":"佐藤"}]}]}})
}

impl World {
    async fn post(&self, path: &str, token: &str, body: &Value) -> reqwest::Result<(u16, Value)> {
        let request = self.client.post(format!("{}{path}", self.running.url())).bearer_auth(token).json(body);
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let text = answer.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    async fn send(&self, body: &Value) -> (u16, Value) {
        self.post("/v25.0/1001/messages", "access_token-value", body).await.unwrap()
    }

    async fn code(&self, body: &Value) -> (u16, u64) {
        let (status, answer) = self.send(body).await;
        (status, answer["error"]["code"].as_u64().unwrap_or_default())
    }

    async fn control(&self, method: reqwest::Method, path: &str, body: Value) -> (u16, Value) {
        let request = self.client.request(method, format!("{}/_sim/{path}", self.running.url())).json(&body);
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }
}

/// A dispatch process as far as callbacks are concerned: checks the signature and passes on the statuses. Refuses the
/// first `refuse` well-signed POSTs.
async fn receiver(refuse: u64) -> (String, mpsc::UnboundedReceiver<Value>) {
    let (sender, statuses) = mpsc::unbounded_channel();
    let refused = Arc::new(AtomicU64::new(0));
    let hook = move |headers: HeaderMap, body: Bytes| async move {
        assert!(body.is_ascii(), "the provider escapes what is not ASCII");
        if headers["x-hub-signature-256"].to_str().unwrap() != wire::signature(b"app_secret-value", &body) {
            return StatusCode::UNAUTHORIZED;
        }
        if refused.fetch_add(1, Ordering::Relaxed) < refuse {
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&body["object"], &body["entry"][0]["id"]), (&"whatsapp_business_account".into(), &"2001".into()));
        let value = &body["entry"][0]["changes"][0]["value"];
        assert_eq!(value["metadata"]["phone_number_id"], "1001");
        for status in value["statuses"].as_array().unwrap() {
            sender.send(status.clone()).unwrap();
        }
        StatusCode::OK
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, Router::new().route("/hook", post(hook))).await });
    (url, statuses)
}

async fn told(statuses: &mut mpsc::UnboundedReceiver<Value>, count: usize) -> Vec<Value> {
    let mut all = Vec::new();
    while all.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(10), statuses.recv()).await;
        all.push(next.expect("a status within ten seconds").unwrap());
    }
    all
}

fn words(statuses: &[Value]) -> Vec<&str> {
    statuses.iter().map(|status| status["status"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_message_is_accepted_and_told_about() {
    let (url, mut statuses) = receiver(0).await;
    let world = world(None, |settings| {
        settings.webhooks = BTreeMap::from([("2001".to_owned(), url)]);
    })
    .await;
    let opaque = format!("{TOKEN}.1.1 \"佐藤\\");
    let (status, answer) = world.send(&message("+81 90-1234-5678", &opaque)).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["contacts"][0], json!({"input":"+81 90-1234-5678","wa_id":"819012345678"}));
    assert_eq!(answer["messages"][0]["message_status"], "accepted");
    let told = told(&mut statuses, 3).await;
    assert_eq!(words(&told), ["sent", "delivered", "read"]);
    for status in &told {
        assert_eq!(status["id"], answer["messages"][0]["id"]);
        assert_eq!(status["recipient_id"], "819012345678");
        assert_eq!(status["biz_opaque_callback_data"], opaque);
        assert!(status["timestamp"].is_string());
    }
}

#[tokio::test]
async fn the_gate_refuses_in_the_providers_order() {
    let world = world(None, |_| ()).await;
    let code = |answer: (u16, Value)| (answer.0, answer.1["error"]["code"].as_u64().unwrap_or_default());
    let bad_body = json!({"messaging_product":"sms"});
    assert_eq!(code(world.post("/v25.0/77/messages", "wrong", &bad_body).await.unwrap()), (400, 100));
    assert_eq!(code(world.post("/v25.0/1001/messages", "wrong", &bad_body).await.unwrap()), (401, 190));
    assert_eq!(code(world.post("/v25.0/1001/messages", "", &bad_body).await.unwrap()), (401, 104));
    assert_eq!(code(world.send(&bad_body).await), (400, 100));
}

#[tokio::test]
async fn the_gate_looks_at_the_number_then_the_recipient_then_the_template() {
    let world = world(None, |_| ()).await;
    let good = message("+819012345678", "x");
    let mut to_itself = message("15550001111", "x");
    world.control(reqwest::Method::PUT, "numbers", json!({"1001":{"status":"PENDING"}})).await;
    assert_eq!(world.code(&to_itself).await, (400, 133_010));
    world.control(reqwest::Method::PUT, "numbers", json!({"1001":{"status":"connected"}})).await;
    assert_eq!(world.code(&to_itself).await, (400, 131_021));
    to_itself["to"] = "+819012345678".into();
    to_itself["template"]["language"]["code"] = "en".into();
    let (status, answer) = world.send(&to_itself).await;
    assert_eq!((status, &answer["error"]["code"]), (404, &132_001.into()));
    assert_eq!(answer["error"]["error_data"]["details"], "template name (offer) does not exist in en");
    let mut empty = good.clone();
    empty["template"]["components"] = json!([]);
    let (_, answer) = world.send(&empty).await;
    let details = "body: number of localizable_params (0) does not match the expected number of params (1)";
    assert_eq!(answer["error"]["error_data"]["details"], details);
    let of_marketing = world.post("/v25.0/1001/marketing_messages", "access_token-value", &good).await.unwrap();
    assert_eq!(of_marketing.1["error"]["code"], 134_100);
    let text = json!({"messaging_product":"whatsapp","to":"+819012345678","type":"text","text":{"body":"hi"}});
    assert_eq!(world.code(&text).await, (400, 131_047));
    assert_eq!(world.code(&good).await, (200, 0));
}

#[tokio::test]
async fn more_than_the_limit_in_a_second_is_refused_and_counted() {
    let world = world(Some(20), |_| ()).await;
    let mut refused = 0;
    for seq in 1..=30 {
        let body = message(&format!("+81900000{seq:04}"), &format!("{TOKEN}.{seq}.1"));
        refused += usize::from(world.code(&body).await == (400, 130_429));
    }
    let ledger = world.running.ledger();
    let number = &ledger.numbers["1001"];
    assert!(number.worst_second_any > 20 && refused > 0, "{number:?}");
    assert_eq!(ledger.totals.refused["130429"], refused as u64);
    assert_eq!((number.calls, number.accepted, number.throttled), (30, 30 - refused as u64, refused as u64));
    world.running.reset();
    assert_eq!(world.running.ledger().totals, Totals::default());
    assert_eq!(world.code(&message("+819000000001", "x")).await, (200, 0));
}

#[tokio::test]
async fn one_recipient_has_a_bucket() {
    let world = world(None, |_| ()).await;
    for _ in 0..45 {
        assert_eq!(world.code(&message("+819012345678", "x")).await, (200, 0));
    }
    assert_eq!(world.code(&message("+819012345678", "x")).await, (400, 131_056));
    assert_eq!(world.code(&message("+819012345679", "x")).await, (200, 0));
}

#[tokio::test]
async fn a_message_accepted_twice_is_doubled_whatever_its_attempt() {
    let world = world(None, |_| ()).await;
    for (to, opaque) in [("+81901", "1.1"), ("+81902", "2.1"), ("+81901", "1.2"), ("+81901", "1.3")] {
        assert_eq!(world.code(&message(to, &format!("{TOKEN}.{opaque}"))).await, (200, 0));
    }
    for _ in 0..2 {
        world.send(&message("+81903", "not a token")).await;
    }
    let (_, ledger) = world.control(reqwest::Method::GET, "ledger", Value::Null).await;
    assert_eq!((&ledger["accepted"], &ledger["messages"], &ledger["doubled"]), (&6.into(), &3.into(), &2.into()));
    let (_, listed) = world.control(reqwest::Method::GET, "ledger/messages?accepted=2&limit=3", Value::Null).await;
    let lines: Vec<MessageLine> =
        listed.as_str().unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seen: Vec<_> = lines.iter().map(|line| (line.index, line.seq, line.attempt, line.times_accepted)).collect();
    assert_eq!(seen, [(0, Some(1), Some(1), 3), (2, Some(1), Some(2), 3), (3, Some(1), Some(3), 3)]);
    assert!(!listed.as_str().unwrap().contains("81901"), "recipients are masked");
    let (_, arrivals) = world.control(reqwest::Method::GET, "ledger/arrivals?number=1001", Value::Null).await;
    assert_eq!(arrivals.as_str().unwrap().lines().count(), 6);
}

#[tokio::test]
async fn recipients_misbehave_by_suffix() {
    let (url, mut statuses) = receiver(0).await;
    let world = world(None, |settings| {
        settings.webhooks = BTreeMap::from([("2001".to_owned(), url)]);
    })
    .await;
    for (suffix, code) in [("0026", 131_026), ("0472", 130_472)] {
        assert_eq!(world.code(&message(&format!("+8190000{suffix}"), "x")).await, (200, 0));
        let failed = told(&mut statuses, 1).await.remove(0);
        assert_eq!((&failed["status"], &failed["errors"][0]["code"]), (&"failed".into(), &code.into()));
    }
    assert_eq!(world.code(&message("+81900009000", "x")).await, (500, 131_000));
    assert_eq!(world.code(&message("+81900009005", "x")).await, (400, 131_008));
    let (status, html) = world.send(&message("+81900009003", "x")).await;
    assert!(status == 502 && html.as_str().unwrap().starts_with("<!DOCTYPE html>"));
    assert_eq!(world.running.ledger().totals.accepted, 2);
    assert_eq!(world.code(&message("+81900009004", "x")).await, (500, 131_000));
    for suffix in ["9001", "9006"] {
        let body = message(&format!("+8190000{suffix}"), "x");
        let cut = world.post("/v25.0/1001/messages", "access_token-value", &body).await;
        assert!(cut.is_err_and(|error| error.status().is_none()));
    }
    assert_eq!(world.running.ledger().totals.accepted, 4);
    world.control(reqwest::Method::PUT, "settings", json!({"suffix_faults":false})).await;
    assert_eq!(world.code(&message("+81900009000", "x")).await, (200, 0));
}

#[tokio::test]
async fn faults_come_and_go_by_the_api() {
    let world = world(None, |_| ()).await;
    let fault = json!({"match":{"template":"offer","after_calls":1,"count":1},"do":{"error":132_015}});
    let (status, added) = world.control(reqwest::Method::POST, "faults", fault).await;
    assert_eq!((status, &added["id"]), (201, &1.into()));
    let good = message("+819012345678", "x");
    let mut codes = Vec::new();
    for _ in 0..3 {
        codes.push(world.code(&good).await.1);
    }
    assert_eq!(codes, [0, 132_015, 0]);
    let (_, listed) = world.control(reqwest::Method::GET, "faults", Value::Null).await;
    assert_eq!(listed[0]["done"], 1);
    world.control(reqwest::Method::POST, "faults", json!({"do":"token_expired"})).await;
    assert_eq!(world.code(&good).await, (401, 190));
    assert_eq!(world.control(reqwest::Method::DELETE, "faults", Value::Null).await.1["removed"], 2);
    assert_eq!(world.code(&good).await, (200, 0));
    assert_eq!(world.control(reqwest::Method::POST, "faults", json!({"do":"explode"})).await.0, 422);
    assert_eq!(world.control(reqwest::Method::PUT, "webhooks", json!({"9":"http://x/"})).await.0, 400);
}

#[tokio::test]
async fn callbacks_are_tried_again_until_they_are_taken() {
    let (url, mut statuses) = receiver(2).await;
    let world = world(None, |settings| settings.telling.read_share = 0.0).await;
    world.send(&message("+819012345678", "before the webhook")).await;
    world.running.set_webhook("2001", Some(&url)).unwrap();
    world.send(&message("+819012345678", "x")).await;
    let mut told = told(&mut statuses, 2).await;
    told.sort_by_key(|status| status["status"].to_string());
    assert_eq!(words(&told), ["delivered", "sent"]);
    let counted = async {
        loop {
            let counts = world.running.ledger().callbacks;
            if counts.acknowledged == 2 {
                return counts;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let counts = tokio::time::timeout(Duration::from_secs(10), counted).await.unwrap();
    assert_eq!((counts.owed, counts.sent, counts.failed_posts, counts.without_url), (0, 2, 2, 2));
}

#[tokio::test]
async fn callbacks_misbehave_on_request() {
    let (url, mut statuses) = receiver(0).await;
    let world = world(None, |settings| {
        settings.webhooks = BTreeMap::from([("2001".to_owned(), url)]);
    })
    .await;
    world.send(&message("+81900009010", "none")).await;
    world.send(&message("+81900009014", "forged")).await;
    assert_eq!(words(&told(&mut statuses, 3).await), ["sent", "delivered", "read"]);
    world.send(&message("+81900009012", "reordered")).await;
    assert_eq!(words(&told(&mut statuses, 3).await), ["read", "delivered", "sent"]);
    world.send(&message("+81900009011", "twice")).await;
    let twice = told(&mut statuses, 6).await;
    assert_eq!(words(&twice).iter().filter(|word| **word == "read").count(), 2);
    let (_, answer) = world.send(&message("+81900009007", "held")).await;
    assert_eq!(answer["messages"][0]["message_status"], "held_for_quality_assessment");
    let counts = world.running.ledger().callbacks;
    assert_eq!((counts.forged, counts.forged_taken), (1, 0));
    world.running.stop().await;
}

#[tokio::test]
async fn after_the_end_nobody_is_answered() {
    let World { running, client } = world(None, |_| ()).await;
    let url = format!("{}/_sim/healthz", running.url());
    assert!(client.get(&url).send().await.is_ok());
    running.stop().await;
    assert!(client.get(&url).send().await.is_err());
}
