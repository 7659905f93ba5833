//! Why a message waits: the gates in the order in which they are asked, which one stops it now, since when, until when, and
//! what a person can do.
//!
//! What will never be called is told first: a batch that was given up, a life that has ended, a recipient who does not want
//! it. Then come time (nobody looks
//! at what is not due), the holds from the widest to the narrowest (what intake or a claim meets is parked), the worker
//! that holds the number, and its rate. Facts are read by `store`; [`explain`] knows no clock but theirs.

mod gates;
#[cfg(test)]
mod tests;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::{
    hold::Resume,
    ids::{BatchId, MessageKey},
    message::MessageState,
    named,
    suppression::SuppressionScope,
};

named! {
    /// What a message has to pass.
    pub enum Gate {
        /// It has not been sent before, and has not ended.
        State = "state",
        /// No call for it is in doubt.
        Uncertain = "uncertain",
        /// Its batch was not given up.
        Cancelled = "cancelled",
        /// Its life has not ended.
        Life = "life",
        /// Its recipient wants such messages.
        Suppressed = "suppressed",
        /// All messages of its batch have been made.
        Planning = "planning",
        /// Its time has come.
        SendAt = "send_at",
        /// The window of the recipient's hours is open.
        Window = "window",
        /// The wait that the provider asked for, or that follows a failure, is over.
        Retry = "retry",
        /// No hold is on it.
        Hold = "hold",
        /// Another person has let the batch through.
        Approval = "approval",
        /// The first messages of the batch fared well.
        Canary = "canary",
        /// A worker sends for the number.
        Worker = "worker",
        /// The number may send the next one, and it is this one's turn.
        Rate = "rate",
        /// It is being called.
        Call = "call",
    }
}

named! {
    /// What a gate says.
    pub enum Verdict {
        /// It lets the message through.
        Open = "open",
        /// It stops it now.
        Stops = "stops",
        /// It will stop it when those before are open, if nothing changes.
        WillStop = "will_stop",
    }
}

named! {
    /// Where the work for a message stands.
    pub enum Stage {
        /// To be claimed when it is due.
        Ready = "ready",
        /// Claimed, and perhaps being called.
        Calling = "calling",
        /// Under a hold.
        Parked = "parked",
        /// Called, and nobody knows what became of it.
        Unsure = "unsure",
    }
}

/// Something a person can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Step {
    /// What it is good for.
    pub what: String,
    /// What to type, when it is a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

impl Step {
    fn say(what: &str) -> Self {
        Self { what: what.to_owned(), command: None }
    }

    fn run(what: &str, command: &str) -> Self {
        Self { what: what.to_owned(), command: Some(format!("campaign-dispatch {command}")) }
    }
}

/// One gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Checked {
    /// Which.
    pub gate: Gate,
    /// What it says.
    pub verdict: Verdict,
    /// Why, in a sentence.
    pub detail: String,
    /// Since when it stops.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
    /// Until when, as far as it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
    /// The hold it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<i64>,
    /// What a person can do about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<Step>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Why {
    /// The gate that stops it now; absent when nothing does.
    pub gate: Option<Gate>,
    /// The answer in a sentence.
    pub summary: String,
    /// Since when.
    pub since: Option<DateTime<Utc>>,
    /// Until when, as far as it is known.
    pub until: Option<DateTime<Utc>>,
    /// What a person can do next.
    pub next: Vec<Step>,
    /// Every gate, in the order in which they are asked.
    pub gates: Vec<Checked>,
}

/// An open hold over a message.
#[derive(Debug, Clone)]
pub struct HoldFacts {
    /// Its row.
    pub id: i64,
    /// What it covers, as people read it.
    pub scope: String,
    /// Why, in one word.
    pub cause: String,
    /// Why, in a sentence.
    pub detail: String,
    /// Who or what ends it.
    pub resume: Resume,
    /// Since when.
    pub since: DateTime<Utc>,
    /// When it ends by itself.
    pub until: Option<DateTime<Utc>>,
    /// When the next single message is let through.
    pub probe_at: Option<DateTime<Utc>>,
    /// What the table of codes advises about its cause.
    pub advice: Option<String>,
}

/// A suppression that is in force for a message.
#[derive(Debug, Clone)]
pub struct SuppressionFacts {
    /// Its row.
    pub id: i64,
    /// What it covers.
    pub scope: SuppressionScope,
    /// Where it comes from.
    pub source: String,
    /// Since when.
    pub since: DateTime<Utc>,
}

/// The batch of a message.
#[derive(Debug, Clone)]
pub struct BatchFacts {
    /// Which.
    pub id: BatchId,
    /// The campaign it is a firing of.
    pub campaign: Option<String>,
    /// Whether all its messages have been made.
    pub is_planned: bool,
    /// When it was taken.
    pub created_at: DateTime<Utc>,
    /// Not before.
    pub send_at: DateTime<Utc>,
    /// Not after.
    pub expires_at: DateTime<Utc>,
    /// When it was given up.
    pub cancelled_at: Option<DateTime<Utc>>,
    /// Whether its recipients have hours.
    pub has_hours: bool,
}

/// What is left to do for a message.
#[derive(Debug, Clone)]
pub struct WorkFacts {
    /// Where it stands.
    pub stage: Stage,
    /// When the next step is due.
    pub wake_at: DateTime<Utc>,
    /// When the window of the recipient closes; long past when none opens.
    pub until: Option<DateTime<Utc>>,
}

/// The latest call that did not end accepted.
#[derive(Debug, Clone)]
pub struct CallFacts {
    /// When.
    pub at: DateTime<Utc>,
    /// The provider's code.
    pub code: String,
    /// The provider's words.
    pub reason: String,
}

/// The number's queue, as far as it goes before the message.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    /// Messages that are due before it.
    pub ahead: i64,
    /// Messages a second that the number sends at; absent when it has no limit.
    pub rate_per_s: Option<f64>,
    /// Whether the provider's throttling has slowed it.
    pub is_slowed: bool,
    /// When its turn comes, if all goes on as it does.
    pub at: DateTime<Utc>,
}

/// What is known about a message.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Which.
    pub message: MessageKey,
    /// The database's clock.
    pub now: DateTime<Utc>,
    /// Where it stands.
    pub state: MessageState,
    /// Since when.
    pub state_since: Option<DateTime<Utc>>,
    /// Why it failed.
    pub failure: Option<CallFacts>,
    /// What the table of codes advises about that.
    pub advice: Option<String>,
    /// Whether sending it again can make sense.
    pub may_resend: bool,
    /// The message it was sent again as.
    pub resent_as: Option<MessageKey>,
    /// Why its recipient is not messaged.
    pub suppression: Option<SuppressionFacts>,
    /// Its batch.
    pub batch: BatchFacts,
    /// What is left to do for it.
    pub work: Option<WorkFacts>,
    /// The latest call that did not end accepted.
    pub last_call: Option<CallFacts>,
    /// Open holds over it, the widest first.
    pub holds: Vec<HoldFacts>,
    /// The number it goes out from.
    pub number: String,
    /// Whether a living worker holds it.
    pub has_worker: bool,
    /// Its place in the number's queue, when it is due.
    pub turn: Option<Turn>,
}

/// Says why.
pub fn explain(facts: &Facts) -> Why {
    if let Some(why) = gates::settled(facts) {
        return why;
    }
    let mut gates = gates::all(facts);
    let mut closed = gates.iter_mut().filter(|checked| checked.verdict != Verdict::Open);
    if let Some(first) = closed.next() {
        first.verdict = Verdict::Stops;
    }
    let stops = gates.iter().find(|checked| checked.verdict == Verdict::Stops).cloned();
    match stops {
        Some(stop) => Why {
            gate: Some(stop.gate),
            summary: stop.detail,
            since: stop.since,
            until: stop.until,
            next: stop.next,
            gates,
        },
        None => Why {
            gate: None,
            summary: "nothing stops it: it is called next".to_owned(),
            since: None,
            until: None,
            next: Vec::new(),
            gates,
        },
    }
}
