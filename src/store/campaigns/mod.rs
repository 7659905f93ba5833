//! Campaigns: their documents, their states and when each fires next. Their firings are in
//! [`occurrences`], what these became in [`batches`].

pub mod batches;
pub mod occurrences;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    domain::{Category, campaign::CampaignState, ids::TenantId},
    store::{Doing as _, StoreError},
};

/// A campaign as it stands.
#[derive(Debug, Clone)]
pub struct Campaign {
    /// Row id.
    pub id: i32,
    /// Whose it is.
    pub tenant: TenantId,
    /// Its name within the tenant.
    pub key: String,
    /// Who its jobs are published for.
    pub producer: String,
    /// As it was applied.
    pub document: Value,
    /// Whether it fires.
    pub state: CampaignState,
    /// When it fires next.
    pub next_fire_at: Option<DateTime<Utc>>,
    /// Who applied it.
    pub applied_by: Person,
    /// When.
    pub applied_at: DateTime<Utc>,
    /// Who paused, resumed or archived it last.
    pub changed_by: Option<String>,
    /// When.
    pub changed_at: Option<DateTime<Utc>>,
    /// The database's clock when this was read.
    pub now: DateTime<Utc>,
}

/// Whoever did something, by the token they did it with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// The token's name.
    pub name: String,
    /// The token.
    pub token: Uuid,
}

/// What an application writes.
#[derive(Debug, Clone)]
pub struct Applied<'a> {
    /// Who the jobs are published for.
    pub producer: &'a str,
    /// The document.
    pub document: &'a Value,
    /// When it fires next.
    pub next_fire_at: Option<DateTime<Utc>>,
    /// Who applies it.
    pub by: &'a Person,
}

struct Row {
    id: i32,
    tenant_id: i32,
    key: String,
    producer: String,
    document: Value,
    state: String,
    next_fire_at: Option<DateTime<Utc>>,
    applied_by: String,
    applied_token: Uuid,
    applied_at: DateTime<Utc>,
    changed_by: Option<String>,
    changed_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
}

impl From<Row> for Campaign {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            tenant: TenantId(row.tenant_id),
            key: row.key,
            producer: row.producer,
            document: row.document,
            // The table allows no other; whatever it were, it would not fire.
            state: row.state.parse().unwrap_or(CampaignState::Archived),
            next_fire_at: row.next_fire_at,
            applied_by: Person { name: row.applied_by, token: row.applied_token },
            applied_at: row.applied_at,
            changed_by: row.changed_by,
            changed_at: row.changed_at,
            now: row.now,
        }
    }
}

/// A campaign of a tenant.
pub async fn find(connection: &mut PgConnection, tenant: TenantId, key: &str) -> Result<Option<Campaign>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        r#"SELECT id, tenant_id, key, producer, document, state, next_fire_at, applied_by, applied_token, applied_at,
                  changed_by, changed_at, clock_timestamp() AS "now!"
           FROM campaign WHERE tenant_id = $1 AND key = $2"#,
        tenant.0,
        key
    )
    .fetch_optional(connection)
    .await
    .doing("find a campaign")?;
    Ok(row.map(Campaign::from))
}

/// The same, locked until the transaction ends: nobody else fires or changes it.
pub async fn lock(connection: &mut PgConnection, tenant: TenantId, key: &str) -> Result<Option<Campaign>, StoreError> {
    sqlx::query!("SELECT id FROM campaign WHERE tenant_id = $1 AND key = $2 FOR UPDATE", tenant.0, key)
        .fetch_optional(&mut *connection)
        .await
        .doing("lock a campaign")?;
    // The clock is read after the wait for the lock.
    find(connection, tenant, key).await
}

/// A tenant's campaigns by key, without the archived ones unless `all`.
pub async fn list(connection: &mut PgConnection, tenant: TenantId, all: bool) -> Result<Vec<Campaign>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT id, tenant_id, key, producer, document, state, next_fire_at, applied_by, applied_token, applied_at,
                  changed_by, changed_at, clock_timestamp() AS "now!"
           FROM campaign WHERE tenant_id = $1 AND ($2 OR state <> 'archived') ORDER BY key"#,
        tenant.0,
        all
    )
    .fetch_all(connection)
    .await
    .doing("list campaigns")?;
    Ok(rows.into_iter().map(Campaign::from).collect())
}

/// A campaign that is due or has an occurrence that waits, but for those already `tried`: locked until the transaction
/// ends, and passed over while somebody else has it.
pub async fn take_due(connection: &mut PgConnection, tried: &[i32]) -> Result<Option<Campaign>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        r#"SELECT id, tenant_id, key, producer, document, state, next_fire_at, applied_by, applied_token, applied_at,
                  changed_by, changed_at, clock_timestamp() AS "now!"
           FROM campaign
           WHERE id <> ALL ($1)
             AND (next_fire_at <= now()
                  OR (state = 'active' AND id IN (SELECT campaign_id FROM occurrence WHERE state = 'waiting')))
           ORDER BY next_fire_at NULLS LAST LIMIT 1 FOR UPDATE SKIP LOCKED"#,
        tried
    )
    .fetch_optional(connection)
    .await
    .doing("take a campaign that is due")?;
    Ok(row.map(Campaign::from))
}

/// Writes when it fires next, in the transaction that records what fired.
pub async fn set_next(
    connection: &mut PgConnection,
    campaign: i32,
    next_fire_at: Option<DateTime<Utc>>,
) -> Result<(), StoreError> {
    sqlx::query!("UPDATE campaign SET next_fire_at = $2 WHERE id = $1", campaign, next_fire_at)
        .execute(connection)
        .await
        .doing("advance a campaign")?;
    Ok(())
}

/// A new campaign; `false` when the key was taken meanwhile.
pub async fn insert(
    connection: &mut PgConnection,
    tenant: TenantId,
    key: &str,
    applied: &Applied<'_>,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "INSERT INTO campaign (tenant_id, key, producer, document, next_fire_at, applied_by, applied_token)
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT ON CONSTRAINT campaign_key_is_unique DO NOTHING",
        tenant.0,
        key,
        applied.producer,
        applied.document,
        applied.next_fire_at,
        applied.by.name,
        applied.by.token
    )
    .execute(connection)
    .await
    .doing("insert a campaign")?;
    Ok(done.rows_affected() == 1)
}

/// Another document of a locked campaign.
pub async fn update(connection: &mut PgConnection, campaign: i32, applied: &Applied<'_>) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE campaign SET producer = $2, document = $3, next_fire_at = $4, applied_by = $5, applied_token = $6,
                             applied_at = now()
         WHERE id = $1",
        campaign,
        applied.producer,
        applied.document,
        applied.next_fire_at,
        applied.by.name,
        applied.by.token
    )
    .execute(connection)
    .await
    .doing("update a campaign")?;
    Ok(())
}

/// Another state of a locked campaign. An archived one fires no more.
pub async fn set_state(
    connection: &mut PgConnection,
    campaign: i32,
    state: CampaignState,
    by: &str,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE campaign SET state = $2, changed_by = $3, changed_at = now(),
                             next_fire_at = CASE WHEN $2 = 'archived' THEN NULL ELSE next_fire_at END
         WHERE id = $1",
        campaign,
        state.as_str(),
        by
    )
    .execute(connection)
    .await
    .doing("change the state of a campaign")?;
    Ok(())
}

/// Whether the template that a number, its name and its language stand for is of this category now. Of a number on several
/// channels, whether one of them is.
pub async fn is_of(
    connection: &mut PgConnection,
    tenant: TenantId,
    (business_number, name, language): (&str, &str, &str),
    category: Category,
) -> Result<bool, StoreError> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT FROM business_number n
               JOIN account a ON a.id = n.account_id
               JOIN template t ON t.account_id = a.id
               WHERE a.tenant_id = $1 AND n.business_number = $2 AND t.name = $3 AND t.language = $4 AND t.category = $5
           ) AS "is_of!""#,
        tenant.0,
        business_number,
        name,
        language,
        category.as_str()
    )
    .fetch_one(connection)
    .await
    .doing("read the category of a campaign's template")
}
