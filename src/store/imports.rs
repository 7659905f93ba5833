//! Files of recipients.

use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    domain::{
        ids::{AccountId, TemplateId, TenantId},
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

/// An import of a tenant. The frozen copy of an audience group is its batch's alone.
pub async fn find(connection: &mut PgConnection, tenant: TenantId, id: Uuid) -> Result<Option<Import>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT account_id, template_id, state, good,
                  (SELECT params FROM import_row r WHERE r.import_id = i.id ORDER BY row LIMIT 1) AS "sample?"
           FROM import i WHERE id = $1 AND tenant_id = $2 AND batch_id IS NULL"#,
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

/// What an import is for.
#[derive(Debug, Clone)]
pub struct NewImport<'a> {
    /// Its id.
    pub id: Uuid,
    /// Who imports.
    pub tenant: TenantId,
    /// For this account.
    pub account: AccountId,
    /// And this template.
    pub template: TemplateId,
    /// The file's name.
    pub file_name: &'a str,
}

/// How an upload begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// It goes on from here; at the start for a new one.
    Reading(Progress),
    /// The file was read before.
    Ready(Progress),
    /// It failed before, for a reason that stays.
    Failed,
    /// Somebody is reading it this moment.
    Busy,
    /// The id belongs to something else.
    Taken,
}

/// Starts an import, in state `reading`, or goes on with one whose process or sender died. This connection keeps it alive:
/// see [`fail_abandoned`].
pub async fn begin(connection: &mut PgConnection, new: &NewImport<'_>) -> Result<Begun, StoreError> {
    sqlx::query!(
        "INSERT INTO import (id, tenant_id, account_id, template_id, file_name) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (id) DO NOTHING",
        new.id,
        new.tenant.0,
        new.account.0,
        new.template.0,
        new.file_name
    )
    .execute(&mut *connection)
    .await
    .doing("start an import")?;
    let is_mine =
        sqlx::query_scalar!(r#"SELECT pg_try_advisory_lock(hashtextextended($1::uuid::text, 0)) AS "mine!""#, new.id)
            .fetch_one(&mut *connection)
            .await
            .doing("lock an import")?;
    let row = sqlx::query!(
        r#"SELECT tenant_id = $2 AND account_id = $3 AND template_id = $4 AS "fits!", state, rows, good, bad, changed, last_row, digest
           FROM import WHERE id = $1"#,
        new.id,
        new.tenant.0,
        new.account.0,
        new.template.0
    )
    .fetch_one(connection)
    .await
    .doing("read how far an import is")?;
    let place = Place { row: row.last_row, digest: row.digest.try_into().unwrap_or_default() };
    let progress = Progress { rows: row.rows, good: row.good, bad: row.bad, changed: row.changed, place };
    Ok(match row.state.as_str() {
        _ if !row.fits => Begun::Taken,
        "ready" => Begun::Ready(progress),
        "reading" if is_mine => Begun::Reading(progress),
        "reading" => Begun::Busy,
        _ => Begun::Failed,
    })
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

/// A cell that a spreadsheet took for a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedCell {
    /// As a spreadsheet counts.
    pub row: i64,
    /// The column.
    pub field: String,
    /// What the cell holds.
    pub given: String,
    /// What is used for it.
    pub used: String,
}

/// Writes what a file is written in, and its header: its report is written in the same.
pub async fn describe(
    connection: &mut PgConnection,
    import: Uuid,
    format: &Value,
    header: &Value,
) -> Result<(), StoreError> {
    sqlx::query!("UPDATE import SET format = $2, header = $3 WHERE id = $1", import, format, header)
        .execute(connection)
        .await
        .doing("describe the file of an import")?;
    Ok(())
}

/// Writes cells that were changed.
pub async fn insert_changed(
    connection: &mut PgConnection,
    import: Uuid,
    cells: &[ChangedCell],
) -> Result<(), StoreError> {
    if cells.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO import_changed (import_id, row, field, given, used)
         SELECT $1, * FROM UNNEST($2::bigint[], $3::text[], $4::text[], $5::text[])",
        import,
        &cells.iter().map(|c| c.row).collect::<Vec<_>>(),
        &cells.iter().map(|c| c.field.as_str()).collect::<Vec<_>>() as &[&str],
        &cells.iter().map(|c| c.given.as_str()).collect::<Vec<_>>() as &[&str],
        &cells.iter().map(|c| c.used.as_str()).collect::<Vec<_>>() as &[&str]
    )
    .execute(connection)
    .await
    .doing("write changed cells of an import")?;
    Ok(())
}

/// Writes refused rows, and how they stand in their file where they come from one.
pub async fn insert_refused(
    connection: &mut PgConnection,
    import: Uuid,
    rows: &[BadRow],
    lines: &[(i64, Value)],
) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO import_line (import_id, row, cells) SELECT $1, * FROM UNNEST($2::bigint[], $3::jsonb[])",
        import,
        &lines.iter().map(|(row, _)| *row).collect::<Vec<_>>(),
        &lines.iter().map(|(_, cells)| cells).collect::<Vec<_>>() as &[&Value]
    )
    .execute(&mut *connection)
    .await
    .doing("write refused lines of an import")?;
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

/// A place in a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// Its last row, as a spreadsheet counts.
    pub row: i64,
    /// SHA-256 of the rows up to it.
    pub digest: [u8; 32],
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
    /// Cells of usable rows that were changed.
    pub changed: i64,
    /// Up to here.
    pub place: Place,
}

/// Says how far an import is.
pub async fn progress(connection: &mut PgConnection, import: Uuid, progress: Progress) -> Result<(), StoreError> {
    let Progress { rows, good, bad, changed, place } = progress;
    sqlx::query!(
        "UPDATE import SET rows = $2, good = $3, bad = $4, changed = $7, last_row = $5, digest = $6 WHERE id = $1",
        import,
        rows,
        good,
        bad,
        place.row,
        &place.digest,
        changed
    )
    .execute(connection)
    .await
    .doing("record the progress of an import")?;
    Ok(())
}

/// Ends an import: ready, or failed with the problem. A failed one keeps no rows.
pub async fn end(connection: &mut PgConnection, import: Uuid, problem: Option<&str>) -> Result<(), StoreError> {
    if problem.is_some() {
        sqlx::query!(
            "WITH gone AS (DELETE FROM import_changed WHERE import_id = $1) DELETE FROM import_row WHERE import_id = $1",
            import
        )
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
