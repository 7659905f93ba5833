//! How fast a number sends that the provider throttles: half at once, then a little more every minute.
//!
//! The limit of the registry is what the provider promised; what it takes today may be less. Additive increase and
//! multiplicative decrease find that without a refusal for every message above it.

use std::time::Duration;

use super::pacing::Tick;

/// Refusals within this are about one mistake: the calls were under way before the first was answered.
const CUT_EVERY: Duration = Duration::from_secs(1);
/// So long without a refusal before the rate rises a step.
const RISE_EVERY: Duration = Duration::from_mins(1);

/// The rate of one number that has a limit.
///
/// ```
/// use campaign_dispatch::domain::rate::Rate;
/// use std::time::Duration;
/// let now = Duration::from_secs(9);
/// let mut rate = Rate::new(80, None, now);
/// assert!(rate.throttled(now) && !rate.rise(now + Duration::from_secs(59)));
/// assert_eq!((rate.per_s(), rate.below_limit()), (40, Some(40)));
/// assert!(rate.rise(now + Duration::from_secs(60)));
/// assert_eq!(rate.per_s(), 44);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    limit: u32,
    current: u32,
    cut_at: Option<Tick>,
    /// The last refusal or step upwards, or when the number was taken.
    quiet_since: Tick,
}

impl Rate {
    /// The rate of a number that was just taken: what its last holder left, else the limit.
    pub fn new(limit: u32, found: Option<u32>, now: Tick) -> Self {
        let mut rate = Self { limit: limit.max(1), current: found.unwrap_or(limit), cut_at: None, quiet_since: now };
        rate.current = rate.current.clamp(rate.least(), rate.limit);
        rate
    }

    /// Calls a second.
    pub const fn per_s(&self) -> u32 {
        self.current
    }

    /// The rate where it is not the limit: what has to be kept.
    pub fn below_limit(&self) -> Option<u32> {
        (self.current < self.limit).then_some(self.current)
    }

    /// Takes a new limit. A number that was not throttled follows it.
    pub fn set_limit(&mut self, limit: u32) {
        let followed = self.current == self.limit;
        self.limit = limit.max(1);
        self.current = if followed { self.limit } else { self.current.clamp(self.least(), self.limit) };
    }

    /// The provider refused a call because the number sends too fast. Says whether the rate fell.
    pub fn throttled(&mut self, now: Tick) -> bool {
        self.quiet_since = self.quiet_since.max(now);
        if self.cut_at.is_some_and(|at| now < at + CUT_EVERY) {
            return false;
        }
        self.cut_at = Some(now);
        let before = self.current;
        self.current = (self.current / 2).max(self.least());
        self.current < before
    }

    /// Rises a step when it has been quiet for long enough. Says whether the rate rose.
    pub fn rise(&mut self, now: Tick) -> bool {
        if self.current >= self.limit || now < self.quiet_since + RISE_EVERY {
            return false;
        }
        self.quiet_since = now;
        self.current = self.current.saturating_add((self.limit / 20).max(1)).min(self.limit);
        true
    }

    /// A tenth of the limit: slower than that would look like a number that is dead.
    const fn least(&self) -> u32 {
        self.limit.div_ceil(10)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Tick = Duration::from_secs(100);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn it_halves_once_a_second_and_not_under_a_tenth() {
        let mut rate = Rate::new(80, None, NOW);
        assert!(rate.throttled(NOW) && !rate.throttled(NOW + SECOND / 2));
        assert_eq!(rate.per_s(), 40);
        let more: Vec<u32> = (1..6)
            .map(|s| {
                rate.throttled(NOW + SECOND * s);
                rate.per_s()
            })
            .collect();
        assert_eq!(more, [20, 10, 8, 8, 8]);
    }

    #[test]
    fn it_rises_by_a_twentieth_after_every_quiet_minute_up_to_the_limit() {
        let mut rate = Rate::new(100, Some(90), NOW);
        assert!(!rate.rise(NOW + SECOND * 59), "a number that was just taken is not known to be quiet");
        assert!(rate.rise(NOW + SECOND * 60) && !rate.rise(NOW + SECOND * 119));
        assert_eq!(rate.below_limit(), Some(95));
        // A refusal that cuts nothing begins the minute anew, too.
        rate.throttled(NOW + SECOND * 100);
        rate.throttled(NOW + SECOND * 100 + SECOND / 2);
        assert_eq!(rate.per_s(), 47);
        assert!(!rate.rise(NOW + SECOND * 160) && rate.rise(NOW + SECOND * 161));
        for minute in 3..30 {
            rate.rise(NOW + SECOND * 161 + Duration::from_mins(minute));
        }
        assert_eq!((rate.per_s(), rate.below_limit()), (100, None));
    }

    #[test]
    fn a_new_limit_is_followed_unless_the_number_is_slowed() {
        let mut rate = Rate::new(80, None, NOW);
        rate.set_limit(1000);
        assert_eq!((rate.per_s(), rate.below_limit()), (1000, None));
        rate.throttled(NOW);
        rate.set_limit(800);
        assert_eq!(rate.per_s(), 500);
        rate.set_limit(80);
        assert_eq!(rate.below_limit(), None);
    }

    proptest! {
        #[test]
        fn it_stays_between_a_tenth_and_the_limit(
            limit in 1_u32..3000, found in prop::option::of(0_u32..4000), events in prop::collection::vec((any::<bool>(), 0_u64..90), 60),
        ) {
            let (mut rate, mut now) = (Rate::new(limit, found, NOW), NOW);
            for (is_refusal, seconds) in events {
                now += Duration::from_secs(seconds);
                if is_refusal { rate.throttled(now); } else { rate.rise(now); }
                prop_assert!(rate.per_s() >= 1 && rate.per_s() * 10 >= limit && rate.per_s() <= limit);
            }
        }
    }
}
