//! Exchanges and queues of one's own on the shared broker, and a client like a producer's.

use std::time::Duration;

use bytes::Bytes;
use campaign_dispatch::broker::{Broker, BrokerOptions, Publication, Topology};
use futures_util::StreamExt as _;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{BasicConsumeOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use tokio_util::sync::CancellationToken;

pub(crate) fn url() -> String {
    std::env::var("AMQP_URL").expect("AMQP_URL")
}

pub(crate) fn options(url: &str) -> BrokerOptions {
    BrokerOptions {
        url: url.to_owned().into(),
        confirm_timeout: Duration::from_secs(10),
        heartbeat: Duration::from_secs(10),
        topology: Topology::with_prefix(&format!("it-{}", uuid::Uuid::new_v4().simple())),
    }
}

/// A handle whose names are its own; [`TestBroker::remove`] takes them away.
pub(crate) struct TestBroker {
    pub(crate) broker: Broker,
    pub(crate) shutdown: CancellationToken,
}

impl TestBroker {
    pub(crate) fn new() -> Self {
        Self::with(&options(&url()))
    }

    pub(crate) fn with(options: &BrokerOptions) -> Self {
        let shutdown = CancellationToken::new();
        Self { broker: Broker::start(options, shutdown.clone()).unwrap(), shutdown }
    }

    pub(crate) fn topology(&self) -> Topology {
        self.broker.topology().clone()
    }

    pub(crate) async fn remove(self) {
        let topology = self.topology();
        self.shutdown.cancel();
        super::soon("the broker handle closes", self.broker.closed()).await;
        let peer = Peer::new().await;
        topology.remove(&peer.channel).await.unwrap();
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
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let stream = self.channel.basic_consume(name.clone(), "".into(), options, FieldTable::default()).await.unwrap();
        (name.to_string(), stream)
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
