//! Identities: which row of which table, as types that cannot be mixed up.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! numeric_id {
    ($($(#[$meta:meta])* $name:ident($inner:ty);)+) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
            schemars::JsonSchema, utoipa::ToSchema)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )+};
}

numeric_id! {
    /// Who owns accounts, tokens and producers.
    TenantId(i32);
    /// What a provider bills and trusts.
    AccountId(i32);
    /// The identity we send from.
    NumberId(i32);
    /// An approved text in one language.
    TemplateId(i32);
    /// A recorded reason not to send.
    HoldId(i64);
}

/// One run of a job or an occurrence. A `UUIDv7` whose time is when the batch is due, because messages are partitioned by it.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
    utoipa::ToSchema,
)]
#[serde(transparent)]
pub struct BatchId(pub Uuid);

impl BatchId {
    /// A new id carrying `due` (milliseconds since 1970) as its time.
    ///
    /// Ids of the same millisecond differ by 74 random bits; they promise no order among themselves.
    pub fn due_at(due: DateTime<Utc>) -> Self {
        let millis = u64::try_from(due.timestamp_millis()).unwrap_or_default();
        Self(uuid::Builder::from_unix_timestamp_millis(millis, &rand::random()).into_uuid())
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for BatchId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// One template to one recipient in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MessageKey {
    /// The batch.
    pub batch_id: BatchId,
    /// The place in the batch, from 1.
    pub seq: i32,
}

impl fmt::Display for MessageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.batch_id, self.seq)
    }
}

/// Why a message id was not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message id is `<batch id>.<seq>`")]
pub struct NotAMessageKey;

impl FromStr for MessageKey {
    type Err = NotAMessageKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (batch, seq) = text.split_once('.').ok_or(NotAMessageKey)?;
        let batch_id = batch.parse().map_err(|_| NotAMessageKey)?;
        let seq = seq.parse().map_err(|_| NotAMessageKey)?;
        Ok(Self { batch_id, seq })
    }
}

/// The name of one installation inside tokens, so that two installations behind one provider account never mistake
/// each other's callbacks: 8 lower-case hexadecimal digits, drawn once by the first migration.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Installation(pub std::sync::Arc<str>);

/// What every request carries and every callback brings back: `v1.<installation>.<batch>.<seq>.<attempt>`.
///
/// ```
/// use campaign_dispatch::domain::ids::*;
/// let text = "v1.0a1b2c3d.0192d0c7-7d2a-7aaa-8aaa-123456789abc.17.2";
/// let token: Token = text.parse().unwrap();
/// assert_eq!((token.key.seq, token.attempt), (17, 2));
/// assert_eq!(token.to_string(), text);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Token {
    /// Whose message it is.
    pub installation: Installation,
    /// Which message.
    pub key: MessageKey,
    /// Which call for it; grows by one with each claim and is never used again.
    pub attempt: i16,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v1.{}.{}.{}.{}", self.installation.0, self.key.batch_id, self.key.seq, self.attempt)
    }
}

/// The text is not one of our tokens: someone else's callback, or an older version's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a token of this product")]
pub struct NotAToken;

impl FromStr for Token {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('.');
        let (Some("v1"), Some(installation), Some(batch), Some(seq), Some(attempt), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(NotAToken);
        };
        let batch_id = batch.parse().map_err(|_| NotAToken)?;
        let seq = seq.parse().map_err(|_| NotAToken)?;
        let attempt = attempt.parse().map_err(|_| NotAToken)?;
        Ok(Self { installation: Installation(installation.into()), key: MessageKey { batch_id, seq }, attempt })
    }
}
