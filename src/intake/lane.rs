//! One lane of intake: takes what is there, from the queue and from this process, writes it as a group, answers.
//!
//! There are two, for jobs and for urgent jobs, with nothing in common: channel, task and database connection are each
//! lane's own, so that an authentication job never waits for a campaign to be checked or written.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time};
use tokio_util::sync::CancellationToken;

use crate::{
    broker::{Broker, Consumer, Delivery, Tag},
    domain::retry::RetryPolicy,
    intake::{
        Claim, Road, Shared, Ticket, audience,
        canonical::raw_digest,
        courtesy::Turn,
        group::{self, Job, Outcome, Sizes},
        job::{JobAnswer, JobError},
        prepare::{self, Prepared, Verdict},
    },
    store::{StoreError, registry::Snapshot, session::Session},
};

/// Messages written per transaction; a job of more is a transaction of its own.
const MESSAGES_MAX: usize = 5000;
/// Bodies of more than this together are checked beside the async threads: some µs a phone number.
const INLINE_CHECK_BYTES: usize = 64 * 1024;
/// Waits while the database cannot be reached.
const RETRY: RetryPolicy =
    RetryPolicy { base: Duration::from_millis(100), ceiling: Duration::from_secs(3), charged_cap: i16::MAX };

/// Takes jobs of one road. See [`crate::intake::Intake::new`].
#[derive(Debug)]
pub struct IntakeLane {
    shared: Arc<Shared>,
    road: Road,
    queue: String,
    consumer: Consumer,
    tickets: mpsc::Receiver<Ticket>,
    session: Session,
    is_fed_by_queue: bool,
    turn: Turn,
}

/// What one turn of the loop did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Answered this many jobs.
    Answered(usize),
    /// The process stops; nothing was taken.
    Stopping,
}

/// How a job is answered after the commit.
#[derive(Debug)]
enum Asker {
    Queue(Tag),
    Here(tokio::sync::oneshot::Sender<JobAnswer>),
}

/// A job as it came.
#[derive(Debug)]
struct Arrival {
    asker: Asker,
    claim: Claim,
    body: bytes::Bytes,
    reply_to: Option<String>,
    correlation_id: Option<String>,
    source: String,
    is_redelivered: bool,
}

impl IntakeLane {
    pub(super) fn new(shared: Arc<Shared>, broker: &Broker, road: Road, tickets: mpsc::Receiver<Ticket>) -> Self {
        let (queue, name) = match road {
            Road::Bulk => (broker.topology().jobs(), "intake jobs"),
            Road::Urgent => (broker.topology().urgent(), "intake urgent"),
        };
        let consumer = broker.consumer(queue.clone(), shared.settings.prefetch);
        let session = Session::new(shared.store.clone(), name);
        Self { shared, road, queue, consumer, tickets, session, is_fed_by_queue: true, turn: Turn::default() }
    }

    /// Leaves the queue to other processes: this one takes only what it is given over HTTP.
    pub fn leave_queue(&mut self) {
        self.is_fed_by_queue = false;
    }

    /// Takes jobs until `shutdown`, then ends what it took.
    pub async fn run(mut self, shutdown: CancellationToken) {
        while self.step(&shutdown).await != Step::Stopping {}
        self.consumer.close().await;
    }

    /// Waits for jobs, and answers those that are there.
    pub async fn step(&mut self, shutdown: &CancellationToken) -> Step {
        let mut max = self.shared.settings.group_max;
        if self.road == Road::Bulk {
            max = tokio::select! {
                () = shutdown.cancelled() => return Step::Stopping,
                max = self.shared.courtesy.stand_back(&mut self.turn, max) => max,
            };
        }
        let arrivals = tokio::select! {
            () = shutdown.cancelled() => return Step::Stopping,
            ticket = self.tickets.recv() => match ticket {
                Some(first) => {
                    let more = std::iter::from_fn(|| self.tickets.try_recv().ok()).take(max.saturating_sub(1));
                    std::iter::once(first).chain(more).map(Arrival::submitted).collect()
                }
                None => return Step::Stopping,
            },
            batch = self.consumer.next_batch(max), if self.is_fed_by_queue => {
                batch.into_iter().map(|delivery| Arrival::delivered(delivery, &self.queue)).collect::<Vec<_>>()
            }
        };
        if arrivals.is_empty() {
            return Step::Stopping;
        }
        match self.road {
            Road::Urgent => self.shared.courtesy.urgent(),
            Road::Bulk => self.turn.begins(),
        }
        let count = arrivals.len();
        self.take(arrivals, shutdown).await;
        Step::Answered(count)
    }

    /// Checks, writes and answers; nothing is acknowledged that is not committed.
    async fn take(&mut self, arrivals: Vec<Arrival>, shutdown: &CancellationToken) {
        let redelivered = arrivals.iter().filter(|arrival| arrival.is_redelivered).count();
        metrics::counter!("intake_redelivered_total").increment(redelivered as u64);
        let Some((snapshot, jobs)) = self.check(&arrivals, shutdown).await else {
            return;
        };
        let mut waiting: Vec<(Asker, bool, Job)> = arrivals
            .into_iter()
            .zip(jobs)
            .map(|(arrival, prepared)| {
                let job = Job {
                    prepared,
                    source: arrival.source,
                    raw_digest: raw_digest(&arrival.body),
                    body_bytes: arrival.body.len(),
                    reply_to: arrival.reply_to,
                    correlation_id: arrival.correlation_id,
                };
                (arrival.asker, arrival.is_redelivered, job)
            })
            .collect();
        while !waiting.is_empty() {
            let rest = waiting.split_off(group_length(&waiting));
            let (askers, group): (Vec<Asker>, Vec<Job>) =
                waiting.into_iter().map(|(asker, _, job)| (asker, job)).unzip();
            let answers = self.write(&snapshot, group, shutdown).await;
            if answers.is_empty() {
                // Stopping: what is not acknowledged is delivered again, and whoever waits here is told so.
                return;
            }
            self.answer(askers, answers).await;
            waiting = rest;
        }
    }

    /// Checks all bodies; if one names what is unknown, with the registry read again: nothing is refused by a copy that may
    /// be old, or empty where the process has just started. `None` when the process stops before it can be read.
    async fn check(
        &self,
        arrivals: &[Arrival],
        shutdown: &CancellationToken,
    ) -> Option<(Arc<Snapshot>, Vec<Prepared>)> {
        let bodies: Vec<_> = arrivals.iter().map(|a| (a.claim.clone(), a.body.clone())).collect();
        let mut tries = 0;
        loop {
            let snapshot = self.shared.directory.current();
            let jobs = check_all(&self.shared, &snapshot, self.road, bodies.clone()).await;
            if !jobs.iter().any(Prepared::lacks_reference) {
                return Some((snapshot, jobs));
            }
            match self.shared.directory.refresh().await {
                // Not what `refresh` says: somebody else may have read it since this check began.
                Ok(_) if self.shared.directory.current().version == snapshot.version => return Some((snapshot, jobs)),
                Ok(_) => {}
                Err(error) => {
                    tries += 1;
                    tracing::warn!(%error, tries, "jobs that name something unknown wait for the registry to be read");
                    tokio::select! {
                        () = shutdown.cancelled() => return None,
                        () = time::sleep(RETRY.wait_after(tries)) => {}
                    }
                }
            }
        }
    }

    /// Writes a group and wakes whom it concerns. Retries what may pass, as long as it takes; what does not is tried job
    /// by job, so that one cannot hurt its neighbours. Empty when the process stops before the commit; `None` for a job
    /// that not even a refusal could be written of.
    async fn write(
        &mut self,
        snapshot: &Snapshot,
        mut group: Vec<Job>,
        shutdown: &CancellationToken,
    ) -> Vec<Option<JobAnswer>> {
        let Some(written) = self.try_write(snapshot, &mut group, shutdown).await else {
            return Vec::new();
        };
        let error = match written {
            Ok(outcome) => return self.announce(outcome),
            Err(error) => error,
        };
        if group.len() > 1 {
            tracing::warn!(%error, jobs = group.len(), "a group of jobs was not written; each is tried alone");
            let mut answers = Vec::with_capacity(group.len());
            for job in group {
                let alone = Box::pin(self.write(snapshot, vec![job], shutdown)).await;
                if alone.is_empty() {
                    return Vec::new();
                }
                answers.extend(alone);
            }
            return answers;
        }
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        tracing::error!(%error, cause, "a job cannot be written and is refused");
        for job in &mut group {
            let reason = "could not be stored; the operator's log says why";
            job.prepared.verdict = Verdict::Refuse(vec![JobError::new("", "internal_error", reason)]);
        }
        match self.try_write(snapshot, &mut group, shutdown).await {
            Some(Ok(outcome)) => self.announce(outcome),
            Some(Err(error)) => {
                tracing::error!(%error, "the refusal of a job could not be written; it goes to the dead letters");
                vec![None]
            }
            None => Vec::new(),
        }
    }

    /// `None` when the process stops.
    async fn try_write(
        &mut self,
        snapshot: &Snapshot,
        group: &mut [Job],
        shutdown: &CancellationToken,
    ) -> Option<Result<Outcome, StoreError>> {
        let mut tries = 0;
        loop {
            let error = match self.write_once(snapshot, group).await {
                Ok(outcome) => return Some(Ok(outcome)),
                Err(error) => error,
            };
            self.session.failed(&error);
            if !error.is_transient() {
                return Some(Err(error));
            }
            tries += 1;
            if !error.is_deadlock() {
                tracing::warn!(%error, tries, "jobs wait for the database");
            }
            tokio::select! {
                () = shutdown.cancelled() => return None,
                () = time::sleep(RETRY.wait_after(tries)) => {}
            }
        }
    }

    async fn write_once(&mut self, snapshot: &Snapshot, group: &mut [Job]) -> Result<Outcome, StoreError> {
        audience::resolve_imports(self.session.connection().await?, group).await?;
        let sizes = Sizes { small_batch: self.shared.settings.small_batch, canary: &self.shared.canary };
        group::write(&mut self.session, snapshot, sizes, group).await
    }

    fn announce(&self, outcome: Outcome) -> Vec<Option<JobAnswer>> {
        self.shared.wakes.announce(outcome.woken);
        self.shared.outbox.notify_one();
        if outcome.is_plan_due {
            self.shared.plans.notify_one();
        }
        outcome.answers.into_iter().map(Some).collect()
    }

    async fn answer(&mut self, askers: Vec<Asker>, answers: Vec<Option<JobAnswer>>) {
        let mut tags = Vec::new();
        for pair in askers.into_iter().zip(answers) {
            match pair {
                (Asker::Queue(tag), Some(_)) => tags.push(tag),
                (Asker::Queue(tag), None) => self.consumer.reject(tag).await,
                (Asker::Here(sender), Some(answer)) => {
                    // Whoever asked may have gone; the job is kept all the same.
                    let _gone = sender.send(answer);
                }
                (Asker::Here(_), None) => {}
            }
        }
        self.consumer.ack(tags).await;
    }
}

impl Arrival {
    fn submitted(ticket: Ticket) -> Self {
        Self {
            asker: Asker::Here(ticket.answer),
            claim: ticket.submission.claim,
            body: ticket.submission.body,
            reply_to: None,
            correlation_id: None,
            source: "http".to_owned(),
            is_redelivered: false,
        }
    }

    fn delivered(delivery: Delivery, queue: &str) -> Self {
        Self {
            asker: Asker::Queue(delivery.tag),
            claim: Claim::Broker { user: delivery.user_id },
            body: delivery.body,
            reply_to: delivery.reply_to,
            correlation_id: delivery.correlation_id,
            source: queue.to_owned(),
            is_redelivered: delivery.is_redelivered,
        }
    }
}

/// How many of the first jobs make a transaction: one that came before goes alone, keys differ, messages are bounded.
fn group_length(waiting: &[(Asker, bool, Job)]) -> usize {
    let mut keys = HashSet::new();
    let mut messages = 0;
    let length = waiting
        .iter()
        .take_while(|(_, is_redelivered, job)| {
            messages += job.recipients();
            let is_new = job.key().is_none_or(|key| keys.insert(key));
            // A cancellation sees the job before it only in the next transaction.
            let is_send = !matches!(job.prepared.verdict, Verdict::Cancel(_));
            is_new && is_send && !is_redelivered && messages <= MESSAGES_MAX
        })
        .count();
    length.max(1)
}

pub(super) async fn check_all(
    shared: &Arc<Shared>,
    snapshot: &Arc<Snapshot>,
    road: Road,
    bodies: Vec<(Claim, bytes::Bytes)>,
) -> Vec<Prepared> {
    let check = move |shared: &Shared, snapshot: &Snapshot, bodies: &[(Claim, bytes::Bytes)]| -> Vec<Prepared> {
        let context = shared.context(snapshot, road);
        bodies.iter().map(|(claim, body)| prepare::prepare(&context, claim, body)).collect()
    };
    if bodies.iter().map(|(_, body)| body.len()).sum::<usize>() <= INLINE_CHECK_BYTES {
        return check(shared, snapshot, &bodies);
    }
    let (of_thread, snapshot_of_thread) = (Arc::clone(shared), Arc::clone(snapshot));
    let again = bodies.clone();
    match tokio::task::spawn_blocking(move || check(&of_thread, &snapshot_of_thread, &bodies)).await {
        Ok(jobs) => jobs,
        // Only at the very end of the process: the answer is then never used.
        Err(_) => check(shared, snapshot, &again),
    }
}
