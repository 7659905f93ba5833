//! What an outcome means: for its message, by its class, and together with those before it.

use std::{cell::RefCell, collections::HashMap, time::Duration};

use super::{send::Prepared, settle::not_called};
use crate::{
    domain::{
        failure::{FailureClass, Outcome, Reaction, Refusal},
        health::{Doubts, MALFORMED_IN_A_ROW},
        hold::{HoldScope, Resume, Route},
        ids::{BatchId, MessageKey, NumberId, TenantId},
        message::MessageEvent,
        retry::RetryPolicy,
    },
    providers,
    settings::Settings,
    store::messages::{Change, Failure, NewHold, Next},
};

/// Decides what outcomes do. A number has one holder and a batch one number, so what is counted here is all there is of
/// them; of a provider each process counts its own calls.
#[derive(Debug)]
pub(super) struct Judge {
    policy: RetryPolicy,
    probe_base: Duration,
    providers: providers::Registry,
    numbers: RefCell<HashMap<NumberId, Doubts>>,
    by_provider: RefCell<HashMap<String, Doubts>>,
    /// Malformed requests in a row, of batches that have any.
    malformed: RefCell<HashMap<BatchId, u8>>,
}

/// A message whose call was refused, or is not made for a reason like a refusal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case<'a> {
    pub(super) key: MessageKey,
    pub(super) attempt: i16,
    pub(super) charged: i16,
    pub(super) route: &'a Route,
    pub(super) tenant: TenantId,
}

impl Judge {
    pub(super) fn new(settings: &Settings, providers: providers::Registry) -> Self {
        Self {
            policy: settings.retry.policy(),
            probe_base: Duration::from_secs(settings.hold.probe_base_s),
            providers,
            numbers: RefCell::default(),
            by_provider: RefCell::default(),
            malformed: RefCell::default(),
        }
    }

    /// What the outcome of a call does.
    pub(super) fn decide(&self, prepared: &Prepared, outcome: Outcome) -> Change {
        let claimed = &prepared.claimed;
        let case = Case {
            key: claimed.key(),
            attempt: claimed.attempt(),
            charged: claimed.charged(),
            route: prepared.route(),
            tenant: prepared.tenant,
        };
        let change = match outcome {
            Outcome::Accepted { provider_message_id, .. } => {
                self.well_formed(case.key.batch_id);
                Change {
                    provider_message_id: Some(provider_message_id),
                    opens: self.doubts(case, false),
                    ..Change::new(case.key, case.attempt, MessageEvent::Accepted)
                }
            }
            Outcome::NotCalled => not_called(case.key, case.attempt, prepared.pass.check().err()),
            Outcome::Refused(refusal) => {
                // No connection, and our own end, say nothing about the provider's answers.
                let counts = !matches!(refusal.code.as_str(), "connect_failed" | "shutdown");
                let is_uncertain = refusal.class == FailureClass::Uncertain;
                let mut change = self.refused(case, refusal);
                if counts {
                    change.opens.extend(self.doubts(case, is_uncertain));
                }
                change
            }
        };
        Change { under: prepared.pass.under.clone(), ..change }
    }

    /// What a refusal does to its message, by its class.
    pub(super) fn refused(&self, case: Case<'_>, refusal: Refusal) -> Change {
        let Case { key, attempt, charged, route, tenant } = case;
        let tries = u32::try_from(attempt).unwrap_or(1);
        let mut opens = Vec::new();
        match refusal.class {
            FailureClass::Config => opens.extend(self.malformed(case, &refusal)),
            FailureClass::Uncertain => {}
            _ => self.well_formed(key.batch_id),
        }
        let (event, next) = match refusal.class.reaction() {
            Reaction::Later { charged: true } if !self.policy.allows(charged + 1) => {
                (MessageEvent::Refused, Next::Ready)
            }
            Reaction::Later { charged } => {
                let after = refusal.wait.map_or_else(
                    || wait(refusal.class, tries, &self.policy),
                    |wait| spread(wait, refusal.class, tries),
                );
                (MessageEvent::Returned, Next::Wait { after, charged })
            }
            Reaction::Fail => (MessageEvent::Refused, Next::Ready),
            Reaction::Unknown => (MessageEvent::Unknown, Next::Ready),
            Reaction::Park(scope) => {
                let (resume, lasts) = self.ends(route, &refusal);
                let hold = NewHold {
                    tenant: Some(tenant),
                    scope: route.fault(scope),
                    cause: refusal.code.clone(),
                    detail: refusal.reason.clone(),
                    resume,
                    lasts,
                };
                (MessageEvent::Returned, Next::Park(Box::new(hold)))
            }
        };
        let failure = Failure { code: refusal.code, class: refusal.class, reason: refusal.reason };
        Change { next, failure: Some(failure), opens, ..Change::new(key, attempt, event) }
    }

    /// Who ends the hold of a fault: its code's clock, what its row in the table of codes names, else a person.
    fn ends(&self, route: &Route, refusal: &Refusal) -> (Resume, Option<Duration>) {
        if refusal.wait.is_some() {
            return (Resume::Time, refusal.wait);
        }
        let provider = self.providers.get(&route.provider);
        match provider.map_or(Resume::Person, |provider| provider.errors().resume(&refusal.code)) {
            Resume::Probe => (Resume::Probe, Some(self.probe_base)),
            other => (other, None),
        }
    }

    fn doubts(&self, case: Case<'_>, is_uncertain: bool) -> Vec<NewHold> {
        let hold = |scope, detail, tenant| NewHold {
            tenant,
            scope,
            cause: "uncertain_rate".to_owned(),
            detail,
            resume: Resume::Probe,
            lasts: Some(self.probe_base),
        };
        let mut opens = Vec::new();
        let number = case.route.number;
        if let Some(why) = self.numbers.borrow_mut().entry(number).or_default().record(is_uncertain) {
            opens.push(hold(HoldScope::Number(number), why, Some(case.tenant)));
        }
        let mut providers = self.by_provider.borrow_mut();
        if !providers.contains_key(&case.route.provider) {
            providers.insert(case.route.provider.clone(), Doubts::default());
        }
        let doubts = providers.get_mut(&case.route.provider);
        if let Some(why) = doubts.and_then(|doubts| doubts.record(is_uncertain)) {
            opens.push(hold(HoldScope::Provider(case.route.provider.clone()), why, None));
        }
        opens
    }

    fn malformed(&self, case: Case<'_>, refusal: &Refusal) -> Option<NewHold> {
        let batch = case.key.batch_id;
        let mut malformed = self.malformed.borrow_mut();
        let in_a_row = malformed.entry(batch).or_default();
        *in_a_row += 1;
        if *in_a_row < MALFORMED_IN_A_ROW {
            return None;
        }
        malformed.remove(&batch);
        Some(NewHold {
            tenant: Some(case.tenant),
            scope: HoldScope::Batch(batch),
            cause: "config".to_owned(),
            detail: format!(
                "{MALFORMED_IN_A_ROW} requests in a row were refused as malformed: {} {}",
                refusal.code, refusal.reason
            ),
            resume: Resume::Person,
            lasts: None,
        })
    }

    fn well_formed(&self, batch: BatchId) {
        let mut malformed = self.malformed.borrow_mut();
        if !malformed.is_empty() {
            malformed.remove(&batch);
        }
    }
}

/// The wait of a class without a clock of its own.
fn wait(class: FailureClass, tries: u32, policy: &RetryPolicy) -> Duration {
    match class {
        FailureClass::ThrottledPair => pair_wait(tries),
        _ => policy.wait_after(tries),
    }
}

/// The provider's clock; for a pair it grows with each try.
fn spread(wait: Duration, class: FailureClass, tries: u32) -> Duration {
    if class == FailureClass::ThrottledPair { wait.max(pair_wait(tries)) } else { wait }
}

/// Meta asks for 4^X seconds between tries of one pair of number and recipient, X from 0.
fn pair_wait(tries: u32) -> Duration {
    Duration::from_secs(4_u64.pow(tries.saturating_sub(1).min(5)))
}
