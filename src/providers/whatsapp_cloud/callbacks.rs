//! Meta's webhooks: the proof that they are Meta's, and what they tell.
//!
//! One body carries up to a thousand updates of several numbers. A part that this version cannot read is kept as it
//! came and never costs the other parts, because Meta delivers a body again as a whole or not at all.

use std::{borrow::Cow, collections::BTreeMap};

use ::http::HeaderMap;
use chrono::DateTime;
use hmac::{Hmac, Mac as _};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::value::RawValue;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use super::{answer::ApiError, inbound};
use crate::{
    domain::failure::FailureClass,
    providers::{Access, CallbackRejected, Callbacks, ErrorRow, ErrorTable, Status, StatusCallback},
};

const SIGNATURE: &str = "x-hub-signature-256";

/// Meta: `GET ?hub.mode=subscribe&hub.challenge=…&hub.verify_token=…` is answered with the challenge.
pub(super) fn challenge(access: &Access, query: &BTreeMap<String, String>) -> Result<String, CallbackRejected> {
    let expected = access.credentials.get("verify_token").ok_or(CallbackRejected::SecretMissing("verify_token"))?;
    let given = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
    let is_ours = expected.expose_secret().as_bytes().ct_eq(given("hub.verify_token").as_bytes());
    match query.get("hub.challenge") {
        Some(challenge) if given("hub.mode") == "subscribe" && bool::from(is_ours) => Ok(challenge.clone()),
        _ => Err(CallbackRejected::ChallengeWrong),
    }
}

/// Meta: `X-Hub-Signature-256: sha256=<hex of HMAC-SHA256(app secret, raw body)>`.
pub(super) fn authenticate(access: &Access, headers: &HeaderMap, body: &[u8]) -> Result<(), CallbackRejected> {
    let secret = access.credentials.get("app_secret").ok_or(CallbackRejected::SecretMissing("app_secret"))?;
    let header = headers.get(SIGNATURE).ok_or(CallbackRejected::SignatureMissing(SIGNATURE))?;
    let mut given = [0; 32];
    let digits = header.as_bytes().strip_prefix(b"sha256=").ok_or(CallbackRejected::SignatureWrong)?;
    hex::decode_to_slice(digits, &mut given).map_err(|_| CallbackRejected::SignatureWrong)?;
    let mac = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes());
    let mut mac = mac.map_err(|_| CallbackRejected::SignatureWrong)?;
    mac.update(body);
    // Compares in constant time.
    mac.verify_slice(&given).map_err(|_| CallbackRejected::SignatureWrong)
}

/// A body, down to the depth that its type parameter says.
#[derive(Deserialize)]
struct Envelope<E> {
    entry: Vec<E>,
}

#[derive(Deserialize)]
struct Entry<'a, C> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    time: Option<&'a RawValue>,
    changes: Vec<C>,
}

#[derive(Deserialize)]
struct Change<'a, V> {
    #[serde(borrow)]
    field: Cow<'a, str>,
    value: V,
}

/// The value of the field `messages`: statuses and much else.
#[derive(Deserialize)]
struct Messages<S, I> {
    metadata: Option<Metadata>,
    statuses: Option<Vec<S>>,
    #[serde(rename = "messages")]
    inbound: Option<I>,
    errors: Option<IgnoredAny>,
    user_actions: Option<IgnoredAny>,
}

#[derive(Deserialize)]
pub(super) struct Metadata {
    pub(super) phone_number_id: String,
}

#[derive(Deserialize)]
struct StatusBody<'a> {
    id: String,
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(deserialize_with = "super::whole_number")]
    timestamp: i64,
    recipient_id: Option<String>,
    recipient_user_id: Option<String>,
    biz_opaque_callback_data: Option<String>,
    // Read only when the message failed, and then leniently: a failure must count even if its error is odd.
    #[serde(borrow)]
    errors: Option<&'a RawValue>,
}

/// What is kept of a body: a part as it came, and whose it is.
#[derive(Serialize)]
struct Kept<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phone_number_id: Option<&'a str>,
    field: &'a str,
    value: &'a RawValue,
}

/// Reads a body: at once when it is nothing but statuses, as nearly all are, else part by part.
pub(super) fn read(body: &[u8], table: &ErrorTable) -> Result<Callbacks, CallbackRejected> {
    if let Some(statuses) = only_statuses(body, table) {
        return Ok(Callbacks { statuses, ..Callbacks::default() });
    }
    let envelope: Envelope<&RawValue> =
        serde_json::from_slice(body).map_err(|error| CallbackRejected::Malformed(error.to_string()))?;
    let mut callbacks = Callbacks::default();
    for raw in envelope.entry {
        match serde_json::from_str::<Entry<'_, &RawValue>>(raw.get()) {
            Ok(entry) => entry.changes.iter().for_each(|change| read_change(&entry, change, table, &mut callbacks)),
            Err(_) => callbacks.kept.push(("unparsed", raw.get().to_owned())),
        }
    }
    Ok(callbacks)
}

/// The statuses of a body that holds nothing else and nothing odd.
fn only_statuses(body: &[u8], table: &ErrorTable) -> Option<Vec<StatusCallback>> {
    type Whole<'a> = Envelope<Entry<'a, Change<'a, Messages<StatusBody<'a>, IgnoredAny>>>>;

    let envelope: Whole<'_> = serde_json::from_slice(body).ok()?;
    let mut statuses = Vec::new();
    for change in envelope.entry.into_iter().flat_map(|entry| entry.changes) {
        let Messages { metadata, statuses: found, inbound: None, errors: None, user_actions: None } = change.value
        else {
            return None;
        };
        let (number, found) = (metadata?.phone_number_id, found?);
        if change.field != "messages" || found.is_empty() {
            return None;
        }
        for status in found {
            statuses.push(status.callback(&number, table)?);
        }
    }
    Some(statuses)
}

fn read_change(entry: &Entry<'_, &RawValue>, raw: &RawValue, table: &ErrorTable, callbacks: &mut Callbacks) {
    let Ok(change) = serde_json::from_str::<Change<'_, &RawValue>>(raw.get()) else {
        callbacks.kept.push(("unparsed", raw.get().to_owned()));
        return;
    };
    let mut keep = |kind, phone_number_id, field, value| {
        let kept = Kept { id: entry.id, time: entry.time, phone_number_id, field, value };
        // Writing words into memory cannot fail.
        callbacks.kept.push((kind, serde_json::to_string(&kept).unwrap_or_default()));
    };
    if change.field == "user_preferences" {
        let account = entry.id.and_then(|id| serde_json::from_str::<String>(id.get()).ok());
        return match inbound::preferences(account.as_deref(), change.value) {
            Some(found) => callbacks.preferences.extend(found),
            None => keep("management", None, &change.field, change.value),
        };
    }
    if change.field != "messages" {
        return keep("management", None, &change.field, change.value);
    }
    let Ok(value) = serde_json::from_str::<Messages<&RawValue, Vec<&RawValue>>>(change.value.get()) else {
        return keep("unparsed", None, &change.field, change.value);
    };
    let number = value.metadata.as_ref().map(|metadata| metadata.phone_number_id.as_str());
    let statuses = value.statuses.as_deref().unwrap_or_default();
    for raw in statuses {
        let status = serde_json::from_str::<StatusBody<'_>>(raw.get()).ok();
        match status.zip(number).and_then(|(status, number)| status.callback(number, table)) {
            Some(status) => callbacks.statuses.push(status),
            None => keep("unparsed", number, "statuses", raw),
        }
    }
    let messages = value.inbound.as_deref().unwrap_or_default();
    for raw in messages {
        match number.and_then(|number| inbound::message(number, raw)) {
            Some(message) => callbacks.inbound.push(message),
            None => keep("unparsed", number, "messages", raw),
        }
    }
    // Clicks come as `user_actions`; errors of the account or the app come without a message.
    if value.user_actions.is_some() {
        keep("inbound", number, &change.field, change.value);
    } else if value.errors.is_some() {
        keep("management", number, &change.field, change.value);
    } else if statuses.is_empty() && messages.is_empty() {
        keep("unparsed", number, &change.field, change.value);
    }
}

impl StatusBody<'_> {
    /// The callback; none when its time is not one.
    fn callback(self, number: &str, table: &ErrorTable) -> Option<StatusCallback> {
        let at = DateTime::from_timestamp(self.timestamp, 0)?;
        let status = match &*self.status {
            "sent" => Status::Sent,
            "delivered" => Status::Delivered,
            "read" => Status::Read,
            "failed" => self.failure(table),
            other => Status::Other(other.to_owned()),
        };
        Some(StatusCallback {
            token: self.biz_opaque_callback_data.and_then(|text| text.parse().ok()),
            provider_message_id: self.id,
            provider_number_id: number.to_owned(),
            status,
            at,
        })
    }

    fn failure(&self, table: &ErrorTable) -> Status {
        let recipients =
            [self.recipient_id.as_deref(), self.recipient_user_id.as_deref()].map(Option::unwrap_or_default);
        let errors = self.errors.and_then(|raw| serde_json::from_str::<Vec<ApiError>>(raw.get()).ok());
        let Some(error) = errors.as_ref().and_then(|errors| errors.first()) else {
            let reason = "the provider gave no readable error".to_owned();
            return Status::Failed {
                code: "unknown_code".to_owned(),
                class: FailureClass::Message,
                reason,
                wait: None,
            };
        };
        let code = error.code(table);
        let row = table.get(&code);
        // A code nobody has classed is never tried again: the message may have cost money or annoyed someone.
        let class = row.map_or(FailureClass::Message, ErrorRow::in_callback);
        Status::Failed { code, class, reason: error.reason(&recipients), wait: row.and_then(ErrorRow::wait) }
    }
}

#[cfg(test)]
mod tests;
