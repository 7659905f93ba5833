//! What upkeep does beside the sweep: audit, retention, the sign of life, recovery, the end of held work.

use std::{sync::Arc, time::Duration};

use campaign_dispatch::{
    app::{self, Role},
    domain::{
        event::Wanted,
        ids::{BatchId, MessageKey},
        message::MessageEvent,
        uncertain::Decided,
    },
    store::messages::{self, Applied, Change, Rules, Ruling},
    upkeep::{
        alive::Heart,
        janitor::Janitor,
        recover::{self, Wish},
    },
};
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use super::{
    support::{
        eventually::eventually,
        world::{Plan, World},
    },
    uncertain::{in_doubt, upkeep},
};

const LONG: Duration = Duration::from_mins(1);
const GRACE: Duration = Duration::from_mins(1);
const RULES: Rules = Rules { grace: GRACE, events: Wanted::DEFAULT };

fn janitor(world: &World) -> Janitor {
    Janitor::new(&world.store, Arc::clone(&world.settings), Arc::default(), CancellationToken::new())
}

async fn run(connection: &mut PgConnection, sql: &'static str) {
    sqlx::raw_sql(sql).execute(connection).await.unwrap();
}

async fn one<T>(connection: &mut PgConnection, sql: &'static str) -> T
where
    T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    sqlx::query_scalar(sql).fetch_one(connection).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tally_that_differs_is_told_and_left_as_it_is() {
    let world = World::start(Plan::default()).await;
    let mut connection = world.database.connect().await;
    let done = world.batch(world.number(1), "offer", 0, 100).await;
    let worker = world.work();
    world.all_called(LONG).await;
    worker.drain().await;
    let open = world.batch(world.number(1), "offer", 1000, 3).await;
    in_doubt(&mut connection, open, 1).await;
    let mut janitor = janitor(&world);
    assert_eq!(one::<i64>(&mut connection, "SELECT count(*) FROM batch_to_audit").await, 1, "completed once");
    assert_eq!(janitor.audit_completed().await.unwrap(), []);
    assert_eq!(one::<i64>(&mut connection, "SELECT count(*) FROM batch_to_audit").await, 0);
    assert_eq!((janitor.audit_open(false).await.unwrap(), janitor.audit_open(true).await.unwrap()), (vec![], vec![]));

    run(&mut connection, "UPDATE batch_tally SET sent = sent + 1, pending = pending - 1 WHERE pending > 0").await;
    let found = janitor.audit_open(false).await.unwrap();
    assert_eq!((found.len(), found[0].batch), (1, open));
    assert_eq!((found[0].told[0], found[0].found[0], found[0].told[3], found[0].found[3]), (1, 2, 1, 0));
    assert_eq!(janitor.audit_open(true).await.unwrap(), [], "it is no large batch");
    assert_eq!(janitor.audit_open(false).await.unwrap(), found, "nothing was mended");
    run(&mut connection, "UPDATE batch_tally SET sent = sent - 1, pending = pending + 1 WHERE pending > 0").await;
    // Work without its message's state differs as well.
    run(&mut connection, "UPDATE message SET state = 'accepted' WHERE seq = 3 AND state = 'pending'").await;
    assert_eq!(janitor.audit_open(false).await.unwrap().len(), 1);
    run(
        &mut connection,
        "UPDATE message SET state = 'pending' WHERE seq = 3 AND batch_id IN (SELECT batch_id FROM work)",
    )
    .await;

    // A completed batch is audited when it is completed.
    sqlx::query("UPDATE message SET state = 'failed' WHERE batch_id = $1 AND seq = 7")
        .bind(done.0)
        .execute(&mut connection)
        .await
        .unwrap();
    run(
        &mut connection,
        "INSERT INTO batch_to_audit (batch_id) SELECT batch_id FROM batch_tally WHERE pending + uncertain = 0",
    )
    .await;
    let found = janitor.audit_completed().await.unwrap();
    assert_eq!((found.len(), found[0].batch), (1, done));
    sqlx::query("UPDATE message SET state = 'accepted' WHERE batch_id = $1 AND seq = 7")
        .bind(done.0)
        .execute(&mut connection)
        .await
        .unwrap();
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_is_taken_once_and_again_when_somebody_asks() {
    let world = World::start(Plan::default()).await;
    let mut connection = world.database.connect().await;
    let begun = "SELECT coalesce(string_agg(name || ' ' || (begun > now() - interval '1 minute'), ', ' ORDER BY name), '') FROM round";
    janitor(&world).step(false).await.unwrap();
    assert_eq!(one::<String>(&mut connection, begun).await, "audit true, audit_large true, retention true");
    run(&mut connection, "UPDATE round SET begun = now() - interval '5 minutes'").await;
    janitor(&world).step(false).await.unwrap();
    assert_eq!(one::<String>(&mut connection, begun).await, "audit false, audit_large false, retention false");
    janitor(&world).step(true).await.unwrap();
    assert_eq!(one::<String>(&mut connection, begun).await, "audit true, audit_large true, retention true");
    world.finish().await;
}

/// A batch as it was two years ago, with whatever is kept about it.
async fn old_batch(connection: &mut PgConnection, at: &str) -> BatchId {
    let at: chrono::DateTime<chrono::Utc> = at.parse().unwrap();
    sqlx::query("SELECT ensure_partitions($1, 1)").bind(at).execute(&mut *connection).await.unwrap();
    let batch = BatchId::due_at(at);
    for sql in [
        "INSERT INTO batch (batch_id, tenant_id, producer, job_id, account_id, number_id, template_id, lane, state, recipients, send_at, expires_at, created_at)
         VALUES ($1, 1, 'test', $1::text, 1, 1, 1, 'marketing', 'planned', 2, $2, $2, $2)",
        "INSERT INTO batch_tally (batch_id, sent) SELECT $1, 2 WHERE $2 < now()",
        "INSERT INTO message (batch_id, seq, recipient, state) SELECT $1, 1, '+819000000001', 'sent' WHERE $2 < now()",
        "INSERT INTO job (tenant_id, producer, job_id, body_sha256, batch_id, created_at) VALUES (1, 'test', $1::text, '', $1, $2)",
        "INSERT INTO batch_rejected (batch_id, row, pointer, code, reason) SELECT $1, 1, '/to', 'c', 'r' WHERE $2 < now()",
        "INSERT INTO callback_kept (account_id, kind, body, received_at) SELECT 1, 'inbound', $1::text, $2",
        "INSERT INTO inbound_message (account_id, provider_message_id, sender, kind, received_at) VALUES (1, $1::text, '+819000000001', 'text', $2)",
    ] {
        sqlx::query(sql).bind(batch.0).bind(at).execute(&mut *connection).await.unwrap();
    }
    batch
}

#[tokio::test(flavor = "multi_thread")]
async fn old_months_go_whole_unless_they_have_work() {
    let world = World::start(Plan::default()).await;
    let mut connection = world.database.connect().await;
    let fresh = world.batch(world.number(1), "offer", 0, 2).await;
    sqlx::query(
        "INSERT INTO job (tenant_id, producer, job_id, body_sha256, batch_id) VALUES (1, 'test', 'fresh', '', $1)",
    )
    .bind(fresh.0)
    .execute(&mut connection)
    .await
    .unwrap();
    old_batch(&mut connection, "2024-01-31T23:59:59Z").await;
    let working = old_batch(&mut connection, "2024-02-01T00:00:00Z").await;
    sqlx::query("INSERT INTO work (batch_id, seq, number_id, lane, stage, turn_group, wake_at) VALUES ($1, 1, 1, 'marketing', 'unsure', $1, now() + interval '1 day')")
        .bind(working.0)
        .execute(&mut connection)
        .await
        .unwrap();
    sqlx::query("INSERT INTO inbound_message (account_id, provider_message_id, sender, kind, received_at) VALUES (1, 'fresh', '+819000000001', 'text', now())")
        .execute(&mut connection)
        .await
        .unwrap();
    janitor(&world).tidy().await.unwrap();
    let months = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relname LIKE '%\\_2024\\_%' AND relkind = 'r'";
    assert_eq!(
        one::<Option<String>>(&mut connection, months).await.as_deref(),
        Some(
            "attempt_2024_02 batch_2024_02 decision_2024_02 failed_message_2024_02 message_2024_02 sent_group_2024_02"
        )
    );
    let kept = "SELECT (SELECT count(*) FROM batch) || ' ' || (SELECT count(*) FROM batch_tally) || ' ' || (SELECT count(*) FROM job)
                || ' ' || (SELECT count(*) FROM batch_rejected) || ' ' || (SELECT count(*) FROM callback_kept)
                || ' ' || (SELECT count(*) FROM inbound_message)";
    assert_eq!(one::<String>(&mut connection, kept).await, "2 2 2 1 0 1");
    run(&mut connection, "DELETE FROM work WHERE stage = 'unsure'").await;
    janitor(&world).tidy().await.unwrap();
    assert_eq!(one::<Option<String>>(&mut connection, months).await, None);
    assert_eq!(one::<String>(&mut connection, kept).await, "1 1 1 0 0 1");
    // The months ahead are as they were, and what is read for long is dropped another day.
    assert_eq!(one::<i32>(&mut connection, "SELECT ensure_partitions(now() - interval '1 month', 9)").await, 0);
    world.finish().await;
}

const HOLDS: &str =
    "SELECT coalesce(string_agg(scope || ' ' || cause, ', ' ORDER BY cause), '') FROM hold WHERE closed_at IS NULL";

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_went_back_in_time_holds_everything_while_there_is_work() {
    let world = World::start(Plan::default()).await;
    let mut connection = world.database.connect().await;
    let mut heart = Heart::new(&world.store, &world.settings);
    assert!(!heart.beat().await.unwrap(), "the first sign of life has nothing to compare with");
    let age = "UPDATE alive SET last_alive = now() - interval '11 minutes'";
    run(&mut connection, age).await;
    assert!(!heart.beat().await.unwrap(), "an installation without work may sleep");
    world.batch(world.number(1), "offer", 0, 20).await;
    assert!(!heart.beat().await.unwrap());
    run(&mut connection, age).await;
    assert!(heart.beat().await.unwrap());
    assert_eq!(one::<String>(&mut connection, HOLDS).await, "everything gap");
    assert!(!heart.beat().await.unwrap(), "it is told once");
    run(&mut connection, "UPDATE alive SET timeline = '00000000'").await;
    assert!(heart.beat().await.unwrap());
    assert_eq!(one::<String>(&mut connection, HOLDS).await, "everything gap, everything timeline");
    let detail: String = one(&mut connection, "SELECT detail FROM hold WHERE cause = 'timeline'").await;
    assert!(detail.contains("campaign-dispatch recover --since 20"), "{detail}");
    assert_eq!(world.counts().await.of("pending"), 20);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_starts_after_a_silence_sends_nothing_until_a_person_has_looked() {
    let prefix = format!("it-{}", uuid::Uuid::new_v4().simple());
    let world = World::start_with(Plan::default(), &[("DISPATCH__BROKER__PREFIX", &prefix)]).await;
    let mut connection = world.database.connect().await;
    Heart::new(&world.store, &world.settings).beat().await.unwrap();
    world.batch(world.number(1), "offer", 0, 200).await;
    run(&mut connection, "UPDATE alive SET last_alive = now() - interval '1 day'").await;
    // A process that only sends looks as well.
    let mut server = app::start(Arc::clone(&world.settings), &[Role::Dispatch]).await.unwrap();
    let held: String = one(&mut connection, HOLDS).await;
    assert_eq!(held, "everything gap", "before anything runs");
    eventually("a worker has the number", LONG, async || {
        let leased: i64 = one(&mut connection, "SELECT count(*) FROM number_lease WHERE lease_id IS NOT NULL").await;
        (leased > 0).then_some(())
    })
    .await;
    assert_eq!(world.ledger().totals.calls, 0);
    run(&mut connection, "UPDATE hold SET closed_at = now(), closed_by = 'test'").await;
    assert_eq!(world.all_called(LONG).await.sent(), 200);
    server.stop();
    server.ended().await.unwrap();
    world.finish().await;
}

fn wish(is_rehearsal: bool) -> Wish {
    Wish { since: chrono::Utc::now() - chrono::Duration::minutes(5), is_rehearsal, after: None }
}

async fn of_batch(connection: &mut PgConnection, batch: BatchId, sql: &'static str) {
    sqlx::query(sql).bind(batch.0).execute(connection).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_been_called_on_a_lost_timeline_is_marked_once() {
    let world = World::start(Plan::default()).await;
    let mut connection = world.database.connect().await;
    let due = world.batch(world.number(1), "offer", 0, 4).await;
    of_batch(&mut connection, due, "UPDATE work SET attempt = 2, stage = 'calling' WHERE batch_id = $1 AND seq = 1")
        .await;
    let doubted = world.batch(world.number(1), "offer", 100, 2).await;
    in_doubt(&mut connection, doubted, 2).await;
    let ahead = world.batch(world.number(1), "offer", 200, 2).await;
    of_batch(&mut connection, ahead, "UPDATE work SET wake_at = now() + interval '1 hour' WHERE batch_id = $1").await;
    let over = world.batch(world.number(1), "offer", 300, 2).await;
    of_batch(&mut connection, over, "UPDATE batch SET expires_at = now() - interval '1 hour' WHERE batch_id = $1")
        .await;
    run(&mut connection, "INSERT INTO hold (scope, cause, resume) VALUES ('everything', 'timeline', 'person')").await;
    // What came after everything was held was not called.
    world.batch(world.number(1), "offer", 400, 2).await;

    let counted = recover::recover(&world.store, RULES, wish(true)).await.unwrap();
    assert_eq!((counted.found, counted.marked, counted.next, counted.hold), (6, 0, None, Some(1)));
    let marked = recover::recover(&world.store, RULES, wish(false)).await.unwrap();
    assert_eq!((marked.found, marked.marked), (6, 6));
    let again = recover::recover(&world.store, RULES, wish(false)).await.unwrap();
    assert_eq!((again.found, again.marked), (0, 0), "nothing is marked twice");
    let counts = world.counts().await;
    assert_eq!((counts.of("uncertain"), counts.of("pending")), (6, 6));
    let numbers: Vec<(i16, i16)> = sqlx::query_as(
        "SELECT w.attempt, a.attempt FROM work w JOIN attempt a USING (batch_id, seq)
         WHERE a.code = 'recovered' AND a.outcome = 'unknown' ORDER BY w.batch_id = $1 DESC, seq",
    )
    .bind(due.0)
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert_eq!(numbers, [(102, 102), (100, 100), (100, 100), (100, 100), (101, 101), (101, 101)]);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callbacks_of_lost_calls_are_heard_and_their_numbers_are_not_used_again() {
    let world = World::start(Plan::default()).await;
    let mut connection = world.database.connect().await;
    let batch = world.batch(world.number(1), "offer", 0, 4).await;
    assert_eq!(recover::recover(&world.store, RULES, wish(false)).await.unwrap().marked, 4);
    // Of calls whose numbers the rows do not have: good and bad news are heard, and a failure for now sends nothing by
    // itself.
    let change = |seq, attempt, event| Change::new(MessageKey { batch_id: batch, seq }, attempt, event);
    let changes = [
        change(1, 3, MessageEvent::Delivered),
        change(2, 1, MessageEvent::Failed),
        change(3, 1, MessageEvent::FailedForNow),
    ];
    let outcome = messages::apply(&mut connection, &changes, RULES).await.unwrap();
    let heard: Vec<bool> = outcome.applied.iter().map(|a| matches!(a, Some(Applied::Moved { .. }))).collect();
    assert_eq!(heard, [true, true, false], "{outcome:?}");

    let (decided, by) = (Decided::Resend, "token:t".to_owned());
    let ruling = Arc::new(Ruling { decided, by, reason: "r".to_owned(), evidence: String::new() });
    let resend = Change::ruled(MessageKey { batch_id: batch, seq: 4 }, 100, &ruling);
    messages::apply(&mut connection, &[resend], RULES).await.unwrap();
    let worker = world.work();
    eventually("it is called again", LONG, async || (world.counts().await.of("accepted") == 1).then_some(())).await;
    let attempt: i16 = one(&mut connection, "SELECT attempt FROM message WHERE seq = 4").await;
    assert_eq!(attempt, 101);
    worker.drain().await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_work_under_a_hold_ends_with_its_life() {
    let world = World::start(Plan::default()).await;
    let mut connection = world.database.connect().await;
    run(&mut connection, "INSERT INTO hold (scope, cause, resume) VALUES ('everything', 'test', 'person')").await;
    let (large, small) =
        (world.batch(world.number(1), "offer", 0, 120).await, world.batch(world.number(1), "order", 1000, 3).await);
    world.batch(world.number(1), "offer", 2000, 60).await;
    let worker = world.work();
    let mut upkeep = upkeep(&world);
    assert_eq!(upkeep.step().await.unwrap().expired, 0);
    for batch in [large, small] {
        sqlx::query("UPDATE batch SET expires_at = now() WHERE batch_id = $1")
            .bind(batch.0)
            .execute(&mut connection)
            .await
            .unwrap();
    }
    eventually("both have ended", LONG, async || {
        upkeep.step().await.unwrap();
        (world.counts().await.of("expired") == 123).then_some(())
    })
    .await;
    assert_eq!((world.counts().await.of("pending"), world.ledger().totals.calls), (60, 0));
    worker.drain().await;
    world.finish().await;
}
