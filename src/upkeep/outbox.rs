//! Publishes what committed transactions owe, with confirms, then forgets it.
//!
//! Several processes may relay, one at a time: so what is told of a message keeps its order. When that one dies or stands
//! still the next one goes on from the oldest row. A message may go out twice (a crash between confirm and commit) with
//! the same id, and never not at all. A reply goes out once: whoever asked may be gone, and must not keep
//! events waiting.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::Notify,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use crate::{
    broker::{Broker, Publication, PublishError, Publisher, Topology},
    fault::{self, Point},
    store::{
        Store, StoreError,
        outbox::{self, Destination, OutboxMessage},
        session::{Session, commit, forget},
    },
};

/// Rows per transaction, each of up to a hundred events or a group's answers: what thousands of batches owe is some MB.
const ROWS: i64 = 10;
/// Looks by itself this often.
const INTERVAL: Duration = Duration::from_secs(1);
/// Longer than that, so that another process has its turn: it may reach the broker better.
const AFTER_ERROR: Duration = Duration::from_secs(2);
/// How long rows stay locked for a broker that does not confirm.
const EVENT_TIMEOUT: Duration = Duration::from_secs(5);
/// A reply that is not taken by then is given up.
const REPLY_TIMEOUT: Duration = Duration::from_secs(1);

/// Relays the outbox to the broker.
#[derive(Debug)]
pub struct Relay {
    session: Session,
    broker: Broker,
    events: Publisher,
    replies: Publisher,
    nudge: Arc<Notify>,
}

/// What one turn of the relay did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Published this many rows.
    Published(usize),
    /// Nothing is owed, or another process is publishing it.
    Idle,
    /// The broker is down: what is owed stays owed.
    Waiting,
}

/// Why the relay could not go on.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The broker.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl Relay {
    /// `nudge` is notified after commits that owe messages.
    pub fn new(store: Store, broker: &Broker, nudge: Arc<Notify>) -> Self {
        Self {
            session: Session::patient(store, "outbox"),
            broker: broker.clone(),
            events: broker.publisher(),
            replies: broker.publisher(),
            nudge,
        }
    }

    /// Relays until `shutdown`, then once more what is owed.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let nudge = Arc::clone(&self.nudge);
        loop {
            let step = self.step().await;
            match &step {
                Ok(Step::Published(_)) => continue,
                Ok(Step::Idle | Step::Waiting) => {}
                Err(error) => tracing::warn!(%error, "the outbox waits"),
            }
            if shutdown.is_cancelled() {
                return;
            }
            let pause = if step.is_ok() { INTERVAL } else { AFTER_ERROR };
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = nudge.notified(), if step.is_ok() => {}
                () = time::sleep(pause) => {}
            }
        }
    }

    /// Publishes the oldest rows.
    pub async fn step(&mut self) -> Result<Step, RelayError> {
        if !self.broker.is_connected() {
            return Ok(Step::Waiting);
        }
        let result = self.relay().await;
        if let Err(RelayError::Store(error)) = &result {
            self.session.failed(error);
        }
        result
    }

    async fn relay(&mut self) -> Result<Step, RelayError> {
        let mut work = self.session.begin().await?;
        let rows = outbox::take(&mut work, ROWS).await?;
        if rows.is_empty() {
            forget(work).await?;
            return Ok(Step::Idle);
        }
        let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        fault::pass(Point::OutboxBefore).map_err(StoreError::from)?;
        let topology = self.broker.topology();
        let (replies, events): (Vec<_>, Vec<_>) =
            rows.into_iter().flat_map(|row| row.messages).partition(|message| message.to == Destination::Queue);
        let replies = replies.into_iter().map(|message| publication(topology, message)).collect();
        let (told, answered) =
            tokio::join!(tell(&self.events, topology, events), self.replies.publish_within(replies, REPLY_TIMEOUT));
        told?;
        if let Err(error) = answered {
            tracing::info!(%error, "replies were not taken and are given up");
        }
        fault::pass(Point::OutboxAfter).map_err(StoreError::from)?;
        outbox::delete(&mut work, &ids).await?;
        commit(work, "commit the outbox").await?;
        Ok(Step::Published(ids.len()))
    }
}

/// Publishes events in their order. Those about the same thing are not on their way together: one that is refused for now
/// would be overtaken by the next.
async fn tell(events: &Publisher, topology: &Topology, messages: Vec<OutboxMessage>) -> Result<(), PublishError> {
    let deadline = Instant::now() + EVENT_TIMEOUT;
    for run in runs(messages) {
        let mut run: Vec<Publication> = run.into_iter().map(|message| publication(topology, message)).collect();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match events.publish_within(run.clone(), left).await {
                // Where nobody is bound, publishing again changes nothing.
                Ok(()) | Err(PublishError::Unroutable(_)) => break,
                Err(PublishError::TooLong { message_id }) => {
                    tracing::error!(message.id = message_id, "an event is too long for the broker and is left out");
                    run.retain(|publication| publication.message_id != message_id);
                }
                Err(error @ (PublishError::NotConfirmed(_) | PublishError::Stopping)) => return Err(error),
            }
        }
    }
    Ok(())
}

/// As many in a row as are about different things.
fn runs(messages: Vec<OutboxMessage>) -> Vec<Vec<OutboxMessage>> {
    let (mut runs, mut seen) = (vec![Vec::new()], HashSet::new());
    for message in messages {
        if message.about.as_ref().is_some_and(|about| !seen.insert(about.clone())) {
            seen.clear();
            seen.extend(message.about.clone());
            runs.push(Vec::new());
        }
        if let Some(run) = runs.last_mut() {
            run.push(message);
        }
    }
    runs
}

fn publication(topology: &Topology, message: OutboxMessage) -> Publication {
    let OutboxMessage { to, key, id, correlation_id, about: _, body } = message;
    let exchange = match to {
        Destination::Events => topology.events(),
        Destination::Entry => topology.entry(),
        Destination::Queue => String::new(),
    };
    let mut publication = Publication::json(exchange, key, id, Bytes::from(body.to_string()));
    publication.correlation_id = correlation_id;
    // Events go to whoever listens, which may be nobody.
    publication.is_mandatory = to == Destination::Entry;
    publication
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn what_is_about_the_same_thing_goes_one_after_the_other() {
        let message = |id: usize, about: Option<&str>| OutboxMessage {
            to: Destination::Events,
            key: String::new(),
            id: id.to_string(),
            correlation_id: None,
            about: about.map(str::to_owned),
            body: Value::Null,
        };
        let about = [None, Some("a"), None, Some("b"), Some("a"), Some("b"), Some("b"), None];
        let messages = about.into_iter().enumerate().map(|(id, about)| message(id, about)).collect();
        let runs: Vec<String> = runs(messages).iter().map(|run| run.iter().map(|m| m.id.as_str()).collect()).collect();
        assert_eq!(runs, ["0123", "45", "67"]);
    }
}
