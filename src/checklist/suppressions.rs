//! What recipients wrote, and who is not messaged.

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::{ChecklistError, Page, key, number_ids, recipient, size};
use crate::{
    domain::{
        Channel,
        address::Address,
        ids::TenantId,
        suppression::{SuppressionScope, SuppressionSource},
    },
    store::{
        Connection, Store,
        received::{self, ReceivedFilter, ReceivedRow},
        suppressions::{self, SuppressionFilter, SuppressionRow},
    },
};

/// Which received messages, as people write it.
#[derive(Debug, Clone, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ReceivedQuery {
    /// Only to this business number.
    pub number: Option<String>,
    /// Only to this account.
    pub account: Option<String>,
    /// Only of this channel.
    #[param(inline)]
    pub channel: Option<Channel>,
    /// Only from this sender.
    pub sender: Option<String>,
    /// Only what was received then or later.
    pub since: Option<DateTime<Utc>>,
    /// Only what was received before then.
    pub until: Option<DateTime<Utc>>,
    /// Rows of the page, 50 unless told, at most 500.
    pub limit: Option<u16>,
    /// `next` of the page before.
    pub after: Option<String>,
}

/// Which suppressions, as people write it.
#[derive(Debug, Clone, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct SuppressionQuery {
    /// Only of this recipient.
    pub recipient: Option<String>,
    /// Only of this account.
    pub account: Option<String>,
    /// marketing, account or tenant.
    #[param(inline)]
    pub scope: Option<SuppressionScope>,
    /// `provider_code`, preference, button, keyword, api or file.
    #[param(inline)]
    pub source: Option<SuppressionSource>,
    /// Lifted ones too, with who lifted them and why.
    pub all: Option<bool>,
    /// Rows of the page, 50 unless told, at most 500.
    pub limit: Option<u16>,
    /// `next` of the page before.
    pub after: Option<String>,
}

/// A page of received messages, the latest first; `whole` shows addresses in full and what was written.
pub async fn list_received(
    store: &Store,
    tenant: TenantId,
    query: &ReceivedQuery,
    whole: bool,
) -> Result<Page<ReceivedRow>, ChecklistError> {
    let (mut connection, limit) = (store.acquire().await?, size(query.limit));
    let mut filter = received_filter(&mut connection, tenant, query).await?;
    filter.limit = i64::from(limit) + 1;
    let rows = received::list(&mut connection, tenant, &filter).await?;
    let mut page = Page::cut(rows, limit, |row| format!("{}.{}", row.received_at.timestamp_micros(), row.id));
    if !whole {
        page.items.iter_mut().for_each(hide);
    }
    Ok(page)
}

/// What is asked, in the words of the store.
pub(super) async fn received_filter(
    connection: &mut Connection,
    tenant: TenantId,
    query: &ReceivedQuery,
) -> Result<ReceivedFilter, ChecklistError> {
    Ok(ReceivedFilter {
        numbers: number_ids(connection, tenant, query.number.as_deref()).await?,
        account: query.account.clone(),
        channel: query.channel,
        sender: recipient(connection, tenant, query.sender.as_deref()).await?,
        since: query.since,
        until: query.until,
        after: query.after.as_deref().map(place).transpose()?,
        limit: 0,
    })
}

/// What only the scope pii shows.
pub(super) fn hide(row: &mut ReceivedRow) {
    row.sender = masked(&row.sender);
    (row.text, row.payload) = (None, None);
}

/// A place in the list of received messages: `<microseconds since 1970>.<id>`.
fn place(after: &str) -> Result<(DateTime<Utc>, i64), ChecklistError> {
    let read = || {
        let (at, id) = after.split_once('.')?;
        Some((DateTime::from_timestamp_micros(at.parse().ok()?)?, id.parse().ok()?))
    };
    read().ok_or(ChecklistError::NotACursor)
}

/// A page of suppressions, the newest first; `whole` shows addresses in full.
pub async fn list_suppressions(
    store: &Store,
    tenant: TenantId,
    query: &SuppressionQuery,
    whole: bool,
) -> Result<Page<SuppressionRow>, ChecklistError> {
    let (mut connection, limit) = (store.acquire().await?, size(query.limit));
    let filter = SuppressionFilter {
        recipient: recipient(&mut connection, tenant, query.recipient.as_deref()).await?,
        account: query.account.clone(),
        scope: query.scope,
        source: query.source,
        all: query.all.unwrap_or_default(),
        before: key(query.after.as_deref())?,
        limit: i64::from(limit) + 1,
    };
    let mut rows = suppressions::list(&mut connection, tenant, &filter).await?;
    if !whole {
        for row in &mut rows {
            row.recipient = masked(&row.recipient);
        }
    }
    Ok(Page::cut(rows, limit, |row| row.id.to_string()))
}

fn masked(address: &str) -> String {
    Address::from_store(address.to_owned()).masked()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_written() {
        let at = DateTime::from_timestamp_micros(1_750_030_073_000_001).unwrap();
        assert_eq!(place("1750030073000001.7").unwrap(), (at, 7));
        for wrong in ["", "1", "x.1", "1.x", "1.2.3"] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }
}
