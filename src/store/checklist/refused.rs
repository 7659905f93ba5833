//! What was refused: whole jobs, and recipients of a job.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

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
