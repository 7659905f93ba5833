//! A group of jobs as one transaction: keys, rows, answers, and the messages that tell of them.

use std::{borrow::Cow, collections::HashMap};

use serde_json::json;

use crate::{
    broker::Wakes,
    domain::{
        hold::{HoldScope, OpenHold},
        ids::TenantId,
        lane::Lane,
        wake::Wake,
    },
    fault::{self, Point},
    intake::{
        answer::{again, cancelled, refused, told},
        audience, campaign,
        check::Checked,
        freeze,
        job::{AcceptedJob, JOB_ANSWER, JobAnswer, MetHold, REJECTIONS_SHOWN},
        plain,
        prepare::{Prepared, Verdict},
        rows,
    },
    settings,
    store::{
        StoreError, control,
        jobs::{self, FirstAnswer, JobKey, NewJob},
        outbox::{self, OutboxMessage},
        refusals::{self, RefusedJob},
        registry::Snapshot,
        session::{Connection, Session, Work, commit},
    },
};

/// What the size of a batch decides.
#[derive(Debug, Clone, Copy)]
pub struct Sizes<'a> {
    /// Up to this, batches take one turn together.
    pub small_batch: usize,
    /// Whether batches of a single message are counted, and so told, like others.
    pub tell_of_one: bool,
    /// Which marketing batches open with a few messages, where a job does not say it itself.
    pub canary: &'a settings::Canary,
}

/// The open holds over jobs, by their place in the group.
pub(super) type Holds = HashMap<usize, Vec<OpenHold>>;

/// Where jobs come from that came by no queue.
pub(super) const HTTP: &str = "http";

/// A job with how it came and how it wants its answer.
#[derive(Debug)]
pub struct Job {
    /// What was decided about it.
    pub prepared: Prepared,
    /// [`HTTP`], or the queue it came by.
    pub source: String,
    /// Digest of the body as it came.
    pub raw_digest: [u8; 32],
    /// Size of the body.
    pub body_bytes: usize,
    /// The queue for the answer.
    pub reply_to: Option<String>,
    /// Given back with it.
    pub correlation_id: Option<String>,
}

/// What a committed group leads to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// One for each job, in order.
    pub answers: Vec<JobAnswer>,
    /// Numbers that have new work now.
    pub woken: Wake,
    /// Whether a batch is left to be planned.
    pub is_plan_due: bool,
}

impl Job {
    /// The idempotency key of a job to send.
    pub fn key(&self) -> Option<JobKey> {
        let Verdict::Send(checked) = &self.prepared.verdict else {
            return None;
        };
        Some(key(checked.tenant, &checked.job.producer, &checked.job.job_id))
    }

    /// Messages it writes at once.
    pub fn recipients(&self) -> usize {
        match &self.prepared.verdict {
            Verdict::Send(checked) => checked.recipients.len(),
            Verdict::Cancel(_) | Verdict::Refuse(_) => 0,
        }
    }

    /// Whether its recipients are an audience group, which is frozen when it is written.
    pub fn names_group(&self) -> bool {
        matches!(&self.prepared.verdict, Verdict::Send(checked) if checked.group.is_some())
    }
}

pub(super) fn key(tenant: TenantId, producer: &str, job_id: &str) -> JobKey {
    JobKey { tenant, producer: producer.to_owned(), job_id: job_id.to_owned() }
}

/// Writes a group. No two of its jobs may have the same key. No job is written unless all of it is. With `hurry`, which is
/// for jobs that come again until they are acknowledged, it wakes whom they concern as early as it can.
///
/// # Errors
/// A transient one may hide a commit; run again, the group finds its own keys and answers the same.
pub async fn write(
    session: &mut Session,
    snapshot: &Snapshot,
    sizes: Sizes<'_>,
    group: &[Job],
    hurry: Option<&Wakes>,
) -> Result<Outcome, StoreError> {
    let jobs: Vec<&Job> = group.iter().collect();
    let mut done = plain::write(session.connection().await?, snapshot, sizes, &jobs, hurry).await?;
    let is_left = |index: &usize| !done.answers.contains_key(index);
    let left: Vec<usize> = (0..jobs.len()).filter(is_left).collect();
    let mut outcome = Outcome::default();
    if !left.is_empty() {
        let rest: Vec<&Job> = left.iter().map(|index| jobs[*index]).collect();
        outcome = write_in(session.begin().await?, snapshot, sizes, &rest, Keys::Free).await?;
    }
    done.answers.extend(left.into_iter().zip(outcome.answers));
    outcome.answers = (0..jobs.len()).filter_map(|index| done.answers.remove(&index)).collect();
    outcome.woken.merge(&done.woken);
    Ok(outcome)
}

/// Whether the keys of a group are still to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keys {
    /// They are, or were by earlier jobs.
    Free,
    /// This transaction has taken them.
    Taken,
}

/// As [`write()`], within a transaction that has done something for the group already.
pub(super) async fn write_in(
    mut transaction: Work<'_>,
    snapshot: &Snapshot,
    sizes: Sizes<'_>,
    group: &[&Job],
    keys: Keys,
) -> Result<Outcome, StoreError> {
    let mut answers: HashMap<usize, JobAnswer> = HashMap::new();
    let mut sends: Vec<Sending<'_>> = group.iter().enumerate().filter_map(|(i, job)| Sending::of(i, job)).collect();
    sends.sort_by(|a, b| a.key.cmp(&b.key));
    let new = match keys {
        Keys::Free => take_new(&mut transaction, &sends, &mut answers).await?,
        Keys::Taken => sends.iter().collect(),
    };
    let mut holds = open_holds(&mut transaction, snapshot, &new).await?;
    let given_up = campaign::tie(&mut transaction, &new, &mut holds).await?;
    rows::insert(&mut transaction, sizes, &new, &holds).await?;
    if !given_up.is_empty() {
        control::mark(&mut transaction, &given_up).await?;
    }
    let mut kept = Vec::new();
    for send in &new {
        let answer = send.answer(holds.get(&send.index));
        if !send.is_plain(&answer) {
            kept.push((&send.key, json!(answer)));
        }
        answers.insert(send.index, answer);
    }
    if !kept.is_empty() {
        jobs::keep_answers(&mut transaction, &kept).await?;
    }
    for (index, job) in group.iter().enumerate() {
        let answer = match &job.prepared.verdict {
            Verdict::Send(_) => continue,
            Verdict::Cancel(cancel) => {
                let key = key(job.prepared.tenant, &cancel.producer, &cancel.job_id);
                let batch = jobs::cancel(&mut transaction, &key).await?;
                cancelled(&key, batch)
            }
            Verdict::Refuse(errors) => refused(job, errors.clone()),
        };
        answers.insert(index, answer);
    }
    let answers: Vec<JobAnswer> = (0..group.len()).filter_map(|index| answers.remove(&index)).collect();
    list_refused(&mut transaction, group, &answers).await?;
    let told: Vec<OutboxMessage> =
        group.iter().zip(&answers).flat_map(|(job, answer)| told(snapshot, job, answer)).collect();
    outbox::insert(&mut transaction, &told).await?;
    fault::pass(Point::JobsBefore)?;
    commit(transaction, "commit a group of jobs").await?;
    fault::pass(Point::JobsAfter)?;
    Ok(Outcome {
        answers,
        woken: woken(&new, &holds, sizes.small_batch),
        is_plan_due: new.iter().any(|send| send.checked.import.is_some()),
    })
}

/// The answer a job would get, without writing anything.
pub async fn rehearse(session: &mut Session, snapshot: &Snapshot, jobs: &mut [Job]) -> Result<JobAnswer, StoreError> {
    campaign::admit(session.connection().await?, jobs).await?;
    audience::resolve_imports(session.connection().await?, jobs).await?;
    freeze::rehearse(session.connection().await?, jobs).await?;
    let Some(job) = jobs.first() else {
        return Ok(JobAnswer::refused(None, None, Vec::new()));
    };
    match &job.prepared.verdict {
        Verdict::Send(_) => {}
        Verdict::Refuse(errors) => return Ok(refused(job, errors.clone())),
        Verdict::Cancel(cancel) => {
            let key = key(job.prepared.tenant, &cancel.producer, &cancel.job_id);
            let first = jobs::first_answers(session.connection().await?, &[&key]).await?;
            return Ok(cancelled(&key, first.first().map(|first| first.batch)));
        }
    }
    let Some(send) = Sending::of(0, job) else {
        return Ok(refused(job, Vec::new()));
    };
    let first = jobs::first_answers(session.connection().await?, &[&send.key]).await?;
    if let Some(first) = first.first() {
        return Ok(again(&send.key, &send.digest, first));
    }
    let holds = open_holds(session.connection().await?, snapshot, &[&send]).await?;
    Ok(send.answer(holds.get(&0)))
}

/// A job to send, in a group.
pub(super) struct Sending<'a> {
    pub(super) index: usize,
    pub(super) key: JobKey,
    pub(super) checked: &'a Checked,
    pub(super) digest: [u8; 32],
}

impl<'a> Sending<'a> {
    pub(super) fn of(index: usize, job: &'a Job) -> Option<Self> {
        let Verdict::Send(checked) = &job.prepared.verdict else {
            return None;
        };
        Some(Self { index, key: job.key()?, checked, digest: job.prepared.digest })
    }

    /// Recipients that will be sent to.
    pub(super) fn recipients(&self) -> i64 {
        self.checked.import.map_or_else(|| count(self.checked.recipients.len()), |(_, good)| good)
    }

    pub(super) fn answer(&self, hold: Option<&Vec<OpenHold>>) -> JobAnswer {
        let (checked, accepted) = (self.checked, self.recipients());
        let holds = hold.into_iter().flatten().map(|hold| MetHold {
            id: hold.id,
            scope: hold.scope.clone(),
            cause: hold.cause.clone(),
            until: hold.until,
        });
        JobAnswer::Accepted(AcceptedJob {
            schema: Cow::Borrowed(JOB_ANSWER),
            producer: self.key.producer.clone(),
            job_id: self.key.job_id.clone(),
            batch_id: checked.batch,
            accepted,
            rejected: rejected_rows(checked),
            rejections: checked.rejections.iter().take(REJECTIONS_SHOWN).cloned().collect(),
            holds: holds.collect(),
        })
    }

    /// Whether the answer can be made again from the batch alone.
    fn is_plain(&self, answer: &JobAnswer) -> bool {
        let JobAnswer::Accepted(job) = answer else {
            return false;
        };
        job.rejected == 0 && job.holds.is_empty() && self.checked.import.is_none()
    }
}

fn count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A recipient with three faults is one recipient.
pub(super) fn rejected_rows(checked: &Checked) -> i64 {
    if let Some(group) = &checked.group {
        return group.rejected;
    }
    let mut rows: Vec<i32> = checked.rejections.iter().map(|r| r.row).collect();
    rows.dedup();
    count(rows.len())
}

/// Takes the keys; those that were taken before are answered as then.
async fn take_new<'a>(
    connection: &mut Connection,
    sends: &'a [Sending<'a>],
    answers: &mut HashMap<usize, JobAnswer>,
) -> Result<Vec<&'a Sending<'a>>, StoreError> {
    if sends.is_empty() {
        return Ok(Vec::new());
    }
    let new: Vec<NewJob<'_>> =
        sends.iter().map(|s| NewJob { key: &s.key, digest: s.digest, batch: s.checked.batch }).collect();
    let mut taken = jobs::take_keys(connection, &new).await?;
    taken.sort();
    let (new, repeated): (Vec<_>, Vec<_>) = sends.iter().partition(|s| taken.binary_search(&s.key).is_ok());
    if !repeated.is_empty() {
        let keys: Vec<&JobKey> = repeated.iter().map(|s| &s.key).collect();
        let first: HashMap<JobKey, FirstAnswer> =
            jobs::first_answers(connection, &keys).await?.into_iter().map(|first| (first.key.clone(), first)).collect();
        for send in repeated {
            if let Some(first) = first.get(&send.key) {
                answers.insert(send.index, again(&send.key, &send.digest, first));
            }
        }
    }
    Ok(new)
}

/// Every scope of a hold that may be over one of the jobs, once.
pub(super) fn scopes(snapshot: &Snapshot, sends: &[&Sending<'_>]) -> Vec<String> {
    let mut scopes: Vec<String> = sends.iter().flat_map(|send| scopes_of(snapshot, send)).collect();
    scopes.sort_unstable();
    scopes.dedup();
    scopes
}

fn scopes_of(snapshot: &Snapshot, send: &Sending<'_>) -> Vec<String> {
    let checked = send.checked;
    let scopes = snapshot.route(&checked.number, &checked.template).scopes(checked.batch);
    scopes.iter().map(HoldScope::to_string).collect()
}

/// The open holds over each new job, by its place in the group, the oldest first.
async fn open_holds(
    connection: &mut Connection,
    snapshot: &Snapshot,
    new: &[&Sending<'_>],
) -> Result<Holds, StoreError> {
    let scopes = scopes(snapshot, new);
    if scopes.is_empty() {
        return Ok(Holds::new());
    }
    let open = jobs::open_holds(connection, &scopes).await?;
    if open.is_empty() {
        return Ok(Holds::new());
    }
    let covering = |send: &Sending<'_>| {
        let scopes = scopes_of(snapshot, send);
        open.iter().filter(|hold| scopes.contains(&hold.scope)).cloned().collect()
    };
    Ok(new.iter().map(|send| (send.index, covering(send))).collect())
}

pub(super) fn woken(new: &[&Sending<'_>], holds: &Holds, small_batch: usize) -> Wake {
    let is_due = |send: &&&Sending<'_>| {
        send.checked.send_at.is_none()
            && send.checked.import.is_none()
            && holds.get(&send.index).is_none_or(Vec::is_empty)
    };
    let mut wake = Wake::default();
    for send in new.iter().filter(is_due) {
        let is_urgent = Lane::from(send.checked.template.template.category).is_urgent()
            && send.checked.recipients.len() <= small_batch;
        let woken = if is_urgent { &mut wake.urgent } else { &mut wake.numbers };
        woken.insert(send.checked.number.id);
    }
    wake
}

async fn list_refused(connection: &mut Connection, group: &[&Job], answers: &[JobAnswer]) -> Result<(), StoreError> {
    let refused = group.iter().zip(answers).filter_map(|(job, answer)| {
        let JobAnswer::Rejected(refused) = answer else {
            return None;
        };
        Some(RefusedJob {
            tenant: job.prepared.tenant,
            producer: refused.producer.clone(),
            job_id: refused.job_id.clone(),
            source: job.source.clone(),
            digest: job.raw_digest,
            body_bytes: job.body_bytes,
            errors: json!(refused.errors),
        })
    });
    refusals::record_refused(connection, &refused.collect::<Vec<_>>()).await
}
