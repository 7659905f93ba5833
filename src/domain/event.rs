//! What is told on the exchange of events, and which of it somebody wants.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::{
    failure::FailureClass,
    hold::Resume,
    ids::{BatchId, HoldId},
    message::MessageState,
    named,
};

named! {
    /// What an event tells. Its name is the first part of the routing key.
    pub enum EventKind {
        /// A job was taken.
        JobAccepted = "job.accepted.v1",
        /// A job was refused.
        JobRejected = "job.rejected.v1",
        /// A message will not arrive: it failed, expired, was suppressed or cancelled.
        MessageFailed = "message.failed.v1",
        /// A message that was told as failed went out after all.
        MessageLifted = "message.lifted.v1",
        /// A message reached the recipient's device.
        MessageDelivered = "message.delivered.v1",
        /// A message was opened.
        MessageRead = "message.read.v1",
        /// Nothing of a batch is left to call.
        BatchDispatched = "batch.dispatched.v1",
        /// Nothing of a batch is pending or uncertain any more.
        BatchCompleted = "batch.completed.v1",
        /// Something is not sent to until somebody or something ends that.
        HoldOpened = "hold.opened.v1",
        /// Something needs a person.
        AlarmRaised = "alarm.raised.v1",
        /// It does not any more.
        AlarmCleared = "alarm.cleared.v1",
    }
}

named! {
    /// When events of a kind are told.
    pub enum Tell {
        /// Never.
        Never = "never",
        /// Where the job names them in `notify`.
        Asked = "asked",
        /// Of every message.
        Always = "always",
    }
}

impl Tell {
    const fn is_wanted(self, is_asked: bool) -> bool {
        match self {
            Self::Never => false,
            Self::Asked => is_asked,
            Self::Always => true,
        }
    }
}

/// What a job asks to be told of its messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asks {
    /// That they reached the device.
    pub delivered: bool,
    /// That they were opened.
    pub read: bool,
}

/// Which events about messages are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Those that will not arrive, and those of them that did after all.
    pub failed: bool,
    /// Those that reached the device.
    pub delivered: Tell,
    /// Those that were opened.
    pub read: Tell,
}

impl Wanted {
    /// As the settings say it where nobody changes them.
    pub const DEFAULT: Self = Self { failed: true, delivered: Tell::Asked, read: Tell::Asked };

    /// What is told of a message that was in one state and is in another now, in the order it is told.
    ///
    /// ```
    /// use campaign_dispatch::domain::{event::*, message::MessageState};
    /// let asks = Asks { delivered: true, ..Asks::default() };
    /// let told: Vec<_> = Wanted::DEFAULT.told(asks, MessageState::Failed, MessageState::Read).collect();
    /// assert_eq!(told, [EventKind::MessageLifted, EventKind::MessageDelivered]);
    /// ```
    pub fn told(self, asks: Asks, from: MessageState, to: MessageState) -> impl Iterator<Item = EventKind> {
        let reaches = |state: MessageState| from != to && !from.is_at_least(state) && to.is_at_least(state);
        let failed = self.failed && !from.has_ended_in_vain() && to.has_ended_in_vain();
        let lifted = self.failed && from.has_ended_in_vain() && to.is_sent();
        let delivered = self.delivered.is_wanted(asks.delivered) && reaches(MessageState::Delivered);
        let read = self.read.is_wanted(asks.read) && reaches(MessageState::Read);
        [
            failed.then_some(EventKind::MessageFailed),
            lifted.then_some(EventKind::MessageLifted),
            delivered.then_some(EventKind::MessageDelivered),
            read.then_some(EventKind::MessageRead),
        ]
        .into_iter()
        .flatten()
    }
}

/// What an event says of a message. Not its address: whoever published the job knows the recipient by `ref`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MessageTold {
    /// `<batch id>.<seq>`, as `GET /v1/messages/{id}` takes it.
    pub id: String,
    /// Its batch, as the answer to the job named it.
    pub batch_id: BatchId,
    /// Its place in the batch, from 1.
    pub seq: i32,
    /// The job it belongs to.
    pub job_id: String,
    /// The name the job gave to find it by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub campaign: Option<String>,
    /// The producer's name for the recipient, as the job had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#ref: Option<String>,
    /// Of a message that was sent again: the batch of the first one, where it has the same `seq`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resend_of: Option<BatchId>,
    /// Where it stands now.
    pub state: MessageState,
    /// The number of its last call, 0 when there was none. Some numbers are passed over.
    pub attempt: i16,
    /// Why it will not arrive: the provider's code or ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What kind of failure that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<FailureClass>,
    /// The same in words, without addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When the provider took it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_at: Option<DateTime<Utc>>,
    /// When it left the provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<DateTime<Utc>>,
    /// When it reached the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered_at: Option<DateTime<Utc>>,
    /// When it was opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_at: Option<DateTime<Utc>>,
    /// When it failed, expired, was suppressed or cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<DateTime<Utc>>,
}

/// What an event says of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BatchTold {
    /// Which, as the answer to the job named it.
    pub batch_id: BatchId,
    /// The job it belongs to.
    pub job_id: String,
    /// The name the job gave to find it by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub campaign: Option<String>,
    /// Of one that sends failed messages again: whose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resend_of: Option<BatchId>,
    /// Messages it has: the sum of the tallies.
    pub recipients: i32,
    /// Recipients of the job that were refused, and have no message.
    pub rejected: i32,
    /// Its messages by state, at this moment: callbacks go on to move them.
    pub tallies: Tallies,
}

/// Messages of a batch by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tallies {
    /// Still to be sent; 0 once it is dispatched.
    pub pending: i32,
    /// Called, and nobody knows whether they were taken; 0 once it is completed.
    pub uncertain: i32,
    /// Taken by the provider.
    pub accepted: i32,
    /// Left the provider.
    pub sent: i32,
    /// Reached the device.
    pub delivered: i32,
    /// Opened.
    pub read: i32,
    /// Will not arrive.
    pub failed: i32,
    /// Not called in time.
    pub expired: i32,
    /// Not called, for the recipient's recorded wish.
    pub suppressed: i32,
    /// Not called: somebody cancelled them.
    pub cancelled: i32,
}

/// What an event says of a hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HoldTold {
    /// Which: `campaign-dispatch holds show ID`.
    pub id: HoldId,
    /// What is not sent to: `everything`, `provider:<name>`, `portfolio:<tenant>/<name>`, `account:<id>`, `number:<id>`,
    /// `number:<id>:<lane>`, `template:<id>` or `batch:<id>`.
    pub scope: String,
    /// Why, in one word: the provider's code, or one of ours.
    pub cause: String,
    /// Why, in a sentence.
    pub detail: String,
    /// Who or what ends it.
    pub resume: Resume,
    /// Since when.
    pub since: DateTime<Utc>,
    /// When it ends by itself.
    pub until: Option<DateTime<Utc>>,
}

/// An event, with what it says as `data`. Of a hold on everybody there is no `tenant`, of any hold no `producer`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Event_of_{T}")]
pub struct Event<T> {
    /// The same when it comes again: then also the AMQP `message_id` is.
    pub id: Uuid,
    /// What it tells.
    pub r#type: EventKind,
    /// When it was written.
    pub time: DateTime<Utc>,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Whose job it is about; `unknown` when that could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub producer: Option<String>,
    /// What it says.
    pub data: T,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Wanted = Wanted { failed: true, delivered: Tell::Always, read: Tell::Always };
    const NONE: Wanted = Wanted { failed: false, delivered: Tell::Never, read: Tell::Never };

    fn told(wanted: Wanted, from: MessageState, to: MessageState) -> Vec<EventKind> {
        wanted.told(Asks::default(), from, to).collect()
    }

    #[test]
    fn nothing_is_told_of_what_does_not_move_or_nobody_wants() {
        for &from in MessageState::ALL {
            assert_eq!(told(ALL, from, from), []);
            for &to in MessageState::ALL {
                assert_eq!(told(NONE, from, to), []);
            }
        }
    }

    #[test]
    fn a_failure_is_told_once_and_taken_back_once() {
        for &from in MessageState::ALL {
            for &to in MessageState::ALL {
                let kinds = told(ALL, from, to);
                let is_failure = to.has_ended_in_vain() && !from.has_ended_in_vain();
                assert_eq!(kinds.contains(&EventKind::MessageFailed), is_failure, "{from} -> {to}");
                let is_lift = from.has_ended_in_vain() && to.is_sent();
                assert_eq!(kinds.contains(&EventKind::MessageLifted), is_lift, "{from} -> {to}");
            }
        }
    }

    #[test]
    fn what_is_read_at_once_was_delivered_too() {
        let both = [EventKind::MessageDelivered, EventKind::MessageRead];
        assert_eq!(told(ALL, MessageState::Accepted, MessageState::Read), both);
        assert_eq!(told(ALL, MessageState::Delivered, MessageState::Read), both[1..]);
        assert_eq!(told(Wanted::DEFAULT, MessageState::Accepted, MessageState::Read), []);
    }
}
