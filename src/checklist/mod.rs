//! What operators ask: which batches, which messages, what failed and what to do about it, what is held and why.
//!
//! Reads only, but for opening and closing holds, deciding about uncertain messages, and acknowledging failures or sending
//! them again. Every question starts from the tenant of who asks; addresses are masked unless the caller may see them
//! whole. Pages go by key, so that the thousandth costs what the first does.

mod acknowledge;
mod audiences;
mod exports;
mod failures;
mod history;
mod holds;
mod imports;
mod lists;
mod reports;
mod resends;
mod sheet;
mod suppressions;
mod uncertain;
mod which;
mod why;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use acknowledge::{AcknowledgeRequest, Acknowledged, acknowledge};
pub use audiences::list_audiences;
pub use exports::{export_batches, export_messages, export_received};
pub use failures::{AdvisedFailure, Failures, Language, failures};
pub use history::{Entry, Kind};
pub use holds::{close_hold, find_hold, list_holds, open_hold};
pub use imports::{find_import, list_changed_cells, list_imports, list_rejected_rows};
pub use lists::{BatchQuery, MessageQuery, list_batches, list_messages};
pub use reports::{Report, ReportQuery, report};
pub use resends::{Means as ResendMeans, ResendDone, ResendRequest, resend};
pub use sheet::Format;
pub use suppressions::{ReceivedQuery, SuppressionQuery, list_received, list_suppressions};
pub use uncertain::{ResolveRequest, Resolved, UncertainMessage, list_uncertain, resolve};
pub use why::{WhyBatch, WhyMessage, why_batch, why_message};

use crate::{
    domain::{
        Channel,
        act::Act,
        address::{Address, AddressError},
        ids::{BatchId, MessageKey, TenantId},
    },
    providers::{self, Advice},
    store::{
        Connection, Store, StoreError,
        acts::{self, ActFilter, ActRow},
        checklist::{
            self,
            batches::{self, BatchRow},
            history as kin,
            messages::{self, AttemptRow, DecisionRow, MessageRow},
            refused::{self, RejectedJobRow, RejectedRecipientRow},
        },
    },
};

/// Rows of a page when nobody says how many.
const PAGE: u16 = 50;
/// Rows of a page at most.
const PAGE_MAX: u16 = 500;

/// A part of a list.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// What to give as `after` for the rows that follow; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// Cuts what was read with one row too many.
    fn cut(mut items: Vec<T>, limit: u16, key: impl Fn(&T) -> String) -> Self {
        let more = items.len() > usize::from(limit);
        items.truncate(usize::from(limit));
        let next = items.last().filter(|_| more).map(key);
        Self { items, next }
    }
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ChecklistError {
    /// No number of the tenant reads so.
    #[error("there is no business number `{given}`")]
    UnknownNumber {
        /// What was given.
        given: String,
        /// The numbers there are.
        known: Vec<String>,
    },
    /// No channel of the tenant has such addresses.
    #[error("`{given}` {reason}")]
    NotAnAddress {
        /// What was given.
        given: String,
        /// What the channel says of it.
        reason: AddressError,
    },
    /// A decision that cannot be made so.
    #[error("{reason}")]
    Refused {
        /// Which part of it.
        pointer: &'static str,
        /// Why, in one word.
        code: &'static str,
        /// Why.
        reason: String,
    },
    /// `after` is not what a page gave as `next`.
    #[error("`after` is not what an earlier page gave as `next`")]
    NotACursor,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A message as lists show it.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Message {
    /// `<batch id>.<seq>`.
    pub id: String,
    /// Its row.
    #[serde(flatten)]
    pub row: MessageRow,
}

/// A message with the calls for it.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MessageWithAttempts {
    /// The message.
    #[serde(flatten)]
    pub message: Message,
    /// Calls that did not end accepted, in order.
    pub attempts: Vec<AttemptRow>,
    /// What was decided about calls whose outcome nobody knew, in order.
    #[serde(default)]
    pub decisions: Vec<DecisionRow>,
    /// The message that it sends again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resend_of: Option<String>,
    /// The message that it was sent again as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resent_as: Option<String>,
    /// All that happened, in the order of time: calls, callbacks, decisions, what people did.
    #[serde(default)]
    pub history: Vec<Entry>,
    /// What to do about the code of one that is not sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<Advice>,
}

fn size(limit: Option<u16>) -> u16 {
    limit.unwrap_or(PAGE).clamp(1, PAGE_MAX)
}

/// In a query `+` means a space; a number that lost its `+` so gets it back.
pub fn with_plus(text: &str) -> String {
    match text.strip_prefix(' ') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_digit()) => format!("+{rest}"),
        _ => text.trim().to_owned(),
    }
}

fn key<T: std::str::FromStr>(after: Option<&str>) -> Result<Option<T>, ChecklistError> {
    after.map(str::parse).transpose().map_err(|_| ChecklistError::NotACursor)
}

async fn number_ids(
    connection: &mut Connection,
    tenant: TenantId,
    given: Option<&str>,
) -> Result<Option<Vec<i32>>, ChecklistError> {
    let Some(given) = given.map(with_plus) else {
        return Ok(None);
    };
    let ids = checklist::number_ids(connection, tenant, &given).await?;
    if ids.is_empty() {
        let known = checklist::business_numbers(connection, tenant).await?;
        return Err(ChecklistError::UnknownNumber { given, known });
    }
    Ok(Some(ids))
}

/// The rows of the number that is asked for; of all of the tenant when none is.
async fn asked_numbers(
    connection: &mut Connection,
    tenant: TenantId,
    given: Option<&str>,
) -> Result<Vec<i32>, ChecklistError> {
    match number_ids(connection, tenant, given).await? {
        Some(numbers) => Ok(numbers),
        None => Ok(checklist::all_number_ids(connection, tenant).await?),
    }
}

/// One batch.
pub async fn find_batch(store: &Store, tenant: TenantId, batch: BatchId) -> Result<Option<BatchRow>, ChecklistError> {
    Ok(batches::find(&mut *store.acquire().await?, tenant, batch).await?)
}

/// A page of the recipients of a batch that were refused; none when there is no such batch.
pub async fn list_rejected_recipients(
    store: &Store,
    tenant: TenantId,
    batch: BatchId,
    limit: Option<u16>,
    after: Option<&str>,
) -> Result<Option<Page<RejectedRecipientRow>>, ChecklistError> {
    let (mut connection, limit) = (store.acquire().await?, size(limit));
    if batches::find(&mut connection, tenant, batch).await?.is_none() {
        return Ok(None);
    }
    let (row, pointer) = row_key(after)?;
    let row = i32::try_from(row).map_err(|_| ChecklistError::NotACursor)?;
    let rows = refused::recipients(&mut connection, batch, (row, pointer), i64::from(limit) + 1).await?;
    Ok(Some(Page::cut(rows, limit, |r| format!("{}:{}", r.row, r.pointer))))
}

fn row_key(after: Option<&str>) -> Result<(i64, &str), ChecklistError> {
    let Some(after) = after else {
        return Ok((0, ""));
    };
    let (row, field) = after.split_once(':').ok_or(ChecklistError::NotACursor)?;
    Ok((row.parse().map_err(|_| ChecklistError::NotACursor)?, field))
}

/// An address as it is kept; refused when no channel the tenant has an account of takes it.
async fn recipient(
    connection: &mut Connection,
    tenant: TenantId,
    given: Option<&str>,
) -> Result<Option<String>, ChecklistError> {
    let Some(given) = given else {
        return Ok(None);
    };
    let channels = checklist::channels(connection, tenant).await?;
    // A channel of a later version is not one this version can read addresses of.
    let channels: Vec<Channel> = channels.iter().filter_map(|name| name.parse().ok()).collect();
    Ok(Some(canonical(&channels, given)?))
}

/// A number in any of its spellings is looked up in the one that is kept.
fn canonical(channels: &[Channel], given: &str) -> Result<String, ChecklistError> {
    let given = with_plus(given);
    let mut refused = None;
    for channel in channels {
        match Address::parse(*channel, &given) {
            Ok(address) => return Ok(address.as_str().to_owned()),
            Err(reason) => refused = refused.or(Some(reason)),
        }
    }
    refused
        .map_or_else(|| Ok(given.clone()), |reason| Err(ChecklistError::NotAnAddress { given: given.clone(), reason }))
}

fn shown(mut row: MessageRow, whole: bool) -> Message {
    if !whole {
        row.recipient = Address::from_store(row.recipient).masked();
    }
    let id = MessageKey { batch_id: BatchId(row.batch_id), seq: row.seq }.to_string();
    Message { id, row }
}

/// One message with its calls.
pub async fn find_message(
    store: &Store,
    providers: &providers::Registry,
    tenant: TenantId,
    key: MessageKey,
    whole: bool,
) -> Result<Option<MessageWithAttempts>, ChecklistError> {
    let mut connection = store.acquire().await?;
    let Some(row) = messages::find(&mut connection, tenant, key).await? else {
        return Ok(None);
    };
    let attempts = messages::attempts(&mut connection, key).await?;
    let decisions = messages::decisions(&mut connection, key).await?;
    let advice = failures::advice(&mut connection, providers, tenant, &row).await?;
    let Some(kin) = kin::kin(&mut connection, key).await? else {
        return Ok(None);
    };
    let acts = acts::about(&mut connection, tenant, key, &kin.acts).await?;
    let history = history::history(&row, &kin, &attempts, &decisions, &acts);
    let other = |batch: Uuid| MessageKey { batch_id: BatchId(batch), seq: key.seq }.to_string();
    let (resend_of, resent_as) = (kin.resend_of.map(other), kin.resent_in.map(other));
    let message = shown(row, whole);
    Ok(Some(MessageWithAttempts { message, attempts, decisions, resend_of, resent_as, history, advice }))
}

/// A page of what a tenant's people did, the latest first.
pub async fn list_acts(
    store: &Store,
    tenant: TenantId,
    (act, subject): (Option<Act>, Option<String>),
    limit: Option<u16>,
    after: Option<&str>,
) -> Result<Page<ActRow>, ChecklistError> {
    let limit = size(limit);
    let filter = ActFilter { act, subject, before: key(after)?, limit: i64::from(limit) + 1 };
    let rows = acts::list(&mut *store.acquire().await?, tenant, &filter).await?;
    Ok(Page::cut(rows, limit, |row| row.id.to_string()))
}

/// A page of jobs that were refused whole.
pub async fn list_rejected_jobs(
    store: &Store,
    tenant: TenantId,
    limit: Option<u16>,
    after: Option<&str>,
) -> Result<Page<RejectedJobRow>, ChecklistError> {
    let limit = size(limit);
    let rows = refused::jobs(&mut *store.acquire().await?, tenant, key(after)?, i64::from(limit) + 1).await?;
    Ok(Page::cut(rows, limit, |row| row.id.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plus_lost_in_a_query_comes_back() {
        assert_eq!(with_plus(" 819012345678"), "+819012345678");
        assert_eq!(with_plus("+819012345678"), "+819012345678");
    }

    #[test]
    fn a_recipient_is_looked_up_as_the_channels_keep_it() {
        let found = |channels: &[Channel], given| canonical(channels, given).ok();
        assert_eq!(found(&[Channel::Whatsapp], "+81 90-1234-5678").as_deref(), Some("+819012345678"));
        assert_eq!(found(&[Channel::Whatsapp], "US.1349").as_deref(), Some("US.1349"));
        assert_eq!(found(&[Channel::Whatsapp, Channel::Messenger], "080").as_deref(), Some("080"));
        let refused = canonical(&[Channel::Whatsapp, Channel::Email], "080").unwrap_err().to_string();
        assert!(refused.starts_with("`080` is not in E.164 form"), "{refused}");
        assert_eq!(found(&[], "080").as_deref(), Some("080"));
    }
}
