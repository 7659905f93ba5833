//! The simulator's clock and its record of its own stalls.
//!
//! A call that waited in a stalled simulator is stamped late and would look like a burst of the sender, so a sliding
//! second that touches a stall proves nothing. Two tickers look once a millisecond: a thread (the whole process was
//! frozen or starved) and a task among the handlers (the runtime was busy). Either one's stall counts.

use std::{
    fs,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::simulator::locked;

/// The longest stall that a judged second may hold: `pacing.jitter` of design.md §2, promise 4.
pub(super) const TOLERATED: Duration = Duration::from_millis(15);

const TICK: Duration = Duration::from_millis(1);

/// The calls that waited in a stall are stamped while the backlog is worked off, so a stall is counted this much longer.
const BACKLOG: Duration = TOLERATED;

/// Monotonic time since the start, and the wall clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since the start.
    pub(super) fn now(self) -> u64 {
        nanos(self.0.elapsed())
    }

    /// Seconds since 1970, as statuses are stamped.
    pub(super) fn unix() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    /// Milliseconds since 1970.
    pub(super) fn unix_millis() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
    }
}

/// A duration in the simulator's unit.
pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds as milliseconds with a fraction, for people.
#[expect(clippy::cast_precision_loss, reason = "exact for the first hundred days")]
pub(super) fn millis(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

/// When the simulator itself stood still.
#[derive(Debug, Default)]
pub(super) struct Stalls {
    spans: Mutex<Vec<(u64, u64)>>,
    ended: AtomicBool,
    raised: AtomicBool,
}

impl Stalls {
    /// Starts both tickers; they end with [`Stalls::end`]. `raise` asks for a higher priority of the thread.
    pub(super) fn watch(self: &Arc<Self>, clock: Clock, raise: bool) -> Result<(), std::io::Error> {
        let stalls = Arc::clone(self);
        thread::Builder::new().name("simulator-ticker".to_owned()).spawn(move || {
            stalls.raised.store(raise && raise_priority(), Ordering::Relaxed);
            let mut last = clock.now();
            while !stalls.ended.load(Ordering::Relaxed) {
                thread::sleep(TICK);
                last = stalls.tick(last, clock.now());
            }
        })?;
        let stalls = Arc::clone(self);
        tokio::spawn(async move {
            let mut last = clock.now();
            while !stalls.ended.load(Ordering::Relaxed) {
                tokio::time::sleep(TICK).await;
                last = stalls.tick(last, clock.now());
            }
        });
        Ok(())
    }

    fn tick(&self, last: u64, now: u64) -> u64 {
        // Timers of the runtime may be up to a further millisecond late.
        if now.saturating_sub(last) > nanos(TOLERATED + TICK * 2) {
            locked(&self.spans).push((last, now));
        }
        now
    }

    /// Notes a stall that others saw.
    pub(super) fn add(&self, start: u64, end: u64) {
        locked(&self.spans).push((start, end));
    }

    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    pub(super) fn clear(&self) {
        locked(&self.spans).clear();
    }

    /// Whether the ticker's thread got a higher priority.
    pub(super) fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed)
    }

    /// All stalls, ascending, merged where they overlap, each with the time its backlog takes.
    pub(super) fn spans(&self) -> Vec<(u64, u64)> {
        let mut spans = locked(&self.spans).clone();
        spans.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::with_capacity(spans.len());
        for (start, end) in spans {
            let end = end + nanos(BACKLOG);
            match merged.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => merged.push((start, end)),
            }
        }
        merged
    }

    /// How many stalls there were, and the longest in nanoseconds.
    pub(super) fn summary(&self) -> (usize, u64) {
        let spans = self.spans();
        let longest = spans.iter().map(|(start, end)| end - start - nanos(BACKLOG)).max();
        (spans.len(), longest.unwrap_or_default())
    }
}

/// Asks for a higher priority of this thread alone, by its own id. Refused without privileges, which is no fault.
fn raise_priority() -> bool {
    let Ok(link) = fs::read_link("/proc/thread-self") else {
        return false;
    };
    let Some(thread) = link.file_name() else {
        return false;
    };
    let renice = Command::new("renice")
        .args(["-n", "-10", "-p"])
        .arg(thread)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    renice.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_tick_is_a_stall_and_stalls_that_overlap_are_one() {
        const MS: u64 = 1_000_000;
        let stalls = Stalls::default();
        assert_eq!(stalls.tick(0, 17 * MS), 17 * MS);
        assert!(stalls.spans().is_empty());
        stalls.tick(100 * MS, 140 * MS);
        stalls.tick(101 * MS, 150 * MS);
        stalls.tick(20 * MS, 60 * MS);
        assert_eq!(stalls.spans(), [(20 * MS, 75 * MS), (100 * MS, 165 * MS)]);
        assert_eq!(stalls.summary(), (2, 50 * MS));
    }
}
