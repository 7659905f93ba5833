//! Jobs as producers publish them: answered once, kept once, refused with reasons.

use std::time::Duration;

use campaign_dispatch::{
    intake::{
        Claim, Intake, IntakeLane, JobAnswer, Road, Submission,
        dead::DeadLetters,
        import::{ImportError, ImportRequest, ImportSummary, import},
        job::{AcceptedJob, RejectedJob},
        lane::Step,
        plan,
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
        let request = ImportRequest {
            account: Some("main".to_owned()),
            business_number: None,
            template: "spring_offer".to_owned(),
            language: "ja".to_owned(),
            file_name: "vip.csv".to_owned(),
            country: Some("JP".to_owned()),
            ignore_unknown_columns: ignore,
        };
        let pieces: Vec<_> = file.chunks(7).map(|piece| Ok(bytes::Bytes::copy_from_slice(piece))).collect();
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
async fn a_reply_queue_that_is_gone_is_no_error() {
    let mut world = World::new().await;
    let asked = BasicProperties::default().with_reply_to("it-nobody-listens".into());
    world.take("jobs", job("1", &[to(&phone(1))]).to_string().as_bytes(), asked).await;
    world.relay().await;
    assert_eq!(world.db.one::<i64>("SELECT count(*) FROM outbox").await, 0);
    world.end().await;
}

/// A good job with one value put in or replaced.
fn with(pointer: &str, value: Value) -> Value {
    let mut body = job("1", &[to(&phone(1))]);
    match body.pointer_mut(pointer) {
        Some(place) => *place = value,
        None => body[pointer.trim_start_matches('/')] = value,
    }
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_json_is_told_with_line_and_column() {
    let mut world = World::new().await;
    let body = b"{\"schema\": \"send-job/v1\",\n oops".to_vec();
    let answer = world.give_bytes(body).await;
    assert_eq!(answer.http_status(), 400);
    let refused = rejected(answer);
    let error = &refused.errors[0];
    assert_eq!(refused.producer, "unknown");
    assert_eq!(error.code, "malformed_json");
    assert!(error.reason.contains("line 2 column 2"), "{}", error.reason);
    world.end().await;
}

/// A value put into a good job, the pointer of the complaint, its code, and what was meant.
const UNKNOWN: &[[&str; 5]] = &[
    ["/recipient", "[]", "/recipient", "unknown_field", "recipients"],
    ["/business_number", "\"+81312345687\"", "/business_number", "unknown_number", "+81312345678"],
    ["/template/name", "\"spring_offers\"", "/template/name", "unknown_template", "spring_offer"],
    ["/template/language", "\"ko\"", "/template/language", "unknown_language", "en_US"],
    ["/producer", "\"shops\"", "/producer", "unknown_producer", "shop"],
    ["/params", "{\"body.shopp\": \"x\"}", "/params/body.shopp", "unknown_slot", "body.shop"],
    ["/channel", "\"viber\"", "/channel", "wrong_channel", "whatsapp"],
];

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_name_is_told_with_its_place_and_what_was_meant() {
    let mut world = World::new().await;
    for [pointer, value, at, code, meant] in UNKNOWN.iter().copied() {
        let value = serde_json::from_str(value).unwrap();
        let refused = rejected(world.give(with(pointer, value)).await);
        let error = &refused.errors[0];
        assert_eq!((error.pointer.as_str(), error.code.as_ref()), (at, code));
        let first = error.did_you_mean.first().map(String::as_str);
        assert_eq!(first, Some(meant), "{code}");
    }
    // Every one of them is listed, and none took the job's name.
    let listed: i64 = world.db.one("SELECT count(*) FROM rejected_job WHERE source = 'http'").await;
    assert_eq!(listed, 7);
    assert_eq!(accepted(world.give(with("/campaign", json!("x"))).await).accepted, 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_is_refused() {
    let mut world = World::new().await;
    let far = (Utc::now() + TimeDelta::days(181)).to_rfc3339();
    let gone = json!({"name": "gone", "language": "ja"});
    for (pointer, value, code) in [
        ("/template", gone, "template_unusable"),
        ("/send_at", json!(far), "too_far_ahead"),
        ("/expires_at", json!("2020-01-01T00:00:00Z"), "expires_too_early"),
        ("/recipients", json!([]), "no_good_recipient"),
        ("/recipients", json!([{"to": "+8190"}]), "no_good_recipient"),
        ("/audience", json!({"group": "vip"}), "contradiction"),
    ] {
        let refused = rejected(world.give(with(pointer, value)).await);
        assert_eq!(refused.errors[0].code, code);
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn good_rows_go_on() {
    let mut world = World::new().await;
    let mut rows: Vec<Value> = (0..20).map(|n| to(&phone(n))).collect();
    rows[16] = to("+8190");
    rows[17] = json!({"to": phone(17)});
    rows[18] = to(&format!(" {} ", phone(3)));
    let answer = accepted(world.give(job("1", &rows)).await);
    assert_eq!((answer.accepted, answer.rejected), (17, 3));
    let told: Vec<_> = answer.rejections.iter().map(|r| (r.row, r.pointer.as_str(), r.code.as_ref())).collect();
    let expected = [
        (17, "/recipients/16/to", "invalid_number"),
        (18, "/recipients/17/params/body.name", "missing_slot"),
        (19, "/recipients/18/to", "duplicate_recipient"),
    ];
    assert_eq!(told, expected);
    assert!(answer.rejections[2].reason.contains("row 19") && answer.rejections[2].reason.contains("row 4"));
    assert_eq!(world.db.one::<i64>("SELECT count(*) FROM batch_rejected").await, 3);
    // The repeat is answered from what was kept.
    assert_eq!(accepted(world.give(job("1", &rows)).await), answer);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_job_is_refused_and_its_neighbours_are_not() {
    let mut world = World::new().await;
    let topology = world.broker.topology();
    topology.declare(&world.peer.channel).await.unwrap();
    let mut huge = job("huge", &[]);
    huge["campaign"] = json!("x".repeat(50 * 1024 * 1024));
    let neighbours = [job("a", &[to(&phone(1))]), huge, job("b", &[to(&phone(2))])];
    for body in neighbours {
        world.peer.publish(&topology.entry(), "jobs", body.to_string().as_bytes(), BasicProperties::default()).await;
    }
    let mut answered = 0;
    while answered < 3 {
        match soon("the jobs are taken", world.lanes[0].step(&world.stop)).await {
            Step::Answered(count) => answered += count,
            Step::Stopping => panic!("stopped"),
        }
    }
    assert_eq!(world.db.one::<i64>("SELECT count(*) FROM batch").await, 2);
    let listed: Value =
        world.db.one("SELECT errors FROM rejected_job WHERE producer = 'shop' AND job_id = 'huge'").await;
    assert_eq!(listed[0]["code"], "too_large");
    let rows: Vec<Value> = (0..1001).map(|n| to(&phone(n))).collect();
    let answer = world.give(job("many", &rows)).await;
    assert_eq!((answer.http_status(), rejected(answer).errors[0].code.as_ref()), (413, "too_many_recipients"));
    world.end().await;
}

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

/// Eight good rows, a blank one, three bad ones, as Japanese Excel saves them.
fn file() -> Vec<u8> {
    let good = (0..8).map(|n| format!("090{:08};顧客{n};crm-{n}\r\n", 12_345_000 + n));
    let bad = "\r\n090-1;x;\r\n+81 90-1234-5003;again;\r\n09012345099;;\r\n";
    let text = format!("to;name;ref\r\n{}{bad}", good.collect::<String>());
    encoding_rs::SHIFT_JIS.encode(&text).0.into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_imported_and_its_bad_rows_are_told() {
    let world = World::new().await;
    let summary = world.import(&file(), false).await.unwrap();
    assert_eq!((summary.rows, summary.good, summary.bad), (11, 8, 3));
    let told = summary.rejections.iter().map(|r| (r.row, r.field.as_str(), r.code.as_str()));
    let expected = [(11, "to", "invalid_number"), (12, "to", "duplicate_recipient"), (13, "name", "missing_slot")];
    assert_eq!(told.collect::<Vec<_>>(), expected);
    let reason = &summary.rejections[1].reason;
    assert!(reason.contains("row 5"), "{reason}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audience_is_planned_in_chunks_and_taken_up_where_it_was_left() {
    let mut world = World::new().await;
    let summary = world.import(&file(), false).await.unwrap();
    let mut body = job("1", &[]);
    body["audience"] = json!({"import": summary.id});
    body.as_object_mut().unwrap().remove("recipients");
    let mut lacking = body.clone();
    lacking["params"] = json!({});
    let refused = rejected(world.give(lacking).await);
    assert_eq!(refused.errors[0].pointer, "/params/body.shop");
    let answer = accepted(world.give(body.clone()).await);
    assert_eq!((answer.accepted, answer.rejected), (8, 0));
    let mut planner = world.intake.planner();
    assert_eq!(planner.step().await.unwrap(), plan::Step::Made(3));
    drop(planner);
    let mut planner = world.intake.planner();
    assert_eq!(planner.step().await.unwrap(), plan::Step::Made(3));
    let state: String = world.db.one("SELECT state::text || recipients FROM batch").await;
    assert_eq!(state, "planning6");
    assert_eq!(planner.step().await.unwrap(), plan::Step::Finished(2));
    assert_eq!(planner.step().await.unwrap(), plan::Step::Idle);
    let sql = "SELECT string_agg(recipient || coalesce(ref, ''), ' ' ORDER BY seq) FROM message";
    let made: String = world.db.one(sql).await;
    assert!(made.starts_with("+819012345000crm-0 +819012345001crm-1"), "{made}");
    assert!(made.ends_with("+819012345007crm-7"), "{made}");
    let own_turn: bool = world.db.one("SELECT bool_and(turn_group = batch_id) FROM work").await;
    assert!(own_turn);
    assert_eq!(accepted(world.give(body).await), answer);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_column_is_refused_unless_told_to_ignore_it() {
    let world = World::new().await;
    let file = b"to,nmae,name\n+819012345001,x,y\n";
    let Err(ImportError::Refused(errors)) = world.import(file, false).await else { panic!("taken") };
    assert_eq!((errors[0].code.as_ref(), errors[0].pointer.as_str()), ("unknown_column", "/nmae"));
    assert!(!errors[0].did_you_mean.is_empty());
    assert_eq!(world.db.one::<String>("SELECT state FROM import").await, "failed");
    assert_eq!(world.import(file, true).await.unwrap().good, 1);
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

#[tokio::test]
async fn a_large_marketing_batch_opens_with_a_canary_and_its_work_is_not_parked() {
    let mut world = World::new().await;
    let people = |count: u32| -> Vec<Value> {
        (0..count)
            .map(|i| json!({"to": format!("+8190{:08}", 10_000_000 + i), "params": {"body.name": "佐藤"}}))
            .collect()
    };
    let large = accepted(world.give(job("large", &people(101))).await);
    let middle = accepted(world.give(job("middle", &people(100))).await);
    assert!(large.holds.is_empty() && middle.holds.is_empty(), "what goes on by itself is nothing to be told of");
    let canary: (String, String) = sqlx::query_as(
        "SELECT h.scope, h.resume || ' ' || c.messages FROM canary c JOIN hold h ON h.id = c.hold_id AND h.closed_at IS NULL",
    )
    .fetch_one(world.db.store.pool())
    .await
    .unwrap();
    assert_eq!(canary, (format!("batch:{}", large.batch_id), "canary 20".to_owned()));
    assert_eq!(world.db.one::<i64>("SELECT count(*) FROM work WHERE stage <> 'ready'").await, 0);
    world.end().await;
}
