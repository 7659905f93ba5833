//! When a batch is sent, beside what its number has to send already.

use std::time::Duration;

use super::lane::Lane;

/// What a number uses of its limit while it has work: the window is a little wider than a second, so that no delay of the
/// network can put one call too many into the provider's (promise 4: at least 95 %).
pub const SHARE: f64 = 0.972;

/// Messages that take turns as one: a batch, or all small batches of a lane.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// In what order it is served.
    pub lane: Lane,
    /// Messages left.
    pub messages: u32,
    /// How long until it is due.
    pub due_in: Duration,
}

/// From now on, when the first message of a load goes and when the last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Times {
    /// Until the first.
    pub start: Duration,
    /// Until the last.
    pub finish: Duration,
}

/// When `mine` is sent by a number of `per_s` calls a second that has `others` to send too. Lanes go in order; within a
/// lane the loads that are due take turns, so that each has the same share (as `dispatch::turns` divides a step).
///
/// ```
/// use campaign_dispatch::domain::{forecast::{Load, forecast}, lane::Lane::Marketing};
/// use std::time::Duration;
/// let load = |messages| Load { lane: Marketing, messages, due_in: Duration::ZERO };
/// // 200 beside 20 000: half of 80 a second each until they are through.
/// let small = forecast(80.0, &[load(20_000)], load(200));
/// assert_eq!((small.start.as_secs(), small.finish.as_secs()), (0, 5));
/// let large = forecast(80.0, &[load(200)], load(20_000));
/// assert_eq!(large.finish.as_secs(), 252);
/// ```
pub fn forecast(per_s: f64, others: &[Load], mine: Load) -> Times {
    let rate = per_s.max(f64::MIN_POSITIVE);
    // Mine is the last of them.
    let loads: Vec<Load> = others.iter().copied().chain([mine]).collect();
    let mut left: Vec<f64> = loads.iter().map(|load| f64::from(load.messages)).collect();
    let (last, mut now, mut start) = (loads.len() - 1, 0.0_f64, None);
    while left[last] > 0.0 {
        let due = |i: &usize| left[*i] > 0.0 && loads[*i].due_in.as_secs_f64() <= now;
        let lane = (0..loads.len()).filter(due).map(|i| loads[i].lane as usize).min();
        let served: Vec<usize> =
            (0..loads.len()).filter(due).filter(|i| Some(loads[*i].lane as usize) == lane).collect();
        // Until the next load becomes due, or the smallest of those served is through.
        let next =
            (0..loads.len()).filter(|i| left[*i] > 0.0).map(|i| loads[i].due_in.as_secs_f64()).filter(|at| *at > now);
        let next = next.fold(f64::INFINITY, f64::min);
        #[expect(clippy::cast_precision_loss, reason = "a number has far fewer than 2^52 groups")]
        let each = rate / served.len().max(1) as f64;
        let through = served.iter().map(|i| left[*i] / each).fold(f64::INFINITY, f64::min);
        let step = through.min(next - now);
        if served.contains(&last) {
            start.get_or_insert(now);
        }
        for i in served {
            left[i] = if left[i] / each <= step { 0.0 } else { left[i] - each * step };
        }
        now = if step < through { next } else { now + step };
    }
    let at = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    Times { start: at(start.unwrap_or(now)), finish: at(now) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(lane: Lane, messages: u32, due_s: u64) -> Load {
        Load { lane, messages, due_in: Duration::from_secs(due_s) }
    }

    fn seconds(times: Times) -> (f64, f64) {
        (times.start.as_secs_f64(), times.finish.as_secs_f64())
    }

    #[test]
    fn a_batch_alone_takes_its_size_over_the_rate() {
        assert_eq!(seconds(forecast(80.0, &[], load(Lane::Marketing, 8_000, 0))), (0.0, 100.0));
        assert_eq!(seconds(forecast(80.0, &[], load(Lane::Marketing, 8_000, 30))), (30.0, 130.0));
        assert_eq!(seconds(forecast(80.0, &[], load(Lane::Marketing, 0, 0))), (0.0, 0.0));
    }

    #[test]
    fn an_earlier_lane_goes_first_and_interrupts() {
        let utility = load(Lane::Utility, 800, 10);
        assert_eq!(seconds(forecast(80.0, &[utility], load(Lane::Marketing, 1_600, 0))), (0.0, 30.0));
        let now = load(Lane::Utility, 800, 0);
        assert_eq!(seconds(forecast(80.0, &[now], load(Lane::Marketing, 1_600, 0))), (10.0, 30.0));
        assert_eq!(seconds(forecast(80.0, &[load(Lane::Marketing, 9_000, 0)], load(Lane::Utility, 80, 0))), (0.0, 1.0));
    }

    #[test]
    fn those_that_are_due_share_and_who_comes_later_shares_from_then_on() {
        let later = load(Lane::Marketing, 4_000, 50);
        // 50 s alone, then half the rate each.
        assert_eq!(seconds(forecast(80.0, &[later], load(Lane::Marketing, 6_000, 0))), (0.0, 100.0));
        let two = [load(Lane::Marketing, 800, 0), load(Lane::Marketing, 800, 0)];
        assert_eq!(seconds(forecast(80.0, &two, load(Lane::Marketing, 800, 0))), (0.0, 30.0));
    }

    proptest::proptest! {
        /// No work is lost and none is made: mine ends no earlier than alone and no later than after everything.
        #[test]
        fn a_finish_lies_between_alone_and_last(
            others in proptest::collection::vec((0_usize..3, 0_u32..5_000, 0_u64..100), 0..12),
            mine in (0_usize..3, 1_u32..5_000, 0_u64..100),
        ) {
            let load = |(lane, messages, due): (usize, u32, u64)| load(Lane::ALL[lane], messages, due);
            let (loads, mine): (Vec<Load>, Load) = (others.into_iter().map(load).collect(), load(mine));
            let (start, finish) = seconds(forecast(80.0, &loads, mine));
            let due = mine.due_in.as_secs_f64();
            let alone = due + f64::from(mine.messages) / 80.0;
            let all: f64 = loads.iter().map(|l| f64::from(l.messages)).sum::<f64>() + f64::from(mine.messages);
            let last = loads.iter().map(|l| l.due_in.as_secs_f64()).fold(due, f64::max) + all / 80.0;
            proptest::prop_assert!(start >= due && finish >= alone - 1e-6 && finish <= last + 1e-6);
        }
    }
}
