//! Jobs as they are taken: the idempotency keys, the rows a job becomes, and what was refused.
//!
//! A group of jobs is one transaction, each statement one for the whole group. Keys are inserted in order, so that two
//! groups with common keys wait for each other and never in a circle; all other rows are new and nobody waits for them.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    domain::{
        canary::CanaryRule,
        hold::{OpenHold, Resume},
        ids::{AccountId, BatchId, HoldId, NumberId, TemplateId, TenantId},
        lane::Lane,
    },
    store::{Doing as _, StoreError},
};

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

/// A batch to be written.
#[derive(Debug, Clone)]
pub struct NewBatch<'a> {
    /// Its id.
    pub batch: BatchId,
    /// The job it comes from.
    pub key: &'a JobKey,
    /// The name to find it by.
    pub campaign: Option<&'a str>,
    /// How it goes out.
    pub account: AccountId,
    /// From which number.
    pub number: NumberId,
    /// With which template.
    pub template: TemplateId,
    /// In which lane.
    pub lane: Lane,
    /// Values for all.
    pub params: Value,
    /// Wanted events, separated by commas.
    pub notify: String,
    /// The import its recipients come from; it is then still to be planned.
    pub import: Option<Uuid>,
    /// Messages written now.
    pub recipients: i32,
    /// Recipients refused.
    pub rejected: i32,
    /// Not before; absent is at once.
    pub send_at: Option<DateTime<Utc>>,
    /// Not after; absent is `life_s` after the start.
    pub expires_at: Option<DateTime<Utc>>,
    /// Seconds.
    pub life_s: i64,
    /// The hours of the recipients in which it goes out, as [`crate::domain::schedule::Hours`].
    pub windows: Option<Value>,
    /// Whose turn its work takes.
    pub turn_group: Uuid,
    /// The hold its work is parked under.
    pub hold: Option<&'a OpenHold>,
}

/// Writes batches, their tallies where they have more than one message, and the work of `recipients` messages each.
pub async fn insert_batches(connection: &mut PgConnection, batches: &[NewBatch<'_>]) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = batches.iter().map(|b| b.batch.0).collect();
    let (send_at, expires_at): (Vec<_>, Vec<_>) = batches.iter().map(|b| (b.send_at, b.expires_at)).unzip();
    let lives: Vec<i64> = batches.iter().map(|b| b.life_s).collect();
    let lanes: Vec<&str> = batches.iter().map(|b| b.lane.as_str()).collect();
    let numbers: Vec<i32> = batches.iter().map(|b| b.number.0).collect();
    let recipients: Vec<i32> = batches.iter().map(|b| b.recipients).collect();
    sqlx::query!(
        "INSERT INTO batch (batch_id, tenant_id, producer, job_id, campaign, account_id, number_id, template_id, lane,
                            params, notify, state, recipients, rejected, import_id, send_at, expires_at, windows)
         SELECT b.batch_id, tenant_id, producer, job_id, campaign, account_id, number_id, template_id, lane,
                params, string_to_array(notify, ','), (CASE WHEN import_id IS NULL THEN 'planned' ELSE 'planning' END)::batch_state,
                recipients, rejected, import_id, coalesce(send_at, now()),
                coalesce(expires_at, coalesce(send_at, now()) + life_s * interval '1 second'), windows
         FROM UNNEST($1::uuid[], $2::integer[], $3::text[], $4::text[], $5::text[], $6::integer[], $7::integer[],
                     $8::integer[], $9::text[]::lane[], $10::jsonb[], $11::text[], $12::integer[], $13::integer[],
                     $14::uuid[], $15::timestamptz[], $16::timestamptz[], $17::bigint[], $18::jsonb[])
              AS b (batch_id, tenant_id, producer, job_id, campaign, account_id, number_id, template_id, lane,
                    params, notify, recipients, rejected, import_id, send_at, expires_at, life_s, windows)",
        &ids,
        &batches.iter().map(|b| b.key.tenant.0).collect::<Vec<_>>(),
        &batches.iter().map(|b| b.key.producer.as_str()).collect::<Vec<_>>() as &[&str],
        &batches.iter().map(|b| b.key.job_id.as_str()).collect::<Vec<_>>() as &[&str],
        &batches.iter().map(|b| b.campaign).collect::<Vec<_>>() as &[Option<&str>],
        &batches.iter().map(|b| b.account.0).collect::<Vec<_>>(),
        &numbers,
        &batches.iter().map(|b| b.template.0).collect::<Vec<_>>(),
        &lanes as &[&str],
        &batches.iter().map(|b| b.params.clone()).collect::<Vec<_>>(),
        &batches.iter().map(|b| b.notify.as_str()).collect::<Vec<_>>() as &[&str],
        &recipients,
        &batches.iter().map(|b| b.rejected).collect::<Vec<_>>(),
        &batches.iter().map(|b| b.import).collect::<Vec<_>>() as &[Option<Uuid>],
        &send_at as &[Option<DateTime<Utc>>],
        &expires_at as &[Option<DateTime<Utc>>],
        &lives,
        &batches.iter().map(|b| b.windows.clone()).collect::<Vec<_>>() as &[Option<Value>]
    )
    .execute(&mut *connection)
    .await
    .doing("write batches")?;
    insert_work(connection, batches).await?;
    let counted: Vec<&NewBatch<'_>> = batches.iter().filter(|b| b.recipients > 1 || b.import.is_some()).collect();
    if counted.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO batch_tally (batch_id, pending) SELECT * FROM UNNEST($1::uuid[], $2::integer[])",
        &counted.iter().map(|b| b.batch.0).collect::<Vec<_>>(),
        &counted.iter().map(|b| b.recipients).collect::<Vec<_>>()
    )
    .execute(connection)
    .await
    .doing("write tallies")?;
    Ok(())
}

async fn insert_work(connection: &mut PgConnection, batches: &[NewBatch<'_>]) -> Result<(), StoreError> {
    let (send_at, expires_at): (Vec<_>, Vec<_>) = batches.iter().map(|b| (b.send_at, b.expires_at)).unzip();
    let holds: Vec<Option<i64>> = batches.iter().map(|b| b.hold.map(|hold| hold.id.0)).collect();
    let until: Vec<Option<DateTime<Utc>>> = batches.iter().map(|b| b.hold.and_then(|hold| hold.until)).collect();
    sqlx::query!(
        "INSERT INTO work (batch_id, seq, number_id, lane, stage, turn_group, wake_at, hold_id)
         SELECT batch_id, seq, number_id, lane, (CASE WHEN hold_id IS NULL THEN 'ready' ELSE 'parked' END)::work_stage,
                turn_group,
                CASE WHEN hold_id IS NULL THEN coalesce(send_at, now())
                     -- least() passes over the hold that has no end
                     ELSE least(hold_until, coalesce(expires_at, coalesce(send_at, now()) + life_s * interval '1 second')) END,
                hold_id
         FROM UNNEST($1::uuid[], $2::integer[], $3::integer[], $4::text[]::lane[], $5::uuid[], $6::timestamptz[],
                     $7::timestamptz[], $8::bigint[], $9::bigint[], $10::timestamptz[])
              AS b (batch_id, recipients, number_id, lane, turn_group, send_at, expires_at, life_s, hold_id, hold_until),
              generate_series(1, b.recipients) AS seq",
        &batches.iter().map(|b| b.batch.0).collect::<Vec<_>>(),
        &batches.iter().map(|b| b.recipients).collect::<Vec<_>>(),
        &batches.iter().map(|b| b.number.0).collect::<Vec<_>>(),
        &batches.iter().map(|b| b.lane.as_str()).collect::<Vec<_>>() as &[&str],
        &batches.iter().map(|b| b.turn_group).collect::<Vec<_>>(),
        &send_at as &[Option<DateTime<Utc>>],
        &expires_at as &[Option<DateTime<Utc>>],
        &batches.iter().map(|b| b.life_s).collect::<Vec<_>>(),
        &holds as &[Option<i64>],
        &until as &[Option<DateTime<Utc>>]
    )
    .execute(connection)
    .await
    .doing("write work")?;
    Ok(())
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

/// A message to be written.
#[derive(Debug, Clone)]
pub struct NewMessage<'a> {
    /// Its batch.
    pub batch: BatchId,
    /// Its place, from 1.
    pub seq: i32,
    /// The address.
    pub recipient: &'a str,
    /// The producer's name for the recipient.
    pub reference: Option<&'a str>,
    /// IANA.
    pub time_zone: Option<&'a str>,
    /// Its own values.
    pub params: Option<Value>,
}

/// Writes messages.
pub async fn insert_messages(connection: &mut PgConnection, messages: &[NewMessage<'_>]) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO message (batch_id, seq, recipient, ref, time_zone, params)
         SELECT * FROM UNNEST($1::uuid[], $2::integer[], $3::text[], $4::text[], $5::text[], $6::jsonb[])",
        &messages.iter().map(|m| m.batch.0).collect::<Vec<_>>(),
        &messages.iter().map(|m| m.seq).collect::<Vec<_>>(),
        &messages.iter().map(|m| m.recipient).collect::<Vec<_>>() as &[&str],
        &messages.iter().map(|m| m.reference).collect::<Vec<_>>() as &[Option<&str>],
        &messages.iter().map(|m| m.time_zone).collect::<Vec<_>>() as &[Option<&str>],
        &messages.iter().map(|m| m.params.clone()).collect::<Vec<_>>() as &[Option<Value>]
    )
    .execute(connection)
    .await
    .doing("write messages")?;
    Ok(())
}

/// Marks the batch of a job as cancelled; what is not sent yet is then given up by the sweep. The first time counts.
pub async fn cancel(connection: &mut PgConnection, key: &JobKey) -> Result<Option<BatchId>, StoreError> {
    let batch = sqlx::query_scalar!(
        "UPDATE batch b SET cancelled_at = coalesce(cancelled_at, now())
         FROM job j
         WHERE j.tenant_id = $1 AND j.producer = $2 AND j.job_id = $3 AND b.batch_id = j.batch_id
         RETURNING b.batch_id",
        key.tenant.0,
        key.producer,
        key.job_id
    )
    .fetch_optional(connection)
    .await
    .doing("cancel a job")?;
    Ok(batch.map(BatchId))
}
