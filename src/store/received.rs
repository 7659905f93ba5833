//! Messages of recipients to our numbers.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Postgres, QueryBuilder};

use crate::{
    domain::{
        Channel,
        ids::{AccountId, NumberId, TenantId},
        suppression::Wish,
    },
    store::{Doing as _, StoreError},
};

/// A message to be kept.
#[derive(Debug, Clone)]
pub struct NewInbound {
    /// The account it came to.
    pub account: AccountId,
    /// The number, when it is known.
    pub number: Option<NumberId>,
    /// The provider's id of it.
    pub provider_message_id: String,
    /// Who wrote it.
    pub sender: String,
    /// The provider's word for what it is.
    pub kind: String,
    /// What it says.
    pub text: Option<String>,
    /// What stands behind a button.
    pub payload: Option<String>,
    /// The provider's id of the message it answers.
    pub replies_to: Option<String>,
    /// What it was taken for.
    pub wish: Option<Wish>,
    /// By the provider's clock.
    pub at: DateTime<Utc>,
}

/// Keeps messages; one that was told before is kept once.
pub async fn insert(connection: &mut PgConnection, new: &[NewInbound]) -> Result<u64, StoreError> {
    if new.is_empty() {
        return Ok(0);
    }
    let done = sqlx::query!(
        "INSERT INTO inbound_message (account_id, number_id, provider_message_id, sender, kind, text, payload, replies_to, wish, received_at)
         SELECT * FROM unnest($1::int[], $2::int[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
                              $9::text[], $10::timestamptz[])
                  AS u(account_id, number_id, provider_message_id, sender, kind, text, payload, replies_to, wish, received_at)
         ORDER BY u.account_id, u.provider_message_id
         ON CONFLICT ON CONSTRAINT inbound_message_once DO NOTHING",
        &new.iter().map(|i| i.account.0).collect::<Vec<_>>(),
        &new.iter().map(|i| i.number.map(|n| n.0)).collect::<Vec<_>>() as &[Option<i32>],
        &new.iter().map(|i| i.provider_message_id.as_str()).collect::<Vec<_>>() as &[&str],
        &new.iter().map(|i| i.sender.as_str()).collect::<Vec<_>>() as &[&str],
        &new.iter().map(|i| i.kind.as_str()).collect::<Vec<_>>() as &[&str],
        &new.iter().map(|i| i.text.as_deref()).collect::<Vec<_>>() as &[Option<&str>],
        &new.iter().map(|i| i.payload.as_deref()).collect::<Vec<_>>() as &[Option<&str>],
        &new.iter().map(|i| i.replies_to.as_deref()).collect::<Vec<_>>() as &[Option<&str>],
        &new.iter().map(|i| i.wish.map(Wish::as_str)).collect::<Vec<_>>() as &[Option<&str>],
        &new.iter().map(|i| i.at).collect::<Vec<_>>()
    )
    .execute(connection)
    .await
    .doing("keep inbound messages")?;
    Ok(done.rows_affected())
}

/// Which messages.
#[derive(Debug, Clone)]
pub struct ReceivedFilter {
    /// Only to these numbers; else to all accounts of the tenant.
    pub numbers: Option<Vec<i32>>,
    /// Only to this account.
    pub account: Option<String>,
    /// Only of this channel.
    pub channel: Option<Channel>,
    /// Only from this sender.
    pub sender: Option<String>,
    /// Not before.
    pub since: Option<DateTime<Utc>>,
    /// Before this.
    pub until: Option<DateTime<Utc>>,
    /// Only what stands after this in the list: time and id.
    pub after: Option<(DateTime<Utc>, i64)>,
    /// How many at most.
    pub limit: i64,
}

/// A message as `checklist.received` has it.
#[derive(Debug, Clone, sqlx::FromRow, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[expect(missing_docs, reason = "the view's columns; the migration comments each of them")]
pub struct ReceivedRow {
    pub id: i64,
    pub channel: String,
    pub account: String,
    pub business_number: Option<String>,
    pub provider_message_id: String,
    pub sender: String,
    pub kind: String,
    pub text: Option<String>,
    pub payload: Option<String>,
    pub replies_to: Option<String>,
    pub wish: Option<String>,
    pub received_at: DateTime<Utc>,
}

/// A page, the latest first: the first rows of each number or account by its own index, then the first of these.
pub async fn list(
    connection: &mut PgConnection,
    tenant: TenantId,
    filter: &ReceivedFilter,
) -> Result<Vec<ReceivedRow>, StoreError> {
    let mut sql = QueryBuilder::<Postgres>::new("WITH k AS MATERIALIZED (SELECT r.id, r.received_at FROM (SELECT ");
    let column = if filter.numbers.is_some() { "number_id" } else { "account_id" };
    if let Some(numbers) = &filter.numbers {
        sql.push("n.id FROM business_number n JOIN account a ON a.id = n.account_id WHERE n.id = ANY(");
        sql.push_bind(numbers.clone()).push(") AND ");
    } else {
        sql.push("a.id FROM account a WHERE ");
    }
    sql.push("a.tenant_id = ").push_bind(tenant.0);
    if let Some(account) = &filter.account {
        sql.push(" AND a.name = ").push_bind(account.clone());
    }
    if let Some(channel) = filter.channel {
        sql.push(" AND a.channel = ").push_bind(channel.as_str());
    }
    sql.push(") o CROSS JOIN LATERAL (SELECT i.id, i.received_at FROM inbound_message i WHERE i.")
        .push(column)
        .push(" = o.id");
    if let Some(sender) = &filter.sender {
        sql.push(" AND i.sender = ").push_bind(sender.clone());
    }
    if let Some(since) = filter.since {
        sql.push(" AND i.received_at >= ").push_bind(since);
    }
    if let Some(until) = filter.until {
        sql.push(" AND i.received_at < ").push_bind(until);
    }
    if let Some((at, id)) = filter.after {
        sql.push(" AND (i.received_at, i.id) < (").push_bind(at).push(", ").push_bind(id).push(")");
    }
    sql.push(" ORDER BY i.received_at DESC, i.id DESC LIMIT ").push_bind(filter.limit);
    sql.push(") r ORDER BY r.received_at DESC, r.id DESC LIMIT ").push_bind(filter.limit);
    sql.push(
        ") SELECT v.id, v.channel, v.account, v.business_number, v.provider_message_id, v.sender, v.kind, v.text, v.payload,
                  v.replies_to, v.wish, v.received_at
         FROM k CROSS JOIN LATERAL (SELECT * FROM checklist.received r WHERE r.id = k.id OFFSET 0) v
         ORDER BY k.received_at DESC, k.id DESC",
    );
    sql.build_query_as().fetch_all(connection).await.doing("list received messages")
}
