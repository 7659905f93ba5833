//! Bearer tokens: kept as hashes, looked up by them.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    domain::ids::TenantId,
    store::{Doing as _, StoreError},
};

/// A token that is about to be kept.
#[derive(Debug)]
pub struct NewToken<'a> {
    /// Whose it is.
    pub tenant: TenantId,
    /// What people call it.
    pub name: &'a str,
    /// The producer it speaks for.
    pub producer: Option<&'a str>,
    /// SHA-256 of it.
    pub hash: &'a [u8],
    /// What it may do.
    pub scopes: &'a [String],
}

/// A kept token.
#[derive(Debug, Clone)]
pub struct TokenRow {
    /// Row id.
    pub id: Uuid,
    /// Whose it is.
    pub tenant: TenantId,
    /// What people call it.
    pub name: String,
    /// The producer it speaks for.
    pub producer: Option<String>,
    /// What it may do.
    pub scopes: Vec<String>,
    /// Since when.
    pub created_at: DateTime<Utc>,
    /// Until when it was good.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// Keeps a token.
pub async fn insert(connection: &mut PgConnection, token: &NewToken<'_>) -> Result<Uuid, StoreError> {
    sqlx::query_scalar!(
        "INSERT INTO api_token (tenant_id, name, producer, hash, scopes) VALUES ($1, $2, $3, $4, $5) RETURNING id",
        token.tenant.0,
        token.name,
        token.producer,
        token.hash,
        token.scopes
    )
    .fetch_one(connection)
    .await
    .doing("keep a token")
}

/// The token of this hash, unless it was revoked.
pub async fn find(connection: &mut PgConnection, hash: &[u8]) -> Result<Option<TokenRow>, StoreError> {
    let row = sqlx::query!(
        "SELECT id, tenant_id, name, producer, scopes, created_at FROM api_token
         WHERE hash = $1 AND revoked_at IS NULL",
        hash
    )
    .fetch_optional(connection)
    .await
    .doing("look for a token")?;
    Ok(row.map(|row| TokenRow {
        id: row.id,
        tenant: TenantId(row.tenant_id),
        name: row.name,
        producer: row.producer,
        scopes: row.scopes,
        created_at: row.created_at,
        revoked_at: None,
    }))
}

/// A tenant's tokens, the newest first.
pub async fn list(connection: &mut PgConnection, tenant: TenantId) -> Result<Vec<TokenRow>, StoreError> {
    let rows = sqlx::query!(
        "SELECT id, tenant_id, name, producer, scopes, created_at, revoked_at FROM api_token
         WHERE tenant_id = $1 ORDER BY created_at DESC, id",
        tenant.0
    )
    .fetch_all(connection)
    .await
    .doing("list tokens")?;
    let rows = rows.into_iter().map(|row| TokenRow {
        id: row.id,
        tenant: TenantId(row.tenant_id),
        name: row.name,
        producer: row.producer,
        scopes: row.scopes,
        created_at: row.created_at,
        revoked_at: row.revoked_at,
    });
    Ok(rows.collect())
}

/// Makes a token useless; says whether there was one to revoke.
pub async fn revoke(connection: &mut PgConnection, tenant: TenantId, id: Uuid) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "UPDATE api_token SET revoked_at = now() WHERE id = $1 AND tenant_id = $2 AND revoked_at IS NULL",
        id,
        tenant.0
    )
    .execute(connection)
    .await
    .doing("revoke a token")?;
    Ok(done.rows_affected() == 1)
}
