//! What failed, by code, with what a person can do about it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    checklist::{ChecklistError, number_ids},
    domain::ids::{BatchId, TenantId},
    providers::{self, Advice, Resend},
    store::{Connection, Store, checklist, checklist::messages::MessageRow},
};

/// All failures of one code.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AdvisedFailure {
    /// Who said it.
    pub provider: String,
    /// Its code.
    pub code: String,
    /// What it means to us.
    pub class: String,
    /// What the provider calls it. Absent for a code this version does not know.
    pub meaning: Option<String>,
    /// How many messages.
    pub messages: i64,
    /// The first failure.
    pub first_at: DateTime<Utc>,
    /// The latest failure.
    pub last_at: DateTime<Utc>,
    /// The provider's words for one of them.
    pub sample: String,
    /// What to do.
    pub advice: Advice,
    /// Whether sending the same again makes sense: now, later, never.
    pub resend: Resend,
}

/// A tenant's failures by code, perhaps of one number or batch only, the most frequent first.
pub async fn failures(
    store: &Store,
    providers: &providers::Registry,
    tenant: TenantId,
    number: Option<&str>,
    batch: Option<BatchId>,
) -> Result<Vec<AdvisedFailure>, ChecklistError> {
    let mut connection = store.acquire().await?;
    let numbers = match number_ids(&mut connection, tenant, number).await? {
        Some(ids) => ids,
        None => checklist::all_number_ids(&mut connection, tenant).await?,
    };
    let rows = checklist::failures::by_code(&mut connection, &numbers, batch).await?;
    let advised = rows.into_iter().map(|row| {
        let known = providers.get(&row.provider).and_then(|p| p.errors().get(&row.code));
        AdvisedFailure {
            meaning: known.map(|known| known.meaning.clone()),
            advice: known.map_or_else(unknown_advice, |known| known.advice.clone()),
            resend: known.map_or(Resend::Later, |known| known.resend),
            provider: row.provider,
            code: row.code,
            class: row.class,
            messages: row.messages,
            first_at: row.first_at,
            last_at: row.last_at,
            sample: row.sample,
        }
    });
    Ok(advised.collect())
}

/// What to do about a message that is not sent.
pub(super) async fn advice(
    connection: &mut Connection,
    providers: &providers::Registry,
    tenant: TenantId,
    message: &MessageRow,
) -> Result<Option<Advice>, ChecklistError> {
    let is_over = matches!(message.state.as_str(), "failed" | "expired" | "suppressed");
    let Some(code) = message.code.as_deref().filter(|_| is_over) else {
        return Ok(None);
    };
    let provider = checklist::failures::provider_of(connection, tenant, &message.account).await?;
    let known = provider.as_deref().and_then(|name| providers.get(name)).and_then(|p| p.errors().get(code));
    Ok(Some(known.map_or_else(unknown_advice, |known| known.advice.clone())))
}

fn unknown_advice() -> Advice {
    Advice {
        en: "This code is not in our table. Read the provider's words, and ask the provider before sending again."
            .to_owned(),
        ja: "このコードは一覧にありません。プロバイダの説明を読み、再送する前にプロバイダへ確認してください。"
            .to_owned(),
    }
}
