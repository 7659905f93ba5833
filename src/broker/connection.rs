//! A connection that is made again, from nothing, whenever it is lost.
//!
//! The library's own recovery is off: it drops deliveries silently and can leave a consumer waiting forever. Here a loss
//! is explicit: the [`Session`] is replaced by another one, and whoever used it builds its channel again.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use lapin::{Channel, Connection, ConnectionProperties, Event, uri::AMQPUri};
use tokio::{
    sync::{Mutex, watch},
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    broker::{BrokerError, Topology},
    domain::retry::RetryPolicy,
};

/// Waits between connection attempts.
pub(super) const RECONNECT: RetryPolicy =
    RetryPolicy { base: Duration::from_millis(200), ceiling: Duration::from_secs(5), charged_cap: i16::MAX };
/// TCP, handshake and declarations together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A loss that nobody announces is seen by then.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);
/// How often a process that waits to declare asks again.
const TURN_INTERVAL: Duration = Duration::from_millis(100);
/// The longest frame, in bytes, unless the URL says it: each connection keeps sixteen of them as buffers.
const FRAME_MAX: u32 = 32 * 1024;
/// How long a goodbye may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a link needs to connect.
#[derive(Debug)]
pub(super) struct LinkSettings {
    /// Where.
    pub(super) uri: AMQPUri,
    /// Dead after twice this without a byte.
    pub(super) heartbeat: Duration,
    /// Shown in the broker's list of connections.
    pub(super) purpose: &'static str,
    /// Declared on every new connection.
    pub(super) topology: Topology,
    /// Shared by the links of a process: they declare one after the other.
    pub(super) turn: Arc<Mutex<()>>,
}

/// One connection while it stands.
#[derive(Debug)]
pub(super) struct Session {
    connection: Connection,
    /// Cancelled by the first user that finds the connection broken.
    broken: CancellationToken,
}

impl Session {
    /// A new channel.
    pub(super) async fn channel(&self) -> Result<Channel, BrokerError> {
        let opened = time::timeout(CONNECT_TIMEOUT, self.connection.create_channel()).await;
        let result = match opened {
            Ok(result) => result.map_err(|source| BrokerError::Channel("open a channel", source)),
            Err(_) => Err(BrokerError::ConnectTimeout(CONNECT_TIMEOUT)),
        };
        if result.is_err() {
            self.broken.cancel();
        }
        result
    }

    /// Whether the broker refuses to read from us (memory or disk alarm): anything written now would only pile up.
    pub(super) fn is_blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    fn stands(&self) -> bool {
        self.connection.status().connected() && !self.broken.is_cancelled()
    }
}

/// A supervised connection. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Link {
    current: watch::Receiver<Option<Arc<Session>>>,
}

impl Link {
    /// Starts the supervisor.
    pub(super) fn start(settings: LinkSettings, tasks: &TaskTracker, shutdown: CancellationToken) -> Self {
        let (sender, current) = watch::channel(None);
        tasks.spawn(supervise(settings, sender, shutdown));
        Self { current }
    }

    /// The connection, waiting until there is one. [`BrokerError::Stopping`] when there will be none.
    pub(super) async fn session(&self) -> Result<Arc<Session>, BrokerError> {
        let mut current = self.current.clone();
        let found = current
            .wait_for(|session| session.as_ref().is_some_and(|s| s.stands()))
            .await
            .map_err(|_| BrokerError::Stopping)?;
        found.clone().ok_or(BrokerError::Stopping)
    }

    /// Whether there is a connection now.
    pub(super) fn is_connected(&self) -> bool {
        self.current.borrow().as_ref().is_some_and(|session| session.stands())
    }

    /// Gives the connection up as if it had been lost.
    pub(super) fn cut(&self) {
        if let Some(session) = self.current.borrow().as_ref() {
            session.broken.cancel();
        }
    }
}

/// How often a loss that goes on is told again.
const TELL_AGAIN: Duration = Duration::from_secs(30);

/// Tells a loss when it begins and now and then while it lasts.
#[derive(Debug, Default)]
pub(super) struct Told(Option<time::Instant>);

impl Told {
    /// Whether it is to be told now.
    pub(super) fn is_due(&mut self) -> bool {
        let is_due = self.0.is_none_or(|at| at.elapsed() >= TELL_AGAIN);
        if is_due {
            self.0 = Some(time::Instant::now());
        }
        is_due
    }

    /// It is over: the next one is told at once.
    pub(super) fn over(&mut self) {
        self.0 = None;
    }
}

async fn supervise(settings: LinkSettings, sender: watch::Sender<Option<Arc<Session>>>, shutdown: CancellationToken) {
    let mut tries = 0;
    let mut told = Told::default();
    while !shutdown.is_cancelled() {
        let attempt = tokio::select! {
            () = shutdown.cancelled() => break,
            attempt = time::timeout(CONNECT_TIMEOUT, connect(&settings)) => {
                attempt.unwrap_or(Err(BrokerError::ConnectTimeout(CONNECT_TIMEOUT)))
            }
        };
        match attempt {
            Ok(session) => {
                tracing::info!(purpose = settings.purpose, host = settings.uri.authority.host, "connected to RabbitMQ");
                tries = 0;
                told.over();
                let session = Arc::new(session);
                sender.send_replace(Some(Arc::clone(&session)));
                if watch_over(&session, settings.purpose, &shutdown).await == Loss::Told {
                    told.is_due();
                }
                sender.send_replace(None);
                say_goodbye(&session).await;
            }
            Err(error) => {
                let reason = std::error::Error::source(&error).map(ToString::to_string);
                let (host, port) = (&settings.uri.authority.host, settings.uri.authority.port);
                let purpose = settings.purpose;
                if told.is_due() {
                    tracing::warn!(purpose, host, port, %error, reason, "RabbitMQ cannot be used; trying again");
                } else {
                    tracing::debug!(purpose, host, port, %error, reason, "RabbitMQ still cannot be used");
                }
            }
        }
        tries += 1;
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = time::sleep(RECONNECT.wait_after(tries)) => {}
        }
    }
}

async fn connect(settings: &LinkSettings) -> Result<Session, BrokerError> {
    let mut uri = settings.uri.clone();
    let heartbeat = u16::try_from(settings.heartbeat.as_secs()).unwrap_or(u16::MAX);
    uri.query.heartbeat.get_or_insert(heartbeat);
    uri.query.frame_max.get_or_insert(FRAME_MAX);
    let name = format!("campaign-dispatch {}", settings.purpose);
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let connection = Connection::connect_uri(uri, properties).await.map_err(BrokerError::Connect)?;
    let session = Session { connection, broken: CancellationToken::new() };
    let _mine = settings.turn.lock().await;
    let channel = take_turn(&session, &settings.topology).await?;
    settings.topology.declare(&channel).await?;
    settings.topology.end_turn(&channel).await?;
    let _closed = channel.close(200, "declared".into()).await;
    Ok(session)
}

/// Waits until no other process of the installation declares: a quorum queue that two connections declare at the same
/// time answers one of them with an internal error, and may stay broken (`RabbitMQ` issue 13727 and others).
async fn take_turn(session: &Session, topology: &Topology) -> Result<Channel, BrokerError> {
    loop {
        // The broker closes the channel of whoever comes second.
        let channel = session.channel().await?;
        if topology.take_turn(&channel).await? {
            return Ok(channel);
        }
        time::sleep(TURN_INTERVAL).await;
    }
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// It was lost, and the log says so.
    Told,
    /// It was given up or is no longer wanted.
    Wanted,
}

/// Returns when the connection is lost, given up, or no longer wanted.
async fn watch_over(session: &Session, purpose: &str, shutdown: &CancellationToken) -> Loss {
    let mut events = session.connection.events_listener();
    let mut look = time::interval(WATCH_INTERVAL);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Loss::Wanted,
            () = session.broken.cancelled() => return Loss::Wanted,
            event = events.next() => match event {
                Some(Event::ConnectionBlocked(reason)) => {
                    tracing::warn!(purpose, reason, "RabbitMQ takes no messages until its alarm ends");
                }
                Some(Event::ConnectionUnblocked) => tracing::info!(purpose, "RabbitMQ takes messages again"),
                Some(Event::Error(error)) => {
                    tracing::warn!(purpose, %error, "lost RabbitMQ");
                    break;
                }
                Some(_) => {}
                None => {
                    tracing::warn!(purpose, "lost RabbitMQ");
                    break;
                }
            },
            _ = look.tick() => {
                if !session.connection.status().connected() {
                    tracing::warn!(purpose, "lost RabbitMQ");
                    break;
                }
            }
        }
    }
    session.broken.cancel();
    Loss::Told
}

async fn say_goodbye(session: &Session) {
    session.broken.cancel();
    if session.connection.status().connected() {
        let _closed = time::timeout(CLOSE_TIMEOUT, session.connection.close(200, "bye".into())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loss_is_told_once_and_then_now_and_then() {
        let mut told = Told::default();
        let mut times = 0;
        for _ in 0..61 {
            times += u32::from(told.is_due());
            time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(times, 3);
        told.over();
        assert!(told.is_due());
    }
}
