//! Holds as people and the registry see them. Opening by dispatch, parking and releasing are in `store::holds`.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::{
    domain::{
        hold::{HoldScope, Resume},
        ids::{BatchId, HoldId, TenantId},
    },
    store::{Doing as _, StoreError, campaigns::Person},
};

/// A hold with what waits under it.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct HoldRow {
    /// Row id.
    pub id: i64,
    /// What it covers.
    pub scope: String,
    /// Why, in one word.
    pub cause: String,
    /// Why, in a sentence.
    pub detail: String,
    /// Who or what ends it.
    pub resume: String,
    /// When it opened.
    pub since: DateTime<Utc>,
    /// When it ends by itself.
    pub until: Option<DateTime<Utc>>,
    /// When the next single message is let through to see whether the cause is gone.
    pub probe_at: Option<DateTime<Utc>>,
    /// Messages let through so far.
    pub probes: i32,
    /// When it ended.
    pub closed_at: Option<DateTime<Utc>>,
    /// Who ended it.
    pub closed_by: Option<String>,
    /// Why it was ended.
    pub reason: Option<String>,
    /// Messages parked under it.
    pub parked: i64,
}

/// The cause of a hold that a person opened.
pub const PERSON: &str = "person";

/// What became of a wish to close a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// It is closed now.
    Now,
    /// It was closed before.
    Before,
    /// There is no such hold of this tenant.
    Unknown,
    /// It is for another person to close.
    NotByYou,
}

/// A tenant's holds and those on everybody, the newest first, below `before`.
pub async fn list(
    connection: &mut PgConnection,
    tenant: TenantId,
    open: Option<bool>,
    before: Option<HoldId>,
    limit: i64,
) -> Result<Vec<HoldRow>, StoreError> {
    sqlx::query_as!(
        HoldRow,
        r#"SELECT id, scope, cause, detail, resume, since, until, probe_at, probes, closed_at, closed_by, reason,
                  (SELECT count(*) FROM work w WHERE w.hold_id = h.id) AS "parked!"
           FROM hold h
           WHERE (tenant_id = $1 OR tenant_id IS NULL)
             AND ($2::boolean IS NULL OR (closed_at IS NULL) = $2)
             AND ($3::bigint IS NULL OR id < $3)
           ORDER BY id DESC LIMIT $4"#,
        tenant.0,
        open,
        before.map(|id| id.0),
        limit
    )
    .fetch_all(connection)
    .await
    .doing("list holds")
}

/// A hold of this tenant, or one on everybody.
pub async fn find(connection: &mut PgConnection, tenant: TenantId, id: HoldId) -> Result<Option<HoldRow>, StoreError> {
    sqlx::query_as!(
        HoldRow,
        r#"SELECT id, scope, cause, detail, resume, since, until, probe_at, probes, closed_at, closed_by, reason,
                  (SELECT count(*) FROM work w WHERE w.hold_id = h.id) AS "parked!"
           FROM hold h WHERE id = $1 AND (tenant_id = $2 OR tenant_id IS NULL)"#,
        id.0,
        tenant.0
    )
    .fetch_optional(connection)
    .await
    .doing("find a hold")
}

/// Whether a tenant has such a batch.
pub async fn owns_batch(connection: &mut PgConnection, tenant: TenantId, batch: BatchId) -> Result<bool, StoreError> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM batch WHERE batch_id = $1 AND tenant_id = $2) AS "owns!""#,
        batch.0,
        tenant.0
    )
    .fetch_one(connection)
    .await
    .doing("find a batch")
}

/// Opens a hold in the name of a person; one that is open already for the same reason is the same hold.
pub async fn open(
    connection: &mut PgConnection,
    tenant: Option<TenantId>,
    scope: &HoldScope,
    by: &str,
    reason: &str,
) -> Result<HoldId, StoreError> {
    let id = sqlx::query_scalar!(
        "INSERT INTO hold (tenant_id, scope, cause, detail, resume) VALUES ($1, $2, $5, $3, $4)
         ON CONFLICT (scope, cause) WHERE closed_at IS NULL DO UPDATE SET detail = excluded.detail
         RETURNING id",
        tenant.map(|tenant| tenant.0),
        scope.to_string(),
        format!("{by}: {reason}"),
        Resume::Person.as_str(),
        PERSON
    )
    .fetch_one(connection)
    .await
    .doing("open a hold")?;
    Ok(HoldId(id))
}

/// Closes a hold of this tenant, or one on everybody when `everybody` is set. What waits is given back by upkeep.
pub async fn close(
    connection: &mut PgConnection,
    tenant: TenantId,
    everybody: bool,
    id: HoldId,
    by: &Person,
    reason: &str,
) -> Result<Closed, StoreError> {
    let found = sqlx::query!(
        r#"WITH found AS (
               SELECT id, closed_at IS NULL AS open, not_by IS DISTINCT FROM $6 AS may FROM hold
               WHERE id = $1 AND (tenant_id = $2 OR (tenant_id IS NULL AND $3))
               FOR UPDATE
           ), closed AS (
               UPDATE hold SET closed_at = now(), closed_by = $4, reason = $5
               FROM found WHERE hold.id = found.id AND found.open AND found.may
           )
           SELECT open AS "open!", may AS "may!" FROM found"#,
        id.0,
        tenant.0,
        everybody,
        by.name,
        reason,
        by.token
    )
    .fetch_optional(connection)
    .await
    .doing("close a hold")?;
    Ok(match found.map(|found| (found.open, found.may)) {
        Some((true, true)) => Closed::Now,
        Some((true, false)) => Closed::NotByYou,
        Some((false, _)) => Closed::Before,
        None => Closed::Unknown,
    })
}

/// Opens a hold that the provider's status asks for, unless it is open already.
pub async fn open_for_status(
    connection: &mut PgConnection,
    tenant: TenantId,
    scope: &HoldScope,
    cause: &str,
    detail: &str,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO hold (tenant_id, scope, cause, detail, resume) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (scope, cause) WHERE closed_at IS NULL DO UPDATE SET detail = excluded.detail",
        tenant.0,
        scope.to_string(),
        cause,
        detail,
        Resume::Status.as_str()
    )
    .execute(connection)
    .await
    .doing("open a hold")?;
    Ok(())
}

/// Closes the hold of a status that is good again.
pub async fn close_for_status(
    connection: &mut PgConnection,
    scope: &HoldScope,
    cause: &str,
    reason: &str,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE hold SET closed_at = now(), closed_by = 'registry', reason = $3
         WHERE scope = $1 AND cause = $2 AND closed_at IS NULL",
        scope.to_string(),
        cause,
        reason
    )
    .execute(connection)
    .await
    .doing("close a hold")?;
    Ok(())
}

/// Closes what only new credentials of an account could mend: they are there.
pub async fn close_for_credentials(connection: &mut PgConnection, scope: &HoldScope) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE hold SET closed_at = now(), closed_by = $2, reason = 'the account has new credentials'
         WHERE scope = $1 AND resume = $2 AND closed_at IS NULL",
        scope.to_string(),
        Resume::Credentials.as_str()
    )
    .execute(connection)
    .await
    .doing("close a hold")?;
    Ok(())
}
