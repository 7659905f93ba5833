//! Broker messages that a committed transaction owes: written with it, published afterwards, then deleted.

use chrono::Utc;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    domain::{
        event::{Event, EventKind},
        named,
    },
    store::{Doing as _, StoreError},
};

/// Messages a row at most, so that a relay holds few of them at a time.
const ROW_MAX: usize = 100;

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
    /// What it is about: of two about the same thing the second is published when the first has arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// JSON.
    pub body: Value,
}

impl OutboxMessage {
    /// An event, routed by its kind and the producer whose job it is about, if it is about one.
    pub fn event(
        id: Uuid,
        kind: EventKind,
        tenant: Option<&str>,
        producer: Option<&str>,
        data: impl Serialize,
    ) -> Self {
        let (tenant, producer) = (tenant.map(str::to_owned), producer.map(str::to_owned));
        Self {
            to: Destination::Events,
            key: producer.as_ref().map_or_else(|| kind.to_string(), |producer| format!("{kind}.{producer}")),
            id: id.to_string(),
            correlation_id: None,
            about: None,
            body: json!(Event { id, r#type: kind, time: Utc::now(), tenant, producer, data }),
        }
    }

    /// A bare answer to whoever asked for one.
    pub fn reply(queue: String, correlation_id: Option<String>, answer: Value) -> Self {
        let id = Uuid::new_v4().to_string();
        Self { to: Destination::Queue, key: queue, id, correlation_id, about: None, body: answer }
    }
}

/// Messages of one transaction, or a part of them.
#[derive(Debug, Clone)]
pub struct OutboxRow {
    /// Rises from one transaction to another that waited for it; of others it says nothing.
    pub id: i64,
    /// In order.
    pub messages: Vec<OutboxMessage>,
}

/// Owes messages, in the transaction they tell of: after everything that others wait for, so that who waited comes later.
pub async fn insert(connection: &mut PgConnection, messages: &[OutboxMessage]) -> Result<(), StoreError> {
    for row in messages.chunks(ROW_MAX) {
        let row = serde_json::to_value(row).unwrap_or_default();
        sqlx::query!("INSERT INTO outbox (messages) VALUES ($1)", row)
            .execute(&mut *connection)
            .await
            .doing("write the outbox")?;
    }
    Ok(())
}

/// The oldest rows, for the one process at a time that publishes, until the transaction ends. None for the others: each
/// would publish rows that the first one has passed over, and what is told of a message would come out of order.
pub async fn take(connection: &mut PgConnection, max: i64) -> Result<Vec<OutboxRow>, StoreError> {
    // Locked as well: what the one before published may be deleted since this statement began.
    let rows = sqlx::query!(
        "WITH turn AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(hashtext('outbox')) AS is_ours)
         SELECT o.id, o.messages FROM outbox o, turn WHERE turn.is_ours ORDER BY o.id LIMIT $1 FOR UPDATE OF o",
        max
    )
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
