//! Acts of people: a row of `audit` for each, in the transaction that does it where there is one.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    domain::{
        act::Act,
        ids::{MessageKey, TenantId},
    },
    store::{Doing as _, StoreError, campaigns::Person},
};

/// Acts that one message shows at most, the latest.
const SHOWN: i64 = 200;

/// An act to be recorded.
#[derive(Debug, Clone)]
pub struct NewAct<'a> {
    /// Whose things it is about.
    pub tenant: TenantId,
    /// Who does it.
    pub by: &'a Person,
    /// What.
    pub act: Act,
    /// To what: `batch:<id>`, `message:<id>`, `hold:<id>`, `campaign:<key>`, `failures`, …
    pub subject: String,
    /// Why.
    pub reason: &'a str,
    /// To which of many.
    pub filter: Value,
    /// How many.
    pub count: i64,
}

impl<'a> NewAct<'a> {
    /// An act that is about one thing.
    pub fn on(tenant: TenantId, by: &'a Person, act: Act, subject: String, reason: &'a str) -> Self {
        Self { tenant, by, act, subject, reason, filter: Value::Object(serde_json::Map::new()), count: 1 }
    }
}

/// A recorded act.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct ActRow {
    /// Row id.
    pub id: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// The token's name then.
    pub token: String,
    /// The token.
    pub token_id: Uuid,
    /// What was done.
    pub act: String,
    /// To what.
    pub subject: String,
    /// Why.
    pub reason: String,
    /// To which of many.
    #[schema(value_type = Object)]
    pub filter: Value,
    /// How many messages or things it concerned.
    pub count: i64,
}

/// Which acts.
#[derive(Debug, Clone, Default)]
pub struct ActFilter {
    /// Only of this kind.
    pub act: Option<Act>,
    /// Only to this.
    pub subject: Option<String>,
    /// Only below this row.
    pub before: Option<i64>,
    /// How many at most.
    pub limit: i64,
}

/// Records an act; returns its row.
pub async fn record(connection: &mut PgConnection, act: &NewAct<'_>) -> Result<i64, StoreError> {
    sqlx::query_scalar!(
        "INSERT INTO audit (tenant_id, token_id, token, act, subject, reason, filter, count)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id",
        act.tenant.0,
        act.by.token,
        act.by.name,
        act.act.as_str(),
        act.subject,
        act.reason,
        act.filter,
        act.count
    )
    .fetch_one(connection)
    .await
    .doing("record an act")
}

/// Writes how many an act concerned, once that is known.
pub async fn counted(connection: &mut PgConnection, act: i64, count: i64) -> Result<(), StoreError> {
    sqlx::query!("UPDATE audit SET count = $2 WHERE id = $1", act, count)
        .execute(connection)
        .await
        .doing("count what an act concerned")?;
    Ok(())
}

/// A tenant's acts, the latest first.
pub async fn list(
    connection: &mut PgConnection,
    tenant: TenantId,
    filter: &ActFilter,
) -> Result<Vec<ActRow>, StoreError> {
    sqlx::query_as!(
        ActRow,
        "SELECT id, at, token, token_id, act, subject, reason, filter, count FROM audit
         WHERE tenant_id = $1 AND ($2::text IS NULL OR act = $2) AND ($3::text IS NULL OR subject = $3)
           AND ($4::bigint IS NULL OR id < $4)
         ORDER BY id DESC LIMIT $5",
        tenant.0,
        filter.act.map(Act::as_str),
        filter.subject,
        filter.before,
        filter.limit
    )
    .fetch_all(connection)
    .await
    .doing("list acts")
}

/// The acts about a message and its batch, and these, in order.
pub async fn about(
    connection: &mut PgConnection,
    tenant: TenantId,
    key: MessageKey,
    others: &[i64],
) -> Result<Vec<ActRow>, StoreError> {
    sqlx::query_as!(
        ActRow,
        "SELECT id, at, token, token_id, act, subject, reason, filter, count FROM audit
         WHERE tenant_id = $1 AND (subject = ANY ($2) OR id = ANY ($3))
         ORDER BY id DESC LIMIT $4",
        tenant.0,
        &[format!("message:{key}"), format!("batch:{}", key.batch_id)],
        others,
        SHOWN
    )
    .fetch_all(connection)
    .await
    .doing("list the acts about a message")
}
