//! What a refusal means, apart from which provider said it.
//!
//! A provider maps its codes to a [`FailureClass`] by a table that is data (`errors.toml` beside the adapter);
//! what follows from a class is decided here and in [`crate::domain::retry`].

use std::time::Duration;

use crate::domain::named;

named! {
    /// What a failure says, whoever said it.
    pub enum FailureClass {
        /// The number sends too fast. Not charged; the number slows down.
        ThrottledNumber = "throttled_number",
        /// This pair of number and recipient talks too fast. Not charged; only this message waits.
        ThrottledPair = "throttled_pair",
        /// The account's calls are exhausted. Not charged.
        ThrottledAccount = "throttled_account",
        /// The recipient has had enough marketing for a while. Not charged; waits the code's clock.
        ThrottledUser = "throttled_user",
        /// Certainly not taken; the same call may succeed later. Charged.
        Transient = "transient",
        /// A fact about the recipient.
        Recipient = "recipient",
        /// The recipient does not want this kind of message.
        OptOut = "opt_out",
        /// A fact about this one message.
        Message = "message",
        /// The caller's request is malformed.
        Config = "config",
        /// The template cannot be used now.
        Template = "template",
        /// The number cannot be used now.
        Number = "number",
        /// The account cannot be used now.
        Account = "account",
        /// The portfolio cannot be used now.
        Portfolio = "portfolio",
        /// The provider cannot be used now.
        Provider = "provider",
        /// Nobody can know whether it was taken.
        Uncertain = "uncertain",
    }
}

/// What to do about a message whose call was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Again later; the wait is the code's clock, else a backoff.
    Later {
        /// Whether the try counts towards the cap.
        charged: bool,
    },
    /// Never again.
    Fail,
    /// Uncharged under a hold of this scope.
    Park(FaultScope),
    /// Wait for evidence.
    Unknown,
}

named! {
    /// What a fault stops.
    pub enum FaultScope {
        /// One template.
        Template = "template",
        /// One business number.
        Number = "number",
        /// One account.
        Account = "account",
        /// All accounts of a portfolio.
        Portfolio = "portfolio",
        /// Everything sent through one provider.
        Provider = "provider",
    }
}

impl FailureClass {
    /// What a failure of the class is about, in one word.
    pub const fn concerns(self) -> &'static str {
        match self {
            Self::ThrottledPair | Self::ThrottledUser | Self::Recipient | Self::OptOut => "recipient",
            Self::Transient | Self::Message | Self::Uncertain => "message",
            Self::Config => "batch",
            Self::Template => "template",
            Self::ThrottledNumber | Self::Number => "number",
            Self::ThrottledAccount | Self::Account => "account",
            Self::Portfolio => "portfolio",
            Self::Provider => "provider",
        }
    }

    /// The reaction to the class.
    pub const fn reaction(self) -> Reaction {
        match self {
            Self::ThrottledNumber | Self::ThrottledPair | Self::ThrottledAccount | Self::ThrottledUser => {
                Reaction::Later { charged: false }
            }
            Self::Transient => Reaction::Later { charged: true },
            Self::Recipient | Self::OptOut | Self::Message | Self::Config => Reaction::Fail,
            Self::Template => Reaction::Park(FaultScope::Template),
            Self::Number => Reaction::Park(FaultScope::Number),
            Self::Account => Reaction::Park(FaultScope::Account),
            Self::Portfolio => Reaction::Park(FaultScope::Portfolio),
            Self::Provider => Reaction::Park(FaultScope::Provider),
            Self::Uncertain => Reaction::Unknown,
        }
    }
}

/// A refusal as the adapter understood it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The provider's code as text (`131049`, `http_502`, `timeout`).
    pub code: String,
    /// What it means.
    pub class: FailureClass,
    /// The provider's own words, without secrets or addresses, at most 500 characters.
    pub reason: String,
    /// How long the provider or the table asks to wait.
    pub wait: Option<Duration>,
}

/// What became of one request, as far as the adapter can know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The provider took it and named it.
    Accepted {
        /// The provider's id of the message.
        provider_message_id: String,
        /// The provider keeps it back to watch quality; it may still go out or fail.
        held_by_provider: bool,
    },
    /// The provider did not take it, or nobody can know (class [`FailureClass::Uncertain`]).
    Refused(Refusal),
    /// Nothing was written to the wire; the work goes back uncharged.
    NotCalled,
}
