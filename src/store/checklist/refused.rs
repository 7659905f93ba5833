//! What was refused: whole jobs, recipients of a job, rows of an import; and the imports themselves.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    domain::ids::{BatchId, TenantId},
    store::{Doing as _, StoreError},
};

/// Where a value of a refused member of an audience group stands, before the slot.
pub const MEMBER_POINTER: &str = "/audience/group/params/";

/// A refused job.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct RejectedJobRow {
    /// Row id.
    pub id: i64,
    /// Who published it.
    pub producer: String,
    /// Its job id, when it could be read.
    pub job_id: Option<String>,
    /// amqp or http.
    pub source: String,
    /// How long the body was.
    pub body_bytes: i32,
    /// Why.
    pub errors: serde_json::Value,
    /// When it was refused first.
    pub rejected_at: DateTime<Utc>,
    /// How often it came.
    pub times: i32,
}

/// A refused recipient of an accepted job.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct RejectedRecipientRow {
    /// Its place in the job, from 1; of an audience group, the line that the member has in an export.
    pub row: i32,
    /// JSON pointer into the job.
    pub pointer: String,
    /// A stable word.
    pub code: String,
    /// For people.
    pub reason: String,
}

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

/// A tenant's refused jobs below `before`, the newest first.
pub async fn jobs(
    connection: &mut PgConnection,
    tenant: TenantId,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<RejectedJobRow>, StoreError> {
    sqlx::query_as!(
        RejectedJobRow,
        "SELECT id, producer, job_id, source, body_bytes, errors, rejected_at, times FROM rejected_job
         WHERE tenant_id = $1 AND ($2::bigint IS NULL OR id < $2) ORDER BY id DESC LIMIT $3",
        tenant.0,
        before,
        limit
    )
    .fetch_all(connection)
    .await
    .doing("list refused jobs")
}

/// The refused recipients of a tenant's batch, after this row and pointer.
pub async fn recipients(
    connection: &mut PgConnection,
    batch: BatchId,
    after: (i32, &str),
    limit: i64,
) -> Result<Vec<RejectedRecipientRow>, StoreError> {
    sqlx::query_as!(
        RejectedRecipientRow,
        r#"SELECT row AS "row!", pointer AS "pointer!", code AS "code!", reason AS "reason!" FROM (
               (SELECT row, pointer, code, reason FROM batch_rejected
                WHERE batch_id = $1 AND (row, pointer) > ($2, $3) ORDER BY row, pointer LIMIT $4)
               UNION ALL
               -- the refused members of an audience group stand beside its frozen copy
               (SELECT r.row::integer, $5 || r.field, r.code, r.reason
                FROM import i JOIN import_rejected r ON r.import_id = i.id
                WHERE i.batch_id = $1 AND r.row >= $2 AND (r.row::integer, $5 || r.field) > ($2, $3)
                ORDER BY r.row, r.field LIMIT $4)
           ) refused ORDER BY row, pointer LIMIT $4"#,
        batch.0,
        after.0,
        after.1,
        limit,
        MEMBER_POINTER
    )
    .fetch_all(connection)
    .await
    .doing("list refused recipients")
}

/// A tenant's imports of files, the newest first, after this one.
pub async fn imports(
    connection: &mut PgConnection,
    tenant: TenantId,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<ImportRow>, StoreError> {
    sqlx::query_as!(
        ImportRow,
        r#"SELECT i.id, a.name AS account, t.name AS template, t.language, i.file_name, i.state, i.rows, i.good, i.bad,
                  i.problem, i.created_at, i.ended_at
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
pub async fn find_import(
    connection: &mut PgConnection,
    tenant: TenantId,
    id: Uuid,
) -> Result<Option<ImportRow>, StoreError> {
    sqlx::query_as!(
        ImportRow,
        r#"SELECT i.id, a.name AS account, t.name AS template, t.language, i.file_name, i.state, i.rows, i.good, i.bad,
                  i.problem, i.created_at, i.ended_at
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
pub async fn import_rows(
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
