//! Consuming with manual acknowledgement, rebuilt after every loss.
//!
//! A delivery belongs to the channel it came through, its *generation*. Acknowledging one of an older generation does
//! nothing: the broker has already taken it back and delivers it again, which is why whoever reads is idempotent.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::{
    Channel,
    options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use crate::broker::{
    BrokerError,
    connection::{Link, RECONNECT, Told},
    topology::short,
};

/// How long the goodbye of a consumer may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Which delivery, of which channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag {
    generation: u64,
    number: u64,
}

/// A message as it came.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The body.
    pub body: Bytes,
    /// The publisher's id of the message.
    pub message_id: Option<String>,
    /// To be given back with an answer.
    pub correlation_id: Option<String>,
    /// The queue for an answer.
    pub reply_to: Option<String>,
    /// The user that published it, checked by the broker.
    pub user_id: Option<String>,
    /// Whether it was delivered before, to us or to another.
    pub is_redelivered: bool,
    /// With which key it was published.
    pub routing_key: String,
    /// The queue it died in, for a dead letter.
    pub died_in: Option<String>,
    /// To acknowledge it by.
    pub tag: Tag,
}

/// Takes messages from one queue, through a channel of its own.
#[derive(Debug)]
pub struct Consumer {
    link: Link,
    queue: String,
    prefetch: u16,
    shutdown: CancellationToken,
    live: Option<Live>,
    generation: u64,
    tries: u32,
    not_before: Option<Instant>,
    told: Told,
}

/// A consumer while its channel stands.
struct Live {
    channel: Channel,
    stream: lapin::Consumer,
    /// What is not acknowledged, by tag.
    unacked: BTreeMap<u64, lapin::Acker>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("unacked", &self.unacked.len()).finish_non_exhaustive()
    }
}

impl Consumer {
    pub(super) fn new(link: Link, queue: String, prefetch: u16, shutdown: CancellationToken) -> Self {
        let (generation, tries, told) = (0, 0, Told::default());
        Self { link, queue, prefetch, shutdown, live: None, generation, tries, not_before: None, told }
    }

    /// Waits for a message and takes up to `max` that are already there. Empty when the process stops.
    ///
    /// May be dropped while it waits; nothing is lost.
    pub async fn next_batch(&mut self, max: usize) -> Vec<Delivery> {
        loop {
            let shutdown = self.shutdown.clone();
            let batch = tokio::select! {
                () = shutdown.cancelled() => return Vec::new(),
                batch = self.attempt(max) => batch,
            };
            match batch {
                Ok(batch) if !batch.is_empty() => {
                    self.tries = 0;
                    self.told.over();
                    return batch;
                }
                Ok(_) => self.give_up(None),
                Err(BrokerError::Stopping) => return Vec::new(),
                Err(error) => self.give_up(Some(&error)),
            }
        }
    }

    /// Whether its channel stands, as far as it knows.
    pub fn is_open(&self) -> bool {
        self.live.is_some()
    }

    /// Empty when the channel is lost and nothing was taken from it.
    async fn attempt(&mut self, max: usize) -> Result<Vec<Delivery>, BrokerError> {
        if self.live.is_none() {
            if let Some(at) = self.not_before {
                time::sleep_until(at).await;
            }
            self.generation += 1;
            self.live = Some(open(&self.link, &self.queue, self.prefetch).await?);
        }
        let Some(live) = &mut self.live else {
            return Ok(Vec::new());
        };
        let mut batch = Vec::new();
        let mut next = live.stream.next().await;
        loop {
            match next {
                Some(Ok(delivery)) => batch.push(live.take(delivery, self.generation)),
                Some(Err(source)) if batch.is_empty() => {
                    return Err(BrokerError::Channel("consume", source));
                }
                // What was taken before the loss can still be processed; it will be delivered again as well.
                Some(Err(_)) | None => break,
            }
            if batch.len() >= max {
                break;
            }
            match live.stream.next().now_or_never() {
                Some(item) => next = item,
                None => break,
            }
        }
        Ok(batch)
    }

    fn give_up(&mut self, error: Option<&BrokerError>) {
        self.live = None;
        self.tries += 1;
        self.not_before = Some(Instant::now() + RECONNECT.wait_after(self.tries));
        let reason = error.and_then(std::error::Error::source).map(ToString::to_string);
        // A lost connection is told by its supervisor.
        if self.link.is_connected() && self.told.is_due() {
            tracing::warn!(queue = self.queue, reason, "the consumer was lost; it is made again");
        } else {
            tracing::debug!(queue = self.queue, reason, "the consumer was lost; it is made again");
        }
    }

    /// Acknowledges deliveries, those of an older generation excepted. A run from the oldest on costs one frame.
    pub async fn ack(&mut self, tags: impl IntoIterator<Item = Tag>) {
        let generation = self.generation;
        let Some(live) = &mut self.live else { return };
        let mut wanted: Vec<u64> = tags.into_iter().filter(|t| t.generation == generation).map(|t| t.number).collect();
        wanted.sort_unstable();
        let run = live.unacked.keys().zip(&wanted).take_while(|(open, wanted)| open == wanted).count();
        let (run, single) = wanted.split_at(run);
        let mut result = Ok(true);
        if let Some(last) = run.last() {
            let acker = live.unacked.remove(last);
            live.unacked = live.unacked.split_off(last);
            if let Some(acker) = acker {
                result = acker.ack(BasicAckOptions { multiple: true }).await;
            }
        }
        for number in single {
            if let Some(acker) = live.unacked.remove(number) {
                result = result.and(acker.ack(BasicAckOptions::default()).await);
            }
        }
        // `false`: the channel is gone and the broker delivers them again.
        if !matches!(result, Ok(true)) {
            self.give_up(None);
        }
    }

    /// Hands a delivery to the dead letters.
    pub async fn reject(&mut self, tag: Tag) {
        let Some(live) = &mut self.live else { return };
        if tag.generation != self.generation {
            return;
        }
        if let Some(acker) = live.unacked.remove(&tag.number)
            && !matches!(acker.reject(BasicRejectOptions { requeue: false }).await, Ok(true))
        {
            self.give_up(None);
        }
    }

    /// Stops taking messages; what was taken and not acknowledged goes back to the queue.
    pub async fn close(mut self) {
        let Some(live) = self.live.take() else { return };
        let goodbye = async {
            let _cancelled = live.channel.basic_cancel(live.stream.tag(), BasicCancelOptions::default()).await;
            let _closed = live.channel.close(200, "bye".into()).await;
        };
        let _late = time::timeout(CLOSE_TIMEOUT, goodbye).await;
    }
}

impl Live {
    fn take(&mut self, delivery: lapin::message::Delivery, generation: u64) -> Delivery {
        let number = delivery.delivery_tag;
        self.unacked.insert(number, delivery.acker);
        let properties = delivery.properties;
        let text = |value: &Option<ShortString>| value.as_ref().map(ToString::to_string);
        Delivery {
            body: delivery.data.into(),
            message_id: text(properties.message_id()),
            correlation_id: text(properties.correlation_id()),
            reply_to: text(properties.reply_to()).filter(|queue| !queue.is_empty()),
            user_id: text(properties.user_id()).filter(|user| !user.is_empty()),
            is_redelivered: delivery.redelivered,
            routing_key: delivery.routing_key.to_string(),
            died_in: properties.headers().as_ref().and_then(first_death_queue),
            tag: Tag { generation, number },
        }
    }
}

fn first_death_queue(headers: &FieldTable) -> Option<String> {
    match headers.inner().get("x-first-death-queue")? {
        AMQPValue::LongString(name) => Some(String::from_utf8_lossy(name.as_bytes()).into_owned()),
        _ => None,
    }
}

async fn open(link: &Link, queue: &str, prefetch: u16) -> Result<Live, BrokerError> {
    let session = link.session().await?;
    let channel = session.channel().await?;
    channel
        .basic_qos(prefetch, BasicQosOptions::default())
        .await
        .map_err(|source| BrokerError::Channel("set the prefetch", source))?;
    let stream = channel
        .basic_consume(short(queue), ShortString::default(), BasicConsumeOptions::default(), FieldTable::default())
        .await
        .map_err(|source| BrokerError::Channel("consume", source))?;
    Ok(Live { channel, stream, unacked: BTreeMap::new() })
}
