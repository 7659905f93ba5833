//! Periodic repairs, each idempotent, by the clock and when somebody nudges: lapsed claims, uncertain messages past
//! their grace, work past its end, holds that end, cancelled batches, partitions made ahead, imports left behind.
//!
//! What takes long is done beside them: [`janitor`] compares tallies with recounts and drops what is old, [`alive`] gives
//! the sign of life by which a database that went back in time is noticed, [`recover`] is for a person after that.
//! [`alarms`] looks for what somebody on duty must know, and [`notify`] tells them.

pub mod alarms;
pub mod alive;
pub mod janitor;
pub mod notify;
pub mod outbox;
pub mod recover;

mod nudge;
mod uncertain;

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

pub use nudge::Nudge;

use crate::{
    broker::Broker,
    domain::{
        failure::FailureClass,
        ids::{BatchId, NumberId},
        message::{Late, MessageEvent},
    },
    settings::Settings,
    store::{
        Session, Store, StoreError, chain, holds, imports,
        messages::{self, Change, Failure, Rules},
        partitions, resends,
        work::{open, sweep as work},
    },
};

/// Open batches that a sweep looks at for work past its end; the next sweep goes on from there.
const LOOK_AT: i32 = 500;

/// The sweeper. Any number of them may run: rows that another one has are passed over.
#[derive(Debug)]
pub struct Upkeep {
    session: Session,
    settings: Arc<Settings>,
    broker: Broker,
    nudge: Arc<Nudge>,
    looked_at: BatchId,
    look_again: tokio::time::Instant,
}

/// What one sweep did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    /// Claims whose worker gave no outcome in time; their messages are uncertain now.
    pub lapsed: usize,
    /// Messages that were ended: of cancelled batches, or sent again in vain.
    pub cancelled: usize,
    /// Rows given back from ended holds.
    pub released: usize,
    /// Messages whose life ended while they waited.
    pub expired: usize,
    /// Uncertain messages that the policy decided about.
    pub decided: usize,
}

impl Upkeep {
    /// A sweeper with a connection of its own; `nudge` makes it sweep at once.
    pub fn new(store: &Store, broker: Broker, settings: Arc<Settings>, nudge: Arc<Nudge>) -> Self {
        let looked_at = BatchId(uuid::Uuid::nil());
        let look_again = tokio::time::Instant::now();
        Self { session: Session::new(store.clone(), "upkeep"), settings, broker, nudge, looked_at, look_again }
    }

    /// Sweeps every second (a setting) until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let every = Duration::from_millis(self.settings.upkeep.sweep_ms);
        let partitions_every = Duration::from_secs(self.settings.upkeep.partitions_s);
        let mut partitions_at = tokio::time::Instant::now();
        while !stop.is_cancelled() {
            let mut swept = self.step().await;
            if swept.is_ok() && tokio::time::Instant::now() >= partitions_at {
                swept = self.tidy().await.map(|()| Swept::default());
                partitions_at = tokio::time::Instant::now() + partitions_every;
            }
            let busy = match swept {
                Ok(swept) => swept != Swept::default(),
                Err(error) => {
                    self.session.reset();
                    tracing::warn!(error = %chain(&error), "could not sweep; trying again");
                    false
                }
            };
            // A sweep that found a full chunk looks again at once.
            let pause = if busy { Duration::from_millis(20) } else { every };
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.nudge.for_sweep() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// One sweep of everything, each part at most a chunk.
    pub async fn step(&mut self) -> Result<Swept, StoreError> {
        let lapsed = self.sweep_lapsed().await?;
        let cancelled = self.sweep_cancelled().await? + self.sweep_vain().await?;
        let released = self.release_holds().await?;
        let expired = self.sweep_closed().await? + self.sweep_expired().await? + self.sweep_overdue().await?;
        let woken = work::unpark_due(self.session.connection().await?, self.settings.upkeep.sweep_max).await?;
        self.wake(&woken);
        let decided = self.sweep_uncertain().await?;
        Ok(Swept { lapsed, cancelled, released, expired, decided })
    }

    /// Work whose recipients' windows have closed.
    async fn sweep_closed(&mut self) -> Result<usize, StoreError> {
        let most = self.settings.upkeep.sweep_max;
        let closed = work::closed(self.session.connection().await?, most).await?;
        let changes: Vec<Change> =
            closed.into_iter().map(|(key, attempt, late)| Change::expired(key, attempt, late)).collect();
        self.apply(&changes).await
    }

    /// Parked work whose life has ended.
    async fn sweep_expired(&mut self) -> Result<usize, StoreError> {
        let most = self.settings.upkeep.sweep_max;
        let expired = work::parked_expired(self.session.connection().await?, most).await?;
        let changes: Vec<Change> =
            expired.iter().map(|row| Change::expired(row.key, row.attempt, Late::Life)).collect();
        self.apply(&changes).await
    }

    /// Ready work whose life has ended: nobody claims it while its number, account or more is held. Sweeps that follow
    /// each other because of something else do not look every time.
    async fn sweep_overdue(&mut self) -> Result<usize, StoreError> {
        if tokio::time::Instant::now() < self.look_again {
            return Ok(0);
        }
        let (most, connection) = (self.settings.upkeep.sweep_max, self.session.connection().await?);
        let batches = open::batches(connection, self.looked_at, true, LOOK_AT).await?;
        let overdue: Vec<BatchId> = batches.iter().filter(|b| b.is_overdue).map(|b| b.batch).collect();
        let work = if overdue.is_empty() { Vec::new() } else { open::ready(connection, &overdue, most).await? };
        let changes: Vec<Change> =
            work.into_iter().map(|(key, attempt)| Change::expired(key, attempt, Late::Life)).collect();
        if i64::try_from(changes.len()).is_ok_and(|found| found < most) {
            let is_whole = i32::try_from(batches.len()).is_ok_and(|found| found < LOOK_AT);
            let last = batches.last().filter(|_| !is_whole);
            self.looked_at = last.map_or(BatchId(uuid::Uuid::nil()), |last| last.batch);
            self.look_again = tokio::time::Instant::now() + Duration::from_millis(self.settings.upkeep.sweep_ms);
        }
        self.apply(&changes).await
    }

    async fn sweep_lapsed(&mut self) -> Result<usize, StoreError> {
        let most = self.settings.upkeep.sweep_max;
        let lapsed = work::lapsed(self.session.connection().await?, most).await?;
        let changes: Vec<Change> = lapsed
            .iter()
            .map(|lapsed| Change {
                failure: Some(Failure {
                    code: "claim_lost".to_owned(),
                    class: FailureClass::Uncertain,
                    reason: "the worker that claimed it gave no outcome in time".to_owned(),
                }),
                ..Change::new(lapsed.key, lapsed.attempt, MessageEvent::Unknown)
            })
            .collect();
        self.apply(&changes).await
    }

    async fn sweep_cancelled(&mut self) -> Result<usize, StoreError> {
        let most = self.settings.upkeep.sweep_max;
        let work = work::of_cancelled(self.session.connection().await?, most).await?;
        let changes: Vec<Change> =
            work.into_iter().map(|(key, attempt)| Change::new(key, attempt, MessageEvent::Cancelled)).collect();
        self.apply(&changes).await
    }

    /// Messages that were sent again and are not called yet, whose first ones arrived after all.
    async fn sweep_vain(&mut self) -> Result<usize, StoreError> {
        let most = self.settings.upkeep.sweep_max;
        let found = resends::in_vain(self.session.connection().await?, most).await?;
        let changes: Vec<Change> =
            found.into_iter().map(|(key, attempt)| Change::new(key, attempt, MessageEvent::Cancelled)).collect();
        self.apply(&changes).await
    }

    async fn apply(&mut self, changes: &[Change]) -> Result<usize, StoreError> {
        if !changes.is_empty() {
            let rules = self.rules();
            messages::apply(self.session.connection().await?, changes, rules).await?;
        }
        Ok(changes.len())
    }

    fn rules(&self) -> Rules {
        Rules { grace: Duration::from_secs(self.settings.uncertain.grace_s), events: self.settings.events.wanted() }
    }

    /// Ends holds by the clock, and gives back what was parked under closed ones, a chunk each.
    async fn release_holds(&mut self) -> Result<usize, StoreError> {
        let most = self.settings.upkeep.sweep_max;
        let connection = self.session.connection().await?;
        holds::close_ended(connection).await?;
        holds::stay_undecided(connection).await?;
        let mut released = 0;
        let mut woken = Vec::new();
        for hold in holds::to_release(connection).await? {
            let (count, numbers) = work::unpark_hold(connection, hold, most).await?;
            if count == 0 {
                holds::released(connection, hold).await?;
            }
            released += count;
            woken.extend(numbers);
        }
        self.wake(&woken);
        Ok(released)
    }

    /// What is done once in a long while.
    async fn tidy(&mut self) -> Result<(), StoreError> {
        let connection = self.session.connection().await?;
        let made = partitions::ensure(connection).await?;
        if made > 0 {
            tracing::info!(made, "made partitions for the months ahead");
        }
        holds::close_pointless(connection).await?;
        let abandoned = imports::fail_abandoned(connection).await?;
        if abandoned > 0 {
            tracing::warn!(abandoned, "imports whose process ended early are failed");
        }
        Ok(())
    }

    fn wake(&self, numbers: &[NumberId]) {
        self.broker.wakes().announce(numbers.iter().copied().collect());
    }
}
