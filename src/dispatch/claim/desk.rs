//! The numbers of this process, and what becomes of a claimed message: it goes to its number, or is settled at once.

use std::{cell::RefCell, collections::HashMap, rc::Rc, sync::Arc, time::Duration};

use uuid::Uuid;

use super::{SETTLE_ROOM, through};
use crate::{
    dispatch::{
        Shared,
        gate::{Pass, Written},
        judge::Case,
        number::Number,
        send::Prepared,
        settle,
    },
    domain::{
        failure::{FailureClass, Refusal},
        hold::Route,
        ids::{NumberId, TemplateId},
        message::MessageEvent,
        pacing::Tick,
        retry::PERSIST,
        template::SlotProblem,
    },
    fault::{self, Point},
    store::{
        self, Session, StoreError,
        messages::{Change, Under},
        work::{BatchFacts, Claimed, ClaimedMessage, Want},
    },
};

/// Shared by the claimers of a process.
pub(super) struct Desk {
    pub(super) shared: Rc<Shared>,
    numbers: RefCell<HashMap<NumberId, Rc<Number>>>,
    routes: RefCell<HashMap<(NumberId, TemplateId), Arc<Route>>>,
}

impl Desk {
    pub(super) fn new(shared: Rc<Shared>) -> Rc<Self> {
        Rc::new(Self { shared, numbers: RefCell::default(), routes: RefCell::default() })
    }

    /// The number, if it is leased by this process.
    pub(super) fn number(&self, id: NumberId) -> Option<Rc<Number>> {
        self.numbers.borrow().get(&id).cloned()
    }

    pub(super) fn numbers(&self) -> Vec<Rc<Number>> {
        self.numbers.borrow().values().cloned().collect()
    }

    /// Takes over a number; gives back the one that stood there.
    pub(super) fn add(&self, number: Rc<Number>) -> Option<Rc<Number>> {
        self.numbers.borrow_mut().insert(number.id, number)
    }

    /// Hands nothing more to the number.
    pub(super) fn remove(&self, id: NumberId) -> Option<Rc<Number>> {
        self.numbers.borrow_mut().remove(&id)
    }

    /// After a change of the registry: new limits, new routes.
    pub(super) fn follow_registry(&self) {
        self.routes.borrow_mut().clear();
        for number in self.numbers() {
            number.set_limit(&self.shared);
        }
    }

    /// How long a claim lasts: its call and the settling.
    pub(super) fn claim_lasts(&self) -> Duration {
        let provider = &self.shared.settings.provider;
        Duration::from_millis(provider.timeout_ms + provider.connect_timeout_ms) + SETTLE_ROOM
    }

    /// Claims what is wanted, at most `limit` messages. After an error nothing of it is claimed.
    pub(super) async fn claim(
        &self,
        session: &mut Session,
        wants: &[Want],
        limit: usize,
    ) -> Result<Claimed, StoreError> {
        let claim_id = Uuid::new_v4();
        fault::pass(Point::ClaimBefore)?;
        let claimed = store::work::claim(session.connection().await?, wants, limit, claim_id, self.claim_lasts()).await;
        match claimed.and_then(|claimed| Ok(fault::pass(Point::ClaimAfter).map(|()| claimed)?)) {
            Ok(claimed) => {
                metrics::counter!("dispatch_claimed_total").increment(claimed.messages.len() as u64);
                Ok(claimed)
            }
            Err(error) => {
                self.read_back(session, claim_id).await;
                Err(error)
            }
        }
    }

    /// After a lost answer: what the claim took, if it was committed, goes back uncalled.
    pub(super) async fn read_back(&self, session: &mut Session, claim_id: Uuid) {
        let mut tries = 0;
        loop {
            session.reset();
            let read = match session.connection().await {
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
                    tries += 1;
                    tracing::warn!(error = %store::chain(&error), "could not read a claim back; trying again");
                    tokio::time::sleep(PERSIST.wait_after(tries)).await;
                }
            }
        }
    }

    /// Gives claimed messages to their numbers. Asked for at `asked`; under a hold that lets a few through, `under`.
    pub(super) fn hand_over(&self, claimed: Claimed, asked: Tick, under: Option<&Under>) {
        let Claimed { messages, batches } = claimed;
        for message in messages {
            match batches.get(&message.key().batch_id) {
                Some(facts) => self.hand_one(message, facts, asked + SETTLE_ROOM, under),
                None => self.settle(settle::in_a_moment(message.key(), message.attempt()), under),
            }
        }
    }

    fn settle(&self, change: Change, under: Option<&Under>) {
        self.shared.settle.settle(Change { under: under.cloned(), ..change });
    }

    /// Gives a claimed message to its number, or settles what must not be called.
    fn hand_one(&self, message: ClaimedMessage, facts: &BatchFacts, call_by: Tick, under: Option<&Under>) {
        let (key, attempt, charged) = (message.key(), message.attempt(), message.charged());
        let settle = |change| self.settle(change, under);
        let Some(number) = self.number(message.number()) else {
            return settle(settle::in_a_moment(key, attempt));
        };
        if facts.cancelled {
            return settle(Change::new(key, attempt, MessageEvent::Cancelled));
        }
        if let Some(scope) = message.suppressed() {
            metrics::counter!("dispatch_suppressed_total").increment(1);
            return settle(Change::suppressed(key, attempt, scope));
        }
        if let Some(late) = message.late() {
            return settle(Change::expired(key, attempt, late));
        }
        let snapshot = self.shared.directory.current();
        let (Some(row), Some(template)) =
            (snapshot.numbers.get(&message.number()), snapshot.templates.get(&facts.template))
        else {
            return settle(settle::in_a_moment(key, attempt));
        };
        let mut routes = self.routes.borrow_mut();
        let route = routes.entry((row.id, template.id)).or_insert_with(|| Arc::new(snapshot.route(row, template)));
        let seen = self.shared.gates.version();
        let passes = under.map(|under| through::widened(under, &self.shared.gates, route, key.batch_id));
        if let Some(stop) = self.shared.gates.stops(route, key.batch_id, passes.as_ref()) {
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
            held: Arc::clone(&number.held),
            gates: Arc::clone(&self.shared.gates),
            seen,
            route: Arc::clone(route),
            batch: key.batch_id,
            under: passes,
            call_by,
            freeze: self.shared.freeze.clone(),
            written: Written::default(),
        };
        match Prepared::new(&self.shared, message, row, &template.template, filled, pass) {
            Ok(prepared) => {
                self.shared.hunger.claimed();
                number.push(prepared);
            }
            Err(refusal) => settle(refused(refusal)),
        }
    }
}

/// The slots do not fit the template as it is now: it was changed after the job was accepted.
fn unfillable(problems: &[SlotProblem]) -> Refusal {
    let reason = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    Refusal { code: "slots_changed".to_owned(), class: FailureClass::Config, reason, wait: None }
}
