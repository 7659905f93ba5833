//! Publishing with confirms: `publish` returns when the broker has the messages, or says why not.
//!
//! One task owns one channel and publishes in batches: publishing on one channel from several tasks mixes up the
//! confirms. What is refused for now (negative confirm, timeout, lost connection) is published again with the same
//! `message_id` until the caller's time is over, so a message may arrive twice and never silently not at all.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use futures_util::future::join_all;
use lapin::{
    BasicProperties, Channel, Confirmation,
    message::BasicReturnMessage,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{self, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::broker::{
    BrokerError, Publication, PublishError,
    connection::{Link, RECONNECT},
};

/// Messages in one round of confirms; more cost the client quadratically.
const ROUND_MAX: usize = 2000;
/// Callers that may wait in line.
const LINE: usize = 4096;
/// Publishes through one channel. Clones share it.
#[derive(Debug, Clone)]
pub struct Publisher {
    queue: mpsc::Sender<Request>,
    timeout: Duration,
}

#[derive(Debug)]
struct Request {
    messages: Vec<(Publication, BasicProperties)>,
    deadline: Instant,
    done: oneshot::Sender<Result<(), PublishError>>,
}

impl Publisher {
    pub(super) fn start(link: Link, timeout: Duration, tasks: &TaskTracker, shutdown: CancellationToken) -> Self {
        let (queue, requests) = mpsc::channel(LINE);
        let publishing = Publishing { link, timeout, requests, channel: None, open: Vec::new() };
        tasks.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = publishing.run() => {}
            }
        });
        Self { queue, timeout }
    }

    /// Publishes all and waits for the confirms, as long as `broker.confirm_timeout_ms`.
    pub async fn publish(&self, messages: Vec<Publication>) -> Result<(), PublishError> {
        self.publish_within(messages, self.timeout).await
    }

    /// Publishes all and waits for the confirms; a broker that is down is waited for too.
    pub async fn publish_within(&self, messages: Vec<Publication>, limit: Duration) -> Result<(), PublishError> {
        if messages.is_empty() {
            return Ok(());
        }
        let deadline = Instant::now() + limit;
        let messages = messages
            .into_iter()
            .map(|message| message.properties().map(|properties| (message, properties)))
            .collect::<Result<_, _>>()?;
        let (done, answer) = oneshot::channel();
        let asked = async {
            self.queue.send(Request { messages, deadline, done }).await.map_err(|_| PublishError::Stopping)?;
            answer.await.map_err(|_| PublishError::Stopping)?
        };
        time::timeout_at(deadline, asked).await.unwrap_or(Err(PublishError::NotConfirmed(limit)))
    }
}

/// A request with what is still to be confirmed of it.
#[derive(Debug)]
struct Open {
    request: Request,
    unroutable: Vec<String>,
    tries: u32,
    /// Refused for now: not published again before, and nobody else waits for it.
    not_before: Instant,
}

#[derive(Debug)]
struct Publishing {
    link: Link,
    timeout: Duration,
    requests: mpsc::Receiver<Request>,
    channel: Option<Channel>,
    open: Vec<Open>,
}

/// What the broker said of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Taken,
    Unroutable,
    Again,
}

impl Publishing {
    async fn run(mut self) {
        loop {
            let now = Instant::now();
            if self.open.iter().all(|open| open.not_before > now) {
                let next = self.open.iter().map(|open| open.not_before).min();
                tokio::select! {
                    request = self.requests.recv() => match request {
                        Some(request) => self.admit(request),
                        // Every handle is gone, and with it every caller.
                        None => return,
                    },
                    () = time::sleep_until(next.unwrap_or(now)), if next.is_some() => {}
                }
            }
            while self.open.iter().map(|open| open.request.messages.len()).sum::<usize>() < ROUND_MAX {
                let Ok(request) = self.requests.try_recv() else {
                    break;
                };
                self.admit(request);
            }
            // Callers that gave up must not be published after they were told so.
            let now = Instant::now();
            self.open.retain(|open| open.request.deadline > now && !open.request.done.is_closed());
            let (ready, later) = std::mem::take(&mut self.open).into_iter().partition(|o| o.not_before <= now);
            self.open = later;
            self.round(ready).await;
        }
    }

    fn admit(&mut self, request: Request) {
        self.open.push(Open { request, unroutable: Vec::new(), tries: 0, not_before: Instant::now() });
    }

    /// Publishes once what is ready, answers the requests that are done and keeps the others.
    async fn round(&mut self, ready: Vec<Open>) {
        if ready.is_empty() {
            return;
        }
        let patience = ready.iter().map(|open| open.request.deadline).max().unwrap_or_else(Instant::now);
        let messages: Vec<_> = ready.iter().flat_map(|open| &open.request.messages).take(ROUND_MAX).collect();
        let verdicts = match self.channel(patience).await {
            Ok(channel) => publish_once(&channel, &messages, self.timeout).await,
            Err(error) => {
                tracing::debug!(%error, "cannot publish now");
                None
            }
        };
        if verdicts.is_none() {
            self.channel = None;
        }
        let mut verdicts = verdicts.unwrap_or_else(|| vec![Verdict::Again; messages.len()]).into_iter();
        for mut open in ready {
            if open.record(&mut verdicts) {
                open.answer();
            } else {
                self.open.push(open);
            }
        }
    }

    /// The channel, made again when it is lost, waiting for the broker as long as any caller does.
    async fn channel(&mut self, patience: Instant) -> Result<Channel, BrokerError> {
        let session = time::timeout_at(patience, self.link.session())
            .await
            .map_err(|_| BrokerError::ConnectTimeout(self.timeout))??;
        if session.is_blocked() {
            // Writing now would only pile up in memory and arrive, doubled, when the alarm ends.
            return Err(BrokerError::ConnectTimeout(self.timeout));
        }
        if let Some(channel) = self.channel.take_if(|channel| channel.status().connected()) {
            self.channel = Some(channel.clone());
            return Ok(channel);
        }
        let channel = session.channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .map_err(|source| BrokerError::Channel("ask for confirms", source))?;
        self.channel = Some(channel.clone());
        Ok(channel)
    }
}

impl Open {
    /// Takes the verdicts on its messages, in order; says whether nothing is left to publish.
    fn record(&mut self, verdicts: &mut impl Iterator<Item = Verdict>) -> bool {
        let mut is_refused = false;
        let unroutable = &mut self.unroutable;
        self.request.messages.retain(|(message, _)| match verdicts.next() {
            Some(Verdict::Taken) => false,
            Some(Verdict::Unroutable) => {
                unroutable.push(message.message_id.clone());
                false
            }
            Some(Verdict::Again) => {
                is_refused = true;
                true
            }
            // Not in this round.
            None => true,
        });
        if is_refused {
            self.tries += 1;
            self.not_before = Instant::now() + RECONNECT.wait_after(self.tries).min(Duration::from_secs(1));
        }
        self.request.messages.is_empty()
    }

    fn answer(self) {
        let unroutable = self.unroutable;
        let answer = if unroutable.is_empty() { Ok(()) } else { Err(PublishError::Unroutable(unroutable)) };
        // The caller may have given up; nothing is owed then.
        let _gone = self.request.done.send(answer);
    }
}

/// One round on one channel: all frames are queued in order in the first poll of one task, so the confirms are in order
/// too. `None` when the channel is no longer to be trusted.
async fn publish_once(
    channel: &Channel,
    messages: &[&(Publication, BasicProperties)],
    timeout: Duration,
) -> Option<Vec<Verdict>> {
    let written = messages.iter().map(|(message, properties)| {
        let options = BasicPublishOptions { mandatory: message.is_mandatory, ..BasicPublishOptions::default() };
        let (exchange, key) = (super::topology::short(&message.exchange), super::topology::short(&message.routing_key));
        channel.basic_publish(exchange, key, options, &message.body, properties.clone())
    });
    let written = time::timeout(timeout, join_all(written)).await.ok()?;
    let confirms = written.into_iter().map(|written| async { written?.await });
    let confirms = time::timeout(timeout, join_all(confirms)).await.ok()?;
    let mut returned = HashSet::new();
    let mut is_sound = true;
    let mut verdicts: Vec<Verdict> = confirms
        .into_iter()
        .map(|confirm| match confirm {
            Ok(Confirmation::Ack(message)) => {
                returned.extend(message.as_ref().and_then(identity));
                Verdict::Taken
            }
            Ok(Confirmation::Nack(message)) => {
                returned.extend(message.as_ref().and_then(identity));
                Verdict::Again
            }
            Ok(Confirmation::NotRequested) | Err(_) => {
                is_sound = false;
                Verdict::Again
            }
        })
        .collect();
    // A return rides on any confirm of the round, not on its own: it is told apart by what it is.
    if !returned.is_empty() {
        let place: HashMap<_, _> = messages.iter().enumerate().map(|(i, (m, _))| (own_identity(m), i)).collect();
        for index in returned.iter().filter_map(|identity| place.get(identity)) {
            if let Some(verdict) = verdicts.get_mut(*index) {
                *verdict = Verdict::Unroutable;
            }
        }
    }
    if !is_sound {
        let _closed = channel.close(200, "broken".into()).await;
    }
    Some(verdicts)
}

type Identity = (String, String, String);

fn own_identity(message: &Publication) -> Identity {
    (message.message_id.clone(), message.exchange.clone(), message.routing_key.clone())
}

fn identity(returned: &BasicReturnMessage) -> Option<Identity> {
    let id = returned.delivery.properties.message_id().as_ref()?.to_string();
    Some((id, returned.delivery.exchange.to_string(), returned.delivery.routing_key.to_string()))
}
