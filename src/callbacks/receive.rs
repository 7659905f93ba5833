//! The callback URLs: `/hooks/{provider}/{hook}`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Group, Item};
use crate::{
    broker::{Broker, Publication, PublishError, Topology},
    domain::ids::AccountId,
    fault::{self, Point},
    providers::{self, CallbackRejected, Provider},
    store::registry::{Account, Directory},
};

/// Meta sends at most 3 MB.
const BODY_MAX: usize = 4 * 1024 * 1024;
/// Bytes of bodies in one broker message, well under what every broker version takes.
const GROUP_BYTES: usize = 1024 * 1024;
/// Requests waiting for the broker; more are told to come again.
const LINE: usize = 4096;
/// How long the provider is kept waiting for the broker's confirm: Meta asks for an answer within a second or so.
const PUBLISH_WITHIN: Duration = Duration::from_secs(5);

/// Takes callbacks and publishes them.
#[derive(Debug)]
pub struct Receiver {
    directory: Directory,
    providers: providers::Registry,
    line: mpsc::Sender<Waiting>,
    /// When an unknown hook last made us read the registry again.
    looked: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct Waiting {
    account: AccountId,
    body: Box<RawValue>,
    done: oneshot::Sender<bool>,
}

impl Receiver {
    /// Starts the publishing task; `group_max` requests share a broker message.
    pub fn start(
        directory: Directory,
        providers: providers::Registry,
        broker: &Broker,
        group_max: usize,
        stop: CancellationToken,
    ) -> Self {
        let (line, waiting) = mpsc::channel(LINE);
        let broker = broker.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = publish(broker, waiting, group_max) => {}
            }
        });
        Self { directory, providers, line, looked: Mutex::default() }
    }

    /// The account and adapter behind a URL; a hook made a moment ago is looked for once a second.
    async fn find(&self, provider: &str, hook: Uuid) -> Option<(Arc<Account>, Arc<dyn Provider>)> {
        let known = |directory: &Directory| directory.current().account_by_hook(hook).cloned();
        let mut account = known(&self.directory);
        if account.is_none() && self.may_look() {
            self.directory.refresh().await.ok();
            account = known(&self.directory);
        }
        let account = account.filter(|account| account.provider == provider)?;
        Some((account, Arc::clone(self.providers.get(provider)?)))
    }

    fn may_look(&self) -> bool {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let due = looked.is_none_or(|at| at.elapsed() > Duration::from_secs(1));
        if due {
            *looked = Some(Instant::now());
        }
        due
    }
}

/// The routes, without bearer tokens: providers sign.
pub fn routes(receiver: Receiver) -> Router {
    Router::new()
        .route("/hooks/{provider}/{hook}", get(verify).post(receive))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(Arc::new(receiver))
}

/// Answers the provider's challenge when somebody subscribes the URL.
async fn verify(
    State(receiver): State<Arc<Receiver>>,
    Path((provider, hook)): Path<(String, Uuid)>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let Some((account, provider)) = receiver.find(&provider, hook).await else {
        return unknown();
    };
    let Some(access) = &account.access else {
        return unusable();
    };
    match provider.challenge(access, &query) {
        Ok(challenge) => challenge.into_response(),
        Err(rejected) => refuse(&account, &rejected),
    }
}

async fn receive(
    State(receiver): State<Arc<Receiver>>,
    Path((provider, hook)): Path<(String, Uuid)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some((account, provider)) = receiver.find(&provider, hook).await else {
        return unknown();
    };
    let Some(access) = &account.access else {
        return unusable();
    };
    if let Err(rejected) = provider.authenticate(access, &headers, &body) {
        return refuse(&account, &rejected);
    }
    let body = match serde_json::from_slice(&body) {
        Ok(body) => body,
        Err(error) => return refuse(&account, &CallbackRejected::Malformed(error.to_string())),
    };
    let (done, published) = oneshot::channel();
    let waiting = Waiting { account: account.id, body, done };
    if receiver.line.try_send(waiting).is_err() {
        return later();
    }
    match published.await {
        Ok(true) => StatusCode::OK.into_response(),
        Ok(false) | Err(_) => later(),
    }
}

/// While one group waits for its confirm the next one gathers.
async fn publish(broker: Broker, mut line: mpsc::Receiver<Waiting>, group_max: usize) {
    let publisher = broker.publisher();
    let topology = broker.topology().clone();
    let mut taken = Vec::with_capacity(group_max);
    while line.recv_many(&mut taken, group_max).await > 0 {
        let messages = pack(&taken, &topology);
        let confirmed = match fault::pass(Point::ReceivedBefore) {
            Ok(()) => publisher.publish_within(messages, PUBLISH_WITHIN).await,
            Err(_) => Err(PublishError::Stopping),
        };
        let confirmed = confirmed.and_then(|()| fault::pass(Point::ReceivedAfter).map_err(|_| PublishError::Stopping));
        if let Err(error) = &confirmed {
            tracing::warn!(%error, callbacks = taken.len(), "could not publish callbacks; the provider will repeat them");
        }
        metrics::counter!("callbacks_received_total", "published" => if confirmed.is_ok() { "yes" } else { "no" })
            .increment(taken.len() as u64);
        for waiting in taken.drain(..) {
            // A provider that hung up repeats the callback.
            waiting.done.send(confirmed.is_ok()).ok();
        }
    }
}

fn pack(taken: &[Waiting], topology: &Topology) -> Vec<Publication> {
    let mut messages = Vec::new();
    let (mut items, mut bytes) = (Vec::new(), 0);
    let mut flush = |items: &mut Vec<Item<'_>>| {
        let group = Group { v: 1, items: std::mem::take(items) };
        let body = serde_json::to_vec(&group).unwrap_or_default();
        let id = Uuid::new_v4().to_string();
        messages.push(Publication::json(topology.entry(), Topology::CALLBACKS_KEY.to_owned(), id, body.into()));
    };
    for waiting in taken {
        items.push(Item { account: waiting.account, body: &waiting.body });
        bytes += waiting.body.get().len();
        if bytes >= GROUP_BYTES {
            flush(&mut items);
            bytes = 0;
        }
    }
    if !items.is_empty() {
        flush(&mut items);
    }
    messages
}

fn unknown() -> Response {
    (
        StatusCode::NOT_FOUND,
        "no account has this callback URL; `campaign-dispatch accounts show` prints the right one\n",
    )
        .into_response()
}

fn unusable() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "the account's credentials cannot be read\n").into_response()
}

fn later() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "the broker has not confirmed it; send it again\n").into_response()
}

fn refuse(account: &Account, rejected: &CallbackRejected) -> Response {
    metrics::counter!("callbacks_refused_total").increment(1);
    tracing::warn!(account.name = account.name, reason = %rejected, "refused a callback");
    let status = match rejected {
        CallbackRejected::SignatureMissing(_) | CallbackRejected::SignatureWrong => StatusCode::UNAUTHORIZED,
        CallbackRejected::ChallengeWrong => StatusCode::FORBIDDEN,
        CallbackRejected::SecretMissing(_) => StatusCode::SERVICE_UNAVAILABLE,
        CallbackRejected::Malformed(_) => StatusCode::BAD_REQUEST,
    };
    (status, format!("{rejected}\n")).into_response()
}
