//! Looks for alarms every few seconds, by one process at a time: what stands is raised once, as an event and as a message to
//! people, in the transaction that writes it down.
//!
//! Which signs are an alarm is decided in [`crate::domain::alarm`]. The row of the round is locked until the commit: two
//! looks never overlap, and one that fails is made again by whoever comes next.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    Nudge,
    notify::{Notifier, Ways},
};
use crate::{
    broker::{Broker, Depth},
    domain::alarm::{self, AlarmKind, News, Sign, Step},
    settings::Settings,
    store::{
        Connection, Store, StoreError,
        alarms::{self, Told, signs},
        chain, commit, notifications,
        outbox::{self, OutboxMessage},
        rounds, traffic,
        work::numbers_with_work,
    },
};

/// Failures of the last minutes name the batches that fail. Callbacks tell them by the provider's clock.
const FAILURES: Duration = Duration::from_mins(15);
/// How often old minutes of traffic are deleted.
const TIDY_EVERY: Duration = Duration::from_mins(10);

/// Looks for alarms. Any number of processes may: each look is taken by one of them.
#[derive(Debug)]
pub struct Watch {
    store: Store,
    broker: Broker,
    settings: Arc<Settings>,
    nudge: Arc<Nudge>,
    ways: Ways,
    owed: Arc<Notify>,
}

impl Watch {
    /// One whose alarms `notifier` tells; `nudge` makes it look at once.
    pub fn new(store: &Store, broker: Broker, settings: Arc<Settings>, nudge: Arc<Nudge>, notifier: &Notifier) -> Self {
        let (ways, owed) = (notifier.ways().clone(), notifier.owed());
        Self { store: store.clone(), broker, settings, nudge, ways, owed }
    }

    /// Looks until `stop`; `outbox` is told when events are owed.
    pub async fn run(mut self, outbox: Arc<Notify>, stop: CancellationToken) {
        let every = Duration::from_secs(self.settings.alarm.every_s);
        let mut at_once = false;
        while !stop.is_cancelled() {
            match self.step(at_once).await {
                Ok(told) if told.is_empty() => {}
                Ok(_) => outbox.notify_one(),
                Err(error) => tracing::warn!(error = %chain(&error), "could not look for alarms; trying again"),
            }
            at_once = tokio::select! {
                () = stop.cancelled() => false,
                () = self.nudge.for_alarms() => true,
                () = tokio::time::sleep(every) => false,
            };
        }
    }

    /// One look, unless another process has just looked; with `at_once`, whoever has. Says what was told.
    pub async fn step(&mut self, at_once: bool) -> Result<Vec<Told>, StoreError> {
        let depths = self.depths().await;
        let every = if at_once { Duration::ZERO } else { Duration::from_secs(self.settings.alarm.every_s) };
        let mut work = self.store.begin().await?;
        let mut told = Vec::new();
        if rounds::begin(&mut work, "alarms", every).await? {
            told = self.look(&mut work, depths).await?;
            if rounds::begin(&mut work, "traffic", TIDY_EVERY).await? {
                traffic::delete_old(&mut work).await?;
            }
        }
        let standing = alarms::by_kind(&mut work).await?;
        commit(work, "commit alarms").await?;
        if !told.is_empty() {
            self.owed.notify_one();
        }
        told.iter().for_each(tell);
        show(&standing);
        Ok(told)
    }

    /// What lies in the queues, as far as the broker says it.
    async fn depths(&self) -> Option<Vec<Depth>> {
        if !self.broker.is_connected() {
            return None;
        }
        let depths = match self.broker.depths().await {
            Ok(depths) => depths,
            Err(error) => {
                tracing::debug!(error = %chain(&error), "the broker does not say how full its queues are");
                return None;
            }
        };
        for depth in &depths {
            metrics::gauge!("broker_queue_messages", "queue" => depth.name.clone()).set(f64::from(depth.messages));
        }
        Some(depths)
    }

    async fn look(&self, connection: &mut Connection, depths: Option<Vec<Depth>>) -> Result<Vec<Told>, StoreError> {
        let (signs, looked_at) = self.signs(connection, depths).await?;
        let (now, noted) = (alarms::now(connection).await?, alarms::noted(connection).await?);
        let steps = alarm::steps(now, &self.settings.alarm.limits(), &looked_at, &signs, &noted);
        let news = write(connection, &steps).await?;
        if news.is_empty() {
            return Ok(Vec::new());
        }
        let told = alarms::told(connection, &news).await?;
        let events: Vec<OutboxMessage> = told.iter().filter_map(Told::event).collect();
        outbox::insert(connection, &events).await?;
        let ways = self.ways.all();
        if !ways.is_empty() {
            let words: Vec<_> = told.iter().map(|told| (told.news, told.alarm.clone())).collect();
            notifications::insert(connection, &ways, &alarm::text(&words)).await?;
        }
        Ok(told)
    }

    /// Everything that may be an alarm, and the kinds that could be looked at.
    async fn signs(
        &self,
        connection: &mut Connection,
        depths: Option<Vec<Depth>>,
    ) -> Result<(Vec<Sign>, Vec<AlarmKind>), StoreError> {
        let (alarm, uncertain) = (&self.settings.alarm, &self.settings.uncertain);
        let mut found = signs::holds(connection).await?;
        found.extend(signs::failing(connection, FAILURES).await?);
        found.extend(signs::late_firings(connection).await?);
        found.extend(signs::silent(connection, Duration::from_secs(alarm.silent_s)).await?);
        let grace = Duration::from_secs(uncertain.grace_s);
        found.extend(signs::uncertain(connection, grace, uncertain.give_up()).await?);
        found.extend(signs::outbox(connection).await?);
        found.extend(signs::tallies(connection).await?);
        let numbers = numbers_with_work(connection).await?;
        found.extend(signs::unserved(connection, &numbers).await?);
        let mut looked_at = AlarmKind::ALL.to_vec();
        match depths {
            Some(depths) => found.extend(unrouted(depths, &self.broker.topology().unrouted())),
            // Nobody knows what lies there: what was an alarm stays one.
            None => looked_at.retain(|kind| *kind != AlarmKind::Unrouted),
        }
        Ok((found, looked_at))
    }
}

fn unrouted(depths: Vec<Depth>, queue: &str) -> Option<Sign> {
    let depth = depths.into_iter().find(|depth| depth.name == queue && depth.messages > 0)?;
    Some(Sign {
        kind: AlarmKind::Unrouted,
        subject: format!("queue:{}", depth.name),
        tenant: None,
        scope: format!("queue:{}", depth.name),
        name: String::new(),
        detail: "published with a routing key that no queue takes: look into the queue, publish again what is wanted, then purge it"
            .to_owned(),
        count: depth.messages.into(),
        of: 0,
        since: None,
        goes_on: true,
    })
}

/// Writes what was decided; says of which alarms there are news.
async fn write(connection: &mut Connection, steps: &[Step<'_>]) -> Result<Vec<(i64, News)>, StoreError> {
    let (mut news, mut over, mut passed) = (Vec::new(), Vec::new(), Vec::new());
    for step in steps {
        match *step {
            Step::Note(sign) => {
                alarms::insert(connection, sign, false).await?;
            }
            Step::RaiseNew(sign) => news.push((alarms::insert(connection, sign, true).await?, News::Raised)),
            Step::Raise(id, sign) => {
                alarms::update(connection, id, sign, true).await?;
                news.push((id, News::Raised));
            }
            Step::Remind(id, sign) => {
                alarms::update(connection, id, sign, true).await?;
                news.push((id, News::Reminder));
            }
            Step::Keep(id, sign) => alarms::update(connection, id, sign, false).await?,
            Step::Clear(id) => over.push(id),
            Step::Forget(id) => passed.push(id),
        }
    }
    alarms::clear(connection, &over).await?;
    alarms::forget(connection, &passed).await?;
    news.extend(over.into_iter().map(|id| (id, News::Cleared)));
    Ok(news)
}

fn tell(told: &Told) {
    let alarm = &told.alarm;
    match told.news {
        News::Raised => {
            metrics::counter!("alarms_raised_total", "kind" => alarm.kind.as_str()).increment(1);
            tracing::error!(alarm.kind = %alarm.kind, alarm.scope, alarm.count, since = %alarm.since, alarm.next,
                "an alarm was raised: {}", alarm.detail);
        }
        News::Reminder => {}
        News::Cleared => {
            tracing::info!(alarm.kind = %alarm.kind, alarm.scope, since = %alarm.since, "an alarm is over");
        }
    }
}

/// Shows every process's `/metrics` what stands, whichever process found it.
fn show(standing: &[(AlarmKind, i64, f64, i64)]) {
    for kind in AlarmKind::ALL {
        let of = standing.iter().find(|(found, ..)| found == kind);
        let (alarms, age, concerned) =
            of.map_or((0, 0.0, 0), |(_, alarms, age, concerned)| (*alarms, *age, *concerned));
        let shown = |count: i64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        metrics::gauge!("alarms_open", "kind" => kind.as_str()).set(shown(alarms));
        metrics::gauge!("alarm_concerned", "kind" => kind.as_str()).set(shown(concerned));
        metrics::gauge!("alarm_oldest_seconds", "kind" => kind.as_str()).set(age);
    }
}
