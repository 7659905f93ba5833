//! Whole lists as files. A list is read page by page while it is sent, as it stands then.

use chrono::{DateTime, Utc};
use futures_util::{Stream, stream};

use super::{
    BatchQuery, ChecklistError, Message, MessageQuery, ReceivedQuery,
    lists::{batch_filter, filter, place_of},
    sheet::{self, Column, Format, Kind, Rows},
    shown,
    suppressions::{hide, received_filter},
    which::refused,
};
use crate::{
    domain::ids::{BatchId, TenantId},
    files::FileOut,
    store::{
        Store,
        checklist::{
            batches::{self, BatchFilter, BatchRow},
            lists,
            which::{List, MessageFilter},
        },
        received::{self, ReceivedFilter, ReceivedRow},
    },
};

/// Rows read at once.
const PAGE: usize = 2000;
const LIMIT: i64 = 2000;

const MESSAGES: &[Column] = &[
    ("message", Kind::Text),
    ("recipient", Kind::Address),
    ("ref", Kind::Text),
    ("state", Kind::Text),
    ("business_number", Kind::Address),
    ("account", Kind::Text),
    ("channel", Kind::Text),
    ("template", Kind::Text),
    ("language", Kind::Text),
    ("category", Kind::Text),
    ("campaign", Kind::Text),
    ("producer", Kind::Text),
    ("job_id", Kind::Text),
    ("attempt", Kind::Number),
    ("provider_message_id", Kind::Text),
    ("code", Kind::Text),
    ("class", Kind::Text),
    ("reason", Kind::Text),
    ("send_at", Kind::Text),
    ("expires_at", Kind::Text),
    ("due_at", Kind::Text),
    ("accepted_at", Kind::Text),
    ("sent_at", Kind::Text),
    ("delivered_at", Kind::Text),
    ("read_at", Kind::Text),
    ("failed_at", Kind::Text),
    ("ended_at", Kind::Text),
];

const BATCHES: &[Column] = &[
    ("batch_id", Kind::Text),
    ("created_at", Kind::Text),
    ("producer", Kind::Text),
    ("job_id", Kind::Text),
    ("campaign", Kind::Text),
    ("channel", Kind::Text),
    ("account", Kind::Text),
    ("business_number", Kind::Address),
    ("template", Kind::Text),
    ("language", Kind::Text),
    ("category", Kind::Text),
    ("state", Kind::Text),
    ("recipients", Kind::Number),
    ("rejected", Kind::Number),
    ("pending", Kind::Number),
    ("uncertain", Kind::Number),
    ("accepted", Kind::Number),
    ("sent", Kind::Number),
    ("delivered", Kind::Number),
    ("read", Kind::Number),
    ("failed", Kind::Number),
    ("expired", Kind::Number),
    ("suppressed", Kind::Number),
    ("cancelled", Kind::Number),
    ("send_at", Kind::Text),
    ("expires_at", Kind::Text),
    ("cancelled_at", Kind::Text),
];

const RECEIVED: &[Column] = &[
    ("received_at", Kind::Text),
    ("sender", Kind::Address),
    ("business_number", Kind::Address),
    ("account", Kind::Text),
    ("channel", Kind::Text),
    ("kind", Kind::Text),
    ("wish", Kind::Text),
    ("text", Kind::Text),
    ("payload", Kind::Text),
    ("provider_message_id", Kind::Text),
    ("replies_to", Kind::Text),
];

/// A list of messages as a file; `whole` shows addresses in full.
pub async fn export_messages(
    store: &Store,
    tenant: TenantId,
    query: &MessageQuery,
    whole: bool,
    format: Format,
) -> Result<FileOut, ChecklistError> {
    whole_list(query.limit)?;
    let mut filter = filter(&mut *store.acquire().await?, tenant, query).await?;
    filter.limit = LIMIT;
    let name = if filter.list == List::All { "messages" } else { filter.list.as_str() };
    Ok(sheet::export(name, format, MESSAGES, message_pages(store.clone(), tenant, filter, whole)))
}

/// A list of batches as a file.
pub async fn export_batches(
    store: &Store,
    tenant: TenantId,
    query: &BatchQuery,
    format: Format,
) -> Result<FileOut, ChecklistError> {
    whole_list(query.limit)?;
    let mut filter = batch_filter(&mut *store.acquire().await?, tenant, query).await?;
    filter.limit = LIMIT;
    Ok(sheet::export("batches", format, BATCHES, batch_pages(store.clone(), tenant, filter)))
}

/// What recipients wrote as a file; `whole` shows addresses in full and what was written.
pub async fn export_received(
    store: &Store,
    tenant: TenantId,
    query: &ReceivedQuery,
    whole: bool,
    format: Format,
) -> Result<FileOut, ChecklistError> {
    whole_list(query.limit)?;
    let mut filter = received_filter(&mut *store.acquire().await?, tenant, query).await?;
    filter.limit = LIMIT;
    Ok(sheet::export("received", format, RECEIVED, received_pages(store.clone(), tenant, filter, whole)))
}

fn whole_list(limit: Option<u16>) -> Result<(), ChecklistError> {
    match limit {
        Some(_) => Err(refused("/limit", "not_of_an_export", "an export has all rows; since and until narrow it")),
        None => Ok(()),
    }
}

fn message_pages(store: Store, tenant: TenantId, filter: MessageFilter, whole: bool) -> impl Stream<Item = Rows> {
    stream::try_unfold(Some(filter), move |filter| {
        let store = store.clone();
        async move {
            let Some(mut filter) = filter else {
                return Ok(None);
            };
            let rows = lists::list(&mut *store.acquire().await?, tenant, &filter).await?;
            let messages: Vec<Message> = rows.into_iter().map(|row| shown(row, whole)).collect();
            filter.after = messages.last().map(place_of);
            let next = (messages.len() == PAGE).then_some(filter);
            Ok(Some((messages.into_iter().map(message_row).collect(), next)))
        }
    })
}

fn batch_pages(store: Store, tenant: TenantId, filter: BatchFilter) -> impl Stream<Item = Rows> {
    stream::try_unfold(Some(filter), move |filter| {
        let store = store.clone();
        async move {
            let Some(mut filter) = filter else {
                return Ok(None);
            };
            let rows = batches::list(&mut *store.acquire().await?, tenant, &filter).await?;
            filter.after = rows.last().map(|row| BatchId(row.batch_id));
            let next = (rows.len() == PAGE).then_some(filter);
            Ok(Some((rows.into_iter().map(batch_row).collect(), next)))
        }
    })
}

fn received_pages(store: Store, tenant: TenantId, filter: ReceivedFilter, whole: bool) -> impl Stream<Item = Rows> {
    stream::try_unfold(Some(filter), move |filter| {
        let store = store.clone();
        async move {
            let Some(mut filter) = filter else {
                return Ok(None);
            };
            let mut rows = received::list(&mut *store.acquire().await?, tenant, &filter).await?;
            filter.after = rows.last().map(|row| (row.received_at, row.id));
            let next = (rows.len() == PAGE).then_some(filter);
            if !whole {
                rows.iter_mut().for_each(hide);
            }
            Ok(Some((rows.into_iter().map(received_row).collect(), next)))
        }
    })
}

fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn maybe(at: Option<DateTime<Utc>>) -> String {
    at.map(time).unwrap_or_default()
}

fn message_row(message: Message) -> Vec<String> {
    let Message { id, row } = message;
    vec![
        id,
        row.recipient,
        row.r#ref.unwrap_or_default(),
        row.state,
        row.business_number,
        row.account,
        row.channel,
        row.template,
        row.language,
        row.category,
        row.campaign.unwrap_or_default(),
        row.producer,
        row.job_id,
        row.attempt.to_string(),
        row.provider_message_id.unwrap_or_default(),
        row.code.unwrap_or_default(),
        row.class.unwrap_or_default(),
        row.reason.unwrap_or_default(),
        time(row.send_at),
        time(row.expires_at),
        maybe(row.due_at),
        maybe(row.accepted_at),
        maybe(row.sent_at),
        maybe(row.delivered_at),
        maybe(row.read_at),
        maybe(row.failed_at),
        maybe(row.ended_at),
    ]
}

fn batch_row(b: BatchRow) -> Vec<String> {
    let counts = [
        b.recipients,
        b.rejected,
        b.pending,
        b.uncertain,
        b.accepted,
        b.sent,
        b.delivered,
        b.read,
        b.failed,
        b.expired,
        b.suppressed,
        b.cancelled,
    ];
    let names = [
        b.batch_id.to_string(),
        time(b.created_at),
        b.producer,
        b.job_id,
        b.campaign.unwrap_or_default(),
        b.channel,
        b.account,
        b.business_number,
        b.template,
        b.language,
        b.category,
        b.state,
    ];
    let times = [time(b.send_at), time(b.expires_at), maybe(b.cancelled_at)];
    names.into_iter().chain(counts.map(|count| count.to_string())).chain(times).collect()
}

fn received_row(r: ReceivedRow) -> Vec<String> {
    vec![
        time(r.received_at),
        r.sender,
        r.business_number.unwrap_or_default(),
        r.account,
        r.channel,
        r.kind,
        r.wish.unwrap_or_default(),
        r.text.unwrap_or_default(),
        r.payload.unwrap_or_default(),
        r.provider_message_id,
        r.replies_to.unwrap_or_default(),
    ]
}
