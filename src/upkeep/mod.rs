//! Periodic repairs, each idempotent: lapsed claims, holds that end, cancelled batches, partitions made
//! ahead, imports left behind.

pub mod outbox;

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    broker::Broker,
    domain::{failure::FailureClass, ids::NumberId, message::MessageEvent},
    settings::Settings,
    store::{
        Session, Store, StoreError, chain, holds, imports,
        messages::{self, Change, Failure, Rules},
        partitions,
        work::sweep as work,
    },
};

/// How long uncertain messages wait for a person after their grace.
const GIVE_UP: Duration = Duration::from_hours(7 * 24);

/// The sweeper. Any number of them may run: rows that another one has are passed over.
#[derive(Debug)]
pub struct Upkeep {
    session: Session,
    settings: Arc<Settings>,
    broker: Broker,
}

/// What one sweep did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    /// Claims whose worker gave no outcome in time; their messages are uncertain now.
    pub lapsed: usize,
    /// Messages of cancelled batches that were ended.
    pub cancelled: usize,
    /// Rows given back from ended holds.
    pub released: usize,
}

impl Upkeep {
    /// A sweeper with a connection of its own.
    pub fn new(store: &Store, broker: Broker, settings: Arc<Settings>) -> Self {
        Self { session: Session::new(store.clone(), "upkeep"), settings, broker }
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
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// One sweep of everything, each part at most a chunk.
    pub async fn step(&mut self) -> Result<Swept, StoreError> {
        let lapsed = self.sweep_lapsed().await?;
        let cancelled = self.sweep_cancelled().await?;
        let released = self.release_holds().await?;
        let most = self.settings.upkeep.sweep_max;
        let connection = self.session.connection().await?;
        let expired = work::parked_expired(connection, most).await?;
        let changes: Vec<Change> =
            expired.iter().map(|row| Change::new(row.key, row.attempt, MessageEvent::Expired)).collect();
        self.apply(&changes).await?;
        let connection = self.session.connection().await?;
        let woken = work::unpark_due(connection, most).await?;
        work::extend_unsure(connection, GIVE_UP, most).await?;
        self.wake(&woken);
        Ok(Swept { lapsed, cancelled, released })
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

    async fn apply(&mut self, changes: &[Change]) -> Result<usize, StoreError> {
        if !changes.is_empty() {
            let rules = Rules { grace: Duration::from_secs(self.settings.uncertain.grace_s) };
            messages::apply(self.session.connection().await?, changes, rules).await?;
        }
        Ok(changes.len())
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
        if !numbers.is_empty() {
            self.broker.wakes().announce(numbers);
        }
    }
}
