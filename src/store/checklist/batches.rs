//! Batches with their tallies.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use super::which::{OfBatch, Span};
use crate::{
    domain::ids::{BatchId, TenantId},
    store::{Doing as _, StoreError},
};

/// A batch as `checklist.batches` has it.
#[derive(Debug, Clone, sqlx::FromRow, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[expect(missing_docs, reason = "the view's columns; the migration comments each of them")]
pub struct BatchRow {
    pub batch_id: Uuid,
    pub producer: String,
    pub job_id: String,
    pub campaign: Option<String>,
    pub channel: String,
    pub account: String,
    pub business_number: String,
    pub template: String,
    pub language: String,
    pub category: String,
    pub state: String,
    pub recipients: i32,
    pub rejected: i32,
    pub pending: i32,
    pub uncertain: i32,
    pub accepted: i32,
    pub sent: i32,
    pub delivered: i32,
    pub read: i32,
    pub failed: i32,
    pub expired: i32,
    pub suppressed: i32,
    pub cancelled: i32,
    pub send_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    pub cancelled_at: Option<DateTime<Utc>>,
}

/// Which batches.
#[derive(Debug, Clone, Default)]
pub struct BatchFilter {
    /// What they have in common.
    pub of: OfBatch,
    /// Only those that were accepted in this range.
    pub span: Span,
    /// Only after this one in the order of the list.
    pub after: Option<BatchId>,
    /// How many at most.
    pub limit: i64,
}

/// The columns of [`BatchRow`] in the view.
const COLUMNS: &str =
    "v.batch_id, v.producer, v.job_id, v.campaign, v.channel, v.account, v.business_number, v.template,
    v.language, v.category, v.state, v.recipients, v.rejected, v.pending, v.uncertain, v.accepted, v.sent, v.delivered,
    v.read, v.failed, v.expired, v.suppressed, v.cancelled, v.send_at, v.expires_at, v.created_at, v.cancelled_at";

/// A tenant's batches: by one number the latest due first (index `batch_by_number`), else the newest first (index
/// `batch_by_tenant`).
pub async fn list(
    connection: &mut PgConnection,
    tenant: TenantId,
    filter: &BatchFilter,
) -> Result<Vec<BatchRow>, StoreError> {
    let mut sql = QueryBuilder::<Postgres>::new("SELECT ");
    sql.push(COLUMNS).push(" FROM (");
    push_keys(&mut sql, tenant, filter);
    // OFFSET 0 keeps the view from being joined before the page is cut.
    sql.push(") k CROSS JOIN LATERAL (SELECT * FROM checklist.batches b WHERE b.batch_id = k.batch_id OFFSET 0) v ORDER BY k.at DESC, k.batch_id DESC");
    sql.build_query_as().fetch_all(connection).await.doing("list batches")
}

fn push_keys(sql: &mut QueryBuilder<Postgres>, tenant: TenantId, filter: &BatchFilter) {
    let by_number = matches!(filter.of.numbers.as_deref(), Some([_]));
    let at = if by_number { "b.send_at" } else { "b.created_at" };
    sql.push("SELECT b.batch_id, ").push(at).push(" AS at FROM batch b WHERE b.tenant_id = ").push_bind(tenant.0);
    filter.of.push(sql);
    filter.span.push(sql, "b.created_at", 0.0);
    if by_number {
        filter.span.push_accepted(sql, "b.batch_id");
    }
    match filter.after {
        Some(after) if by_number => drop(sql.push(" AND b.batch_id < ").push_bind(after.0)),
        Some(after) => {
            sql.push(
                " AND (b.created_at, b.batch_id) < (SELECT a.created_at, a.batch_id FROM batch a WHERE a.batch_id = ",
            )
            .push_bind(after.0)
            .push(")");
        }
        None => {}
    }
    let order = if by_number {
        " ORDER BY b.batch_id DESC LIMIT "
    } else {
        " ORDER BY b.created_at DESC, b.batch_id DESC LIMIT "
    };
    sql.push(order).push_bind(filter.limit);
}

/// One batch of a tenant.
pub async fn find(
    connection: &mut PgConnection,
    tenant: TenantId,
    batch: BatchId,
) -> Result<Option<BatchRow>, StoreError> {
    let mut sql = QueryBuilder::<Postgres>::new("SELECT ");
    sql.push(COLUMNS)
        .push(" FROM checklist.batches v JOIN batch b ON b.batch_id = v.batch_id WHERE v.batch_id = ")
        .push_bind(batch.0)
        .push(" AND b.batch_id = ")
        .push_bind(batch.0)
        .push(" AND b.tenant_id = ")
        .push_bind(tenant.0);
    sql.build_query_as().fetch_optional(connection).await.doing("look for a batch")
}
