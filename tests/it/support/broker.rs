//! Exchanges and queues that no other running test uses, and a client like a producer's.
//!
//! Names are taken from a small set and used again: quorum queues are made for years, and a broker that makes and
//! deletes hundreds of them in a minute loses some (`RabbitMQ` issue 13826).

use std::time::Duration;

use bytes::Bytes;
use campaign_dispatch::broker::{Broker, BrokerOptions, Publication, Topology};
use futures_util::StreamExt as _;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{BasicConsumeOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions, QueuePurgeOptions},
    types::{AMQPValue, FieldTable},
};
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use super::eventually::eventually;

pub(crate) fn url() -> String {
    std::env::var("AMQP_URL").expect("AMQP_URL")
}

/// A prefix that is this test's until it ends, with empty queues.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) prefix: String,
    // The lock ends with its connection, also when the test panics.
    _lock: PgConnection,
}

impl Names {
    pub(crate) async fn take() -> Self {
        let mut lock = super::db::admin().await;
        let mut place = 0;
        let taken = loop {
            place += 1;
            let is_free: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock(7262015, $1)")
                .bind(place)
                .fetch_one(&mut lock)
                .await
                .unwrap();
            if is_free {
                break format!("it-{place}");
            }
        };
        empty(&Topology::with_prefix(&taken)).await;
        Self { prefix: taken, _lock: lock }
    }

    pub(crate) fn topology(&self) -> Topology {
        Topology::with_prefix(&self.prefix)
    }

    pub(crate) fn options(&self, url: &str) -> BrokerOptions {
        BrokerOptions {
            url: url.to_owned().into(),
            confirm_timeout: Duration::from_secs(10),
            heartbeat: Duration::from_secs(10),
            topology: self.topology(),
        }
    }
}

/// Takes away what an earlier test left, once the broker has noticed that it ended.
async fn empty(topology: &Topology) {
    let connection = Connection::connect(&url(), ConnectionProperties::default()).await.unwrap();
    for queue in topology.describe().queues {
        let name = || queue.name.as_str().into();
        let channel = eventually("nobody consumes any more", Duration::from_secs(30), async || {
            let channel = connection.create_channel().await.unwrap();
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            match channel.queue_declare(name(), passive, FieldTable::default()).await {
                Ok(found) if found.consumer_count() > 0 => None,
                Ok(_) => Some(Some(channel)),
                Err(_) => Some(None),
            }
        });
        // A queue that was never declared needs no emptying.
        if let Some(channel) = channel.await {
            channel.queue_purge(name(), QueuePurgeOptions::default()).await.unwrap();
        }
    }
}

/// A handle with names of its own; [`TestBroker::remove`] ends it.
pub(crate) struct TestBroker {
    pub(crate) broker: Broker,
    pub(crate) shutdown: CancellationToken,
    names: Option<Names>,
}

impl TestBroker {
    pub(crate) async fn new() -> Self {
        Self::through(&url()).await
    }

    /// Reaches the broker by this address.
    pub(crate) async fn through(url: &str) -> Self {
        let names = Names::take().await;
        let options = names.options(url);
        Self { names: Some(names), ..Self::with(&options) }
    }

    /// Another process of the same installation.
    pub(crate) fn beside(&self) -> Self {
        Self::with(&self.names.as_ref().unwrap().options(&url()))
    }

    fn with(options: &BrokerOptions) -> Self {
        let shutdown = CancellationToken::new();
        Self { broker: Broker::start(options, shutdown.clone()).unwrap(), shutdown, names: None }
    }

    pub(crate) fn topology(&self) -> Topology {
        self.broker.topology().clone()
    }

    pub(crate) async fn remove(self) {
        self.shutdown.cancel();
        super::soon("the broker handle closes", self.broker.closed()).await;
    }
}

/// Someone else on the same broker.
pub(crate) struct Peer {
    pub(crate) channel: Channel,
    _connection: Connection,
}

impl Peer {
    pub(crate) async fn new() -> Self {
        let connection = Connection::connect(&url(), ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        Self { channel, _connection: connection }
    }

    /// A queue that ends with this peer, bound to an exchange unless that is empty.
    pub(crate) async fn listen(&self, exchange: &str, key: &str) -> (String, lapin::Consumer) {
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        let queue = self.channel.queue_declare("".into(), options, FieldTable::default()).await.unwrap();
        let name = queue.name().clone();
        if !exchange.is_empty() {
            let bound = self.channel.queue_bind(
                name.clone(),
                exchange.into(),
                key.into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            bound.await.unwrap();
        }
        let stream = self.consume(name.as_str()).await;
        (name.to_string(), stream)
    }

    /// A queue that ends with this peer and refuses what it is sent while a message is in it.
    pub(crate) async fn queue_of_one(&self) -> String {
        let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
        arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
        self.channel.queue_declare("".into(), options, arguments).await.unwrap().name().to_string()
    }

    /// What is in a queue, and what comes.
    pub(crate) async fn consume(&self, queue: &str) -> lapin::Consumer {
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        self.channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await.unwrap()
    }

    pub(crate) async fn publish(&self, exchange: &str, key: &str, body: &[u8], properties: BasicProperties) {
        let options = BasicPublishOptions::default();
        self.channel.basic_publish(exchange.into(), key.into(), options, body, properties).await.unwrap();
    }
}

/// The next message of a listener.
pub(crate) async fn next(stream: &mut lapin::Consumer) -> lapin::message::Delivery {
    super::soon("a message", stream.next()).await.unwrap().unwrap()
}

pub(crate) fn message(exchange: String, key: &str, body: &str) -> Publication {
    let id = uuid::Uuid::new_v4().to_string();
    Publication::json(exchange, key.to_owned(), id, Bytes::copy_from_slice(body.as_bytes()))
}
