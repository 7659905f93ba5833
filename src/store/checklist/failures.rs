//! Failures by code.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Postgres, QueryBuilder};

use crate::{
    domain::ids::{BatchId, TenantId},
    store::{Doing as _, StoreError},
};

/// All failures of one code.
#[derive(Debug, Clone, sqlx::FromRow, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct FailureRow {
    /// Who said it.
    pub provider: String,
    /// Its code.
    pub code: String,
    /// What it means.
    pub class: String,
    /// How many messages.
    pub messages: i64,
    /// The first failure.
    pub first_at: DateTime<Utc>,
    /// The latest failure.
    pub last_at: DateTime<Utc>,
    /// The provider's words for one of them.
    pub sample: String,
    /// The latest of them.
    pub sample_message: String,
    /// How many of them somebody has seen to.
    pub acknowledged: i64,
}

/// Failures of these numbers, perhaps of one batch only, the most frequent first; with `all` also those that somebody has
/// seen to.
pub async fn by_code(
    connection: &mut PgConnection,
    numbers: &[i32],
    batch: Option<BatchId>,
    all: bool,
) -> Result<Vec<FailureRow>, StoreError> {
    let mut sql = QueryBuilder::<Postgres>::new(
        "SELECT a.provider, s.code, s.class, sum(s.messages)::bigint AS messages, min(s.first_at) AS first_at,
                max(s.last_at) AS last_at, min(s.sample) AS sample,
                (array_agg(latest.id ORDER BY s.last_at DESC))[1] AS sample_message, sum(s.acknowledged)::bigint AS acknowledged
         FROM (SELECT f.number_id, f.code, f.class, count(*) AS messages, min(f.failed_at) AS first_at,
                      max(f.failed_at) AS last_at, min(f.reason) AS sample, count(f.acknowledged) AS acknowledged
               FROM failed_message f WHERE f.number_id = ANY(",
    );
    sql.push_bind(numbers.to_vec()).push(")");
    let push_which = |sql: &mut QueryBuilder<Postgres>| {
        if let Some(batch) = batch {
            sql.push(" AND f.batch_id = ").push_bind(batch.0);
        }
        if !all {
            sql.push(" AND f.acknowledged IS NULL");
        }
    };
    push_which(&mut sql);
    sql.push(
        " GROUP BY f.number_id, f.code, f.class) s
         CROSS JOIN LATERAL (
             SELECT concat(f.batch_id, '.', f.seq) AS id FROM failed_message f
             WHERE f.number_id = s.number_id AND f.failed_at = s.last_at AND f.code = s.code AND f.class = s.class",
    );
    push_which(&mut sql);
    sql.push(
        " LIMIT 1) latest
         JOIN business_number n ON n.id = s.number_id JOIN account a ON a.id = n.account_id
         GROUP BY a.provider, s.code, s.class ORDER BY messages DESC, s.code",
    );
    sql.build_query_as().fetch_all(connection).await.doing("count failures")
}

/// The provider of a tenant's account.
pub async fn provider_of(
    connection: &mut PgConnection,
    tenant: TenantId,
    account: &str,
) -> Result<Option<String>, StoreError> {
    sqlx::query_scalar!("SELECT provider FROM account WHERE tenant_id = $1 AND name = $2", tenant.0, account)
        .fetch_optional(connection)
        .await
        .doing("look for the provider of an account")
}
