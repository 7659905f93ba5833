//! The claimer: one loop per process over all its numbers. Looks for due work, claims a step ahead of the pace, and
//! hands each message to its number's actor.

mod look;
mod through;

use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Shared, agenda::Agenda, clock, gate::Pass, judge::Case, leases::LeaseEvent, number::Number, send::Prepared, settle,
    turns::Turns,
};
use crate::{
    domain::{
        failure::{FailureClass, Refusal},
        hold::Route,
        ids::{BatchId, HoldId, NumberId, TemplateId},
        message::MessageEvent,
        pacing::Tick,
        retry::PERSIST,
    },
    fault::{self, Point},
    store::{
        self, Session, StoreError,
        messages::{Change, Under},
        work::{BatchFacts, ClaimedMessage},
    },
};

/// How long before the end of a claim its call must have started, beyond what a call may take.
const SETTLE_ROOM: Duration = Duration::from_secs(5);

struct Leased {
    actor: Rc<Number>,
    turns: Turns,
}

pub(super) struct Claimer {
    shared: Rc<Shared>,
    session: Session,
    events: mpsc::UnboundedReceiver<LeaseEvent>,
    wakes: broadcast::Receiver<Arc<[NumberId]>>,
    numbers: HashMap<NumberId, Leased>,
    agenda: Agenda,
    /// The holds are not known: a moment to try again.
    blind_until: Option<Tick>,
    routes: HashMap<(NumberId, TemplateId), Arc<Route>>,
    /// When a probe under a hold was last tried here.
    probed: HashMap<HoldId, Tick>,
    registry_version: i64,
    tries: u32,
    is_deaf: bool,
}

impl Claimer {
    pub(super) fn new(
        shared: Rc<Shared>,
        events: mpsc::UnboundedReceiver<LeaseEvent>,
        wakes: broadcast::Receiver<Arc<[NumberId]>>,
    ) -> Self {
        let session = Session::new(shared.store.clone(), "claim");
        Self {
            shared,
            session,
            events,
            wakes,
            numbers: HashMap::new(),
            agenda: Agenda::new(),
            blind_until: None,
            routes: HashMap::new(),
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
        for number in self.numbers.values() {
            number.actor.close(&self.shared);
        }
    }

    /// One look and one claim, whatever the number of numbers.
    async fn step(&mut self) -> Result<(), StoreError> {
        self.look().await?;
        let (wants, canaries) = self.wants();
        self.probe().await?;
        self.canaries(&canaries).await?;
        if wants.is_empty() {
            return Ok(());
        }
        let claim_id = Uuid::new_v4();
        let asked = clock::now();
        let lasts = self.claim_lasts();
        fault::pass(Point::ClaimBefore)?;
        let claimed = store::work::claim(self.session.connection().await?, &wants, claim_id, lasts).await;
        let claimed = match claimed.and_then(|claimed| Ok(fault::pass(Point::ClaimAfter).map(|()| claimed)?)) {
            Ok(claimed) => claimed,
            Err(error) => {
                self.read_back(claim_id).await;
                for want in &wants {
                    self.agenda.known(want.number, true);
                }
                return Err(error);
            }
        };
        metrics::counter!("dispatch_claimed_total").increment(claimed.len() as u64);
        self.note_drained(&wants, &claimed);
        let facts = self.facts(&claimed).await;
        for message in claimed {
            self.hand_over(message, &facts, asked + SETTLE_ROOM, None);
        }
        self.ask_again(&wants);
        Ok(())
    }

    /// How long a claim lasts: its call and the settling.
    fn claim_lasts(&self) -> Duration {
        let provider = &self.shared.settings.provider;
        Duration::from_millis(provider.timeout_ms + provider.connect_timeout_ms) + SETTLE_ROOM
    }

    /// What the batches of the claim say. Without it nothing can be sent, and everything goes back.
    async fn facts(&mut self, claimed: &[ClaimedMessage]) -> HashMap<BatchId, BatchFacts> {
        let batches: HashSet<BatchId> = claimed.iter().map(|m| m.key().batch_id).collect();
        if batches.is_empty() {
            return HashMap::new();
        }
        let batches: Vec<BatchId> = batches.into_iter().collect();
        let read = match self.session.connection().await {
            Ok(connection) => store::work::batch_facts(connection, &batches).await,
            Err(error) => Err(error),
        };
        read.unwrap_or_else(|error| {
            self.session.reset();
            tracing::warn!(error = %store::chain(&error), "could not read the batches of a claim; it goes back");
            HashMap::new()
        })
    }

    /// Gives a claimed message to its number, or settles what must not be called.
    fn hand_over(
        &mut self,
        message: ClaimedMessage,
        facts: &HashMap<BatchId, BatchFacts>,
        call_by: Tick,
        under: Option<&Under>,
    ) {
        let (key, attempt, charged) = (message.key(), message.attempt(), message.charged());
        let settle = |change| self.shared.settle.settle(Change { under: under.cloned(), ..change });
        let (Some(facts), Some(number)) = (facts.get(&key.batch_id), self.numbers.get(&message.number())) else {
            return settle(settle::in_a_moment(key, attempt));
        };
        if facts.cancelled || facts.expired {
            let event = if facts.cancelled { MessageEvent::Cancelled } else { MessageEvent::Expired };
            return settle(Change::new(key, attempt, event));
        }
        let snapshot = self.shared.directory.current();
        let (Some(row), Some(template)) =
            (snapshot.numbers.get(&message.number()), snapshot.templates.get(&facts.template))
        else {
            return settle(settle::in_a_moment(key, attempt));
        };
        let route = self.routes.entry((row.id, template.id)).or_insert_with(|| Arc::new(snapshot.route(row, template)));
        let seen = self.shared.gates.version();
        let under = under.map(|under| through::widened(under, &self.shared.gates, route, key.batch_id));
        if let Some(stop) = self.shared.gates.stops(route, key.batch_id, under.as_ref()) {
            return settle(settle::not_called(key, attempt, Some(stop)));
        }
        if let Err(wait) = self.shared.pairs.take(row.id, message.recipient()) {
            metrics::counter!("dispatch_pair_waits_total").increment(1);
            return settle(settle::after(key, attempt, wait));
        }
        let tenant = row.account.tenant;
        let case = Case { key, attempt, charged, route, tenant };
        let refused = |refusal| self.shared.judge.refused(case, refusal);
        let filled = match template.template.fill(&facts.defaults, message.params()) {
            Ok(filled) => filled,
            Err(problems) => return settle(refused(unfillable(&problems))),
        };
        let pass = Pass {
            held: Arc::clone(&number.actor.held),
            gates: Arc::clone(&self.shared.gates),
            seen,
            route: Arc::clone(route),
            batch: key.batch_id,
            under,
            call_by,
            freeze: self.shared.freeze.clone(),
        };
        match Prepared::new(&self.shared, message, row, &template.template, filled, pass) {
            Ok(prepared) => number.actor.push(prepared),
            Err(refusal) => settle(refused(refusal)),
        }
    }

    /// After a lost answer: what the claim took, if it was committed, goes back uncalled.
    async fn read_back(&mut self, claim_id: Uuid) {
        loop {
            self.session.reset();
            let read = match self.session.connection().await {
                Ok(connection) => store::work::claimed_by(connection, claim_id).await,
                Err(error) => Err(error),
            };
            match read {
                Ok(claimed) => {
                    metrics::counter!("dispatch_claims_read_back_total").increment(u64::from(!claimed.is_empty()));
                    for (key, attempt) in claimed {
                        self.shared.settle.settle(settle::not_called(key, attempt, None));
                    }
                    return;
                }
                Err(error) => {
                    self.tries += 1;
                    tracing::warn!(error = %store::chain(&error), "could not read a claim back; trying again");
                    tokio::time::sleep(PERSIST.wait_after(self.tries)).await;
                }
            }
        }
    }

    /// Waits for something to do: room, a wake-up, a lease, or the next due time.
    async fn wait(&mut self, stop: &CancellationToken) {
        let now = clock::now();
        let next = self.blind_until.unwrap_or_else(|| self.agenda.next(now));
        tokio::select! {
            () = stop.cancelled() => return,
            () = self.shared.hunger.told() => {}
            () = self.shared.gates.moved() => {}
            () = until(next) => {}
            woken = self.wakes.recv(), if !self.is_deaf => match woken {
                Ok(numbers) => self.woken(&numbers),
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

    fn woken(&mut self, numbers: &[NumberId]) {
        for number in numbers.iter().filter(|number| self.numbers.contains_key(number)) {
            self.agenda.look_at(*number);
        }
    }

    fn leased(&mut self, event: LeaseEvent) {
        match event {
            LeaseEvent::Taken { number, held, not_before, rate } => {
                if let Some(before) = self.numbers.remove(&number) {
                    before.actor.close(&self.shared);
                }
                let actor = Number::start(&self.shared, number, held, (not_before, rate));
                self.numbers.insert(number, Leased { actor, turns: Turns::default() });
                self.agenda.look_at(number);
            }
            LeaseEvent::Lost(number) => {
                self.agenda.forget(number);
                if let Some(lost) = self.numbers.remove(&number) {
                    lost.actor.close(&self.shared);
                }
            }
            LeaseEvent::HandOver(number, drained) => self.drain(number, drained),
        }
    }

    /// Returns what is not called; when the open calls have ended, the keeper gives the lease up.
    fn drain(&mut self, number: NumberId, drained: oneshot::Sender<()>) {
        let Some(leaving) = self.numbers.remove(&number) else {
            return;
        };
        self.agenda.forget(number);
        leaving.actor.close(&self.shared);
        tokio::task::spawn_local(async move {
            leaving.actor.drained().await;
            drained.send(()).ok();
        });
    }

    /// After a change of the registry: new limits, new routes.
    fn follow_registry(&mut self) {
        let version = self.shared.directory.current().version;
        if version != self.registry_version {
            self.registry_version = version;
            self.routes.clear();
            self.agenda.ask_all();
            for number in self.numbers.values() {
                number.actor.set_limit(&self.shared);
            }
        }
    }
}

/// A timer would round up to its next millisecond what is to be done at once.
async fn until(at: Tick) {
    if at > clock::now() {
        tokio::time::sleep_until(clock::instant(at)).await;
    }
}

/// The slots do not fit the template as it is now: it was changed after the job was accepted.
fn unfillable(problems: &[crate::domain::template::SlotProblem]) -> Refusal {
    let reason = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    Refusal { code: "slots_changed".to_owned(), class: FailureClass::Config, reason, wait: None }
}
