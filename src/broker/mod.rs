//! `RabbitMQ`: carries what crosses between processes and keeps nothing that is not also in Postgres.
//!
//! Publishing and consuming have a connection each, because the broker stops connections that publish when it runs
//! short of memory, and acknowledgements must not wait behind that. Each connection is kept by a supervisor of our own
//! ([`connection`]): nothing recovers by itself behind our back, so a lost delivery is always a visible one.
//!
//! Every message published here may arrive twice (a confirm can be lost with its connection): readers are idempotent.

pub mod connection;
pub mod consumer;
pub mod publication;
pub mod publisher;
pub mod request;
pub mod topology;
pub mod wake;

use std::{sync::Arc, time::Duration};

use secrecy::{ExposeSecret as _, SecretString};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::connection::Link;
pub use self::{
    consumer::{Consumer, Delivery, Tag},
    publication::{Publication, PublishError},
    publisher::Publisher,
    topology::{Depth, Topology},
    wake::Wakes,
};

/// How long the broker may take to say how full its queues are.
const DEPTHS_WITHIN: Duration = Duration::from_secs(3);

/// What can go wrong with the broker, by the operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The address is not one.
    #[error("broker.url is not an AMQP address: {0} (set AMQP_URL, for example amqp://user:password@host:5672/%2f)")]
    Url(String),
    /// No connection.
    #[error("could not connect to RabbitMQ")]
    Connect(#[source] lapin::Error),
    /// No answer while connecting.
    #[error("RabbitMQ did not answer within {} s", .0.as_secs())]
    ConnectTimeout(Duration),
    /// An exchange or queue could not be declared: it exists with other arguments, or the user may not.
    #[error("could not declare `{name}`")]
    Declare {
        /// The exchange or queue.
        name: String,
        /// What the broker said.
        #[source]
        source: lapin::Error,
    },
    /// A channel operation failed.
    #[error("could not {0}")]
    Channel(&'static str, #[source] lapin::Error),
    /// The process is stopping.
    #[error("the broker connection is closed: the process stops")]
    Stopping,
}

/// How to reach the broker.
#[derive(Debug, Clone)]
pub struct BrokerOptions {
    /// `amqp://user:password@host:port/vhost`.
    pub url: SecretString,
    /// A publish not confirmed by then is published again.
    pub confirm_timeout: Duration,
    /// Dead after twice this without a byte.
    pub heartbeat: Duration,
    /// Exchanges and queues.
    pub topology: Topology,
}

impl BrokerOptions {
    /// What the settings say, with the names they ask for.
    pub fn from_settings(settings: &crate::settings::Broker) -> Self {
        Self {
            url: settings.url.clone(),
            confirm_timeout: Duration::from_millis(settings.confirm_timeout_ms),
            heartbeat: Duration::from_secs(settings.heartbeat_s.into()),
            topology: Topology::with_prefix(&settings.prefix),
        }
    }
}

/// The handle every stage has: cheap to clone, usable while the broker is down.
#[derive(Debug, Clone)]
pub struct Broker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    topology: Topology,
    confirm_timeout: Duration,
    publishing: Link,
    consuming: Link,
    wakes: Wakes,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Broker {
    /// Starts connecting and returns at once; a broker that is down is tried again until `shutdown`.
    ///
    /// # Errors
    /// [`BrokerError::Url`] when the address cannot be read.
    pub fn start(options: &BrokerOptions, shutdown: CancellationToken) -> Result<Self, BrokerError> {
        let uri: lapin::uri::AMQPUri = options.url.expose_secret().parse().map_err(BrokerError::Url)?;
        let tasks = TaskTracker::new();
        let turn = Arc::default();
        let link = |purpose| {
            let settings = connection::LinkSettings {
                uri: uri.clone(),
                heartbeat: options.heartbeat,
                purpose,
                topology: options.topology.clone(),
                turn: Arc::clone(&turn),
            };
            Link::start(settings, &tasks, shutdown.clone())
        };
        let (publishing, consuming) = (link("publish"), link("consume"));
        let wakes = Wakes::start(&publishing, &consuming, &options.topology, &tasks, &shutdown);
        Ok(Self(Arc::new(Shared {
            topology: options.topology.clone(),
            confirm_timeout: options.confirm_timeout,
            publishing,
            consuming,
            wakes,
            tasks,
            shutdown,
        })))
    }

    /// Names of exchanges and queues.
    pub fn topology(&self) -> &Topology {
        &self.0.topology
    }

    /// A publisher with a channel and a task of its own; clone it to share them.
    pub fn publisher(&self) -> Publisher {
        let shared = &self.0;
        Publisher::start(shared.publishing.clone(), shared.confirm_timeout, &shared.tasks, shared.shutdown.clone())
    }

    /// A consumer with a channel of its own. `prefetch` is the number of unacknowledged messages it may hold.
    pub fn consumer(&self, queue: String, prefetch: u16) -> Consumer {
        Consumer::new(self.0.consuming.clone(), queue, prefetch, self.0.shutdown.clone())
    }

    /// Wake-ups of holders of numbers, in this process and in others.
    pub fn wakes(&self) -> &Wakes {
        &self.0.wakes
    }

    /// Whether both connections stand.
    pub fn is_connected(&self) -> bool {
        self.0.publishing.is_connected() && self.0.consuming.is_connected()
    }

    /// How many messages lie in each queue, as the broker says now. Quorum queues count what is ready and not what is being
    /// worked on.
    ///
    /// # Errors
    /// [`BrokerError`] when there is no connection, or none answers in time.
    pub async fn depths(&self) -> Result<Vec<Depth>, BrokerError> {
        let asking = async {
            let channel = self.0.consuming.session().await?.channel().await?;
            let depths = self.topology().depths(&channel).await;
            // A channel that was closed by a refusal needs no goodbye.
            drop(channel.close(200, "bye".into()).await);
            depths
        };
        tokio::time::timeout(DEPTHS_WITHIN, asking).await.unwrap_or(Err(BrokerError::ConnectTimeout(DEPTHS_WITHIN)))
    }

    /// Cuts both connections as a fault would; everything rebuilds itself. For rehearsals and tests.
    pub fn cut(&self) {
        self.0.publishing.cut();
        self.0.consuming.cut();
    }

    /// Waits until the connections are closed; cancel the token given at start first.
    pub async fn closed(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}
