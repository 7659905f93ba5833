//! A message for the broker, and why it may not get there.

use std::time::Duration;

use bytes::Bytes;
use lapin::{BasicProperties, types::ShortString};

/// Larger ones would make the broker close the channel under everybody else's messages.
pub const MAX_BODY_BYTES: usize = 12 * 1024 * 1024;

/// A message for the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Where to; empty is the default exchange, which routes by queue name.
    pub exchange: String,
    /// At most 255 bytes.
    pub routing_key: String,
    /// At most [`MAX_BODY_BYTES`].
    pub body: Bytes,
    /// Unique for the message; the same when it is published again.
    pub message_id: String,
    /// Usually `application/json`.
    pub content_type: &'static str,
    /// Given back from a request.
    pub correlation_id: Option<String>,
    /// The queue for an answer.
    pub reply_to: Option<String>,
    /// Whether a message that no queue takes is [`PublishError::Unroutable`]; otherwise it is dropped.
    pub is_mandatory: bool,
    /// Whether it survives a restart of the broker.
    pub is_persistent: bool,
}

impl Publication {
    /// A persistent JSON message that somebody must take.
    pub fn json(exchange: String, routing_key: String, message_id: String, body: Bytes) -> Self {
        Self {
            exchange,
            routing_key,
            body,
            message_id,
            content_type: "application/json",
            correlation_id: None,
            reply_to: None,
            is_mandatory: true,
            is_persistent: true,
        }
    }

    pub(super) fn properties(&self) -> Result<BasicProperties, PublishError> {
        let short = |text: &str| {
            ShortString::try_new(text).map_err(|_| PublishError::TooLong { message_id: self.message_id.clone() })
        };
        if self.body.len() > MAX_BODY_BYTES {
            return Err(PublishError::TooLong { message_id: self.message_id.clone() });
        }
        short(&self.exchange)?;
        short(&self.routing_key)?;
        let mut properties = BasicProperties::default()
            .with_delivery_mode(if self.is_persistent { 2 } else { 1 })
            .with_message_id(short(&self.message_id)?)
            .with_content_type(short(self.content_type)?);
        if let Some(id) = &self.correlation_id {
            properties = properties.with_correlation_id(short(id)?);
        }
        if let Some(queue) = &self.reply_to {
            properties = properties.with_reply_to(short(queue)?);
        }
        Ok(properties)
    }
}

/// Why messages are not with the broker, or perhaps are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// No queue takes the messages with these ids; all others of the call were taken.
    #[error("no queue takes message {}", .0.join(", "))]
    Unroutable(Vec<String>),
    /// Not confirmed in time: the broker is down, full, or slow. They may have arrived nevertheless.
    #[error("RabbitMQ did not confirm within {} ms", .0.as_millis())]
    NotConfirmed(Duration),
    /// The body, the routing key or another name is longer than the protocol or the broker takes. Nothing was published.
    #[error("message {message_id} is too long for the broker")]
    TooLong {
        /// Of the message.
        message_id: String,
    },
    /// The process is stopping.
    #[error("the publisher is closed: the process stops")]
    Stopping,
}
