//! Exchanges and queues: what exists, with which arguments, and in which order it is declared.
//!
//! Arguments never change within v1: the broker closes the channel of whoever declares a queue with other ones. What
//! operators may tune (lengths, times) belongs into policies. Works on `RabbitMQ` 3.10 to 4.x.

use std::{collections::BTreeMap, fmt, sync::Arc};

use lapin::{
    Channel, ErrorKind, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions},
    protocol::{AMQPErrorKind, AMQPSoftError},
    types::{AMQPValue, FieldTable, ShortString},
};
use serde::{Deserialize, Serialize};

use crate::broker::BrokerError;

/// Deliveries of one message before it is taken for poison. Always written down: without it 3.10 redelivers for ever
/// and 4.x stops at 20, which a series of restarts can reach.
const DELIVERY_LIMIT: i64 = 1000;

/// The names of one installation on a broker: everything starts with the prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    prefix: Arc<str>,
}

impl Default for Topology {
    fn default() -> Self {
        Self::with_prefix("dispatch")
    }
}

/// A value among the arguments of a declaration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Argument {
    /// Text.
    Text(String),
    /// A whole number.
    Number(i64),
}

/// An exchange.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exchange {
    /// Its name.
    pub name: String,
    /// `topic` or `fanout`.
    pub kind: &'static str,
    /// Its arguments.
    pub arguments: BTreeMap<&'static str, Argument>,
    /// What it is for.
    pub purpose: &'static str,
}

/// A queue and the binding that feeds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// The exchange it is bound to.
    pub exchange: String,
    /// With this key; empty for a fanout.
    pub routing_key: String,
    /// Its arguments.
    pub arguments: BTreeMap<&'static str, Argument>,
    /// What it is for.
    pub purpose: &'static str,
}

/// What lies in a queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Depth {
    /// The queue.
    pub name: String,
    /// Messages that wait in it.
    pub messages: u32,
    /// Who takes them.
    pub consumers: u32,
}

/// Everything that is declared, in the order of declaration. `Display` is for people, `Serialize` for machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Description {
    /// All durable.
    pub exchanges: Vec<Exchange>,
    /// All durable quorum queues. Beside these each process has an exclusive queue for wake-ups.
    pub queues: Vec<Queue>,
}

impl Topology {
    /// Names under another prefix, so that several installations can share a broker.
    pub fn with_prefix(prefix: &str) -> Self {
        Self { prefix: prefix.into() }
    }

    /// The exchange that jobs and callbacks are published to.
    pub fn entry(&self) -> String {
        self.prefix.to_string()
    }

    /// The routing key, and last part of the queue's name, of jobs.
    pub const JOBS_KEY: &str = "jobs";
    /// The same for authentication jobs.
    pub const URGENT_KEY: &str = "jobs.urgent";
    /// The same for callbacks.
    pub const CALLBACKS_KEY: &str = "callbacks";

    /// The queue of jobs.
    pub fn jobs(&self) -> String {
        self.named(Self::JOBS_KEY)
    }

    /// The queue of authentication jobs.
    pub fn urgent(&self) -> String {
        self.named(Self::URGENT_KEY)
    }

    /// The queue of callbacks.
    pub fn callbacks(&self) -> String {
        self.named(Self::CALLBACKS_KEY)
    }

    /// The exchange and the queue of what could not be processed.
    pub fn dead(&self) -> String {
        self.named("dead")
    }

    /// The exchange and the queue of what no queue wanted.
    pub fn unrouted(&self) -> String {
        self.named("unrouted")
    }

    /// The exchange of wake-ups.
    pub fn wake(&self) -> String {
        self.named("wake")
    }

    /// The exchange that events go to.
    pub fn events(&self) -> String {
        self.named("events")
    }

    /// How many messages lie in each queue. Closes the channel when one is missing.
    ///
    /// # Errors
    /// [`BrokerError::Declare`] names the queue that is not there.
    pub async fn depths(&self, channel: &Channel) -> Result<Vec<Depth>, BrokerError> {
        let mut depths = Vec::new();
        for Queue { name, .. } in self.describe().queues {
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let found = channel.queue_declare(short(&name), passive, FieldTable::default()).await;
            let found = found.map_err(|source| BrokerError::Declare { name: name.clone(), source })?;
            depths.push(Depth { name, messages: found.message_count(), consumers: found.consumer_count() });
        }
        Ok(depths)
    }

    fn named(&self, last: &str) -> String {
        format!("{}.{last}", self.prefix)
    }

    /// What [`Topology::declare`] declares. Dead-letter targets come first: a dead letter without a target stays in its
    /// queue for ever.
    pub fn describe(&self) -> Description {
        let exchange = |name, kind, purpose| Exchange { name, kind, arguments: BTreeMap::new(), purpose };
        let mut entry = exchange(self.entry(), "topic", "jobs and callbacks come in here");
        entry.arguments.insert("alternate-exchange", Argument::Text(self.unrouted()));
        let exchanges = vec![
            exchange(self.dead(), "fanout", "dead letters"),
            exchange(self.unrouted(), "fanout", "messages with a routing key nobody is bound to"),
            entry,
            exchange(self.wake(), "fanout", "tells the processes which numbers have new work; losing it is harmless"),
            exchange(self.events(), "topic", "what happened, for whoever binds a queue"),
        ];
        let end = |name: String, purpose| Queue {
            exchange: name.clone(),
            name,
            routing_key: String::new(),
            arguments: quorum(),
            purpose,
        };
        let taken = |key: &str, purpose| {
            let mut arguments = quorum();
            arguments.insert("x-dead-letter-exchange", Argument::Text(self.dead()));
            arguments.insert("x-dead-letter-strategy", Argument::Text("at-least-once".to_owned()));
            // at-least-once silently becomes at-most-once without it.
            arguments.insert("x-overflow", Argument::Text("reject-publish".to_owned()));
            Queue { name: self.named(key), exchange: self.entry(), routing_key: key.to_owned(), arguments, purpose }
        };
        let queues = vec![
            end(self.dead(), "drained into the list of refused jobs"),
            end(self.unrouted(), "kept for a person: its depth is an alarm"),
            taken(Self::JOBS_KEY, "send and cancel jobs"),
            taken(Self::URGENT_KEY, "authentication jobs, from upstream and from campaigns"),
            taken(Self::CALLBACKS_KEY, "what providers told us"),
        ];
        Description { exchanges, queues }
    }

    /// Takes the right to declare, which ends with [`Topology::end_turn`] or with the connection. False when another
    /// connection has it; the channel is closed then.
    ///
    /// # Errors
    /// [`BrokerError::Declare`] when the broker says anything else.
    pub async fn take_turn(&self, channel: &Channel) -> Result<bool, BrokerError> {
        // An exclusive queue belongs to one connection: the broker's own mutex.
        let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        match channel.queue_declare(short(&self.turn()), options, FieldTable::default()).await {
            Ok(_) => Ok(true),
            Err(error) if is_locked(&error) => Ok(false),
            Err(source) => Err(BrokerError::Declare { name: self.turn(), source }),
        }
    }

    /// Gives the right to declare to the next.
    ///
    /// # Errors
    /// [`BrokerError::Declare`] when the broker does not take it.
    pub async fn end_turn(&self, channel: &Channel) -> Result<(), BrokerError> {
        let ended = channel.queue_delete(short(&self.turn()), QueueDeleteOptions::default()).await;
        ended.map(drop).map_err(|source| BrokerError::Declare { name: self.turn(), source })
    }

    fn turn(&self) -> String {
        self.named("declaring")
    }

    /// Declares everything; run again it changes nothing.
    ///
    /// # Errors
    /// [`BrokerError::Declare`] names what exists with other arguments.
    pub async fn declare(&self, channel: &Channel) -> Result<(), BrokerError> {
        let description = self.describe();
        for exchange in &description.exchanges {
            let kind = if exchange.kind == "fanout" { ExchangeKind::Fanout } else { ExchangeKind::Topic };
            let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
            channel
                .exchange_declare(short(&exchange.name), kind, options, table(&exchange.arguments))
                .await
                .map_err(|source| BrokerError::Declare { name: exchange.name.clone(), source })?;
        }
        for queue in &description.queues {
            let failed = |source| BrokerError::Declare { name: queue.name.clone(), source };
            let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(short(&queue.name), options, table(&queue.arguments)).await.map_err(failed)?;
            let (from, key) = (short(&queue.exchange), short(&queue.routing_key));
            let bound = channel
                .queue_bind(short(&queue.name), from, key, QueueBindOptions::default(), FieldTable::default())
                .await;
            bound.map_err(failed)?;
        }
        Ok(())
    }
}

fn is_locked(error: &lapin::Error) -> bool {
    let locked = AMQPErrorKind::Soft(AMQPSoftError::RESOURCELOCKED);
    matches!(error.kind(), ErrorKind::ProtocolError(said) if *said.kind() == locked)
}

fn quorum() -> BTreeMap<&'static str, Argument> {
    BTreeMap::from([
        ("x-queue-type", Argument::Text("quorum".to_owned())),
        ("x-delivery-limit", Argument::Number(DELIVERY_LIMIT)),
    ])
}

/// A name as the protocol takes it. Ours are short; a longer one is cut and the broker will not know it.
pub(super) fn short(name: &str) -> ShortString {
    ShortString::try_new(name).unwrap_or_default()
}

fn table(arguments: &BTreeMap<&'static str, Argument>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        let value = match value {
            Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
            Argument::Number(number) => AMQPValue::LongLongInt(*number),
        };
        table.insert(short(name), value);
    }
    table
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => number.fmt(f),
        }
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for exchange in &self.exchanges {
            writeln!(f, "exchange {} ({}, durable): {}", exchange.name, exchange.kind, exchange.purpose)?;
            exchange.arguments.iter().try_for_each(|(name, value)| writeln!(f, "    {name} = {value}"))?;
        }
        for queue in &self.queues {
            writeln!(f, "queue {} (quorum, durable): {}", queue.name, queue.purpose)?;
            let key = if queue.routing_key.is_empty() { "everything" } else { &queue.routing_key };
            writeln!(f, "    from {} by {key}", queue.exchange)?;
            queue.arguments.iter().try_for_each(|(name, value)| writeln!(f, "    {name} = {value}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_letter_targets_are_declared_before_their_users() {
        let description = Topology::default().describe();
        let place = |name: &str| description.queues.iter().position(|q| q.name == name).unwrap();
        for queue in &description.queues {
            if let Some(Argument::Text(target)) = queue.arguments.get("x-dead-letter-exchange") {
                assert!(place(target) < place(&queue.name), "{}", queue.name);
            }
        }
        let text = description.to_string();
        assert!(
            text.contains("queue dispatch.jobs.urgent (quorum, durable)")
                && text.contains("from dispatch by jobs.urgent")
        );
    }
}
