//! Which batches and messages a list is about.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use crate::{
    domain::{
        ids::{BatchId, MessageKey, TenantId},
        message::MessageState,
        named,
    },
    store::{Doing as _, StoreError},
};

/// Batches that a list goes through one by one; where a filter leaves more, the list walks them in its own order.
pub const FEW: usize = 500;

named! {
    /// What became of messages, as operators group it.
    pub enum List {
        /// Every message.
        All = "all",
        /// Taken by the provider.
        Sent = "sent",
        /// Still to be sent.
        Pending = "pending",
        /// Failed or expired.
        Failed = "failed",
        /// Called, and nobody knows.
        Uncertain = "uncertain",
    }
}

impl List {
    pub(super) const fn states(self) -> &'static [&'static str] {
        match self {
            Self::All => &[],
            Self::Sent => &["accepted", "sent", "delivered", "read"],
            Self::Pending => &["pending"],
            Self::Failed => &["failed", "expired"],
            Self::Uncertain => &["uncertain"],
        }
    }

    /// The narrow table that has a row for each of its messages.
    pub(super) const fn table(self) -> &'static str {
        match self {
            Self::All | Self::Sent => "message",
            Self::Pending | Self::Uncertain => "work",
            Self::Failed => "failed_message",
        }
    }

    /// The list that is all messages of this state and perhaps more.
    pub const fn of(state: MessageState) -> Self {
        match state {
            MessageState::Pending => Self::Pending,
            MessageState::Uncertain => Self::Uncertain,
            MessageState::Accepted | MessageState::Sent | MessageState::Delivered | MessageState::Read => Self::Sent,
            MessageState::Failed | MessageState::Expired => Self::Failed,
            MessageState::Suppressed | MessageState::Cancelled => Self::All,
        }
    }
}

/// A range of time, half-open; an end that is absent is open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    /// Not before.
    pub since: Option<DateTime<Utc>>,
    /// Before this.
    pub until: Option<DateTime<Utc>>,
}

impl Span {
    /// Whether it says anything.
    pub const fn is_limited(self) -> bool {
        self.since.is_some() || self.until.is_some()
    }

    /// Conditions on a column of time; `earlier` seconds before the range count as in it.
    pub(super) fn push(self, sql: &mut QueryBuilder<Postgres>, column: &str, earlier: f64) {
        if let Some(since) = self.since {
            sql.push(" AND ").push(column).push(" >= ").push_bind(since);
            if earlier > 0.0 {
                sql.push(" - make_interval(secs => ").push_bind(earlier).push(")");
            }
        }
        if let Some(until) = self.until {
            sql.push(" AND ").push(column).push(" < ").push_bind(until);
        }
    }

    /// Conditions on a batch that is due in the range.
    pub(super) fn push_due(self, sql: &mut QueryBuilder<Postgres>, column: &str) {
        if let Some(since) = self.since {
            sql.push(" AND ").push(column).push(" >= uuid_floor(").push_bind(since).push(")");
        }
        if let Some(until) = self.until {
            sql.push(" AND ").push(column).push(" < uuid_floor(").push_bind(until).push(")");
        }
    }

    /// Conditions on a batch that was accepted in the range: it is due then or later, and no month further ahead is made.
    pub(super) fn push_accepted(self, sql: &mut QueryBuilder<Postgres>, column: &str) {
        if let Some(since) = self.since {
            sql.push(" AND ").push(column).push(" >= uuid_floor(").push_bind(since).push(" - interval '1 hour')");
        }
        if let Some(until) = self.until {
            sql.push(" AND ").push(column).push(" < uuid_floor(").push_bind(until).push(" + interval '8 months')");
        }
    }
}

/// What is common to all messages of a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OfBatch {
    /// Only of these numbers; none is all of the tenant.
    pub numbers: Option<Vec<i32>>,
    /// Only of these templates.
    pub templates: Option<Vec<i32>>,
    /// Only of this campaign.
    pub campaign: Option<String>,
    /// Only of this producer.
    pub producer: Option<String>,
    /// Only of these batches.
    pub batches: Option<Vec<Uuid>>,
}

impl OfBatch {
    /// Whether it narrows by more than the number.
    pub const fn is_narrow(&self) -> bool {
        self.templates.is_some() || self.campaign.is_some() || self.producer.is_some()
    }

    /// Conditions on the row `b` of a batch.
    pub(super) fn push(&self, sql: &mut QueryBuilder<Postgres>) {
        push_ids(sql, "b.number_id", self.numbers.as_deref());
        self.push_narrow(sql);
        if let Some(batches) = &self.batches {
            sql.push(" AND b.batch_id = ANY(").push_bind(batches.clone()).push(")");
        }
    }

    /// Those of them that are about neither number nor batch.
    pub(super) fn push_narrow(&self, sql: &mut QueryBuilder<Postgres>) {
        push_ids(sql, "b.template_id", self.templates.as_deref());
        if let Some(campaign) = &self.campaign {
            sql.push(" AND b.campaign = ").push_bind(campaign.clone());
        }
        if let Some(producer) = &self.producer {
            sql.push(" AND b.producer = ").push_bind(producer.clone());
        }
    }
}

/// An equality, not `= ANY`, lets an index give the order.
fn push_ids(sql: &mut QueryBuilder<Postgres>, column: &str, ids: Option<&[i32]>) {
    match ids {
        Some([id]) => drop(sql.push(" AND ").push(column).push(" = ").push_bind(*id)),
        Some(ids) => drop(sql.push(" AND ").push(column).push(" = ANY(").push_bind(ids.to_vec()).push(")")),
        None => {}
    }
}

/// The batches of a tenant that a filter leaves, when they are few.
pub async fn few(
    connection: &mut PgConnection,
    tenant: TenantId,
    of: &OfBatch,
) -> Result<Option<Vec<Uuid>>, StoreError> {
    let mut sql = QueryBuilder::<Postgres>::new("SELECT b.batch_id FROM batch b WHERE b.tenant_id = ");
    sql.push_bind(tenant.0);
    of.push(&mut sql);
    sql.push(" LIMIT ").push_bind(i64::try_from(FEW + 1).unwrap_or(i64::MAX));
    let found: Vec<Uuid> = sql.build_query_scalar().fetch_all(connection).await.doing("look for batches")?;
    Ok((found.len() <= FEW).then_some(found))
}

/// The batches that jobs of this id became: a tenant has few producers.
pub async fn of_job(connection: &mut PgConnection, tenant: TenantId, job_id: &str) -> Result<Vec<Uuid>, StoreError> {
    sqlx::query_scalar!(
        "SELECT j.batch_id FROM producer p JOIN job j ON j.tenant_id = p.tenant_id AND j.producer = p.name
         WHERE p.tenant_id = $1 AND j.job_id = $2",
        tenant.0,
        job_id
    )
    .fetch_all(connection)
    .await
    .doing("look for a job")
}

/// A place in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Of a list by time: the time it goes by.
    pub at: Option<DateTime<Utc>>,
    /// The message.
    pub key: MessageKey,
}

/// As the lists tell it: `<batch id>.<seq>`, or `<microseconds since 1970>.<batch id>.<seq>`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = self.at {
            write!(f, "{}.", at.timestamp_micros())?;
        }
        write!(f, "{}", self.key)
    }
}

/// Not a place of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no place in a list")]
pub struct NotAPlace;

impl FromStr for Place {
    type Err = NotAPlace;

    fn from_str(text: &str) -> Result<Self, NotAPlace> {
        if let Ok(key) = text.parse() {
            return Ok(Self { at: None, key });
        }
        let read = || {
            let (at, key) = text.split_once('.')?;
            Some(Self { at: Some(DateTime::from_timestamp_micros(at.parse().ok()?)?), key: key.parse().ok()? })
        };
        read().ok_or(NotAPlace)
    }
}

/// Which messages.
#[derive(Debug, Clone)]
pub struct MessageFilter {
    /// Which list.
    pub list: List,
    /// What their batches have in common.
    pub of: OfBatch,
    /// Only of this batch.
    pub batch: Option<BatchId>,
    /// Only to this recipient.
    pub recipient: Option<String>,
    /// Only with this mark of the producer.
    pub reference: Option<String>,
    /// Only in this state.
    pub state: Option<MessageState>,
    /// Only with this code.
    pub code: Option<String>,
    /// Only in this range of the list's time.
    pub span: Span,
    /// Only after this one in the order of the list.
    pub after: Option<Place>,
    /// How many at most.
    pub limit: i64,
}

impl MessageFilter {
    /// The batches it is about, where they are named or few.
    pub(super) fn batches(&self) -> Option<Vec<Uuid>> {
        self.batch.map(|batch| vec![batch.0]).or_else(|| self.of.batches.clone())
    }

    /// Whether the list goes through the tenant's batches themselves: nothing narrower leads to its messages.
    pub(super) fn walks_batches(&self) -> bool {
        self.list.table() == "message" && self.batch.is_none() && self.of.batches.is_none() && !self.is_little()
    }

    /// Whether it asks for what one person or one mark has.
    pub(super) const fn is_little(&self) -> bool {
        self.recipient.is_some() || self.reference.is_some()
    }

    /// Whether the list goes by its time: asked for a range of it, or for a code, which is found so. What one person or
    /// one mark has is little, and goes by batch.
    pub fn is_by_time(&self) -> bool {
        let has_code = self.list == List::Failed && self.code.is_some();
        self.list != List::All && (self.span.is_limited() || has_code) && !self.is_little()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_written() {
        let key = "01900000-0000-7000-8000-000000000001.7".parse().unwrap();
        let at = DateTime::from_timestamp_micros(1_750_030_073_000_001).unwrap();
        for place in [Place { at: None, key }, Place { at: Some(at), key }] {
            assert_eq!(place.to_string().parse(), Ok(place));
        }
        for wrong in ["", "7", "x.01900000-0000-7000-8000-000000000001.7", "01900000-0000-7000-8000-000000000001"] {
            assert_eq!(wrong.parse::<Place>(), Err(NotAPlace), "{wrong}");
        }
    }
}
