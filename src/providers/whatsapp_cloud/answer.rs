//! What an answer to a send says.
//!
//! Meta: a 200 means accepted, never sent; one branches on `error.code`, not on the HTTP status. The status decides
//! only where there is no code to go by, and it never makes a fault at Meta look like a refusal.

use ::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    domain::{
        address::Address,
        failure::{FailureClass, Outcome, Refusal},
    },
    providers::{ErrorTable, http::Answer, reason},
};

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    messages: Vec<Accepted>,
    error: Option<ApiError>,
}

#[derive(Deserialize)]
struct Accepted {
    id: String,
    message_status: Option<String>,
}

/// An error as the API writes it, in answers and in webhooks.
#[derive(Debug, Deserialize)]
pub(super) struct ApiError {
    #[serde(deserialize_with = "super::whole_number")]
    code: i64,
    error_subcode: Option<i64>,
    #[serde(default)]
    is_transient: bool,
    message: Option<String>,
    title: Option<String>,
    /// An object with `details`, or a plain text (templates).
    error_data: Option<Value>,
}

impl ApiError {
    /// The code under which the table has it.
    pub(super) fn code(&self, table: &ErrorTable) -> String {
        match (self.code, self.error_subcode) {
            // Meta: 100 says little; a subcode that is known says more (33: the number does not exist).
            (100, Some(sub)) if table.get(&sub.to_string()).is_some() => sub.to_string(),
            (200..=299, _) => "200".to_owned(),
            (131_200..=131_299, _) => "131020".to_owned(),
            (code, _) => code.to_string(),
        }
    }

    /// The provider's words: what went wrong, then the details, fit to be kept.
    pub(super) fn reason(&self, recipients: &[&str]) -> String {
        let words = self.message.as_deref().or(self.title.as_deref()).unwrap_or_default();
        let details = match &self.error_data {
            Some(Value::String(details)) => details.as_str(),
            Some(data) => data.get("details").and_then(Value::as_str).unwrap_or_default(),
            None => "",
        };
        let words = if details.is_empty() || details == words {
            words.to_owned()
        } else if words.is_empty() {
            details.to_owned()
        } else {
            format!("{words}: {details}")
        };
        reason::clean(&words, recipients)
    }
}

/// Reads an answer.
pub(super) fn outcome(answer: &Answer, to: &Address, table: &ErrorTable) -> Outcome {
    let Answer { status, retry_after, body } = answer;
    let mut body = serde_json::from_slice::<Body>(body).ok();
    let message = body.as_mut().and_then(|body| body.messages.pop()).filter(|message| !message.id.is_empty());
    let refusal = match (message, body.and_then(|body| body.error)) {
        (Some(message), _) if status.is_success() => return accepted(message),
        (_, Some(error)) => coded(&error, *status, to, table),
        _ if status.is_success() => {
            let reason = "the answer said success but named no message".to_owned();
            table.refusal("answer_unreadable".to_owned(), reason)
        }
        // HTML of something before the API, or nothing: the status is all there is.
        _ => table.refusal(format!("http_{}", status.as_u16()), "the answer carried no code".to_owned()),
    };
    Outcome::Refused(Refusal { wait: retry_after.or(refusal.wait), ..refusal })
}

fn accepted(message: Accepted) -> Outcome {
    // Meta: `held_for_quality_assessment` may still fail with 132015; `paused` is listed without an explanation.
    let held = matches!(message.message_status.as_deref(), Some("held_for_quality_assessment" | "paused"));
    Outcome::Accepted { provider_message_id: message.id, held_by_provider: held }
}

fn coded(error: &ApiError, status: StatusCode, to: &Address, table: &ErrorTable) -> Refusal {
    let code = error.code(table);
    let known = table.get(&code).is_some();
    let mut refusal = table.refusal(code, error.reason(&[to.as_str()]));
    refusal.class = match refusal.class {
        FailureClass::ThrottledAccount | FailureClass::ThrottledPair => refusal.class,
        _ if status == StatusCode::TOO_MANY_REQUESTS => FailureClass::ThrottledNumber,
        // A code that says what is broken stands also in a 5xx (131057 comes as 500), one that only says that the
        // message failed does not: nobody knows how far Meta came with it.
        FailureClass::Transient | FailureClass::Message if status.is_server_error() => FailureClass::Uncertain,
        _ if !known && status == StatusCode::UNAUTHORIZED => FailureClass::Account,
        _ if !known && error.is_transient => FailureClass::Transient,
        class => class,
    };
    refusal
}

#[cfg(test)]
mod tests;
