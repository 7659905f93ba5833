//! Adapters to the HTTP and SMTP APIs that take messages, behind one seam.
//!
//! An adapter sends once: it never retries, sleeps, takes permits, touches the store or logs bodies. It says what
//! happened ([`Outcome`]); [`crate::domain`] decides what follows. To add a provider: a folder here and one line in
//! [`registry`].

pub mod errors;
mod guarded;
pub mod http;
mod reason;
pub mod whatsapp_cloud;

use std::{collections::BTreeMap, fmt, sync::Arc};

use ::http::{HeaderMap, HeaderValue};
use chrono::{DateTime, Utc};
pub use errors::{Advice, ErrorRow, ErrorTable, Resend};
use secrecy::{ExposeSecret as _, SecretString};

use crate::domain::{
    Channel,
    address::Address,
    failure::{FailureClass, Outcome},
    ids::Token,
    suppression::Wish,
    template::{Filled, Template},
};

/// How an account is reached: what a request needs and nothing more. Built from the registry, credentials decrypted.
#[derive(Debug, Clone)]
pub struct Access {
    /// Where the API is, without a trailing slash.
    pub base_url: String,
    /// The API's version as it stands in the path, for example `v25.0`.
    pub api_version: String,
    /// Secrets by name (`access_token`, `app_secret`, `verify_token`).
    pub credentials: Credentials,
    // Made once, because every call carries it.
    bearer: Option<HeaderValue>,
}

impl Access {
    /// How to reach an account; a slash at the end of `base_url` does not matter.
    pub fn new(base_url: &str, api_version: &str, credentials: Credentials) -> Self {
        let bearer = credentials.get("access_token").and_then(|token| {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose_secret())).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        let (base_url, api_version) = (base_url.trim_end_matches('/').to_owned(), api_version.to_owned());
        Self { base_url, api_version, credentials, bearer }
    }

    /// The `Authorization` of a call made with `access_token`; none when the account has no such secret, or one that
    /// cannot stand in a header.
    pub fn bearer(&self) -> Option<&HeaderValue> {
        self.bearer.as_ref()
    }
}

/// Secrets by name; `Debug` shows the names only.
#[derive(Clone, Default)]
pub struct Credentials(pub BTreeMap<String, SecretString>);

impl Credentials {
    /// The secret of this name.
    pub fn get(&self, name: &str) -> Option<&SecretString> {
        self.0.get(name)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// One message on its way out.
#[derive(Debug)]
pub struct SendRequest {
    /// How to reach the account.
    pub access: Arc<Access>,
    /// The sending number's id at the provider.
    pub provider_number_id: Arc<str>,
    /// The template as registered.
    pub template: Arc<Template>,
    /// Its slots, filled for this recipient.
    pub filled: Filled,
    /// The recipient as the channel takes it.
    pub to: Address,
    /// Echoed by every callback about this call.
    pub token: Token,
}

/// What is asked before a call is written, on the thread that writes: nothing may leave once it says no.
pub trait Gate: Send + Sync {
    /// Whether a call could be written now: asked before a connection is looked for.
    fn is_open(&self) -> bool;

    /// Whether the call may be written, asked once, in the instant it is.
    fn pass(&self) -> bool;
}

/// A closure answers both the same.
impl<F: Fn() -> bool + Send + Sync> Gate for F {
    fn is_open(&self) -> bool {
        self()
    }

    fn pass(&self) -> bool {
        self()
    }
}

/// A message callback as the provider told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusCallback {
    /// Our token, when the provider echoed one that is ours in form.
    pub token: Option<Token>,
    /// The provider's id of the message.
    pub provider_message_id: String,
    /// The sending number's id at the provider, which says whose callback it is.
    pub provider_number_id: String,
    /// What happened.
    pub status: Status,
    /// When, by the provider's clock.
    pub at: DateTime<Utc>,
}

/// What a status callback says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Left the provider.
    Sent,
    /// Reached the recipient's device.
    Delivered,
    /// Opened.
    Read,
    /// Did not arrive.
    Failed {
        /// The provider's code.
        code: String,
        /// What it means in a callback (a table may differ from the same code in an answer).
        class: FailureClass,
        /// The provider's words.
        reason: String,
        /// How long the table asks to wait.
        wait: Option<std::time::Duration>,
    },
    /// A word this version does not know; kept, never an error.
    Other(String),
}

/// A message of a recipient to one of our numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundCallback {
    /// The provider's id of the message.
    pub provider_message_id: String,
    /// The provider's id of the number it was written to.
    pub provider_number_id: String,
    /// Who wrote it.
    pub sender: Address,
    /// Other addresses of the same person.
    pub also: Vec<Address>,
    /// The provider's word for what it is.
    pub kind: String,
    /// What it says, or the label of the button.
    pub text: Option<String>,
    /// What stands behind a button.
    pub payload: Option<String>,
    /// A button of ours was tapped.
    pub is_button: bool,
    /// The provider's id of the message it answers.
    pub replies_to: Option<String>,
    /// When, by the provider's clock.
    pub at: DateTime<Utc>,
}

/// A recipient that changed at the provider what it takes of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreferenceCallback {
    /// The provider's id of the account.
    pub provider_account_id: Option<String>,
    /// The provider's id of the number, when it names one.
    pub provider_number_id: Option<String>,
    /// All addresses of the person.
    pub people: Vec<Address>,
    /// What it wants.
    pub wish: Wish,
    /// When, by the provider's clock.
    pub at: DateTime<Utc>,
}

/// What one callback body held.
#[derive(Debug, Default)]
pub struct Callbacks {
    /// Statuses of messages, in the order of the body.
    pub statuses: Vec<StatusCallback>,
    /// Messages of recipients.
    pub inbound: Vec<InboundCallback>,
    /// What recipients want.
    pub preferences: Vec<PreferenceCallback>,
    /// What else stood in it, each as the kind it is kept under (`inbound`, `management`, `unparsed`) and its JSON.
    pub kept: Vec<(&'static str, String)>,
}

/// Why a callback was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallbackRejected {
    /// The signature header is missing.
    #[error("the signature header {0} is missing")]
    SignatureMissing(&'static str),
    /// The signature does not fit the body.
    #[error("the signature does not fit the body and the account's app_secret")]
    SignatureWrong,
    /// The account has no secret to check with.
    #[error("the account has no {0} to check callbacks with")]
    SecretMissing(&'static str),
    /// The verification challenge carries another token.
    #[error("hub.mode is not `subscribe` or hub.verify_token is not the account's verify_token")]
    ChallengeWrong,
    /// The body is not what this provider sends.
    #[error("the body is not the provider's JSON: {0}")]
    Malformed(String),
}

/// One provider's dialect.
#[async_trait::async_trait]
pub trait Provider: fmt::Debug + Send + Sync {
    /// The name in settings, URLs and rows, for example `whatsapp_cloud`.
    fn name(&self) -> &'static str;

    /// The channel it serves.
    fn channel(&self) -> Channel;

    /// Sends each request once and answers for each, in order. `gate` is asked before a connection is looked for and
    /// again immediately before the first byte of a call is written; a call it stops is [`Outcome::NotCalled`].
    async fn send(&self, requests: &[SendRequest], gate: &Arc<dyn Gate>) -> Vec<Outcome>;

    /// Answers the provider's verification of the callback URL: the body to reply with.
    fn challenge(&self, access: &Access, query: &BTreeMap<String, String>) -> Result<String, CallbackRejected>;

    /// Checks that the provider wrote the callback.
    fn authenticate(&self, access: &Access, headers: &HeaderMap, body: &[u8]) -> Result<(), CallbackRejected>;

    /// Reads an authenticated callback. Unknown fields and words are kept, never an error.
    fn read_callbacks(&self, body: &[u8]) -> Result<Callbacks, CallbackRejected>;

    /// The provider's codes and what they mean.
    fn errors(&self) -> &ErrorTable;

    /// The credentials an account of this provider must have.
    fn required_credentials(&self) -> &'static [&'static str];
}

/// All providers by name.
#[derive(Debug, Clone)]
pub struct Registry(Arc<BTreeMap<&'static str, Arc<dyn Provider>>>);

/// All providers this version speaks to, on one HTTP client.
pub fn registry(client: &http::HttpClient) -> Registry {
    Registry::of([Arc::new(whatsapp_cloud::WhatsappCloud::new(client.clone())) as Arc<dyn Provider>])
}

impl Registry {
    /// These providers, by their own names.
    pub fn of(providers: impl IntoIterator<Item = Arc<dyn Provider>>) -> Self {
        Self(Arc::new(providers.into_iter().map(|provider| (provider.name(), provider)).collect()))
    }

    /// The provider of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<dyn Provider>> {
        self.0.get(name)
    }

    /// The names known, in order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.keys().copied()
    }
}
