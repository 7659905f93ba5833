//! Broker messages that a committed transaction owes: written with it, published afterwards, then deleted.

use chrono::Utc;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    domain::named,
    store::{Doing as _, StoreError},
};

named! {
    /// Where a message goes; the name of the exchange is the relay's affair.
    pub enum Destination {
        /// The exchange of events, for whoever listens.
        Events = "events",
        /// The exchange of jobs and callbacks.
        Entry = "entry",
        /// A queue by its name. One that is gone is no error.
        Queue = "queue",
    }
}

/// A message to be published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxMessage {
    /// Where to.
    pub to: Destination,
    /// The routing key, or the queue's name.
    pub key: String,
    /// Unique; the same when it is published again.
    pub id: String,
    /// Given back with a reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// JSON.
    pub body: Value,
}

impl OutboxMessage {
    /// An event of `kind` (for example `job.accepted.v1`), routed by kind and producer.
    pub fn event(id: Uuid, kind: &str, tenant: &str, producer: &str, data: &Value) -> Self {
        Self {
            to: Destination::Events,
            key: format!("{kind}.{producer}"),
            id: id.to_string(),
            correlation_id: None,
            body: json!({"id": id, "type": kind, "time": Utc::now(), "tenant": tenant, "producer": producer, "data": data}),
        }
    }

    /// An event of `kind` that is about no producer (for example `alarm.raised.v1`), routed by its kind alone; without a
    /// tenant it concerns everybody.
    pub fn notice(id: Uuid, kind: &str, tenant: Option<&str>, data: &Value) -> Self {
        Self {
            to: Destination::Events,
            key: kind.to_owned(),
            id: id.to_string(),
            correlation_id: None,
            body: json!({"id": id, "type": kind, "time": Utc::now(), "tenant": tenant, "data": data}),
        }
    }

    /// A bare answer to whoever asked for one.
    pub fn reply(queue: String, correlation_id: Option<String>, answer: Value) -> Self {
        Self { to: Destination::Queue, key: queue, id: Uuid::new_v4().to_string(), correlation_id, body: answer }
    }
}

/// Messages of one transaction.
#[derive(Debug, Clone)]
pub struct OutboxRow {
    /// In order of writing, roughly.
    pub id: i64,
    /// In order.
    pub messages: Vec<OutboxMessage>,
}

/// Owes messages, in the transaction they tell of.
pub async fn insert(connection: &mut PgConnection, messages: &[OutboxMessage]) -> Result<(), StoreError> {
    if messages.is_empty() {
        return Ok(());
    }
    let messages = serde_json::to_value(messages).unwrap_or_default();
    sqlx::query!("INSERT INTO outbox (messages) VALUES ($1)", messages)
        .execute(connection)
        .await
        .doing("write the outbox")?;
    Ok(())
}

/// The oldest rows that no other process is publishing, locked until the transaction ends.
pub async fn take(connection: &mut PgConnection, max: i64) -> Result<Vec<OutboxRow>, StoreError> {
    let rows = sqlx::query!("SELECT id, messages FROM outbox ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED", max)
        .fetch_all(connection)
        .await
        .doing("read the outbox")?;
    let rows = rows.into_iter().map(|row| OutboxRow {
        id: row.id,
        messages: serde_json::from_value(row.messages).unwrap_or_else(|error| {
            tracing::error!(outbox.id = row.id, %error, "a row of the outbox is not readable and is left out");
            Vec::new()
        }),
    });
    Ok(rows.collect())
}

/// Forgets published rows.
pub async fn delete(connection: &mut PgConnection, ids: &[i64]) -> Result<(), StoreError> {
    sqlx::query!("DELETE FROM outbox WHERE id = ANY($1)", ids).execute(connection).await.doing("empty the outbox")?;
    Ok(())
}
