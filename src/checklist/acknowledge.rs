//! Failures that somebody has seen to: they leave the usual list.

use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::{
    ChecklistError,
    which::{WhichFailures, filter, refused},
};
use crate::{
    domain::{act::Act, ids::TenantId},
    store::{
        Store,
        acts::{self, NewAct},
        campaigns::Person,
        commit, resends,
    },
};

/// Failures that somebody has seen to.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AcknowledgeRequest {
    /// Those of this batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Uuid>,
    /// Those from this business number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<String>,
    /// Those with this code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Those of this campaign.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub campaign: Option<String>,
    /// These: `<batch id>.<seq>`, at most 5 000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<String>>,
    /// What was done about them, for whoever asks later.
    #[serde(default)]
    pub note: String,
    /// Only counts.
    #[serde(default)]
    pub dry_run: bool,
}

impl AcknowledgeRequest {
    fn which(&self) -> WhichFailures {
        WhichFailures {
            batch: self.batch,
            number: self.number.clone(),
            code: self.code.clone(),
            campaign: self.campaign.clone(),
            messages: self.messages.clone(),
        }
    }
}

/// What was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Acknowledged {
    /// Failures that were meant and not acknowledged before.
    pub found: i64,
    /// Those that are now; none when it was only counted.
    pub acknowledged: i64,
}

/// Says of a tenant's failures that they are seen to, in the name of `by`: they leave the usual list.
pub async fn acknowledge(
    store: &Store,
    tenant: TenantId,
    by: &Person,
    request: &AcknowledgeRequest,
) -> Result<Acknowledged, ChecklistError> {
    let note = request.note.trim();
    if note.is_empty() && !request.dry_run {
        return Err(refused("/note", "empty", "say what was done, for whoever asks later"));
    }
    let mut tx = store.begin().await?;
    let which = request.which();
    let filter = filter(&mut tx, tenant, &which).await?;
    if request.dry_run {
        return Ok(Acknowledged { found: resends::count_open(&mut tx, &filter).await?, acknowledged: 0 });
    }
    resends::take_turn(&mut tx, tenant).await?;
    let act = NewAct { filter: json!(which), ..NewAct::on(tenant, by, Act::Acknowledge, "failures".to_owned(), note) };
    let id = acts::record(&mut tx, &act).await?;
    let done = resends::acknowledge(&mut tx, &filter, id).await?;
    let done = i64::try_from(done).unwrap_or(i64::MAX);
    if done > 0 {
        acts::counted(&mut tx, id, done).await?;
        commit(tx, "commit what was acknowledged").await?;
    }
    Ok(Acknowledged { found: done, acknowledged: done })
}
