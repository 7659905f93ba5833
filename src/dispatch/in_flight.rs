//! The open calls of a process: how many there may be, and who starts the next ones.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// Of so many open calls, how many may be bulk. The rest is authentication's alone: a provider that answers slowly holds
/// up what is sent in bulk, and no one-time password behind it.
pub(super) const fn bulk_room(most: usize) -> usize {
    most - most / 10
}

/// Room for open calls. A call has its permit until its outcome is written.
#[derive(Debug)]
pub(super) struct InFlight {
    any: Arc<Semaphore>,
    reserve: Arc<Semaphore>,
    turn: Semaphore,
}

impl InFlight {
    /// Room for `most` calls.
    pub(super) fn new(most: usize) -> Self {
        let bulk = bulk_room(most);
        Self {
            any: Arc::new(Semaphore::new(bulk)),
            reserve: Arc::new(Semaphore::new(most - bulk)),
            turn: Semaphore::new(1),
        }
    }

    /// Waits for the turn to start calls as fast as they go: one number has it at a time, first come, first served.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turn.acquire().await.ok()
    }

    /// Waits for room for one call. None when there will be none any more.
    pub(super) async fn permit(&self, is_urgent: bool) -> Option<OwnedSemaphorePermit> {
        let any = Arc::clone(&self.any).acquire_owned();
        if !is_urgent {
            return any.await.ok();
        }
        tokio::select! {
            biased;
            permit = Arc::clone(&self.reserve).acquire_owned() => permit.ok(),
            permit = any => permit.ok(),
        }
    }
}
