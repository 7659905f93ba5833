//! The short way of a group: jobs of which there is nothing to find out are written with their keys and what is told of
//! them in one statement. An authentication job meets one round trip and one commit this way, instead of eight and one.

use std::collections::{BTreeSet, HashMap};

use serde_json::json;

use crate::{
    domain::wake::Wake,
    domain::{campaign::JOB_PREFIX, ids::BatchId},
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
        registry::Snapshot,
        session::Connection,
    },
};

/// What was written of a group.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Answers by the place in the group.
    pub(super) answers: HashMap<usize, JobAnswer>,
    /// Numbers that have new work now.
    pub(super) woken: Wake,
}

/// Writes those jobs of a group that go this way: none of them when one is not plain or a hold is open over one, and
/// otherwise all but the repeated.
pub(super) async fn write(
    connection: &mut Connection,
    snapshot: &Snapshot,
    sizes: Sizes<'_>,
    group: &[&Job],
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
    let plain = Plain {
        digests: all.iter().map(|send| send.digest).collect(),
        told: all.iter().zip(&answers).map(|(send, answer)| json!(told(snapshot, group[send.index], answer))).collect(),
        scopes: scopes(snapshot, &all),
    };
    let rows = Rows::of(&all, sizes, &holds);
    fault::pass(Point::JobsBefore)?;
    let written = jobs::insert_plain(connection, &rows.batches, &rows.messages, &plain).await?;
    fault::pass(Point::JobsAfter)?;
    let written: BTreeSet<BatchId> = written.into_iter().collect();
    let is_written = |send: &Sending<'_>| written.contains(&send.checked.batch);
    let new: Vec<&Sending<'_>> = all.iter().copied().filter(|send| is_written(send)).collect();
    let answers = all.iter().zip(answers).filter(|(send, _)| is_written(send));
    Ok(Written {
        answers: answers.map(|(send, answer)| (send.index, answer)).collect(),
        woken: woken(&new, &holds, sizes.small_batch),
    })
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
