//! A group of jobs as one transaction: keys, rows, answers, and the messages that tell of them.

use std::{borrow::Cow, collections::HashMap};

use serde_json::json;
use uuid::Uuid;

use crate::{
    domain::{
        hold::{HoldScope, OpenHold},
        ids::{BatchId, NumberId, TenantId},
        lane::Lane,
        template::Params,
    },
    intake::{
        canonical::raw_digest,
        check::{Checked, slot_error},
        job::{AcceptedJob, JOB_ANSWER, JobAnswer, JobError, MetHold, REJECTIONS_SHOWN},
        prepare::{Prepared, Verdict},
    },
    store::{
        StoreError,
        imports::{self, Import},
        jobs::{
            self, FirstAnswer, JobKey, NewBatch, NewJob, NewMessage, RefusedJob, RefusedRecipient,
        },
        outbox::{self, OutboxMessage},
        registry::Snapshot,
        session::{Connection, Session, commit},
    },
};

/// The open holds over jobs, by their place in the group.
type Holds = HashMap<usize, Vec<OpenHold>>;

/// A job with how it came and how it wants its answer.
#[derive(Debug)]
pub struct Job {
    /// What was decided about it.
    pub prepared: Prepared,
    /// `http`, or the queue it came by.
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
    pub woken: Vec<NumberId>,
    /// Whether a batch is left to be planned.
    pub is_plan_due: bool,
}

impl Job {
    /// The idempotency key of a job to send.
    pub fn key(&self) -> Option<JobKey> {
        let Verdict::Send(checked) = &self.prepared.verdict else {
            return None;
        };
        Some(key(
            checked.tenant,
            &checked.job.producer,
            &checked.job.job_id,
        ))
    }

    /// Messages it writes at once.
    pub fn recipients(&self) -> usize {
        match &self.prepared.verdict {
            Verdict::Send(checked) => checked.recipients.len(),
            Verdict::Cancel(_) | Verdict::Refuse(_) => 0,
        }
    }
}

fn key(tenant: TenantId, producer: &str, job_id: &str) -> JobKey {
    JobKey {
        tenant,
        producer: producer.to_owned(),
        job_id: job_id.to_owned(),
    }
}

/// Looks up the imports that jobs name; a job whose import cannot be used is refused from here on.
pub async fn resolve_imports(
    connection: &mut Connection,
    jobs: &mut [Job],
) -> Result<(), StoreError> {
    for job in jobs {
        let Verdict::Send(checked) = &mut job.prepared.verdict else {
            continue;
        };
        let Some((id, count)) = &mut checked.import else {
            continue;
        };
        let found = imports::find(connection, checked.tenant, *id).await?;
        *count = found.as_ref().map_or(0, |import| import.good);
        let mut errors = import_errors(checked, found.as_ref());
        if errors.is_empty() {
            continue;
        }
        if let Some(error) = errors
            .iter_mut()
            .find(|error| error.pointer == "/audience/import")
        {
            let ready = imports::ready_for(connection, checked.tenant, checked.template.id).await?;
            error.did_you_mean = ready.iter().map(Uuid::to_string).collect();
        }
        job.prepared.verdict = Verdict::Refuse(errors);
    }
    Ok(())
}

fn import_errors(checked: &Checked, found: Option<&Import>) -> Vec<JobError> {
    let refuse = |code, reason: String| vec![JobError::new("/audience/import", code, reason)];
    let Some(import) = found else {
        return refuse("unknown_import", "there is no such import".to_owned());
    };
    if import.account != checked.number.account.id || import.template != checked.template.id {
        let (name, language) = (&checked.job.template.name, &checked.job.template.language);
        let reason = format!(
            "the import was not made for the template `{name}` in {language} of this account"
        );
        return refuse("wrong_import", reason);
    }
    if import.state != "ready" {
        return refuse(
            "import_not_ready",
            format!("the import is {}, not ready", import.state),
        );
    }
    let Some(sample) = &import.sample else {
        return refuse(
            "no_good_recipient",
            "no row of the import can be sent to".to_owned(),
        );
    };
    // What has no column in the file must come from the job; all rows are alike in that.
    let sample: Params = serde_json::from_value(sample.clone()).unwrap_or_default();
    let problems = checked
        .template
        .template
        .fill(&checked.job.params, &sample)
        .err()
        .unwrap_or_default();
    problems
        .into_iter()
        .map(|problem| slot_error(problem, "/params"))
        .collect()
}

/// Writes a group. No two of its jobs may have the same key. Nothing is written unless all of it is.
///
/// # Errors
/// A transient one may hide a commit; run again, the group finds its own keys and answers the same.
pub async fn write(
    session: &mut Session,
    snapshot: &Snapshot,
    small_batch: usize,
    group: &[Job],
) -> Result<Outcome, StoreError> {
    let mut transaction = session.begin().await?;
    let mut answers: HashMap<usize, JobAnswer> = HashMap::new();
    let mut sends: Vec<Sending<'_>> = group
        .iter()
        .enumerate()
        .filter_map(|(i, job)| Sending::of(i, job))
        .collect();
    sends.sort_by(|a, b| a.key.cmp(&b.key));
    let new = take_new(&mut transaction, &sends, &mut answers).await?;
    let holds = open_holds(&mut transaction, snapshot, &new).await?;
    insert(&mut transaction, small_batch, &new, &holds).await?;
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
    let answers: Vec<JobAnswer> = (0..group.len())
        .filter_map(|index| answers.remove(&index))
        .collect();
    list_refused(&mut transaction, group, &answers).await?;
    outbox::insert(&mut transaction, &told(snapshot, group, &answers)).await?;
    commit(transaction, "commit a group of jobs").await?;
    Ok(Outcome {
        answers,
        woken: woken(&new, &holds),
        is_plan_due: new.iter().any(|send| send.checked.import.is_some()),
    })
}

/// The answer a job would get, without writing anything.
pub async fn rehearse(
    session: &mut Session,
    snapshot: &Snapshot,
    jobs: &mut [Job],
) -> Result<JobAnswer, StoreError> {
    resolve_imports(session.connection().await?, jobs).await?;
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
        return Ok(again(&send, first));
    }
    let holds = open_holds(session.connection().await?, snapshot, &[&send]).await?;
    Ok(send.answer(holds.get(&0)))
}

/// A job to send, in a group.
struct Sending<'a> {
    index: usize,
    key: JobKey,
    checked: &'a Checked,
    digest: [u8; 32],
}

impl<'a> Sending<'a> {
    fn of(index: usize, job: &'a Job) -> Option<Self> {
        let Verdict::Send(checked) = &job.prepared.verdict else {
            return None;
        };
        Some(Self {
            index,
            key: job.key()?,
            checked,
            digest: job.prepared.digest,
        })
    }

    fn answer(&self, hold: Option<&Vec<OpenHold>>) -> JobAnswer {
        let checked = self.checked;
        let accepted = checked
            .import
            .map_or_else(|| count(checked.recipients.len()), |(_, good)| good);
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
            rejections: checked
                .rejections
                .iter()
                .take(REJECTIONS_SHOWN)
                .cloned()
                .collect(),
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
fn rejected_rows(checked: &Checked) -> i64 {
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
    let new: Vec<NewJob<'_>> = sends
        .iter()
        .map(|s| NewJob {
            key: &s.key,
            digest: s.digest,
            batch: s.checked.batch,
        })
        .collect();
    let mut taken = jobs::take_keys(connection, &new).await?;
    taken.sort();
    let (new, repeated): (Vec<_>, Vec<_>) = sends
        .iter()
        .partition(|s| taken.binary_search(&s.key).is_ok());
    if !repeated.is_empty() {
        let keys: Vec<&JobKey> = repeated.iter().map(|s| &s.key).collect();
        let first: HashMap<JobKey, FirstAnswer> = jobs::first_answers(connection, &keys)
            .await?
            .into_iter()
            .map(|first| (first.key.clone(), first))
            .collect();
        for send in repeated {
            if let Some(first) = first.get(&send.key) {
                answers.insert(send.index, again(send, first));
            }
        }
    }
    Ok(new)
}

/// The first answer of a repeated job, if it is the same job.
fn again(send: &Sending<'_>, first: &FirstAnswer) -> JobAnswer {
    let key = &send.key;
    if first.digest != send.digest {
        let reason = format!(
            "`{}` was accepted before with another body, as batch {}",
            key.job_id, first.batch
        );
        let error = JobError::new("/job_id", "job_id_reused", reason);
        return JobAnswer::refused(Some(&key.producer), Some(&key.job_id), vec![error]);
    }
    let kept = first
        .answer
        .clone()
        .and_then(|answer| serde_json::from_value(answer).ok());
    kept.unwrap_or_else(|| accepted(key, first.batch, first.recipients.into()))
}

fn accepted(key: &JobKey, batch_id: BatchId, accepted: i64) -> JobAnswer {
    JobAnswer::Accepted(AcceptedJob {
        schema: Cow::Borrowed(JOB_ANSWER),
        producer: key.producer.clone(),
        job_id: key.job_id.clone(),
        batch_id,
        accepted,
        rejected: 0,
        rejections: Vec::new(),
        holds: Vec::new(),
    })
}

fn cancelled(key: &JobKey, batch: Option<BatchId>) -> JobAnswer {
    match batch {
        Some(batch) => accepted(key, batch, 0),
        None => {
            let reason = format!("no job `{}` of this producer was accepted", key.job_id);
            let error = JobError::new("/job_id", "unknown_job", reason);
            JobAnswer::refused(Some(&key.producer), Some(&key.job_id), vec![error])
        }
    }
}

fn refused(job: &Job, errors: Vec<JobError>) -> JobAnswer {
    JobAnswer::refused(
        job.prepared.producer.as_deref(),
        job.prepared.job_id.as_deref(),
        errors,
    )
}

/// The open holds over each new job, by its place in the group, the oldest first.
async fn open_holds(
    connection: &mut Connection,
    snapshot: &Snapshot,
    new: &[&Sending<'_>],
) -> Result<Holds, StoreError> {
    let scopes_of = |send: &Sending<'_>| -> Vec<String> {
        let checked = send.checked;
        let scopes = snapshot
            .route(&checked.number, &checked.template)
            .scopes(checked.batch);
        scopes.iter().map(HoldScope::to_string).collect()
    };
    let by_send: Vec<(usize, Vec<String>)> = new
        .iter()
        .map(|send| (send.index, scopes_of(send)))
        .collect();
    let mut scopes: Vec<String> = by_send
        .iter()
        .flat_map(|(_, scopes)| scopes.iter().cloned())
        .collect();
    scopes.sort_unstable();
    scopes.dedup();
    if scopes.is_empty() {
        return Ok(Holds::new());
    }
    let open = jobs::open_holds(connection, &scopes).await?;
    if open.is_empty() {
        return Ok(Holds::new());
    }
    let covering = |scopes: &[String]| {
        open.iter()
            .filter(|hold| scopes.contains(&hold.scope))
            .cloned()
            .collect()
    };
    Ok(by_send
        .into_iter()
        .map(|(index, scopes)| (index, covering(&scopes)))
        .collect())
}

async fn insert(
    connection: &mut Connection,
    small_batch: usize,
    new: &[&Sending<'_>],
    holds: &Holds,
) -> Result<(), StoreError> {
    if new.is_empty() {
        return Ok(());
    }
    let batches: Vec<NewBatch<'_>> = new
        .iter()
        .map(|send| new_batch(send, small_batch, holds))
        .collect();
    jobs::insert_batches(connection, &batches).await?;
    let messages: Vec<NewMessage<'_>> = new
        .iter()
        .flat_map(|send| new_messages(send.checked))
        .collect();
    if !messages.is_empty() {
        jobs::insert_messages(connection, &messages).await?;
    }
    let refused: Vec<RefusedRecipient<'_>> = new
        .iter()
        .flat_map(|send| {
            send.checked
                .rejections
                .iter()
                .map(|rejection| RefusedRecipient {
                    batch: send.checked.batch,
                    row: rejection.row,
                    pointer: &rejection.pointer,
                    code: &rejection.code,
                    reason: &rejection.reason,
                })
        })
        .collect();
    jobs::insert_refused(connection, &refused).await
}

fn new_batch<'a>(send: &'a Sending<'_>, small_batch: usize, holds: &'a Holds) -> NewBatch<'a> {
    let checked = send.checked;
    let is_large = checked.import.is_some() || checked.recipients.len() > small_batch;
    let notify: Vec<&str> = checked
        .job
        .notify
        .iter()
        .map(|word| word.as_str())
        .collect();
    NewBatch {
        batch: checked.batch,
        key: &send.key,
        campaign: checked.job.campaign.as_deref(),
        account: checked.number.account.id,
        number: checked.number.id,
        template: checked.template.id,
        lane: Lane::from(checked.template.template.category),
        params: json!(checked.job.params),
        notify: notify.join(","),
        import: checked.import.map(|(id, _)| id),
        recipients: i32::try_from(checked.recipients.len()).unwrap_or(i32::MAX),
        rejected: i32::try_from(rejected_rows(checked)).unwrap_or(i32::MAX),
        send_at: checked.send_at,
        expires_at: checked.expires_at,
        life_s: checked.life.num_seconds(),
        // Small batches take one turn together, or a thousand of them would starve a large one.
        turn_group: if is_large {
            checked.batch.0
        } else {
            Uuid::nil()
        },
        hold: holds.get(&send.index).and_then(|holds| holds.first()),
    }
}

fn new_messages(checked: &Checked) -> impl Iterator<Item = NewMessage<'_>> {
    (1..)
        .zip(&checked.recipients)
        .map(|(seq, good)| NewMessage {
            batch: checked.batch,
            seq,
            recipient: good.to.as_str(),
            reference: good.reference.as_deref(),
            time_zone: good.time_zone.as_deref(),
            params: good.params.clone(),
        })
}

fn woken(new: &[&Sending<'_>], holds: &Holds) -> Vec<NumberId> {
    let is_due = |send: &&&Sending<'_>| {
        send.checked.send_at.is_none()
            && send.checked.import.is_none()
            && holds.get(&send.index).is_none_or(Vec::is_empty)
    };
    let mut numbers: Vec<NumberId> = new
        .iter()
        .filter(is_due)
        .map(|send| send.checked.number.id)
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

async fn list_refused(
    connection: &mut Connection,
    group: &[Job],
    answers: &[JobAnswer],
) -> Result<(), StoreError> {
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
    jobs::record_refused(connection, &refused.collect::<Vec<_>>()).await
}

/// The event of each job, and the replies that were asked for.
fn told(snapshot: &Snapshot, group: &[Job], answers: &[JobAnswer]) -> Vec<OutboxMessage> {
    let mut messages = Vec::with_capacity(group.len());
    for (job, answer) in group.iter().zip(answers) {
        let tenant = snapshot
            .tenants
            .get(&job.prepared.tenant)
            .map_or("default", String::as_str);
        let body = json!(answer);
        let (kind, id) = match answer {
            JobAnswer::Accepted(accepted) => ("job.accepted.v1", accepted_event_id(accepted)),
            JobAnswer::Rejected(_) => ("job.rejected.v1", Uuid::new_v4()),
        };
        messages.push(OutboxMessage::event(
            id,
            kind,
            tenant,
            answer.producer(),
            &body,
        ));
        if let Some(queue) = &job.reply_to {
            messages.push(OutboxMessage::reply(
                queue.clone(),
                job.correlation_id.clone(),
                body,
            ));
        }
    }
    messages
}

/// The same for every repeat of a job, so that a listener tells them apart from another job's.
fn accepted_event_id(job: &AcceptedJob) -> Uuid {
    let name = format!("job.accepted.v1 {} {}", job.batch_id, job.accepted);
    let digest = raw_digest(name.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(digest.split_at(16).0);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}
