//! The line that sends.

use std::{rc::Rc, sync::Arc};

use tokio::sync::OwnedSemaphorePermit;

use super::{Shared, gate::Pass};
use crate::{
    domain::{
        failure::{FailureClass, Outcome, Refusal},
        hold::Route,
        ids::{TenantId, Token},
        template::Filled,
    },
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

/// Calls the provider once and hands the outcome to settle. The permit is given back when the call has ended.
pub(super) async fn send(shared: Rc<Shared>, prepared: Box<Prepared>, permit: OwnedSemaphorePermit) {
    let pass = Arc::clone(&prepared.pass);
    let gate: Gate = Arc::new(move || pass.check().is_ok());
    let requests = std::slice::from_ref(&prepared.request);
    let outcome = tokio::select! {
        mut outcomes = prepared.provider.send(requests, &gate) => outcomes.pop().unwrap_or_else(|| unknown("no_answer", "the adapter gave no outcome")),
        () = shared.abandon.cancelled() => unknown("shutdown", "the process ended before the call did"),
    };
    drop(permit);
    metrics::counter!("dispatch_calls_total", "outcome" => word(&outcome)).increment(1);
    shared.settle.settle(shared.judge.decide(&prepared, outcome));
}

fn unknown(code: &str, reason: &str) -> Outcome {
    Outcome::Refused(Refusal {
        code: code.to_owned(),
        class: FailureClass::Uncertain,
        reason: reason.to_owned(),
        wait: None,
    })
}

fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Accepted { .. } => "accepted",
        Outcome::NotCalled => "not_called",
        Outcome::Refused(refusal) => refusal.class.as_str(),
    }
}
