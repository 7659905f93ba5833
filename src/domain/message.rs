//! Where a message stands, and the one function that moves it.
//!
//! [`MessageState::apply`] holds the whole table; `src/docs/state-machines.md` shows it, and a test compares the two.
//! Everything that changes a state (settle, callback, sweep, a person) is an event given to this function with the
//! row locked, so a duplicate, a late or a reordered event can only do what the table says.

use crate::domain::named;

named! {
    /// Why a message that was not called expires.
    pub enum Late {
        /// Its life has ended.
        Life = "life",
        /// The window of its recipient's hours has closed.
        Window = "window",
        /// No window of its recipient's hours opens while it lives.
        NoWindow = "no_window",
    }
}

impl Late {
    /// The code of such a message.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Life => "expired",
            Self::Window => "window_closed",
            Self::NoWindow => "window",
        }
    }

    /// The same for people.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Life => "its expires_at passed before it could be sent",
            Self::Window => "the window of its recipient's hours closed before it could be sent",
            Self::NoWindow => "no window of its recipient's hours opens between its send_at and its expires_at",
        }
    }
}

named! {
    /// The state of a message, and the group it is counted in.
    pub enum MessageState {
        /// Still to be sent, or being sent.
        Pending = "pending",
        /// Called, and nobody knows whether it was taken.
        Uncertain = "uncertain",
        /// Taken by the provider.
        Accepted = "accepted",
        /// Left the provider.
        Sent = "sent",
        /// Reached the recipient's device.
        Delivered = "delivered",
        /// Opened.
        Read = "read",
        /// Will not arrive.
        Failed = "failed",
        /// Not called in time.
        Expired = "expired",
        /// Not called: the recipient's recorded wish.
        Suppressed = "suppressed",
        /// Not called: somebody cancelled it.
        Cancelled = "cancelled",
    }
}

named! {
    /// What can happen to a message.
    pub enum MessageEvent {
        /// The provider took the call.
        Accepted = "accepted",
        /// The call was refused for good.
        Refused = "refused",
        /// The call was refused for now, or was not made: it stays to be sent.
        Returned = "returned",
        /// The call's outcome cannot be known.
        Unknown = "unknown",
        /// It may have been called, and the database has lost what became of that.
        Recovered = "recovered",
        /// Not called: too late.
        Expired = "expired",
        /// Not called: the recipient's wish.
        Suppressed = "suppressed",
        /// Not called: cancelled.
        Cancelled = "cancelled",
        /// A callback says sent.
        Sent = "sent",
        /// A callback says delivered.
        Delivered = "delivered",
        /// A callback says read.
        Read = "read",
        /// A callback says it failed for good.
        Failed = "failed",
        /// A callback says it failed for now (transient or throttled, within the retry window).
        FailedForNow = "failed_for_now",
    }
}

named! {
    /// Which call an event is about, seen from the row.
    pub enum Age {
        /// The latest call.
        Current = "current",
        /// A call before it.
        Older = "older",
        /// A call, the latest or an older one, of which the provider said that it failed.
        Dropped = "dropped",
    }
}

/// What an event does to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// The message is now in this state.
    To(MessageState),
    /// Nothing new: a duplicate, a late event, or one that says less than is known.
    Stay,
    /// Too early: the call it is about has not been settled. To be applied again afterwards.
    Wait,
}

impl MessageEvent {
    /// Whether it says what became of a call; the others are about the message.
    pub const fn is_of_a_call(self) -> bool {
        !matches!(self, Self::Expired | Self::Suppressed | Self::Cancelled | Self::Recovered)
    }
}

impl MessageState {
    /// What `event` about a call of this `age` does.
    ///
    /// Good news lifts whatever stands below it, of any call. Bad news counts only for the latest call, and never
    /// against what a later good one said. Once the provider said that a call failed, nothing but a delivery speaks for
    /// it: providers repeat and reorder what they tell, and an acceptance settled again must not stop the next call.
    ///
    /// ```
    /// use campaign_dispatch::domain::message::{Age, MessageEvent, MessageState, Transition};
    /// let late = MessageState::Delivered.apply(Age::Current, MessageEvent::Accepted);
    /// assert_eq!(late, Transition::Stay);
    /// let lifted = MessageState::Failed.apply(Age::Older, MessageEvent::Delivered);
    /// assert_eq!(lifted, Transition::To(MessageState::Delivered));
    /// ```
    pub const fn apply(self, age: Age, event: MessageEvent) -> Transition {
        use MessageState as S;
        match event {
            MessageEvent::Delivered => self.lift(S::Delivered),
            MessageEvent::Read => self.lift(S::Read),
            _ if matches!(age, Age::Dropped) => Transition::Stay,
            MessageEvent::Accepted => self.lift(S::Accepted),
            MessageEvent::Sent => self.lift(S::Sent),
            _ if matches!(age, Age::Older) => Transition::Stay,
            MessageEvent::Refused => self.unless_known(S::Failed),
            MessageEvent::Returned => match self {
                S::Uncertain => Transition::To(S::Pending),
                S::Pending
                | S::Accepted
                | S::Sent
                | S::Delivered
                | S::Read
                | S::Failed
                | S::Expired
                | S::Suppressed
                | S::Cancelled => Transition::Stay,
            },
            MessageEvent::Unknown | MessageEvent::Recovered => self.while_pending(S::Uncertain),
            MessageEvent::Expired => self.while_pending(S::Expired),
            MessageEvent::Suppressed => self.while_pending(S::Suppressed),
            MessageEvent::Cancelled => self.while_pending(S::Cancelled),
            MessageEvent::Failed => match self {
                S::Accepted | S::Sent => Transition::To(S::Failed),
                S::Pending
                | S::Uncertain
                | S::Delivered
                | S::Read
                | S::Failed
                | S::Expired
                | S::Suppressed
                | S::Cancelled => self.unless_known(S::Failed),
            },
            MessageEvent::FailedForNow => match self {
                // The settle of this call is still under way: it would take the new work for its own.
                S::Pending => Transition::Wait,
                S::Uncertain | S::Accepted | S::Sent => Transition::To(S::Pending),
                S::Delivered | S::Read | S::Failed | S::Expired | S::Suppressed | S::Cancelled => Transition::Stay,
            },
        }
    }

    /// Good news: upwards only.
    const fn lift(self, to: Self) -> Transition {
        if self.rank() < to.rank() { Transition::To(to) } else { Transition::Stay }
    }

    /// An end that good news already heard excludes.
    const fn unless_known(self, to: Self) -> Transition {
        match self {
            Self::Pending | Self::Uncertain => Transition::To(to),
            Self::Accepted
            | Self::Sent
            | Self::Delivered
            | Self::Read
            | Self::Failed
            | Self::Expired
            | Self::Suppressed
            | Self::Cancelled => Transition::Stay,
        }
    }

    /// What only a message still to be sent can become.
    const fn while_pending(self, to: Self) -> Transition {
        if matches!(self, Self::Pending) { Transition::To(to) } else { Transition::Stay }
    }

    /// How much good news the state stands for.
    const fn rank(self) -> u8 {
        match self {
            Self::Pending | Self::Uncertain | Self::Failed | Self::Expired | Self::Suppressed | Self::Cancelled => 0,
            Self::Accepted => 1,
            Self::Sent => 2,
            Self::Delivered => 3,
            Self::Read => 4,
        }
    }

    /// Whether the message has a work row.
    pub const fn has_work(self) -> bool {
        matches!(self, Self::Pending | Self::Uncertain)
    }

    /// Whether it says at least as much good as `other` does.
    pub const fn is_at_least(self, other: Self) -> bool {
        self.rank() >= other.rank()
    }

    /// Whether it will not arrive (`failed` in every balance).
    pub const fn has_ended_in_vain(self) -> bool {
        matches!(self, Self::Failed | Self::Expired | Self::Suppressed | Self::Cancelled)
    }

    /// Whether the provider has it (`sent` in every balance).
    pub const fn is_sent(self) -> bool {
        self.rank() > 0
    }
}

/// The table as Markdown, one row per state and event that does something, for the document and its test.
pub fn print_table() -> String {
    let mut text = String::from(
        "| state | event | of the latest call | of an older call | of a call that failed |\n| --- | --- | --- | --- | --- |\n",
    );
    for state in MessageState::ALL {
        for event in MessageEvent::ALL {
            let [current, older, dropped] =
                [Age::Current, Age::Older, Age::Dropped].map(|age| match state.apply(age, *event) {
                    Transition::To(next) => next.to_string(),
                    Transition::Stay => "·".to_owned(),
                    Transition::Wait => "wait".to_owned(),
                });
            if [&current, &older, &dropped].iter().any(|next| *next != "·") {
                let row = [state.as_str(), event.as_str(), &current, &older, &dropped].join(" | ");
                text.push_str(&["| ", &row, " |\n"].concat());
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_shows_the_table() {
        let document = include_str!("../docs/state-machines.md");
        let table = print_table();
        assert!(document.contains(&table), "src/docs/state-machines.md must contain:\n{table}");
    }

    #[test]
    fn good_news_is_never_taken_back_but_for_one_edge() {
        for state in MessageState::ALL.iter().filter(|s| s.is_sent()) {
            for event in MessageEvent::ALL {
                for age in Age::ALL {
                    let Transition::To(next) = state.apply(*age, *event) else {
                        continue;
                    };
                    let back = !next.is_sent() || next.rank() < state.rank();
                    let allowed = matches!(event, MessageEvent::Failed | MessageEvent::FailedForNow)
                        && *age == Age::Current
                        && matches!(state, MessageState::Accepted | MessageState::Sent);
                    assert!(!back || allowed, "{state} + {event} ({age}) -> {next}");
                }
            }
        }
    }

    #[test]
    fn an_older_call_can_only_lift() {
        for (state, event) in MessageState::ALL.iter().flat_map(|s| MessageEvent::ALL.iter().map(move |e| (s, e))) {
            for age in [Age::Older, Age::Dropped] {
                if let Transition::To(next) = state.apply(age, *event) {
                    assert!(next.rank() > state.rank(), "{state} + {event} ({age}) -> {next}");
                }
            }
        }
    }

    #[test]
    fn only_a_delivery_speaks_for_a_call_that_failed() {
        for state in MessageState::ALL {
            for event in MessageEvent::ALL.iter().filter(|e| e.is_of_a_call()) {
                let is_delivery = matches!(event, MessageEvent::Delivered | MessageEvent::Read);
                assert!(is_delivery || state.apply(Age::Dropped, *event) == Transition::Stay, "{state} + {event}");
            }
        }
    }

    #[test]
    fn events_are_idempotent() {
        for state in MessageState::ALL {
            for event in MessageEvent::ALL {
                for age in Age::ALL {
                    if let Transition::To(next) = state.apply(*age, *event)
                        && next != MessageState::Pending
                    {
                        assert_eq!(next.apply(*age, *event), Transition::Stay, "{state} + {event} twice");
                    }
                }
            }
        }
    }
}
