//! Alarms: what may be one is read in [`signs`], a statement for each question; here are the rows of those that stand.

pub mod signs;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    domain::{
        alarm::{Alarm, AlarmKind, News, Noted, Sign},
        ids::TenantId,
    },
    store::{Doing as _, StoreError, outbox::OutboxMessage},
};

/// Alarms of a list; a person reads no more.
const LISTED: i64 = 200;

/// A row with the name of its tenant.
struct Row {
    id: i64,
    kind: String,
    subject: String,
    tenant_id: Option<i32>,
    tenant: Option<String>,
    scope: String,
    name: String,
    detail: String,
    count: i64,
    since: DateTime<Utc>,
    raised_at: Option<DateTime<Utc>>,
    cleared_at: Option<DateTime<Utc>>,
}

impl Row {
    /// `None` of a kind that a newer version wrote, and of what is not raised.
    fn alarm(self) -> Option<Alarm> {
        let sign = Sign {
            kind: self.kind.parse().ok()?,
            subject: self.subject,
            tenant: self.tenant_id.map(TenantId),
            scope: self.scope,
            name: self.name,
            detail: self.detail,
            count: self.count,
            of: 0,
            since: None,
            goes_on: true,
        };
        Some(Alarm { cleared_at: self.cleared_at, ..Alarm::new(self.id, self.raised_at?, &sign, self.since) })
    }
}

/// What happened to an alarm, with the tenant whose it is.
#[derive(Debug, Clone)]
pub struct Told {
    /// What.
    pub news: News,
    /// The alarm.
    pub alarm: Alarm,
    /// Whose it is; absent when it concerns everybody.
    pub tenant: Option<String>,
}

impl Told {
    /// The event that tells it, if one does.
    pub fn event(&self) -> Option<OutboxMessage> {
        let kind = self.news.event()?;
        let event = OutboxMessage::event(Uuid::now_v7(), kind, self.tenant.as_deref(), None, &self.alarm);
        Some(OutboxMessage { about: Some(format!("alarm:{}", self.alarm.id)), ..event })
    }
}

/// The database's clock.
pub async fn now(connection: &mut PgConnection) -> Result<DateTime<Utc>, StoreError> {
    sqlx::query_scalar!(r#"SELECT now() AS "now!""#).fetch_one(connection).await.doing("read the clock")
}

/// What was seen before and is not over.
pub async fn noted(connection: &mut PgConnection) -> Result<Vec<Noted>, StoreError> {
    let rows = sqlx::query!("SELECT id, kind, subject, since, raised_at, told_at FROM alarm WHERE cleared_at IS NULL")
        .fetch_all(connection)
        .await
        .doing("read the alarms")?;
    // One that a newer version raised is left to that.
    let noted = rows.into_iter().filter_map(|row| {
        let kind: AlarmKind = row.kind.parse().ok()?;
        let (since, raised_at, told_at) = (row.since, row.raised_at, row.told_at);
        Some(Noted { id: row.id, kind, subject: row.subject, since, raised_at, told_at })
    });
    Ok(noted.collect())
}

/// Writes a sign that was not noted; with `raised` it is an alarm from now on.
pub async fn insert(connection: &mut PgConnection, sign: &Sign, raised: bool) -> Result<i64, StoreError> {
    sqlx::query_scalar!(
        "INSERT INTO alarm (kind, subject, tenant_id, scope, name, detail, count, since, raised_at, told_at)
         SELECT $1, $2, $3, $4, $5, $6, $7, coalesce($8, now()), at, at
         FROM (SELECT CASE WHEN $9 THEN now() END AS at) raised
         RETURNING id",
        sign.kind.as_str(),
        sign.subject,
        sign.tenant.map(|tenant| tenant.0),
        sign.scope,
        sign.name,
        sign.detail,
        sign.count,
        sign.since,
        raised
    )
    .fetch_one(connection)
    .await
    .doing("note an alarm")
}

/// Writes what one that goes on is like now; `told` when it is raised or told again.
pub async fn update(connection: &mut PgConnection, id: i64, sign: &Sign, told: bool) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE alarm SET count = $2, detail = $3, raised_at = CASE WHEN $4 THEN coalesce(raised_at, now()) ELSE raised_at END,
                          told_at = CASE WHEN $4 THEN now() ELSE told_at END
         WHERE id = $1 AND ($4 OR (count, detail) IS DISTINCT FROM ($2, $3))",
        id,
        sign.count,
        sign.detail,
        told
    )
    .execute(connection)
    .await
    .doing("update an alarm")?;
    Ok(())
}

/// Ends alarms.
pub async fn clear(connection: &mut PgConnection, ids: &[i64]) -> Result<(), StoreError> {
    sqlx::query!("UPDATE alarm SET cleared_at = now() WHERE id = ANY ($1) AND cleared_at IS NULL", ids)
        .execute(connection)
        .await
        .doing("clear alarms")?;
    Ok(())
}

/// Deletes what never became an alarm.
pub async fn forget(connection: &mut PgConnection, ids: &[i64]) -> Result<(), StoreError> {
    sqlx::query!("DELETE FROM alarm WHERE id = ANY ($1) AND raised_at IS NULL", ids)
        .execute(connection)
        .await
        .doing("forget what passed")?;
    Ok(())
}

/// These alarms, as they are told.
pub async fn told(connection: &mut PgConnection, news: &[(i64, News)]) -> Result<Vec<Told>, StoreError> {
    let ids: Vec<i64> = news.iter().map(|(id, _)| *id).collect();
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT a.id, a.kind, a.subject, a.tenant_id, t.name AS "tenant?", a.scope, a.name, a.detail, a.count, a.since,
                  a.raised_at, a.cleared_at
           FROM alarm a LEFT JOIN tenant t ON t.id = a.tenant_id WHERE a.id = ANY ($1) ORDER BY a.id"#,
        &ids
    )
    .fetch_all(connection)
    .await
    .doing("read alarms")?;
    let told = rows.into_iter().filter_map(|mut row| {
        let (_, news) = news.iter().find(|(id, _)| *id == row.id)?;
        let tenant = row.tenant.take();
        Some(Told { news: *news, alarm: row.alarm()?, tenant })
    });
    Ok(told.collect())
}

/// Alarms that stand: of a tenant and those that concern everybody, or all of them. The oldest first.
pub async fn standing(connection: &mut PgConnection, tenant: Option<TenantId>) -> Result<Vec<Alarm>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT id, kind, subject, tenant_id, NULL AS "tenant?", scope, name, detail, count, since, raised_at, cleared_at
           FROM alarm
           WHERE cleared_at IS NULL AND raised_at IS NOT NULL
             AND ($1::integer IS NULL OR tenant_id = $1 OR tenant_id IS NULL)
           ORDER BY raised_at, id LIMIT $2"#,
        tenant.map(|tenant| tenant.0),
        LISTED
    )
    .fetch_all(connection)
    .await
    .doing("list alarms")?;
    Ok(rows.into_iter().filter_map(Row::alarm).collect())
}

/// Alarms that stand by kind: how many, since when the oldest, and what they concern together.
pub async fn by_kind(connection: &mut PgConnection) -> Result<Vec<(AlarmKind, i64, f64, i64)>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT kind, count(*) AS "alarms!", extract(epoch FROM now() - min(since))::float8 AS "age!",
                  sum(count)::bigint AS "concerned!"
           FROM alarm WHERE cleared_at IS NULL AND raised_at IS NOT NULL GROUP BY kind"#
    )
    .fetch_all(connection)
    .await
    .doing("count the alarms")?;
    let found = rows.into_iter();
    Ok(found.filter_map(|row| Some((row.kind.parse().ok()?, row.alarms, row.age, row.concerned))).collect())
}

/// Deletes alarms that were over before, at most `most`; says how many.
pub async fn delete_old(connection: &mut PgConnection, kept_from: DateTime<Utc>, most: i64) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "DELETE FROM alarm WHERE id IN (
             SELECT a.id FROM (SELECT id, cleared_at FROM alarm ORDER BY id LIMIT $2) a WHERE a.cleared_at < $1)",
        kept_from,
        most
    )
    .execute(connection)
    .await
    .doing("delete old alarms")?;
    Ok(done.rows_affected())
}
