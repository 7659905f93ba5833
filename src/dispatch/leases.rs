//! Which numbers this worker sends for: renewing, taking what is free, handing over what another should have.
//!
//! Workers share numbers by the sum of their limits, and one moves only when that clearly helps: a worker takes while
//! it has less than its share, and hands over while it would still have its share without the number.

use std::{cell::RefCell, collections::HashMap, rc::Rc, sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Shared, clock, gate::Held};
use crate::{
    domain::{ids::NumberId, pacing::Tick},
    store::{self, Session, StoreError, leases::UNLIMITED_WEIGHT},
};

/// What the keeper tells the claimer.
#[derive(Debug)]
pub(super) enum LeaseEvent {
    /// Send for this number, not before the tick.
    Taken { number: NumberId, held: Arc<Held>, not_before: Tick },
    /// The lease is gone: return what is not called.
    Lost(NumberId),
    /// Somebody else should have it: drain, then say so.
    HandOver(NumberId, oneshot::Sender<()>),
}

/// The leases held, as the keeper and the claimer share them.
pub(super) type Book = Rc<RefCell<HashMap<NumberId, Arc<Held>>>>;

/// Looks for numbers without a holder: two of these, the lease and the takeover wait end before 12 s are over.
const LOOK_EVERY: Duration = Duration::from_millis(400);

pub(super) struct Keeper {
    shared: Rc<Shared>,
    session: Session,
    book: Book,
    events: mpsc::UnboundedSender<LeaseEvent>,
    host: String,
    leaving: HashMap<NumberId, oneshot::Receiver<()>>,
}

impl Keeper {
    pub(super) fn new(shared: &Rc<Shared>, events: mpsc::UnboundedSender<LeaseEvent>) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        Self {
            shared: Rc::clone(shared),
            session: Session::new(shared.store.clone(), "leases"),
            book: Book::default(),
            events,
            host,
            leaving: HashMap::new(),
        }
    }

    /// Keeps leases until `stop`, then gives all up.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let renew_every = Duration::from_secs(self.shared.settings.lease.renew_s);
        let mut renew_at = clock::now();
        while !stop.is_cancelled() {
            let due = clock::now() >= renew_at;
            let renewed = if due { self.renew().await } else { Ok(()) };
            let kept = match renewed {
                Ok(()) => self.share().await,
                Err(error) => Err(error),
            };
            match kept {
                Ok(()) if due => renew_at = clock::now() + renew_every,
                Ok(()) => {}
                Err(error) => {
                    self.session.reset();
                    tracing::warn!(error = %store::chain(&error), "could not keep the leases; they end by themselves unless this recovers");
                }
            }
            self.drop_expired();
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
        self.leave().await;
    }

    async fn renew(&mut self) -> Result<(), StoreError> {
        let (ttl, good_for) = self.lasts();
        let asked = clock::now();
        let connection = self.session.connection().await?;
        store::leases::greet(connection, self.shared.worker, &self.host).await?;
        let renewed: HashMap<_, _> =
            store::leases::renew(connection, self.shared.worker, ttl).await?.into_iter().collect();
        // Counted from before the question was sent: the answer may have been long under way.
        let deadline = asked + good_for;
        for (number, held) in self.book.borrow().iter() {
            if renewed.get(number) == Some(&held.lease) {
                held.extend(deadline);
            } else {
                // Believed to be ours until this answer: expired in the database, or another's already.
                metrics::counter!("dispatch_leases_found_gone_total").increment(1);
                held.lose();
            }
        }
        metrics::gauge!("dispatch_leases").set(f64::from(u32::try_from(renewed.len()).unwrap_or(u32::MAX)));
        Ok(())
    }

    async fn share(&mut self) -> Result<(), StoreError> {
        self.finish_hand_overs().await?;
        let (ttl, good_for) = self.lasts();
        let wait =
            Duration::from_millis(self.shared.settings.lease.takeover_wait_ms + self.shared.settings.pacing.jitter_ms);
        let asked = clock::now();
        let connection = self.session.connection().await?;
        let shares = store::leases::shares(connection, ttl).await?;
        let share = shares.total / shares.workers.max(1);
        let mut mine: i64 =
            self.book.borrow().keys().filter(|n| !self.leaving.contains_key(n)).map(|n| self.weight(*n)).sum();
        let mut wanted = Vec::new();
        for number in shares.free {
            if mine > share || (mine == share && shares.workers > 1) {
                break;
            }
            mine += self.weight(number);
            wanted.push(number);
        }
        if wanted.is_empty() {
            self.hand_over(mine, share);
            return Ok(());
        }
        let connection = self.session.connection().await?;
        for taken in store::leases::take(connection, self.shared.worker, &wanted, ttl, wait).await? {
            let held = Arc::new(Held::new(taken.lease, asked + good_for));
            self.book.borrow_mut().insert(taken.number, Arc::clone(&held));
            let not_before = clock::now() + taken.not_before;
            tracing::info!(number.id = %taken.number, "took a number");
            self.tell(LeaseEvent::Taken { number: taken.number, held, not_before });
        }
        Ok(())
    }

    /// Starts the draining of numbers that another worker should have.
    fn hand_over(&mut self, mut mine: i64, share: i64) {
        let held: Vec<NumberId> = self.book.borrow().keys().copied().collect();
        for number in held {
            let weight = self.weight(number);
            if mine - weight < share || self.leaving.contains_key(&number) {
                continue;
            }
            mine -= weight;
            let (drained, receiver) = oneshot::channel();
            self.leaving.insert(number, receiver);
            self.tell(LeaseEvent::HandOver(number, drained));
        }
    }

    async fn finish_hand_overs(&mut self) -> Result<(), StoreError> {
        let drained: Vec<NumberId> = self
            .leaving
            .iter_mut()
            .filter_map(|(number, done)| {
                (done.try_recv() != Err(oneshot::error::TryRecvError::Empty)).then_some(*number)
            })
            .collect();
        for number in drained {
            self.give_up(number).await?;
            self.leaving.remove(&number);
            metrics::counter!("dispatch_hand_overs_total").increment(1);
        }
        Ok(())
    }

    async fn give_up(&mut self, number: NumberId) -> Result<(), StoreError> {
        let Some(held) = self.book.borrow_mut().remove(&number) else {
            return Ok(());
        };
        held.lose();
        // What was just written has left every sliding second after this.
        let rest = Duration::from_millis(1000 + self.shared.settings.pacing.jitter_ms);
        store::leases::give_up(self.session.connection().await?, number, held.lease, rest).await?;
        tracing::info!(number.id = %number, "gave a number up");
        Ok(())
    }

    fn drop_expired(&mut self) {
        let now = clock::now();
        let lost: Vec<NumberId> =
            self.book.borrow().iter().filter(|(_, held)| !held.is_good(now)).map(|(number, _)| *number).collect();
        for number in lost {
            tracing::warn!(number.id = %number, "lost a number");
            self.book.borrow_mut().remove(&number);
            self.leaving.remove(&number);
            self.tell(LeaseEvent::Lost(number));
        }
    }

    async fn leave(&mut self) {
        let held: Vec<NumberId> = self.book.borrow().keys().copied().collect();
        for number in held {
            if let Err(error) = self.give_up(number).await {
                tracing::warn!(error = %store::chain(&error), "could not give a lease up; it ends by itself");
                return;
            }
        }
        if let Ok(connection) = self.session.connection().await
            && let Err(error) = store::leases::leave(connection, self.shared.worker).await
        {
            tracing::warn!(error = %store::chain(&error), "could not say good-bye");
        }
    }

    fn tell(&self, event: LeaseEvent) {
        // The claimer ends before the keeper; what it no longer hears needs no answer.
        self.events.send(event).ok();
    }

    fn weight(&self, number: NumberId) -> i64 {
        let snapshot = self.shared.directory.current();
        snapshot.numbers.get(&number).and_then(|n| n.limit_per_s).map_or(UNLIMITED_WEIGHT, i64::from)
    }

    /// How long a lease lasts in the database, and how long this process trusts it.
    fn lasts(&self) -> (Duration, Duration) {
        let lease = &self.shared.settings.lease;
        (Duration::from_secs(lease.ttl_s), Duration::from_secs(lease.ttl_s.saturating_sub(lease.margin_s)))
    }
}
