//! Audience groups as they were when a job was taken: an import of the batch's own, made in one statement.

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt as _;
use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use crate::{
    domain::{
        address::Address,
        ids::{AccountId, BatchId, TemplateId, TenantId},
        template::Params,
    },
    store::{
        Doing as _, StoreError,
        imports::{self, BadRow},
    },
};

/// A copy to be made.
#[derive(Debug, Clone)]
pub struct NewCopy<'a> {
    /// The import it becomes.
    pub import: Uuid,
    /// For this batch.
    pub batch: BatchId,
    /// Whose.
    pub tenant: TenantId,
    /// For this account.
    pub account: AccountId,
    /// And this template.
    pub template: TemplateId,
    /// Of this group.
    pub audience: i32,
    /// Its name.
    pub name: &'a str,
    /// The values that the template takes; others of a member are left behind.
    pub slots: &'a [&'a str],
}

/// Copies all members as they are at this instant, by address and numbered from 2, as the lines of an export are. Says how
/// many there are.
pub async fn copy(connection: &mut PgConnection, new: &NewCopy<'_>) -> Result<i64, StoreError> {
    sqlx::query!(
        "INSERT INTO import (id, tenant_id, account_id, template_id, file_name, state, batch_id, ended_at)
         VALUES ($1, $2, $3, $4, $5, 'ready', $6, now())",
        new.import,
        new.tenant.0,
        new.account.0,
        new.template.0,
        new.name,
        new.batch.0
    )
    .execute(&mut *connection)
    .await
    .doing("start the copy of an audience")?;
    let done = sqlx::query!(
        "INSERT INTO import_row (import_id, row, recipient, ref, time_zone, params)
         SELECT $1, 1 + row_number() OVER (ORDER BY m.recipient), m.recipient, m.ref, coalesce(m.time_zone, a.time_zone),
                CASE WHEN m.params = '{}' THEN m.params ELSE (
                    SELECT coalesce(jsonb_object_agg(p.key, p.value), '{}') FROM jsonb_each(m.params) p WHERE p.key = ANY ($3)
                ) END
         FROM audience_member m JOIN audience a ON a.id = m.audience_id
         WHERE m.audience_id = $2 ORDER BY m.recipient",
        new.import,
        new.audience,
        new.slots as &[&str]
    )
    .execute(connection)
    .await
    .doing("copy an audience")?;
    Ok(i64::try_from(done.rows_affected()).unwrap_or(i64::MAX))
}

/// The copied members that have values of their own, after this row.
pub async fn with_params(
    connection: &mut PgConnection,
    import: Uuid,
    after: i64,
    limit: i64,
) -> Result<Vec<(i64, Params)>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT row, params AS "params: Json<Params>" FROM import_row
           WHERE import_id = $1 AND row > $2 AND params <> '{}' ORDER BY row LIMIT $3"#,
        import,
        after,
        limit
    )
    .fetch_all(connection)
    .await
    .doing("read members of a copied audience")?;
    Ok(rows.into_iter().map(|row| (row.row, row.params.0)).collect())
}

/// Takes rows out of a copy, with the reasons.
pub async fn refuse(connection: &mut PgConnection, import: Uuid, bad: &[BadRow]) -> Result<(), StoreError> {
    if bad.is_empty() {
        return Ok(());
    }
    imports::insert_refused(connection, import, bad, &[]).await?;
    sqlx::query!(
        "DELETE FROM import_row WHERE import_id = $1 AND row = ANY ($2)",
        import,
        &bad.iter().map(|bad| bad.row).collect::<Vec<_>>()
    )
    .execute(connection)
    .await
    .doing("take refused members out of a copied audience")?;
    Ok(())
}

/// Takes every row without values of its own out of a copy, all for the same reasons. Says how many there were.
pub async fn refuse_plain(connection: &mut PgConnection, import: Uuid, why: &[BadRow]) -> Result<i64, StoreError> {
    let refused = sqlx::query_scalar!(
        r#"WITH refused AS (
               DELETE FROM import_row WHERE import_id = $1 AND params = '{}' RETURNING row
           ), told AS (
               INSERT INTO import_rejected (import_id, row, field, code, reason)
               SELECT $1, refused.row, why.* FROM refused, UNNEST($2::text[], $3::text[], $4::text[]) AS why
           )
           SELECT count(*) AS "count!" FROM refused"#,
        import,
        &why.iter().map(|bad| bad.field.as_str()).collect::<Vec<_>>() as &[&str],
        &why.iter().map(|bad| bad.code.as_str()).collect::<Vec<_>>() as &[&str],
        &why.iter().map(|bad| bad.reason.as_str()).collect::<Vec<_>>() as &[&str]
    )
    .fetch_one(connection)
    .await
    .doing("refuse the members of a copied audience that have no values")?;
    Ok(refused)
}

/// Says how many members of a copy can be sent to.
pub async fn end(connection: &mut PgConnection, import: Uuid, good: i64, bad: i64) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE import SET rows = $2::bigint + $3::bigint, good = $2, bad = $3 WHERE id = $1",
        import,
        good,
        bad
    )
    .execute(connection)
    .await
    .doing("end the copy of an audience")?;
    Ok(())
}

/// Reads the values of members, with the rows that [`copy`] would give them, holding one at a time. `plain` ones, which
/// have none, only when asked for.
pub async fn look(
    connection: &mut PgConnection,
    audience: i32,
    plain: bool,
    mut see: impl FnMut(i64, Params),
) -> Result<(), StoreError> {
    let mut rows = sqlx::query!(
        r#"SELECT row AS "row!", params AS "params!: Json<Params>" FROM (
               SELECT 1 + row_number() OVER (ORDER BY recipient) AS row, params FROM audience_member WHERE audience_id = $1
           ) m WHERE $2 OR params <> '{}' ORDER BY row"#,
        audience,
        plain
    )
    .fetch(connection);
    while let Some(row) = rows.try_next().await.doing("look at an audience")? {
        see(row.row, row.params.0);
    }
    Ok(())
}

/// Reads the members of a group, holding one at a time: address, zone, values.
pub async fn visit(
    connection: &mut PgConnection,
    tenant: TenantId,
    name: &str,
    mut see: impl FnMut(Address, Option<String>, Params),
) -> Result<(), StoreError> {
    let mut rows = sqlx::query!(
        r#"SELECT m.recipient, coalesce(m.time_zone, a.time_zone) AS time_zone, m.params AS "params: Json<Params>"
           FROM audience a JOIN audience_member m ON m.audience_id = a.id WHERE a.tenant_id = $1 AND a.name = $2"#,
        tenant.0,
        name
    )
    .fetch(connection);
    while let Some(row) = rows.try_next().await.doing("go through an audience")? {
        see(Address::from_store(row.recipient), row.time_zone, row.params.0);
    }
    Ok(())
}

/// Deletes copied members whose messages are made, at most `most`; says how many.
pub async fn delete_planned(connection: &mut PgConnection, most: i64) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "DELETE FROM import_row WHERE (import_id, row) IN (
             SELECT r.import_id, r.row
             FROM import i LEFT JOIN batch b ON b.batch_id = i.batch_id
             -- each copy by itself, or the rows of all files would be gone through
             CROSS JOIN LATERAL (SELECT import_id, row FROM import_row WHERE import_id = i.id LIMIT $1) r
             WHERE i.batch_id IS NOT NULL AND b.state IS DISTINCT FROM 'planning' LIMIT $1)",
        most
    )
    .execute(connection)
    .await
    .doing("delete copied members of planned batches")?;
    Ok(done.rows_affected())
}

/// Deletes copies of batches that are gone, with their refused members, at most `most`; says how many.
pub async fn delete_old(connection: &mut PgConnection, kept_from: DateTime<Utc>, most: i64) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "DELETE FROM import WHERE id IN (
             SELECT i.id FROM import i
             WHERE i.batch_id < uuid_floor($1) AND NOT EXISTS (SELECT FROM batch b WHERE b.batch_id = i.batch_id)
             ORDER BY i.batch_id LIMIT $2)",
        kept_from,
        most
    )
    .execute(connection)
    .await
    .doing("delete old copies of audiences")?;
    Ok(done.rows_affected())
}
