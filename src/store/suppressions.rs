//! Who must not be messaged.
//!
//! Every source says *when* it was said, and only what is newer than what is known changes something: providers repeat and
//! reorder what they tell. A stop that was said before the latest lift does not come back, and a resume from before the latest
//! stop lifts nothing. Lifted rows stay: they say who lifted them and why.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use crate::{
    domain::{
        ids::{AccountId, MessageKey, TenantId},
        suppression::{SuppressionScope, SuppressionSource},
    },
    store::{Doing as _, StoreError},
};

/// Of whom a suppression spares a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cover {
    /// Whose it is.
    pub tenant: TenantId,
    /// Of this account; none with the scope of the tenant.
    pub account: Option<AccountId>,
    /// Of what of it.
    pub scope: SuppressionScope,
}

impl Cover {
    /// Marketing of an account.
    pub const fn marketing(tenant: TenantId, account: AccountId) -> Self {
        Self { tenant, account: Some(account), scope: SuppressionScope::Marketing }
    }
}

/// A wish or fact to be recorded.
#[derive(Debug, Clone)]
pub struct Stop {
    /// Of whom.
    pub cover: Cover,
    /// Who.
    pub recipient: String,
    /// Where it comes from.
    pub source: SuppressionSource,
    /// The code, the word, or who said it and why.
    pub detail: String,
    /// When it was said; absent is now.
    pub at: Option<DateTime<Utc>>,
}

/// Records wishes; says how many were not in force yet.
pub async fn stop(connection: &mut PgConnection, stops: &[Stop]) -> Result<i64, StoreError> {
    if stops.is_empty() {
        return Ok(0);
    }
    sqlx::query_scalar!(
        r#"
        WITH said AS MATERIALIZED (
            -- Of several about one person the latest, in one order for all who do this.
            SELECT DISTINCT ON (u.recipient, u.tenant_id, u.account_id, u.scope) u.*, coalesce(u.at, now()) AS said_at
            FROM unnest($1::int[], $2::int[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[])
                AS u(tenant_id, account_id, scope, recipient, source, detail, at)
            ORDER BY u.recipient, u.tenant_id, u.account_id, u.scope, coalesce(u.at, now()) DESC
        ), written AS (
            INSERT INTO suppression AS s (tenant_id, account_id, scope, recipient, source, detail, since, said_at)
            SELECT tenant_id, account_id, scope, recipient, source, detail, said_at, said_at FROM said
            WHERE NOT EXISTS (
                SELECT FROM suppression l
                WHERE l.recipient = said.recipient AND l.tenant_id = said.tenant_id AND l.scope = said.scope
                  AND l.account_id IS NOT DISTINCT FROM said.account_id AND l.lifted_at >= said.said_at)
            ORDER BY recipient, tenant_id, account_id, scope
            ON CONFLICT (recipient, tenant_id, account_id, scope) WHERE lifted_at IS NULL
                DO UPDATE SET said_at = excluded.said_at WHERE s.said_at < excluded.said_at
            RETURNING (xmax = 0) AS is_new
        )
        SELECT count(*) FILTER (WHERE is_new) AS "added!" FROM written
        "#,
        &stops.iter().map(|s| s.cover.tenant.0).collect::<Vec<_>>(),
        &stops.iter().map(|s| s.cover.account.map(|a| a.0)).collect::<Vec<_>>() as &[Option<i32>],
        &stops.iter().map(|s| s.cover.scope.as_str()).collect::<Vec<_>>() as &[&str],
        &stops.iter().map(|s| s.recipient.as_str()).collect::<Vec<_>>() as &[&str],
        &stops.iter().map(|s| s.source.as_str()).collect::<Vec<_>>() as &[&str],
        &stops.iter().map(|s| s.detail.as_str()).collect::<Vec<_>>() as &[&str],
        &stops.iter().map(|s| s.at).collect::<Vec<_>>() as &[Option<DateTime<Utc>>]
    )
    .fetch_one(connection)
    .await
    .doing("record suppressions")
}

/// A message whose provider said that its recipient takes no such messages.
#[derive(Debug, Clone)]
pub struct OptOut {
    /// Which.
    pub key: MessageKey,
    /// The provider's code.
    pub code: String,
    /// When; absent is now.
    pub at: Option<DateTime<Utc>>,
}

/// Records what providers said of messages, in the transaction that settles these.
pub(in crate::store) async fn of_messages(tx: &mut PgConnection, opt_outs: &[OptOut]) -> Result<(), StoreError> {
    if opt_outs.is_empty() {
        return Ok(());
    }
    let rows = sqlx::query!(
        "SELECT u.at, u.code AS \"code!\", b.tenant_id, b.account_id, m.recipient
         FROM unnest($1::uuid[], $2::int[], $3::text[], $4::timestamptz[]) AS u(batch_id, seq, code, at)
         JOIN message m ON m.batch_id = u.batch_id AND m.seq = u.seq
         JOIN batch b ON b.batch_id = u.batch_id",
        &opt_outs.iter().map(|o| o.key.batch_id.0).collect::<Vec<Uuid>>(),
        &opt_outs.iter().map(|o| o.key.seq).collect::<Vec<_>>(),
        &opt_outs.iter().map(|o| o.code.as_str()).collect::<Vec<_>>() as &[&str],
        &opt_outs.iter().map(|o| o.at).collect::<Vec<_>>() as &[Option<DateTime<Utc>>]
    )
    .fetch_all(&mut *tx)
    .await
    .doing("read who opted out")?;
    let stops = rows.into_iter().map(|row| Stop {
        cover: Cover::marketing(TenantId(row.tenant_id), AccountId(row.account_id)),
        recipient: row.recipient,
        source: SuppressionSource::ProviderCode,
        detail: row.code,
        at: row.at,
    });
    stop(tx, &stops.collect::<Vec<_>>()).await?;
    Ok(())
}

/// A recipient that takes the marketing of an account again.
#[derive(Debug, Clone)]
pub struct Resume {
    /// Whose account.
    pub tenant: TenantId,
    /// Of this account.
    pub account: AccountId,
    /// Who.
    pub recipient: String,
    /// The provider knows it too: what only the provider can lift is lifted as well.
    pub is_told_by_provider: bool,
    /// The word, or the provider's.
    pub detail: String,
    /// When it was said.
    pub at: DateTime<Utc>,
}

/// Lifts what these recipients had said before; says how many were in force.
pub async fn resume(connection: &mut PgConnection, resumes: &[Resume]) -> Result<u64, StoreError> {
    if resumes.is_empty() {
        return Ok(0);
    }
    let done = sqlx::query!(
        r#"
        WITH given AS MATERIALIZED (
            SELECT DISTINCT ON (s.id) s.id, u.at, u.detail
            FROM unnest($1::int[], $2::int[], $3::text[], $4::bool[], $5::text[], $6::timestamptz[])
                AS u(tenant_id, account_id, recipient, is_told, detail, at)
            JOIN suppression s ON s.recipient = u.recipient AND s.tenant_id = u.tenant_id AND s.account_id = u.account_id
                AND s.scope = 'marketing' AND s.lifted_at IS NULL AND s.said_at < u.at
                AND (u.is_told OR s.source NOT IN ('provider_code', 'preference'))
            ORDER BY s.id, u.at DESC
        ), locked AS MATERIALIZED (
            SELECT s.id FROM suppression s WHERE s.id IN (SELECT id FROM given) ORDER BY s.id FOR NO KEY UPDATE
        )
        UPDATE suppression s SET lifted_at = given.at, lifted_by = 'recipient', reason = given.detail
        FROM given, locked
        WHERE s.id = given.id AND s.id = locked.id AND s.lifted_at IS NULL AND s.said_at < given.at
        "#,
        &resumes.iter().map(|r| r.tenant.0).collect::<Vec<_>>(),
        &resumes.iter().map(|r| r.account.0).collect::<Vec<_>>(),
        &resumes.iter().map(|r| r.recipient.as_str()).collect::<Vec<_>>() as &[&str],
        &resumes.iter().map(|r| r.is_told_by_provider).collect::<Vec<_>>(),
        &resumes.iter().map(|r| r.detail.as_str()).collect::<Vec<_>>() as &[&str],
        &resumes.iter().map(|r| r.at).collect::<Vec<_>>()
    )
    .execute(connection)
    .await
    .doing("lift suppressions")?;
    Ok(done.rows_affected())
}

/// What became of a wish to lift one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifted {
    /// It is lifted now.
    Now,
    /// It was lifted before.
    Before,
    /// There is no such suppression of this tenant.
    Unknown,
}

/// Lifts one in the name of `by`; the row keeps who and why.
pub async fn lift(
    connection: &mut PgConnection,
    tenant: TenantId,
    id: i64,
    by: &str,
    reason: &str,
) -> Result<Lifted, StoreError> {
    let found = sqlx::query_scalar!(
        r#"WITH lifted AS (
               UPDATE suppression SET lifted_at = now(), lifted_by = $3, reason = $4
               WHERE id = $1 AND tenant_id = $2 AND lifted_at IS NULL RETURNING id
           )
           SELECT EXISTS (SELECT FROM lifted) AS "now!" FROM suppression WHERE id = $1 AND tenant_id = $2"#,
        id,
        tenant.0,
        by,
        reason
    )
    .fetch_optional(connection)
    .await
    .doing("lift a suppression")?;
    Ok(match found {
        Some(true) => Lifted::Now,
        Some(false) => Lifted::Before,
        None => Lifted::Unknown,
    })
}

/// Which suppressions.
#[derive(Debug, Clone)]
pub struct SuppressionFilter {
    /// Only of this recipient.
    pub recipient: Option<String>,
    /// Only of this account.
    pub account: Option<String>,
    /// Only with this scope.
    pub scope: Option<SuppressionScope>,
    /// Only from there.
    pub source: Option<SuppressionSource>,
    /// Lifted ones too.
    pub all: bool,
    /// Below this id.
    pub before: Option<i64>,
    /// How many at most.
    pub limit: i64,
}

/// A suppression as lists show it.
#[derive(Debug, Clone, sqlx::FromRow, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct SuppressionRow {
    /// Row id.
    pub id: i64,
    /// marketing, account or tenant.
    pub scope: String,
    /// The account it is about; absent with the scope tenant.
    pub account: Option<String>,
    /// Who is not messaged.
    pub recipient: String,
    /// `provider_code`, preference, button, keyword, api or file.
    pub source: String,
    /// The code, the word, or who said it and why.
    pub detail: String,
    /// Since when.
    pub since: DateTime<Utc>,
    /// When it was said last.
    pub said_at: DateTime<Utc>,
    /// When it was lifted.
    pub lifted_at: Option<DateTime<Utc>>,
    /// By whom: `recipient`, or a token.
    pub lifted_by: Option<String>,
    /// Why it was lifted.
    pub reason: Option<String>,
}

/// A page, the newest first.
pub async fn list(
    connection: &mut PgConnection,
    tenant: TenantId,
    filter: &SuppressionFilter,
) -> Result<Vec<SuppressionRow>, StoreError> {
    let mut sql = QueryBuilder::<Postgres>::new(
        "SELECT s.id, s.scope, a.name AS account, s.recipient, s.source, s.detail, s.since, s.said_at, s.lifted_at,
                s.lifted_by, s.reason
         FROM suppression s LEFT JOIN account a ON a.id = s.account_id WHERE s.tenant_id = ",
    );
    sql.push_bind(tenant.0);
    if let Some(recipient) = &filter.recipient {
        sql.push(" AND s.recipient = ").push_bind(recipient.clone());
    }
    if let Some(account) = &filter.account {
        sql.push(" AND s.account_id = (SELECT id FROM account WHERE tenant_id = ").push_bind(tenant.0);
        sql.push(" AND name = ").push_bind(account.clone()).push(")");
    }
    if let Some(scope) = filter.scope {
        sql.push(" AND s.scope = ").push_bind(scope.as_str());
    }
    if let Some(source) = filter.source {
        sql.push(" AND s.source = ").push_bind(source.as_str());
    }
    if !filter.all {
        sql.push(" AND s.lifted_at IS NULL");
    }
    if let Some(before) = filter.before {
        sql.push(" AND s.id < ").push_bind(before);
    }
    sql.push(" ORDER BY s.id DESC LIMIT ").push_bind(filter.limit);
    sql.build_query_as().fetch_all(connection).await.doing("list suppressions")
}
