//! Jobs as producers publish them: answered once, kept once, refused with reasons.

mod ahead;
mod audience_groups;
mod audiences;
mod canary;
mod firings;
mod refusals;
mod tallies;
mod windows;

use std::time::Duration;

use campaign_dispatch::{
    intake::{
        Claim, Intake, IntakeLane, JobAnswer, Road, Submission,
        dead::DeadLetters,
        import::{ImportError, ImportRequest, ImportSummary, import},
        job::{AcceptedJob, RejectedJob},
        lane::Step,
    },
    providers::Credentials,
    settings::Settings,
    store::{registry::Directory, vault::Vault},
    upkeep::outbox::Relay,
};
use chrono::{TimeDelta, Utc};
use lapin::BasicProperties;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{
    broker::{Peer, TestBroker, message, next},
    db::Db,
    soon,
};

const SEED: &str = "
    INSERT INTO producer (name, tenant_id) SELECT p.name, t.id FROM tenant t, (VALUES ('shop'), ('bank')) AS p (name);
    INSERT INTO business_number (account_id, business_number, provider_number_id, limit_per_s, status)
        SELECT id, '+81312345678', '1', 80, 'connected' FROM account;
    INSERT INTO template (account_id, name, language, category, status, parameter_format, components)
        SELECT a.id, t.name, language, category, status, format, components::jsonb FROM account a, (VALUES
            ('spring_offer', 'ja', 'marketing', 'approved', 'named', '[{\"type\":\"BODY\",\"text\":\"{{name}} at {{shop}}!\"}]'),
            ('spring_offer', 'en_US', 'marketing', 'approved', 'named', '[{\"type\":\"BODY\",\"text\":\"{{name}} at {{shop}}!\"}]'),
            ('parcel', 'ja', 'utility', 'paused', 'named', '[{\"type\":\"BODY\",\"text\":\"On its way.\"}]'),
            ('gone', 'ja', 'utility', 'rejected', 'named', '[{\"type\":\"BODY\",\"text\":\"Never.\"}]'),
            ('code', 'ja', 'authentication', 'approved', 'positional',
                '[{\"type\":\"BODY\",\"text\":\"*{{1}}* is your code.\"},{\"type\":\"BUTTONS\",\"buttons\":[{\"type\":\"OTP\",\"otp_type\":\"COPY_CODE\"}]}]')
        ) AS t (name, language, category, status, format, components);
    INSERT INTO hold (tenant_id, scope, cause, resume)
        SELECT 1, 'template:' || id, 'template_status', 'status' FROM template WHERE name = 'parcel';
    DELETE FROM outbox;
    UPDATE registry_version SET version = version + 1;";

struct World {
    db: Db,
    broker: TestBroker,
    directory: Directory,
    intake: Intake,
    lanes: [IntakeLane; 2],
    peer: Peer,
    stop: CancellationToken,
}

impl World {
    async fn new() -> Self {
        let db = Db::new().await;
        let vault = Vault::new([7; 32]);
        let sealed = vault.seal(&Credentials::default()).unwrap();
        sqlx::query(
            "INSERT INTO account (tenant_id, name, channel, provider, base_url, api_version, waba_id, credentials, app_digest)
             VALUES (1, 'main', 'whatsapp', 'whatsapp_cloud', 'http://127.0.0.1:1', 'v25.0', '1', $1, '')",
        )
        .bind(sealed)
        .execute(db.store.pool())
        .await
        .unwrap();
        db.run(SEED).await;
        let broker = TestBroker::new().await;
        let directory = Directory::new(db.store.clone(), vault);
        directory.refresh().await.unwrap();
        let Settings { intake: mut settings, canary, .. } = Settings::load(None, std::iter::empty()).unwrap();
        settings.plan_chunk = 3;
        let (intake, lanes) = Intake::new(db.store.clone(), directory.clone(), &broker.broker, settings, canary);
        let peer = Peer::new().await;
        Self { db, broker, directory, intake, lanes, peer, stop: CancellationToken::new() }
    }

    /// Publishes a job and takes it, and whatever else is there.
    async fn take(&mut self, key: &str, body: &[u8], properties: BasicProperties) {
        let entry = self.broker.topology().entry();
        let mut publication = message(entry, key, "");
        publication.body = bytes::Bytes::copy_from_slice(body);
        publication.reply_to = properties.reply_to().as_ref().map(ToString::to_string);
        publication.correlation_id = properties.correlation_id().as_ref().map(ToString::to_string);
        soon("the confirm", self.broker.broker.publisher().publish(vec![publication])).await.unwrap();
        let lane = usize::from(key == "jobs.urgent");
        soon("the job is taken", self.lanes[lane].step(&self.stop)).await;
    }

    /// Gives a job as HTTP does.
    async fn give(&mut self, body: Value) -> JobAnswer {
        self.give_bytes(body.to_string().into_bytes()).await
    }

    async fn give_bytes(&mut self, body: Vec<u8>) -> JobAnswer {
        let claim = Claim::Token { tenant: campaign_dispatch::domain::ids::TenantId(1), producer: None };
        let submission = Submission { claim, body: body.into(), is_dry_run: false };
        let (answer, step) = tokio::join!(self.intake.submit(Road::Bulk, submission), self.lanes[0].step(&self.stop));
        assert_eq!(step, Step::Answered(1));
        answer.unwrap()
    }

    async fn relay(&self) {
        let mut relay = Relay::new(self.db.store.clone(), &self.broker.broker, self.intake.outbox_nudge());
        loop {
            match soon("the relay", relay.step()).await.unwrap() {
                campaign_dispatch::upkeep::outbox::Step::Published(_) => {}
                campaign_dispatch::upkeep::outbox::Step::Idle => return,
                campaign_dispatch::upkeep::outbox::Step::Waiting => tokio::task::yield_now().await,
            }
        }
    }

    async fn import(&self, file: &[u8], ignore: bool) -> Result<ImportSummary, ImportError> {
        let pieces = file.chunks(7).map(|piece| Ok(bytes::Bytes::copy_from_slice(piece))).collect();
        self.upload(None, pieces, ignore).await
    }

    async fn upload(
        &self,
        id: Option<uuid::Uuid>,
        pieces: Vec<std::io::Result<bytes::Bytes>>,
        ignore: bool,
    ) -> Result<ImportSummary, ImportError> {
        let request = ImportRequest {
            id,
            account: Some("main".to_owned()),
            business_number: None,
            template: "spring_offer".to_owned(),
            language: "ja".to_owned(),
            file_name: "vip.csv".to_owned(),
            country: Some("JP".to_owned()),
            ignore_unknown_columns: ignore,
        };
        let tenant = campaign_dispatch::domain::ids::TenantId(1);
        import(&self.db.store, &self.directory.current(), tenant, &request, futures_util::stream::iter(pieces)).await
    }

    async fn end(self) {
        // Balances hold whatever the test did.
        let unbalanced: i64 = self
            .db
            .one(
                "SELECT count(*) FROM batch b WHERE recipients <> (SELECT count(*) FROM message m WHERE m.batch_id = b.batch_id)
                    OR recipients <> (SELECT count(*) FROM work w WHERE w.batch_id = b.batch_id)
                    OR recipients <> coalesce((SELECT pending FROM batch_tally t WHERE t.batch_id = b.batch_id), recipients)",
            )
            .await;
        assert_eq!(unbalanced, 0);
        let Self { lanes: [bulk, urgent], stop, .. } = self;
        stop.cancel();
        bulk.run(stop.clone()).await;
        urgent.run(stop).await;
        self.broker.remove().await;
        self.db.drop().await;
    }
}

fn job(id: &str, recipients: &[Value]) -> Value {
    json!({"schema": "send-job/v1", "job_id": id, "producer": "shop", "business_number": "+81312345678",
        "template": {"name": "spring_offer", "language": "ja"}, "params": {"body.shop": "渋谷店"}, "recipients": recipients})
}

fn to(number: &str) -> Value {
    json!({"to": number, "params": {"name": "佐藤"}})
}

/// Valid mobile numbers of Japan.
fn phone(n: usize) -> String {
    format!("+8190{:08}", 12_345_000 + n)
}

fn accepted(answer: JobAnswer) -> AcceptedJob {
    match answer {
        JobAnswer::Accepted(job) => job,
        JobAnswer::Rejected(job) => panic!("refused: {job:?}"),
    }
}

fn rejected(answer: JobAnswer) -> RejectedJob {
    match answer {
        JobAnswer::Rejected(job) => job,
        JobAnswer::Accepted(job) => panic!("accepted: {job:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_job_is_answered_by_event_and_reply_and_a_repeat_by_the_same() {
    let mut world = World::new().await;
    let topology = world.broker.topology();
    topology.declare(&world.peer.channel).await.unwrap();
    let (_, mut events) = world.peer.listen(&topology.events(), "job.*.v1.shop").await;
    let (queue, mut replies) = world.peer.listen("", "").await;
    let body = job("order-1", &[to(&phone(1))]).to_string();
    let asked = BasicProperties::default().with_reply_to(queue.as_str().into()).with_correlation_id("c-1".into());
    world.take("jobs", body.as_bytes(), asked.clone()).await;
    world.relay().await;
    let event = next(&mut events).await;
    let reply = next(&mut replies).await;
    assert_eq!(event.routing_key.as_str(), "job.accepted.v1.shop");
    assert_eq!(reply.properties.correlation_id().as_ref().unwrap().as_str(), "c-1");
    let event: Value = serde_json::from_slice(&event.data).unwrap();
    let first: Value = serde_json::from_slice(&reply.data).unwrap();
    assert_eq!(event["data"], first);
    assert_eq!(
        (&event["type"], &event["tenant"], &event["producer"]),
        (&json!("job.accepted.v1"), &json!("default"), &json!("shop"))
    );
    assert_eq!(
        (&first["schema"], &first["status"], &first["accepted"]),
        (&json!("job-answer/v1"), &json!("accepted"), &json!(1))
    );

    world.take("jobs", body.as_bytes(), asked).await;
    world.relay().await;
    let again: Value = serde_json::from_slice(&next(&mut replies).await.data).unwrap();
    assert_eq!(again, first);
    let other = world.give(job("order-1", &[to(&phone(2))])).await;
    assert_eq!((other.http_status(), rejected(other).errors[0].code.as_ref()), (409, "job_id_reused"));
    assert_eq!(world.db.one::<i64>("SELECT count(*) FROM message").await, 1);
    let kept: String = world
        .db
        .one("SELECT stage || ' ' || (turn_group = '00000000-0000-0000-0000-000000000000')::text FROM work")
        .await;
    assert_eq!(kept, "ready true");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_group_the_new_jobs_are_written_and_the_repeated_answered_as_at_first() {
    let mut world = World::new().await;
    let body = |n: usize| job(&format!("order-{n}"), &[to(&phone(n)), to(&phone(n + 10))]);
    let first = accepted(world.give(body(2)).await);
    let submit = |n| {
        let claim = Claim::Token { tenant: campaign_dispatch::domain::ids::TenantId(1), producer: None };
        world.intake.submit(Road::Bulk, Submission { claim, body: body(n).to_string().into(), is_dry_run: false })
    };
    let group = futures_util::future::join3(submit(1), submit(2), submit(3));
    let (answers, step) = tokio::join!(group, world.lanes[0].step(&world.stop));
    assert_eq!(step, Step::Answered(3));
    let [one, two, three] = [answers.0, answers.1, answers.2].map(|answer| accepted(answer.unwrap()));
    assert_eq!((two.batch_id, two.accepted), (first.batch_id, 2));
    assert_eq!([one.job_id, two.job_id, three.job_id], ["order-1", "order-2", "order-3"]);
    let told: String = world
        .db
        .one(
            "SELECT string_agg(times::text, ' ' ORDER BY batch) FROM (
                 SELECT m -> 'body' -> 'data' ->> 'job_id' AS batch, count(*) || '/' || count(DISTINCT m ->> 'id') AS times
                 FROM outbox, jsonb_array_elements(messages) m GROUP BY 1) told",
        )
        .await;
    assert_eq!(told, "1/1 2/1 1/1", "a repeat is told again under the same id");
    let rows: String = world
        .db
        .one(
            "SELECT concat_ws(' ', (SELECT count(*) FROM job), (SELECT count(*) FROM batch), (SELECT count(*) FROM message),
                    (SELECT count(*) FROM work), (SELECT sum(pending) FROM batch_tally))",
        )
        .await;
    assert_eq!(rows, "3 3 6 6 6");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_queue_that_is_gone_is_no_error() {
    let mut world = World::new().await;
    let asked = BasicProperties::default().with_reply_to("it-nobody-listens".into());
    world.take("jobs", job("1", &[to(&phone(1))]).to_string().as_bytes(), asked).await;
    world.relay().await;
    assert_eq!(world.db.one::<i64>("SELECT count(*) FROM outbox").await, 0);
    world.end().await;
}

/// A good job with one value put in or replaced.
#[tokio::test(flavor = "multi_thread")]
async fn the_urgent_queue_takes_authentication_only() {
    let mut world = World::new().await;
    world.take("jobs.urgent", job("1", &[to(&phone(1))]).to_string().as_bytes(), BasicProperties::default()).await;
    let listed: Value = world.db.one("SELECT errors FROM rejected_job").await;
    assert_eq!((&listed[0]["code"], &listed[0]["pointer"]), (&json!("not_urgent"), &json!("/template/name")));
    let mut code = job("2", &[json!({"to": phone(1), "params": {"code": "123456"}})]);
    code["template"] = json!({"name": "code", "language": "ja"});
    code["params"] = json!({});
    world.take("jobs.urgent", code.to_string().as_bytes(), BasicProperties::default()).await;
    let sql = "SELECT lane::text || extract(epoch FROM expires_at - send_at)::int FROM batch";
    assert_eq!(world.db.one::<String>(sql).await, "authentication600");
    let told =
        "SELECT count(*) FROM outbox, jsonb_array_elements(messages) m WHERE m -> 'body' -> 'data' ->> 'job_id' = '2'";
    assert_eq!(world.db.one::<i64>(told).await, 1);
    // The process died before it was told and acknowledged: it comes again.
    world.db.run("DELETE FROM outbox").await;
    world.take("jobs.urgent", code.to_string().as_bytes(), BasicProperties::default()).await;
    assert_eq!(world.db.one::<i64>(told).await, 1);
    assert_eq!(world.db.one::<i64>("SELECT count(*) FROM message").await, 1);
    let claim = Claim::Broker { user: None };
    assert_eq!(world.intake.road_of(&claim, code.to_string().as_bytes()), Road::Urgent);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_registered_a_moment_ago_is_known_and_others_are_listed_under_default() {
    let mut world = World::new().await;
    let mut body = job("1", &[to(&phone(1))]);
    body["producer"] = json!("late");
    world.take("jobs", body.to_string().as_bytes(), BasicProperties::default()).await;
    let listed: String = world
        .db
        .one("SELECT t.name || ' ' || r.producer || ' ' || (errors -> 0 ->> 'code') FROM rejected_job r JOIN tenant t ON t.id = tenant_id")
        .await;
    assert_eq!(listed, "default late unknown_producer");
    world.db.run("INSERT INTO producer (name, tenant_id) VALUES ('late', 1); UPDATE registry_version SET version = version + 1").await;
    assert_eq!(accepted(world.give(body).await).producer, "late");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_accepted_and_parked() {
    let mut world = World::new().await;
    let mut body = job("1", &[json!({"to": phone(1)}), json!({"to": phone(2)})]);
    body["template"] = json!({"name": "parcel", "language": "ja"});
    body["params"] = json!({});
    let answer = accepted(world.give(body.clone()).await);
    assert_eq!(answer.holds.iter().map(|h| h.cause.as_str()).collect::<Vec<_>>(), ["template_status"]);
    let parked: i64 = world
        .db
        .one("SELECT count(*) FROM work w JOIN batch b USING (batch_id) WHERE stage = 'parked' AND hold_id IS NOT NULL AND wake_at = expires_at")
        .await;
    assert_eq!(parked, 2);
    assert_eq!(accepted(world.give(body).await), answer);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_the_same_and_keeps_nothing() {
    let mut world = World::new().await;
    let body = job("1", &[to(&phone(1)), to("+8190")]);
    let claim = Claim::Token { tenant: campaign_dispatch::domain::ids::TenantId(1), producer: Some("shop".to_owned()) };
    let submission = Submission { claim, body: body.to_string().into(), is_dry_run: true };
    let rehearsed = accepted(world.intake.submit(Road::Bulk, submission).await.unwrap());
    assert_eq!((rehearsed.accepted, rehearsed.rejected), (1, 1));
    assert_eq!(world.db.one::<i64>("SELECT (SELECT count(*) FROM job) + (SELECT count(*) FROM outbox)").await, 0);
    assert_eq!(accepted(world.give(body).await).rejections, rehearsed.rejections);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_is_marked_and_an_unknown_one_is_told() {
    let mut world = World::new().await;
    let cancel = json!({"schema": "cancel-job/v1", "producer": "shop", "job_id": "1"});
    assert_eq!(rejected(world.give(cancel.clone()).await).errors[0].code, "unknown_job");
    let mut scheduled = job("1", &[to(&phone(1))]);
    let at = Utc::now() + TimeDelta::days(40);
    scheduled["send_at"] = json!(at.to_rfc3339());
    let answer = accepted(world.give(scheduled).await);
    assert_eq!(answer.batch_id.0.get_timestamp().unwrap().to_unix().0, u64::try_from(at.timestamp()).unwrap());
    assert_eq!(accepted(world.give(cancel).await).batch_id, answer.batch_id);
    assert_eq!(world.db.one::<i64>("SELECT count(*) FROM batch WHERE cancelled_at IS NOT NULL").await, 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed() {
    let world = World::new().await;
    let topology = world.broker.topology();
    let poison = message(topology.entry(), "jobs", &job("9", &[]).to_string());
    soon("the confirm", world.broker.broker.publisher().publish(vec![poison])).await.unwrap();
    let mut consumer = world.broker.broker.consumer(topology.jobs(), 1);
    let batch = soon("a delivery", consumer.next_batch(1)).await;
    consumer.reject(batch[0].tag).await;
    consumer.close().await;
    let mut dead = DeadLetters::new(world.db.store.clone(), world.directory.clone(), &world.broker.broker);
    assert_eq!(soon("the dead letter", dead.step(&world.stop)).await, 1);
    let listed: String =
        world.db.one("SELECT producer || ' ' || job_id || ' ' || (errors -> 0 ->> 'code') FROM rejected_job").await;
    assert_eq!(listed, "shop 9 dead_letter");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_taken_over_a_lost_database_connection_and_a_cut_broker() {
    let mut world = World::new().await;
    let entry = world.broker.topology().entry();
    let messages = (0..300).map(|n| message(entry.clone(), "jobs", &job(&n.to_string(), &[to(&phone(n))]).to_string()));
    soon("the confirms", world.broker.broker.publisher().publish(messages.collect())).await.unwrap();
    let mut turns = 0;
    while world.db.one::<i64>("SELECT count(*) FROM batch").await < 300 {
        turns += 1;
        if turns == 2 {
            world.db.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '%intake%' AND datname = current_database()").await;
        }
        if turns == 3 {
            world.broker.broker.cut();
        }
        soon("the jobs are taken", tokio::time::timeout(Duration::from_secs(20), world.lanes[0].step(&world.stop)))
            .await
            .unwrap();
    }
    assert_eq!(world.db.one::<i64>("SELECT count(*) FROM message").await, 300);
    world.end().await;
}
