//! The thread that carries calls to the provider, and nothing else: what it stands still would look like the sender's burst.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{runtime::Handle, sync::mpsc};

use crate::{relays::Relay, simulator::Simulator};

/// Longer than this between two ticks of a millisecond is a stall, as in the simulator.
const TOLERATED: Duration = Duration::from_millis(17);

/// A runtime of its own for the relay before the provider.
#[derive(Debug)]
pub(crate) struct Wire {
    handle: Handle,
    stalls: mpsc::UnboundedReceiver<Duration>,
}

impl Wire {
    /// Starts the thread; it ends with the process.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (tell, stalls) = mpsc::unbounded_channel();
        std::thread::Builder::new().name("wire".to_owned()).spawn(move || runtime.block_on(tick(tell)))?;
        Ok(Self { handle, stalls })
    }

    /// A relay on this thread.
    pub(crate) async fn relay(&self, name: &str, target: std::net::SocketAddr) -> anyhow::Result<Relay> {
        let name = name.to_owned();
        self.handle.spawn(async move { Relay::start(name, vec![target]).await }).await.context("the wire's thread")?
    }

    /// Tells the judge of every stall.
    pub(crate) fn report_to(mut self, simulator: Arc<Simulator>) {
        tokio::spawn(async move {
            while let Some(stood) = self.stalls.recv().await {
                simulator.stalled(u64::try_from(stood.as_millis()).unwrap_or(u64::MAX)).await;
            }
        });
    }
}

async fn tick(tell: mpsc::UnboundedSender<Duration>) {
    let mut last = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let stood = last.elapsed();
        last = Instant::now();
        if stood > TOLERATED {
            // Nobody listens in a world without relays.
            tell.send(stood).ok();
        }
    }
}
