//! Tells people on duty: a signed POST to a chat tool, a mail, or both, in the order in which it was written.
//!
//! What is to be told is a row, written with the alarms it is about. A process takes the oldest, tells it, and deletes it; one
//! that is killed in between leaves it to the next, which tells it again with the same id. Never tells it twice otherwise.

use std::{sync::Arc, time::Duration};

use hmac::{Hmac, Mac as _};
use lettre::{
    AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor,
    message::{Mailbox, header::ContentType},
};
use reqwest::{Client, Url, redirect, retry};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use sha2::Sha256;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    domain::retry::RetryPolicy,
    settings,
    store::{
        Store, StoreError, chain,
        notifications::{self, Notification, Way},
    },
};

/// Looks by itself this often.
const EVERY: Duration = Duration::from_secs(1);
/// What is being told is nobody else's for as long as that may take, and for this much longer.
const MARGIN: Duration = Duration::from_secs(10);
/// Waits between tries.
const AGAIN: RetryPolicy =
    RetryPolicy { base: Duration::from_secs(2), ceiling: Duration::from_mins(5), charged_cap: i16::MAX };

/// Why nobody can be told.
#[derive(Debug, thiserror::Error)]
pub enum CannotNotify {
    /// The address of the chat tool.
    #[error("notify.url is no web address")]
    Url,
    /// No client.
    #[error("could not make the HTTP client for notify.url")]
    Client(#[source] reqwest::Error),
    /// The address of the mail server.
    #[error("notify.smtp_url is no address of a mail server, such as smtps://user:password@host")]
    Smtp(#[source] lettre::transport::smtp::Error),
    /// A sender or recipient.
    #[error("notify.{key}: `{given}` is no mail address")]
    Mailbox {
        /// Which setting.
        key: &'static str,
        /// What it says.
        given: String,
    },
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
enum NotTaken {
    #[error("no answer from notify.url")]
    NoAnswer(#[source] reqwest::Error),
    #[error("notify.url answered {0}")]
    Refused(reqwest::StatusCode),
    #[error("could not write the mail")]
    Mail(#[source] lettre::error::Error),
    #[error("the mail server did not take it")]
    Smtp(#[source] lettre::transport::smtp::Error),
    #[error("notify.timeout_ms is over")]
    Timeout,
}

/// How people are told; none when the settings name nobody.
#[derive(Debug, Clone)]
pub struct Ways {
    chat: Option<Chat>,
    mail: Option<Mail>,
    timeout: Duration,
    give_up: Duration,
}

/// An incoming webhook of a chat tool.
#[derive(Debug, Clone)]
struct Chat {
    client: Client,
    url: SecretString,
    secret: SecretString,
}

#[derive(Debug, Clone)]
struct Mail {
    server: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    to: Vec<Mailbox>,
}

impl Ways {
    /// Those that the settings name.
    pub fn new(settings: &settings::Notify) -> Result<Self, CannotNotify> {
        let is_set = |secret: &SecretString| !secret.expose_secret().is_empty();
        let timeout = Duration::from_millis(settings.timeout_ms);
        let chat = if is_set(&settings.url) { Some(Chat::new(settings, timeout)?) } else { None };
        let mail = if is_set(&settings.smtp_url) { Some(Mail::new(settings, timeout)?) } else { None };
        Ok(Self { chat, mail, timeout, give_up: Duration::from_secs(settings.give_up_h.saturating_mul(3600)) })
    }

    /// Their names.
    pub fn all(&self) -> Vec<Way> {
        let ways = [self.chat.as_ref().map(|_| Way::Http), self.mail.as_ref().map(|_| Way::Mail)];
        ways.into_iter().flatten().collect()
    }

    async fn tell(&self, way: Way, message: &Notification) -> Result<(), NotTaken> {
        let telling = async {
            match (way, &self.chat, &self.mail) {
                (Way::Http, Some(chat), _) => chat.tell(message).await,
                (Way::Mail, _, Some(mail)) => mail.tell(message).await,
                (Way::Http | Way::Mail, ..) => Ok(()),
            }
        };
        tokio::time::timeout(self.timeout, telling).await.unwrap_or(Err(NotTaken::Timeout))
    }
}

impl Chat {
    fn new(settings: &settings::Notify, timeout: Duration) -> Result<Self, CannotNotify> {
        if Url::parse(settings.url.expose_secret()).is_err() {
            return Err(CannotNotify::Url);
        }
        // An error says that another part of the process was first, which is the same provider.
        drop(rustls::crypto::ring::default_provider().install_default());
        let builder = Client::builder()
            .user_agent(concat!("campaign-dispatch/", env!("CARGO_PKG_VERSION")))
            .timeout(timeout)
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .no_proxy();
        let client = builder.build().map_err(CannotNotify::Client)?;
        Ok(Self { client, url: settings.url.clone(), secret: settings.secret.clone() })
    }

    async fn tell(&self, message: &Notification) -> Result<(), NotTaken> {
        let body = json!({ "text": message.text }).to_string();
        let request = self
            .client
            .post(self.url.expose_secret())
            .header("content-type", "application/json")
            .header("x-dispatch-id", message.id.to_string())
            .header("x-dispatch-signature", signature(&self.secret, body.as_bytes()))
            .body(body);
        // The address is a secret of the chat tool.
        let response = request.send().await.map_err(|error| NotTaken::NoAnswer(error.without_url()))?;
        if response.status().is_success() { Ok(()) } else { Err(NotTaken::Refused(response.status())) }
    }
}

/// `sha256=` and the HMAC-SHA256 of the raw body.
fn signature(secret: &SecretString, body: &[u8]) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes());
    let signed = mac.map(|mac| mac.chain_update(body).finalize().into_bytes());
    // A key of any length is one.
    signed.map_or_else(|_| String::new(), |signed| format!("sha256={}", hex::encode(signed)))
}

impl Mail {
    fn new(settings: &settings::Notify, timeout: Duration) -> Result<Self, CannotNotify> {
        let read = |key: &'static str, given: &str| {
            given.trim().parse::<Mailbox>().map_err(|_| CannotNotify::Mailbox { key, given: given.to_owned() })
        };
        let server = AsyncSmtpTransport::<Tokio1Executor>::from_url(settings.smtp_url.expose_secret())
            .map_err(CannotNotify::Smtp)?
            .timeout(Some(timeout))
            .build();
        let to = settings.mail_to.split(',').map(|given| read("mail_to", given)).collect::<Result<_, _>>()?;
        Ok(Self { server, from: read("mail_from", &settings.mail_from)?, to })
    }

    async fn tell(&self, message: &Notification) -> Result<(), NotTaken> {
        let subject = message.text.lines().next().unwrap_or_default();
        let mut mail = Message::builder().from(self.from.clone()).subject(subject).header(ContentType::TEXT_PLAIN);
        mail = mail.message_id(Some(format!(
            "<alarm.{}.{}@campaign-dispatch>",
            message.id,
            message.created_at.timestamp()
        )));
        for to in &self.to {
            mail = mail.to(to.clone());
        }
        let mail = mail.body(message.text.clone()).map_err(NotTaken::Mail)?;
        self.server.send(mail).await.map(drop).map_err(NotTaken::Smtp)
    }
}

/// What one turn did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nothing is to be told now.
    Idle,
    /// A message was taken.
    Told,
    /// A message was not taken, and is told again later.
    Later,
    /// A message is given up.
    GivenUp,
}

/// Tells what is owed. Any number of processes may: each message is told by one of them.
#[derive(Debug)]
pub struct Notifier {
    store: Store,
    ways: Ways,
    owed: Arc<Notify>,
}

impl Notifier {
    /// One that tells by these ways.
    pub fn new(store: &Store, ways: Ways) -> Self {
        Self { store: store.clone(), ways, owed: Arc::default() }
    }

    /// How it tells.
    pub fn ways(&self) -> &Ways {
        &self.ways
    }

    /// To be notified when something is owed.
    pub fn owed(&self) -> Arc<Notify> {
        Arc::clone(&self.owed)
    }

    /// Tells until `stop`: a way that does not answer keeps no other waiting.
    pub async fn run(self, stop: CancellationToken) {
        let ways = self.ways.all();
        if ways.is_empty() {
            return stop.cancelled().await;
        }
        futures_util::future::join_all(ways.into_iter().map(|way| self.run_way(way, &stop))).await;
    }

    async fn run_way(&self, way: Way, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            // What is being told is waited for: nobody knows otherwise whether it was.
            match self.step(way).await {
                Ok(Turn::Told | Turn::GivenUp) => continue,
                Ok(Turn::Idle | Turn::Later) => {}
                Err(error) => tracing::warn!(error = %chain(&error), "could not look what is to be told; trying again"),
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.owed.notified() => {}
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    /// Tells the oldest message of a way, if it is due.
    pub async fn step(&self, way: Way) -> Result<Turn, StoreError> {
        let mut connection = self.store.acquire().await?;
        let taken = notifications::take(&mut connection, way, self.ways.timeout + MARGIN).await?;
        let Some(message) = taken else { return Ok(Turn::Idle) };
        // Nobody's connection waits for a chat tool.
        drop(connection);
        let told = self.ways.tell(way, &message).await;
        let mut connection = self.store.acquire().await?;
        let Err(error) = told else {
            notifications::delete(&mut connection, message.id).await?;
            metrics::counter!("notifications_total", "way" => way.as_str(), "outcome" => "told").increment(1);
            return Ok(Turn::Told);
        };
        metrics::counter!("notifications_total", "way" => way.as_str(), "outcome" => "failed").increment(1);
        if message.age > self.ways.give_up {
            tracing::error!(error = %chain(&error), text = message.text, "nobody could be told; the message is given up");
            notifications::delete(&mut connection, message.id).await?;
            return Ok(Turn::GivenUp);
        }
        tracing::warn!(error = %chain(&error), way = %way, tries = message.tries, "could not tell people on duty; trying again");
        let wait = AGAIN.wait_after(u32::try_from(message.tries).unwrap_or(1));
        notifications::wait(&mut connection, message.id, wait).await?;
        Ok(Turn::Later)
    }
}
