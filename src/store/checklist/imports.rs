//! Imports as people see them.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    domain::ids::TenantId,
    store::{Doing as _, StoreError},
};

/// An import.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct ImportRow {
    /// Row id.
    pub id: Uuid,
    /// The account it is for.
    pub account: String,
    /// The template it was checked with.
    pub template: String,
    /// Its language.
    pub language: String,
    /// What the file was called.
    pub file_name: String,
    /// reading, ready or failed.
    pub state: String,
    /// Rows read.
    pub rows: i64,
    /// Rows kept.
    pub good: i64,
    /// Rows refused.
    pub bad: i64,
    /// Cells of usable rows that a spreadsheet took for numbers.
    #[serde(default)]
    pub changed: i64,
    /// Why it failed as a whole.
    pub problem: Option<String>,
    /// When it began.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
}

/// A refused row of an import.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct RejectedImportRow {
    /// As a spreadsheet counts.
    pub row: i64,
    /// The column.
    pub field: String,
    /// A stable word.
    pub code: String,
    /// For people.
    pub reason: String,
}

/// A cell that a spreadsheet took for a number.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct ChangedCellRow {
    /// As a spreadsheet counts.
    pub row: i64,
    /// The column.
    pub field: String,
    /// What the cell holds.
    pub given: String,
    /// What is used for it.
    pub used: String,
}

/// A refused row as it stands in its file.
#[derive(Debug, Clone)]
pub struct BadLine {
    /// As a spreadsheet counts.
    pub row: i64,
    /// Its cells, a JSON array.
    pub cells: Value,
    /// What is wrong with it, for people.
    pub reasons: String,
}

/// A tenant's imports of files, the newest first, after this one.
pub async fn list(
    connection: &mut PgConnection,
    tenant: TenantId,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<ImportRow>, StoreError> {
    sqlx::query_as!(
        ImportRow,
        r#"SELECT i.id, a.name AS account, t.name AS template, t.language, i.file_name, i.state, i.rows, i.good, i.bad,
                  i.changed, i.problem, i.created_at, i.ended_at
           FROM import i JOIN account a ON a.id = i.account_id JOIN template t ON t.id = i.template_id
           WHERE i.tenant_id = $1 AND i.batch_id IS NULL
             AND ($2::uuid IS NULL OR (i.created_at, i.id) < (SELECT p.created_at, p.id FROM import p WHERE p.id = $2))
           ORDER BY i.created_at DESC, i.id DESC LIMIT $3"#,
        tenant.0,
        after,
        limit
    )
    .fetch_all(connection)
    .await
    .doing("list imports")
}

/// One import of a file of a tenant.
pub async fn find(connection: &mut PgConnection, tenant: TenantId, id: Uuid) -> Result<Option<ImportRow>, StoreError> {
    sqlx::query_as!(
        ImportRow,
        r#"SELECT i.id, a.name AS account, t.name AS template, t.language, i.file_name, i.state, i.rows, i.good, i.bad,
                  i.changed, i.problem, i.created_at, i.ended_at
           FROM import i JOIN account a ON a.id = i.account_id JOIN template t ON t.id = i.template_id
           WHERE i.tenant_id = $1 AND i.id = $2 AND i.batch_id IS NULL"#,
        tenant.0,
        id
    )
    .fetch_optional(connection)
    .await
    .doing("look for an import")
}

/// The refused rows of an import, after this row and column.
pub async fn rejected_rows(
    connection: &mut PgConnection,
    import: Uuid,
    after: (i64, &str),
    limit: i64,
) -> Result<Vec<RejectedImportRow>, StoreError> {
    sqlx::query_as!(
        RejectedImportRow,
        "SELECT row, field, code, reason FROM import_rejected
         WHERE import_id = $1 AND (row, field) > ($2, $3) ORDER BY row, field LIMIT $4",
        import,
        after.0,
        after.1,
        limit
    )
    .fetch_all(connection)
    .await
    .doing("list refused rows")
}

/// The changed cells of an import, after this row and column.
pub async fn changed_cells(
    connection: &mut PgConnection,
    import: Uuid,
    after: (i64, &str),
    limit: i64,
) -> Result<Vec<ChangedCellRow>, StoreError> {
    sqlx::query_as!(
        ChangedCellRow,
        "SELECT row, field, given, used FROM import_changed
         WHERE import_id = $1 AND (row, field) > ($2, $3) ORDER BY row, field LIMIT $4",
        import,
        after.0,
        after.1,
        limit
    )
    .fetch_all(connection)
    .await
    .doing("list changed cells")
}

/// What a tenant's import was written in and its header, where its file was read at all; none when there is no such import.
pub async fn written_in(
    connection: &mut PgConnection,
    tenant: TenantId,
    import: Uuid,
) -> Result<Option<(String, Option<(Value, Value)>)>, StoreError> {
    let row = sqlx::query!(
        "SELECT file_name, format, header FROM import WHERE tenant_id = $1 AND id = $2 AND batch_id IS NULL",
        tenant.0,
        import
    )
    .fetch_optional(connection)
    .await
    .doing("look what an import is written in")?;
    Ok(row.map(|row| (row.file_name, row.format.zip(row.header))))
}

/// The refused rows of an import as they stand in its file, after this one.
pub async fn bad_lines(
    connection: &mut PgConnection,
    import: Uuid,
    after: i64,
    limit: i64,
) -> Result<Vec<BadLine>, StoreError> {
    sqlx::query_as!(
        BadLine,
        r#"SELECT l.row, l.cells,
                  (SELECT string_agg(concat_ws(' ', nullif(r.field, ''), r.reason), '; ' ORDER BY r.field)
                   FROM import_rejected r WHERE r.import_id = l.import_id AND r.row = l.row) AS "reasons!"
           FROM import_line l WHERE l.import_id = $1 AND l.row > $2 ORDER BY l.row LIMIT $3"#,
        import,
        after,
        limit
    )
    .fetch_all(connection)
    .await
    .doing("read the refused rows of an import")
}
