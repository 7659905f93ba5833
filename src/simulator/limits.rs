//! What a number may send: arrivals in a half-open sliding second, and the bucket of each pair.

use std::collections::HashMap;

/// Nanoseconds in a second; every time of the simulator is in nanoseconds since its start.
pub(super) const SECOND: u64 = 1_000_000_000;

/// When calls of one number arrived, ascending. Eight bytes a call, kept until a reset: it is the evidence.
#[derive(Debug, Default)]
pub(super) struct Arrivals(Vec<u64>);

impl Arrivals {
    /// Notes an arrival and returns how many lie in `(at - 1 s, at]`, this one included.
    pub(super) fn record(&mut self, at: u64) -> usize {
        // Two threads may stamp in one order and get here in the other; the list stays sorted all the same.
        let place = self.0.iter().rposition(|&earlier| earlier <= at).map_or(0, |last| last + 1);
        self.0.insert(place, at);
        place + 1 - self.0.partition_point(|&earlier| earlier + SECOND <= at)
    }

    /// The times from the `from`-th on, at most `most` of them: a long list is copied in pieces so that nobody waits.
    pub(super) fn slice(&self, from: usize, most: usize) -> &[u64] {
        let end = self.0.len().min(from.saturating_add(most));
        self.0.get(from..end).unwrap_or_default()
    }

    pub(super) fn clear(&mut self) {
        self.0 = Vec::new();
    }
}

/// The worst of all half-open sliding seconds that end with a call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Worst {
    /// The most calls in a second that can be judged.
    pub(super) judged: usize,
    /// The most calls in any second.
    pub(super) any: usize,
    /// How many sliding seconds were looked at: one for each call.
    pub(super) windows: usize,
    /// How many of them touch a stall of the simulator and prove nothing.
    pub(super) unjudged: usize,
    /// How many that can be judged hold more than the limit.
    pub(super) over: usize,
}

/// Looks at every second of `times` (ascending); `stalls` are disjoint and ascending.
///
/// A call that waited in a stall is stamped up to the stall's length late. So a second that touches one can be judged only
/// if it holds no more than the limit even when it is lengthened by the longest stall it touches: then no second of true
/// arrivals held more.
pub(super) fn worst_second(times: &[u64], stalls: &[(u64, u64)], limit: Option<usize>) -> Worst {
    let mut worst = Worst { windows: times.len(), ..Worst::default() };
    let (mut first, mut stall) = (0, 0);
    for (index, &at) in times.iter().enumerate() {
        while times.get(first).is_some_and(|&earlier| earlier + SECOND <= at) {
            first += 1;
        }
        while stalls.get(stall).is_some_and(|&(_, end)| end + SECOND <= at) {
            stall += 1;
        }
        let count = index + 1 - first;
        worst.any = worst.any.max(count);
        let touched = stalls.get(stall..).unwrap_or_default().iter().take_while(|&&(start, _)| start < at);
        let is_judged = match touched.map(|&(start, end)| end - start).max() {
            None => true,
            Some(late) => limit.is_some_and(|limit| {
                // One more than the limit would show before the beginning of the lengthened second is reached.
                let longer = times.get(..first).unwrap_or_default().iter().rev().take(limit + 1);
                count + longer.take_while(|&&earlier| earlier + SECOND + late > at).count() <= limit
            }),
        };
        if is_judged {
            worst.judged = worst.judged.max(count);
            worst.over += usize::from(limit.is_some_and(|limit| count > limit));
        } else {
            worst.unjudged += 1;
        }
    }
    worst
}

/// The pair limit: 45 messages at once, then one in 6 s (whatsapp.md §5), for every recipient of one number.
///
/// Kept as the time at which the bucket would be full again, so that a pair at rest costs nothing.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    full_at: HashMap<u64, u64>,
    purge_at: usize,
}

const PAIR_INTERVAL: u64 = 6 * SECOND;
const PAIR_BURST: u64 = 45;

impl Pairs {
    /// Takes one message out of the pair's bucket, or says that it is empty.
    pub(super) fn take(&mut self, recipient: u64, now: u64) -> bool {
        if self.full_at.len() >= self.purge_at {
            self.full_at.retain(|_, full_at| *full_at > now);
            self.purge_at = (self.full_at.len() * 2).max(4096);
        }
        let full_at = self.full_at.entry(recipient).or_insert(now);
        let next = (*full_at).max(now) + PAIR_INTERVAL;
        if next - now > PAIR_BURST * PAIR_INTERVAL {
            return false;
        }
        *full_at = next;
        true
    }

    /// Puts back what a later check refused.
    pub(super) fn give_back(&mut self, recipient: u64) {
        if let Some(full_at) = self.full_at.get_mut(&recipient) {
            *full_at = full_at.saturating_sub(PAIR_INTERVAL);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_half_open() {
        let mut arrivals = Arrivals::default();
        assert_eq!(arrivals.record(0), 1);
        assert_eq!(arrivals.record(SECOND - 1), 2);
        assert_eq!(arrivals.record(SECOND), 2, "the call exactly one second ago has left");
        assert_eq!(arrivals.record(2 * SECOND), 1);
    }

    #[test]
    fn arrivals_noted_late_are_put_in_their_place() {
        let mut arrivals = Arrivals::default();
        arrivals.record(10);
        arrivals.record(30);
        assert_eq!(arrivals.record(20), 2);
        assert_eq!(arrivals.slice(0, 10), [10, 20, 30]);
        assert_eq!(arrivals.slice(2, 10), [30]);
        assert!(arrivals.slice(3, 10).is_empty());
    }

    #[test]
    fn the_worst_second_is_found_wherever_it_begins() {
        let times: Vec<u64> = (0..20).map(|i| i * SECOND / 10).chain([2 * SECOND - 1, 2 * SECOND - 1]).collect();
        let worst = worst_second(&times, &[], Some(11));
        assert_eq!((worst.any, worst.judged, worst.windows, worst.unjudged), (12, 12, 22, 0));
        assert_eq!(worst.over, 1, "only the last call makes twelve");
    }

    #[test]
    fn a_second_that_touches_a_stall_is_not_judged() {
        let times = [0, 5 * SECOND, 5 * SECOND + 1, 5 * SECOND + 2, 9 * SECOND, 9 * SECOND + 1];
        let worst = worst_second(&times, &[(4 * SECOND, 4 * SECOND + SECOND / 2)], None);
        assert_eq!((worst.any, worst.judged, worst.unjudged), (3, 2, 3));
        let after = worst_second(&times, &[(3 * SECOND, 4 * SECOND)], None);
        assert_eq!((after.judged, after.unjudged), (3, 0), "a stall that ended a second before the last call is over");
    }

    #[test]
    fn a_second_with_a_stall_is_judged_when_even_a_longer_one_is_within_the_limit() {
        let tenth = SECOND / 10;
        let times: Vec<u64> = (0..30).map(|i| i * tenth).collect();
        let stall = [(20 * tenth, 20 * tenth + tenth / 2)];
        let within = worst_second(&times, &stall, Some(11));
        assert_eq!((within.judged, within.unjudged, within.over), (10, 0, 0));
        let doubtful = worst_second(&times, &stall, Some(10));
        assert_eq!((doubtful.judged, doubtful.unjudged, doubtful.over), (10, 9, 0), "eleven may have come in a second");
    }

    #[test]
    fn a_pair_has_45_at_once_and_then_one_in_six_seconds() {
        let mut pairs = Pairs::default();
        assert_eq!((0..60).filter(|_| pairs.take(7, 100)).count(), 45);
        assert!(pairs.take(8, 100), "another recipient is not concerned");
        assert!(!pairs.take(7, 100 + PAIR_INTERVAL - 1));
        assert!(pairs.take(7, 100 + PAIR_INTERVAL));
        assert!(!pairs.take(7, 100 + PAIR_INTERVAL));
        pairs.give_back(7);
        assert!(pairs.take(7, 100 + PAIR_INTERVAL));
    }
}
