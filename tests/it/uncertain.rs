//! Calls whose outcome nobody knows: how they come about, and what decides about them.

use std::{sync::Arc, time::Duration};

use campaign_dispatch::{
    broker::{Broker, BrokerOptions},
    domain::{
        event::Wanted,
        ids::{BatchId, MessageKey},
        message::MessageEvent,
    },
    simulator::{Fault, FaultAction, FaultMatch},
    store::messages::{self, Change, Rules},
    upkeep::Upkeep,
};
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use super::support::{
    eventually::eventually,
    world::{Plan, World},
};

const LONG: Duration = Duration::from_mins(1);
const RULES: Rules = Rules { grace: Duration::from_mins(1), events: Wanted::DEFAULT };

/// A sweeper whose broker is away: everything here works without.
pub(crate) fn upkeep(world: &World) -> Upkeep {
    let options = BrokerOptions {
        url: "amqp://127.0.0.1:1".to_owned().into(),
        ..BrokerOptions::from_settings(&world.settings.broker)
    };
    let broker = Broker::start(&options, CancellationToken::new()).unwrap();
    Upkeep::new(&world.store, broker, Arc::clone(&world.settings), Arc::default())
}

/// Makes all messages of a batch uncertain, as a worker that died in its calls does.
pub(crate) async fn in_doubt(connection: &mut PgConnection, batch: BatchId, count: i32) {
    sqlx::query("UPDATE work SET stage = 'calling', attempt = 1 WHERE batch_id = $1")
        .bind(batch.0)
        .execute(&mut *connection)
        .await
        .unwrap();
    let changes: Vec<Change> =
        (1..=count).map(|seq| Change::new(MessageKey { batch_id: batch, seq }, 1, MessageEvent::Unknown)).collect();
    messages::apply(connection, &changes, RULES).await.unwrap();
}

/// Lets the grace pass, and the call be so old.
async fn age(connection: &mut PgConnection, age: &'static str) {
    sqlx::query("UPDATE work SET wake_at = now() WHERE stage = 'unsure'").execute(&mut *connection).await.unwrap();
    sqlx::query("UPDATE attempt SET at = now() - $1::interval").bind(age).execute(connection).await.unwrap();
}

async fn text(connection: &mut PgConnection, sql: &'static str) -> Vec<String> {
    sqlx::query_scalar(sql).fetch_all(connection).await.unwrap()
}

const DECISIONS: &str = "SELECT decision || ' by ' || decided_by || ' of ' || attempt FROM decision ORDER BY at, seq";
const STATES: &str = "SELECT state::text || coalesce(' ' || code, '') FROM message ORDER BY batch_id, seq";

#[tokio::test(flavor = "multi_thread")]
async fn every_ambiguous_ending_is_uncertain_and_has_its_attempt() {
    let patience = [("DISPATCH__PROVIDER__TIMEOUT_MS", "1500"), ("DISPATCH__DISPATCH__DRAIN_S", "1")];
    let world = World::start_with(Plan::default(), &patience).await;
    // Apart from each other: five in a row would open a hold.
    let endings = [
        ("0008", FaultAction::DropBeforeAccept, "connection_lost"),
        ("0016", FaultAction::DropAfterAccept, "connection_lost"),
        ("0024", FaultAction::Slow(4000), "timeout"),
        ("0032", FaultAction::Html502, "http_502"),
        ("0040", FaultAction::Html502AfterAccept, "http_502"),
        ("0048", FaultAction::Error(131_000, Some(500)), "131000"),
        ("0056", FaultAction::ErrorAfterAccept(131_000, Some(500)), "131000"),
    ];
    for (suffix, action, _) in &endings {
        let when = FaultMatch { suffix: Some((*suffix).to_owned()), ..FaultMatch::default() };
        world.simulator.add_fault(Fault { when, action: action.clone() });
    }
    world.batch(world.number(1), "offer", 0, 60).await;
    let worker = world.work();
    let counts = world.all_called(LONG).await;
    assert_eq!((counts.sent(), counts.of("uncertain")), (53, 7));
    let mut connection = world.database.connect().await;
    let attempts: Vec<(i32, i16, String, String, String)> =
        sqlx::query_as("SELECT seq, attempt, outcome, code, class FROM attempt ORDER BY seq")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    let expected = endings.iter().map(|(suffix, _, code)| {
        (suffix.parse().unwrap(), 1, "unknown".to_owned(), (*code).to_owned(), "uncertain".to_owned())
    });
    assert_eq!(attempts, expected.collect::<Vec<_>>());

    // A call that outlives the drain is abandoned.
    world.simulator.add_fault(Fault { when: FaultMatch::default(), action: FaultAction::Slow(1400) });
    let accepted = world.ledger().totals.accepted;
    let late = world.batch(world.number(1), "offer", 100_010, 1).await;
    eventually("the call is open", LONG, async || (world.ledger().totals.accepted > accepted).then_some(())).await;
    worker.drain().await;
    let ending: (String, String) = sqlx::query_as(
        "SELECT m.state::text, a.code FROM message m LEFT JOIN attempt a USING (batch_id, seq) WHERE m.batch_id = $1",
    )
    .bind(late.0)
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(ending, ("uncertain".to_owned(), "shutdown".to_owned()));

    // So is one whose worker died.
    let lost = world.batch(world.number(1), "offer", 200_010, 1).await;
    sqlx::query("UPDATE work SET stage = 'calling', attempt = 1, wake_at = now() WHERE batch_id = $1")
        .bind(lost.0)
        .execute(&mut connection)
        .await
        .unwrap();
    assert_eq!(upkeep(&world).step().await.unwrap().lapsed, 1);
    let codes =
        text(&mut connection, "SELECT code FROM attempt WHERE code = 'claim_lost' AND outcome = 'unknown'").await;
    assert_eq!(codes, ["claim_lost"]);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn marketing_is_held_for_a_week_and_then_failed_until_a_callback_lifts_it() {
    let world = World::start(Plan::default()).await;
    let batch = world.batch(world.number(1), "offer", 0, 2).await;
    let mut connection = world.database.connect().await;
    in_doubt(&mut connection, batch, 2).await;
    let mut upkeep = upkeep(&world);
    // Within the grace nothing is decided.
    assert_eq!(upkeep.step().await.unwrap().decided, 0);
    age(&mut connection, "2 days").await;
    assert_eq!(upkeep.step().await.unwrap().decided, 2);
    let left: Vec<f64> = sqlx::query_scalar("SELECT (extract(epoch FROM wake_at - now()) / 86400)::float8 FROM work")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    assert!(left.iter().all(|days| (4.9..5.1).contains(days)), "{left:?}");
    assert_eq!((upkeep.step().await.unwrap().decided, text(&mut connection, DECISIONS).await.len()), (0, 0));
    age(&mut connection, "7 days 1 minute").await;
    assert_eq!(upkeep.step().await.unwrap().decided, 2);
    assert_eq!(text(&mut connection, STATES).await, ["failed unknown_outcome"; 2]);
    assert_eq!(text(&mut connection, DECISIONS).await, ["failed by policy of 1"; 2]);
    let delivered = Change::new(MessageKey { batch_id: batch, seq: 1 }, 1, MessageEvent::Delivered);
    messages::apply(&mut connection, &[delivered], RULES).await.unwrap();
    assert_eq!(world.counts().await.of("delivered"), 1);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_sent_again_is_a_new_attempt_and_only_while_it_lives() {
    let world = World::start_with(Plan::default(), &[("DISPATCH__UNCERTAIN__UTILITY", "resend")]).await;
    let (alive, ended) =
        (world.batch(world.number(1), "order", 0, 2).await, world.batch(world.number(1), "order", 10, 2).await);
    let mut connection = world.database.connect().await;
    in_doubt(&mut connection, alive, 2).await;
    in_doubt(&mut connection, ended, 2).await;
    sqlx::query("UPDATE batch SET expires_at = now() WHERE batch_id = $1")
        .bind(ended.0)
        .execute(&mut connection)
        .await
        .unwrap();
    // Evidence about one of them comes before the policy looks.
    let known = Change::new(MessageKey { batch_id: alive, seq: 2 }, 1, MessageEvent::Accepted);
    messages::apply(&mut connection, &[known], RULES).await.unwrap();
    age(&mut connection, "2 minutes").await;
    assert_eq!(upkeep(&world).step().await.unwrap().decided, 3);
    let worker = world.work();
    let counts = world.all_called(LONG).await;
    assert_eq!((counts.sent(), counts.of("failed"), world.ledger().totals.accepted), (2, 2, 1));
    let attempts =
        text(&mut connection, "SELECT attempt::text FROM message WHERE state = 'accepted' ORDER BY seq").await;
    assert_eq!(attempts, ["2", "1"]);
    let mut decisions = text(&mut connection, DECISIONS).await;
    decisions.sort();
    assert_eq!(decisions, ["failed by policy of 1", "failed by policy of 1", "resend by policy of 1"]);
    worker.drain().await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_settles_late_wins_over_the_policy() {
    let world = World::start_with(Plan::default(), &[("DISPATCH__UNCERTAIN__MARKETING", "resend")]).await;
    let batch = world.batch(world.number(1), "offer", 0, 3).await;
    let mut connection = world.database.connect().await;
    in_doubt(&mut connection, batch, 3).await;
    age(&mut connection, "2 minutes").await;
    assert_eq!(upkeep(&world).step().await.unwrap().decided, 3);
    // Frozen beyond its lease, thawed, and it knows: one was taken, one refused, one not called at all.
    let late = |seq, event| Change::new(MessageKey { batch_id: batch, seq }, 1, event);
    let changes = [
        late(1, MessageEvent::Accepted),
        late(2, MessageEvent::Refused),
        late(3, MessageEvent::Returned),
        // Heard twice, and a doubt that comes after the knowledge.
        late(1, MessageEvent::Accepted),
        late(1, MessageEvent::Unknown),
        late(3, MessageEvent::Unknown),
    ];
    messages::apply(&mut connection, &changes, RULES).await.unwrap();
    let states = text(&mut connection, "SELECT state::text FROM message ORDER BY seq").await;
    assert_eq!(states, ["accepted", "failed", "pending"]);
    let worker = world.work();
    assert_eq!(world.all_called(LONG).await.sent(), 2);
    assert_eq!(world.ledger().totals.accepted, 1, "only what was not called is called again");
    worker.drain().await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_may_say_otherwise() {
    let world = World::start(Plan::default()).await;
    let (offer, order) =
        (world.batch(world.number(1), "offer", 0, 1).await, world.batch(world.number(1), "order", 10, 1).await);
    let mut connection = world.database.connect().await;
    sqlx::query(r#"UPDATE account SET uncertain = '{"marketing": "fail"}'"#).execute(&mut connection).await.unwrap();
    for batch in [offer, order] {
        in_doubt(&mut connection, batch, 1).await;
    }
    age(&mut connection, "2 minutes").await;
    upkeep(&world).step().await.unwrap();
    let mut states = text(&mut connection, STATES).await;
    states.sort();
    assert_eq!(states, ["failed unknown_outcome", "uncertain"], "the policy of utility is the settings'");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_about_a_message_that_moved_does_nothing() {
    use campaign_dispatch::{domain::uncertain::Decided, store::messages::Ruling};
    let world = World::start(Plan::default()).await;
    let batch = world.batch(world.number(1), "offer", 0, 3).await;
    let mut connection = world.database.connect().await;
    in_doubt(&mut connection, batch, 3).await;
    let key = |seq| MessageKey { batch_id: batch, seq };
    let ruled = |seq, decided| {
        let ruling = Ruling { decided, by: "token:t".to_owned(), reason: "r".to_owned(), evidence: String::new() };
        Change::ruled(key(seq), 1, &Arc::new(ruling))
    };
    // Known meanwhile; sent again meanwhile, and being called a second time; in doubt.
    messages::apply(
        &mut connection,
        &[Change::new(key(1), 1, MessageEvent::Delivered), ruled(2, Decided::Resend)],
        RULES,
    )
    .await
    .unwrap();
    sqlx::query("UPDATE work SET stage = 'calling', attempt = 2 WHERE seq = 2").execute(&mut connection).await.unwrap();
    for decided in Decided::ALL {
        let changes = [ruled(1, *decided), ruled(2, *decided)];
        let outcome = messages::apply(&mut connection, &changes, RULES).await.unwrap();
        assert_eq!(outcome.applied, vec![Some(messages::Applied::Stale); 2], "{decided}");
    }
    let twice = [ruled(3, Decided::Sent), ruled(3, Decided::Failed)];
    messages::apply(&mut connection, &twice, RULES).await.unwrap();
    assert_eq!(text(&mut connection, STATES).await, ["delivered", "pending", "accepted"]);
    let mut decisions = text(&mut connection, DECISIONS).await;
    decisions.sort();
    assert_eq!(decisions, ["resend by token:t of 1", "sent by token:t of 1"]);
    world.finish().await;
}
