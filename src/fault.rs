//! Named points at every durable step, where a test makes the process crash, fail or stand still.
//!
//! They exist only in builds with the feature `fault-points`; without it [`pass`] is nothing. The environment says what
//! happens where, in the words of the `fail` crate: `FAILPOINTS='claim.after=2*off->1*return(crash)->off'` ends the
//! process at the third claim, as if the machine had lost its power. `return(error)` fails the step as a lost connection
//! would, whether what it did stays or not; `return(delay)` lets the thread stand still for [`DELAY`].

use std::time::Duration;

use crate::domain::named;

/// How long a point stands still.
pub const DELAY: Duration = Duration::from_millis(1500);

/// Whether this build has them.
pub const ARE_BUILT_IN: bool = cfg!(feature = "fault-points");

named! {
    /// Where a test may interfere. *Before* is before a commit or a call, *after* is when it is done and nobody knows yet.
    pub enum Point {
        /// A group of jobs is written and not committed.
        JobsBefore = "jobs.before",
        /// A group of jobs is committed, and neither acknowledged nor answered.
        JobsAfter = "jobs.after",
        /// A chunk of an audience is written and not committed.
        PlanBefore = "plan.before",
        /// A chunk of an audience is committed.
        PlanAfter = "plan.after",
        /// Work is about to be claimed.
        ClaimBefore = "claim.before",
        /// Work is claimed, and the claimer does not know.
        ClaimAfter = "claim.after",
        /// A call is about to be made.
        CallBefore = "call.before",
        /// A call has been answered, and the outcome is known to nobody else.
        CallAfter = "call.after",
        /// Outcomes, callbacks or repairs are written and not committed.
        ChangesBefore = "changes.before",
        /// Outcomes, callbacks or repairs are committed, and their source does not know.
        ChangesAfter = "changes.after",
        /// Callbacks are authenticated and not published.
        ReceivedBefore = "received.before",
        /// Callbacks are with the broker, and the provider has no reply.
        ReceivedAfter = "received.after",
        /// Callbacks are applied, and the broker has no acknowledgement.
        AppliedAfter = "applied.after",
        /// What is owed was taken from the outbox and not published.
        OutboxBefore = "outbox.before",
        /// What is owed was published and stands in the outbox.
        OutboxAfter = "outbox.after",
        /// Leases are about to be taken.
        LeaseBefore = "lease.before",
        /// Leases are taken, and the taker does not know.
        LeaseAfter = "lease.after",
        /// Leases are about to be renewed.
        RenewBefore = "renew.before",
        /// A lease is given up, and its holder does not know.
        GiveUpAfter = "give_up.after",
        /// A chunk of parked work is given back.
        UnparkAfter = "unpark.after",
        /// A campaign's firing is recorded and not committed.
        FireBefore = "fire.before",
        /// A campaign's firing is committed, and whoever ticks does not know.
        FireAfter = "fire.after",
    }
}

/// A step that failed because a test wanted it to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the fault point {0} was told to fail")]
pub struct Injected(pub Point);

/// Reads from the environment what happens where; called once, at the start of the process.
#[cfg(feature = "fault-points")]
pub fn set_up() {
    // Dropping the scenario would end it.
    let _kept = std::mem::ManuallyDrop::new(fail::FailScenario::setup());
}

/// Nothing, in a build without the feature.
#[cfg(not(feature = "fault-points"))]
pub const fn set_up() {}

/// Passes the point: does nothing, or what the test wants there.
///
/// # Errors
/// [`Injected`] when the step is to fail.
#[cfg(feature = "fault-points")]
pub fn pass(point: Point) -> Result<(), Injected> {
    fail::fail_point!(point.as_str(), |action: Option<String>| {
        tracing::warn!(%point, action, "a fault point was reached");
        match action.as_deref() {
            Some("crash") => std::process::abort(),
            Some("delay") => {
                std::thread::sleep(DELAY);
                Ok(())
            }
            _ => Err(Injected(point)),
        }
    });
    Ok(())
}

/// Nothing, in a build without the feature.
///
/// # Errors
/// Never.
#[cfg(not(feature = "fault-points"))]
pub const fn pass(_: Point) -> Result<(), Injected> {
    Ok(())
}
