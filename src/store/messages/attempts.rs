//! Which call a change is about, and whether the message still hears of it.

use super::{
    Change,
    rows::{AttemptWrite, MessageRow, Stage, WorkRow},
};
use crate::domain::message::MessageEvent;

/// How many attempt numbers are passed over for a message whose calls the database may have lost: none of the tokens
/// that went out with those is used again.
pub(super) const LOST_ATTEMPTS: i16 = 100;

/// Which call a change is about. While a message is unsure, the call in doubt is the one that was settled last, or one
/// of those that the database has lost: these have higher numbers.
pub(super) fn latest(row: &MessageRow, work: Option<&WorkRow>) -> i16 {
    match work {
        Some(work) if work.stage != Stage::Unsure => work.attempt.max(row.attempt),
        Some(_) | None => row.attempt,
    }
}

/// Whether a change can be about this message as its work stands.
pub(super) fn is_heard(change: &Change, row: &MessageRow, work: Option<&WorkRow>) -> bool {
    let stage = work.map(|work| work.stage);
    let is_recovered = work.is_some_and(|work| work.stage == Stage::Unsure && work.attempt > row.attempt);
    match change.event {
        // Returned or already unsure: nobody called for it since.
        MessageEvent::Unknown => stage.is_none_or(|stage| stage == Stage::Calling),
        // A lost call that failed for now may have been followed by another lost one: it is not called again by itself.
        MessageEvent::FailedForNow | MessageEvent::Recovered => !is_recovered,
        _ => true,
    }
}

/// The attempt that stands for all that may have been lost.
pub(super) fn passed_over(attempt: AttemptWrite) -> AttemptWrite {
    AttemptWrite { attempt: attempt.attempt.saturating_add(LOST_ATTEMPTS), outcome: MessageEvent::Unknown, ..attempt }
}
