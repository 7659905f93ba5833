//! WhatsApp through Meta's Cloud API.
//!
//! The API has no idempotency key: what may have been taken is never called again here, and the token in
//! `biz_opaque_callback_data`, echoed by every status, is how its outcome is learned.

mod answer;
mod callbacks;
mod inbound;
mod request;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, LazyLock},
};

use ::http::HeaderMap;
use futures_util::future::join_all;
use serde::{
    Deserializer,
    de::{self, Visitor},
};

use crate::{
    domain::{Channel, failure::Outcome},
    providers::{Access, CallbackRejected, Callbacks, ErrorTable, Gate, Provider, SendRequest, http::HttpClient},
};

static ERRORS: LazyLock<ErrorTable> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "the table is compiled in and a test reads it")]
    ErrorTable::from_toml(include_str!("errors.toml")).expect("errors.toml is a table of codes")
});

/// The adapter.
#[derive(Debug)]
pub struct WhatsappCloud {
    client: HttpClient,
}

impl WhatsappCloud {
    /// An adapter on the shared client.
    pub fn new(client: HttpClient) -> Self {
        LazyLock::force(&ERRORS);
        Self { client }
    }

    async fn send_one(&self, request: &SendRequest, gate: &Arc<dyn Gate>) -> Outcome {
        let Some(bearer) = request.access.bearer() else {
            let reason = "the account has no access_token that can stand in a header".to_owned();
            return Outcome::Refused(ERRORS.refusal("credentials_missing".to_owned(), reason));
        };
        let Access { base_url, api_version, .. } = &*request.access;
        let url = format!("{base_url}/{api_version}/{}/messages", request.provider_number_id);
        match self.client.post_json(&url, bearer, request::body(request), gate).await {
            Ok(answer) => answer::outcome(&answer, &request.to, &ERRORS),
            Err(outcome) => outcome,
        }
    }
}

#[async_trait::async_trait]
impl Provider for WhatsappCloud {
    fn name(&self) -> &'static str {
        "whatsapp_cloud"
    }

    fn channel(&self) -> Channel {
        Channel::Whatsapp
    }

    async fn send(&self, requests: &[SendRequest], gate: &Arc<dyn Gate>) -> Vec<Outcome> {
        join_all(requests.iter().map(|request| self.send_one(request, gate))).await
    }

    fn challenge(&self, access: &Access, query: &BTreeMap<String, String>) -> Result<String, CallbackRejected> {
        callbacks::challenge(access, query)
    }

    fn authenticate(&self, access: &Access, headers: &HeaderMap, body: &[u8]) -> Result<(), CallbackRejected> {
        callbacks::authenticate(access, headers, body)
    }

    fn read_callbacks(&self, body: &[u8]) -> Result<Callbacks, CallbackRejected> {
        callbacks::read(body, &ERRORS)
    }

    fn errors(&self) -> &ErrorTable {
        &ERRORS
    }

    fn required_credentials(&self) -> &'static [&'static str] {
        &["access_token", "app_secret", "verify_token"]
    }
}

/// Meta: numbers such as `timestamp` come as text in one place and as numbers in another.
fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    struct WholeNumber;

    impl Visitor<'_> for WholeNumber {
        type Value = i64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a whole number, as such or as text")
        }

        fn visit_i64<E: de::Error>(self, value: i64) -> Result<i64, E> {
            Ok(value)
        }

        fn visit_u64<E: de::Error>(self, value: u64) -> Result<i64, E> {
            i64::try_from(value).map_err(E::custom)
        }

        fn visit_str<E: de::Error>(self, value: &str) -> Result<i64, E> {
            value.parse().map_err(E::custom)
        }
    }

    deserializer.deserialize_any(WholeNumber)
}

#[cfg(test)]
mod tests;
