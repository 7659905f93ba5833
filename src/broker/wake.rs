//! Wake-ups: "these numbers have new work", to the holders in this process at once and to all others by the broker.
//!
//! Nothing depends on one arriving: a holder also looks by itself every `dispatch.poll_ms`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt as _;
use lapin::{
    BasicProperties, Channel,
    options::{BasicConsumeOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions},
    types::{FieldTable, ShortString},
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{broadcast, mpsc},
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::{
    broker::{
        BrokerError, Topology,
        connection::{Link, RECONNECT},
        topology::short,
    },
    domain::wake::Wake,
};

/// Wake-ups a subscriber may be behind before it misses some.
const BEHIND_MAX: usize = 1024;
/// A wake-up that cannot be written by then is dropped.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// What stands in a wake-up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct WakeMessage {
    /// The process it comes from, which has told its own holders already.
    origin: Uuid,
    #[serde(flatten)]
    wake: Wake,
}

/// Announces and hears wake-ups. Clones are the same.
#[derive(Debug, Clone)]
pub struct Wakes {
    here: broadcast::Sender<Arc<Wake>>,
    elsewhere: mpsc::UnboundedSender<Arc<Wake>>,
}

impl Wakes {
    /// Without a broker: heard by who shares this value, and by no other process.
    pub fn here() -> Self {
        let (here, _) = broadcast::channel(BEHIND_MAX);
        let (elsewhere, _) = mpsc::unbounded_channel();
        Self { here, elsewhere }
    }

    pub(super) fn start(
        publishing: &Link,
        consuming: &Link,
        topology: &Topology,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Self {
        let (here, _) = broadcast::channel(BEHIND_MAX);
        let (elsewhere, outgoing) = mpsc::unbounded_channel();
        let origin = Uuid::new_v4();
        let exchange = topology.wake();
        let tell = tell(publishing.clone(), exchange.clone(), origin, outgoing);
        let hear = hear(consuming.clone(), exchange, origin, here.clone());
        tasks.spawn(shutdown.clone().run_until_cancelled_owned(tell));
        tasks.spawn(shutdown.clone().run_until_cancelled_owned(hear));
        Self { here, elsewhere }
    }

    /// Tells the holders of these numbers that there is new work. Never waits.
    pub fn announce(&self, wake: Wake) {
        if wake == Wake::default() {
            return;
        }
        let wake = Arc::new(wake);
        // Nobody listening here, or the process stopping: the poll finds the work.
        let _nobody = self.here.send(Arc::clone(&wake));
        let _stopping = self.elsewhere.send(wake);
    }

    /// Hears what is announced from now on, here or elsewhere. After `Lagged`, look at all numbers.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Wake>> {
        self.here.subscribe()
    }
}

/// Publishes what was announced here, merged while the previous one is being written.
async fn tell(link: Link, exchange: String, origin: Uuid, mut outgoing: mpsc::UnboundedReceiver<Arc<Wake>>) {
    let mut channel: Option<Channel> = None;
    while let Some(first) = outgoing.recv().await {
        let mut wake = Arc::unwrap_or_clone(first);
        while let Ok(more) = outgoing.try_recv() {
            wake.merge(&more);
        }
        if !link.is_connected() {
            channel = None;
            continue;
        }
        let message = WakeMessage { origin, wake };
        let told = time::timeout(WRITE_TIMEOUT, tell_once(&link, &exchange, &message, &mut channel)).await;
        if !matches!(told, Ok(Ok(()))) {
            channel = None;
        }
    }
}

async fn tell_once(
    link: &Link,
    exchange: &str,
    message: &WakeMessage,
    channel: &mut Option<Channel>,
) -> Result<(), BrokerError> {
    let body = Bytes::from(serde_json::to_vec(message).unwrap_or_default());
    let session = link.session().await?;
    if session.is_blocked() {
        return Ok(());
    }
    let channel = match channel {
        Some(open) if open.status().connected() => open,
        other => other.insert(session.channel().await?),
    };
    let properties = BasicProperties::default().with_delivery_mode(1).with_content_type("application/json".into());
    channel
        .basic_publish(short(exchange), ShortString::default(), BasicPublishOptions::default(), &body, properties)
        .await
        .map_err(|source| BrokerError::Channel("publish a wake-up", source))?;
    Ok(())
}

/// Hears the other processes through an exclusive queue that ends with this one.
async fn hear(link: Link, exchange: String, origin: Uuid, here: broadcast::Sender<Arc<Wake>>) {
    let mut tries = 0;
    loop {
        match hear_once(&link, &exchange, origin, &here, &mut tries).await {
            Err(BrokerError::Stopping) => return,
            Err(error) => {
                tracing::debug!(%error, "wake-ups of other processes are not heard; listening again");
            }
            Ok(()) => {}
        }
        tries += 1;
        time::sleep(RECONNECT.wait_after(tries)).await;
    }
}

async fn hear_once(
    link: &Link,
    exchange: &str,
    origin: Uuid,
    here: &broadcast::Sender<Arc<Wake>>,
    tries: &mut u32,
) -> Result<(), BrokerError> {
    let failed = |source| BrokerError::Channel("listen for wake-ups", source);
    let session = link.session().await?;
    let channel = session.channel().await?;
    let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare(ShortString::default(), options, FieldTable::default()).await.map_err(failed)?;
    let (name, key) = (queue.name().clone(), ShortString::default());
    channel
        .queue_bind(name.clone(), short(exchange), key, QueueBindOptions::default(), FieldTable::default())
        .await
        .map_err(failed)?;
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let mut stream =
        channel.basic_consume(name, ShortString::default(), options, FieldTable::default()).await.map_err(failed)?;
    *tries = 0;
    while let Some(delivery) = stream.next().await {
        let delivery = delivery.map_err(failed)?;
        match serde_json::from_slice::<WakeMessage>(&delivery.data) {
            Ok(message) if message.origin != origin => {
                let _nobody = here.send(Arc::new(message.wake));
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "a wake-up of another version was not understood");
            }
        }
    }
    Ok(())
}
