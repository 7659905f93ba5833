//! Rows as they were found, and as they are to be written.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{Change, Failure, Fault, NewHold, Next, decisions::DecisionWrite};
use crate::{
    domain::{
        event::Asks,
        failure::FailureClass,
        hold::{HoldScope, Route},
        ids::{BatchId, HoldId, MessageKey, NumberId, TemplateId, TenantId},
        lane::Lane,
        message::{Late, MessageEvent, MessageState},
        suppression::SuppressionScope,
    },
    store::{events::OfMessage, suppressions::OptOut},
};

/// Longer waits than this are "until something else happens".
const FOREVER_S: f64 = 3.0e9;

/// Keys as two columns.
pub(super) fn columns<'a>(keys: impl Iterator<Item = &'a MessageKey>) -> (Vec<Uuid>, Vec<i32>) {
    keys.map(|key| (key.batch_id.0, key.seq)).unzip()
}

/// A wait as `make_interval` takes it.
pub(super) fn seconds(wait: Duration) -> f64 {
    wait.as_secs_f64().min(FOREVER_S)
}

/// A stage of work, as the row says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Ready,
    Calling,
    Parked,
    Unsure,
}

/// A locked work row.
#[derive(Debug, Clone)]
pub(super) struct WorkRow {
    pub(super) stage: Stage,
    pub(super) attempt: i16,
    pub(super) charged: i16,
    pub(super) number: NumberId,
    /// Until the window of its recipient closes.
    pub(super) left: Option<Duration>,
}

/// A locked message row.
#[derive(Debug, Clone)]
pub(super) struct MessageRow {
    pub(super) state: MessageState,
    pub(super) attempt: i16,
    pub(super) dropped: i16,
    pub(super) number: NumberId,
    /// What its job wants to be told.
    pub(super) asks: Asks,
    /// Whether it has a time of acceptance, and with it a place in a group of sent messages.
    pub(super) is_grouped: bool,
}

/// Whether a change may need to know its batch: everything but a clean acceptance or a plain return.
pub(super) fn needs_batch(change: &Change) -> bool {
    match change.event {
        MessageEvent::Returned => matches!(change.next, Next::Wait { .. }),
        MessageEvent::Refused | MessageEvent::Expired | MessageEvent::Failed | MessageEvent::FailedForNow => true,
        MessageEvent::Accepted
        | MessageEvent::Unknown
        | MessageEvent::Recovered
        | MessageEvent::Suppressed
        | MessageEvent::Cancelled
        | MessageEvent::Sent
        | MessageEvent::Delivered
        | MessageEvent::Read => false,
    }
}

/// What bad news needs of a batch.
#[derive(Debug, Clone)]
pub(super) struct BatchRow {
    pub(super) tenant: TenantId,
    pub(super) route: Route,
    /// Until the messages' end; zero when it is past.
    pub(super) left: Duration,
    pub(super) group: Uuid,
    /// Whether each recipient has its own hours.
    pub(super) has_hours: bool,
}

/// Times and texts of a message to be written; absent leaves the column as it is.
#[derive(Debug, Clone, Default)]
pub(super) struct MessageWrite {
    pub(super) state: Option<MessageState>,
    pub(super) attempt: i16,
    pub(super) dropped: Option<i16>,
    pub(super) provider_message_id: Option<String>,
    pub(super) code: Option<String>,
    pub(super) accepted: Option<Stamp>,
    pub(super) sent: Option<Stamp>,
    pub(super) delivered: Option<Stamp>,
    pub(super) read: Option<Stamp>,
    pub(super) ended: Option<Stamp>,
    /// The number whose sent messages it joins: it has no time of acceptance yet, and gets it now.
    pub(super) joins: Option<NumberId>,
}

impl MessageWrite {
    /// News that it left, arrived or was read prove that it was accepted, also where that itself was never told.
    pub(super) fn prove_acceptance(&mut self, row: Option<&MessageRow>, to: MessageState) {
        let Some(row) = row.filter(|row| !row.is_grouped) else {
            return;
        };
        if self.accepted.is_none() && matches!(to, MessageState::Sent | MessageState::Delivered | MessageState::Read) {
            let news = self.sent.or(self.delivered).or(self.read);
            // Providers tell whole seconds: by the next one it was accepted for certain.
            self.accepted = news.map(|at| at.map(|at| at + TimeDelta::seconds(1)));
        }
        self.joins = self.accepted.is_some().then_some(row.number);
    }

    /// Whether it says that the message was accepted just now, and nothing beside that.
    pub(super) fn is_clean_acceptance(&self) -> bool {
        let Self {
            state,
            attempt: _,
            dropped,
            provider_message_id: _,
            code,
            accepted,
            sent,
            delivered,
            read,
            ended,
            joins: _,
        } = self;
        *state == Some(MessageState::Accepted)
            && *accepted == Some(None)
            && dropped.is_none()
            && code.is_none()
            && [sent, delivered, read, ended].into_iter().all(Option::is_none)
    }
}

/// A time: the provider's, or the database's now.
pub(super) type Stamp = Option<DateTime<Utc>>;

/// A work row that goes on.
#[derive(Debug, Clone)]
pub(super) struct WorkWrite {
    pub(super) key: MessageKey,
    pub(super) stage: &'static str,
    pub(super) wait: Duration,
    pub(super) charged: i16,
    pub(super) hold: Option<HoldId>,
    /// Attempt numbers that are passed over.
    pub(super) skip: i16,
}

/// A work row that comes back after its message had been settled.
#[derive(Debug, Clone)]
pub(super) struct WorkInsert {
    pub(super) write: WorkWrite,
    pub(super) number: NumberId,
    pub(super) attempt: i16,
    pub(super) lane: Lane,
    pub(super) group: Uuid,
}

/// A call that did not end accepted.
#[derive(Debug, Clone)]
pub(super) struct AttemptWrite {
    pub(super) key: MessageKey,
    pub(super) attempt: i16,
    pub(super) outcome: MessageEvent,
    pub(super) failure: Failure,
    pub(super) at: Stamp,
}

/// A message that failed or expired.
#[derive(Debug, Clone)]
pub(super) struct FailedWrite {
    pub(super) key: MessageKey,
    pub(super) attempt: i16,
    pub(super) number: NumberId,
    pub(super) template: TemplateId,
    pub(super) failure: Failure,
    pub(super) at: Stamp,
}

/// Messages moved from one state to another, by batch: the tally deltas.
pub(super) type Tallies = BTreeMap<BatchId, [i32; 10]>;

/// The holds of a group, locked until its commit so that a closing one cannot miss what is parked under it.
#[derive(Debug, Default)]
pub(super) struct Holds {
    /// Those that were asked for, by scope and cause.
    pub(super) asked: HashMap<(HoldScope, String), HoldId>,
    /// Those that were seen open and still are.
    pub(super) open: HashSet<HoldId>,
}

/// Everything to be written.
#[derive(Debug, Default)]
pub(super) struct Writes {
    pub(super) messages: Vec<(MessageKey, MessageWrite)>,
    pub(super) attempts: Vec<AttemptWrite>,
    pub(super) decisions: Vec<DecisionWrite>,
    pub(super) failed: Vec<FailedWrite>,
    pub(super) lifted: Vec<MessageKey>,
    pub(super) done: Vec<MessageKey>,
    pub(super) again: Vec<WorkWrite>,
    pub(super) revived: Vec<WorkInsert>,
    /// Those of them whose recipients have hours.
    pub(super) with_hours: Vec<MessageKey>,
    pub(super) tallies: Tallies,
    pub(super) opt_outs: Vec<OptOut>,
    pub(super) told: Vec<OfMessage>,
    pub(super) woken: Vec<NumberId>,
}

/// The hold that a fault told by callback opens.
pub(super) fn hold_for(fault: Fault, failure: &Failure, batch: &BatchRow) -> NewHold {
    NewHold {
        tenant: Some(batch.tenant),
        scope: batch.route.fault(fault.scope),
        cause: failure.code.clone(),
        detail: failure.reason.clone(),
        resume: fault.resume,
        lasts: fault.lasts,
    }
}

/// What is said of a call about which nothing is known.
pub(super) fn unexplained() -> Failure {
    Failure {
        code: "unknown".to_owned(),
        class: FailureClass::Uncertain,
        reason: "nothing is known of the call".to_owned(),
    }
}

/// What is said of a message that came too late to be called.
pub(super) fn expired(late: Late) -> Failure {
    Failure { code: late.code().to_owned(), class: FailureClass::Message, reason: late.reason().to_owned() }
}

/// What is said of a message whose recipient does not want it.
pub(super) fn suppressed(scope: SuppressionScope) -> Failure {
    Failure { code: scope.code().to_owned(), class: FailureClass::OptOut, reason: scope.reason().to_owned() }
}
