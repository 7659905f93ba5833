//! The one road by which a message changes: [`apply`] takes what happened to many messages, from whatever source
//! (settle, callback, sweep), and does it in one transaction.
//!
//! Rows are locked first, each kind by key; what becomes of them is computed from the state found
//! ([`crate::domain::message::MessageState::apply`]); tallies take their deltas from what changed. So everything here
//! may be run again after a lost answer, and two sources about one message cannot undo each other.

mod attempts;
mod decisions;
mod locks;
mod plan;
mod rows;
#[cfg(test)]
mod tests;
mod under;
mod writes;

use std::{collections::HashMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::{Connection as _, PgConnection};

pub use decisions::Ruling;

use crate::{
    domain::{
        event::Wanted,
        failure::{FailureClass, FaultScope},
        hold::{HoldScope, Resume},
        ids::{HoldId, MessageKey, NumberId, TenantId},
        message::{Late, MessageEvent, MessageState},
        suppression::SuppressionScope,
    },
    fault::{self, Point},
    store::{Doing as _, StoreError, commit, events, outbox, resends, suppressions, work::windows},
};

/// Something that happened to a message.
#[derive(Debug, Clone)]
pub struct Change {
    /// The message.
    pub key: MessageKey,
    /// The call it is about.
    pub attempt: i16,
    /// What happened.
    pub event: MessageEvent,
    /// When, by the provider's clock; absent is the database's now.
    pub at: Option<DateTime<Utc>>,
    /// The provider's id of the message.
    pub provider_message_id: Option<String>,
    /// What the provider said when it is bad news.
    pub failure: Option<Failure>,
    /// What the work becomes when the message is (still) to be sent.
    pub next: Next,
    /// What a failure told later stops, when it is a fault of more than its message.
    pub fault: Option<Fault>,
    /// Holds that this outcome opens beside what it does to its message: one too many of its kind.
    pub opens: Vec<NewHold>,
    /// The hold that let its call through.
    pub under: Option<Under>,
    /// The numbers this source may speak for; absent is all. A callback may only settle messages of its own app.
    pub only_numbers: Option<Arc<[NumberId]>>,
    /// The decision about an uncertain message that this is.
    pub ruling: Option<Arc<Ruling>>,
}

impl Change {
    /// A change without particulars.
    pub const fn new(key: MessageKey, attempt: i16, event: MessageEvent) -> Self {
        Self {
            key,
            attempt,
            event,
            at: None,
            provider_message_id: None,
            failure: None,
            next: Next::Ready,
            fault: None,
            opens: Vec::new(),
            under: None,
            only_numbers: None,
            ruling: None,
        }
    }

    /// It expires before it is called.
    pub fn expired(key: MessageKey, attempt: i16, late: Late) -> Self {
        Self { failure: Some(rows::expired(late)), ..Self::new(key, attempt, MessageEvent::Expired) }
    }

    /// It is not called, for its recipient's wish.
    pub fn suppressed(key: MessageKey, attempt: i16, scope: SuppressionScope) -> Self {
        Self { failure: Some(rows::suppressed(scope)), ..Self::new(key, attempt, MessageEvent::Suppressed) }
    }
}

/// A hold under which a call was let through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Under {
    /// To see whether its cause is gone: an acceptance closes it, and with it the others over the message that are probed.
    Probe(Arc<[HoldId]>),
    /// As one of the first of its batch: the outcome counts.
    Canary(HoldId),
}

impl Under {
    /// Whether it lets the call pass this hold.
    pub fn passes(&self, hold: HoldId) -> bool {
        match self {
            Self::Probe(holds) => holds.contains(&hold),
            Self::Canary(canary) => *canary == hold,
        }
    }
}

/// Bad news in the provider's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The provider's code.
    pub code: String,
    /// What it means.
    pub class: FailureClass,
    /// The provider's words.
    pub reason: String,
}

/// A fault that opens a hold although its own message is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// What it stops.
    pub scope: FaultScope,
    /// How long, when it ends by itself.
    pub lasts: Option<Duration>,
    /// Who ends it otherwise.
    pub resume: Resume,
}

/// What the work row of a message that is still to be sent becomes.
#[derive(Debug, Clone)]
pub enum Next {
    /// Ready at once, uncharged: it was not called.
    Ready,
    /// Ready after a wait. A wait past the message's end fails it with what the provider said.
    Wait {
        /// How long.
        after: Duration,
        /// Whether the try counts.
        charged: bool,
    },
    /// Parked, uncharged, under a hold that is opened if it is not open.
    Park(Box<NewHold>),
    /// Parked under a hold that is known to be open.
    ParkUnder(HoldId),
}

/// A hold to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewHold {
    /// Whose it is; absent for provider and everything.
    pub tenant: Option<TenantId>,
    /// What it covers.
    pub scope: HoldScope,
    /// Why, in one word.
    pub cause: String,
    /// Why, in a sentence.
    pub detail: String,
    /// Who ends it.
    pub resume: Resume,
    /// When it ends by itself; of one that is probed, when the first message is let through.
    pub lasts: Option<Duration>,
}

/// What became of one change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The message moved, or its work did.
    Moved {
        /// From.
        from: MessageState,
        /// To.
        to: MessageState,
    },
    /// A duplicate, late or weaker event.
    Stale,
    /// Its call is not settled yet: to be applied again.
    Wait,
    /// There is no such message, or not one this source may speak for.
    Unmatched,
}

/// How times and policies outside the rows bear on a group of changes.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// How long evidence about an uncertain call may take.
    pub grace: Duration,
    /// What is told of messages.
    pub events: Wanted,
}

/// What a group did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// For each change, in the order given.
    pub applied: Vec<Option<Applied>>,
    /// Numbers that have work again which may be due now.
    pub woken: Vec<NumberId>,
    /// Holds that were opened.
    pub holds_opened: Vec<NewHold>,
    /// Holds that ended with this group.
    pub holds_closed: usize,
    /// Numbers of batches whose first messages had an outcome.
    pub canaries: Vec<NumberId>,
}

/// Applies `changes` in one transaction; several about one message are applied in order.
///
/// A deadlock or serialisation failure is run again here; after a lost connection the caller runs the same group again.
pub async fn apply(connection: &mut PgConnection, changes: &[Change], rules: Rules) -> Result<Outcome, StoreError> {
    loop {
        match try_apply(connection, changes, rules).await {
            Err(error) if error.is_deadlock() => tracing::debug!(%error, "running a group of changes again"),
            done => return done,
        }
    }
}

async fn try_apply(connection: &mut PgConnection, changes: &[Change], rules: Rules) -> Result<Outcome, StoreError> {
    let mut tx = connection.begin().await.doing("begin a group of changes")?;
    let mut keys: Vec<MessageKey> = changes.iter().map(|c| c.key).collect();
    keys.sort_unstable();
    keys.dedup();
    let work = locks::lock_work(&mut tx, &keys).await?;
    let messages = locks::lock_messages(&mut tx, &keys).await?;
    let batches =
        if changes.iter().any(rows::needs_batch) { locks::read_batches(&mut tx, &keys).await? } else { HashMap::new() };
    let mut plan = plan::Plan::new(work, messages, batches, rules);
    let applied: Vec<_> = changes.iter().map(|change| Some(plan.take(change))).collect();
    let (holds, holds_opened) = locks::open_holds(&mut tx, plan.wanted_holds(), &plan.seen_holds()).await?;
    let under::Ended { closed, canaries } = under::write(&mut tx, plan.under()).await?;
    let plan = plan.finish(&holds);
    writes::write_messages(&mut tx, &plan.messages).await?;
    writes::write_attempts(&mut tx, &plan.attempts).await?;
    decisions::write(&mut tx, &plan.decisions).await?;
    writes::write_failures(&mut tx, &plan.failed, &plan.lifted).await?;
    resends::note_vain(&mut tx, &plan.lifted).await?;
    writes::delete_work(&mut tx, &plan.done).await?;
    writes::update_work(&mut tx, &plan.again).await?;
    writes::insert_work(&mut tx, &plan.revived).await?;
    windows::restore(&mut tx, &plan.with_hours).await?;
    let ended = writes::add_tallies(&mut tx, &plan.tallies).await?;
    suppressions::of_messages(&mut tx, &plan.opt_outs).await?;
    let mut told = events::of_messages(&mut tx, &plan.told).await?;
    // A batch's end comes after the ends of its messages.
    told.extend(events::of_batches(&mut tx, &ended).await?);
    outbox::insert(&mut tx, &told).await?;
    fault::pass(Point::ChangesBefore)?;
    commit(tx, "commit a group of changes").await?;
    fault::pass(Point::ChangesAfter)?;
    Ok(Outcome { applied, woken: plan.woken, holds_opened, holds_closed: closed, canaries })
}
