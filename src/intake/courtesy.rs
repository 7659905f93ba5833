//! Bulk intake stands back while an urgent job is on its way, so that an authentication message does not share the
//! database and the processor with a campaign that is being taken (promise 7).
//!
//! The urgent lane marks each job it takes; until [`WAY`] after the last mark the bulk lane begins no group, and for
//! [`LATELY`] its groups are small, so that the one under way is soon over. Bulk never stands back for longer than it
//! has worked since the last time: under any load of urgent jobs it keeps half of its time.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{self, Instant};

/// From the arrival of an urgent job to its call at the provider, in a process with nothing else to do.
const WAY: Duration = Duration::from_millis(15);
/// How long after an urgent job another one is expected.
const LATELY: Duration = Duration::from_secs(2);
/// Jobs in a group of bulk while urgent ones are expected.
const SMALL_GROUP: usize = 20;

/// Shared by the two lanes of a process.
#[derive(Debug, Default)]
pub(crate) struct Courtesy {
    last_urgent: Mutex<Option<Instant>>,
}

/// The bulk lane's account of what it waited and worked.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    worked_since: Option<Instant>,
    owed: Duration,
}

impl Courtesy {
    /// An urgent job was taken.
    pub(crate) fn urgent(&self) {
        *self.last_urgent.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Waits as long as an urgent job may be on its way and `turn` allows. The most jobs to take now, up to `max`.
    pub(crate) async fn stand_back(&self, turn: &mut Turn, max: usize) -> usize {
        loop {
            let last = *self.last_urgent.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(last) = last else { return max };
            let now = Instant::now();
            let Some(wait) = turn.wait(now, last) else {
                return if now < last + LATELY { max.min(SMALL_GROUP) } else { max };
            };
            time::sleep(wait).await;
            turn.waited(Instant::now(), wait);
        }
    }
}

impl Turn {
    /// How long to stand back; `None` when it is bulk's turn.
    fn wait(&self, now: Instant, last_urgent: Instant) -> Option<Duration> {
        let worked = self.worked_since.map_or(Duration::MAX, |since| now - since);
        let wait = (last_urgent + WAY).saturating_duration_since(now);
        (worked >= self.owed && !wait.is_zero()).then_some(wait)
    }

    fn waited(&mut self, now: Instant, wait: Duration) {
        self.worked_since = Some(now);
        self.owed = wait;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bulk_waits_for_an_urgent_job_and_keeps_half_of_its_time() {
        let (courtesy, mut turn) = (Courtesy::default(), Turn::default());
        let began = Instant::now();
        assert_eq!(courtesy.stand_back(&mut turn, 100).await, 100);
        assert_eq!(began.elapsed(), Duration::ZERO, "nothing urgent was seen");

        courtesy.urgent();
        assert_eq!(courtesy.stand_back(&mut turn, 100).await, SMALL_GROUP);
        assert!(began.elapsed() >= WAY);

        // Urgent jobs without end: bulk waits only for as long as it worked.
        let mut stood_back = Duration::ZERO;
        for _ in 0..100 {
            courtesy.urgent();
            let before = Instant::now();
            courtesy.stand_back(&mut turn, 100).await;
            stood_back += before.elapsed();
            time::advance(Duration::from_millis(5)).await;
        }
        assert!(stood_back > Duration::from_millis(300), "{stood_back:?}");
        assert!(stood_back <= Duration::from_millis(600), "{stood_back:?}");

        time::advance(LATELY).await;
        assert_eq!(courtesy.stand_back(&mut turn, 100).await, 100, "none is expected any more");
    }
}
