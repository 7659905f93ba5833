//! The line that sends.

use std::{rc::Rc, sync::Arc};

use tokio::sync::OwnedSemaphorePermit;

use super::{Shared, clock, gate::Pass};
use crate::{
    domain::{
        failure::{FailureClass, Outcome, Refusal},
        hold::Route,
        ids::{TenantId, Token},
        template::Filled,
    },
    fault::{self, Point},
    providers::{Gate, Provider, SendRequest},
    store::{registry::Number, work::ClaimedMessage},
};

/// A claimed message with everything its call needs.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) claimed: ClaimedMessage,
    pub(super) request: SendRequest,
    pub(super) provider: Arc<dyn Provider>,
    pub(super) pass: Arc<Pass>,
    pub(super) tenant: TenantId,
}

impl Prepared {
    /// Makes the request of a claimed message whose slots are filled.
    pub(super) fn new(
        shared: &Shared,
        claimed: ClaimedMessage,
        number: &Number,
        template: &Arc<crate::domain::template::Template>,
        filled: Filled,
        pass: Pass,
    ) -> Result<Box<Self>, Refusal> {
        let account = &number.account;
        let unusable = |code: &str, reason: &str| Refusal {
            code: code.to_owned(),
            class: FailureClass::Account,
            reason: reason.to_owned(),
            wait: None,
        };
        let Some(provider) = shared.providers.get(&account.provider) else {
            return Err(unusable("unknown_provider", "this version has no adapter for the account's provider"));
        };
        let Some(access) = &account.access else {
            return Err(unusable(
                "credentials_unreadable",
                "the account's credentials cannot be opened with this secrets.key",
            ));
        };
        let installation = shared.directory.current().installation.clone();
        let Some(installation) = installation else {
            return Err(unusable("no_installation", "the registry has not been read"));
        };
        let request = SendRequest {
            access: Arc::clone(access),
            provider_number_id: Arc::clone(&number.provider_number_id),
            template: Arc::clone(template),
            filled,
            to: claimed.recipient().clone(),
            token: Token { installation, key: claimed.key(), attempt: claimed.attempt() },
        };
        let provider = Arc::clone(provider);
        Ok(Box::new(Self { claimed, request, provider, pass: Arc::new(pass), tenant: account.tenant }))
    }

    /// How it goes out.
    pub(super) fn route(&self) -> &Route {
        &self.pass.route
    }
}

/// Calls the provider once and hands the outcome to settle. The permit is given back when the outcome is written. Says
/// whether the number was refused for its throughput.
pub(super) async fn send(shared: Rc<Shared>, prepared: Box<Prepared>, permit: OwnedSemaphorePermit) -> bool {
    let held = Arc::clone(&prepared.pass.held);
    let gate: Arc<dyn Gate> = Arc::<Pass>::clone(&prepared.pass);
    let requests = std::slice::from_ref(&prepared.request);
    let call = async {
        if fault::pass(Point::CallBefore).is_err() {
            return Outcome::NotCalled;
        }
        let answered = prepared.provider.send(requests, &gate).await.pop();
        match fault::pass(Point::CallAfter) {
            Ok(()) => answered.unwrap_or_else(|| unknown("no_answer", "the adapter gave no outcome")),
            Err(_) => unknown("answer_lost", "the answer was lost"),
        }
    };
    let outcome = tokio::select! {
        outcome = call => outcome,
        () = shared.abandon.cancelled() => unknown("shutdown", "the process ended before the call did"),
    };
    if !held.is_good(clock::now()) {
        metrics::counter!("dispatch_outcomes_after_lease_total").increment(1);
    }
    match &outcome {
        Outcome::Accepted { .. } => {
            shared.accepted.increment(1);
            shared.traffic.accepted(prepared.claimed.number());
        }
        Outcome::NotCalled => counted("not_called").increment(1),
        Outcome::Refused(refusal) => counted(refusal.class.as_str()).increment(1),
    }
    let is_throttled = matches!(&outcome, Outcome::Refused(refusal) if refusal.class == FailureClass::ThrottledNumber);
    shared.settle.settle_call(shared.judge.decide(&prepared, outcome), permit);
    is_throttled
}

fn unknown(code: &str, reason: &str) -> Outcome {
    Outcome::Refused(Refusal {
        code: code.to_owned(),
        class: FailureClass::Uncertain,
        reason: reason.to_owned(),
        wait: None,
    })
}

/// Calls by how they ended.
pub(super) fn counted(outcome: &'static str) -> metrics::Counter {
    metrics::counter!("dispatch_calls_total", "outcome" => outcome)
}
