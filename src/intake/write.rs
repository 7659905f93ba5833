//! Writing a group of jobs: again as long as the database is away, and one by one when a group will not go in.

use std::{sync::Arc, time::Duration};

use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::{
    domain::retry::RetryPolicy,
    intake::{
        Shared, audience, campaign, freeze,
        group::{self, HTTP, Job, Outcome},
        job::{JobAnswer, JobError},
        plain,
        prepare::Verdict,
    },
    store::{StoreError, registry::Snapshot, session::Session},
};

/// Waits while the database cannot be reached.
pub(super) const RETRY: RetryPolicy =
    RetryPolicy { base: Duration::from_millis(100), ceiling: Duration::from_secs(3), charged_cap: i16::MAX };

/// Writes jobs, on a connection of its own.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    session: Session,
    /// Of the urgent lane.
    is_urgent: bool,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, name: &'static str) -> Self {
        let session = Session::new(shared.store.clone(), name);
        Self { shared, session, is_urgent: false }
    }

    /// One of urgent jobs, for which each millisecond counts.
    pub(super) fn urgent(shared: Arc<Shared>) -> Self {
        Self { is_urgent: true, ..Self::new(shared, "intake urgent") }
    }

    /// Writes a group and wakes whom it concerns. Retries what may pass, as long as it takes; what does not is tried job
    /// by job, so that one cannot hurt its neighbours. Empty when the process stops before the commit; `None` for a job
    /// that not even a refusal could be written of.
    pub(super) async fn write(
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

    /// While nothing is to be written: does what the next job would have to wait for.
    pub(super) async fn rehearse(&mut self) {
        self.session.rehearse(plain::rehearse).await;
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
            let error = match Box::pin(self.write_once(snapshot, group)).await {
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
        campaign::admit(self.session.connection().await?, group).await?;
        audience::resolve_imports(self.session.connection().await?, group).await?;
        let sizes = self.shared.sizes();
        match group {
            [job] if job.names_group() => freeze::write(&mut self.session, snapshot, sizes, job).await,
            group => {
                let hurry = self.is_urgent && group.iter().all(|job| job.source != HTTP);
                let hurry = hurry.then_some(&self.shared.wakes);
                group::write(&mut self.session, snapshot, sizes, group, hurry).await
            }
        }
    }

    fn announce(&self, outcome: Outcome) -> Vec<Option<JobAnswer>> {
        self.shared.wakes.announce(outcome.woken);
        self.shared.outbox.notify_one();
        if outcome.is_plan_due {
            self.shared.plans.notify_one();
        }
        outcome.answers.into_iter().map(Some).collect()
    }
}
