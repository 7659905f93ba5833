//! Audience groups and their members. Whoever changes members locks the audience first: so its count is right, and two
//! who change the same members wait for each other and never in a circle.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, types::Json};

use crate::{
    domain::{ids::TenantId, template::Params},
    store::{Doing as _, StoreError},
};

/// An audience group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AudienceRow {
    /// Row id.
    #[serde(skip)]
    pub id: i32,
    /// Its name within the tenant.
    pub name: String,
    /// Which addresses it has.
    pub channel: String,
    /// The zone (IANA) of members that have none of their own.
    pub time_zone: Option<String>,
    /// The country (ISO 3166) whose national numbers are understood.
    pub country: Option<String>,
    /// How many members it has.
    pub members: i64,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When its members were changed last.
    pub changed_at: DateTime<Utc>,
}

/// A group to be made.
#[derive(Debug, Clone)]
pub struct NewAudience<'a> {
    /// Its name.
    pub name: &'a str,
    /// Which addresses it will have.
    pub channel: &'a str,
    /// IANA.
    pub time_zone: Option<&'a str>,
    /// ISO 3166.
    pub country: Option<&'a str>,
}

/// Makes a group; `None` when the name is taken.
pub async fn insert(
    connection: &mut PgConnection,
    tenant: TenantId,
    new: &NewAudience<'_>,
) -> Result<Option<AudienceRow>, StoreError> {
    sqlx::query_as!(
        AudienceRow,
        "INSERT INTO audience (tenant_id, name, channel, time_zone, country) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT ON CONSTRAINT audience_name_is_unique DO NOTHING
         RETURNING id, name, channel, time_zone, country, members, created_at, changed_at",
        tenant.0,
        new.name,
        new.channel,
        new.time_zone,
        new.country
    )
    .fetch_optional(connection)
    .await
    .doing("make an audience")
}

/// A group of a tenant.
pub async fn find(
    connection: &mut PgConnection,
    tenant: TenantId,
    name: &str,
) -> Result<Option<AudienceRow>, StoreError> {
    sqlx::query_as!(
        AudienceRow,
        "SELECT id, name, channel, time_zone, country, members, created_at, changed_at
         FROM audience WHERE tenant_id = $1 AND name = $2",
        tenant.0,
        name
    )
    .fetch_optional(connection)
    .await
    .doing("find an audience")
}

/// A tenant's groups by name, after this one.
pub async fn list(
    connection: &mut PgConnection,
    tenant: TenantId,
    after: &str,
    limit: i64,
) -> Result<Vec<AudienceRow>, StoreError> {
    sqlx::query_as!(
        AudienceRow,
        "SELECT id, name, channel, time_zone, country, members, created_at, changed_at
         FROM audience WHERE tenant_id = $1 AND name > $2 ORDER BY name LIMIT $3",
        tenant.0,
        after,
        limit
    )
    .fetch_all(connection)
    .await
    .doing("list audiences")
}

/// Locks a group until the transaction ends: nobody else changes its members. `false` when it is gone.
pub async fn lock(connection: &mut PgConnection, audience: i32) -> Result<bool, StoreError> {
    let row = sqlx::query!("SELECT id FROM audience WHERE id = $1 FOR NO KEY UPDATE", audience)
        .fetch_optional(connection)
        .await
        .doing("lock an audience")?;
    Ok(row.is_some())
}

/// A member to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMember {
    /// The address.
    pub recipient: String,
    /// The owner's name for the recipient.
    pub reference: Option<String>,
    /// IANA.
    pub time_zone: Option<String>,
    /// Values by slot.
    pub params: Params,
}

/// What became of members that were written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Were not there.
    pub added: i64,
    /// Were there, and are as given now.
    pub replaced: i64,
    /// Were there and stay as they are.
    pub unchanged: i64,
}

/// Writes members of a locked group, no address twice. One that is there is replaced.
pub async fn upsert(
    connection: &mut PgConnection,
    audience: i32,
    members: &[NewMember],
) -> Result<Written, StoreError> {
    let done = sqlx::query!(
        r#"WITH written AS (
               INSERT INTO audience_member (audience_id, recipient, ref, time_zone, params)
               SELECT $1, * FROM UNNEST($2::text[], $3::text[], $4::text[], $5::jsonb[])
               ON CONFLICT (audience_id, recipient)
               DO UPDATE SET ref = excluded.ref, time_zone = excluded.time_zone, params = excluded.params
               -- a row that was there has a locker
               RETURNING xmax = 0 AS is_new
           )
           SELECT count(*) FILTER (WHERE is_new) AS "added!", count(*) FILTER (WHERE NOT is_new) AS "replaced!" FROM written"#,
        audience,
        &members.iter().map(|m| m.recipient.as_str()).collect::<Vec<_>>() as &[&str],
        &members.iter().map(|m| m.reference.as_deref()).collect::<Vec<_>>() as &[Option<&str>],
        &members.iter().map(|m| m.time_zone.as_deref()).collect::<Vec<_>>() as &[Option<&str>],
        &members.iter().map(|m| Json(&m.params)).collect::<Vec<_>>() as &[Json<&Params>]
    )
    .fetch_one(&mut *connection)
    .await
    .doing("write members of an audience")?;
    count(connection, audience, done.added).await?;
    Ok(Written { added: done.added, replaced: done.replaced, unchanged: 0 })
}

/// Writes addresses of a locked group, none twice. A member that is there keeps what is known of it.
pub async fn insert_addresses(
    connection: &mut PgConnection,
    audience: i32,
    recipients: &[&str],
) -> Result<Written, StoreError> {
    let done = sqlx::query!(
        "INSERT INTO audience_member (audience_id, recipient) SELECT $1, * FROM UNNEST($2::text[])
         ON CONFLICT (audience_id, recipient) DO NOTHING",
        audience,
        recipients as &[&str]
    )
    .execute(&mut *connection)
    .await
    .doing("write addresses of an audience")?;
    let added = i64::try_from(done.rows_affected()).unwrap_or(i64::MAX);
    count(connection, audience, added).await?;
    let given = i64::try_from(recipients.len()).unwrap_or(i64::MAX);
    Ok(Written { added, replaced: 0, unchanged: given - added })
}

/// Removes a member of a locked group; whether it was one.
pub async fn remove(connection: &mut PgConnection, audience: i32, recipient: &str) -> Result<bool, StoreError> {
    let done =
        sqlx::query!("DELETE FROM audience_member WHERE audience_id = $1 AND recipient = $2", audience, recipient)
            .execute(&mut *connection)
            .await
            .doing("remove a member of an audience")?;
    let is_removed = done.rows_affected() > 0;
    count(connection, audience, -i64::from(is_removed)).await?;
    Ok(is_removed)
}

/// Removes all members of a locked group; says how many there were.
pub async fn empty(connection: &mut PgConnection, audience: i32) -> Result<i64, StoreError> {
    let done = sqlx::query!("DELETE FROM audience_member WHERE audience_id = $1", audience)
        .execute(&mut *connection)
        .await
        .doing("empty an audience")?;
    let removed = i64::try_from(done.rows_affected()).unwrap_or(i64::MAX);
    count(connection, audience, -removed).await?;
    Ok(removed)
}

async fn count(connection: &mut PgConnection, audience: i32, more: i64) -> Result<(), StoreError> {
    sqlx::query!("UPDATE audience SET members = members + $2, changed_at = now() WHERE id = $1", audience, more)
        .execute(connection)
        .await
        .doing("count the members of an audience")?;
    Ok(())
}

/// Deletes a locked group that has no members.
pub async fn delete(connection: &mut PgConnection, audience: i32) -> Result<(), StoreError> {
    sqlx::query!("DELETE FROM audience WHERE id = $1", audience)
        .execute(connection)
        .await
        .doing("delete an audience")?;
    Ok(())
}

/// The keys of campaigns that may still fire and name this group, at most a few.
pub async fn campaigns_of(
    connection: &mut PgConnection,
    tenant: TenantId,
    name: &str,
) -> Result<Vec<String>, StoreError> {
    sqlx::query_scalar!(
        "SELECT key FROM campaign
         WHERE tenant_id = $1 AND state <> 'archived' AND document -> 'audience' ->> 'group' = $2 ORDER BY key LIMIT 5",
        tenant.0,
        name
    )
    .fetch_all(connection)
    .await
    .doing("look for campaigns of an audience")
}

/// The names of all values that members have.
pub async fn param_names(connection: &mut PgConnection, audience: i32) -> Result<Vec<String>, StoreError> {
    sqlx::query_scalar!(
        r#"SELECT DISTINCT jsonb_object_keys(params) AS "name!" FROM audience_member WHERE audience_id = $1 ORDER BY 1"#,
        audience
    )
    .fetch_all(connection)
    .await
    .doing("list the values of an audience")
}

/// The members by address, after this one.
pub async fn members(
    connection: &mut PgConnection,
    audience: i32,
    after: &str,
    limit: i64,
) -> Result<Vec<NewMember>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT recipient, ref, time_zone, params AS "params: Json<Params>" FROM audience_member
           WHERE audience_id = $1 AND recipient > $2 ORDER BY recipient LIMIT $3"#,
        audience,
        after,
        limit
    )
    .fetch_all(connection)
    .await
    .doing("list members of an audience")?;
    let member = rows.into_iter().map(|row| NewMember {
        recipient: row.recipient,
        reference: row.r#ref,
        time_zone: row.time_zone,
        params: row.params.0,
    });
    Ok(member.collect())
}
