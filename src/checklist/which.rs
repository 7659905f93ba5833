//! Which failures an act is about, as people write it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{ChecklistError, asked_numbers};
use crate::{
    domain::ids::{BatchId, MessageKey, TenantId},
    store::{Connection, resends::FailedFilter},
};

/// Messages that one request names.
const NAMED_MAX: usize = 5000;

/// Which failures. At least one of the fields says so; together they narrow each other.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct WhichFailures {
    /// Those of this batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<Uuid>,
    /// Those from this business number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<String>,
    /// Those with this code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Those of this campaign.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub campaign: Option<String>,
    /// These: `<batch id>.<seq>`, at most 5 000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<String>>,
}

pub(super) fn refused(pointer: &'static str, code: &'static str, reason: &str) -> ChecklistError {
    ChecklistError::Refused { pointer, code, reason: reason.to_owned() }
}

/// The filter, of the tenant's numbers only.
pub(super) async fn filter(
    connection: &mut Connection,
    tenant: TenantId,
    which: &WhichFailures,
) -> Result<FailedFilter, ChecklistError> {
    let WhichFailures { batch, number, code, campaign, messages } = which;
    if batch.is_none() && number.is_none() && code.is_none() && campaign.is_none() && messages.is_none() {
        return Err(refused("", "no_filter", "say which: batch, number, code, campaign or messages"));
    }
    if messages.as_ref().is_some_and(|named| named.len() > NAMED_MAX) {
        return Err(refused("/messages", "too_many", "name at most 5000 messages in one request"));
    }
    let keys =
        messages.as_deref().map(|named| named.iter().map(|id| id.parse()).collect::<Result<Vec<MessageKey>, _>>());
    let keys = keys
        .transpose()
        .map_err(|_| refused("/messages", "invalid_message_id", "a message id is `<batch id>.<seq>`"))?;
    let numbers = asked_numbers(connection, tenant, number.as_deref()).await?;
    Ok(FailedFilter { numbers, batch: batch.map(BatchId), code: code.clone(), campaign: campaign.clone(), keys })
}
