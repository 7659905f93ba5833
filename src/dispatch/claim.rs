//! The claimer: one loop per process over all its numbers. Looks for due work, claims a step ahead of the pace, and
//! hands each message to its number's actor.

mod desk;
mod express;
mod look;
mod through;

use std::{collections::HashMap, rc::Rc, sync::Arc, time::Duration};

use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

use self::{desk::Desk, express::Express};
use super::{
    Shared,
    agenda::Agenda,
    clock,
    leases::{Drained, LeaseEvent},
    number::Number,
    turns::Turns,
};
use crate::{
    domain::{
        ids::{HoldId, NumberId},
        pacing::Tick,
        retry::PERSIST,
        wake::Wake,
    },
    store::{self, Session, StoreError},
};

/// How long before the end of a claim its call must have started, beyond what a call may take.
const SETTLE_ROOM: Duration = Duration::from_secs(5);

pub(super) struct Claimer {
    shared: Rc<Shared>,
    desk: Rc<Desk>,
    session: Session,
    events: mpsc::UnboundedReceiver<LeaseEvent>,
    wakes: broadcast::Receiver<Arc<Wake>>,
    /// Of the numbers at the desk: whose turn it is.
    turns: HashMap<NumberId, Turns>,
    agenda: Agenda,
    /// The holds are not known: a moment to try again.
    blind_until: Option<Tick>,
    /// When a probe under a hold was last tried here.
    probed: HashMap<HoldId, Tick>,
    registry_version: i64,
    tries: u32,
    is_deaf: bool,
}

/// The claimers of a process: one for all its work, and one beside it for urgent work that was announced.
pub(super) fn claimers(shared: &Rc<Shared>, events: mpsc::UnboundedReceiver<LeaseEvent>) -> (Claimer, Express) {
    let desk = Desk::new(Rc::clone(shared));
    let express = Express::new(Rc::clone(&desk), shared.wakes.subscribe());
    (Claimer::new(desk, events, shared.wakes.subscribe()), express)
}

impl Claimer {
    fn new(desk: Rc<Desk>, events: mpsc::UnboundedReceiver<LeaseEvent>, wakes: broadcast::Receiver<Arc<Wake>>) -> Self {
        let shared = Rc::clone(&desk.shared);
        let session = Session::new(shared.store.clone(), "claim");
        Self {
            shared,
            desk,
            session,
            events,
            wakes,
            turns: HashMap::new(),
            agenda: Agenda::new(),
            blind_until: None,
            probed: HashMap::new(),
            registry_version: 0,
            tries: 0,
            is_deaf: false,
        }
    }

    /// Claims until `stop`; then returns what is not called and leaves the open calls to the caller.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            self.follow_registry();
            if let Err(error) = self.step().await {
                self.session.reset();
                self.tries += 1;
                tracing::warn!(error = %store::chain(&error), "could not claim; trying again");
                tokio::time::sleep(PERSIST.wait_after(self.tries)).await;
            } else {
                self.tries = 0;
            }
            self.wait(&stop).await;
        }
        for number in self.desk.numbers() {
            self.desk.remove(number.id);
            number.close(&self.shared);
            tokio::task::spawn_local(async move { number.drained().await });
        }
    }

    /// One look and one claim, whatever the number of numbers.
    async fn step(&mut self) -> Result<(), StoreError> {
        self.look().await?;
        let (wants, limit, canaries) = self.wants();
        self.probe().await?;
        self.canaries(&canaries).await?;
        if wants.is_empty() {
            return Ok(());
        }
        let asked = clock::now();
        let claimed = match self.desk.claim(&mut self.session, &wants, limit).await {
            Ok(claimed) => claimed,
            Err(error) => {
                for want in &wants {
                    self.agenda.known(want.number, true);
                }
                return Err(error);
            }
        };
        let reached = self.note_drained(&wants, limit, &claimed.messages);
        self.desk.hand_over(claimed, asked, None);
        self.ask_again(&wants[..reached]);
        self.agenda.ask_first(wants[reached..].iter().map(|want| want.number));
        Ok(())
    }

    /// Waits for something to do: room, a wake-up, a lease, or the next due time.
    async fn wait(&mut self, stop: &CancellationToken) {
        let now = clock::now();
        let next = self.blind_until.unwrap_or_else(|| self.agenda.next(&self.shared.hunger, now));
        tokio::select! {
            () = stop.cancelled() => return,
            () = self.shared.hunger.told() => {}
            () = self.shared.gates.moved() => {}
            () = until(next) => {}
            woken = self.wakes.recv(), if !self.is_deaf => match woken {
                Ok(wake) => self.woken(&wake),
                Err(broadcast::error::RecvError::Lagged(_)) => self.agenda.poll_now(),
                // Nobody will wake us any more; the polls go on.
                Err(broadcast::error::RecvError::Closed) => self.is_deaf = true,
            },
            Some(event) = self.events.recv() => self.leased(event),
        }
        while let Ok(event) = self.events.try_recv() {
            self.leased(event);
        }
        while let Ok(woken) = self.wakes.try_recv() {
            self.woken(&woken);
        }
    }

    fn woken(&mut self, wake: &Wake) {
        for number in wake.numbers.iter().filter(|number| self.turns.contains_key(number)) {
            self.agenda.look_at(*number);
        }
    }

    fn leased(&mut self, event: LeaseEvent) {
        match event {
            LeaseEvent::Taken { number, held, from } => {
                let actor = Number::start(&self.shared, number, held, from);
                if let Some(before) = self.desk.add(actor) {
                    before.close(&self.shared);
                }
                self.turns.insert(number, Turns::default());
                self.agenda.look_at(number);
            }
            LeaseEvent::Lost(number) => {
                if let Some(lost) = self.leave(number) {
                    lost.close(&self.shared);
                }
            }
            LeaseEvent::HandOver(number, drained) => self.drain(number, drained),
        }
    }

    fn leave(&mut self, number: NumberId) -> Option<Rc<Number>> {
        self.agenda.forget(number);
        self.turns.remove(&number);
        self.desk.remove(number)
    }

    /// Returns what is not called; when the open calls have ended, the keeper gives the lease up.
    fn drain(&mut self, number: NumberId, drained: Drained) {
        let Some(leaving) = self.leave(number) else {
            return;
        };
        leaving.close(&self.shared);
        tokio::task::spawn_local(async move {
            leaving.drained().await;
            drop(drained);
        });
    }

    /// After a change of the registry: new limits, new routes.
    fn follow_registry(&mut self) {
        let version = self.shared.directory.current().version;
        if version != self.registry_version {
            self.registry_version = version;
            self.agenda.ask_all();
            self.desk.follow_registry();
        }
    }
}

/// A timer would round up to its next millisecond what is to be done at once.
async fn until(at: Tick) {
    if at > clock::now() {
        tokio::time::sleep_until(clock::instant(at)).await;
    }
}
