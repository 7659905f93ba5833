//! Bulk intake stands back for urgent jobs, so that an authentication message does not share the broker, the database and
//! the processor with a campaign that is being taken (promise 7).
//!
//! The urgent lane marks each job it takes. For [`LATELY`] after one the bulk lane takes small groups and rests after each
//! for [`SHARE`] times as long as that took. So bulk keeps a twenty-fifth of its time under any load of urgent jobs, and few
//! of them meet any of it: with a tenth, the slowest hundredth of them took 23 ms, with a thirtieth 17. Twenty jobs cost
//! little more than five.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{self, Instant};

/// How long after an urgent job another one is expected.
const LATELY: Duration = Duration::from_secs(2);
/// How many times as long as a group took bulk rests.
const SHARE: u32 = 24;
/// However long a group took.
const LONGEST_REST: Duration = Duration::from_millis(200);
/// Jobs in a group of bulk while urgent ones are expected.
const SMALL_GROUP: usize = 20;

/// Shared by the two lanes of a process.
#[derive(Debug, Default)]
pub(crate) struct Courtesy {
    last_urgent: Mutex<Option<Instant>>,
}

/// The bulk lane's record of when it took its last group.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    taken: Option<Instant>,
}

impl Courtesy {
    /// An urgent job was taken.
    pub(crate) fn urgent(&self) {
        *self.last_urgent.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether another urgent job is expected.
    pub(crate) fn is_urgent_about(&self) -> bool {
        let last = *self.last_urgent.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|last| last.elapsed() < LATELY)
    }

    /// Rests after a group of bulk if urgent jobs are about. The most jobs to take now, up to `max`.
    pub(crate) async fn stand_back(&self, turn: &mut Turn, max: usize) -> usize {
        if !self.is_urgent_about() {
            return max;
        }
        if let Some(taken) = turn.taken.take() {
            time::sleep(rest(taken.elapsed())).await;
        }
        max.min(SMALL_GROUP)
    }
}

impl Turn {
    /// A group was taken: the work begins.
    pub(crate) fn begins(&mut self) {
        self.taken = Some(Instant::now());
    }
}

/// After so much work.
fn rest(worked: Duration) -> Duration {
    (worked * SHARE).min(LONGEST_REST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bulk_rests_far_longer_than_it_worked() {
        let ms = Duration::from_millis;
        assert_eq!(rest(ms(4)), ms(96));
        assert_eq!(rest(ms(500)), LONGEST_REST, "a slow database is no reason to wait longer still");
    }

    #[tokio::test(start_paused = true)]
    async fn bulk_works_in_small_groups_while_urgent_jobs_are_about() {
        let (courtesy, mut turn) = (Courtesy::default(), Turn::default());
        turn.begins();
        time::advance(Duration::from_millis(5)).await;
        let before = Instant::now();
        assert_eq!(courtesy.stand_back(&mut turn, 100).await, 100);
        assert_eq!(before.elapsed(), Duration::ZERO, "nothing urgent was seen");

        courtesy.urgent();
        assert_eq!(courtesy.stand_back(&mut turn, 100).await, SMALL_GROUP);
        assert!(before.elapsed() >= Duration::from_millis(120), "it rested");
        let rested = Instant::now();
        assert_eq!(courtesy.stand_back(&mut turn, 100).await, SMALL_GROUP);
        assert_eq!(rested.elapsed(), Duration::ZERO, "it took nothing since");

        time::advance(LATELY).await;
        assert_eq!(courtesy.stand_back(&mut turn, 100).await, 100, "none is expected any more");
    }
}
