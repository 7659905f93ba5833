//! Holds that open by themselves, let single messages through, and end by themselves.

use std::time::Duration;

use campaign_dispatch::{
    domain::{
        canary::CanaryRule,
        ids::{BatchId, TenantId},
    },
    registry::tokens::Scope,
    simulator::{Fault, FaultAction, FaultMatch},
    store::{
        holds,
        jobs::{self, NewCanary},
        work::{self, Want, through},
    },
};
use reqwest::{Method, StatusCode};
use serde_json::json;
use sqlx::{
    PgConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use uuid::Uuid;

use super::support::{
    eventually::eventually,
    world::{Plan, World},
};
use crate::{
    leases,
    served::{Served, registry, seed},
};

const LONG: Duration = Duration::from_mins(1);
/// Probes follow each other within the test's patience.
const QUICK: &[(&str, &str)] = &[("DISPATCH__HOLD__PROBE_BASE_S", "1"), ("DISPATCH__HOLD__PROBE_MAX_S", "1")];

fn one_number() -> Plan {
    Plan { limits: vec![Some(80)], ..Plan::default() }
}

async fn hold(connection: &mut PgConnection, scope: &str, cause: &str) -> (i64, String, i32, Option<String>) {
    eventually("a hold", LONG, async || {
        sqlx::query_as("SELECT id, resume, probes, closed_by FROM hold WHERE scope = $1 AND cause = $2")
            .bind(scope)
            .bind(cause)
            .fetch_optional(&mut *connection)
            .await
            .unwrap()
    })
    .await
}

async fn closed_by(connection: &mut PgConnection, hold: i64) -> String {
    eventually("the hold is closed", LONG, async || {
        sqlx::query_scalar::<_, Option<String>>("SELECT closed_by FROM hold WHERE id = $1")
            .bind(hold)
            .fetch_one(&mut *connection)
            .await
            .unwrap()
    })
    .await
}

/// Gives back what is parked under closed holds, as upkeep does.
async fn release(connection: &mut PgConnection) {
    sqlx::query(
        "UPDATE work w SET stage = 'ready', hold_id = NULL, wake_at = now() FROM hold h
         WHERE h.id = w.hold_id AND h.closed_at IS NOT NULL",
    )
    .execute(connection)
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn five_unknown_outcomes_in_a_row_hold_the_number_until_a_single_message_is_accepted() {
    let world = World::start_with(one_number(), QUICK).await;
    let fault = world.simulator.add_fault(Fault { when: FaultMatch::default(), action: FaultAction::DropAfterAccept });
    let number = world.number(1);
    world.batch(number, "offer", 0, 400).await;
    let worker = world.work();
    let mut connection = world.database.connect().await;
    let (id, resume, ..) = hold(&mut connection, &format!("number:{number}"), "uncertain_rate").await;
    assert_eq!(resume, "probe");
    let (provider, ..) = hold(&mut connection, "provider:whatsapp_cloud", "uncertain_rate").await;
    // A second of calls at most is under way when the line is crossed; from then on single messages go.
    eventually("a probe went out and changed nothing", LONG, async || {
        let probes: i32 =
            sqlx::query_scalar("SELECT sum(probes)::int FROM hold").fetch_one(&mut connection).await.unwrap();
        (probes >= 2).then_some(())
    })
    .await;
    let uncertain = world.counts().await.of("uncertain");
    assert!((5..150).contains(&uncertain), "{uncertain} of 400");
    world.simulator.clear_faults(Some(fault));
    // Two holds cover the number, and one accepted message shows that both causes are gone.
    assert_eq!(closed_by(&mut connection, provider).await, "probe");
    assert_eq!(closed_by(&mut connection, id).await, "probe");
    release(&mut connection).await;
    world.wake(number);
    let counts = world.all_called(LONG).await;
    assert_eq!(counts.sent() + counts.of("uncertain"), 400);
    assert_eq!(world.ledger().totals.doubled, 0);
    worker.drain().await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_is_one_message_of_all_workers_and_ends_the_hold_for_all() {
    let plan = Plan { limits: vec![Some(80); 2], ..Plan::default() };
    let world = World::start_with(plan, QUICK).await;
    let mut connection = world.database.connect().await;
    let workers = [world.work(), world.work()];
    eventually("both numbers are held", LONG, async || {
        let held: i64 = sqlx::query_scalar("SELECT count(DISTINCT worker_id) FROM number_lease")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        (held == 2).then_some(())
    })
    .await;
    let id: i64 = sqlx::query_scalar(
        "INSERT INTO hold (scope, cause, resume, probe_at) VALUES ('provider:whatsapp_cloud', 'test', 'probe', now() + interval '2 seconds')
         RETURNING id",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    // Both know the hold before there is any work.
    eventually("the copies are read again", LONG, async || {
        sqlx::query_scalar::<_, bool>("SELECT now() > since + interval '1 second' FROM hold")
            .fetch_one(&mut connection)
            .await
            .unwrap()
            .then_some(())
    })
    .await;
    world.simulator.add_fault(Fault { when: FaultMatch::default(), action: FaultAction::Slow(1500) });
    world.batch(world.number(1), "offer", 0, 60).await;
    world.batch(world.number(2), "offer", 10_000, 60).await;
    eventually("the first probe", LONG, async || (world.ledger().totals.calls > 0).then_some(())).await;
    let (probes, calls) = {
        let probes: i32 = sqlx::query_scalar("SELECT probes FROM hold").fetch_one(&mut connection).await.unwrap();
        (probes, world.ledger().totals.calls)
    };
    assert!(calls <= u64::try_from(probes).unwrap(), "{calls} calls by {probes} probes");
    assert_eq!(closed_by(&mut connection, id).await, "probe");
    world.simulator.clear_faults(None);
    let counts = world.all_called(LONG).await;
    assert_eq!((counts.sent(), world.ledger().totals.doubled), (120, 0));
    for worker in workers {
        worker.drain().await;
    }
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_malformed_requests_in_a_row_hold_their_batch_and_no_other() {
    let world = World::start(one_number()).await;
    let of = |suffix: &str| FaultMatch { suffix: Some(suffix.to_owned()), ..FaultMatch::default() };
    for suffix in ["0000001", "0000002", "0000003"] {
        world.simulator.add_fault(Fault { when: of(suffix), action: FaultAction::Error(132_000, None) });
    }
    let bad = world.batch(world.number(1), "offer", 0, 200).await;
    let good = world.batch(world.number(1), "offer", 50_000, 60).await;
    let worker = world.work();
    let mut connection = world.database.connect().await;
    let (_, resume, ..) = hold(&mut connection, &format!("batch:{bad}"), "config").await;
    assert_eq!(resume, "person");
    eventually("the other batch is sent", LONG, async || (pending(&mut connection, good).await == 0).then_some(()))
        .await;
    let failed: i64 =
        sqlx::query_scalar("SELECT count(*) FROM failed_message").fetch_one(&mut connection).await.unwrap();
    assert_eq!(failed, 3);
    assert!(pending(&mut connection, bad).await > 100);
    worker.drain().await;
    world.finish().await;
}

async fn pending(connection: &mut PgConnection, batch: BatchId) -> i32 {
    sqlx::query_scalar("SELECT pending FROM batch_tally WHERE batch_id = $1")
        .bind(batch.0)
        .fetch_one(connection)
        .await
        .unwrap()
}

const RULE: CanaryRule = CanaryRule { messages: 20, fault_percent: 30, wait_s: 600 };

/// A batch that opens with a canary, as intake makes it.
async fn watched(world: &World, first: u32, count: i32) -> BatchId {
    let number = world.number(1);
    let batch = world.batch(number, "offer", first, count).await;
    let mut connection = world.database.connect().await;
    let canary = NewCanary { tenant: TenantId(1), batch, number, rule: RULE };
    jobs::open_canaries(&mut connection, &[canary]).await.unwrap();
    batch
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_batch_opens_with_twenty_messages_and_goes_on_when_they_fare_well() {
    let world = World::start(Plan { limits: vec![None], ..Plan::default() }).await;
    // The provider is slow: what is let through before the first outcome is exactly the canary.
    let slow = world.simulator.add_fault(Fault { when: FaultMatch::default(), action: FaultAction::Slow(1000) });
    // Failures of recipients are none of the batch.
    let recipient = |suffix: &str| FaultMatch { suffix: Some(suffix.to_owned()), ..FaultMatch::default() };
    for i in 1..=9 {
        let when = recipient(&format!("000000{i}"));
        world.simulator.add_fault(Fault { when, action: FaultAction::Error(131_026, None) });
    }
    let batch = watched(&world, 0, 500).await;
    let worker = world.work();
    let mut connection = world.database.connect().await;
    eventually("the canary is out", LONG, async || (world.ledger().totals.calls >= 20).then_some(())).await;
    assert_eq!(world.ledger().totals.calls, 20);
    world.simulator.clear_faults(Some(slow));
    let (id, ..) = hold(&mut connection, &format!("batch:{batch}"), "canary").await;
    assert_eq!(closed_by(&mut connection, id).await, "canary");
    let counts = world.all_called(LONG).await;
    assert_eq!((counts.sent() + counts.of("failed"), world.ledger().totals.doubled), (500, 0));
    let canary: (i32, i32, i32) =
        sqlx::query_as("SELECT let_through, good, faulty FROM canary").fetch_one(&mut connection).await.unwrap();
    assert_eq!(canary, (20, 20, 0));
    worker.drain().await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_not_heard_of_a_canary_claims_nothing_of_its_batch() {
    let world = World::start(Plan { limits: vec![None], ..Plan::default() }).await;
    watched(&world, 0, 500).await;
    let (number, ttl) = (world.number(1), Duration::from_secs(15));
    let mut connection = world.store.connect("test").await.unwrap();
    let lease = leases::hold(&mut connection, Uuid::new_v4(), number, ttl).await;
    let found = work::look(&mut connection, &[number], 10).await.unwrap()[0];
    let want = Want { number, lease, lane: found.lane, group: found.group, most: 100 };
    let claimed = work::claim(&mut connection, &[want], usize::MAX, Uuid::new_v4(), ttl).await.unwrap();
    assert_eq!(claimed.messages.len(), 0);
    let (hold, _) = found.canary.unwrap();
    for places in [20, 0] {
        let claim = through::Claim { id: Uuid::new_v4(), deadline: ttl };
        let claimed = through::canary(&mut connection, hold, &want, claim).await.unwrap();
        assert_eq!(claimed.messages.len(), places);
    }
    drop(connection);
    sqlx::query("UPDATE work SET stage = 'ready'").execute(world.store.pool()).await.unwrap();
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_batch_whose_first_messages_meet_faults_stays_for_a_person() {
    let world = World::start(Plan { limits: vec![None], ..Plan::default() }).await;
    let fault =
        world.simulator.add_fault(Fault { when: FaultMatch::default(), action: FaultAction::Error(132_001, None) });
    let batch = watched(&world, 0, 500).await;
    let worker = world.work();
    let mut connection = world.database.connect().await;
    let scope = format!("batch:{batch}");
    eventually("the batch is kept", LONG, async || {
        let resume: String = sqlx::query_scalar("SELECT resume FROM hold WHERE scope = $1 AND cause = 'canary'")
            .bind(&scope)
            .fetch_one(&mut connection)
            .await
            .unwrap();
        (resume == "person").then_some(())
    })
    .await;
    eventually("nothing is being called", LONG, async || {
        let calling: i64 = sqlx::query_scalar("SELECT count(*) FROM work WHERE stage = 'calling'")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        (calling == 0).then_some(())
    })
    .await;
    let calls = world.ledger().totals.calls;
    assert!((6..=20).contains(&calls), "{calls}");
    assert_eq!(pending(&mut connection, batch).await, 500, "what met the fault is parked and not failed");
    // The template is mended, and a person lets the batch go.
    world.simulator.clear_faults(Some(fault));
    sqlx::query("UPDATE hold SET closed_at = now(), closed_by = 'test'").execute(&mut connection).await.unwrap();
    release(&mut connection).await;
    let counts = world.all_called(LONG).await;
    assert_eq!((counts.sent(), world.ledger().totals.doubled), (500, 0));
    worker.drain().await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_without_all_its_outcomes_in_time_stays_for_a_person() {
    let world = World::start(one_number()).await;
    let (late, early) = (watched(&world, 0, 101).await, watched(&world, 1000, 101).await);
    let mut connection = world.database.connect().await;
    sqlx::query("UPDATE canary SET let_through = 20, good = 19, started_at = now() - interval '601 seconds' WHERE batch_id = $1")
        .bind(late.0)
        .execute(&mut connection)
        .await
        .unwrap();
    assert_eq!(holds::stay_undecided(&mut connection).await.unwrap(), 1);
    let (_, resume, ..) = hold(&mut connection, &format!("batch:{late}"), "canary").await;
    assert_eq!(resume, "person");
    let (_, resume, ..) = hold(&mut connection, &format!("batch:{early}"), "canary").await;
    assert_eq!(resume, "canary");
    world.finish().await;
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn a_person_opens_shows_and_closes_holds_in_every_scope(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    let admin = served.token(&[Scope::Admin, Scope::Operate, Scope::Read]).await;
    let mut file = registry();
    file["accounts"][0]["portfolio"] = json!("acme");
    assert_eq!(served.put_registry(&admin, &file).await.0, StatusCode::OK);
    let batch = seed(&served, &[&["pending"]]).await[0];
    let scopes = [
        "everything".to_owned(),
        "provider:whatsapp_cloud".to_owned(),
        "portfolio:1/acme".to_owned(),
        "account:1".to_owned(),
        "number:1".to_owned(),
        "number:1:marketing".to_owned(),
        "template:1".to_owned(),
        format!("batch:{batch}"),
    ];
    for scope in &scopes {
        let wish = json!({"scope": scope, "reason": "we look first"});
        let (status, opened) = served.call(&admin, Method::POST, "/v1/holds", Some(wish.clone())).await;
        assert_eq!(status, StatusCode::CREATED, "{scope}: {opened}");
        let (_, again) = served.call(&admin, Method::POST, "/v1/holds", Some(wish)).await;
        assert_eq!(again, opened, "the same wish is the same hold");
        let path = format!("/v1/holds/{}", opened["id"]);
        let (_, shown) = served.get(&admin, &path).await;
        assert_eq!(
            (&shown["scope"], &shown["cause"], &shown["resume"]),
            (&json!(scope), &json!("person"), &json!("person"))
        );
        assert!(shown["detail"].as_str().unwrap().ends_with(": we look first"), "{shown}");
        let close = Some(json!({"reason": "seen"}));
        assert_eq!(served.call(&admin, Method::POST, &format!("{path}/close"), close).await.0, StatusCode::NO_CONTENT);
    }
    for scope in ["number:9", "provider:nobody", "portfolio:1/other", "number:1:sometimes", "the moon"] {
        let wish = json!({"scope": scope, "reason": "x"});
        let (status, answer) = served.call(&admin, Method::POST, "/v1/holds", Some(wish)).await;
        assert_eq!(
            (status, &answer["errors"][0]["pointer"]),
            (StatusCode::UNPROCESSABLE_ENTITY, &json!("/scope")),
            "{scope}"
        );
    }
    assert_eq!(served.get(&admin, "/v1/holds/99").await.0, StatusCode::NOT_FOUND);
    let reader = served.token(&[Scope::Read]).await;
    let wish = Some(json!({"scope": "everything", "reason": "x"}));
    assert_eq!(served.call(&reader, Method::POST, "/v1/holds", wish).await.0, StatusCode::FORBIDDEN);
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn new_credentials_close_what_only_they_could_mend(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    let admin = served.token(&[Scope::Admin, Scope::Read]).await;
    served.put_registry(&admin, &registry()).await;
    sqlx::query("INSERT INTO hold (tenant_id, scope, cause, resume) VALUES (1, 'account:1', '190', 'credentials'), (1, 'account:1', '368', 'person')")
        .execute(served.store.pool())
        .await
        .unwrap();
    let closed = async || {
        sqlx::query_as::<_, (String, Option<String>)>("SELECT cause, closed_by FROM hold ORDER BY cause")
            .fetch_all(served.store.pool())
            .await
            .unwrap()
    };
    served.put_registry(&admin, &registry()).await;
    assert!(closed().await.iter().all(|(_, by)| by.is_none()), "the same credentials mend nothing");
    let secrets = json!({"default/main": {"access_token": "new", "app_secret": "s3cret", "verify_token": "v"}});
    let body = json!({ "registry": registry(), "secrets": secrets });
    assert_eq!(served.call(&admin, Method::PUT, "/v1/registry", Some(body)).await.0, StatusCode::OK);
    assert_eq!(closed().await, [("190".to_owned(), Some("credentials".to_owned())), ("368".to_owned(), None)]);
}
