//! Uncertain messages: listed with the call in doubt, and decided about by a person.

use std::{collections::HashMap, sync::Arc};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{ChecklistError, Message, MessageQuery, Page, key, list_messages, number_ids};
use crate::{
    domain::{
        ids::{BatchId, MessageKey, TenantId},
        uncertain::Decided,
    },
    store::{
        Connection, Store, StoreError,
        checklist::{messages, which::List},
        messages::{Applied, Change, Rules, Ruling, apply},
        work::unsure::{self, UnsureFilter},
    },
};

/// Messages per transaction.
const CHUNK: i64 = 2000;
/// Messages that one request decides about: it is answered in seconds, and the next one goes on.
const MOST: usize = 20_000;
/// Messages that one request names.
const NAMED_MAX: usize = 5000;

/// An uncertain message with the call in doubt.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct UncertainMessage {
    /// The message; `due_at` is when the policy decides.
    #[serde(flatten)]
    pub message: Message,
    /// When it was called.
    pub called_at: Option<DateTime<Utc>>,
    /// What happened to the call, in one word.
    pub call_code: Option<String>,
    /// What happened to the call.
    pub call_reason: Option<String>,
}

/// A page of uncertain messages; `whole` shows addresses in full.
pub async fn list_uncertain(
    store: &Store,
    tenant: TenantId,
    query: MessageQuery,
    whole: bool,
) -> Result<Page<UncertainMessage>, ChecklistError> {
    let query = MessageQuery { list: Some(List::Uncertain), state: None, ..query };
    let page = list_messages(store, tenant, &query, whole).await?;
    let keys: Vec<MessageKey> = page.items.iter().map(message_key).collect();
    let doubts = messages::doubts(&mut *store.acquire().await?, &keys).await?;
    let mut doubts: HashMap<MessageKey, messages::Doubt> = doubts.into_iter().map(|doubt| (doubt.key, doubt)).collect();
    let with_doubt = |message: Message| {
        let (called_at, call_code, call_reason) = match doubts.remove(&message_key(&message)) {
            Some(doubt) => (Some(doubt.called_at), Some(doubt.code), Some(doubt.reason)),
            None => (None, None, None),
        };
        UncertainMessage { message, called_at, call_code, call_reason }
    };
    Ok(Page { items: page.items.into_iter().map(with_doubt).collect(), next: page.next })
}

fn message_key(message: &Message) -> MessageKey {
    MessageKey { batch_id: BatchId(message.row.batch_id), seq: message.row.seq }
}

/// What a person decides. At least one of `batch`, `number` and `messages` says about which.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResolveRequest {
    /// Those of this batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Uuid>,
    /// Those of this business number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<String>,
    /// These: `<batch id>.<seq>`, at most 5 000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<String>>,
    /// What became of the call: `sent` and `failed` end the message, `resend` calls again.
    pub r#as: Decided,
    /// For whoever asks later.
    pub reason: String,
    /// What it is decided by: a report of the provider, a ticket, …
    #[serde(default)]
    pub evidence: String,
    /// Only counts.
    #[serde(default)]
    pub dry_run: bool,
    /// `next` of the answer before: goes on after that message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// What became of a decision.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Resolved {
    /// Messages that were uncertain.
    pub found: usize,
    /// Those that the decision moved; none when it was only counted.
    pub resolved: usize,
    /// Those named, or found, that were not uncertain (any more): nothing was done to them.
    pub moved: usize,
    /// What to give as `after` to go on; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Decides about a tenant's uncertain messages in the name of `by`.
pub async fn resolve(
    store: &Store,
    tenant: TenantId,
    by: &str,
    request: &ResolveRequest,
    rules: Rules,
) -> Result<Resolved, ChecklistError> {
    let mut connection = store.acquire().await?;
    let filter = filter(&mut connection, tenant, request).await?;
    let ruling = Arc::new(Ruling {
        decided: request.r#as,
        by: format!("token:{by}"),
        reason: request.reason.trim().to_owned(),
        evidence: request.evidence.trim().to_owned(),
    });
    let mut done = Resolved::default();
    let mut after = key(request.after.as_deref())?.unwrap_or(MessageKey { batch_id: BatchId(Uuid::nil()), seq: 0 });
    loop {
        let rows = unsure::matching(&mut connection, tenant, &filter, after, CHUNK).await?;
        let Some((last, _)) = rows.last().copied() else {
            break;
        };
        done.found += rows.len();
        if !request.dry_run {
            let resolved = decide(&mut connection, &rows, &ruling, rules).await?;
            done.resolved += resolved;
            done.moved += rows.len() - resolved;
        }
        after = last;
        if done.found >= MOST {
            done.next = Some(last.to_string());
            break;
        }
    }
    // With names there is one round: what was named and not found is not uncertain.
    done.moved += filter.keys.map_or(0, |keys| keys.len().saturating_sub(done.found));
    Ok(done)
}

async fn decide(
    connection: &mut Connection,
    rows: &[(MessageKey, i16)],
    ruling: &Arc<Ruling>,
    rules: Rules,
) -> Result<usize, StoreError> {
    let changes: Vec<Change> = rows.iter().map(|(key, attempt)| Change::ruled(*key, *attempt, ruling)).collect();
    let outcome = apply(connection, &changes, rules).await?;
    let resolved = outcome.applied.iter().filter(|a| matches!(a, Some(Applied::Moved { .. }))).count();
    let decided = ruling.decided.as_str();
    metrics::counter!("uncertain_decided_total", "decision" => decided, "by" => "person").increment(resolved as u64);
    Ok(resolved)
}

async fn filter(
    connection: &mut Connection,
    tenant: TenantId,
    request: &ResolveRequest,
) -> Result<UnsureFilter, ChecklistError> {
    let refused = |pointer, code, reason: &str| ChecklistError::Refused { pointer, code, reason: reason.to_owned() };
    if request.reason.trim().is_empty() {
        return Err(refused("/reason", "empty", "say why, for whoever asks later"));
    }
    if request.batch.is_none() && request.number.is_none() && request.messages.is_none() {
        return Err(refused("", "no_filter", "say about which: batch, number or messages"));
    }
    let named = request.messages.as_deref();
    if named.is_some_and(|named| named.len() > NAMED_MAX) {
        return Err(refused("/messages", "too_many", "name at most 5000 messages in one request"));
    }
    let keys = named.map(|named| {
        let mut keys = named.iter().map(|id| id.parse()).collect::<Result<Vec<MessageKey>, _>>()?;
        keys.sort_unstable();
        keys.dedup();
        Ok::<_, crate::domain::ids::NotAMessageKey>(keys)
    });
    let keys = keys.transpose().map_err(|error| refused("/messages", "invalid_message_id", &error.to_string()))?;
    let numbers = number_ids(connection, tenant, request.number.as_deref()).await?;
    Ok(UnsureFilter { batch: request.batch.map(BatchId), numbers, keys })
}
