//! Taking jobs: every one is answered, and what is answered as accepted is in Postgres.
//!
//! A body is read and checked without I/O ([`prepare`]), a group of them is written in one transaction ([`group`]), and
//! the broker is told after the commit that it may forget them ([`lane`]). HTTP takes the same road in the process that
//! got the request. Races, and why each is fine:
//!
//! - the process dies between commit and acknowledgement: the job comes again and gets its first answer;
//! - two processes get the same job: one takes the key, the other waits for it and answers the same;
//! - a hold is closed while a job is parked under it: the hold is locked until the commit, so whoever closes it
//!   afterwards sees the work.

mod answer;
mod apart;
mod audience;
mod campaign;
mod canary;
pub mod canonical;
pub mod check;
mod columns;
mod courtesy;
pub mod dead;
mod fields;
pub mod forecast;
pub mod form;
mod freeze;
pub mod group;
mod head;
mod hours;
pub mod import;
mod inlet;
pub mod job;
pub mod lane;
mod lines;
mod member_file;
pub mod members;
mod number_file;
mod plain;
pub mod plan;
pub mod prepare;
pub mod reach;
pub mod read;
mod reference;
mod rehearsal;
pub mod report;
mod rows;
mod sheet;
pub mod suppressions;
mod trail;
mod windows;
mod workbook;
mod write;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::Utc;
use tokio::sync::{Notify, mpsc, oneshot};

pub use self::{
    check::Road,
    job::JobAnswer,
    lane::IntakeLane,
    prepare::{Claim, Prepared},
    rehearsal::Outlook,
};
use crate::{
    broker::{Broker, Wakes},
    domain::wake::Wake,
    settings,
    store::{
        Store,
        registry::{Directory, Snapshot},
    },
};

/// Requests that may wait for a lane.
const LINE: usize = 1024;

/// A job given by HTTP.
#[derive(Debug, Clone)]
pub struct Submission {
    /// Who gives it.
    pub claim: Claim,
    /// The job.
    pub body: Bytes,
    /// Only checked: nothing is stored, and the answer tells what would be.
    pub is_dry_run: bool,
}

/// Why a submission has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The process is stopping. Not taken.
    #[error("the process stops")]
    Stopping,
    /// The database cannot be reached. It may be taken nevertheless: give it again, it is sent once.
    #[error("the database did not answer in time")]
    Late,
}

/// How long a submission waits for the database.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an outlook may take: a million recipients who have hours are gone through.
const OUTLOOK_TIMEOUT: Duration = Duration::from_secs(50);

/// What all of intake shares.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) directory: Directory,
    pub(crate) settings: settings::Intake,
    pub(crate) canary: settings::Canary,
    pub(crate) wakes: Wakes,
    pub(crate) courtesy: courtesy::Courtesy,
    /// Told after each commit that owes messages.
    pub(crate) outbox: Arc<Notify>,
    /// Told after each commit that leaves a batch to plan.
    pub(crate) plans: Arc<Notify>,
}

/// What is given to a lane by the same process.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) submission: Submission,
    pub(crate) answer: oneshot::Sender<JobAnswer>,
}

/// The handle that takes jobs in this process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Intake {
    shared: Arc<Shared>,
    bulk: mpsc::Sender<Ticket>,
    urgent: mpsc::Sender<Ticket>,
}

impl Intake {
    /// The handle and its two lanes, which must be run. Both work while the broker is down.
    pub fn new(
        store: Store,
        directory: Directory,
        broker: &Broker,
        settings: settings::Intake,
        canary: settings::Canary,
    ) -> (Self, [IntakeLane; 2]) {
        let shared = Arc::new(Shared {
            store,
            directory,
            settings,
            canary,
            wakes: broker.wakes().clone(),
            courtesy: courtesy::Courtesy::default(),
            outbox: Arc::default(),
            plans: Arc::default(),
        });
        let (bulk, bulk_line) = mpsc::channel(LINE);
        let (urgent, urgent_line) = mpsc::channel(LINE);
        let lanes = [
            IntakeLane::new(Arc::clone(&shared), broker, Road::Bulk, bulk_line),
            IntakeLane::new(Arc::clone(&shared), broker, Road::Urgent, urgent_line),
        ];
        (Self { shared, bulk, urgent }, lanes)
    }

    /// Notified after every commit that owes broker messages: the outbox relay waits for it.
    pub fn outbox_nudge(&self) -> Arc<Notify> {
        Arc::clone(&self.shared.outbox)
    }

    /// Up to which size batches take one turn together, and which marketing batches open with a few messages.
    pub fn sizes(&self) -> (usize, &settings::Canary) {
        let sizes = self.shared.sizes();
        (sizes.small_batch, sizes.canary)
    }

    /// Says that numbers have new work which intake has not taken.
    pub fn woken(&self, wake: Wake) {
        self.shared.wakes.announce(wake);
    }

    /// Makes the messages of large audiences; to be run beside the lanes.
    pub fn planner(&self) -> plan::Planner {
        plan::Planner::new(Arc::clone(&self.shared))
    }

    /// Takes a job and answers when it is in the database. A lane of its own for authentication: see [`Intake::road_of`].
    pub async fn submit(&self, road: Road, submission: Submission) -> Result<JobAnswer, SubmitError> {
        if submission.is_dry_run {
            let answer = rehearsal::dry_run(&self.shared, road, &submission);
            return tokio::time::timeout(SUBMIT_TIMEOUT, answer)
                .await
                .ok()
                .and_then(Result::ok)
                .ok_or(SubmitError::Late);
        }
        let line = match road {
            Road::Bulk => &self.bulk,
            Road::Urgent => &self.urgent,
        };
        let (answer, answered) = oneshot::channel();
        let given = async {
            line.send(Ticket { submission, answer }).await.map_err(|_| SubmitError::Stopping)?;
            answered.await.map_err(|_| SubmitError::Stopping)
        };
        tokio::time::timeout(SUBMIT_TIMEOUT, given).await.unwrap_or(Err(SubmitError::Late))
    }

    /// What would become of a job, which is only checked.
    pub async fn outlook(&self, road: Road, submission: &Submission) -> Result<Outlook, SubmitError> {
        let outlook = rehearsal::outlook(&self.shared, road, submission);
        tokio::time::timeout(OUTLOOK_TIMEOUT, outlook).await.ok().and_then(Result::ok).ok_or(SubmitError::Late)
    }

    /// The road a body should take: urgent when it names an authentication template of whoever gives it. For callers
    /// that have one door for both; anything in doubt is bulk.
    pub fn road_of(&self, claim: &Claim, body: &[u8]) -> Road {
        rehearsal::road_of(&self.shared.directory.current(), claim, body)
    }
}

impl Shared {
    pub(crate) fn context<'a>(&'a self, snapshot: &'a Snapshot, road: Road) -> check::Context<'a> {
        check::Context { snapshot, settings: &self.settings, now: Utc::now(), road }
    }

    pub(crate) fn sizes(&self) -> group::Sizes<'_> {
        let settings::Intake { small_batch, tell_of_one, .. } = self.settings;
        group::Sizes { small_batch, tell_of_one, canary: &self.canary }
    }
}
