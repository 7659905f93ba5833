//! Why something waits, read from a database in that situation. The sentences are a table in `domain::why`.

use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use super::{post, run, served};
use crate::{
    journey::Home,
    served::{Served, seed},
    support::{eventually::eventually, operator::Operator, world::Plan},
};

async fn why(served: &Served, token: &str, path: &str) -> Value {
    let (status, answer) = served.get(token, &format!("/v1/{path}/why")).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

fn commands(why: &Value) -> String {
    let steps = why["next"].as_array().unwrap().iter();
    steps.filter_map(|step| step["command"].as_str()).collect::<Vec<_>>().join("\n")
}

/// A worker that holds the number, as far as the database knows.
const WORKER: &str = "WITH w AS (INSERT INTO worker (worker_id, host, expires_at)
         VALUES (gen_random_uuid(), 'here', now() + interval '1 hour') RETURNING worker_id)
     INSERT INTO number_lease (number_id, lease_id, worker_id) SELECT 1, gen_random_uuid(), worker_id FROM w
     ON CONFLICT (number_id) DO UPDATE SET lease_id = excluded.lease_id, worker_id = excluded.worker_id";

/// One situation after another, and the gate that stops a message in it.
const SITUATIONS: &[(&str, &str)] = &[
    ("UPDATE hold SET closed_at = now()", "rate"),
    (
        "INSERT INTO hold (tenant_id, scope, cause, detail, resume) VALUES (1, 'account:1', '190', 'Authentication error', 'credentials')",
        "hold",
    ),
    (
        "UPDATE hold SET scope = 'template:1', cause = 'template_status', resume = 'status' WHERE closed_at IS NULL",
        "hold",
    ),
    (
        "UPDATE hold SET scope = 'batch:' || (SELECT batch_id FROM work WHERE seq = 8), cause = 'approval', resume = 'person' WHERE closed_at IS NULL",
        "approval",
    ),
    ("UPDATE hold SET cause = 'canary', resume = 'canary' WHERE closed_at IS NULL", "canary"),
    ("UPDATE hold SET cause = 'campaign_paused', resume = 'person' WHERE closed_at IS NULL", "hold"),
    ("UPDATE hold SET closed_at = now()", "rate"),
    (
        "UPDATE batch SET windows = '{}'; UPDATE work SET wake_at = now() + interval '1 hour', until = now() + interval '2 hours' WHERE stage = 'ready'",
        "window",
    ),
    (
        "UPDATE batch SET windows = NULL; UPDATE work SET until = NULL; INSERT INTO attempt SELECT batch_id, seq, 1, 'returned', '131049', 'throttled_user', 'x', now() FROM work WHERE stage = 'ready'",
        "retry",
    ),
    (
        "DELETE FROM attempt; INSERT INTO suppression (tenant_id, scope, recipient, source)
         SELECT 1, 'tenant', recipient, 'keyword' FROM message WHERE seq = 8",
        "suppressed",
    ),
    (
        "UPDATE suppression SET lifted_at = now(), lifted_by = 'ann'; UPDATE batch SET send_at = now() + interval '1 hour'",
        "send_at",
    ),
    ("UPDATE batch SET state = 'planning', send_at = now()", "planning"),
    ("UPDATE batch SET expires_at = now()", "life"),
    ("UPDATE batch SET cancelled_at = now()", "cancelled"),
];

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn each_wait_names_its_gate(_: PgPoolOptions, options: PgConnectOptions) {
    let (served, admin) = served(&options).await;
    let batches = seed(&served, &[&["pending"; 10]]).await;
    let (message, batch) = (format!("messages/{}.8", batches[0]), format!("batches/{}", batches[0]));
    let gate = async |path: &str| why(&served, &admin, path).await["gate"].clone();

    let told = why(&served, &admin, &message).await;
    assert_eq!(told["gate"], "worker", "{told}");
    assert!(commands(&told).contains("serve --roles dispatch"), "{told}");
    run(&served, WORKER).await;
    let told = why(&served, &admin, &message).await;
    assert_eq!(told["gate"], "rate", "{told}");
    assert!(told["summary"].as_str().unwrap().contains("behind 7 others"), "{told}");
    assert!(told["until"].is_string(), "an estimate: {told}");
    let first = why(&served, &admin, &batch).await;
    assert_eq!(
        (&first["gate"], &first["left"]["ready"], &first["message"]),
        (&Value::Null, &json!(10), &json!(format!("{}.1", batches[0])))
    );

    // Of a hold on the batch and one on the number the wider is told, and the narrower will stop it then.
    post(&served, &admin, &format!("/v1/{batch}/pause"), json!({"reason": "wrong text"})).await;
    let told = why(&served, &admin, &message).await;
    assert_eq!(told["gate"], "hold", "{told}");
    assert_eq!(commands(&told), format!("campaign-dispatch batches resume {} --reason TEXT", batches[0]));
    let held = post(&served, &admin, "/v1/holds", json!({"scope": "number:1", "reason": "by hand"})).await;
    let told = why(&served, &admin, &batch).await;
    assert_eq!(commands(&told), format!("campaign-dispatch holds close {} --reason TEXT", held["id"]));
    let verdicts: Vec<&str> = told["gates"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|g| g["hold"].as_i64().and(g["verdict"].as_str()))
        .collect();
    assert_eq!(verdicts, ["stops", "will_stop"]);
    for (change, expected) in SITUATIONS {
        run(&served, change).await;
        assert_eq!(gate(&message).await, *expected, "{change}");
    }
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn what_waits_for_no_gate_says_what_became_of_it(_: PgPoolOptions, options: PgConnectOptions) {
    let (served, admin) = served(&options).await;
    let batch = seed(&served, &[&["failed", "sent", "uncertain"]]).await[0];
    let failed = why(&served, &admin, &format!("messages/{batch}.1")).await;
    assert_eq!((&failed["gate"], &failed["state"]), (&json!("state"), &json!("failed")));
    assert!(failed["summary"].as_str().unwrap().contains("131026 Message undeliverable"), "{failed}");
    let unsure = why(&served, &admin, &format!("messages/{batch}.3")).await;
    assert_eq!(unsure["gate"], "uncertain");
    assert!(commands(&unsure).contains("uncertain resolve"), "{unsure}");
    assert_eq!(why(&served, &admin, &format!("messages/{batch}.2")).await["gate"], Value::Null);
    for path in [
        "messages/01900000-0000-7000-8000-000000000001.1",
        "batches/01900000-0000-7000-8000-000000000001",
        "messages/x",
    ] {
        assert_eq!(served.get(&admin, &format!("/v1/{path}/why")).await.0, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_engine_agrees() {
    let home = Home::start(Plan { limits: vec![Some(2)], ..Plan::default() }).await;
    let ann = Operator::of(&home, "ann").await;
    let batch = home.world.batch(home.world.number(1), "order", 0, 40).await;
    let told = eventually("its turn is told", std::time::Duration::from_secs(20), async || {
        let told = ann.get(&format!("/v1/messages/{batch}.40/why")).await;
        (told["gate"] == "rate").then_some(told)
    })
    .await;
    assert!(told["summary"].as_str().unwrap().contains("others"), "{told}");
    let (status, _) = ann.post(&format!("/v1/batches/{batch}/pause"), Some(&json!({"reason": "stop"}))).await;
    assert_eq!(status, 200);
    let told = ann.get(&format!("/v1/batches/{batch}/why")).await;
    assert!(told["gate"] == "hold" || told["gate"] == "call", "{told}");
    let (status, _) = ann.post(&format!("/v1/batches/{batch}/cancel"), Some(&json!({"reason": "enough"}))).await;
    assert_eq!(status, 200);
    let told = eventually("it is through", std::time::Duration::from_secs(20), async || {
        let told = ann.get(&format!("/v1/batches/{batch}/why")).await;
        (told["gate"].is_null() && told["left"]["ready"] == 0 && told["left"]["parked"] == 0).then_some(told)
    })
    .await;
    assert!(told["summary"].as_str().unwrap().starts_with("nothing is left to do: "), "{told}");
    home.finish().await;
}
