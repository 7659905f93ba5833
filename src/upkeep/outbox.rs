//! Publishes what committed transactions owe, with confirms, then forgets it.
//!
//! Several processes may relay: each takes rows no other has. A message may go out twice (a crash between confirm and
//! commit) with the same id, and never not at all. A reply goes out once: whoever asked may be gone, and must not keep
//! events waiting.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{sync::Notify, time};
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

/// Rows per transaction.
const ROWS: i64 = 100;
/// Looks by itself this often.
const INTERVAL: Duration = Duration::from_secs(1);
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
    /// Nothing is owed.
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
            match self.step().await {
                Ok(Step::Published(_)) => continue,
                Ok(Step::Idle | Step::Waiting) => {}
                Err(error) => tracing::warn!(%error, "the outbox waits"),
            }
            if shutdown.is_cancelled() {
                return;
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = nudge.notified() => {}
                () = time::sleep(INTERVAL) => {}
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
        let events = events.into_iter().map(|message| publication(topology, message)).collect();
        let replies = replies.into_iter().map(|message| publication(topology, message)).collect();
        let (told, answered) = tokio::join!(
            self.events.publish_within(events, EVENT_TIMEOUT),
            self.replies.publish_within(replies, REPLY_TIMEOUT)
        );
        match told {
            // Nobody is bound, or a key is too long for any binding: publishing again changes nothing.
            Ok(()) | Err(PublishError::Unroutable(_)) => {}
            Err(error @ PublishError::TooLong { .. }) => {
                tracing::error!(%error, "events are left out");
            }
            Err(error @ (PublishError::NotConfirmed(_) | PublishError::Stopping)) => {
                return Err(error.into());
            }
        }
        if let Err(error) = answered {
            tracing::info!(%error, "replies were not taken and are given up");
        }
        fault::pass(Point::OutboxAfter).map_err(StoreError::from)?;
        outbox::delete(&mut work, &ids).await?;
        commit(work, "commit the outbox").await?;
        Ok(Step::Published(ids.len()))
    }
}

fn publication(topology: &Topology, message: OutboxMessage) -> Publication {
    let OutboxMessage { to, key, id, correlation_id, body } = message;
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
