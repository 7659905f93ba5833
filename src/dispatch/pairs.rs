//! The pair limit: how often one number may write to one recipient.
//!
//! A burst above the provider's limit does no harm here, it is refused and tried again; so `governor` will do, where
//! the pace of a number needs a log. A message that finds its pair exhausted waits without a call.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    num::NonZeroU32,
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock, Reference as _},
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::keyed::HashMapStateStore,
};

use crate::{
    domain::{address::Address, ids::NumberId},
    settings::Pacing,
};

/// The hash of a number and a recipient: two pairs that share one are limited together, which does no harm.
type Pair = u64;

/// Checks between two sweeps: what has been quiet is forgotten, so that only pairs of the last moments are kept.
const SWEEP_EVERY: u32 = 10_000;

/// The clock of each pair.
#[derive(Debug)]
pub(super) struct Pairs<C: Clock = DefaultClock> {
    limiter: RateLimiter<Pair, HashMapStateStore<Pair>, C, NoOpMiddleware<C::Instant>>,
    clock: C,
    every: Duration,
    /// Up to when the waits given out reach, of exhausted pairs: messages that wait come back one by one.
    given: RefCell<HashMap<Pair, C::Instant>>,
    checks: Cell<u32>,
}

impl Pairs {
    pub(super) fn new(settings: &Pacing) -> Self {
        Self::with_clock(settings, DefaultClock::default())
    }
}

impl<C: Clock + Clone> Pairs<C> {
    fn with_clock(settings: &Pacing, clock: C) -> Self {
        let every = Duration::from_secs(settings.pair_every_s.max(1));
        let burst = NonZeroU32::new(settings.pair_burst).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(every).unwrap_or(Quota::per_second(NonZeroU32::MIN)).allow_burst(burst);
        let limiter = RateLimiter::hashmap_with_clock(quota, clock.clone());
        Self { limiter, clock, every, given: RefCell::default(), checks: Cell::new(0) }
    }

    /// Takes a message out of the pair's bucket, or says how long it has to wait.
    pub(super) fn take(&self, number: NumberId, recipient: &Address) -> Result<(), Duration> {
        self.sweep();
        let mut hasher = DefaultHasher::new();
        (number, recipient).hash(&mut hasher);
        let pair = hasher.finish();
        let Err(early) = self.limiter.check_key(&pair) else {
            return Ok(());
        };
        let now = self.clock.now();
        let wait = early.wait_time_from(now);
        let mut given = self.given.borrow_mut();
        let behind = given.get(&pair).map_or(Duration::ZERO, |last| Duration::from(last.duration_since(now)));
        let wait = if behind.is_zero() { wait } else { wait.max(behind + self.every) };
        given.insert(pair, now + Nanos::from(wait));
        Err(wait)
    }

    /// Now and then; costs each check next to nothing.
    fn sweep(&self) {
        self.checks.set(self.checks.get() + 1);
        if self.checks.get() < SWEEP_EVERY {
            return;
        }
        self.checks.set(0);
        self.limiter.retain_recent();
        let now = self.clock.now();
        self.given.borrow_mut().retain(|_, last| *last > now);
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    const SETTINGS: Pacing = Pacing { jitter_ms: 15, late_ms: 20, pair_every_s: 6, pair_burst: 45 };
    const NUMBER: NumberId = NumberId(1);
    const SECOND: Duration = Duration::from_secs(1);

    fn recipient(n: u32) -> Address {
        Address::from_store(format!("+8190{n:08}"))
    }

    #[test]
    fn a_pair_has_its_burst_and_then_one_in_six_seconds() {
        let clock = FakeRelativeClock::default();
        let pairs = Pairs::with_clock(&SETTINGS, clock.clone());
        assert_eq!((0..45).filter(|_| pairs.take(NUMBER, &recipient(1)).is_ok()).count(), 45);
        assert_eq!(pairs.take(NUMBER, &recipient(1)), Err(SECOND * 6));
        assert!(pairs.take(NUMBER, &recipient(2)).is_ok() && pairs.take(NumberId(2), &recipient(1)).is_ok());
        clock.advance(SECOND * 6);
        assert!(pairs.take(NUMBER, &recipient(1)).is_ok());
    }

    #[test]
    fn messages_that_wait_come_back_one_by_one() {
        let clock = FakeRelativeClock::default();
        let pairs = Pairs::with_clock(&Pacing { pair_burst: 1, ..SETTINGS }, clock.clone());
        assert!(pairs.take(NUMBER, &recipient(1)).is_ok());
        let waits: Vec<_> = (0..3).map(|_| pairs.take(NUMBER, &recipient(1)).unwrap_err().as_secs()).collect();
        assert_eq!(waits, [6, 12, 18]);
        for _ in waits {
            clock.advance(SECOND * 6);
            assert!(pairs.take(NUMBER, &recipient(1)).is_ok());
        }
    }

    #[test]
    fn what_has_been_quiet_is_forgotten() {
        let clock = FakeRelativeClock::default();
        let pairs = Pairs::with_clock(&SETTINGS, clock.clone());
        for n in 0..5 * SWEEP_EVERY {
            assert!(pairs.take(NUMBER, &recipient(n)).is_ok());
            clock.advance(Duration::from_millis(1));
        }
        assert!(pairs.limiter.len() < 3 * usize::try_from(SWEEP_EVERY).unwrap(), "{}", pairs.limiter.len());
    }
}
