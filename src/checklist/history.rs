//! What became of a message, in the order of time: calls, callbacks, decisions, and what people did.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    domain::{
        ids::{BatchId, MessageKey},
        message::MessageEvent,
        named,
    },
    store::{
        acts::ActRow,
        checklist::{
            history::Kin,
            messages::{AttemptRow, DecisionRow, MessageRow},
        },
    },
};

named! {
    /// What an entry of a message's history is.
    pub enum Kind {
        /// It was taken, or sent again.
        Job = "job",
        /// A call to the provider.
        Call = "call",
        /// What the provider told later.
        Callback = "callback",
        /// A decision about a call whose outcome nobody knew.
        Decision = "decision",
        /// What a person did.
        Audit = "audit",
        /// How it ended without a call.
        End = "end",
    }
}

/// Something that happened to a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Entry {
    /// When.
    pub at: DateTime<Utc>,
    /// What kind of thing.
    pub kind: Kind,
    /// What, in one word.
    pub what: String,
    /// Of which call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<i16>,
    /// Who did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// More about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

fn entry(at: DateTime<Utc>, kind: Kind, what: &str) -> Entry {
    Entry { at, kind, what: what.to_owned(), attempt: None, by: None, detail: String::new() }
}

/// Whether a recorded outcome of a call was told later, by a callback.
fn is_callback(outcome: &str) -> bool {
    [MessageEvent::Failed, MessageEvent::FailedForNow].iter().any(|event| event.as_str() == outcome)
}

/// All that happened, in the order of time.
pub(super) fn history(
    row: &MessageRow,
    kin: &Kin,
    attempts: &[AttemptRow],
    decisions: &[DecisionRow],
    acts: &[ActRow],
) -> Vec<Entry> {
    let id = |batch| MessageKey { batch_id: BatchId(batch), seq: row.seq };
    let of = kin.resend_of.map(|batch| format!("sends {} again", id(batch))).unwrap_or_default();
    let mut entries =
        vec![Entry { by: Some(kin.producer.clone()), detail: of, ..entry(kin.created_at, Kind::Job, "taken") }];
    entries.extend(
        kin.resent_in
            .zip(kin.resent_at)
            .map(|(batch, at)| Entry { detail: format!("as {}", id(batch)), ..entry(at, Kind::Job, "resent") }),
    );
    let told = [
        (row.accepted_at, Kind::Call, "accepted"),
        (row.sent_at, Kind::Callback, "sent"),
        (row.delivered_at, Kind::Callback, "delivered"),
        (row.read_at, Kind::Callback, "read"),
    ];
    entries.extend(told.into_iter().filter_map(|(at, kind, what)| Some(entry(at?, kind, what))));
    entries.extend(attempts.iter().map(|a| {
        let kind = if is_callback(&a.outcome) { Kind::Callback } else { Kind::Call };
        let detail = format!("{} ({}) {}", a.code, a.class, a.reason);
        Entry { attempt: Some(a.attempt), detail, ..entry(a.at, kind, &a.outcome) }
    }));
    entries.extend(decisions.iter().map(|d| {
        let evidence = if d.evidence.is_empty() { String::new() } else { format!(" ({})", d.evidence) };
        let detail = format!("{}{evidence}", d.reason);
        Entry {
            attempt: Some(d.attempt),
            by: Some(d.decided_by.clone()),
            detail,
            ..entry(d.at, Kind::Decision, &d.decision)
        }
    }));
    entries.extend(acts.iter().map(|act| {
        let detail = format!("{}: {}", act.subject, act.reason);
        Entry { by: Some(act.token.clone()), detail, ..entry(act.at, Kind::Audit, &act.act) }
    }));
    // What failed in a call has said so itself.
    let is_quiet = matches!(row.state.as_str(), "expired" | "suppressed" | "cancelled");
    entries.extend(
        row.ended_at
            .filter(|_| is_quiet)
            .map(|at| Entry { detail: row.reason.clone().unwrap_or_default(), ..entry(at, Kind::End, &row.state) }),
    );
    entries.sort_by_key(|entry| entry.at);
    entries
}
