//! Answers, and the messages that carry them.

use std::borrow::Cow;

use serde_json::json;
use uuid::Uuid;

use crate::{
    domain::{event::EventKind, ids::BatchId},
    intake::{
        canonical::raw_digest,
        group::Job,
        job::{AcceptedJob, JOB_ANSWER, JobAnswer, JobError},
    },
    store::{
        jobs::{FirstAnswer, JobKey},
        outbox::OutboxMessage,
        registry::Snapshot,
    },
};

/// The first answer of a repeated job, if it is the same job.
pub(super) fn again(key: &JobKey, digest: &[u8; 32], first: &FirstAnswer) -> JobAnswer {
    if first.digest != digest {
        let reason = format!("`{}` was accepted before with another body, as batch {}", key.job_id, first.batch);
        let error = JobError::new("/job_id", "job_id_reused", reason);
        return JobAnswer::refused(Some(&key.producer), Some(&key.job_id), vec![error]);
    }
    let kept = first.answer.clone().and_then(|answer| serde_json::from_value(answer).ok());
    kept.unwrap_or_else(|| accepted(key, first.batch, first.recipients.into()))
}

pub(super) fn accepted(key: &JobKey, batch_id: BatchId, accepted: i64) -> JobAnswer {
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

pub(super) fn cancelled(key: &JobKey, batch: Option<BatchId>) -> JobAnswer {
    if let Some(batch) = batch {
        return accepted(key, batch, 0);
    }
    let reason = format!("no job `{}` of this producer was accepted", key.job_id);
    let error = JobError::new("/job_id", "unknown_job", reason);
    JobAnswer::refused(Some(&key.producer), Some(&key.job_id), vec![error])
}

pub(super) fn refused(job: &Job, errors: Vec<JobError>) -> JobAnswer {
    JobAnswer::refused(job.prepared.producer.as_deref(), job.prepared.job_id.as_deref(), errors)
}

/// The event of a job, and the reply if one was asked for.
pub(super) fn told(snapshot: &Snapshot, job: &Job, answer: &JobAnswer) -> Vec<OutboxMessage> {
    let tenant = snapshot.tenants.get(&job.prepared.tenant).map_or("default", String::as_str);
    let body = json!(answer);
    let (kind, id) = match answer {
        JobAnswer::Accepted(accepted) => (EventKind::JobAccepted, accepted_event_id(accepted)),
        JobAnswer::Rejected(_) => (EventKind::JobRejected, Uuid::new_v4()),
    };
    let mut messages = vec![OutboxMessage::event(id, kind, Some(tenant), Some(answer.producer()), &body)];
    messages.extend(
        job.reply_to.iter().map(|queue| OutboxMessage::reply(queue.clone(), job.correlation_id.clone(), body.clone())),
    );
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
