//! Large audiences: the messages of a batch made from its import, a chunk per transaction.
//!
//! A batch is *planning* until the last chunk; nothing of it is sent before, so that a half-made batch is never a
//! half-sent one. A process that dies in between leaves the batch to the next: `planned_row` and the rows move together. For
//! the same reason only the last commit waits for the disk.

use std::{sync::Arc, time::Duration};

use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{hold::HoldScope, ids::NumberId, wake::Wake},
    fault::{self, Point},
    intake::{Shared, hours},
    store::{
        StoreError, jobs, plan,
        session::{Session, commit, commit_unflushed, forget},
    },
};

/// Looks by itself this often, for batches of a process that died.
const INTERVAL: Duration = Duration::from_secs(3);

/// Makes the messages of large audiences. Several processes may run one.
#[derive(Debug)]
pub struct Planner {
    shared: Arc<Shared>,
    session: Session,
}

/// What one turn of the planner did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Made this many messages of a batch that has more.
    Made(i64),
    /// Made the last messages of a batch: it is planned.
    Finished(i64),
    /// There is nothing to plan.
    Idle,
}

impl Planner {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let session = Session::new(shared.store.clone(), "plan");
        Self { shared, session }
    }

    /// Plans until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let plans = Arc::clone(&self.shared.plans);
        while !shutdown.is_cancelled() {
            match self.step().await {
                Ok(Step::Made(_) | Step::Finished(_)) => continue,
                Ok(Step::Idle) => {}
                Err(error) if error.is_transient() => tracing::warn!(%error, "planning waits"),
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(%error, cause, "a batch cannot be planned");
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = plans.notified() => {}
                () = time::sleep(INTERVAL) => {}
            }
        }
    }

    /// Makes one chunk.
    pub async fn step(&mut self) -> Result<Step, StoreError> {
        let result = self.chunk().await;
        if let Err(error) = &result {
            self.session.failed(error);
        }
        let (step, number) = result?;
        if let (Step::Finished(_), Some(number)) = (step, number) {
            self.shared.wakes.announce(Wake::from_iter([number]));
        }
        Ok(step)
    }

    async fn chunk(&mut self) -> Result<(Step, Option<NumberId>), StoreError> {
        let chunk = self.shared.settings.plan_chunk;
        let mut work = self.session.begin().await?;
        let Some(plan) = plan::take_plan(&mut work).await? else {
            forget(work).await?;
            return Ok((Step::Idle, None));
        };
        let made = if plan.is_cancelled {
            0
        } else {
            // The number or the template may be newer than the copy of the registry.
            let snapshot = self.shared.directory.current();
            let known = snapshot.numbers.get(&plan.number).zip(snapshot.templates.get(&plan.template));
            let scopes = match known {
                Some((number, template)) => snapshot.route(number, template).scopes(plan.batch),
                None => vec![HoldScope::Everything, HoldScope::Number(plan.number), HoldScope::Template(plan.template)],
            };
            let scopes: Vec<String> = scopes.iter().map(HoldScope::to_string).collect();
            let holds = jobs::open_holds(&mut work, &scopes).await?;
            // What is not due yet is met by its holds when it is.
            let hold = holds.first().filter(|_| plan.is_due && !plan.has_hours);
            let made = plan::plan_chunk(&mut work, &plan, hold, chunk).await?;
            if plan.has_hours {
                hours::place(&mut work, plan.batch, plan.made).await?;
            }
            made
        };
        let step = if made < chunk {
            plan::finish_plan(&mut work, plan.batch).await?;
            Step::Finished(made)
        } else {
            Step::Made(made)
        };
        fault::pass(Point::PlanBefore)?;
        match step {
            Step::Made(_) => commit_unflushed(work, "commit a chunk of a plan").await?,
            Step::Finished(_) | Step::Idle => commit(work, "commit the end of a plan").await?,
        }
        fault::pass(Point::PlanAfter)?;
        Ok((step, Some(plan.number)))
    }
}
