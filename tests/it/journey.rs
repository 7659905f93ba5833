//! The whole way through the composed process: from the queue to the provider and back into the checklist.

use std::{sync::Arc, time::Duration};

use campaign_dispatch::{
    app::{self, Role, Server},
    broker::Topology,
    simulator::{Fault, FaultAction, FaultMatch},
};
use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};

use super::support::{
    broker::{Names, Peer, next, url},
    eventually::eventually,
    world::{self, Plan, World},
};

const LONG: Duration = Duration::from_mins(1);

/// A world with a whole process in it, whose callbacks come home.
pub(crate) struct Home {
    pub(crate) world: World,
    server: Server,
    pub(crate) names: Names,
}

impl Home {
    pub(crate) async fn start(plan: Plan) -> Self {
        Self::with(plan, Role::ALL).await
    }

    pub(crate) async fn with(plan: Plan, roles: &[Role]) -> Self {
        let home = Self::at(plan, roles, &url()).await;
        let webhook = format!("{}{}", home.url(), home.hook());
        home.world.simulator.set_webhook("2001", Some(&webhook)).unwrap();
        eventually("the queues are there", LONG, async || {
            let ready: Value = reqwest::get(format!("{}/readyz", home.url())).await.ok()?.json().await.ok()?;
            (ready["checks"][1]["detail"] == "connected").then_some(())
        })
        .await;
        home
    }

    /// With the broker at this address, which may be nobody's.
    async fn at(plan: Plan, roles: &[Role], broker: &str) -> Self {
        let names = Names::take().await;
        let settings = [("DISPATCH__BROKER__PREFIX", names.prefix.as_str()), ("DISPATCH__BROKER__URL", broker)];
        let world = World::start_with(plan, &settings).await;
        sqlx::query("INSERT INTO producer (name, tenant_id) VALUES ('shop', 1)")
            .execute(&mut world.database.connect().await)
            .await
            .unwrap();
        sqlx::query("UPDATE registry_version SET version = version + 1")
            .execute(&mut world.database.connect().await)
            .await
            .unwrap();
        let server = app::start(Arc::clone(&world.settings), roles).await.unwrap();
        Self { world, server, names }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.server.address.unwrap())
    }

    fn hook(&self) -> String {
        let snapshot = self.world.directory.current();
        let account = snapshot.accounts.values().next().unwrap();
        format!("/hooks/whatsapp_cloud/{}", account.hook)
    }

    /// Publishes as a producer does, and waits for the answer.
    pub(crate) async fn publish(&self, peer: &Peer, job: &Value) -> Value {
        let (queue, mut answers) = peer.listen("", "").await;
        let properties = lapin::BasicProperties::default().with_reply_to(queue.as_str().into());
        let body = serde_json::to_vec(job).unwrap();
        peer.publish(&self.names.topology().entry(), Topology::JOBS_KEY, &body, properties).await;
        serde_json::from_slice(&next(&mut answers).await.data).unwrap()
    }

    pub(crate) async fn states(&self, wanted: &[(&str, i64)]) {
        let wanted: Vec<(String, i64)> = wanted.iter().map(|(state, count)| ((*state).to_owned(), *count)).collect();
        eventually(&format!("the states are {wanted:?}"), LONG, async || {
            let counts = self.world.counts().await;
            let found: Vec<(String, i64)> = counts.0.into_iter().collect();
            (found == wanted).then_some(())
        })
        .await;
    }

    /// Posts a callback as the provider signs it.
    pub(crate) async fn signed(&self, body: &Value) -> u16 {
        let body = serde_json::to_vec(body).unwrap();
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(b"test-app-secret").unwrap();
        mac.update(&body);
        let signature = format!("sha256={}", hex::encode(mac.finalize().into_bytes()));
        let url = format!("{}{}", self.url(), self.hook());
        let request = reqwest::Client::new().post(url).header("x-hub-signature-256", signature).body(body);
        request.send().await.unwrap().status().as_u16()
    }

    pub(crate) async fn finish(mut self) {
        self.server.stop();
        self.server.ended().await.unwrap();
        self.world.finish().await;
    }
}

pub(crate) fn job(id: &str, recipients: std::ops::Range<u32>) -> Value {
    let recipients: Vec<Value> = recipients
        .map(|i| json!({"to": format!("+8190{:08}", 10_000_000 + i), "params": {"body.name": "佐藤"}, "ref": format!("crm-{i}")}))
        .collect();
    json!({"schema": "send-job/v1", "job_id": id, "producer": "shop", "business_number": "+81312340001",
           "template": {"name": "offer", "language": "ja"}, "params": {"body.shop": "渋谷店"}, "recipients": recipients})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_from_the_queue_to_the_provider_and_its_callbacks_come_home() {
    let home = Home::start(Plan::default()).await;
    // Callbacks twice, out of order, and a forged one beside each.
    for action in [FaultAction::DuplicateCallbacks, FaultAction::ReorderCallbacks, FaultAction::BadSignature] {
        home.world.simulator.add_fault(Fault { when: FaultMatch::default(), action });
    }
    let peer = Peer::new().await;
    let job = job("order-1", 0..300);
    let answer = home.publish(&peer, &job).await;
    assert_eq!((&answer["status"], &answer["accepted"]), (&json!("accepted"), &json!(300)), "{answer}");
    let again = home.publish(&peer, &job).await;
    assert_eq!(again, answer, "the same job gets the first answer");
    home.states(&[("read", 300)]).await;
    let ledger = home.world.ledger();
    assert_eq!((ledger.totals.accepted, ledger.totals.doubled), (300, 0));
    assert_eq!(ledger.callbacks.forged_taken, 0);
    home.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_lost_is_found_again_by_its_callback() {
    let home = Home::start(Plan::default()).await;
    home.world.simulator.add_fault(Fault { when: FaultMatch::default(), action: FaultAction::DropAfterAccept });
    let peer = Peer::new().await;
    home.publish(&peer, &job("order-1", 0..40)).await;
    home.states(&[("read", 40)]).await;
    assert_eq!(home.world.ledger().totals.doubled, 0);
    home.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_later_is_failed_or_sent_again_by_its_class() {
    let home = Home::start(Plan::default()).await;
    let recipient =
        |suffix: &str, count| FaultMatch { suffix: Some(suffix.to_owned()), count, ..FaultMatch::default() };
    home.world.simulator.add_fault(Fault { when: recipient("0001", None), action: FaultAction::AsyncError(131_026) });
    home.world
        .simulator
        .add_fault(Fault { when: recipient("0002", Some(1)), action: FaultAction::AsyncError(131_000) });
    let peer = Peer::new().await;
    home.publish(&peer, &job("order-1", 0..60)).await;
    home.states(&[("failed", 1), ("read", 59)]).await;
    let mut connection = home.world.database.connect().await;
    let twice: Vec<(String, i16)> =
        sqlx::query_as("SELECT right(recipient, 4), attempt FROM message WHERE attempt > 1")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    assert_eq!(twice, [("0002".to_owned(), 2)], "what failed for now was sent again");
    home.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_told_later_holds_its_scope() {
    let home = Home::start(Plan::default()).await;
    home.world.simulator.add_fault(Fault {
        when: FaultMatch { count: Some(1), ..FaultMatch::default() },
        action: FaultAction::AsyncError(131_042),
    });
    let peer = Peer::new().await;
    home.publish(&peer, &job("order-1", 0..1)).await;
    home.states(&[("failed", 1)]).await;
    let mut connection = home.world.database.connect().await;
    let hold: (String, String) = sqlx::query_as("SELECT scope, cause FROM hold WHERE closed_at IS NULL")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert!(hold.0.starts_with("account:") && hold.1 == "131042", "{hold:?}");
    // The next job is taken, told of the hold, and waits.
    let answer = home.publish(&peer, &job("order-2", 1..30)).await;
    assert_eq!(answer["holds"][0]["cause"], "131042", "{answer}");
    home.states(&[("failed", 1), ("pending", 29)]).await;
    // A person closes it, and everything goes out.
    sqlx::query("UPDATE hold SET closed_at = now(), closed_by = 'test', reason = 'paid'")
        .execute(&mut connection)
        .await
        .unwrap();
    home.states(&[("failed", 1), ("read", 29)]).await;
    home.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_future_job_waits_for_its_time_and_a_cancelled_one_is_never_called() {
    let home = Home::start(Plan::default()).await;
    let peer = Peer::new().await;
    let mut later = job("later", 0..20);
    later["send_at"] = json!((chrono::Utc::now() + chrono::Duration::seconds(3)).to_rfc3339());
    let mut never = job("never", 100..300);
    never["send_at"] = json!((chrono::Utc::now() + chrono::Duration::hours(5)).to_rfc3339());
    home.publish(&peer, &later).await;
    home.publish(&peer, &never).await;
    home.states(&[("pending", 220)]).await;
    assert_eq!(home.world.ledger().totals.calls, 0);
    let cancel = json!({"schema": "cancel-job/v1", "producer": "shop", "job_id": "never"});
    let answer = home.publish(&peer, &cancel).await;
    assert_eq!(answer["status"], "accepted", "{answer}");
    home.states(&[("cancelled", 200), ("read", 20)]).await;
    let mut connection = home.world.database.connect().await;
    let early: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM message m JOIN batch b USING (batch_id) WHERE m.accepted_at < b.send_at",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(early, 0, "nothing is sent before its time");
    home.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callbacks_are_checked_before_they_are_believed() {
    let home = Home::start(Plan::default()).await;
    let client = reqwest::Client::new();
    let hook = format!("{}{}", home.url(), home.hook());
    let unsigned = client.post(&hook).body("{}").send().await.unwrap();
    assert_eq!(unsigned.status(), 401);
    let forged = client
        .post(&hook)
        .header("x-hub-signature-256", format!("sha256={}", "0".repeat(64)))
        .body("{}")
        .send()
        .await
        .unwrap();
    assert_eq!(forged.status(), 401);
    let challenge = client
        .get(format!("{hook}?hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=test-verify-token"))
        .send()
        .await
        .unwrap();
    assert_eq!((challenge.status().as_u16(), challenge.text().await.unwrap()), (200, "1158201444".to_owned()));
    let wrong =
        client.get(format!("{hook}?hub.mode=subscribe&hub.challenge=1&hub.verify_token=guess")).send().await.unwrap();
    assert_eq!(wrong.status(), 403);
    let nobody =
        client.get(format!("{}/hooks/whatsapp_cloud/{}", home.url(), uuid::Uuid::new_v4())).send().await.unwrap();
    assert_eq!(nobody.status(), 404);
    home.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_is_not_thanked_for_before_the_broker_has_it() {
    let home = Home::at(Plan::default(), &[Role::Http, Role::Callbacks], "amqp://127.0.0.1:1").await;
    assert_eq!(home.signed(&json!({"object": "whatsapp_business_account", "entry": []})).await, 503);
    home.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_worker_died_becomes_uncertain_and_its_callback_lifts_it() {
    let home = Home::with(Plan::default(), &[Role::Upkeep, Role::Callbacks, Role::Http]).await;
    // As a killed worker leaves it: claimed, perhaps called, never settled.
    let batch = home.world.batch(home.world.number(1), "offer", 5_000_000, 1).await;
    let mut connection = home.world.database.connect().await;
    sqlx::query("UPDATE work SET stage = 'calling', attempt = 7, wake_at = now()")
        .execute(&mut connection)
        .await
        .unwrap();
    home.states(&[("uncertain", 1)]).await;
    world::assert_balanced(&mut connection).await;
    let installation: String =
        sqlx::query_scalar("SELECT name FROM installation").fetch_one(&mut connection).await.unwrap();
    let status = |number: &str| {
        json!({"object": "whatsapp_business_account", "entry": [{"id": "2001", "changes": [{"field": "messages", "value": {
            "messaging_product": "whatsapp", "metadata": {"display_phone_number": "81312340001", "phone_number_id": number},
            "statuses": [{"id": "wamid.X", "status": "delivered", "timestamp": "1790000000", "recipient_id": "819015000001",
                          "biz_opaque_callback_data": format!("v1.{installation}.{}.1.7", batch.0)}]}}]}]})
    };
    // Another number may not speak for the message.
    assert_eq!(home.signed(&status("9999")).await, 200);
    assert_eq!(home.signed(&status("1001")).await, 200);
    home.states(&[("delivered", 1)]).await;
    home.finish().await;
}
