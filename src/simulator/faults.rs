//! Scripted faults: what is done to which calls, and how people write it down.
//!
//! Faults come from the command line ([`Fault::from_str`]), from the control API (JSON), and by the recipient's last
//! four digits ([`SUFFIXES`]). What they do to a call is in [`crate::simulator::effects`].

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One fault: which calls it concerns and what is done to them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Which calls.
    #[serde(default, rename = "match")]
    pub when: FaultMatch,
    /// What is done.
    #[serde(rename = "do")]
    pub action: FaultAction,
}

/// Which calls a fault concerns: all that is given must fit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FaultMatch {
    /// The number's id at the provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<String>,
    /// The account's WABA id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waba: Option<String>,
    /// The template's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// The recipient's last digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suffix: Option<String>,
    /// The share of calls, drawn from the seed and the call's token: the same calls in every run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// Calls that fit and are let through first.
    pub after_calls: u64,
    /// How many calls it is done to at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// What a fault does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "ActionForm", into = "String")]
pub enum FaultAction {
    /// Nothing; the call is an ordinary one.
    #[default]
    None,
    /// Refuses with this code, and with this HTTP status when it differs from the code's own.
    Error(u32, Option<u16>),
    /// Takes the message and tells by callback that it failed with this code.
    AsyncError(u32),
    /// Cuts the connection without taking the message.
    DropBeforeAccept,
    /// Takes the message and cuts the connection instead of answering.
    DropAfterAccept,
    /// Takes the message and answers with this code and HTTP status.
    ErrorAfterAccept(u32, Option<u16>),
    /// Answers this many milliseconds later than it takes the message.
    Slow(u64),
    /// Answers 502 with a page of HTML, without taking the message.
    Html502,
    /// Takes the message and answers 502 with a page of HTML.
    Html502AfterAccept,
    /// Refuses the token (190).
    TokenExpired,
    /// Refuses for throughput (130429) with HTTP 400, as documented.
    Throttle,
    /// Refuses for throughput (130429) with HTTP 429, as seen in the wild.
    Throttle429,
    /// Takes the message, holds it for quality for three seconds, then sends it.
    Held,
    /// Takes the message, holds it for quality for three seconds, then drops it (132015).
    HeldDropped,
    /// Tells nothing of what became of the message.
    NoCallbacks,
    /// Tells everything twice.
    DuplicateCallbacks,
    /// Tells read before delivered before sent.
    ReorderCallbacks,
    /// Tells everything this many milliseconds later.
    LateCallbacks(u64),
    /// Also posts a callback with a wrong signature that says the message failed.
    BadSignature,
}

/// What is done to a recipient whose digits end so, unless suffixes are switched off. The first six are the convention
/// of whatsapp.md §7.
pub const SUFFIXES: &[(&str, FaultAction)] = &[
    ("0026", FaultAction::AsyncError(131_026)),
    ("0049", FaultAction::AsyncError(131_049)),
    ("0050", FaultAction::AsyncError(131_050)),
    ("0472", FaultAction::AsyncError(130_472)),
    ("0403", FaultAction::AsyncError(130_403)),
    ("0042", FaultAction::AsyncError(131_042)),
    ("9000", FaultAction::Error(131_000, Some(500))),
    ("9001", FaultAction::DropAfterAccept),
    ("9002", FaultAction::Slow(5_000)),
    ("9003", FaultAction::Html502),
    ("9004", FaultAction::ErrorAfterAccept(131_000, Some(500))),
    ("9005", FaultAction::Error(131_008, None)),
    ("9006", FaultAction::DropBeforeAccept),
    ("9007", FaultAction::Held),
    ("9008", FaultAction::HeldDropped),
    ("9010", FaultAction::NoCallbacks),
    ("9011", FaultAction::DuplicateCallbacks),
    ("9012", FaultAction::ReorderCallbacks),
    ("9013", FaultAction::LateCallbacks(5_000)),
    ("9014", FaultAction::BadSignature),
];

/// Why a fault was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaultSpecError {
    /// There is no `:` between what it concerns and what it does.
    #[error("a fault is MATCH:ACTION, for example p=0.01:131000")]
    NoAction,
    /// The part before `:` has a word that is none of the keys.
    #[error(
        "`{0}` is not one of p=SHARE, number=ID, waba=ID, template=NAME, suffix=DIGITS, after=CALLS, count=CALLS, *"
    )]
    UnknownMatch(String),
    /// A figure could not be read.
    #[error("`{0}` does not have a good value")]
    BadValue(String),
    /// The part after `:` is none of the actions.
    #[error(
        "`{0}` is not an action: a code (131000, 131000/500), async=CODE, after_accept=CODE, slow_ms=N, late_ms=N, {words}",
        words = WORDS.map(|word| word.0).join(", ")
    )]
    UnknownAction(String),
}

const WORDS: [(&str, FaultAction); 14] = [
    ("drop_before_accept", FaultAction::DropBeforeAccept),
    ("drop_after_accept", FaultAction::DropAfterAccept),
    ("error_after_accept", FaultAction::ErrorAfterAccept(131_000, Some(500))),
    ("html_502", FaultAction::Html502),
    ("html_502_after_accept", FaultAction::Html502AfterAccept),
    ("token_expired", FaultAction::TokenExpired),
    ("throttle", FaultAction::Throttle),
    ("throttle_429", FaultAction::Throttle429),
    ("held", FaultAction::Held),
    ("held_dropped", FaultAction::HeldDropped),
    ("no_callbacks", FaultAction::NoCallbacks),
    ("duplicate_callbacks", FaultAction::DuplicateCallbacks),
    ("reorder_callbacks", FaultAction::ReorderCallbacks),
    ("bad_signature", FaultAction::BadSignature),
];

impl FromStr for Fault {
    type Err = FaultSpecError;

    /// Reads `MATCH:ACTION`, for example `p=0.01:131000`, `number=1001,after=500:token_expired`, `*:slow_ms=200`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (matching, action) = text.split_once(':').ok_or(FaultSpecError::NoAction)?;
        let mut when = FaultMatch::default();
        for part in matching.split(',').filter(|part| !part.is_empty() && *part != "*") {
            let bad = || FaultSpecError::BadValue(part.to_owned());
            match part.split_once('=') {
                Some(("p", share)) => {
                    let share = share.parse().ok().filter(|share| (0.0..=1.0).contains(share));
                    when.probability = Some(share.ok_or_else(bad)?);
                }
                Some(("number", id)) => when.number = Some(id.to_owned()),
                Some(("waba", id)) => when.waba = Some(id.to_owned()),
                Some(("template", name)) => when.template = Some(name.to_owned()),
                Some(("suffix", digits)) => when.suffix = Some(digits.to_owned()),
                Some(("after", calls)) => when.after_calls = calls.parse().map_err(|_| bad())?,
                Some(("count", calls)) => when.count = Some(calls.parse().map_err(|_| bad())?),
                _ => return Err(FaultSpecError::UnknownMatch(part.to_owned())),
            }
        }
        Ok(Self { when, action: action.parse()? })
    }
}

impl FromStr for FaultAction {
    type Err = FaultSpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some((_, action)) = WORDS.iter().find(|(word, _)| *word == text) {
            return Ok(action.clone());
        }
        let unknown = || FaultSpecError::UnknownAction(text.to_owned());
        let (verb, value) = text.split_once('=').unwrap_or(("error", text));
        let (code, status) = match value.split_once('/') {
            Some((code, status)) => (code, Some(status.parse().map_err(|_| unknown())?)),
            None => (value, None),
        };
        let code: u32 = code.parse().map_err(|_| unknown())?;
        if status.is_some_and(|status| http::StatusCode::from_u16(status).is_err()) {
            return Err(unknown());
        }
        match verb {
            "error" => Ok(Self::Error(code, status)),
            "async" => Ok(Self::AsyncError(code)),
            "after_accept" => Ok(Self::ErrorAfterAccept(code, status)),
            "slow_ms" => Ok(Self::Slow(code.into())),
            "late_ms" => Ok(Self::LateCallbacks(code.into())),
            _ => Err(unknown()),
        }
    }
}

impl From<FaultAction> for String {
    fn from(action: FaultAction) -> Self {
        if let Some((word, _)) = WORDS.iter().find(|(_, known)| *known == action) {
            return (*word).to_owned();
        }
        let with = |status: Option<u16>| status.map_or_else(Self::new, |status| format!("/{status}"));
        match action {
            FaultAction::Error(code, status) => format!("{code}{}", with(status)),
            FaultAction::AsyncError(code) => format!("async={code}"),
            FaultAction::ErrorAfterAccept(code, status) => {
                format!("after_accept={code}{}", with(status))
            }
            FaultAction::Slow(ms) => format!("slow_ms={ms}"),
            FaultAction::LateCallbacks(ms) => format!("late_ms={ms}"),
            _ => "none".to_owned(),
        }
    }
}

/// An action in JSON: a word as on the command line, or an object with one verb.
#[derive(Deserialize)]
#[serde(untagged)]
enum ActionForm {
    Word(String),
    Object(ActionObject),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ActionObject {
    error: Option<u32>,
    async_error: Option<u32>,
    error_after_accept: Option<u32>,
    slow_ms: Option<u64>,
    late_ms: Option<u64>,
    status: Option<u16>,
}

impl TryFrom<ActionForm> for FaultAction {
    type Error = FaultSpecError;

    fn try_from(form: ActionForm) -> Result<Self, FaultSpecError> {
        let object = match form {
            ActionForm::Word(word) => return word.parse(),
            ActionForm::Object(object) => object,
        };
        if object.status.is_some_and(|status| http::StatusCode::from_u16(status).is_err()) {
            return Err(FaultSpecError::BadValue("status".to_owned()));
        }
        let actions = [
            object.error.map(|code| Self::Error(code, object.status)),
            object.async_error.map(Self::AsyncError),
            object.error_after_accept.map(|code| Self::ErrorAfterAccept(code, object.status)),
            object.slow_ms.map(Self::Slow),
            object.late_ms.map(Self::LateCallbacks),
        ];
        let mut given = actions.into_iter().flatten();
        match (given.next(), given.next()) {
            (Some(action), None) => Ok(action),
            _ => Err(FaultSpecError::UnknownAction("an object without exactly one action".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_says_which_calls_and_what() {
        let fault: Fault = "p=0.01:131000".parse().unwrap();
        assert_eq!((fault.when.probability, fault.action), (Some(0.01), FaultAction::Error(131_000, None)));
        let fault: Fault = "number=1001,suffix=77,after=5,count=3:drop_after_accept".parse().unwrap();
        assert_eq!((fault.when.after_calls, fault.when.count), (5, Some(3)));
        assert_eq!(fault.when.suffix.as_deref(), Some("77"));
        assert_eq!("*:131000/503".parse::<Fault>().unwrap().action, FaultAction::Error(131_000, Some(503)));
        assert_eq!("*:slow_ms=20".parse::<Fault>().unwrap().action, FaultAction::Slow(20));
        for bad in ["131000", "p=2:131000", "x=1:131000", "*:explode", "*:131000/9999", "after=x:held"] {
            assert!(bad.parse::<Fault>().is_err(), "{bad}");
        }
    }

    #[test]
    fn json_and_words_say_the_same() {
        let read = |text: &str| serde_json::from_str::<Fault>(text).map(|fault| fault.action).ok();
        assert_eq!(read(r#"{"do":"throttle"}"#), Some(FaultAction::Throttle));
        assert_eq!(read(r#"{"do":{"error":131000,"status":503}}"#), Some(FaultAction::Error(131_000, Some(503))));
        assert_eq!(read(r#"{"match":{"suffix":"1"},"do":{"slow_ms":5}}"#), Some(FaultAction::Slow(5)));
        assert_eq!(read(r#"{"do":{"slow_ms":5,"error":1}}"#), None);
        assert_eq!(read(r#"{"match":{"colour":"red"},"do":"held"}"#), None);
        for (_, action) in SUFFIXES.iter().chain(&WORDS) {
            assert_eq!(String::from(action.clone()).parse(), Ok(action.clone()));
        }
    }
}
