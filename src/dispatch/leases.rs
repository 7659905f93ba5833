//! Which numbers this worker sends for: renewing, taking what is free, handing over what another should have.
//!
//! Workers share numbers by the sum of their limits, and one moves only when that clearly helps: a worker takes while
//! it has less than its share, and hands over while it would still have its share without the number. All leases last as
//! long as the worker's own row; a worker whose row expired loses them all and enters again under a new name.

mod load;

use std::{cell::Cell, collections::HashMap, rc::Rc, sync::Arc, time::Duration};

use tokio::sync::{Notify, broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::load::{Load, weight};
use super::{
    Shared, clock,
    gate::{Held, Life},
};
use crate::{
    domain::{ids::NumberId, pacing::Tick, wake::Wake},
    store::{self, Session, StoreError, leases::GivenUp, registry::Snapshot},
};

/// What the keeper tells the claimer.
#[derive(Debug)]
pub(super) enum LeaseEvent {
    /// Send for this number.
    Taken { number: NumberId, held: Arc<Held>, from: Inherited },
    /// The lease is gone: return what is not called.
    Lost(NumberId),
    /// Somebody else should have it: drain, then drop this.
    HandOver(NumberId, Drained),
}

/// What the last holder of a number left.
#[derive(Debug)]
pub(super) struct Inherited {
    /// Nothing starts before.
    pub(super) not_before: Tick,
    /// What it sent at, where the provider throttled it.
    pub(super) rate: Option<u32>,
    /// Its calls that still count.
    pub(super) calls: Vec<Tick>,
}

/// Wakes the keeper when it is dropped: the number makes no calls any more.
#[derive(Debug)]
pub(super) struct Drained {
    is_done: Rc<Cell<bool>>,
    keeper: Rc<Notify>,
}

impl Drop for Drained {
    fn drop(&mut self) {
        self.is_done.set(true);
        self.keeper.notify_one();
    }
}

/// The leases held.
type Book = HashMap<NumberId, Arc<Held>>;

/// Looks for numbers without a holder: two of these, the lease and the takeover wait end before 12 s are over.
const LOOK_EVERY: Duration = Duration::from_millis(400);

/// More numbers than these change hands in one line of the log.
const TOLD_ONE_BY_ONE: usize = 8;

pub(super) struct Keeper {
    shared: Rc<Shared>,
    session: Session,
    life: Option<Arc<Life>>,
    book: Book,
    events: mpsc::UnboundedSender<LeaseEvent>,
    host: String,
    leaving: HashMap<NumberId, Rc<Cell<bool>>>,
    drained: Rc<Notify>,
    wakes: broadcast::Receiver<Arc<Wake>>,
    /// An answer of the database was lost: what it holds for us may not be what the book says.
    is_unsure: bool,
    load: Load,
}

impl Keeper {
    pub(super) fn new(shared: &Rc<Shared>, events: mpsc::UnboundedSender<LeaseEvent>) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        Self {
            shared: Rc::clone(shared),
            session: Session::new(shared.store.clone(), "leases"),
            life: None,
            book: Book::default(),
            events,
            host,
            leaving: HashMap::new(),
            drained: Rc::default(),
            wakes: shared.wakes.subscribe(),
            is_unsure: false,
            load: Load::default(),
        }
    }

    /// Keeps leases until `stop`, then gives all up.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let renew_every = Duration::from_secs(self.shared.settings.lease.renew_s);
        let mut renew_at = clock::now();
        while !stop.is_cancelled() {
            let due = self.life.is_none() || clock::now() >= renew_at;
            match self.keep(due).await {
                Ok(()) if due => renew_at = clock::now() + renew_every,
                Ok(()) => {}
                Err(error) => {
                    self.session.reset();
                    self.is_unsure = true;
                    tracing::warn!(error = %store::chain(&error), "could not keep the leases; they end by themselves unless this recovers");
                }
            }
            if self.life.as_ref().is_some_and(|life| !life.is_good(clock::now())) {
                self.die();
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.drained.notified() => {}
                () = freed(&mut self.wakes) => {}
            }
        }
        self.leave().await;
    }

    async fn keep(&mut self, renewal_is_due: bool) -> Result<(), StoreError> {
        let Some(life) = self.life.clone() else {
            return self.greet().await;
        };
        if renewal_is_due && !self.renew(&life).await? {
            self.die();
            return Ok(());
        }
        if self.is_unsure {
            self.compare(&life).await?;
        }
        // Before a number is given up, which ends the right to write its rate.
        self.write_rates().await?;
        self.finish_hand_overs().await?;
        self.share(&life).await
    }

    /// Enters under a new name: the numbers of an earlier life may be anybody's.
    async fn greet(&mut self) -> Result<(), StoreError> {
        let (ttl, good_for) = self.lasts();
        let worker = Uuid::new_v4();
        let asked = clock::now();
        store::leases::greet(self.session.connection().await?, worker, &self.host, ttl).await?;
        self.life = Some(Arc::new(Life::new(worker, asked + good_for)));
        Ok(())
    }

    async fn renew(&mut self, life: &Life) -> Result<bool, StoreError> {
        let (ttl, good_for) = self.lasts();
        let asked = clock::now();
        let lives = store::leases::renew(self.session.connection().await?, life.worker, ttl).await?;
        if lives {
            // Counted from before the question was sent: the answer may have been long under way.
            life.extend(asked + good_for);
        }
        metrics::gauge!("dispatch_leases").set(f64::from(u32::try_from(self.book.len()).unwrap_or(u32::MAX)));
        Ok(lives)
    }

    /// After a lost answer: what the database holds for us and we know nothing of goes back, and what we believed in
    /// and is not there is lost.
    async fn compare(&mut self, life: &Life) -> Result<(), StoreError> {
        let rest = self.shared.settings.pacing.window();
        let connection = self.session.connection().await?;
        let there: HashMap<NumberId, Uuid> =
            store::leases::held_by(connection, life.worker).await?.into_iter().collect();
        let strays: Vec<_> = there
            .iter()
            .filter(|(number, lease)| self.book.get(number).is_none_or(|held| held.lease != **lease))
            .map(|(number, lease)| GivenUp { number: *number, lease: *lease, calls: None })
            .collect();
        if !strays.is_empty() {
            store::leases::give_up(connection, &strays, rest).await?;
        }
        let lost: Vec<NumberId> =
            self.book.iter().filter(|(number, held)| there.get(number) != Some(&held.lease)).map(|(n, _)| *n).collect();
        self.lose(&lost);
        self.is_unsure = false;
        Ok(())
    }

    async fn share(&mut self, life: &Arc<Life>) -> Result<(), StoreError> {
        let snapshot = self.shared.directory.current();
        if snapshot.version == 0 {
            // The registry has not been read: nothing has a weight yet.
            return Ok(());
        }
        self.load.count(&snapshot, self.book.keys().filter(|number| !self.leaving.contains_key(number)));
        let shares = store::leases::shares(self.session.connection().await?).await?;
        let share = self.load.total / shares.workers.max(1);
        let mut mine = self.load.mine;
        let mut wanted = Vec::new();
        let mut free: Vec<NumberId> =
            shares.free.into_iter().filter(|number| snapshot.numbers.contains_key(number)).collect();
        free.sort_unstable_by_key(|number| load::place(life.worker, *number));
        for number in free {
            if mine > share || (mine == share && shares.workers > 1) {
                break;
            }
            mine += weight(&snapshot, number);
            wanted.push(number);
        }
        if wanted.is_empty() {
            self.hand_over(&snapshot, mine, share);
            return Ok(());
        }
        self.take(life, &wanted).await
    }

    async fn take(&mut self, life: &Arc<Life>, wanted: &[NumberId]) -> Result<(), StoreError> {
        let settings = &self.shared.settings;
        let wait = Duration::from_millis(settings.lease.takeover_wait_ms + settings.pacing.jitter_ms);
        let connection = self.session.connection().await?;
        let taken = store::leases::take(connection, life.worker, wanted, wait).await?;
        self.load.is_stale |= !taken.is_empty();
        tell_changed("took numbers", taken.iter().map(|taken| taken.number));
        for taken in taken {
            let held = Arc::new(Held::new(taken.lease, Arc::clone(life)));
            self.book.insert(taken.number, Arc::clone(&held));
            // The database counted from before its answer came: the calls may be older than this, never younger.
            let now = clock::now();
            let calls = taken.calls.into_iter().map(|age| now.saturating_sub(age)).collect();
            let from = Inherited { not_before: now + taken.not_before, rate: taken.rate, calls };
            self.tell(LeaseEvent::Taken { number: taken.number, held, from });
        }
        Ok(())
    }

    /// Starts the draining of numbers that another worker should have.
    fn hand_over(&mut self, snapshot: &Snapshot, mut mine: i64, share: i64) {
        if mine <= share {
            return;
        }
        let held: Vec<NumberId> = self.book.keys().copied().collect();
        for number in held {
            let weight = weight(snapshot, number);
            if mine - weight < share || self.leaving.contains_key(&number) {
                continue;
            }
            mine -= weight;
            let is_done = Rc::default();
            self.leaving.insert(number, Rc::clone(&is_done));
            self.load.is_stale = true;
            self.tell(LeaseEvent::HandOver(number, Drained { is_done, keeper: Rc::clone(&self.drained) }));
        }
    }

    async fn write_rates(&mut self) -> Result<(), StoreError> {
        let changes = self.shared.slowed.changes(&self.shared);
        if !changes.is_empty() {
            store::leases::write_rates(self.session.connection().await?, &changes).await?;
        }
        self.shared.slowed.written(&changes);
        Ok(())
    }

    async fn finish_hand_overs(&mut self) -> Result<(), StoreError> {
        let drained: Vec<NumberId> =
            self.leaving.iter().filter(|(_, is_done)| is_done.get()).map(|(number, _)| *number).collect();
        if !drained.is_empty() {
            self.give_up(&drained).await?;
            metrics::counter!("dispatch_hand_overs_total").increment(drained.len() as u64);
        }
        Ok(())
    }

    /// Gives numbers up that nothing is sent for any more.
    async fn give_up(&mut self, numbers: &[NumberId]) -> Result<(), StoreError> {
        let window = self.shared.settings.pacing.window();
        let connection = self.session.connection().await?;
        // Before the question is sent: the database will take the calls for younger than they are, never for older.
        let asked = clock::now();
        let mut leases = Vec::new();
        for number in numbers {
            let Some(held) = self.book.get(number) else { continue };
            held.lose();
            let ages =
                |calls: &[Tick]| calls.iter().map(|at| asked.saturating_sub(*at)).filter(|age| *age < window).collect();
            leases.push(GivenUp { number: *number, lease: held.lease, calls: held.calls().map(ages) });
        }
        store::leases::give_up(connection, &leases, window).await?;
        for number in numbers {
            self.book.remove(number);
            self.leaving.remove(number);
        }
        self.load.is_stale = true;
        self.shared.wakes.announce(Wake { free: numbers.iter().copied().collect(), ..Wake::default() });
        tell_changed("gave numbers up", numbers.iter().copied());
        Ok(())
    }

    /// This life is over: its numbers are lost, and the next one starts without any.
    fn die(&mut self) {
        let Some(life) = self.life.take() else {
            return;
        };
        life.end();
        tracing::warn!(numbers = self.book.len(), "the leases have expired");
        // Believed to be ours until now; others may have taken them already.
        metrics::counter!("dispatch_leases_found_gone_total").increment(self.book.len() as u64);
        let all: Vec<NumberId> = self.book.keys().copied().collect();
        self.lose(&all);
        self.is_unsure = false;
    }

    fn lose(&mut self, numbers: &[NumberId]) {
        for number in numbers {
            if let Some(held) = self.book.remove(number) {
                held.lose();
            }
            self.leaving.remove(number);
            tracing::debug!(number.id = %number, "lost a number");
            self.tell(LeaseEvent::Lost(*number));
        }
        self.load.is_stale |= !numbers.is_empty();
    }

    async fn leave(&mut self) {
        let Some(life) = self.life.take() else {
            return;
        };
        if let Err(error) = self.write_rates().await {
            self.session.reset();
            tracing::warn!(error = %store::chain(&error), "could not write the rates of throttled numbers");
        }
        let held: Vec<NumberId> = self.book.keys().copied().collect();
        if let Err(error) = self.give_up(&held).await {
            tracing::warn!(error = %store::chain(&error), "could not give the leases up; they end by themselves");
            return;
        }
        if let Ok(connection) = self.session.connection().await
            && let Err(error) = store::leases::leave(connection, life.worker).await
        {
            tracing::warn!(error = %store::chain(&error), "could not say good-bye");
        }
    }

    fn tell(&self, event: LeaseEvent) {
        // The claimer ends before the keeper; what it no longer hears needs no answer.
        self.events.send(event).ok();
    }

    /// How long a lease lasts in the database, and how long this process trusts it.
    fn lasts(&self) -> (Duration, Duration) {
        let lease = &self.shared.settings.lease;
        (Duration::from_secs(lease.ttl_s), Duration::from_secs(lease.ttl_s.saturating_sub(lease.margin_s)))
    }
}

/// Waits until a number is given up somewhere.
async fn freed(wakes: &mut broadcast::Receiver<Arc<Wake>>) {
    loop {
        match wakes.recv().await {
            Ok(wake) if wake.free.is_empty() => {}
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
            // The looks go on.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

fn tell_changed(what: &'static str, numbers: impl ExactSizeIterator<Item = NumberId>) {
    let count = numbers.len();
    if count > TOLD_ONE_BY_ONE {
        tracing::info!(numbers = count, "{what}");
        return;
    }
    for number in numbers {
        tracing::info!(number.id = %number, "{what}");
    }
}
