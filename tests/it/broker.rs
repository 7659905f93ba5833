//! Publishing and consuming across losses of every kind.

use std::{collections::BTreeSet, time::Duration};

use campaign_dispatch::{
    broker::{PublishError, Topology},
    domain::{ids::NumberId, wake::Wake},
};
use tokio::{
    io,
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

use crate::support::{
    broker::{Peer, TestBroker, message, next, url},
    soon,
};

#[tokio::test(flavor = "multi_thread")]
async fn declaring_again_changes_nothing() {
    let broker = TestBroker::new().await;
    soon("a first publish", broker.broker.publisher().publish(vec![])).await.unwrap();
    let peer = Peer::new().await;
    let topology = broker.topology();
    topology.declare(&peer.channel).await.unwrap();
    topology.declare(&peer.channel).await.unwrap();
    broker.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_of_an_installation_declares_at_a_time() {
    let broker = TestBroker::new().await;
    let topology = broker.topology();
    let publisher = broker.broker.publisher();
    let publish = || vec![message(topology.entry(), Topology::JOBS_KEY, "1")];
    soon("a first publish", publisher.publish(publish())).await.unwrap();

    let [declaring, late] = [Peer::new().await, Peer::new().await];
    assert!(topology.take_turn(&declaring.channel).await.unwrap());
    assert!(!topology.take_turn(&late.channel).await.unwrap());
    broker.broker.cut();
    let limit = Duration::from_millis(500);
    let early = publisher.publish_within(publish(), limit).await;
    assert_eq!(early, Err(PublishError::NotConfirmed(limit)));
    // The turn ends with the connection of whoever had it.
    drop(declaring);
    soon("a publish after that", publisher.publish(publish())).await.unwrap();
    broker.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_confirmed_arrives_and_is_acknowledged_in_runs() {
    let broker = TestBroker::new().await;
    let topology = broker.topology();
    let publisher = broker.broker.publisher();
    let bodies: Vec<String> = (0..500).map(|n| n.to_string()).collect();
    let messages = bodies.iter().map(|b| message(topology.entry(), Topology::JOBS_KEY, b)).collect();
    soon("the confirms", publisher.publish(messages)).await.unwrap();

    let mut consumer = broker.broker.consumer(topology.jobs(), 100);
    let mut got = Vec::new();
    while got.len() < 500 {
        let batch = soon("a batch", consumer.next_batch(50)).await;
        assert!(!batch.is_empty() && batch.len() <= 50);
        got.extend(batch.iter().map(|d| String::from_utf8(d.body.to_vec()).unwrap()));
        consumer.ack(batch.iter().map(|d| d.tag)).await;
    }
    assert_eq!(got, bodies);
    consumer.close().await;
    // Nothing came back: all were acknowledged.
    let peer = Peer::new().await;
    let left = peer.channel.queue_declare(
        topology.jobs().into(),
        lapin::options::QueueDeclareOptions { passive: true, ..Default::default() },
        lapin::types::FieldTable::default(),
    );
    assert_eq!(left.await.unwrap().message_count(), 0);
    broker.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unroutable_message_is_told_and_its_neighbours_arrive() {
    let broker = TestBroker::new().await;
    let topology = broker.topology();
    let lost = message(String::new(), "no-such-queue", "x");
    let id = lost.message_id.clone();
    let good = message(topology.entry(), Topology::CALLBACKS_KEY, "y");
    let result = soon("an answer", broker.broker.publisher().publish(vec![good.clone(), lost, good])).await;
    assert_eq!(result, Err(PublishError::Unroutable(vec![id])));
    let mut consumer = broker.broker.consumer(topology.callbacks(), 10);
    let mut count = 0;
    while count < 2 {
        count += soon("two messages", consumer.next_batch(10)).await.len();
    }
    // A key nobody is bound to is kept for a person.
    let stray = message(topology.entry(), "jobs.typo", "z");
    soon("the confirm", broker.broker.publisher().publish(vec![stray])).await.unwrap();
    let mut unrouted = broker.broker.consumer(topology.unrouted(), 10);
    assert_eq!(soon("the stray", unrouted.next_batch(1)).await[0].body, "z");
    consumer.close().await;
    unrouted.close().await;
    broker.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_refuses_is_published_again_until_it_is_taken() {
    let broker = TestBroker::new().await;
    let publisher = broker.broker.publisher();
    let peer = Peer::new().await;
    let queue = peer.queue_of_one().await;
    let publish = |body| vec![message(String::new(), &queue, body)];
    soon("the first", publisher.publish(publish("1"))).await.unwrap();
    let limit = Duration::from_millis(500);
    assert_eq!(publisher.publish_within(publish("2"), limit).await, Err(PublishError::NotConfirmed(limit)));
    let third = publish("3");
    let publishing = tokio::spawn(async move { publisher.publish(third).await });
    let mut room = peer.consume(&queue).await;
    assert_eq!((next(&mut room).await.data, next(&mut room).await.data), (b"1".to_vec(), b"3".to_vec()));
    soon("the confirm", publishing).await.unwrap().unwrap();
    broker.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_lose_nothing() {
    let broker = TestBroker::new().await;
    let topology = broker.topology();
    let publisher = broker.broker.publisher();
    let mut consumer = broker.broker.consumer(topology.jobs(), 50);
    let publishing = tokio::spawn({
        let (handle, entry) = (broker.broker.clone(), topology.entry());
        async move {
            for round in 0..20 {
                let messages =
                    (0..50).map(|n| message(entry.clone(), Topology::JOBS_KEY, &format!("{round}.{n}"))).collect();
                publisher.publish_within(messages, Duration::from_secs(30)).await.unwrap();
                if round % 5 == 2 {
                    handle.cut();
                }
            }
        }
    });
    let mut got = BTreeSet::new();
    let mut turns = 0;
    while got.len() < 1000 {
        let batch = soon("deliveries", consumer.next_batch(50)).await;
        turns += 1;
        if turns % 7 == 0 {
            broker.broker.cut();
        }
        got.extend(batch.iter().map(|d| String::from_utf8(d.body.to_vec()).unwrap()));
        consumer.ack(batch.iter().map(|d| d.tag)).await;
    }
    publishing.await.unwrap();
    consumer.close().await;
    broker.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_delivery_is_a_dead_letter() {
    let broker = TestBroker::new().await;
    let topology = broker.topology();
    let bad = message(topology.entry(), Topology::JOBS_KEY, "poison");
    soon("the confirm", broker.broker.publisher().publish(vec![bad])).await.unwrap();
    let mut consumer = broker.broker.consumer(topology.jobs(), 10);
    let batch = soon("a delivery", consumer.next_batch(1)).await;
    consumer.reject(batch[0].tag).await;
    let mut dead = broker.broker.consumer(topology.dead(), 10);
    let letter = soon("the dead letter", dead.next_batch(1)).await;
    assert_eq!(letter[0].body, "poison");
    assert_eq!(letter[0].died_in, Some(topology.jobs()));
    consumer.close().await;
    dead.close().await;
    broker.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wake_ups_reach_this_process_and_others() {
    let one = TestBroker::new().await;
    let other = one.beside();
    let (mut here, mut there) = (one.broker.wakes().subscribe(), other.broker.wakes().subscribe());
    let wake = Wake { urgent: [NumberId(8)].into(), ..Wake::from_iter([NumberId(7)]) };
    soon("a wake-up elsewhere", async {
        // The other process hears only from when it listens on.
        loop {
            one.broker.wakes().announce(wake.clone());
            if let Ok(Ok(heard)) = tokio::time::timeout(Duration::from_millis(100), there.recv()).await {
                assert_eq!(*heard, wake);
                break;
            }
        }
    })
    .await;
    assert_eq!(*soon("a wake-up here", here.recv()).await.unwrap(), wake);
    other.shutdown.cancel();
    soon("the other closes", other.broker.closed()).await;
    one.remove().await;
}

/// Passes bytes on until it is cut.
async fn relay(listener: TcpListener, to: String, cut: CancellationToken) {
    loop {
        let accepted = tokio::select! { () = cut.cancelled() => return, accepted = listener.accept() => accepted };
        let (mut from, _) = accepted.unwrap();
        let (to, cut) = (to.clone(), cut.clone());
        tokio::spawn(async move {
            let mut server = TcpStream::connect(to).await.unwrap();
            tokio::select! {
                () = cut.cancelled() => {}
                _ = io::copy_bidirectional(&mut from, &mut server) => {}
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_is_waited_for_and_told_when_it_stays_away() {
    let uri: lapin::uri::AMQPUri = url().parse().unwrap();
    let server = format!("{}:{}", uri.authority.host, uri.authority.port);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let through = url().replace(&format!(":{}/", uri.authority.port), &format!(":{port}/"));
    let cut = CancellationToken::new();
    tokio::spawn(relay(listener, server.clone(), cut.clone()));

    let broker = TestBroker::through(&through).await;
    let topology = broker.topology();
    let publisher = broker.broker.publisher();
    let entry = topology.entry();
    soon("a confirm", publisher.publish(vec![message(entry.clone(), Topology::JOBS_KEY, "1")])).await.unwrap();
    cut.cancel();
    let limit = Duration::from_millis(500);
    let away = publisher.publish_within(vec![message(entry.clone(), Topology::JOBS_KEY, "2")], limit).await;
    assert_eq!(away, Err(PublishError::NotConfirmed(limit)));

    let later = publisher.publish_within(vec![message(entry, Topology::JOBS_KEY, "3")], Duration::from_secs(30));
    let back = async {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        tokio::spawn(relay(listener, server, CancellationToken::new()));
    };
    let (later, ()) = tokio::join!(later, back);
    later.unwrap();
    let peer = Peer::new().await;
    let (_, mut listener) = peer.listen(&topology.entry(), "jobs").await;
    soon("a confirm", publisher.publish(vec![message(topology.entry(), Topology::JOBS_KEY, "4")])).await.unwrap();
    assert_eq!(next(&mut listener).await.data, b"4");
    broker.remove().await;
}
