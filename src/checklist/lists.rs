//! The lists of batches and of messages, with every filter.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use uuid::Uuid;

use super::{ChecklistError, Message, Page, key, number_ids, recipient, shown, size, which::refused};
use crate::{
    domain::{
        Category, Channel,
        ids::{BatchId, MessageKey, TenantId},
        message::MessageState,
    },
    store::{
        Connection, Store,
        checklist::{
            self,
            batches::{self, BatchFilter, BatchRow},
            lists,
            which::{self, List, MessageFilter, OfBatch, Place, Span},
        },
    },
};

/// Which batches, as people write it.
#[derive(Debug, Clone, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct BatchQuery {
    /// Only of this business number.
    pub number: Option<String>,
    /// Only of this account.
    pub account: Option<String>,
    /// Only of this channel.
    #[param(inline)]
    pub channel: Option<Channel>,
    /// Only of templates of this name, or of this code at the provider.
    pub template: Option<String>,
    /// Only of templates of this category.
    #[param(inline)]
    pub category: Option<Category>,
    /// Only of this campaign.
    pub campaign: Option<String>,
    /// Only of this producer.
    pub producer: Option<String>,
    /// Only of this job.
    pub job_id: Option<String>,
    /// Only those accepted then or later: `created_at`.
    pub since: Option<DateTime<Utc>>,
    /// Only those accepted before then.
    pub until: Option<DateTime<Utc>>,
    /// Rows of the page, 50 unless told, at most 500.
    pub limit: Option<u16>,
    /// `next` of the page before.
    pub after: Option<String>,
}

/// Which messages, as people write it.
#[derive(Debug, Clone, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct MessageQuery {
    /// sent, pending, failed, uncertain or all.
    #[param(inline)]
    pub list: Option<List>,
    /// Only of this batch.
    pub batch: Option<Uuid>,
    /// Only of this business number.
    pub number: Option<String>,
    /// Only of this account.
    pub account: Option<String>,
    /// Only of this channel.
    #[param(inline)]
    pub channel: Option<Channel>,
    /// Only to this recipient.
    pub recipient: Option<String>,
    /// Only of templates of this name, or of this code at the provider.
    pub template: Option<String>,
    /// Only of templates of this category.
    #[param(inline)]
    pub category: Option<Category>,
    /// Only of this campaign.
    pub campaign: Option<String>,
    /// Only of this producer.
    pub producer: Option<String>,
    /// Only of this job.
    pub job_id: Option<String>,
    /// Only with this mark of the producer.
    pub r#ref: Option<String>,
    /// Only in this state.
    #[param(inline)]
    pub state: Option<MessageState>,
    /// Only with this code; of no list and no state it is the failed ones.
    pub code: Option<String>,
    /// Only from then on, by the time of the list: sent `accepted_at`, failed `failed_at`, pending and uncertain `due_at`, all
    /// when their batch is due.
    pub since: Option<DateTime<Utc>>,
    /// Only before then.
    pub until: Option<DateTime<Utc>>,
    /// Rows of the page, 50 unless told, at most 500.
    pub limit: Option<u16>,
    /// `next` of the page before.
    pub after: Option<String>,
}

/// What people say of batches, by name.
#[derive(Debug, Default)]
struct Named<'a> {
    number: Option<&'a str>,
    account: Option<&'a str>,
    channel: Option<Channel>,
    template: Option<&'a str>,
    category: Option<Category>,
    campaign: Option<&'a str>,
    producer: Option<&'a str>,
    job_id: Option<&'a str>,
}

/// A page of batches.
pub async fn list_batches(
    store: &Store,
    tenant: TenantId,
    query: &BatchQuery,
) -> Result<Page<BatchRow>, ChecklistError> {
    let (mut connection, limit) = (store.acquire().await?, size(query.limit));
    let mut filter = batch_filter(&mut connection, tenant, query).await?;
    filter.limit = i64::from(limit) + 1;
    let rows = batches::list(&mut connection, tenant, &filter).await?;
    Ok(Page::cut(rows, limit, |row| row.batch_id.to_string()))
}

/// What is asked of batches, in the words of the store.
pub(super) async fn batch_filter(
    connection: &mut Connection,
    tenant: TenantId,
    query: &BatchQuery,
) -> Result<BatchFilter, ChecklistError> {
    let named = Named {
        number: query.number.as_deref(),
        account: query.account.as_deref(),
        channel: query.channel,
        template: query.template.as_deref(),
        category: query.category,
        campaign: query.campaign.as_deref(),
        producer: query.producer.as_deref(),
        job_id: query.job_id.as_deref(),
    };
    Ok(BatchFilter {
        of: of_batch(connection, tenant, &named, true).await?,
        span: span(query.since, query.until)?,
        after: key(query.after.as_deref())?,
        limit: 0,
    })
}

/// A page of messages; `whole` shows addresses in full.
pub async fn list_messages(
    store: &Store,
    tenant: TenantId,
    query: &MessageQuery,
    whole: bool,
) -> Result<Page<Message>, ChecklistError> {
    let (mut connection, limit) = (store.acquire().await?, size(query.limit));
    let mut filter = filter(&mut connection, tenant, query).await?;
    filter.limit = i64::from(limit) + 1;
    let rows = lists::list(&mut connection, tenant, &filter).await?;
    let shown = rows.into_iter().map(|row| shown(row, whole)).collect();
    Ok(Page::cut(shown, limit, |message| place_of(message).to_string()))
}

/// Where a list goes on after a message.
pub(super) fn place_of(message: &Message) -> Place {
    let row = &message.row;
    Place { at: row.list_at, key: MessageKey { batch_id: BatchId(row.batch_id), seq: row.seq } }
}

/// What is asked, in the words of the store.
pub(super) async fn filter(
    connection: &mut Connection,
    tenant: TenantId,
    query: &MessageQuery,
) -> Result<MessageFilter, ChecklistError> {
    let named = Named {
        number: query.number.as_deref(),
        account: query.account.as_deref(),
        channel: query.channel,
        template: query.template.as_deref(),
        category: query.category,
        campaign: query.campaign.as_deref(),
        producer: query.producer.as_deref(),
        job_id: query.job_id.as_deref(),
    };
    // What one batch, one person or one mark has is looked through.
    let is_wide = query.batch.is_none() && query.recipient.is_none() && query.r#ref.is_none();
    let mut filter = MessageFilter {
        list: which_list(query, is_wide),
        of: of_batch(connection, tenant, &named, is_wide).await?,
        batch: query.batch.map(BatchId),
        recipient: recipient(connection, tenant, query.recipient.as_deref()).await?,
        reference: query.r#ref.clone(),
        state: query.state,
        code: query.code.clone(),
        span: span(query.since, query.until)?,
        after: key::<Place>(query.after.as_deref())?,
        limit: 0,
    };
    if filter.is_by_time() && filter.of.numbers.is_none() {
        filter.of.numbers = Some(checklist::all_number_ids(connection, tenant).await?);
    }
    if filter.after.is_some_and(|place| place.at.is_some() != filter.is_by_time()) {
        return Err(ChecklistError::NotACursor);
    }
    Ok(filter)
}

/// The state, or a code, says where to look, which is cheaper than to look everywhere.
fn which_list(query: &MessageQuery, is_wide: bool) -> List {
    match (query.list.unwrap_or(List::All), query.state) {
        (List::All, Some(state)) => List::of(state),
        (List::All, None) if query.code.is_some() && is_wide => List::Failed,
        (list, _) => list,
    }
}

/// `probed` looks whether the names leave few batches.
async fn of_batch(
    connection: &mut Connection,
    tenant: TenantId,
    named: &Named<'_>,
    probed: bool,
) -> Result<OfBatch, ChecklistError> {
    let mut numbers = number_ids(connection, tenant, named.number).await?;
    if named.account.is_some() || named.channel.is_some() {
        let channel = named.channel.map(Channel::as_str);
        let of = checklist::number_ids_of(connection, tenant, named.account, channel).await?;
        if let (true, Some(account)) = (of.is_empty(), named.account) {
            let reason =
                format!("no number of an account `{account}` is asked for: `accounts list` shows the accounts");
            return Err(refused("/account", "unknown_account", &reason));
        }
        numbers = Some(numbers.map_or_else(|| of.clone(), |n| n.into_iter().filter(|id| of.contains(id)).collect()));
    }
    let mut templates = None;
    if named.template.is_some() || named.category.is_some() {
        let category = named.category.map(Category::as_str);
        let found = checklist::template_ids(connection, tenant, named.template, category).await?;
        if let (true, Some(template)) = (found.is_empty(), named.template) {
            let reason = format!("there is no template `{template}` of that category: `templates list` shows them");
            return Err(refused("/template", "unknown_template", &reason));
        }
        templates = Some(found);
    }
    let (campaign, producer) = (named.campaign.map(str::to_owned), named.producer.map(str::to_owned));
    let mut of = OfBatch { numbers, templates, campaign, producer, batches: None };
    if let Some(job_id) = named.job_id {
        of.batches = Some(which::of_job(connection, tenant, job_id).await?);
    } else if probed && of.is_narrow() {
        of.batches = which::few(connection, tenant, &of).await?;
    }
    Ok(of)
}

pub(super) fn span(since: Option<DateTime<Utc>>, until: Option<DateTime<Utc>>) -> Result<Span, ChecklistError> {
    if since.zip(until).is_some_and(|(since, until)| since > until) {
        return Err(refused("/since", "since_after_until", "must not be later than until, which is not in the range"));
    }
    Ok(Span { since, until })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_or_a_state_says_which_list() {
        let query = |code: Option<&str>, state| MessageQuery {
            code: code.map(str::to_owned),
            state,
            ..MessageQuery::default()
        };
        assert_eq!(which_list(&query(None, None), true), List::All);
        assert_eq!(which_list(&query(Some("131026"), None), true), List::Failed);
        assert_eq!(which_list(&query(Some("131026"), None), false), List::All);
        assert_eq!(which_list(&query(Some("suppressed"), Some(MessageState::Suppressed)), true), List::All);
        assert_eq!(which_list(&query(None, Some(MessageState::Read)), true), List::Sent);
    }
}
