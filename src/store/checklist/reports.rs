//! Counts by state: of batches from their tallies, of failures from their narrow table. No message is read but that of a
//! batch of one.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Postgres, QueryBuilder};

use super::which::Span;
use crate::{
    domain::{ids::TenantId, message::Late, named},
    store::{Doing as _, StoreError},
};

named! {
    /// What a report counts by.
    pub enum By {
        /// The day in the zone on which a batch is due.
        Day = "day",
        /// The number it goes out from.
        BusinessNumber = "business_number",
        /// The template and its language.
        Template = "template",
        /// The campaign; empty for what belongs to none.
        Campaign = "campaign",
        /// The code of failed and expired messages, by the time they failed.
        Error = "error",
    }
}

/// Messages by state.
#[derive(Debug, Clone, sqlx::FromRow, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct ReportRow {
    /// The day, number, template, campaign or code.
    pub key: String,
    /// Their batches.
    pub batches: i64,
    /// All of them.
    pub messages: i64,
    /// Still to be sent.
    pub pending: i64,
    /// Called, and nobody knows.
    pub uncertain: i64,
    /// Taken by the provider.
    pub accepted: i64,
    /// Left the provider.
    pub sent: i64,
    /// Reached the device.
    pub delivered: i64,
    /// Opened.
    pub read: i64,
    /// Will not arrive.
    pub failed: i64,
    /// Not sent in time.
    pub expired: i64,
    /// Not sent: the recipient's wish.
    pub suppressed: i64,
    /// Not sent: cancelled.
    pub cancelled: i64,
}

/// The range that is asked for: without an end until now, without a begin from six days before today in the zone.
pub async fn range(
    connection: &mut PgConnection,
    span: Span,
    zone: &str,
) -> Result<(DateTime<Utc>, DateTime<Utc>), StoreError> {
    let row = sqlx::query!(
        r#"SELECT coalesce($1, (date_trunc('day', coalesce($2, now()) AT TIME ZONE $3) - interval '6 days') AT TIME ZONE $3) AS "since!",
                  coalesce($2, now()) AS "until!""#,
        span.since,
        span.until,
        zone
    )
    .fetch_one(connection)
    .await
    .doing("read the range of a report")?;
    Ok((row.since, row.until))
}

/// A tenant's messages of batches that are due in the range, by state.
pub async fn by_state(
    connection: &mut PgConnection,
    tenant: TenantId,
    by: By,
    (since, until): (DateTime<Utc>, DateTime<Utc>),
    zone: &str,
) -> Result<Vec<ReportRow>, StoreError> {
    let (group, key, tables) = match by {
        By::Day => ("b.send_at", "g.of::text", ""),
        By::BusinessNumber => ("b.number_id", "n.business_number", " JOIN business_number n ON n.id = g.of"),
        By::Template => ("b.template_id", "n.name || ' ' || n.language", " JOIN template n ON n.id = g.of"),
        By::Campaign | By::Error => ("coalesce(b.campaign, '')", "g.of", ""),
    };
    let mut sql = QueryBuilder::<Postgres>::new("SELECT ");
    sql.push(key).push(" AS key");
    for column in COUNTS {
        sql.push(format!(", sum(g.{column})::bigint AS {column}"));
    }
    sql.push(" FROM (SELECT ");
    if by == By::Day {
        sql.push("(").push(group).push(" AT TIME ZONE ").push_bind(zone.to_owned()).push(")::date AS of");
    } else {
        sql.push(group).push(" AS of");
    }
    sql.push(", count(*) AS batches");
    for column in &COUNTS[1..] {
        if *column == "messages" {
            sql.push(", sum(b.recipients) AS messages");
        } else {
            sql.push(format!(", sum(coalesce(t.{column}, (m.state = '{column}')::int, 0)) AS {column}"));
        }
    }
    sql.push(" FROM batch b LEFT JOIN batch_tally t ON t.batch_id = b.batch_id
               LEFT JOIN LATERAL (SELECT m.state FROM message m WHERE m.batch_id = b.batch_id AND m.seq = 1 AND t.batch_id IS NULL OFFSET 0) m ON true
               WHERE b.tenant_id = ");
    sql.push_bind(tenant.0);
    Span { since: Some(since), until: Some(until) }.push_due(&mut sql, "b.batch_id");
    sql.push(" GROUP BY 1) g").push(tables).push(" GROUP BY 1 ORDER BY 1");
    sql.build_query_as().fetch_all(connection).await.doing("count messages by state")
}

const COUNTS: &[&str] = &[
    "batches",
    "messages",
    "pending",
    "uncertain",
    "accepted",
    "sent",
    "delivered",
    "read",
    "failed",
    "expired",
    "suppressed",
    "cancelled",
];

/// What failed in the range on these numbers, by code, the most frequent first.
pub async fn by_error(
    connection: &mut PgConnection,
    numbers: &[i32],
    (since, until): (DateTime<Utc>, DateTime<Utc>),
) -> Result<Vec<ReportRow>, StoreError> {
    let late: Vec<&str> = Late::ALL.iter().map(|late| late.code()).collect();
    sqlx::query_as!(
        ReportRow,
        r#"SELECT f.code AS key, count(DISTINCT f.batch_id) AS "batches!", count(*) AS "messages!",
                  count(*) FILTER (WHERE f.code <> ALL ($4)) AS "failed!",
                  count(*) FILTER (WHERE f.code = ANY ($4)) AS "expired!",
                  0::bigint AS "pending!", 0::bigint AS "uncertain!", 0::bigint AS "accepted!", 0::bigint AS "sent!",
                  0::bigint AS "delivered!", 0::bigint AS "read!", 0::bigint AS "suppressed!", 0::bigint AS "cancelled!"
           FROM failed_message f
           WHERE f.number_id = ANY($1) AND f.failed_at >= $2 AND f.failed_at < $3
           GROUP BY f.code ORDER BY count(*) DESC, f.code"#,
        numbers,
        since,
        until,
        &late as &[&str]
    )
    .fetch_all(connection)
    .await
    .doing("count failures by code")
}
