//! What there is to say about one message beside its row: when it was taken, what it is a re-send of and was sent again as.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    domain::ids::MessageKey,
    store::{Doing as _, StoreError},
};

/// A message among others.
#[derive(Debug, Clone)]
pub struct Kin {
    /// When its batch was taken.
    pub created_at: DateTime<Utc>,
    /// Who published it.
    pub producer: String,
    /// The batch whose message it sends again.
    pub resend_of: Option<Uuid>,
    /// The batch in which it was sent again.
    pub resent_in: Option<Uuid>,
    /// When that was made.
    pub resent_at: Option<DateTime<Utc>>,
    /// The acts that did so, and that acknowledged it.
    pub acts: Vec<i64>,
}

/// Reads it.
pub async fn kin(connection: &mut PgConnection, key: MessageKey) -> Result<Option<Kin>, StoreError> {
    sqlx::query_as!(
        Kin,
        r#"SELECT b.created_at, b.producer, b.resend_of, m.resent_in, r.created_at AS "resent_at?",
                  array_remove(ARRAY[b.resend, r.resend, f.acknowledged], NULL) AS "acts!"
           FROM message m
           JOIN batch b ON b.batch_id = m.batch_id
           LEFT JOIN batch r ON r.batch_id = m.resent_in
           LEFT JOIN failed_message f ON f.batch_id = m.batch_id AND f.seq = m.seq
           WHERE m.batch_id = $1 AND m.seq = $2"#,
        key.batch_id.0,
        key.seq
    )
    .fetch_optional(connection)
    .await
    .doing("read what a message is to others")
}
