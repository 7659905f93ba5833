//! Jobs and recipients that were refused, for those who ask why.

use serde_json::Value;
use sqlx::PgConnection;

use crate::{
    domain::ids::{BatchId, TenantId},
    store::{Doing as _, StoreError},
};

/// A recipient of an accepted job that was refused.
#[derive(Debug, Clone)]
pub struct RefusedRecipient<'a> {
    /// Its batch.
    pub batch: BatchId,
    /// The place in the job, from 1.
    pub row: i32,
    /// The value.
    pub pointer: &'a str,
    /// For machines.
    pub code: &'a str,
    /// For people.
    pub reason: &'a str,
}

/// Writes refused recipients.
pub async fn insert_refused(connection: &mut PgConnection, refused: &[RefusedRecipient<'_>]) -> Result<(), StoreError> {
    if refused.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO batch_rejected (batch_id, row, pointer, code, reason)
         SELECT * FROM UNNEST($1::uuid[], $2::integer[], $3::text[], $4::text[], $5::text[])
         ON CONFLICT DO NOTHING",
        &refused.iter().map(|r| r.batch.0).collect::<Vec<_>>(),
        &refused.iter().map(|r| r.row).collect::<Vec<_>>(),
        &refused.iter().map(|r| r.pointer).collect::<Vec<_>>() as &[&str],
        &refused.iter().map(|r| r.code).collect::<Vec<_>>() as &[&str],
        &refused.iter().map(|r| r.reason).collect::<Vec<_>>() as &[&str]
    )
    .execute(connection)
    .await
    .doing("write refused recipients")?;
    Ok(())
}

/// A job that was refused, for the list of them.
#[derive(Debug, Clone)]
pub struct RefusedJob {
    /// Whose it is.
    pub tenant: TenantId,
    /// `unknown` when it cannot be read.
    pub producer: String,
    /// When it can be read.
    pub job_id: Option<String>,
    /// `http`, or the queue it came by.
    pub source: String,
    /// Digest of the body as it came.
    pub digest: [u8; 32],
    /// Size of the body.
    pub body_bytes: usize,
    /// What is wrong.
    pub errors: Value,
}

/// Lists refused jobs; one that is listed already is counted.
pub async fn record_refused(connection: &mut PgConnection, refused: &[RefusedJob]) -> Result<(), StoreError> {
    let mut sorted: Vec<&RefusedJob> = refused.iter().collect();
    sorted.sort_by(|a, b| (&a.producer, &a.digest).cmp(&(&b.producer, &b.digest)));
    // One statement cannot count the same row twice.
    let mut counts: Vec<i32> = Vec::new();
    let mut rows: Vec<&RefusedJob> = Vec::new();
    for job in sorted {
        match (rows.last(), counts.last_mut()) {
            (Some(last), Some(count)) if last.producer == job.producer && last.digest == job.digest => {
                *count += 1;
            }
            _ => {
                rows.push(job);
                counts.push(1);
            }
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO rejected_job (tenant_id, producer, job_id, source, body_sha256, body_bytes, errors, times)
         SELECT * FROM UNNEST($1::integer[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::integer[],
                              $7::jsonb[], $8::integer[])
         ON CONFLICT (producer, body_sha256) DO UPDATE
         SET times = rejected_job.times + excluded.times, errors = excluded.errors, rejected_at = now()",
        &rows.iter().map(|r| r.tenant.0).collect::<Vec<_>>(),
        &rows.iter().map(|r| r.producer.as_str()).collect::<Vec<_>>() as &[&str],
        &rows.iter().map(|r| r.job_id.as_deref()).collect::<Vec<_>>() as &[Option<&str>],
        &rows.iter().map(|r| r.source.as_str()).collect::<Vec<_>>() as &[&str],
        &rows.iter().map(|r| r.digest.as_slice()).collect::<Vec<_>>() as &[&[u8]],
        &rows.iter().map(|r| i32::try_from(r.body_bytes).unwrap_or(i32::MAX)).collect::<Vec<_>>(),
        &rows.iter().map(|r| r.errors.clone()).collect::<Vec<_>>(),
        &counts
    )
    .execute(connection)
    .await
    .doing("list refused jobs")?;
    Ok(())
}
