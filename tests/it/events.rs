//! What is told of messages, batches and holds: each once, in order, and only of what was committed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use campaign_dispatch::{
    broker::{Broker, BrokerOptions},
    domain::{
        event::{BatchTold, Event, EventKind, HoldTold, MessageTold, Tallies, Tell, Wanted},
        failure::FailureClass,
        hold::{HoldScope, Resume},
        ids::{BatchId, MessageKey, TenantId},
        message::{Late, MessageEvent, MessageState},
        suppression::SuppressionScope,
        uncertain::Decided,
    },
    store::{
        campaigns::Person,
        holds_list,
        messages::{self, Change, Failure, NewHold, Next, Rules, Ruling},
        outbox, plan,
    },
    upkeep::outbox::{Relay, Step},
};
use serde_json::Value;
use sqlx::{Connection as _, PgConnection};
use tokio_util::sync::CancellationToken;

use super::support::{
    broker::{Peer, TestBroker, next},
    soon,
    world::{Plan, World},
};

const RULES: Rules = Rules { grace: Duration::from_mins(1), events: Wanted::DEFAULT };

fn key(batch: BatchId, seq: i32) -> MessageKey {
    MessageKey { batch_id: batch, seq }
}

fn refused() -> Failure {
    Failure { code: "131026".to_owned(), class: FailureClass::Recipient, reason: "Message undeliverable".to_owned() }
}

/// One change of the first call of a message.
fn change(batch: BatchId, seq: i32, event: MessageEvent) -> Change {
    let failure = matches!(event, MessageEvent::Refused | MessageEvent::Failed).then(refused);
    Change { failure, ..Change::new(key(batch, seq), 1, event) }
}

async fn apply(connection: &mut PgConnection, changes: &[Change]) {
    messages::apply(connection, changes, RULES).await.unwrap();
}

/// As a claim leaves the work of a batch.
async fn call(connection: &mut PgConnection, batch: BatchId) {
    sqlx::query("UPDATE work SET stage = 'calling', attempt = 1 WHERE batch_id = $1")
        .bind(batch.0)
        .execute(connection)
        .await
        .unwrap();
}

async fn notify(connection: &mut PgConnection, batch: BatchId) {
    sqlx::query("UPDATE batch SET notify = '{delivered,read}' WHERE batch_id = $1")
        .bind(batch.0)
        .execute(connection)
        .await
        .unwrap();
}

/// What the outbox holds, in its order: routing key and body.
async fn owed(connection: &mut PgConnection) -> Vec<(String, Value)> {
    sqlx::query_as(
        "SELECT m ->> 'key', m -> 'body' FROM outbox, jsonb_array_elements(messages) WITH ORDINALITY AS a(m, place)
         WHERE m ->> 'to' = 'events' ORDER BY outbox.id, place",
    )
    .fetch_all(connection)
    .await
    .unwrap()
}

/// How many of each kind the outbox holds.
async fn kinds(connection: &mut PgConnection) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for (_, body) in owed(connection).await {
        *kinds.entry(body["type"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    kinds
}

fn counted<const N: usize>(kinds: [(EventKind, usize); N]) -> BTreeMap<String, usize> {
    kinds.into_iter().map(|(kind, count)| (kind.to_string(), count)).collect()
}

async fn relay_all(relay: &mut Relay) {
    loop {
        match soon("the relay", relay.step()).await.unwrap() {
            Step::Published(_) => {}
            Step::Idle => return,
            Step::Waiting => tokio::task::yield_now().await,
        }
    }
}

/// Each event about a message of a batch, by its place and kind: with its names and no address.
fn messages_of(owed: &[(String, Value)], batch: BatchId) -> HashMap<(i32, EventKind), MessageTold> {
    let mut told: HashMap<(i32, EventKind), MessageTold> = HashMap::new();
    for (route, body) in owed.iter().filter(|(route, _)| route.starts_with("message.")) {
        assert!(!body.to_string().contains("8190"), "an address: {body}");
        let event: Event<MessageTold> = serde_json::from_value(body.clone()).unwrap();
        assert_eq!(*route, format!("{}.test", event.r#type));
        assert_eq!((event.tenant.as_deref(), event.producer.as_deref()), (Some("default"), Some("test")));
        assert_eq!(event.data.id, key(batch, event.data.seq).to_string());
        assert_eq!(event.data.r#ref, Some(format!("crm-{}", event.data.seq)));
        told.insert((event.data.seq, event.r#type), event.data);
    }
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_is_told_once_with_what_it_is_about() {
    let world = World::start(Plan::default()).await;
    let mut connection = world.database.connect().await;
    let batch = world.batch(world.number(1), "offer", 0, 6).await;
    notify(&mut connection, batch).await;
    sqlx::query("UPDATE message SET ref = 'crm-' || seq").execute(&mut connection).await.unwrap();
    call(&mut connection, batch).await;
    let changes = [
        change(batch, 1, MessageEvent::Refused),
        Change::expired(key(batch, 2), 1, Late::Life),
        Change::suppressed(key(batch, 3), 1, SuppressionScope::Marketing),
        change(batch, 4, MessageEvent::Cancelled),
        change(batch, 5, MessageEvent::Accepted),
        change(batch, 6, MessageEvent::Accepted),
    ];
    let later = [
        change(batch, 5, MessageEvent::Sent),
        change(batch, 5, MessageEvent::Read),
        change(batch, 1, MessageEvent::Delivered),
        change(batch, 6, MessageEvent::Failed),
    ];
    for _ in 0..2 {
        // Again, as after an answer that was lost: nothing is told twice.
        apply(&mut connection, &changes).await;
        apply(&mut connection, &later).await;
    }
    let expected = counted([
        (EventKind::MessageFailed, 5),
        (EventKind::MessageLifted, 1),
        (EventKind::MessageDelivered, 2),
        (EventKind::MessageRead, 1),
        (EventKind::BatchDispatched, 1),
        (EventKind::BatchCompleted, 1),
    ]);
    assert_eq!(kinds(&mut connection).await, expected);
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM outbox").fetch_one(&mut connection).await.unwrap();
    assert_eq!(rows, 2, "a row for each transaction");

    let owed = owed(&mut connection).await;
    let told = messages_of(&owed, batch);
    let failed = |seq| {
        let told = &told[&(seq, EventKind::MessageFailed)];
        (told.state, told.code.as_deref(), told.class, told.ended_at.is_some())
    };
    assert_eq!(failed(1), (MessageState::Failed, Some("131026"), Some(FailureClass::Recipient), true));
    assert_eq!(failed(2), (MessageState::Expired, Some("expired"), Some(FailureClass::Message), true));
    assert_eq!(failed(3).0, MessageState::Suppressed);
    assert_eq!((failed(3).2, failed(4)), (Some(FailureClass::OptOut), (MessageState::Cancelled, None, None, true)));
    let lifted = &told[&(1, EventKind::MessageLifted)];
    assert_eq!((lifted.state, &lifted.code, lifted.ended_at), (MessageState::Delivered, &None, None));
    let read = &told[&(5, EventKind::MessageRead)];
    assert!(read.accepted_at.is_some() && read.sent_at.is_some() && read.read_at.is_some());

    let completed = owed.iter().find(|(route, _)| route == "batch.completed.v1.test").unwrap();
    let completed: Event<BatchTold> = serde_json::from_value(completed.1.clone()).unwrap();
    assert_eq!((completed.data.batch_id, completed.data.recipients), (batch, 6));
    let tallies = Tallies { failed: 1, expired: 1, suppressed: 1, cancelled: 1, accepted: 2, ..Tallies::default() };
    assert_eq!(completed.data.tallies, tallies);
    let ids: BTreeSet<String> = owed.iter().map(|(_, body)| body["id"].to_string()).collect();
    assert_eq!(ids.len(), owed.len());
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_are_told_where_they_are_asked_for_or_always() {
    let world = World::start(Plan::default()).await;
    let mut connection = world.database.connect().await;
    let (asking, silent) =
        (world.batch(world.number(1), "offer", 0, 2).await, world.batch(world.number(1), "offer", 10, 2).await);
    notify(&mut connection, asking).await;
    let read = [change(asking, 1, MessageEvent::Read), change(silent, 1, MessageEvent::Read)];
    let mut tx = connection.begin().await.unwrap();
    messages::apply(&mut tx, &read, RULES).await.unwrap();
    let told = owed(&mut tx).await;
    assert_eq!(told.iter().filter(|(_, body)| body["data"]["batch_id"] == asking.to_string()).count(), 2);
    assert_eq!(told.len(), 2);
    tx.rollback().await.unwrap();

    let always = Wanted { delivered: Tell::Always, read: Tell::Never, failed: false };
    messages::apply(&mut connection, &read, Rules { events: always, ..RULES }).await.unwrap();
    apply(&mut connection, &[]).await;
    assert_eq!(kinds(&mut connection).await, counted([(EventKind::MessageDelivered, 2)]));
    let refused = [change(asking, 2, MessageEvent::Refused)];
    messages::apply(&mut connection, &refused, Rules { events: always, ..RULES }).await.unwrap();
    assert!(!kinds(&mut connection).await.contains_key(EventKind::MessageFailed.as_str()));
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_dispatched_with_what_is_uncertain_and_completed_once() {
    let world = World::start(Plan::default()).await;
    let mut connection = world.database.connect().await;
    let batch = world.batch(world.number(1), "offer", 0, 2).await;
    call(&mut connection, batch).await;
    apply(&mut connection, &[change(batch, 1, MessageEvent::Accepted), change(batch, 2, MessageEvent::Unknown)]).await;
    let told = owed(&mut connection).await;
    assert_eq!(told.len(), 1, "{told:?}");
    let dispatched: Event<BatchTold> = serde_json::from_value(told[0].1.clone()).unwrap();
    assert_eq!(dispatched.r#type, EventKind::BatchDispatched);
    assert_eq!(dispatched.data.tallies, Tallies { accepted: 1, uncertain: 1, ..Tallies::default() });

    let ruling = Arc::new(Ruling {
        decided: Decided::Resend,
        by: "policy".to_owned(),
        reason: "so".to_owned(),
        evidence: String::new(),
    });
    apply(&mut connection, &[Change::ruled(key(batch, 2), 1, &ruling)]).await;
    sqlx::query("UPDATE work SET stage = 'calling', attempt = 2").execute(&mut connection).await.unwrap();
    apply(&mut connection, &[Change::new(key(batch, 2), 2, MessageEvent::Accepted)]).await;
    let both = counted([(EventKind::BatchDispatched, 1), (EventKind::BatchCompleted, 1)]);
    assert_eq!(kinds(&mut connection).await, both);

    // The one backward edge: it is sent once more, and ended again.
    let wait = Next::Wait { after: Duration::ZERO, charged: true };
    let again =
        Change { next: wait, failure: Some(refused()), ..Change::new(key(batch, 1), 1, MessageEvent::FailedForNow) };
    apply(&mut connection, &[again]).await;
    assert_eq!(world.counts().await.of("pending"), 1);
    sqlx::query("UPDATE work SET stage = 'calling', attempt = 2").execute(&mut connection).await.unwrap();
    apply(&mut connection, &[Change::new(key(batch, 1), 2, MessageEvent::Accepted)]).await;
    assert_eq!(world.counts().await.sent(), 2);
    assert_eq!(kinds(&mut connection).await, both);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_complete_a_batch_once() {
    let world = World::start(Plan::default()).await;
    let mut connection = world.database.connect().await;
    for round in 0..20 {
        let batch = world.batch(world.number(1), "offer", round * 100, 40).await;
        call(&mut connection, batch).await;
        let half = |from: i32| -> Vec<Change> {
            (from..from + 20).map(|seq| change(batch, seq, MessageEvent::Accepted)).collect()
        };
        let (mut one, mut other) = (world.database.connect().await, world.database.connect().await);
        let (first, second) = (half(1), half(21));
        tokio::join!(apply(&mut one, &first), apply(&mut other, &second));
    }
    assert_eq!(
        kinds(&mut connection).await,
        counted([(EventKind::BatchDispatched, 20), (EventKind::BatchCompleted, 20)])
    );
    let complete: bool = sqlx::query_scalar(
        "SELECT bool_and((m -> 'body' #>> '{data,tallies,accepted}')::int = 40) FROM outbox, jsonb_array_elements(messages) m",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert!(complete, "told before the other half was there");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_still_being_made_has_not_ended() {
    let world = World::start(Plan::default()).await;
    let mut connection = world.database.connect().await;
    let batch = world.batch(world.number(1), "offer", 0, 2).await;
    sqlx::query("UPDATE batch SET state = 'planning'").execute(&mut connection).await.unwrap();
    let given_up = [change(batch, 1, MessageEvent::Cancelled), change(batch, 2, MessageEvent::Cancelled)];
    apply(&mut connection, &given_up).await;
    assert_eq!(kinds(&mut connection).await, counted([(EventKind::MessageFailed, 2)]));
    for _ in 0..2 {
        plan::finish_plan(&mut connection, batch).await.unwrap();
    }
    let expected =
        counted([(EventKind::MessageFailed, 2), (EventKind::BatchDispatched, 1), (EventKind::BatchCompleted, 1)]);
    assert_eq!(kinds(&mut connection).await, expected);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_hold_is_told_when_it_is_opened() {
    let world = World::start(Plan::default()).await;
    let mut connection = world.database.connect().await;
    let batch = world.batch(world.number(1), "offer", 0, 2).await;
    call(&mut connection, batch).await;
    let hold = NewHold {
        tenant: Some(TenantId(1)),
        scope: HoldScope::Number(world.number(1)),
        cause: "130497".to_owned(),
        detail: "restricted".to_owned(),
        resume: Resume::Person,
        lasts: None,
    };
    for seq in [1, 2] {
        let next = Next::Park(Box::new(hold.clone()));
        let parked = Change { next, ..change(batch, seq, MessageEvent::Returned) };
        apply(&mut connection, &[parked]).await;
    }
    for _ in 0..2 {
        holds_list::open(&mut connection, None, &HoldScope::Everything, "ops", "maintenance").await.unwrap();
    }
    let told = owed(&mut connection).await;
    let holds: Vec<Event<HoldTold>> =
        told.iter().map(|(_, body)| serde_json::from_value(body.clone()).unwrap()).collect();
    assert!(told.iter().all(|(route, _)| route == "hold.opened.v1"), "{told:?}");
    let shown: Vec<_> = holds.iter().map(|event| (event.data.scope.as_str(), event.tenant.as_deref())).collect();
    let number = hold.scope.to_string();
    assert_eq!(shown, [(number.as_str(), Some("default")), ("everything", None)]);
    assert_eq!((holds[0].data.resume, holds[0].data.cause.as_str()), (Resume::Person, "130497"));
    // Closed and opened again it is a new one.
    let by = Person { token: uuid::Uuid::new_v4(), name: "token:ops".to_owned() };
    holds_list::close(&mut connection, TenantId(1), true, holds[1].data.id, &by, "done").await.unwrap();
    holds_list::open(&mut connection, None, &HoldScope::Everything, "ops", "again").await.unwrap();
    assert_eq!(owed(&mut connection).await.len(), 3);
    // One that goes on by itself is told when it does not.
    sqlx::query("INSERT INTO hold (scope, cause, resume) VALUES ('template:1', 'canary', 'canary')")
        .execute(&mut connection)
        .await
        .unwrap();
    assert_eq!(owed(&mut connection).await.len(), 3);
    sqlx::query("UPDATE hold SET resume = 'person' WHERE resume = 'canary'").execute(&mut connection).await.unwrap();
    assert_eq!(owed(&mut connection).await.len(), 4);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rolled_back_is_not_told_and_what_the_broker_missed_comes_later() {
    let world = World::start(Plan::default()).await;
    let mut connection = world.database.connect().await;
    let batch = world.batch(world.number(1), "offer", 0, 3).await;
    let refused: Vec<Change> = (1..=3).map(|seq| change(batch, seq, MessageEvent::Refused)).collect();
    let mut tx = connection.begin().await.unwrap();
    messages::apply(&mut tx, &refused, RULES).await.unwrap();
    assert_eq!(owed(&mut tx).await.len(), 5);
    tx.rollback().await.unwrap();
    assert_eq!(owed(&mut connection).await, []);

    apply(&mut connection, &refused).await;
    let away = BrokerOptions {
        url: "amqp://127.0.0.1:1".to_owned().into(),
        ..BrokerOptions::from_settings(&world.settings.broker)
    };
    let away = Broker::start(&away, CancellationToken::new()).unwrap();
    let step = Relay::new(world.store.clone(), &away, Arc::default()).step().await.unwrap();
    assert_eq!(step, Step::Waiting);
    let owed_now = owed(&mut connection).await;
    assert_eq!(owed_now.len(), 5);

    let broker = TestBroker::new().await;
    soon("the topology is there", broker.broker.publisher().publish(Vec::new())).await.unwrap();
    let peer = Peer::new().await;
    broker.topology().declare(&peer.channel).await.unwrap();
    let (_, mut own) = peer.listen(&broker.topology().events(), "*.*.v1.test").await;
    let (_, mut others) = peer.listen(&broker.topology().events(), "*.*.v1.shop").await;
    let mut relay = Relay::new(world.store.clone(), &broker.broker, Arc::default());
    relay_all(&mut relay).await;
    for (route, body) in owed_now {
        let delivery = next(&mut own).await;
        assert_eq!(delivery.routing_key.as_str(), route);
        assert_eq!(serde_json::from_slice::<Value>(&delivery.data).unwrap(), body);
        let id = delivery.properties.message_id().as_ref().unwrap().to_string();
        assert_eq!(body["id"], id);
    }
    assert_eq!(owed(&mut connection).await, []);
    // To nobody else; the last event of all shows that nothing came before it.
    let last = outbox::OutboxMessage::event(
        uuid::Uuid::now_v7(),
        EventKind::JobAccepted,
        Some("default"),
        Some("shop"),
        serde_json::json!({}),
    );
    outbox::insert(&mut connection, std::slice::from_ref(&last)).await.unwrap();
    relay_all(&mut relay).await;
    assert_eq!(next(&mut others).await.properties.message_id().as_ref().unwrap().as_str(), last.id);
    broker.remove().await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_at_a_time_takes_what_is_owed() {
    let world = World::start(Plan::default()).await;
    let mut connection = world.database.connect().await;
    let event = |n: u128| {
        let id = uuid::Uuid::from_u128(n);
        outbox::OutboxMessage::event(id, EventKind::JobAccepted, Some("default"), Some("test"), serde_json::json!({}))
    };
    let many: Vec<_> = (0..240).map(event).collect();
    outbox::insert(&mut connection, &many).await.unwrap();
    let (mut one, mut other) = (world.database.connect().await, world.database.connect().await);
    let mut first = one.begin().await.unwrap();
    let rows = outbox::take(&mut first, 2).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.messages.len()).collect::<Vec<_>>(), [100, 100]);
    let mut second = other.begin().await.unwrap();
    assert!(outbox::take(&mut second, 100).await.unwrap().is_empty(), "what the first has passed over");
    second.rollback().await.unwrap();
    outbox::delete(&mut first, &rows.iter().map(|row| row.id).collect::<Vec<_>>()).await.unwrap();
    first.commit().await.unwrap();
    let mut second = other.begin().await.unwrap();
    let rows = outbox::take(&mut second, 100).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.messages.len()).collect::<Vec<_>>(), [40]);
    second.commit().await.unwrap();
    world.finish().await;
}

/// Half of the messages fail and are lifted, and all are delivered and read, a few at a time.
async fn move_on(connection: &mut PgConnection, batch: BatchId, seqs: &[i32]) {
    let events = |seq: i32| {
        let first = if seq % 4 < 2 { MessageEvent::Refused } else { MessageEvent::Accepted };
        [first, MessageEvent::Delivered, MessageEvent::Read]
    };
    for some in seqs.chunks(5) {
        for step in 0..3 {
            let changes: Vec<Change> = some.iter().map(|seq| change(batch, *seq, events(*seq)[step])).collect();
            apply(connection, &changes).await;
        }
    }
}

/// Two processes move messages, and three relay: of every message each kind is told once,
/// and the kinds in their order.
#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_message_come_in_order_whoever_relays() {
    const MESSAGES: i32 = 120;
    let world = World::start(Plan::default()).await;
    let mut connection = world.database.connect().await;
    let batch = world.batch(world.number(1), "offer", 0, MESSAGES).await;
    notify(&mut connection, batch).await;
    call(&mut connection, batch).await;
    let broker = TestBroker::new().await;
    soon("the topology is there", broker.broker.publisher().publish(Vec::new())).await.unwrap();
    let peer = Peer::new().await;
    broker.topology().declare(&peer.channel).await.unwrap();
    let (_, mut listener) = peer.listen(&broker.topology().events(), "#").await;
    let others = [broker.beside(), broker.beside()];
    let stop = CancellationToken::new();
    let relays: Vec<_> = [&broker, &others[0], &others[1]]
        .map(|broker| Relay::new(world.store.clone(), &broker.broker, Arc::default()))
        .into_iter()
        .map(|relay| tokio::spawn(relay.run(stop.clone())))
        .collect();

    let (mut one, mut other) = (world.database.connect().await, world.database.connect().await);
    let (odd, even): (Vec<i32>, Vec<i32>) = (1..=MESSAGES).partition(|seq| seq % 2 == 1);
    tokio::join!(move_on(&mut one, batch, &odd), move_on(&mut other, batch, &even));
    let half = usize::try_from(MESSAGES / 2).unwrap();
    let expected = half * 2 + half * 4 + 2;
    let (mut ids, mut told) = (BTreeSet::new(), BTreeMap::<String, Vec<String>>::new());
    while ids.len() < expected {
        let event: Value = serde_json::from_slice(&next(&mut listener).await.data).unwrap();
        if ids.insert(event["id"].to_string()) {
            let about = event["data"]["id"].as_str().or(event["data"]["batch_id"].as_str()).unwrap().to_owned();
            told.entry(about).or_default().push(event["type"].as_str().unwrap().to_owned());
        }
    }
    let all = ["message.failed.v1", "message.lifted.v1", "message.delivered.v1", "message.read.v1"];
    for seq in 1..=MESSAGES {
        let kinds = &told[&key(batch, seq).to_string()];
        assert_eq!(*kinds, if seq % 4 < 2 { &all[..] } else { &all[2..] }, "{seq}");
    }
    assert_eq!(told[&batch.to_string()], ["batch.dispatched.v1", "batch.completed.v1"]);
    stop.cancel();
    for relay in relays {
        soon("the relay ends", relay).await.unwrap();
    }
    for other in others {
        other.remove().await;
    }
    broker.remove().await;
    world.finish().await;
}
