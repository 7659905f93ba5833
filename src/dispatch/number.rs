//! The actor of one leased number: takes claimed messages lane by lane and starts each call at its pace.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::{
    Shared, clock,
    gate::{Held, Pass, WrittenAt},
    in_flight::bulk_room,
    leases::Inherited,
    send::{self, Prepared},
    settle,
};
use crate::{
    domain::{
        ids::NumberId,
        pacing::{Pace, Tick},
        rate::Rate,
    },
    store::messages::Change,
};

/// Calls started before those that are open get their turn.
const BURST: usize = 8;
/// Calls in a row of a number without a limit: their outcomes come together, and those of few batches are written for much
/// less than those of many.
const RUN: usize = 32;

/// A number as the claimer sees it.
#[derive(Debug)]
pub(super) struct Number {
    pub(super) id: NumberId,
    pub(super) held: Arc<Held>,
    queue: RefCell<[VecDeque<Box<Prepared>>; 3]>,
    pace: RefCell<Option<Pace>>,
    /// Calls that have a place in the pace and are not known to be written.
    unwritten: RefCell<Vec<Arc<Pass>>>,
    /// Of a number with a limit: how much of it the provider takes at present.
    rate: Cell<Option<Rate>>,
    /// The rate as the database has it.
    rate_written: Cell<Option<u32>>,
    not_before: Cell<Tick>,
    step: Cell<usize>,
    in_flight: Cell<usize>,
    /// The most open calls: two seconds of the rate.
    in_flight_most: Cell<usize>,
    closed: Cell<bool>,
    /// Something may start that could not: of bulk, of authentication.
    changed: [Notify; 2],
    ended: Notify,
}

impl Number {
    /// An actor for a number that goes on where its last holder stopped.
    pub(super) fn start(shared: &Rc<Shared>, id: NumberId, held: Arc<Held>, from: Inherited) -> Rc<Self> {
        let number = Rc::new(Self {
            id,
            held,
            queue: RefCell::default(),
            pace: RefCell::new(None),
            unwritten: RefCell::default(),
            rate: Cell::new(None),
            rate_written: Cell::new(from.rate),
            not_before: Cell::new(from.not_before),
            step: Cell::new(0),
            in_flight: Cell::new(0),
            in_flight_most: Cell::new(1),
            closed: Cell::new(false),
            changed: Default::default(),
            ended: Notify::new(),
        });
        number.set_limit(shared);
        if let Some(pace) = number.pace.borrow_mut().as_mut() {
            pace.go_on_from(from.calls);
        } else {
            number.not_before.set(number.not_before.get().max(clock::now() + shared.settings.pacing.window()));
        }
        if from.rate.is_some() {
            number.tell_rate();
            shared.slowed.watch(&number);
        }
        for is_urgent in [true, false] {
            tokio::task::spawn_local(Rc::clone(&number).run(Rc::clone(shared), is_urgent));
        }
        number
    }

    /// Takes the limit from the registry; called again when that changes. The log of calls is kept. A number that the
    /// registry does not have yet claims nothing.
    pub(super) fn set_limit(&self, shared: &Shared) {
        let settings = &shared.settings;
        let snapshot = shared.directory.current();
        let Some(row) = snapshot.numbers.get(&self.id) else {
            return self.step.set(0);
        };
        // What an unlimited number, or another holder, sent within the last second is in no log.
        let now = clock::now();
        let Some(limit) = row.limit_per_s else {
            *self.pace.borrow_mut() = None;
            self.unwritten.borrow_mut().clear();
            self.rate.set(None);
            self.not_before.set(self.not_before.get().max(now + settings.pacing.window()));
            self.step.set(settings.dispatch.step_max_unlimited);
            self.in_flight_most.set(settings.dispatch.in_flight_max);
            return;
        };
        let mut rate = self.rate.get().unwrap_or_else(|| Rate::new(limit, self.rate_written.get(), now));
        rate.set_limit(limit);
        self.rate.set(Some(rate));
        self.follow_rate(shared);
    }

    /// Sends at the rate as it is now. The log of calls is kept.
    fn follow_rate(&self, shared: &Shared) {
        let settings = &shared.settings;
        let Some(rate) = self.rate.get().and_then(|rate| usize::try_from(rate.per_s()).ok()) else {
            return;
        };
        let mut pace = self.pace.borrow_mut();
        if let Some(pace) = pace.as_mut() {
            pace.set_limit(rate);
        } else {
            let (jitter, late) = (settings.pacing.jitter_ms, settings.pacing.late_ms);
            let fresh = pace.insert(Pace::new(rate, Duration::from_millis(jitter), Duration::from_millis(late)));
            fresh.not_before(self.not_before.get());
        }
        let step_ms = usize::try_from(settings.dispatch.step_ms).unwrap_or(250);
        self.step.set((rate * step_ms / 1000).clamp(1, settings.dispatch.step_max));
        self.in_flight_most.set((rate * 2).min(settings.dispatch.in_flight_max));
    }

    /// The provider says that the number sends too fast.
    fn throttled(self: &Rc<Self>, shared: &Shared) {
        let Some(mut rate) = self.rate.get() else {
            return;
        };
        let fell = rate.throttled(clock::now());
        self.rate.set(Some(rate));
        if fell {
            tracing::warn!(number.id = %self.id, rate = rate.per_s(), "the provider throttles the number; it goes slower");
            self.tell_rate();
            self.follow_rate(shared);
            shared.slowed.watch(self);
        }
    }

    /// Goes faster again when the provider has not throttled for long enough.
    pub(super) fn rise(&self, shared: &Shared, now: Tick) {
        let Some(mut rate) = self.rate.get() else {
            return;
        };
        if rate.rise(now) {
            self.rate.set(Some(rate));
            self.tell_rate();
            self.follow_rate(shared);
            self.tell_changed();
        }
    }

    /// The rate that the database does not have yet.
    #[expect(clippy::option_option, reason = "outside: whether to write; inside: NULL is the limit")]
    pub(super) fn unwritten(&self) -> Option<Option<u32>> {
        let rate = self.rate.get().and_then(|rate| rate.below_limit());
        (rate != self.rate_written.get()).then_some(rate)
    }

    /// The database has this rate now.
    pub(super) fn written(&self, rate: Option<u32>) {
        self.rate_written.set(rate);
    }

    /// Whether it sends slower than its limit.
    pub(super) fn is_slowed(&self) -> bool {
        self.rate.get().is_some_and(|rate| rate.below_limit().is_some())
    }

    /// Shows the rate of a number that is or was slowed; 0 once it is somebody else's.
    pub(super) fn tell_rate(&self) {
        let rate = self.rate.get().filter(|_| self.held.is_good(clock::now())).map_or(0, |rate| rate.per_s());
        metrics::gauge!("dispatch_rate_per_s", "number" => self.id.to_string()).set(f64::from(rate));
    }

    /// How many messages to claim now: one step ahead, asked for when half of it is gone. Authentication has its own room.
    pub(super) fn room(&self, urgent: bool) -> usize {
        if self.closed.get() {
            return 0;
        }
        let queue = self.queue.borrow();
        let waiting = if urgent { queue[0].len() } else { queue[1].len() + queue[2].len() };
        let step = self.step.get();
        if step > 0 && waiting * 2 <= step { step - waiting } else { 0 }
    }

    /// Takes over a claimed message.
    pub(super) fn push(&self, prepared: Box<Prepared>) {
        let lane = prepared.claimed.lane();
        self.queue.borrow_mut()[lane as usize].push_back(prepared);
        self.changed[usize::from(lane.is_urgent())].notify_one();
    }

    fn tell_changed(&self) {
        self.changed.iter().for_each(Notify::notify_one);
    }

    /// Starts nothing more and returns what was not called. [`Number::drained`] says when the open calls have ended.
    pub(super) fn close(&self, shared: &Shared) {
        self.closed.set(true);
        let queue = std::mem::take(&mut *self.queue.borrow_mut());
        shared.hunger.left(queue.iter().map(VecDeque::len).sum());
        for prepared in queue.into_iter().flatten() {
            let (key, attempt) = (prepared.claimed.key(), prepared.claimed.attempt());
            let back = settle::not_called(key, attempt, prepared.pass.check().err());
            shared.settle.settle(Change { under: prepared.pass.under.clone(), ..back });
        }
        self.tell_changed();
    }

    /// Waits until no call is open and leaves the calls to the next holder; only after [`Number::close`].
    pub(super) async fn drained(&self) {
        while self.in_flight.get() > 0 {
            self.ended.notified().await;
        }
        if let Some(pace) = self.pace.borrow_mut().as_mut() {
            self.note_written(pace);
            if let Some(calls) = pace.calls(clock::now()) {
                self.held.ended(calls);
            }
        }
    }

    /// Starts authentication, or the rest, until the number is closed.
    async fn run(self: Rc<Self>, shared: Rc<Shared>, is_urgent: bool) {
        let changed = &self.changed[usize::from(is_urgent)];
        while !self.closed.get() {
            match self.start_some(&shared, is_urgent).await {
                Wait::For(at) => tokio::select! {
                    () = tokio::time::sleep_until(clock::instant(at)) => {}
                    () = changed.notified() => {}
                },
                Wait::ForChange => changed.notified().await,
                Wait::ForTurn => {}
            }
        }
    }

    /// Starts what may start now. Bulk without a pace of its own goes number by number.
    async fn start_some(self: &Rc<Self>, shared: &Rc<Shared>, is_urgent: bool) -> Wait {
        let has_pace = self.pace.borrow().is_some();
        let _turn = if is_urgent || has_pace { None } else { shared.in_flight.turn().await };
        for started in 1..=RUN {
            // The permit comes first: a place in the pace is taken only for a call that starts at once.
            let Some(permit) = shared.in_flight.permit(is_urgent).await else { return Wait::ForChange };
            match self.next(is_urgent) {
                Ok(prepared) => self.call(shared, prepared, permit),
                Err(wait) => return wait,
            }
            // Calls that were answered meanwhile leave their connections for the next ones, each of which would
            // otherwise cost 37 KB.
            if started % BURST == 0 {
                tokio::task::yield_now().await;
            }
        }
        Wait::ForTurn
    }

    /// A message that may start now, taken from its queue together with its place in the pace.
    fn next(&self, is_urgent: bool) -> Result<Box<Prepared>, Wait> {
        let most = self.in_flight_most.get();
        if self.closed.get() || self.in_flight.get() >= if is_urgent { most } else { bulk_room(most) } {
            return Err(Wait::ForChange);
        }
        let mut queue = self.queue.borrow_mut();
        let [authentication, utility, marketing] = &mut *queue;
        // Nothing takes the place that authentication waits for.
        let waiting = match (is_urgent, utility.is_empty()) {
            (true, _) => authentication,
            (false, _) if !authentication.is_empty() => return Err(Wait::ForChange),
            (false, false) => utility,
            (false, true) => marketing,
        };
        if waiting.is_empty() {
            return Err(Wait::ForChange);
        }
        if let Some(pace) = self.pace.borrow_mut().as_mut() {
            self.note_written(pace);
            let now = clock::now();
            if is_urgent { pace.take_urgent(now) } else { pace.take_bulk(now) }.map_err(Wait::For)?;
        }
        let next = waiting.pop_front().ok_or(Wait::ForChange);
        if is_urgent && waiting.is_empty() {
            self.changed[0].notify_one();
        }
        next
    }

    /// Tells the pace when calls that have a place in it were written.
    fn note_written(&self, pace: &mut Pace) {
        self.unwritten.borrow_mut().retain(|pass| match pass.written.at() {
            WrittenAt::NotYet => true,
            WrittenAt::At(at) => {
                pace.written(at);
                false
            }
            WrittenAt::Never => {
                pace.given_up();
                false
            }
        });
    }

    /// Starts a call.
    fn call(self: &Rc<Self>, shared: &Rc<Shared>, prepared: Box<Prepared>, permit: OwnedSemaphorePermit) {
        self.in_flight.set(self.in_flight.get() + 1);
        shared.hunger.left(1);
        if self.room(false) > 0 || self.room(true) > 0 {
            shared.hunger.tell(self.id);
        }
        let pass = Arc::clone(&prepared.pass);
        if self.pace.borrow().is_some() {
            self.unwritten.borrow_mut().push(Arc::clone(&pass));
        }
        let (number, shared) = (Rc::clone(self), Rc::clone(shared));
        let calls = shared.calls.clone();
        tokio::task::spawn_local(calls.track_future(async move {
            if send::send(Rc::clone(&shared), prepared, permit).await {
                number.throttled(&shared);
            }
            let was_full = number.in_flight.get() >= bulk_room(number.in_flight_most.get());
            number.in_flight.set(number.in_flight.get() - 1);
            if pass.written.give_up() || was_full {
                number.tell_changed();
            }
            number.ended.notify_one();
        }));
    }
}

/// What has to come before another call may start.
enum Wait {
    For(Tick),
    ForChange,
    ForTurn,
}
