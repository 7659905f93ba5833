//! Jobs that are written beside their lane, because the audience group they name may be large: the lane takes others
//! meanwhile. A cancellation of one of them waits for it, so that it finds what it is to cancel.

use std::sync::Arc;

use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    intake::{
        Prepared, Shared,
        group::{self, Job},
        inlet::{Arrival, Asker},
        job::JobAnswer,
        prepare::Verdict,
        write::Writer,
    },
    store::{jobs::JobKey, registry::Snapshot},
};

/// Jobs of a lane that are written at the same time, each on a connection of its own.
const AT_ONCE: usize = 2;

/// The jobs of a lane that are being written beside it. Dropped, it gives them up, and nothing of them is kept.
#[derive(Debug)]
pub(super) struct Apart {
    shared: Arc<Shared>,
    writing: JoinSet<(Option<JobKey>, Asker, Vec<Option<JobAnswer>>)>,
    turns: Arc<Semaphore>,
    keys: Vec<JobKey>,
    held: Vec<Arrival>,
}

/// A job that was written.
#[derive(Debug)]
pub(super) struct Done {
    /// Who is to be answered.
    pub(super) asker: Asker,
    /// The answer; none when the process stops.
    pub(super) answers: Vec<Option<JobAnswer>>,
    /// What waited for it.
    pub(super) released: Vec<Arrival>,
}

impl Apart {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        Self { shared, writing: JoinSet::new(), turns, keys: Vec::new(), held: Vec::new() }
    }

    /// Keeps a cancellation of a job that is being written; gives everything else back.
    pub(super) fn hold_back(&mut self, arrival: Arrival, prepared: &Prepared) -> Option<Arrival> {
        if let Verdict::Cancel(cancel) = &prepared.verdict
            && self.keys.contains(&group::key(prepared.tenant, &cancel.producer, &cancel.job_id))
        {
            self.held.push(arrival);
            return None;
        }
        Some(arrival)
    }

    /// Begins to write a job.
    pub(super) fn begin(&mut self, asker: Asker, job: Job, snapshot: Arc<Snapshot>, shutdown: CancellationToken) {
        let (shared, turns, key) = (Arc::clone(&self.shared), Arc::clone(&self.turns), job.key());
        self.keys.extend(key.clone());
        self.writing.spawn(async move {
            // Never closed; a turn that is not given would only mean one more at once.
            let _turn = turns.acquire_owned().await.ok();
            let answers = Writer::new(shared, "intake audience").write(&snapshot, vec![job], &shutdown).await;
            (key, asker, answers)
        });
    }

    /// Waits for the next job that is written: for ever while there is none.
    ///
    /// May be dropped while it waits; nothing is lost.
    pub(super) async fn next(&mut self) -> Done {
        let (key, asker, answers) = match self.writing.join_next().await {
            Some(Ok(done)) => done,
            // As if it had happened in the lane.
            Some(Err(error)) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_cancelled) => return std::future::pending().await,
            },
            None => return std::future::pending().await,
        };
        if let Some(place) = self.keys.iter().position(|other| Some(other) == key.as_ref()) {
            self.keys.swap_remove(place);
        }
        Done { asker, answers, released: std::mem::take(&mut self.held) }
    }
}
