//! The first messages of a batch: a few go out, and what becomes of them decides about the rest.

use chrono::TimeDelta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{
    campaign::period,
    failure::{FailureClass, FaultScope, Reaction},
};

/// Far more than anybody needs to look at.
const MESSAGES: i32 = 10_000;
/// Longest time for their outcomes.
const WAIT: TimeDelta = TimeDelta::days(1);

/// What a job or a campaign says about its first messages, in place of the settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(untagged, expecting = "must be false, or an object of messages, wait and fault_percent")]
pub enum CanaryWish {
    /// Only `false`: all go out at once.
    Off(bool),
    /// These go out alone, whatever the category and however many follow.
    First(FirstMessages),
}

/// Messages that go out first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FirstMessages {
    /// How many, 1 to 10 000. A batch that has no more goes out as a whole.
    pub messages: i32,
    /// How long they may take to have an outcome, before the batch is a person's to look at: `90s`, `10m`, `2h`, at most a
    /// day.
    pub wait: String,
    /// This share of faults among them keeps the batch for a person: 1 to 100, by default as in the settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault_percent: Option<i32>,
}

/// Something wrong with such a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanaryFault {
    /// Which value, as the end of a JSON pointer: `/wait`.
    pub at: &'static str,
    /// For people.
    pub reason: String,
}

/// A wish that was understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CanaryTerms {
    /// All go out at once.
    Off,
    /// Some go out first.
    First {
        /// How many.
        messages: i32,
        /// Seconds.
        wait_s: i32,
        /// As in the settings unless told.
        fault_percent: Option<i32>,
    },
}

/// How the first messages of a batch are watched: how many, and what keeps the batch for a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CanaryRule {
    /// So many messages go out first.
    pub messages: i32,
    /// This share of faults among them keeps the batch.
    pub fault_percent: i32,
    /// And so does an outcome that is missing after this.
    pub wait_s: i32,
}

impl CanaryWish {
    /// What it means; adds to `faults` all that is wrong with it.
    pub fn read(&self, faults: &mut Vec<CanaryFault>) -> Option<CanaryTerms> {
        let mut fault = |at, reason: String| faults.push(CanaryFault { at, reason });
        let first = match self {
            Self::Off(false) => return Some(CanaryTerms::Off),
            Self::Off(true) => {
                fault("", "is `false` for none, or says how many messages go first".to_owned());
                return None;
            }
            Self::First(first) => first,
        };
        let messages = Some(first.messages).filter(|messages| (1..=MESSAGES).contains(messages));
        if messages.is_none() {
            fault("/messages", format!("must be from 1 to {MESSAGES}"));
        }
        let wait = period(&first.wait).filter(|wait| *wait > TimeDelta::zero() && *wait <= WAIT);
        if wait.is_none() {
            let reason = format!("`{}` is no length of time up to a day: for example 90s, 10m, 2h", first.wait);
            fault("/wait", reason);
        }
        if first.fault_percent.is_some_and(|percent| !(1..=100).contains(&percent)) {
            fault("/fault_percent", "must be from 1 to 100".to_owned());
            return None;
        }
        let wait_s = i32::try_from(wait?.num_seconds()).ok()?;
        Some(CanaryTerms::First { messages: messages?, wait_s, fault_percent: first.fault_percent })
    }
}

impl CanaryTerms {
    /// The rule it makes; none of one that lets all go out at once.
    pub const fn rule(self, by_default: i32) -> Option<CanaryRule> {
        match self {
            Self::Off => None,
            Self::First { messages, wait_s, fault_percent } => {
                let fault_percent = match fault_percent {
                    Some(percent) => percent,
                    None => by_default,
                };
                Some(CanaryRule { messages, fault_percent, wait_s })
            }
        }
    }
}

/// What a call let through by a canary says about its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// The provider answered, and no fault of template, number, account or portfolio stands in the way. A recipient's
    /// failure is none.
    Good,
    /// Such a fault.
    Faulty,
    /// Nothing: it was not called, must come again, or nobody knows. Another message may go in its place.
    Nothing,
}

/// What a refusal of this class says.
pub const fn says(class: FailureClass) -> Says {
    match class.reaction() {
        Reaction::Fail => Says::Good,
        Reaction::Park(FaultScope::Template | FaultScope::Number | FaultScope::Account | FaultScope::Portfolio) => {
            Says::Faulty
        }
        Reaction::Park(FaultScope::Provider) | Reaction::Later { .. } | Reaction::Unknown => Says::Nothing,
    }
}

/// What becomes of the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Too few outcomes to say.
    Wait,
    /// The rest goes out.
    Pass,
    /// A person looks first.
    Stay,
}

/// Decides after `good + faulty` of `messages` outcomes: `fault_percent` of faults and more stop the batch, and so they do
/// as soon as the rest could not change that.
pub fn verdict(messages: i32, fault_percent: i32, good: i32, faulty: i32) -> Verdict {
    let (messages, limit) = (i64::from(messages), i64::from(fault_percent));
    if i64::from(faulty) * 100 >= limit * messages && faulty > 0 {
        Verdict::Stay
    } else if i64::from(good) + i64::from(faulty) >= messages {
        Verdict::Pass
    } else {
        Verdict::Wait
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn thirty_percent_of_faults_stop_a_batch() {
        assert_eq!(verdict(20, 30, 15, 5), Verdict::Pass);
        assert_eq!(verdict(20, 30, 14, 6), Verdict::Stay);
        assert_eq!(verdict(20, 30, 0, 6), Verdict::Stay);
        assert_eq!(verdict(20, 30, 14, 5), Verdict::Wait);
        assert_eq!(verdict(20, 30, 0, 0), Verdict::Wait);
    }

    fn read(wish: &str) -> Result<CanaryTerms, Vec<&'static str>> {
        let wish: CanaryWish = serde_json::from_str(wish).unwrap();
        let mut faults = Vec::new();
        let terms = wish.read(&mut faults);
        terms.ok_or_else(|| faults.into_iter().map(|fault| fault.at).collect())
    }

    #[test]
    fn a_wish_says_how_many_go_first_or_that_all_do() {
        assert_eq!(read("false"), Ok(CanaryTerms::Off));
        let terms = read(r#"{"messages": 3, "wait": "2h"}"#).unwrap();
        assert_eq!(terms.rule(30), Some(CanaryRule { messages: 3, fault_percent: 30, wait_s: 7200 }));
        let terms = read(r#"{"messages": 10000, "wait": "1d", "fault_percent": 1}"#).unwrap();
        assert_eq!(terms.rule(30), Some(CanaryRule { messages: 10_000, fault_percent: 1, wait_s: 86_400 }));
    }

    #[test]
    fn all_that_is_wrong_with_a_wish_is_told() {
        assert_eq!(read("true"), Err(vec![""]));
        let all = read(r#"{"messages": 0, "wait": "0s", "fault_percent": 0}"#);
        assert_eq!(all, Err(vec!["/messages", "/wait", "/fault_percent"]));
        assert_eq!(read(r#"{"messages": 10001, "wait": "25h"}"#), Err(vec!["/messages", "/wait"]));
        let unknown = serde_json::from_str::<CanaryWish>(r#"{"messages": 3, "wait": "1m", "size": 1}"#);
        assert!(unknown.unwrap_err().to_string().contains("messages, wait and fault_percent"));
    }

    #[test]
    fn only_faults_of_what_the_batch_shares_count() {
        assert_eq!(says(FailureClass::Recipient), Says::Good);
        assert_eq!(says(FailureClass::Template), Says::Faulty);
        assert_eq!(says(FailureClass::Portfolio), Says::Faulty);
        assert_eq!(says(FailureClass::Provider), Says::Nothing);
        assert_eq!(says(FailureClass::ThrottledNumber), Says::Nothing);
        assert_eq!(says(FailureClass::Uncertain), Says::Nothing);
    }

    proptest! {
        #[test]
        fn every_canary_with_all_its_outcomes_is_decided_by_the_share_of_faults(
            messages in 1i32..200, percent in 1i32..=100, faulty in 0i32..200,
        ) {
            let faulty = faulty.min(messages);
            let decided = verdict(messages, percent, messages - faulty, faulty);
            let expected = if faulty * 100 >= percent * messages { Verdict::Stay } else { Verdict::Pass };
            prop_assert_eq!(decided, expected);
        }
    }
}
