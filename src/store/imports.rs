//! Files of recipients, and the messages that batches make of them.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use crate::{
    domain::{
        hold::OpenHold,
        ids::{AccountId, BatchId, NumberId, TemplateId, TenantId},
        lane::Lane,
        template::Params,
    },
    store::{Doing as _, StoreError},
};

/// An import as jobs refer to it.
#[derive(Debug, Clone)]
pub struct Import {
    /// Its id.
    pub id: Uuid,
    /// Made for this account.
    pub account: AccountId,
    /// And this template.
    pub template: TemplateId,
    /// `reading`, `ready` or `failed`.
    pub state: String,
    /// Usable rows.
    pub good: i64,
    /// The values of one row: all rows have the same required slots.
    pub sample: Option<Value>,
}

/// An import of a tenant.
pub async fn find(connection: &mut PgConnection, tenant: TenantId, id: Uuid) -> Result<Option<Import>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT account_id, template_id, state, good,
                  (SELECT params FROM import_row r WHERE r.import_id = i.id ORDER BY row LIMIT 1) AS "sample?"
           FROM import i WHERE id = $1 AND tenant_id = $2"#,
        id,
        tenant.0
    )
    .fetch_optional(connection)
    .await
    .doing("find an import")?;
    Ok(row.map(|row| Import {
        id,
        account: AccountId(row.account_id),
        template: TemplateId(row.template_id),
        state: row.state,
        good: row.good,
        sample: row.sample,
    }))
}

/// Starts an import, in state `reading`, which this connection keeps alive: see [`fail_abandoned`].
pub async fn insert(
    connection: &mut PgConnection,
    tenant: TenantId,
    account: AccountId,
    template: TemplateId,
    file_name: &str,
) -> Result<Uuid, StoreError> {
    let id = sqlx::query_scalar!(
        "INSERT INTO import (tenant_id, account_id, template_id, file_name) VALUES ($1, $2, $3, $4) RETURNING id",
        tenant.0,
        account.0,
        template.0,
        file_name
    )
    .fetch_one(&mut *connection)
    .await
    .doing("start an import")?;
    sqlx::query!("SELECT pg_advisory_lock(hashtextextended($1::uuid::text, 0))", id)
        .execute(connection)
        .await
        .doing("lock an import")?;
    Ok(id)
}

/// Fails imports of more than an hour ago that nobody reads any more: their process died. Says how many.
pub async fn fail_abandoned(connection: &mut PgConnection) -> Result<i64, StoreError> {
    let failed = sqlx::query_scalar!(
        r#"WITH lost AS (
               UPDATE import SET state = 'failed', ended_at = now(),
                   problem = 'the process that read the file ended early: import it again'
               WHERE state = 'reading' AND created_at < now() - interval '1 hour'
                   AND pg_try_advisory_xact_lock(hashtextextended(id::text, 0))
               RETURNING id
           ), gone AS (
               DELETE FROM import_row r USING lost WHERE r.import_id = lost.id
           )
           SELECT count(*) AS "count!" FROM lost"#
    )
    .fetch_one(connection)
    .await
    .doing("fail abandoned imports")?;
    Ok(failed)
}

/// A row of a file that can be used.
#[derive(Debug, Clone)]
pub struct GoodRow {
    /// As a spreadsheet counts.
    pub row: i64,
    /// The address.
    pub recipient: String,
    /// The owner's name for the recipient.
    pub reference: Option<String>,
    /// IANA.
    pub time_zone: Option<String>,
    /// Values by slot.
    pub params: Params,
}

/// A row of a file that cannot be used, with one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow {
    /// As a spreadsheet counts.
    pub row: i64,
    /// The column.
    pub field: String,
    /// For machines.
    pub code: String,
    /// For people.
    pub reason: String,
}

/// Writes rows. Returns those whose recipient stands in the file already, with the row where it stands first.
pub async fn insert_rows(
    connection: &mut PgConnection,
    import: Uuid,
    rows: &[GoodRow],
) -> Result<Vec<(i64, i64)>, StoreError> {
    let places = rows.iter().map(|r| r.row).collect::<Vec<_>>();
    let recipients = rows.iter().map(|r| r.recipient.as_str()).collect::<Vec<_>>();
    // An array is read in its order, which is the file's: of two equal recipients the first is kept.
    let written = sqlx::query!(
        "INSERT INTO import_row (import_id, row, recipient, ref, time_zone, params)
         SELECT $1, * FROM UNNEST($2::bigint[], $3::text[], $4::text[], $5::text[], $6::jsonb[])
         ON CONFLICT (import_id, recipient) DO NOTHING",
        import,
        &places,
        &recipients as &[&str],
        &rows.iter().map(|r| r.reference.as_deref()).collect::<Vec<_>>() as &[Option<&str>],
        &rows.iter().map(|r| r.time_zone.as_deref()).collect::<Vec<_>>() as &[Option<&str>],
        &rows.iter().map(|r| Json(&r.params)).collect::<Vec<_>>() as &[Json<&Params>]
    )
    .execute(&mut *connection)
    .await
    .doing("write rows of an import")?
    .rows_affected();
    if usize::try_from(written).is_ok_and(|written| written == rows.len()) {
        return Ok(Vec::new());
    }
    let duplicates = sqlx::query!(
        r#"SELECT g.row AS "row!", o.row AS "first!"
           FROM UNNEST($2::bigint[], $3::text[]) AS g (row, recipient)
           JOIN import_row o ON o.import_id = $1 AND o.recipient = g.recipient AND o.row <> g.row"#,
        import,
        &places,
        &recipients as &[&str]
    )
    .fetch_all(connection)
    .await
    .doing("find repeated recipients of an import")?;
    Ok(duplicates.into_iter().map(|row| (row.row, row.first)).collect())
}

/// Writes refused rows.
pub async fn insert_refused(connection: &mut PgConnection, import: Uuid, rows: &[BadRow]) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO import_rejected (import_id, row, field, code, reason)
         SELECT $1, * FROM UNNEST($2::bigint[], $3::text[], $4::text[], $5::text[])
         ON CONFLICT DO NOTHING",
        import,
        &rows.iter().map(|r| r.row).collect::<Vec<_>>(),
        &rows.iter().map(|r| r.field.as_str()).collect::<Vec<_>>() as &[&str],
        &rows.iter().map(|r| r.code.as_str()).collect::<Vec<_>>() as &[&str],
        &rows.iter().map(|r| r.reason.as_str()).collect::<Vec<_>>() as &[&str]
    )
    .execute(connection)
    .await
    .doing("write refused rows of an import")?;
    Ok(())
}

/// How far an import is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rows read, without the header.
    pub rows: i64,
    /// Usable.
    pub good: i64,
    /// Refused.
    pub bad: i64,
}

/// Says how far an import is.
pub async fn progress(connection: &mut PgConnection, import: Uuid, progress: Progress) -> Result<(), StoreError> {
    let Progress { rows, good, bad } = progress;
    sqlx::query!("UPDATE import SET rows = $2, good = $3, bad = $4 WHERE id = $1", import, rows, good, bad)
        .execute(connection)
        .await
        .doing("record the progress of an import")?;
    Ok(())
}

/// Ends an import: ready, or failed with the problem. A failed one keeps no rows.
pub async fn end(connection: &mut PgConnection, import: Uuid, problem: Option<&str>) -> Result<(), StoreError> {
    if problem.is_some() {
        sqlx::query!("DELETE FROM import_row WHERE import_id = $1", import)
            .execute(&mut *connection)
            .await
            .doing("forget the rows of a failed import")?;
    }
    sqlx::query!(
        "UPDATE import SET state = CASE WHEN $2::text IS NULL THEN 'ready' ELSE 'failed' END, problem = $2, ended_at = now()
         WHERE id = $1",
        import,
        problem
    )
    .execute(connection)
    .await
    .doing("end an import")?;
    Ok(())
}

/// A batch whose messages are still to be made.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The batch.
    pub batch: BatchId,
    /// From this import.
    pub import: Uuid,
    /// From this number.
    pub number: NumberId,
    /// With this template.
    pub template: TemplateId,
    /// In this lane.
    pub lane: Lane,
    /// Rows up to this one are made.
    pub planned_row: i64,
    /// Not before.
    pub send_at: DateTime<Utc>,
    /// Not after.
    pub expires_at: DateTime<Utc>,
    /// Whether somebody cancelled it meanwhile.
    pub is_cancelled: bool,
}

/// The first batch to plan that no other process is planning, locked until the transaction ends.
pub async fn take_plan(connection: &mut PgConnection) -> Result<Option<Plan>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT batch_id, import_id AS "import_id!", number_id, template_id, lane::text AS "lane!", planned_row,
                  send_at, expires_at, cancelled_at IS NOT NULL AS "is_cancelled!"
           FROM batch WHERE state = 'planning' AND import_id IS NOT NULL
           ORDER BY batch_id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED"#
    )
    .fetch_optional(connection)
    .await
    .doing("find a batch to plan")?;
    Ok(row.map(|row| Plan {
        batch: BatchId(row.batch_id),
        import: row.import_id,
        number: NumberId(row.number_id),
        template: TemplateId(row.template_id),
        lane: row.lane.parse().unwrap_or(Lane::Marketing),
        planned_row: row.planned_row,
        send_at: row.send_at,
        expires_at: row.expires_at,
        is_cancelled: row.is_cancelled,
    }))
}

/// Makes the messages of the next `chunk` rows, with their work and tally. Returns how many there were.
pub async fn plan_chunk(
    connection: &mut PgConnection,
    plan: &Plan,
    hold: Option<&OpenHold>,
    chunk: i64,
) -> Result<i64, StoreError> {
    let made = sqlx::query!(
        r#"WITH base AS (
               SELECT coalesce(max(seq), 0) AS seq FROM message WHERE batch_id = $1
           ), next AS MATERIALIZED (
               SELECT row, (base.seq + row_number() OVER (ORDER BY row))::integer AS seq, recipient, ref, time_zone, params
               FROM base, (SELECT * FROM import_row WHERE import_id = $2 AND row > $3 ORDER BY row LIMIT $4) r
           ), worked AS (
               INSERT INTO work (batch_id, seq, number_id, lane, stage, turn_group, wake_at, hold_id)
               SELECT $1, seq, $5, $6::text::lane, (CASE WHEN $7::bigint IS NULL THEN 'ready' ELSE 'parked' END)::work_stage,
                      $1, CASE WHEN $7 IS NULL THEN $9 ELSE least($8::timestamptz, $10) END, $7
               FROM next
           ), written AS (
               INSERT INTO message (batch_id, seq, recipient, ref, time_zone, params)
               SELECT $1, seq, recipient, ref, time_zone, nullif(params, '{}'::jsonb) FROM next
           )
           SELECT count(*) AS "count!", max(row) AS last FROM next"#,
        plan.batch.0,
        plan.import,
        plan.planned_row,
        chunk,
        plan.number.0,
        plan.lane.as_str(),
        hold.map(|hold| hold.id.0),
        hold.and_then(|hold| hold.until),
        plan.send_at,
        plan.expires_at
    )
    .fetch_one(&mut *connection)
    .await
    .doing("make the messages of a batch")?;
    let count = i32::try_from(made.count).unwrap_or(i32::MAX);
    sqlx::query!("UPDATE batch_tally SET pending = pending + $2 WHERE batch_id = $1", plan.batch.0, count)
        .execute(&mut *connection)
        .await
        .doing("count the messages of a batch")?;
    sqlx::query!(
        "UPDATE batch SET recipients = recipients + $2, planned_row = coalesce($3, planned_row) WHERE batch_id = $1",
        plan.batch.0,
        count,
        made.last
    )
    .execute(connection)
    .await
    .doing("record how far a batch is planned")?;
    Ok(made.count)
}

/// Says that all messages of a batch are made: from now on they are sent.
pub async fn finish_plan(connection: &mut PgConnection, batch: BatchId) -> Result<(), StoreError> {
    sqlx::query!("UPDATE batch SET state = 'planned' WHERE batch_id = $1", batch.0)
        .execute(connection)
        .await
        .doing("end the planning of a batch")?;
    Ok(())
}
