//! What people on duty are told: each alarm raised once and cleared once, published and told, and one screen that shows it.

mod notify;
mod rules;
mod status;

use std::{sync::Arc, time::Duration};

use campaign_dispatch::{
    broker::{Broker, BrokerOptions},
    domain::alarm::News,
    store::alarms::Told,
    upkeep::{
        alarms::Watch,
        janitor::Janitor,
        notify::{Notifier, Ways},
    },
};
use serde_json::Value;
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use super::{
    support::{
        broker::{Peer, TestBroker},
        eventually::eventually,
        world::{Plan, World},
    },
    uncertain::in_doubt,
};

const LONG: Duration = Duration::from_mins(1);

/// A broker that is away: everything but its queues is looked at without.
fn no_broker(world: &World) -> Broker {
    let options = BrokerOptions {
        url: "amqp://127.0.0.1:1".to_owned().into(),
        ..BrokerOptions::from_settings(&world.settings.broker)
    };
    Broker::start(&options, CancellationToken::new()).unwrap()
}

fn notifier(world: &World) -> Notifier {
    Notifier::new(&world.store, Ways::new(&world.settings.notify).unwrap())
}

fn watch_with(world: &World, broker: Broker) -> Watch {
    Watch::new(&world.store, broker, Arc::clone(&world.settings), Arc::default(), &notifier(world))
}

fn watch(world: &World) -> Watch {
    watch_with(world, no_broker(world))
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

/// What one look tells, in short: `ALARM hold 1`.
async fn news(watch: &mut Watch) -> Vec<String> {
    watch.step(true).await.unwrap().iter().map(short).collect()
}

fn short(told: &Told) -> String {
    let word = match told.news {
        News::Raised => "raised",
        News::Reminder => "again",
        News::Cleared => "over",
    };
    format!("{word} {} {} {}", told.alarm.kind, told.alarm.scope, told.alarm.count)
}

/// The events that are owed, by type and scope.
async fn events(connection: &mut PgConnection) -> Vec<String> {
    let bodies: Vec<Value> = sqlx::query_scalar(
        "SELECT m -> 'body' FROM outbox, jsonb_array_elements(messages) WITH ORDINALITY AS e(m, place)
         WHERE m ->> 'key' LIKE 'alarm.%' AND m ->> 'key' = m -> 'body' ->> 'type' AND m ->> 'id' = m -> 'body' ->> 'id'
         ORDER BY id, place",
    )
    .fetch_all(connection)
    .await
    .unwrap();
    let text = |body: &Value| format!("{} {}", body["type"].as_str().unwrap(), body["data"]["scope"].as_str().unwrap());
    bodies.iter().map(text).collect()
}

/// Makes something an alarm and ends it: raised once, kept, and over once, each with its event.
async fn comes_and_goes(world: &World, told: &str, begin: &'static str, end: &'static str) {
    let mut connection = world.database.connect().await;
    let mut watch = watch(world);
    let (kind_and_scope, _) = told.rsplit_once(' ').unwrap();
    let scope = kind_and_scope.split(' ').nth(1).unwrap();
    run(&mut connection, begin).await;
    assert_eq!(news(&mut watch).await, [format!("raised {told}")]);
    assert_eq!(events(&mut connection).await, [format!("alarm.raised.v1 {scope}")], "{told}");
    assert_eq!(news(&mut watch).await, [""; 0], "{told}: raised once");
    run(&mut connection, end).await;
    let over = news(&mut watch).await;
    assert!(over.len() == 1 && over[0].starts_with(&format!("over {kind_and_scope} ")), "{told}: {over:?}");
    assert_eq!(news(&mut watch).await, [""; 0], "{told}: over once");
    assert_eq!(events(&mut connection).await.last(), Some(&format!("alarm.cleared.v1 {scope}")), "{told}");
    run(&mut connection, "DELETE FROM outbox; DELETE FROM alarm").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_alarm_is_raised_once_and_cleared_once() {
    let world = World::start(Plan::default()).await;
    comes_and_goes(
        &world,
        "hold account:1 0",
        "INSERT INTO hold (tenant_id, scope, cause, detail, resume) VALUES (1, 'account:1', '190', 'token', 'credentials')",
        "UPDATE hold SET closed_at = now()",
    )
    .await;
    comes_and_goes(
        &world,
        "late_firing campaign:spring 1",
        "INSERT INTO campaign (tenant_id, key, producer, document, applied_by, applied_token, next_fire_at)
         VALUES (1, 'spring', 'shop', '{}', 'test', gen_random_uuid(), now() - interval '2 minutes')",
        "UPDATE campaign SET next_fire_at = now() + interval '1 hour'",
    )
    .await;
    comes_and_goes(
        &world,
        "late_firing campaign:spring 2",
        "INSERT INTO occurrence (campaign_id, fire_at, tenant_id, producer, job_id, state, reason, started_by, started_token,
                                 expires_at, recorded_at)
         SELECT id, now() - late, 1, 'shop', 'job ' || late, 'fired', NULL, 'test', gen_random_uuid(), now(), now() - since
         FROM campaign, (VALUES (interval '5 minutes', interval '0'), (interval '9 minutes', interval '1 minute'),
                                -- in time, and long ago
                                (interval '30 seconds', interval '0'), (interval '5 hours', interval '2 hours')) o(late, since)",
        "UPDATE occurrence SET recorded_at = now() - interval '61 minutes'",
    )
    .await;
    comes_and_goes(
        &world,
        "webhook_silent account:1 20",
        "INSERT INTO number_traffic (number_id, minute, accepted, heard)
         VALUES (1, date_trunc('minute', now() - interval '3 hours'), 500, 1000),
                (1, date_trunc('minute', now() - interval '20 minutes'), 12, 0),
                (1, date_trunc('minute', now() - interval '17 minutes'), 8, 0),
                (1, date_trunc('minute', now() - interval '2 minutes'), 900, 0)",
        "INSERT INTO number_traffic (number_id, minute, heard) VALUES (1, date_trunc('minute', now()), 1)",
    )
    .await;
    comes_and_goes(
        &world,
        "outbox outbox 2",
        "INSERT INTO outbox (messages, created_at) VALUES ('[]', now() - interval '3 minutes'), ('[]', now())",
        "DELETE FROM outbox",
    )
    .await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_fails_and_one_that_nobody_knows_of_are_alarms() {
    let world = World::start(Plan::default()).await;
    let mut connection = world.database.connect().await;
    let mut watch = watch(&world);
    let batch = world.batch(world.number(1), "offer", 0, 100).await;
    // It waits a moment for its worker.
    assert_eq!(news(&mut watch).await, [""; 0]);
    run(
        &mut connection,
        "INSERT INTO failed_message (batch_id, seq, number_id, template_id, attempt, code, class, reason, failed_at)
         SELECT batch_id, seq, number_id, 1, 1, '131026', 'recipient', 'r', now() FROM work WHERE seq <= 12;
         UPDATE batch_tally SET pending = 40, failed = 12, read = 48",
    )
    .await;
    assert_eq!(news(&mut watch).await, [format!("raised batch_failing batch:{batch} 12")]);
    run(&mut connection, "UPDATE batch_tally SET failed = 11, read = 49").await;
    assert_eq!(news(&mut watch).await, [format!("over batch_failing batch:{batch} 12")]);
    run(&mut connection, "DELETE FROM failed_message; UPDATE batch_tally SET pending = 100, failed = 0, read = 0")
        .await;

    in_doubt(&mut connection, batch, 100).await;
    // Evidence may still come, and then it is held for a person.
    assert_eq!(news(&mut watch).await, [""; 0]);
    run(&mut connection, "UPDATE work SET wake_at = now() + interval '7 days' - interval '14 minutes'").await;
    assert_eq!(news(&mut watch).await, [""; 0]);
    run(&mut connection, "UPDATE work SET wake_at = now() + interval '7 days' - interval '15 minutes' WHERE seq = 3")
        .await;
    assert_eq!(news(&mut watch).await, [format!("raised uncertain number:{} 100", world.number(1))]);
    run(&mut connection, "UPDATE work SET wake_at = now() + interval '1 second'").await;
    assert_eq!(news(&mut watch).await.len(), 1);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_without_a_worker_is_an_alarm_when_that_lasts() {
    let world = World::start(Plan::default()).await;
    let mut connection = world.database.connect().await;
    let mut watch = watch(&world);
    let number = world.number(1);
    world.batch(number, "offer", 0, 60).await;
    world.batch(number, "order", 1000, 3).await;
    // Neither what is due later nor what is still being made needs a worker.
    let later = world.batch(number, "offer", 2000, 70).await;
    sqlx::query("UPDATE work SET wake_at = now() + interval '1 hour' WHERE batch_id = $1")
        .bind(later.0)
        .execute(&mut connection)
        .await
        .unwrap();
    assert_eq!(news(&mut watch).await, [""; 0]);
    run(&mut connection, "UPDATE alarm SET since = now() - interval '29 seconds'").await;
    assert_eq!(news(&mut watch).await, [""; 0]);
    run(&mut connection, "UPDATE alarm SET since = now() - interval '30 seconds'").await;
    assert_eq!(news(&mut watch).await, [format!("raised no_worker number:{number} 63")]);
    let worker = world.work();
    eventually("a worker has the number", LONG, async || {
        (news(&mut watch).await == [format!("over no_worker number:{number} 63")]).then_some(())
    })
    .await;
    worker.drain().await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tally_that_differs_is_an_alarm_until_a_recount_finds_it_right() {
    let world = World::start(Plan::default()).await;
    let mut connection = world.database.connect().await;
    let (mut watch, janitor) = (watch(&world), || {
        Janitor::new(&world.store, Arc::clone(&world.settings), Arc::default(), CancellationToken::new())
    });
    let batch = world.batch(world.number(1), "offer", 0, 5).await;
    run(&mut connection, "UPDATE batch_tally SET pending = 4, sent = 1").await;
    janitor().audit_open(false).await.unwrap();
    let told = watch.step(true).await.unwrap();
    assert_eq!(told.iter().map(short).collect::<Vec<_>>(), [format!("raised tally batch:{batch} 1")]);
    assert!(told[0].alarm.detail.contains("pending 4 (found 5), sent 1 (found 0)"), "{}", told[0].alarm.detail);
    assert_eq!(janitor().audit_again().await.unwrap().len(), 1);
    assert_eq!(news(&mut watch).await, [""; 0]);
    run(&mut connection, "UPDATE batch_tally SET pending = 5, sent = 0").await;
    assert_eq!(janitor().audit_again().await.unwrap(), []);
    assert_eq!(news(&mut watch).await, [format!("over tally batch:{batch} 1")]);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_no_queue_takes_are_an_alarm() {
    let world = World::start(Plan::default()).await;
    let mut connection = world.database.connect().await;
    let test = TestBroker::new().await;
    let queue = test.topology().unrouted();
    eventually("the queues are there", LONG, async || {
        if test.broker.is_connected() { test.broker.depths().await.ok() } else { None }
    })
    .await;
    let mut watch = watch_with(&world, test.broker.clone());
    assert_eq!(news(&mut watch).await, [""; 0]);
    let peer = Peer::new().await;
    peer.publish(&test.topology().entry(), "jbos", b"{}", lapin::BasicProperties::default()).await;
    eventually("it lies in the queue", LONG, async || {
        let depths = test.broker.depths().await.unwrap();
        depths.iter().any(|depth| depth.name == queue && depth.messages == 1).then_some(())
    })
    .await;
    assert_eq!(news(&mut watch).await, [""; 0]);
    run(&mut connection, "UPDATE alarm SET since = now() - interval '1 minute'").await;
    assert_eq!(news(&mut watch).await, [format!("raised unrouted queue:{queue} 1")]);
    // A look without the broker knows nothing.
    assert_eq!(news(&mut self::watch(&world)).await, [""; 0]);
    peer.channel.queue_purge(queue.as_str().into(), lapin::options::QueuePurgeOptions::default()).await.unwrap();
    eventually("it is over", LONG, async || {
        (news(&mut watch).await == [format!("over unrouted queue:{queue} 1")]).then_some(())
    })
    .await;
    test.remove().await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_that_look_at_once_raise_it_once() {
    let world = World::start(Plan::default()).await;
    let mut connection = world.database.connect().await;
    run(
        &mut connection,
        "INSERT INTO hold (scope, cause, resume) SELECT 'batch:' || gen_random_uuid(), 'person', 'person' FROM generate_series(1, 20)",
    )
    .await;
    let (mut here, mut there) = (watch(&world), watch(&world));
    let (a, b) = tokio::join!(here.step(true), there.step(true));
    assert_eq!(a.unwrap().len() + b.unwrap().len(), 20);
    // By the clock only one of them looks.
    run(&mut connection, "UPDATE hold SET closed_at = now()").await;
    let (a, b) = tokio::join!(here.step(false), there.step(false));
    assert_eq!(a.unwrap().len() + b.unwrap().len(), 0, "somebody has just looked");
    run(&mut connection, "UPDATE round SET begun = now() - interval '15 seconds'").await;
    let (a, b) = tokio::join!(here.step(false), there.step(false));
    assert_eq!(a.unwrap().len() + b.unwrap().len(), 20);
    assert_eq!(one::<i64>(&mut connection, "SELECT count(*) FROM alarm").await, 20);
    assert_eq!(events(&mut connection).await.len(), 40);
    world.finish().await;
}
