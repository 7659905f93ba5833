//! How much is sent and heard, by number and minute: what rates are shown by, and whether a provider has fallen silent.
//!
//! Counted in memory and written every few seconds, beside the transactions that settle: exact enough to see and to alarm
//! by, and never what anything is decided by that concerns a message.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use crate::{
    domain::ids::{NumberId, TenantId},
    store::{Doing as _, StoreError},
};

/// What was counted since it was written last.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Counts(BTreeMap<NumberId, i32>);

impl Counts {
    /// One more of a number.
    pub fn add(&mut self, number: NumberId) {
        *self.0.entry(number).or_default() += 1;
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts back what could not be written.
    pub fn put_back(&mut self, counts: Self) {
        for (number, count) in counts.0 {
            *self.0.entry(number).or_default() += count;
        }
    }

    /// Numbers in the order in which their rows are locked, and their counts.
    fn columns(&self) -> (Vec<i32>, Vec<i32>) {
        self.0.iter().map(|(number, count)| (number.0, *count)).unzip()
    }
}

/// Writes how many messages the provider took.
pub async fn accepted(connection: &mut PgConnection, counts: &Counts) -> Result<(), StoreError> {
    let (numbers, counts) = counts.columns();
    sqlx::query!(
        "INSERT INTO number_traffic (number_id, minute, accepted)
         SELECT u.number_id, date_trunc('minute', now()), u.count
         FROM unnest($1::int[], $2::int[]) AS u(number_id, count) ORDER BY u.number_id
         ON CONFLICT (number_id, minute) DO UPDATE SET accepted = number_traffic.accepted + excluded.accepted",
        &numbers,
        &counts
    )
    .execute(connection)
    .await
    .doing("count accepted messages")?;
    Ok(())
}

/// Writes how many callbacks came.
pub async fn heard(connection: &mut PgConnection, counts: &Counts) -> Result<(), StoreError> {
    let (numbers, counts) = counts.columns();
    sqlx::query!(
        "INSERT INTO number_traffic (number_id, minute, heard)
         SELECT u.number_id, date_trunc('minute', now()), u.count
         FROM unnest($1::int[], $2::int[]) AS u(number_id, count) ORDER BY u.number_id
         ON CONFLICT (number_id, minute) DO UPDATE SET heard = number_traffic.heard + excluded.heard",
        &numbers,
        &counts
    )
    .execute(connection)
    .await
    .doing("count callbacks")?;
    Ok(())
}

/// What a number sends and hears.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct NumberRate {
    /// The number.
    pub business_number: String,
    /// Messages a second that the provider took, over the last one to two minutes.
    pub accepted_per_s: f64,
    /// Callbacks a second in the same time.
    pub callbacks_per_s: f64,
    /// Messages a second the provider allows; absent is unlimited.
    pub limit_per_s: Option<i32>,
    /// What it sends at now, where the provider throttled it.
    pub slowed_to_per_s: Option<i32>,
    /// Whether a living process sends for it.
    pub has_worker: bool,
}

/// A tenant's numbers that send or hear, the busiest first, at most `most`.
pub async fn rates(connection: &mut PgConnection, tenant: TenantId, most: i64) -> Result<Vec<NumberRate>, StoreError> {
    sqlx::query_as!(
        NumberRate,
        r#"
        WITH span AS (
            SELECT date_trunc('minute', now()) - interval '1 minute' AS since,
                   extract(epoch FROM now() - date_trunc('minute', now()) + interval '1 minute')::float8 AS seconds
        )
        SELECT n.business_number, busy.accepted / span.seconds AS "accepted_per_s!", busy.heard / span.seconds AS "callbacks_per_s!",
               n.limit_per_s, l.rate_per_s AS "slowed_to_per_s?",
               EXISTS (SELECT FROM worker w WHERE w.worker_id = l.worker_id AND NOT w.is_dead AND w.expires_at > now()) AS "has_worker!"
        FROM span, account a
        JOIN business_number n ON n.account_id = a.id
        CROSS JOIN LATERAL (
            SELECT sum(t.accepted)::float8 AS accepted, sum(t.heard)::float8 AS heard
            FROM number_traffic t, span WHERE t.number_id = n.id AND t.minute >= span.since
        ) busy
        LEFT JOIN number_lease l ON l.number_id = n.id
        WHERE a.tenant_id = $1 AND busy.accepted + busy.heard > 0
        ORDER BY busy.accepted DESC, n.id LIMIT $2
        "#,
        tenant.0,
        most
    )
    .fetch_all(connection)
    .await
    .doing("read the rates")
}

/// Workers alive, the tenant's numbers, and how many of these a living worker has.
pub async fn workers(connection: &mut PgConnection, tenant: TenantId) -> Result<(i64, i64, i64), StoreError> {
    let row = sqlx::query!(
        r#"SELECT (SELECT count(*) FROM worker WHERE NOT is_dead AND expires_at > now()) AS "workers!",
                  count(*) AS "numbers!", count(w.worker_id) AS "served!"
           FROM account a
           JOIN business_number n ON n.account_id = a.id
           LEFT JOIN number_lease l ON l.number_id = n.id
           LEFT JOIN worker w ON w.worker_id = l.worker_id AND NOT w.is_dead AND w.expires_at > now()
           WHERE a.tenant_id = $1"#,
        tenant.0
    )
    .fetch_one(connection)
    .await
    .doing("count the workers")?;
    Ok((row.workers, row.numbers, row.served))
}

/// Forgets the minutes of more than six hours ago.
pub async fn delete_old(connection: &mut PgConnection) -> Result<u64, StoreError> {
    let done = sqlx::query!("DELETE FROM number_traffic WHERE minute < now() - interval '6 hours'")
        .execute(connection)
        .await
        .doing("delete old traffic")?;
    Ok(done.rows_affected())
}
