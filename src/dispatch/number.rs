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
    gate::Held,
    send::{self, Prepared},
    settle,
};
use crate::{
    domain::{
        ids::NumberId,
        pacing::{Pace, Tick},
    },
    store::messages::Change,
};

/// Calls started before those that are open get their turn.
const BURST: usize = 8;

/// A number as the claimer sees it.
#[derive(Debug)]
pub(super) struct Number {
    pub(super) id: NumberId,
    pub(super) held: Arc<Held>,
    queue: RefCell<[VecDeque<Box<Prepared>>; 3]>,
    pace: RefCell<Option<Pace>>,
    not_before: Cell<Tick>,
    step: Cell<usize>,
    in_flight: Cell<usize>,
    /// The most open calls: two seconds of the limit.
    in_flight_most: Cell<usize>,
    closed: Cell<bool>,
    changed: Notify,
}

impl Number {
    /// An actor for a number that may send from `not_before` on.
    pub(super) fn start(shared: &Rc<Shared>, id: NumberId, held: Arc<Held>, not_before: Tick) -> Rc<Self> {
        let number = Rc::new(Self {
            id,
            held,
            queue: RefCell::default(),
            pace: RefCell::new(None),
            not_before: Cell::new(not_before),
            step: Cell::new(0),
            in_flight: Cell::new(0),
            in_flight_most: Cell::new(1),
            closed: Cell::new(false),
            changed: Notify::new(),
        });
        number.set_limit(shared);
        tokio::task::spawn_local(Rc::clone(&number).run(Rc::clone(shared)));
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
        let mut pace = self.pace.borrow_mut();
        // What an unlimited number, or another holder, sent within the last second is in no log.
        let now = clock::now();
        let Some(limit) = row.limit_per_s.and_then(|limit| usize::try_from(limit).ok()) else {
            *pace = None;
            self.not_before
                .set(self.not_before.get().max(now + Duration::from_millis(1000 + settings.pacing.jitter_ms)));
            self.step.set(settings.dispatch.step_max_unlimited);
            self.in_flight_most.set(settings.dispatch.in_flight_max);
            return;
        };
        if let Some(pace) = pace.as_mut() {
            pace.set_limit(limit);
        } else {
            let (jitter, late) = (settings.pacing.jitter_ms, settings.pacing.late_ms);
            let fresh = pace.insert(Pace::new(limit, Duration::from_millis(jitter), Duration::from_millis(late)));
            fresh.not_before(self.not_before.get());
        }
        let step_ms = usize::try_from(settings.dispatch.step_ms).unwrap_or(250);
        self.step.set((limit * step_ms / 1000).clamp(1, settings.dispatch.step_max));
        self.in_flight_most.set((limit * 2).min(settings.dispatch.in_flight_max));
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
        self.queue.borrow_mut()[prepared.claimed.lane() as usize].push_back(prepared);
        self.changed.notify_one();
    }

    /// Starts nothing more and returns what was not called. [`Number::drained`] says when the open calls have ended.
    pub(super) fn close(&self, shared: &Shared) {
        self.closed.set(true);
        let queue = std::mem::take(&mut *self.queue.borrow_mut());
        for prepared in queue.into_iter().flatten() {
            let (key, attempt) = (prepared.claimed.key(), prepared.claimed.attempt());
            let back = settle::not_called(key, attempt, prepared.pass.check().err());
            shared.settle.settle(Change { under: prepared.pass.under.clone(), ..back });
        }
        self.changed.notify_one();
    }

    /// Waits until no call is open; only after [`Number::close`].
    pub(super) async fn drained(&self) {
        while self.in_flight.get() > 0 {
            self.changed.notified().await;
        }
    }

    async fn run(self: Rc<Self>, shared: Rc<Shared>) {
        let mut started = 0_usize;
        while !self.closed.get() {
            // The permit comes first: a place in the pace is taken only for a call that starts at once.
            let Ok(permit) = Arc::clone(&shared.in_flight).acquire_owned().await else { return };
            match self.next() {
                Next::Send(prepared) => {
                    self.call(&shared, prepared, permit);
                    started += 1;
                    // Calls that were answered meanwhile leave their connections for the next ones, each of which would
                    // otherwise cost 37 KB.
                    if started.is_multiple_of(BURST) {
                        tokio::task::yield_now().await;
                    }
                }
                Next::At(at) => {
                    drop(permit);
                    tokio::select! {
                        () = tokio::time::sleep_until(clock::instant(at)) => {}
                        () = self.changed.notified() => {}
                    }
                }
                Next::Nothing => {
                    drop(permit);
                    self.changed.notified().await;
                }
            }
        }
    }

    /// What may start now. A message is taken from its queue together with its place in the pace.
    fn next(&self) -> Next {
        if self.in_flight.get() >= self.in_flight_most.get() {
            return Next::Nothing;
        }
        let mut queue = self.queue.borrow_mut();
        let mut pace = self.pace.borrow_mut();
        let [authentication, utility, marketing] = &mut *queue;
        let now = clock::now();
        let mut wake_at = None;
        if !authentication.is_empty() {
            match pace.as_mut().map_or(Ok(()), |pace| pace.take_urgent(now)) {
                Ok(()) => return authentication.pop_front().map_or(Next::Nothing, Next::Send),
                Err(at) => wake_at = Some(at),
            }
        }
        let bulk = if utility.is_empty() { marketing } else { utility };
        if wake_at.is_none() && !bulk.is_empty() {
            match pace.as_mut().map_or(Ok(()), |pace| pace.take_bulk(now)) {
                Ok(()) => return bulk.pop_front().map_or(Next::Nothing, Next::Send),
                Err(at) => wake_at = Some(at),
            }
        }
        wake_at.map_or(Next::Nothing, Next::At)
    }

    /// Starts a call.
    fn call(self: &Rc<Self>, shared: &Rc<Shared>, prepared: Box<Prepared>, permit: OwnedSemaphorePermit) {
        self.in_flight.set(self.in_flight.get() + 1);
        if self.room(false) > 0 || self.room(true) > 0 {
            shared.hunger.tell(self.id);
        }
        let (number, shared) = (Rc::clone(self), Rc::clone(shared));
        let calls = shared.calls.clone();
        tokio::task::spawn_local(calls.track_future(async move {
            send::send(shared, prepared, permit).await;
            let was_full = number.in_flight.get() >= number.in_flight_most.get();
            number.in_flight.set(number.in_flight.get() - 1);
            if was_full || number.closed.get() {
                number.changed.notify_one();
            }
        }));
    }
}

enum Next {
    Send(Box<Prepared>),
    At(Tick),
    Nothing,
}
