//! What must hold at the instant a call is written, and the copy of holds and cancellations it is checked against.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::clock::{self, FreezeGuard, nanos};
use crate::{
    domain::{
        hold::{HoldScope, OpenHold, Route},
        ids::{BatchId, HoldId, NumberId, TemplateId},
        lane::Lane,
        pacing::Tick,
    },
    providers::Gate,
    store::{
        self, Session, Store, StoreError,
        messages::Under,
        registry::{self, Directory, Snapshot},
    },
};

/// A worker's life, as this process knows it: all its leases end with it.
#[derive(Debug)]
pub struct Life {
    /// The worker's row.
    pub worker: Uuid,
    /// The tick after which nothing may be written; zero once it has ended.
    deadline: AtomicU64,
}

impl Life {
    /// A life that is good until `deadline`.
    pub fn new(worker: Uuid, deadline: Tick) -> Self {
        Self { worker, deadline: AtomicU64::new(nanos(deadline)) }
    }

    /// Moves the deadline after a renewal.
    pub fn extend(&self, deadline: Tick) {
        self.deadline.store(nanos(deadline), Ordering::Relaxed);
    }

    /// Ends it at once.
    pub fn end(&self) {
        self.deadline.store(0, Ordering::Relaxed);
    }

    /// Whether it is good at `now`.
    pub fn is_good(&self, now: Tick) -> bool {
        nanos(now) < self.deadline.load(Ordering::Relaxed)
    }
}

/// The right to send for a number, as this process holds it.
#[derive(Debug)]
pub struct Held {
    /// The fence that claims are made under.
    pub lease: Uuid,
    life: Arc<Life>,
    lost: AtomicBool,
    calls: OnceLock<Vec<Tick>>,
}

impl Held {
    /// A lease of a living worker.
    pub const fn new(lease: Uuid, life: Arc<Life>) -> Self {
        Self { lease, life, lost: AtomicBool::new(false), calls: OnceLock::new() }
    }

    /// Ends it at once.
    pub fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    /// The number has made its last call; these still count for who sends for it next.
    pub fn ended(&self, calls: Vec<Tick>) {
        // The number of a lease ends once.
        self.calls.set(calls).ok();
    }

    /// The calls that count for the next holder, once the last is made; nothing where they were not counted.
    pub fn calls(&self) -> Option<&[Tick]> {
        self.calls.get().map(Vec::as_slice)
    }

    /// Whether it is good at `now`.
    pub fn is_good(&self, now: Tick) -> bool {
        !self.lost.load(Ordering::Relaxed) && self.life.is_good(now)
    }
}

/// The latest copy of what stops messages.
#[derive(Debug)]
pub struct Gates {
    refresh_every: Duration,
    copy: RwLock<Arc<Copy>>,
    read_at: AtomicU64,
    version: AtomicU64,
    nudge: Notify,
    moved: Notify,
}

#[derive(Debug, Default)]
struct Copy {
    holds: HashMap<String, Vec<OpenHold>>,
    cancelled: HashSet<BatchId>,
}

/// Why a message is not written now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The number's lease is lost, or about to end.
    LeaseLost,
    /// The process was frozen, or has not heard of the holds for too long.
    Blind,
    /// Claimed too long ago for the call to end within the claim.
    TooLate,
    /// An open hold covers it.
    Held(HoldId),
    /// Its batch was cancelled.
    Cancelled,
}

impl Gates {
    /// Gates that let nothing through until they have been read.
    pub fn new(refresh_every: Duration) -> Self {
        Self {
            refresh_every,
            copy: RwLock::default(),
            read_at: AtomicU64::new(0),
            version: AtomicU64::new(0),
            nudge: Notify::new(),
            moved: Notify::new(),
        }
    }

    /// Asks for a fresh copy now: a hold was opened here.
    pub fn nudge(&self) {
        self.nudge.notify_one();
    }

    /// Waits until the copy changed; for one listener.
    pub async fn moved(&self) {
        self.moved.notified().await;
    }

    /// Moves whenever the copy changed.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// What stops a message of `batch` on `route`, by the copy, apart from the hold it was let through `under`.
    pub fn stops(&self, route: &Route, batch: BatchId, under: Option<&Under>) -> Option<Stop> {
        let copy = self.copy();
        if copy.cancelled.contains(&batch) {
            return Some(Stop::Cancelled);
        }
        if copy.holds.is_empty() {
            return None;
        }
        let scopes = route.scopes(batch);
        let mut holds = scopes.iter().filter_map(|scope| copy.holds.get(&scope.to_string())).flatten();
        holds.find(|hold| under.is_none_or(|under| !under.passes(hold.id))).map(|hold| Stop::Held(hold.id))
    }

    /// Whether any message of this group could be sent: no hold over its number, lane, account or wider, nor over the
    /// batch that the group is. Template holds are met at the claim.
    pub fn lets_group(&self, snapshot: &Snapshot, number: NumberId, lane: Lane, group: Uuid) -> bool {
        let copy = self.copy();
        if copy.holds.is_empty() {
            return true;
        }
        let Some(number) = snapshot.numbers.get(&number) else {
            return false;
        };
        on_lane(number, lane).scopes(BatchId(group)).iter().all(|scope| !copy.holds.contains_key(&scope.to_string()))
    }

    /// The holds that may let a message through now to see whether their cause is gone.
    pub fn probes(&self) -> Vec<OpenHold> {
        let copy = self.copy();
        copy.holds.values().flatten().filter(|hold| hold.is_probe_due).cloned().collect()
    }

    /// The holds over a message that are probed: one message that is let through passes them all.
    pub fn probed(&self, route: &Route, batch: BatchId) -> Arc<[HoldId]> {
        let copy = self.copy();
        let scopes = route.scopes(batch);
        let holds = scopes.iter().filter_map(|scope| copy.holds.get(&scope.to_string())).flatten();
        holds.filter(|hold| hold.is_probed).map(|hold| hold.id).collect()
    }

    /// Whether a message let through this hold could go out on the number's lane: no hold that waits for something else
    /// covers the lane, and of those that are probed this is the widest.
    pub fn lets_probe(&self, hold: &OpenHold, number: &registry::Number, lane: Lane) -> bool {
        let copy = self.copy();
        let scopes = on_lane(number, lane).scopes(BatchId(Uuid::nil()));
        let mut over = scopes.iter().filter_map(|scope| copy.holds.get(&scope.to_string())).flatten();
        let widest = over.clone().next().is_none_or(|first| first.id == hold.id);
        widest && over.all(|other| other.is_probed)
    }

    /// Whether the copy is recent enough to send by: four missed refreshes and nothing leaves.
    pub fn is_fresh(&self, now: Tick) -> bool {
        let read_at = Duration::from_nanos(self.read_at.load(Ordering::Relaxed));
        now.saturating_sub(read_at) < self.refresh_every * 4
    }

    fn copy(&self) -> Arc<Copy> {
        Arc::clone(&self.copy.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, gates: store::holds::Gates, read_at: Tick) {
        let copy = Copy { holds: gates.holds, cancelled: gates.cancelled.into_iter().collect() };
        let current = self.copy();
        if current.holds != copy.holds || current.cancelled != copy.cancelled {
            *self.copy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(copy);
            self.version.fetch_add(1, Ordering::Release);
            self.moved.notify_one();
        }
        self.read_at.store(nanos(read_at), Ordering::Relaxed);
    }
}

/// How a number's lane goes out, whatever the template: none has id 0.
fn on_lane(number: &registry::Number, lane: Lane) -> Route {
    Route {
        provider: number.account.provider.clone(),
        portfolio: number.account.portfolio.as_ref().map(|p| format!("{}/{p}", number.account.tenant)),
        account: number.account.id,
        number: number.id,
        template: TemplateId(0),
        lane,
    }
}

/// Whether a hold of this scope stops the number's lane as a whole.
pub(super) fn stops_lane(scope: &str, number: &registry::Number, lane: Lane) -> bool {
    let scopes = on_lane(number, lane).scopes(BatchId(Uuid::nil()));
    scopes.iter().any(|s| !matches!(s, HoldScope::Template(_) | HoldScope::Batch(_)) && s.to_string() == scope)
}

/// Reads the gates every 250 ms (a setting), and the registry when its version moved.
pub(super) async fn keep_fresh(gates: Arc<Gates>, store: Store, directory: Directory, stop: CancellationToken) {
    let mut session = Session::new(store, "gates");
    loop {
        // The copy is as old as the moment before it was asked for.
        let asked = clock::now();
        match read(&mut session).await {
            Ok(read) => {
                let registry_moved = read.registry_version != directory.current().version;
                gates.replace(read, asked);
                if registry_moved && let Err(error) = directory.refresh().await {
                    tracing::warn!(%error, "could not read the registry again");
                }
            }
            Err(error) => {
                session.reset();
                tracing::warn!(error = %store::chain(&error), "could not read the open holds; nothing is sent while they are unknown");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = gates.nudge.notified() => {}
            () = tokio::time::sleep(gates.refresh_every) => {}
        }
    }
}

async fn read(session: &mut Session) -> Result<store::holds::Gates, StoreError> {
    store::holds::gates(session.connection().await?).await
}

/// One message's permission to be written, checked at the last instant.
#[derive(Debug)]
pub struct Pass {
    /// The number's lease.
    pub held: Arc<Held>,
    /// The copy of what stops messages.
    pub gates: Arc<Gates>,
    /// Which version of it let the message through at the claim.
    pub seen: u64,
    /// How it goes out.
    pub route: Arc<Route>,
    /// Its batch.
    pub batch: BatchId,
    /// The hold that let it through.
    pub under: Option<Under>,
    /// The last tick at which the call may start.
    pub call_by: Tick,
    /// Whether the process was frozen.
    pub freeze: FreezeGuard,
    /// When the call was written.
    pub written: Written,
}

/// When a call was written: told by the connection that takes it to the actor that paces.
#[derive(Debug, Default)]
pub struct Written(AtomicU64);

/// What is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrittenAt {
    /// It may be written at any time.
    NotYet,
    /// It was written then.
    At(Tick),
    /// It was not, and will not be.
    Never,
}

const NEVER: u64 = u64::MAX;

impl Written {
    /// It is written at `now`; false if that is not to happen any more.
    fn mark(&self, now: Tick) -> bool {
        self.0.compare_exchange(0, nanos(now), Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// It will not be written from here on; true if it was not.
    pub fn give_up(&self) -> bool {
        self.0.compare_exchange(0, NEVER, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// What is known now.
    pub fn at(&self) -> WrittenAt {
        match self.0.load(Ordering::Acquire) {
            0 => WrittenAt::NotYet,
            NEVER => WrittenAt::Never,
            at => WrittenAt::At(Duration::from_nanos(at)),
        }
    }
}

impl Gate for Pass {
    fn is_open(&self) -> bool {
        self.check().is_ok()
    }

    fn pass(&self) -> bool {
        let now = clock::now();
        self.check_at(now).is_ok() && self.written.mark(now)
    }
}

impl Pass {
    /// Whether the call may be written now.
    pub fn check(&self) -> Result<(), Stop> {
        self.check_at(clock::now())
    }

    fn check_at(&self, now: Tick) -> Result<(), Stop> {
        if !self.held.is_good(now) {
            return Err(Stop::LeaseLost);
        }
        if !self.freeze.awake(now) || !self.gates.is_fresh(now) {
            return Err(Stop::Blind);
        }
        if now > self.call_by {
            return Err(Stop::TooLate);
        }
        if self.gates.version() != self.seen
            && let Some(stop) = self.gates.stops(&self.route, self.batch, self.under.as_ref())
        {
            return Err(stop);
        }
        Ok(())
    }
}
