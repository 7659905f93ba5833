//! The process's own clock, and whether the process has been asleep.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

use crate::domain::pacing::Tick;

/// Now, on the monotonic clock that also counts suspend: a laptop's sleep or a paused machine must age a lease.
pub fn now() -> Tick {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// The tokio instant at which the process's clock will show `at`.
pub fn instant(at: Tick) -> tokio::time::Instant {
    tokio::time::Instant::now() + at.saturating_sub(now())
}

/// Knows whether the process ran within the last second: a thread leaves a mark every 100 ms.
///
/// A process that was stopped and goes on finds an old mark and sends nothing before the thread has run again; by then
/// its leases have been looked at with a clock that did not stop.
#[derive(Debug, Clone)]
pub struct FreezeGuard {
    mark: Arc<AtomicU64>,
    running: Arc<AtomicBool>,
}

const MARK_EVERY: Duration = Duration::from_millis(100);
const FROZEN_AFTER: Duration = Duration::from_secs(1);

impl FreezeGuard {
    /// Starts the thread; it ends when the last guard is dropped.
    pub fn start() -> Self {
        let guard = Self { mark: Arc::new(AtomicU64::new(nanos(now()))), running: Arc::new(AtomicBool::new(true)) };
        let (mark, running) = (Arc::clone(&guard.mark), Arc::downgrade(&guard.running));
        let spawned = std::thread::Builder::new().name("freeze-guard".to_owned()).spawn(move || {
            while running.upgrade().is_some() {
                mark.store(nanos(now()), Ordering::Relaxed);
                std::thread::sleep(MARK_EVERY);
            }
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "the freeze guard did not start; nothing will be sent");
            guard.mark.store(0, Ordering::Relaxed);
        }
        guard
    }

    /// Whether the process ran without a gap of a second until `now`.
    pub fn awake(&self, now: Tick) -> bool {
        let mark = Duration::from_nanos(self.mark.load(Ordering::Relaxed));
        self.running.load(Ordering::Relaxed) && now.saturating_sub(mark) < FROZEN_AFTER
    }
}

/// A tick as it fits an atomic: 584 years of nanoseconds.
pub(super) fn nanos(tick: Tick) -> u64 {
    u64::try_from(tick.as_nanos()).unwrap_or(u64::MAX)
}
