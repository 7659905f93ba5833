//! Publishing as an upstream does it: one message, one answer on `reply_to`. For the command line and tests; stages
//! never wait for answers.

use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::{
    BasicProperties, Confirmation, Connection, ConnectionProperties,
    options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::{FieldTable, ShortString},
};
use secrecy::ExposeSecret as _;

use crate::broker::{BrokerError, BrokerOptions};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The broker cannot be used.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// No queue takes what was published.
    #[error("no queue takes it: start `campaign-dispatch serve` once, it declares them")]
    Unroutable,
    /// The broker did not take it.
    #[error("RabbitMQ refused the message")]
    Refused,
    /// Nobody answered.
    #[error("no answer within {} s; what was published stays in its queue and will be answered for: is `serve` running?", .0.as_secs())]
    NoAnswer(Duration),
}

/// Publishes `body` to the entry exchange under `key` and waits for the answer.
pub async fn ask(options: &BrokerOptions, key: &str, body: Vec<u8>, limit: Duration) -> Result<Vec<u8>, RequestError> {
    tokio::time::timeout(limit, exchange(options, key, body)).await.unwrap_or(Err(RequestError::NoAnswer(limit)))
}

async fn exchange(options: &BrokerOptions, key: &str, body: Vec<u8>) -> Result<Vec<u8>, RequestError> {
    let failed = |source| BrokerError::Channel("publish a request", source);
    let uri = options.url.expose_secret().parse();
    let uri = uri.map_err(BrokerError::Url)?;
    let properties = ConnectionProperties::default().with_connection_name("campaign-dispatch send".into());
    let connection = Connection::connect_uri(uri, properties).await.map_err(BrokerError::Connect)?;
    let channel = connection.create_channel().await.map_err(failed)?;
    channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(failed)?;
    let declared = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let (unnamed, none) = (ShortString::default, FieldTable::default);
    let queue = channel.queue_declare(unnamed(), declared, none()).await;
    let reply_to = queue.map_err(failed)?.name().clone();
    let consumed = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let answers = channel.basic_consume(reply_to.clone(), unnamed(), consumed, none());
    let mut answers = answers.await.map_err(failed)?;
    let id = ShortString::from(uuid::Uuid::new_v4().to_string());
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/json".into())
        .with_message_id(id.clone())
        .with_correlation_id(id.clone())
        .with_reply_to(reply_to);
    let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let (entry, key) = (options.topology.entry().into(), key.into());
    let published = channel.basic_publish(entry, key, mandatory, &body, properties);
    match published.await.map_err(failed)?.await.map_err(failed)? {
        Confirmation::Ack(None) => {}
        Confirmation::Ack(Some(_)) => return Err(RequestError::Unroutable),
        Confirmation::Nack(_) | Confirmation::NotRequested => return Err(RequestError::Refused),
    }
    while let Some(delivery) = answers.next().await {
        let delivery = delivery.map_err(failed)?;
        if delivery.properties.correlation_id().as_ref() == Some(&id) {
            // The answer is here; a goodbye that fails changes nothing.
            drop(connection.close(200, "bye".into()).await);
            return Ok(delivery.data);
        }
    }
    Err(BrokerError::Stopping.into())
}
