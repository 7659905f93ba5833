//! One lane of intake: takes what is there, from the queue and from this process, writes it as a group, answers.
//!
//! There are two, for jobs and for urgent jobs, with nothing in common: channel, task and database connection are each
//! lane's own, so that an authentication job never waits for a campaign to be checked or written.

use std::{collections::HashSet, sync::Arc};

use tokio::{sync::mpsc, time};
use tokio_util::sync::CancellationToken;

use crate::{
    broker::Broker,
    intake::{
        Claim, Road, Shared, Ticket,
        apart::{Apart, Done},
        courtesy::Turn,
        group::Job,
        inlet::{Arrival, Asker, Inlet},
        job::JobAnswer,
        prepare::{self, Prepared, Verdict},
        write::{RETRY, Writer},
    },
    store::{registry::Snapshot, session::REHEARSE},
};

/// Messages written per transaction; a job of more is a transaction of its own.
const MESSAGES_MAX: usize = 5000;
/// Bodies of more than this together are checked beside the async threads: some µs a phone number.
const INLINE_CHECK_BYTES: usize = 64 * 1024;

/// Takes jobs of one road. See [`crate::intake::Intake::new`].
#[derive(Debug)]
pub struct IntakeLane {
    shared: Arc<Shared>,
    road: Road,
    inlet: Inlet,
    writer: Writer,
    apart: Apart,
    turn: Turn,
    /// Taken and checked while those before were written.
    ahead: Option<(Vec<Arrival>, Checked)>,
}

/// Jobs as they were decided on, by this copy of the registry.
type Checked = (Arc<Snapshot>, Vec<Prepared>);

/// What one turn of the loop did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Answered this many jobs.
    Answered(usize),
    /// The process stops; nothing was taken.
    Stopping,
}

impl IntakeLane {
    pub(super) fn new(shared: Arc<Shared>, broker: &Broker, road: Road, tickets: mpsc::Receiver<Ticket>) -> Self {
        let (queue, writer) = match road {
            Road::Bulk => (broker.topology().jobs(), Writer::new(Arc::clone(&shared), "intake jobs")),
            Road::Urgent => (broker.topology().urgent(), Writer::urgent(Arc::clone(&shared))),
        };
        let consumer = broker.consumer(queue.clone(), shared.settings.prefetch);
        let (inlet, apart) = (Inlet::new(queue, consumer, tickets), Apart::new(Arc::clone(&shared)));
        Self { shared, road, inlet, writer, apart, turn: Turn::default(), ahead: None }
    }

    /// Leaves the queue to other processes: this one takes only what it is given over HTTP.
    pub fn leave_queue(&mut self) {
        self.inlet.leave_queue();
    }

    /// Takes jobs until `shutdown`, then ends what it took.
    pub async fn run(mut self, shutdown: CancellationToken) {
        while self.step(&shutdown).await != Step::Stopping {}
        self.inlet.consumer.close().await;
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
        let (arrivals, checked) = loop {
            // While the channel is being opened nothing must cut in.
            let is_to_rehearse =
                self.road == Road::Urgent && self.inlet.consumer.is_open() && self.shared.courtesy.is_urgent_about();
            let is_ahead = self.ahead.is_some();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Step::Stopping,
                done = self.apart.next() => return self.end_apart(done, shutdown).await,
                () = std::future::ready(()), if is_ahead => {
                    break self.ahead.take().map_or_else(Default::default, |(arrivals, checked)| (arrivals, Some(checked)));
                }
                arrivals = self.inlet.next(max) => break (arrivals, None),
                () = time::sleep(REHEARSE), if is_to_rehearse => self.writer.rehearse().await,
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
        self.take(arrivals, checked, shutdown).await;
        Step::Answered(count)
    }

    /// Checks, writes and answers; nothing is acknowledged that is not committed.
    async fn take(&mut self, arrivals: Vec<Arrival>, checked: Option<Checked>, shutdown: &CancellationToken) {
        let redelivered = arrivals.iter().filter(|arrival| arrival.is_redelivered).count();
        metrics::counter!("intake_redelivered_total").increment(redelivered as u64);
        let Some((snapshot, jobs)) = self.check(&arrivals, checked, shutdown).await else {
            return;
        };
        let mut waiting: Vec<(Asker, bool, Job)> = arrivals
            .into_iter()
            .zip(jobs)
            .filter_map(|(arrival, prepared)| {
                let arrival = self.apart.hold_back(arrival, &prepared)?;
                let (is_redelivered, (asker, job)) = (arrival.is_redelivered, arrival.into_job(prepared));
                if job.names_group() {
                    self.apart.begin(asker, job, Arc::clone(&snapshot), shutdown.clone());
                    return None;
                }
                Some((asker, is_redelivered, job))
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

    /// Writes a group. Meanwhile the next jobs are taken and checked, unless urgent ones are about.
    async fn write(
        &mut self,
        snapshot: &Snapshot,
        group: Vec<Job>,
        shutdown: &CancellationToken,
    ) -> Vec<Option<JobAnswer>> {
        let mut writing = std::pin::pin!(self.writer.write(snapshot, group, shutdown));
        if self.road == Road::Urgent || self.ahead.is_some() || self.shared.courtesy.is_urgent_about() {
            return writing.await;
        }
        let arrivals = tokio::select! {
            biased;
            answers = &mut writing => return answers,
            arrivals = self.inlet.next(self.shared.settings.group_max) => arrivals,
        };
        let (answers, checked) = tokio::join!(writing, check_once(&self.shared, self.road, &arrivals));
        self.ahead = Some((arrivals, checked));
        answers
    }

    /// Checks all bodies; if one names what is unknown, with the registry read again: nothing is refused by a copy that may
    /// be old, or empty where the process has just started. `None` when the process stops before it can be read.
    async fn check(
        &self,
        arrivals: &[Arrival],
        mut checked: Option<Checked>,
        shutdown: &CancellationToken,
    ) -> Option<Checked> {
        let mut tries = 0;
        loop {
            let (snapshot, jobs) = match checked.take() {
                Some(checked) => checked,
                None => check_once(&self.shared, self.road, arrivals).await,
            };
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

    /// Answers a job that was written beside this lane, and takes what waited for it.
    async fn end_apart(&mut self, done: Done, shutdown: &CancellationToken) -> Step {
        let Done { asker, answers, released } = done;
        let count = answers.len() + released.len();
        self.answer(vec![asker], answers).await;
        if !released.is_empty() {
            self.take(released, None, shutdown).await;
        }
        Step::Answered(count)
    }

    async fn answer(&mut self, askers: Vec<Asker>, answers: Vec<Option<JobAnswer>>) {
        let mut tags = Vec::new();
        for pair in askers.into_iter().zip(answers) {
            match pair {
                (Asker::Queue(tag), Some(_)) => tags.push(tag),
                (Asker::Queue(tag), None) => self.inlet.consumer.reject(tag).await,
                (Asker::Here(sender), Some(answer)) => {
                    // Whoever asked may have gone; the job is kept all the same.
                    let _gone = sender.send(answer);
                }
                (Asker::Here(_), None) => {}
            }
        }
        self.inlet.consumer.ack(tags).await;
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

async fn check_once(shared: &Arc<Shared>, road: Road, arrivals: &[Arrival]) -> Checked {
    let bodies = arrivals.iter().map(|arrival| (arrival.claim.clone(), arrival.body.clone())).collect();
    let snapshot = shared.directory.current();
    let jobs = check_all(shared, &snapshot, road, bodies).await;
    (snapshot, jobs)
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
