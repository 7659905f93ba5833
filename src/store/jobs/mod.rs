//! Jobs as they are taken: the idempotency keys, the rows a job becomes, and what was refused.
//!
//! A group of jobs is one transaction, and mostly one statement ([`insert_plain`]). Keys are inserted in order, so that two
//! groups with common keys wait for each other and never in a circle; all other rows are new and nobody waits for them.

mod rows;

use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    domain::{
        canary::CanaryRule,
        hold::{OpenHold, Resume},
        ids::{BatchId, HoldId, NumberId, TenantId},
    },
    store::{Doing as _, StoreError},
};

pub use self::rows::{NewBatch, NewMessage, Plain, insert, insert_plain};

/// What makes a job the same job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobKey {
    /// Whose it is.
    pub tenant: TenantId,
    /// Who published it.
    pub producer: String,
    /// Its name among the producer's.
    pub job_id: String,
}

/// A key with what it stands for.
#[derive(Debug, Clone)]
pub struct NewJob<'a> {
    /// The key.
    pub key: &'a JobKey,
    /// Digest of the canonical body.
    pub digest: [u8; 32],
    /// The batch it becomes.
    pub batch: BatchId,
}

/// What was answered when a job came first.
#[derive(Debug, Clone)]
pub struct FirstAnswer {
    /// The key.
    pub key: JobKey,
    /// Digest of the first body.
    pub digest: Vec<u8>,
    /// The batch it became.
    pub batch: BatchId,
    /// The answer, when it was more than "all accepted".
    pub answer: Option<Value>,
    /// Recipients of the batch.
    pub recipients: i32,
}

/// Takes the keys that are free; returns them. In order of the keys.
pub async fn take_keys(connection: &mut PgConnection, jobs: &[NewJob<'_>]) -> Result<Vec<JobKey>, StoreError> {
    let tenants: Vec<i32> = jobs.iter().map(|job| job.key.tenant.0).collect();
    let producers: Vec<&str> = jobs.iter().map(|job| job.key.producer.as_str()).collect();
    let names: Vec<&str> = jobs.iter().map(|job| job.key.job_id.as_str()).collect();
    let digests: Vec<&[u8]> = jobs.iter().map(|job| job.digest.as_slice()).collect();
    let batches: Vec<Uuid> = jobs.iter().map(|job| job.batch.0).collect();
    let taken = sqlx::query!(
        "INSERT INTO job (tenant_id, producer, job_id, body_sha256, batch_id)
         SELECT * FROM UNNEST($1::integer[], $2::text[], $3::text[], $4::bytea[], $5::uuid[])
         ON CONFLICT (tenant_id, producer, job_id) DO NOTHING
         RETURNING tenant_id, producer, job_id",
        &tenants,
        &producers as &[&str],
        &names as &[&str],
        &digests as &[&[u8]],
        &batches
    )
    .fetch_all(connection)
    .await
    .doing("take the keys of jobs")?;
    let key = |tenant, producer, job_id| JobKey { tenant: TenantId(tenant), producer, job_id };
    Ok(taken.into_iter().map(|row| key(row.tenant_id, row.producer, row.job_id)).collect())
}

/// What was answered to these jobs when they came first.
pub async fn first_answers(connection: &mut PgConnection, keys: &[&JobKey]) -> Result<Vec<FirstAnswer>, StoreError> {
    let tenants: Vec<i32> = keys.iter().map(|key| key.tenant.0).collect();
    let producers: Vec<&str> = keys.iter().map(|key| key.producer.as_str()).collect();
    let names: Vec<&str> = keys.iter().map(|key| key.job_id.as_str()).collect();
    let rows = sqlx::query!(
        r#"SELECT j.tenant_id, j.producer, j.job_id, j.body_sha256, j.batch_id, j.answer,
                  coalesce(b.recipients, 0) AS "recipients!"
           FROM UNNEST($1::integer[], $2::text[], $3::text[]) AS k (tenant_id, producer, job_id)
           JOIN job j USING (tenant_id, producer, job_id)
           -- its partition may be gone: the key is kept longer than the messages
           LEFT JOIN batch b ON b.batch_id = j.batch_id"#,
        &tenants,
        &producers as &[&str],
        &names as &[&str]
    )
    .fetch_all(connection)
    .await
    .doing("read the first answers of repeated jobs")?;
    let answers = rows.into_iter().map(|row| FirstAnswer {
        key: JobKey { tenant: TenantId(row.tenant_id), producer: row.producer, job_id: row.job_id },
        digest: row.body_sha256,
        batch: BatchId(row.batch_id),
        answer: row.answer,
        recipients: row.recipients,
    });
    Ok(answers.collect())
}

/// Keeps answers that say more than "all accepted".
pub async fn keep_answers(connection: &mut PgConnection, answers: &[(&JobKey, Value)]) -> Result<(), StoreError> {
    let tenants: Vec<i32> = answers.iter().map(|(key, _)| key.tenant.0).collect();
    let producers: Vec<&str> = answers.iter().map(|(key, _)| key.producer.as_str()).collect();
    let names: Vec<&str> = answers.iter().map(|(key, _)| key.job_id.as_str()).collect();
    let bodies: Vec<Value> = answers.iter().map(|(_, answer)| answer.clone()).collect();
    sqlx::query!(
        "UPDATE job j SET answer = a.answer
         FROM UNNEST($1::integer[], $2::text[], $3::text[], $4::jsonb[]) AS a (tenant_id, producer, job_id, answer)
         WHERE j.tenant_id = a.tenant_id AND j.producer = a.producer AND j.job_id = a.job_id",
        &tenants,
        &producers as &[&str],
        &names as &[&str],
        &bodies
    )
    .execute(connection)
    .await
    .doing("keep the answers of jobs")?;
    Ok(())
}

/// The open holds of these scopes, locked against being closed until the transaction ends: whoever closes one
/// afterwards finds what was parked under it.
pub async fn open_holds(connection: &mut PgConnection, scopes: &[String]) -> Result<Vec<OpenHold>, StoreError> {
    let rows = sqlx::query!(
        // Under a canary work is not parked: the first messages are taken from it.
        "SELECT id, scope, cause, until FROM hold
         WHERE closed_at IS NULL AND scope = ANY($1) AND resume <> 'canary' ORDER BY id FOR SHARE",
        scopes
    )
    .fetch_all(connection)
    .await
    .doing("read the open holds")?;
    let holds = rows.into_iter().map(|row| OpenHold {
        id: HoldId(row.id),
        scope: row.scope,
        cause: row.cause,
        until: row.until,
        is_probed: false,
        is_probe_due: false,
        probes: 0,
    });
    Ok(holds.collect())
}

/// A batch whose first messages are watched.
#[derive(Debug, Clone, Copy)]
pub struct NewCanary {
    /// Whose batch.
    pub tenant: TenantId,
    /// Which.
    pub batch: BatchId,
    /// From which number.
    pub number: NumberId,
    /// How.
    pub rule: CanaryRule,
}

/// Opens the hold of each of these batches that lets only its first messages through.
pub async fn open_canaries(connection: &mut PgConnection, canaries: &[NewCanary]) -> Result<(), StoreError> {
    if canaries.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "WITH new AS (
             SELECT * FROM unnest($1::int[], $2::uuid[], $3::int[], $4::int[], $5::int[], $6::int[])
                 AS u(tenant_id, batch_id, number_id, messages, fault_percent, wait_s)
         ), opened AS (
             INSERT INTO hold (tenant_id, scope, cause, detail, resume)
             SELECT tenant_id, 'batch:' || batch_id, 'canary', format('the first %s messages go out alone', messages), $7
             FROM new RETURNING id, scope
         )
         INSERT INTO canary (hold_id, batch_id, number_id, messages, fault_percent, wait_s)
         SELECT o.id, n.batch_id, n.number_id, n.messages, n.fault_percent, n.wait_s
         FROM opened o JOIN new n ON o.scope = 'batch:' || n.batch_id",
        &canaries.iter().map(|c| c.tenant.0).collect::<Vec<_>>(),
        &canaries.iter().map(|c| c.batch.0).collect::<Vec<_>>(),
        &canaries.iter().map(|c| c.number.0).collect::<Vec<_>>(),
        &canaries.iter().map(|c| c.rule.messages).collect::<Vec<_>>(),
        &canaries.iter().map(|c| c.rule.fault_percent).collect::<Vec<_>>(),
        &canaries.iter().map(|c| c.rule.wait_s).collect::<Vec<_>>(),
        Resume::Canary.as_str(),
    )
    .execute(connection)
    .await
    .doing("open canaries")?;
    Ok(())
}

/// Marks the batch of a job as cancelled, and those that send its messages again; what is not sent yet is then given up by
/// the sweep. The first time counts.
pub async fn cancel(connection: &mut PgConnection, key: &JobKey) -> Result<Option<BatchId>, StoreError> {
    let batches = sqlx::query_scalar!(
        r#"WITH RECURSIVE given_up AS (
               SELECT j.batch_id FROM job j WHERE j.tenant_id = $1 AND j.producer = $2 AND j.job_id = $3
               UNION
               SELECT r.batch_id FROM given_up g JOIN batch r ON r.resend_of = g.batch_id
           )
           UPDATE batch b SET cancelled_at = coalesce(b.cancelled_at, now())
           FROM given_up g WHERE b.batch_id = g.batch_id
           RETURNING CASE WHEN b.resend_of IS NULL THEN b.batch_id END AS batch"#,
        key.tenant.0,
        key.producer,
        key.job_id
    )
    .fetch_all(connection)
    .await
    .doing("cancel a job")?;
    Ok(batches.into_iter().flatten().next().map(BatchId))
}
