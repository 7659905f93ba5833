//! No hot statement reads a table through: neither on empty tables nor, over the same session, on full ones, with the
//! statistics of empty tables or with true ones.

use std::time::Duration;

use campaign_dispatch::{
    domain::{
        event::Wanted,
        hold::OpenHold,
        ids::{BatchId, HoldId, MessageKey},
        lane::Lane,
        message::MessageEvent,
    },
    store::{
        Session,
        alarms::signs,
        holds,
        messages::{self, Change, Rules},
        resends,
        work::{self, Want, open, sweep, unsure},
    },
};
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use super::{
    leases::hold,
    support::world::{Plan, World},
};

const RULES: Rules = Rules { grace: Duration::from_mins(1), events: Wanted::DEFAULT };

/// Rows that statements of this transaction read by going through a large table, or through the whole of its index.
async fn read_through(connection: &mut PgConnection) -> Vec<(String, i64, i64)> {
    sqlx::query_as(
        "SELECT relname::text, seq_tup_read, idx_tup_fetch FROM pg_stat_xact_user_tables
         WHERE (seq_tup_read > 1000 OR idx_tup_fetch > 20000)
           AND (relname LIKE 'message%' OR relname LIKE 'batch%' OR relname LIKE 'work%' OR relname = 'suppression')",
    )
    .fetch_all(connection)
    .await
    .unwrap()
}

/// Everything dispatch, settle, callbacks and the sweep say to the database.
async fn run_hot_statements(connection: &mut PgConnection, world: &World, lease: Uuid) -> usize {
    let number = world.number(1);
    let mut tx = connection.begin().await.unwrap();
    work::numbers_with_work(&mut tx).await.unwrap();
    let found = work::look(&mut tx, &[number], 1000).await.unwrap();
    let wants: Vec<Want> =
        found.iter().map(|f| Want { number, lease, lane: f.lane, group: f.group, most: 100 }).collect();
    let none = Want { number, lease, lane: Lane::Marketing, group: Uuid::nil(), most: 1 };
    let claim = work::through::Claim { id: Uuid::new_v4(), deadline: Duration::from_secs(23) };
    let hold = OpenHold {
        id: HoldId(1),
        scope: format!("number:{number}"),
        cause: "test".to_owned(),
        until: None,
        is_probed: true,
        is_probe_due: true,
        probes: 0,
    };
    let claimed = work::claim(&mut tx, &wants, usize::MAX, Uuid::new_v4(), Duration::from_secs(23)).await.unwrap();
    let keys: Vec<(MessageKey, i16)> = claimed.messages.iter().map(|c| (c.key(), c.attempt())).collect();
    let first = wants.first().copied().unwrap_or(none);
    let _claimed = work::through::canary(&mut tx, HoldId(1), &first, claim).await.unwrap();
    let minute = Duration::from_mins(1);
    let _claimed = work::through::probe(&mut tx, &hold, &[(number, lease)], &wants, claim, minute).await.unwrap();
    work::claimed_by(&mut tx, Uuid::new_v4()).await.unwrap();
    for event in [MessageEvent::Accepted, MessageEvent::Sent, MessageEvent::Delivered, MessageEvent::Read] {
        let changes: Vec<Change> = keys.iter().map(|(key, attempt)| Change::new(*key, *attempt, event)).collect();
        messages::apply(&mut tx, &changes, RULES).await.unwrap();
    }
    sweep::lapsed(&mut tx, 100).await.unwrap();
    sweep::closed(&mut tx, 100).await.unwrap();
    sweep::parked_expired(&mut tx, 100).await.unwrap();
    sweep::unpark_due(&mut tx, 100).await.unwrap();
    unsure::due(&mut tx, 100).await.unwrap();
    let unsure: Vec<_> = keys.iter().map(|(key, attempt)| (*key, *attempt, Duration::from_secs(1))).collect();
    unsure::wait(&mut tx, &unsure).await.unwrap();
    let open = open::batches(&mut tx, BatchId(Uuid::nil()), true, 1000).await.unwrap();
    let open: Vec<_> = open.iter().map(|b| b.batch).collect();
    open::ready(&mut tx, &open, 100).await.unwrap();
    sweep::of_cancelled(&mut tx, 100).await.unwrap();
    resends::in_vain(&mut tx, 100).await.unwrap();
    holds::gates(&mut tx).await.unwrap();
    holds::stay_undecided(&mut tx).await.unwrap();
    let through = read_through(&mut tx).await;
    assert!(through.is_empty(), "read through: {through:?}");
    tx.commit().await.unwrap();
    keys.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn hot_statements_use_their_indexes_on_empty_and_on_full_tables() {
    let world = World::start(Plan { limits: vec![None, None], ..Plan::default() }).await;
    let mut session = Session::new(world.store.clone(), "plans");
    let connection = session.connection().await.unwrap();
    let worker = Uuid::new_v4();
    let ttl = Duration::from_mins(10);
    let lease = hold(connection, worker, world.number(1), ttl).await;
    // Statistics of empty tables, as a new month's partition has them when its first campaign starts.
    for statement in [
        "ALTER TABLE work SET (autovacuum_enabled = false)",
        "VACUUM ANALYZE work, message, batch, batch_tally, suppression",
    ] {
        sqlx::raw_sql(statement).execute(&mut *connection).await.unwrap();
    }
    assert_eq!(run_hot_statements(connection, &world, lease).await, 0);
    world.batch(world.number(1), "offer", 0, 100_000).await;
    world.batch(world.number(2), "offer", 1_000_000, 100_000).await;
    world.jobs_of_one(world.number(2), 50_000).await;
    sqlx::raw_sql(
        "INSERT INTO suppression (tenant_id, account_id, scope, recipient, source)
         SELECT 1, id, 'marketing', '+8180' || lpad(i::text, 8, '0'), 'file' FROM account, generate_series(1, 50000) i",
    )
    .execute(&mut *session.connection().await.unwrap())
    .await
    .unwrap();
    let run = async |session: &mut Session| {
        let connection = session.connection().await.unwrap();
        assert_eq!(run_hot_statements(connection, &world, lease).await, 100);
    };
    // As it does each second.
    session.look().await.unwrap();
    run(&mut session).await;
    let connection = session.connection().await.unwrap();
    sqlx::raw_sql("ANALYZE work, message, batch, batch_tally, suppression").execute(&mut *connection).await.unwrap();
    run(&mut session).await;
    // What is asked for alarms, on a connection that plans anew each time: the tables were empty, and are full.
    let mut tx = world.store.begin().await.unwrap();
    let minute = Duration::from_mins(1);
    signs::holds(&mut tx).await.unwrap();
    assert!(signs::failing(&mut tx, minute).await.unwrap().is_empty());
    signs::late_firings(&mut tx).await.unwrap();
    signs::silent(&mut tx, minute).await.unwrap();
    signs::uncertain(&mut tx, minute, minute).await.unwrap();
    signs::outbox(&mut tx).await.unwrap();
    signs::tallies(&mut tx).await.unwrap();
    let numbers = work::numbers_with_work(&mut tx).await.unwrap();
    let unserved = signs::unserved(&mut tx, &numbers).await.unwrap();
    assert_eq!(unserved.iter().map(|sign| sign.count).collect::<Vec<_>>(), [2000], "one batch, and all small ones");
    let through = read_through(&mut tx).await;
    assert!(through.is_empty(), "read through: {through:?}");
    drop(tx);
    // The measure itself sees a table that is read through.
    let mut tx = session.begin().await.unwrap();
    sqlx::query("SELECT count(charged) FROM work").execute(&mut *tx).await.unwrap();
    assert!(!read_through(&mut tx).await.is_empty());
    drop(tx);
    drop(session);
    world.finish().await;
}
