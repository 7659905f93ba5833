//! How long to wait before the next call, and when to stop trying.

use std::time::Duration;

use backoff::{ExponentialBackoffBuilder, backoff::Backoff as _};

/// Waits between tries of our own that must succeed in the end (a database or broker that is away): a fifth of a second
/// to five seconds.
pub const PERSIST: RetryPolicy =
    RetryPolicy { base: Duration::from_millis(200), ceiling: Duration::from_secs(5), charged_cap: i16::MAX };

/// Exponential backoff with full jitter: the n-th wait is drawn evenly from zero to `base · 2ⁿ⁻¹`, at most `ceiling`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The widest first wait.
    pub base: Duration,
    /// The widest wait of all.
    pub ceiling: Duration,
    /// How many charged tries a message has.
    pub charged_cap: i16,
}

impl RetryPolicy {
    /// The wait after the `tries`-th try (counted from 1).
    ///
    /// ```
    /// use campaign_dispatch::domain::retry::RetryPolicy;
    /// use std::time::Duration;
    /// let policy = RetryPolicy { base: Duration::from_secs(2), ceiling: Duration::from_secs(60), charged_cap: 5 };
    /// assert!(policy.wait_after(1) <= Duration::from_secs(2));
    /// assert!(policy.wait_after(40) <= Duration::from_secs(60));
    /// ```
    pub fn wait_after(&self, tries: u32) -> Duration {
        // The crate draws from `interval · (1 ± factor)`: with factor 1 that is zero to twice the interval.
        let mut policy = ExponentialBackoffBuilder::new()
            .with_initial_interval(self.base / 2)
            .with_multiplier(2.0)
            .with_randomization_factor(1.0)
            .with_max_interval(self.ceiling / 2)
            .with_max_elapsed_time(None)
            .build();
        let mut wait = self.base;
        for _ in 0..tries.clamp(1, 32) {
            wait = policy.next_backoff().unwrap_or(self.ceiling);
        }
        wait.min(self.ceiling)
    }

    /// Whether a message that has been charged `charged` times may be tried again.
    pub const fn allows(&self, charged: i16) -> bool {
        charged < self.charged_cap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_ceiling_and_never_pass_it() {
        let policy = RetryPolicy { base: Duration::from_secs(1), ceiling: Duration::from_secs(30), charged_cap: 3 };
        let widest = |tries| (0..300).map(|_| policy.wait_after(tries)).max().unwrap();
        assert!(widest(1) <= Duration::from_secs(1));
        assert!(widest(4) > Duration::from_secs(4) && widest(4) <= Duration::from_secs(8));
        assert!(widest(12) > Duration::from_secs(20) && widest(12) <= Duration::from_secs(30));
    }

    #[test]
    fn the_cap_counts_charged_tries() {
        let policy = RetryPolicy { base: Duration::ZERO, ceiling: Duration::ZERO, charged_cap: 2 };
        assert!(policy.allows(1) && !policy.allows(2));
    }
}
