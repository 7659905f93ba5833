//! The short way of a group: jobs of which there is nothing to find out are written with their keys and what is told of
//! them in one statement.
//!
//! In a hurry the statement does not wait for the disk. Dispatch hears of the work at once, and its claim is a commit that
//! does wait: nothing is called that a crash of the database could undo. What is told of the jobs is written only then, by a
//! second commit that waits too, and only after that they are acknowledged. If the process or the database dies in between,
//! the queue delivers them again, and they are answered and told as repeated ones: so only jobs from a queue are in a hurry.

use std::collections::{HashMap, HashSet};

use serde_json::json;

use crate::{
    broker::Wakes,
    domain::{campaign::JOB_PREFIX, ids::BatchId, wake::Wake},
    fault::{self, Point},
    intake::{
        answer::told,
        canary,
        group::{Holds, Job, Sending, Sizes, scopes, woken},
        job::JobAnswer,
        rows::Rows,
    },
    store::{
        StoreError,
        jobs::{self, Plain},
        outbox,
        registry::Snapshot,
        session::Connection,
    },
};

/// What was written of a group.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Answers by the place in the group.
    pub(super) answers: HashMap<usize, JobAnswer>,
    /// Numbers that have new work now, and have not been woken yet.
    pub(super) woken: Wake,
}

/// Writes those jobs of a group that go this way: none of them when one is not plain or a hold is open over one, and
/// otherwise all but the repeated. With `hurry` it wakes whom they concern as soon as they can be claimed.
pub(super) async fn write(
    connection: &mut Connection,
    snapshot: &Snapshot,
    sizes: Sizes<'_>,
    group: &[&Job],
    hurry: Option<&Wakes>,
) -> Result<Written, StoreError> {
    let mut sends = Vec::with_capacity(group.len());
    for (index, job) in group.iter().enumerate() {
        match Sending::of(index, job).filter(|send| is_plain(send, sizes)) {
            Some(send) => sends.push(send),
            None => return Ok(Written::default()),
        }
    }
    sends.sort_by(|a, b| a.key.cmp(&b.key));
    let (all, holds): (Vec<&Sending<'_>>, Holds) = (sends.iter().collect(), Holds::new());
    let answers: Vec<JobAnswer> = all.iter().map(|send| send.answer(None)).collect();
    let told: Vec<_> =
        all.iter().zip(&answers).map(|(send, answer)| told(snapshot, group[send.index], answer)).collect();
    let plain = Plain {
        digests: all.iter().map(|send| send.digest).collect(),
        told: hurry.is_none().then(|| told.iter().map(|told| json!(told)).collect()),
        scopes: scopes(snapshot, &all),
    };
    let rows = Rows::of(&all, sizes, &holds);
    fault::pass(Point::JobsBefore)?;
    let written = jobs::insert_plain(connection, &rows.batches, &rows.messages, &plain).await?;
    fault::pass(Point::JobsAfter)?;
    let written: HashSet<BatchId> = written.into_iter().collect();
    let (mut new, mut answered, mut owed) = (Vec::new(), HashMap::new(), Vec::new());
    for ((send, answer), told) in all.into_iter().zip(answers).zip(told) {
        if written.contains(&send.checked.batch) {
            new.push(send);
            answered.insert(send.index, answer);
            owed.extend(told);
        }
    }
    let mut woken = woken(&new, &holds, sizes.small_batch);
    if let Some(wakes) = hurry {
        wakes.announce(std::mem::take(&mut woken));
        outbox::insert(connection, &owed).await?;
    }
    Ok(Written { answers: answered, woken })
}

/// Plans the statement anew if it has to be, so that the next job need not wait for that.
pub(super) async fn rehearse(connection: &mut Connection) -> Result<(), StoreError> {
    jobs::insert_plain(connection, &[], &[], &Plain::default()).await.map(drop)
}

/// Whether its rows and its answer follow from the job alone.
fn is_plain(send: &Sending<'_>, sizes: Sizes<'_>) -> bool {
    let checked = send.checked;
    checked.import.is_none()
        && checked.hours.is_none()
        && checked.rejections.is_empty()
        && !send.key.job_id.starts_with(JOB_PREFIX)
        && canary::rule(checked, sizes).is_none()
}
