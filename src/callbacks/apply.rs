//! Applies callbacks in bulk: each status becomes a change of its message, by our own token.
//!
//! A callback may only speak for messages of the app that signed it: the number it names must belong to an account
//! with the same app secret. What comes before the call is settled waits and is tried again; what never fits is kept
//! as *unmatched*.

use std::{collections::HashMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Group,
    hear::{Heard, hear},
};
use crate::{
    broker::{Broker, Consumer, Delivery},
    domain::{
        failure::{FailureClass, FaultScope, Reaction},
        hold::Resume,
        ids::{AccountId, MessageKey, NumberId},
        message::MessageEvent,
        retry::{PERSIST, RetryPolicy},
        suppression::Words,
    },
    fault::{self, Point},
    providers::{self, Status, StatusCallback},
    settings::Settings,
    store::{
        Session, Store, StoreError,
        callbacks::{self as rows, Kept},
        chain,
        messages::{self, Applied, Change, Failure, Fault, Next, Rules},
        registry::{Directory, Snapshot},
        traffic,
    },
};

/// How often waiting callbacks are looked at.
const WAITING_EVERY: Duration = Duration::from_secs(1);
/// How often a small group is applied at most: under a light load several callbacks share a transaction all the same, and
/// leave the database to those who wait for it.
const SMALL_GROUP_EVERY: Duration = Duration::from_millis(50);
/// Deliveries that are worth a transaction at once.
const WORTH_ONE: usize = 64;

/// Consumes `dispatch.callbacks` and applies what it says.
#[derive(Debug)]
pub struct Applier {
    session: Session,
    directory: Directory,
    providers: providers::Registry,
    settings: Arc<Settings>,
    policy: RetryPolicy,
    words: Words,
    /// Of which numbers statuses came since that was written.
    heard_of: traffic::Counts,
}

/// A status on its way to its message, as it is also stored while it waits.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Event {
    account: AccountId,
    token: String,
    number: String,
    status: String,
    at: chrono::DateTime<chrono::Utc>,
    #[serde(default)]
    provider_message_id: String,
    #[serde(default)]
    failure: Option<(String, FailureClass, String, Option<u64>)>,
}

/// What is there at `not_before` or comes after it.
async fn gathered(consumer: &mut Consumer, most: u16, not_before: Instant) -> Vec<Delivery> {
    time::sleep_until(not_before).await;
    consumer.next_batch(usize::from(most)).await
}

impl Applier {
    /// An applier with a database connection of its own.
    pub fn new(store: &Store, directory: Directory, providers: providers::Registry, settings: Arc<Settings>) -> Self {
        let (policy, words) = (settings.retry.policy(), settings.suppression.words());
        let (session, heard_of) = (Session::new(store.clone(), "callbacks"), traffic::Counts::default());
        Self { session, directory, providers, settings, policy, words, heard_of }
    }

    /// Applies until `stop`; what is being applied is finished and acknowledged.
    pub async fn run(mut self, broker: Broker, stop: CancellationToken) {
        let settings = Arc::clone(&self.settings);
        let mut consumer = broker.consumer(broker.topology().callbacks(), settings.callbacks.prefetch);
        let mut waiting_at = Instant::now();
        let mut not_before = waiting_at;
        loop {
            let deliveries = tokio::select! {
                () = stop.cancelled() => break,
                () = time::sleep_until(waiting_at) => Vec::new(),
                deliveries = gathered(&mut consumer, settings.callbacks.prefetch, not_before) => deliveries,
            };
            if deliveries.is_empty() {
                waiting_at = Instant::now() + WAITING_EVERY;
                self.until_done(Self::try_waiting, &[], &stop).await;
                continue;
            }
            if deliveries.len() < WORTH_ONE {
                not_before = Instant::now() + SMALL_GROUP_EVERY;
            }
            if self.until_done(Self::try_deliveries, &deliveries, &stop).await {
                // Without an acknowledgement the group comes again when its channel ends.
                if fault::pass(Point::AppliedAfter).is_ok() {
                    consumer.ack(deliveries.iter().map(|delivery| delivery.tag)).await;
                }
            }
        }
        consumer.close().await;
    }

    /// Runs a step again until the database has it; a process that stops leaves it to whoever is told again.
    async fn until_done(
        &mut self,
        work: impl AsyncFn(&mut Self, &[Delivery]) -> Result<(), StoreError>,
        deliveries: &[Delivery],
        stop: &CancellationToken,
    ) -> bool {
        for tries in 1.. {
            let Err(error) = work(self, deliveries).await else { return true };
            self.session.reset();
            tracing::warn!(error = %chain(&error), "could not apply callbacks; trying again");
            if stop.is_cancelled() {
                break;
            }
            time::sleep(PERSIST.wait_after(tries)).await;
        }
        false
    }

    async fn try_deliveries(&mut self, deliveries: &[Delivery]) -> Result<(), StoreError> {
        let (mut events, mut kept, mut heard) = (Vec::new(), Vec::new(), Heard::default());
        for delivery in deliveries {
            self.read(delivery, &mut events, &mut kept, &mut heard);
        }
        hear(&mut self.session, &self.directory.current(), &self.words, &heard).await?;
        rows::keep(self.session.connection().await?, &kept).await?;
        let most = self.settings.callbacks.apply_max.max(1);
        for group in events.chunks(most) {
            let unsettled = self.apply(group, true).await?;
            let waiting: Vec<_> = unsettled.iter().map(|event| (event.account, encode(event))).collect();
            rows::wait(self.session.connection().await?, &waiting).await?;
        }
        Ok(())
    }

    /// Writes how much was heard, and tries what waited again; what has waited too long is kept as unmatched.
    async fn try_waiting(&mut self, _: &[Delivery]) -> Result<(), StoreError> {
        if !self.heard_of.is_empty() {
            traffic::heard(self.session.connection().await?, &self.heard_of).await?;
            self.heard_of = traffic::Counts::default();
        }
        let most = i64::try_from(self.settings.callbacks.apply_max).unwrap_or(500);
        let waiting = rows::waiting(self.session.connection().await?, most).await?;
        if waiting.is_empty() {
            return Ok(());
        }
        let events: Vec<Event> =
            waiting.iter().filter_map(|row| serde_json::from_value(row.event.clone()).ok()).collect();
        let unsettled: std::collections::HashSet<String> =
            self.apply(&events, false).await?.into_iter().map(|event| encode(&event).to_string()).collect();
        let (mut done, mut again, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        for row in waiting {
            if !unsettled.contains(&row.event.to_string()) {
                done.push(row.id);
            } else if row.waited_s > self.settings.callbacks.wait_max_s {
                done.push(row.id);
                kept.push(Kept { account: row.account, kind: "unmatched", body: row.event.to_string() });
            } else {
                again.push(row.id);
            }
        }
        let connection = self.session.connection().await?;
        rows::keep(connection, &kept).await?;
        rows::settle_waiting(connection, &done, &again).await
    }

    /// What a broker message holds. Nothing in it can stop the rest: what cannot be read is kept.
    fn read(&self, delivery: &Delivery, events: &mut Vec<Event>, kept: &mut Vec<Kept>, heard: &mut Heard) {
        let group: Group<'_> = match serde_json::from_slice(&delivery.body) {
            Ok(group) => group,
            Err(error) => {
                tracing::error!(%error, "a message on the callbacks queue is not ours");
                return;
            }
        };
        let snapshot = self.directory.current();
        for item in group.items {
            let Some(account) = snapshot.accounts.get(&item.account) else {
                continue;
            };
            let Some(provider) = self.providers.get(&account.provider) else {
                continue;
            };
            match provider.read_callbacks(item.body.get().as_bytes()) {
                Ok(callbacks) => {
                    kept.extend(callbacks.kept.into_iter().map(|(kind, body)| Kept {
                        account: account.id,
                        kind,
                        body,
                    }));
                    events.extend(callbacks.statuses.into_iter().filter_map(|status| event(account.id, status)));
                    heard.inbound.extend(callbacks.inbound.into_iter().map(|message| (account.id, message)));
                    heard.preferences.extend(callbacks.preferences.into_iter().map(|wish| (account.id, wish)));
                }
                Err(error) => {
                    tracing::warn!(account.name = account.name, %error, "kept a callback that cannot be read");
                    kept.push(Kept { account: account.id, kind: "unparsed", body: item.body.get().to_owned() });
                }
            }
        }
    }

    /// Applies statuses; returns those whose message or settle is not there yet. Those that have just come are counted.
    async fn apply(&mut self, events: &[Event], just_came: bool) -> Result<Vec<Event>, StoreError> {
        let snapshot = self.directory.current();
        let mut speakers = Speakers::default();
        let mut changes = Vec::with_capacity(events.len());
        let mut sources = Vec::with_capacity(events.len());
        for event in events {
            let Some(token) = event.token.parse::<crate::domain::ids::Token>().ok() else {
                continue;
            };
            if snapshot.installation.as_ref() != Some(&token.installation) {
                metrics::counter!("callbacks_foreign_total").increment(1);
                continue;
            }
            let numbers = speakers.of(&snapshot, event);
            if just_came {
                numbers.iter().for_each(|number| self.heard_of.add(*number));
            }
            let Some(change) = self.change(event, token.key, token.attempt, numbers) else {
                continue;
            };
            changes.push(change);
            sources.push(event);
        }
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        let rules = Rules {
            grace: Duration::from_secs(self.settings.uncertain.grace_s),
            events: self.settings.events.wanted(),
        };
        let outcome = messages::apply(self.session.connection().await?, &changes, rules).await?;
        metrics::counter!("callbacks_applied_total").increment(changes.len() as u64);
        let unsettled = outcome
            .applied
            .iter()
            .zip(sources)
            .filter(|(applied, _)| matches!(applied, Some(Applied::Wait | Applied::Unmatched)))
            .map(|(_, event)| event.clone())
            .collect::<Vec<_>>();
        metrics::counter!("callbacks_before_settle_total").increment(unsettled.len() as u64);
        Ok(unsettled)
    }

    fn change(&self, event: &Event, key: MessageKey, attempt: i16, numbers: Arc<[NumberId]>) -> Option<Change> {
        let (message_event, next) = match event.status.as_str() {
            "sent" => (MessageEvent::Sent, Next::Ready),
            "delivered" => (MessageEvent::Delivered, Next::Ready),
            "read" => (MessageEvent::Read, Next::Ready),
            "failed" => self.failed(event, attempt),
            _ => return None,
        };
        let fault = event.failure.as_ref().and_then(|(_, class, _, wait)| match class.reaction() {
            Reaction::Park(scope) => Some(self.fault(event, scope, wait.map(Duration::from_secs))),
            Reaction::Later { .. } | Reaction::Fail | Reaction::Unknown => None,
        });
        let failure = event.failure.clone().map(|(code, class, reason, _)| Failure { code, class, reason });
        Some(Change {
            at: Some(event.at),
            provider_message_id: Some(event.provider_message_id.clone()).filter(|id| !id.is_empty()),
            failure,
            next,
            fault,
            only_numbers: Some(numbers),
            ..Change::new(key, attempt, message_event)
        })
    }

    /// The hold of a fault told later: who ends it is in the table of codes.
    fn fault(&self, event: &Event, scope: FaultScope, wait: Option<Duration>) -> Fault {
        let snapshot = self.directory.current();
        let provider = snapshot.accounts.get(&event.account).and_then(|account| self.providers.get(&account.provider));
        let code = event.failure.as_ref().map_or("", |(code, ..)| code);
        let resume = provider.map_or(Resume::Person, |provider| provider.errors().resume(code));
        let first_probe = Duration::from_secs(self.settings.hold.probe_base_s);
        match (wait, resume) {
            (Some(wait), _) => Fault { scope, lasts: Some(wait), resume: Resume::Time },
            (None, Resume::Probe) => Fault { scope, lasts: Some(first_probe), resume },
            (None, resume) => Fault { scope, lasts: None, resume },
        }
    }

    /// A failure told later is final, unless it is transient or throttled, young enough and within the cap.
    fn failed(&self, event: &Event, attempt: i16) -> (MessageEvent, Next) {
        let Some((_, class, _, wait)) = &event.failure else {
            return (MessageEvent::Failed, Next::Ready);
        };
        let young = chrono::Utc::now() - event.at < chrono::Duration::hours(self.settings.callbacks.retry_window_h);
        match class.reaction() {
            Reaction::Later { charged } if young && (!charged || self.policy.allows(attempt)) => {
                let tries = u32::try_from(attempt).unwrap_or(1);
                let after = wait.map_or_else(|| self.policy.wait_after(tries), Duration::from_secs);
                (MessageEvent::FailedForNow, Next::Wait { after, charged })
            }
            _ => (MessageEvent::Failed, Next::Ready),
        }
    }
}

/// Which numbers a callback may speak for, by account and the number it names.
#[derive(Default)]
struct Speakers(HashMap<(AccountId, String), Arc<[NumberId]>>);

impl Speakers {
    fn of(&mut self, snapshot: &Snapshot, event: &Event) -> Arc<[NumberId]> {
        let key = (event.account, event.number.clone());
        if let Some(known) = self.0.get(&key) {
            return Arc::clone(known);
        }
        let digest = snapshot.accounts.get(&event.account).map(|account| &account.app_digest);
        let numbers: Arc<[NumberId]> = snapshot
            .numbers
            .values()
            .filter(|n| *n.provider_number_id == *event.number && Some(&n.account.app_digest) == digest)
            .map(|n| n.id)
            .collect();
        self.0.insert(key, Arc::clone(&numbers));
        numbers
    }
}

/// A status with a token of ours; without one it is about somebody else's message.
fn event(account: AccountId, callback: StatusCallback) -> Option<Event> {
    let Some(token) = callback.token else {
        metrics::counter!("callbacks_foreign_total").increment(1);
        return None;
    };
    let (status, failure) = match callback.status {
        Status::Sent => ("sent".to_owned(), None),
        Status::Delivered => ("delivered".to_owned(), None),
        Status::Read => ("read".to_owned(), None),
        Status::Failed { code, class, reason, wait } => {
            ("failed".to_owned(), Some((code, class, reason, wait.map(|wait| wait.as_secs()))))
        }
        Status::Other(word) => {
            metrics::counter!("callbacks_other_total").increment(1);
            tracing::debug!(status = word, "a status this version does not know");
            return None;
        }
    };
    let (number, provider_message_id) = (callback.provider_number_id, callback.provider_message_id);
    Some(Event { account, token: token.to_string(), number, status, at: callback.at, provider_message_id, failure })
}

fn encode(event: &Event) -> serde_json::Value {
    serde_json::to_value(event).unwrap_or_default()
}
