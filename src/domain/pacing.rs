//! When a call may start so that no sliding second at the provider holds more than the limit.
//!
//! A log of the last L write instants is exact where a token bucket is not: a bucket of burst 1 driven by timers
//! reaches 48–92 % of a high limit, and replacing it on a rate change grants extra calls. The log stays; only L changes.
//! Between its start and its first byte a call may have to connect, which takes as long as it takes: until it is written
//! it fills a place whatever the time, and from then on for the window that follows.

use std::{collections::VecDeque, time::Duration};

/// An instant of the process's monotonic clock, counted from its start.
pub type Tick = Duration;

const SECOND: Duration = Duration::from_secs(1);

/// The pace of one number.
///
/// ```
/// use campaign_dispatch::domain::pacing::Pace;
/// use std::time::Duration;
/// let mut pace = Pace::new(2, Duration::from_millis(15), Duration::from_millis(20));
/// let (now, soon) = (Duration::from_secs(9), Duration::from_millis(9_003));
/// assert!(pace.take_urgent(now).is_ok() && pace.take_urgent(now).is_ok());
/// pace.written(now);
/// pace.written(soon);
/// assert_eq!(pace.take_urgent(soon), Err(now + Duration::from_millis(1015)));
/// ```
#[derive(Debug, Clone)]
pub struct Pace {
    limit: usize,
    /// One second and the jitter that the network may add between two calls.
    window: Duration,
    late: Duration,
    /// Calls that were started and not written yet.
    open: usize,
    /// When the others were written, the oldest first.
    written: VecDeque<Tick>,
    next_slot: Tick,
    start: Tick,
}

impl Pace {
    /// A pace of `limit` calls a second (at least 1) that survives a network delay varying by `jitter`; a bulk slot
    /// missed by more than `late` is dropped.
    pub fn new(limit: usize, jitter: Duration, late: Duration) -> Self {
        let limit = limit.max(1);
        Self {
            limit,
            window: SECOND + jitter,
            late,
            open: 0,
            written: VecDeque::new(),
            next_slot: Duration::ZERO,
            start: Duration::ZERO,
        }
    }

    /// Changes the limit and keeps the log, so that a change never grants an extra call.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit.max(1);
    }

    /// Nothing starts before `at`: until then an earlier holder's calls may still fill the window.
    pub fn not_before(&mut self, at: Tick) {
        self.start = self.start.max(at);
    }

    /// The calls that still fill the window at `now`, for who sends for the number next. Nothing while one may be missing:
    /// a call that is not written yet, or those that [`Pace::not_before`] waits for.
    pub fn calls(&self, now: Tick) -> Option<Vec<Tick>> {
        let still = self.written.iter().copied().filter(|at| *at + self.window > now);
        (self.open == 0 && now >= self.start).then(|| still.collect())
    }

    /// Goes on from the calls that an earlier holder made.
    pub fn go_on_from(&mut self, calls: impl IntoIterator<Item = Tick>) {
        self.written.extend(calls);
        self.written.make_contiguous().sort_unstable();
    }

    /// The limit less the reserve kept for authentication: 2 % of it, at least 1; none below 40 a second.
    pub fn bulk_limit(&self) -> usize {
        if self.limit < 40 { self.limit } else { self.limit - (self.limit / 50).max(1) }
    }

    /// Time between two bulk slots.
    pub fn slot(&self) -> Duration {
        self.window / u32::try_from(self.bulk_limit()).unwrap_or(u32::MAX)
    }

    /// Starts a call at `now` if fewer than the limit fill the window, else says before when none may start. The call
    /// fills its place until [`Pace::written`] or [`Pace::given_up`] is told.
    pub fn take_urgent(&mut self, now: Tick) -> Result<(), Tick> {
        self.take_within(now, self.limit)
    }

    /// Starts an evenly spread call at `now` if its slot is due, else as [`Pace::take_urgent`].
    pub fn take_bulk(&mut self, now: Tick) -> Result<(), Tick> {
        if now < self.next_slot {
            return Err(self.next_slot);
        }
        self.take_within(now, self.bulk_limit())?;
        // Slots missed by more than `late` are gone: catching up would be a burst.
        self.next_slot = self.next_slot.max(now.saturating_sub(self.late)) + self.slot();
        Ok(())
    }

    /// A call that was started was written at `at`.
    pub fn written(&mut self, at: Tick) {
        self.given_up();
        let place = self.written.partition_point(|other| *other <= at);
        self.written.insert(place, at);
    }

    /// A call that was started will not be written.
    pub fn given_up(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    fn take_within(&mut self, now: Tick, allowed: usize) -> Result<(), Tick> {
        if now < self.start {
            return Err(self.start);
        }
        while self.written.front().is_some_and(|first| *first + self.window <= now) {
            self.written.pop_front();
        }
        let filled = self.written.len() + self.open;
        if filled < allowed {
            self.open += 1;
            return Ok(());
        }
        // The call that has to leave the window before there is room; one that is not written yet leaves it later still.
        let blocking = self.written.get(filled - allowed).copied().unwrap_or(now);
        Err(blocking + self.window)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const JITTER: Duration = Duration::from_millis(15);
    const LATE: Duration = Duration::from_millis(20);

    fn worst_second(calls: &[Tick]) -> usize {
        (0..calls.len()).map(|i| calls[i..].iter().take_while(|t| **t < calls[i] + SECOND).count()).max().unwrap_or(0)
    }

    /// Bulk alone for `seconds`, waking `delay` too late each time.
    fn saturate(limit: usize, seconds: u64, delay: impl Fn(usize) -> Duration) -> Vec<Tick> {
        let mut pace = Pace::new(limit, JITTER, LATE);
        let (mut now, mut calls, mut wakes) = (Duration::from_secs(5), Vec::new(), 0);
        let end = now + Duration::from_secs(seconds);
        while now < end {
            match pace.take_bulk(now) {
                Ok(()) => {
                    pace.written(now);
                    calls.push(now);
                }
                Err(at) => {
                    now = at.max(now) + delay(wakes);
                    wakes += 1;
                }
            }
        }
        calls
    }

    #[test]
    fn marketing_alone_uses_more_than_95_percent() {
        for limit in [40, 80, 1000] {
            let calls = saturate(limit, 20, |wake| Duration::from_micros(300 * (wake as u64 % 4)));
            assert!(worst_second(&calls) <= limit);
            assert!(calls.len() * 100 >= limit * 20 * 95, "{limit}/s: {} in 20 s", calls.len());
        }
    }

    #[test]
    fn a_late_wake_up_does_not_burst() {
        let calls = saturate(80, 20, |wake| if wake % 50 == 0 { Duration::from_millis(400) } else { Duration::ZERO });
        let close = calls.windows(4).filter(|w| w[3].saturating_sub(w[0]) < Duration::from_millis(2)).count();
        assert_eq!(close, 0);
    }

    #[test]
    fn authentication_has_a_reserve_beside_saturating_marketing() {
        let mut pace = Pace::new(80, JITTER, LATE);
        let mut now = Duration::from_secs(5);
        // Right behind a call of marketing, the window holds as many as it may.
        let mut behind = now;
        while now < Duration::from_secs(8) {
            now = match pace.take_bulk(now) {
                Ok(()) => {
                    pace.written(now);
                    behind = now + Duration::from_micros(1);
                    behind
                }
                Err(at) => at,
            };
        }
        assert!(pace.take_urgent(behind).is_ok());
    }

    #[test]
    fn a_call_that_is_given_up_leaves_its_place() {
        let mut pace = Pace::new(1, JITTER, LATE);
        let now = Duration::from_secs(5);
        assert!(pace.take_urgent(now).is_ok());
        assert_eq!(pace.take_urgent(now + SECOND * 9), Err(now + SECOND * 10 + JITTER), "it is still to be written");
        pace.given_up();
        assert!(pace.take_urgent(now + SECOND * 9).is_ok());
    }

    #[test]
    fn a_hand_over_keeps_the_limit_and_needs_no_pause() {
        let fresh = || Pace::new(80, JITTER, LATE);
        let (mut pace, mut now, mut calls) = (fresh(), Duration::from_secs(5), Vec::new());
        while now < Duration::from_secs(20) {
            match pace.take_bulk(now) {
                Ok(()) => {
                    assert_eq!(pace.calls(now), None, "a call under way is in no log");
                    pace.written(now);
                    calls.push(now);
                    if calls.len() % 70 == 0 {
                        let known = pace.calls(now).unwrap();
                        pace = fresh();
                        pace.go_on_from(known);
                    }
                }
                Err(at) => now = at,
            }
        }
        assert!(worst_second(&calls) <= 80);
        assert!(calls.len() > 80 * 15 * 95 / 100, "{}", calls.len());
    }

    proptest! {
        #[test]
        fn no_sliding_second_ever_holds_more_than_the_limit(
            limits in prop::collection::vec((1usize..120, 1u64..400), 1..40),
            urgent in prop::collection::vec(any::<bool>(), 200),
            connecting in prop::collection::vec(prop_oneof![Just(0u64), 0u64..60, 0u64..3_000], 200),
        ) {
            // Changing the limit keeps the log: at any time the window holds at most the largest limit in force since.
            let mut pace = Pace::new(limits[0].0, JITTER, LATE);
            let (mut now, highest) = (Duration::from_secs(5), limits.iter().map(|l| l.0).max().unwrap());
            let (mut open, mut calls): (Vec<Tick>, Vec<Tick>) = (Vec::new(), Vec::new());
            for (i, (limit, step)) in limits.iter().cycle().take(200).enumerate() {
                open.retain(|at| {
                    if *at <= now { pace.written(*at); calls.push(*at); }
                    *at > now
                });
                pace.set_limit(*limit);
                let took = if urgent[i] { pace.take_urgent(now) } else { pace.take_bulk(now) };
                if took.is_ok() { open.push(now + Duration::from_millis(connecting[i])); }
                now += Duration::from_millis(*step) / 10;
            }
            calls.extend(open);
            calls.sort_unstable();
            prop_assert!(worst_second(&calls) <= highest);
        }
    }
}
