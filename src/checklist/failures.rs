//! What failed, by code, with what a person can do about it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    checklist::{ChecklistError, asked_numbers},
    domain::{
        failure::FailureClass,
        ids::{BatchId, TenantId},
        named,
    },
    providers::{self, Advice, ErrorRow, Resend},
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
    /// The latest of them: `<batch id>.<seq>`.
    #[serde(default)]
    pub sample_message: String,
    /// What the class stops or concerns: recipient, message, batch, template, number, account, portfolio or provider.
    #[serde(default)]
    pub scope: String,
    /// How many of them somebody has acknowledged; these are counted only with `all`.
    #[serde(default)]
    pub acknowledged: i64,
    /// What to do.
    pub advice: Advice,
    /// The advice in the language that was asked for.
    #[serde(default)]
    pub advised: String,
    /// Whether sending the same again makes sense: now, later, never.
    pub resend: Resend,
    /// How many seconds after a failure at the earliest, where the code says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resend_after_s: Option<u64>,
}

named! {
    /// A language that advice is given in.
    pub enum Language {
        /// English.
        English = "en",
        /// Japanese.
        Japanese = "ja",
    }
}

impl Language {
    /// The first of an `Accept-Language` header that there is; English when there is none.
    pub fn accepted(header: &str) -> Self {
        let mut wanted: Vec<(&str, f32)> = header
            .split(',')
            .filter_map(|part| {
                let (tag, parameters) = part.trim().split_once(';').unwrap_or((part.trim(), ""));
                let quality = parameters.trim().strip_prefix("q=").map_or(Some(1.0), |q| q.trim().parse().ok())?;
                Some((tag.split('-').next().unwrap_or(tag), quality))
            })
            .filter(|(_, quality)| *quality > 0.0)
            .collect();
        // Stable: of equal ones the first.
        wanted.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        wanted.iter().find_map(|(tag, _)| tag.to_ascii_lowercase().parse().ok()).unwrap_or(Self::English)
    }

    fn of(self, advice: &Advice) -> &str {
        match self {
            Self::English => &advice.en,
            Self::Japanese => &advice.ja,
        }
    }
}

/// Which failures, and how they are told.
#[derive(Debug, Clone, Copy)]
pub struct Failures<'a> {
    /// Only of this number.
    pub number: Option<&'a str>,
    /// Only of this batch.
    pub batch: Option<BatchId>,
    /// Also what somebody has acknowledged.
    pub all: bool,
    /// The language of the advice.
    pub language: Language,
}

/// A tenant's failures by code, the most frequent first.
pub async fn failures(
    store: &Store,
    providers: &providers::Registry,
    tenant: TenantId,
    asked: Failures<'_>,
) -> Result<Vec<AdvisedFailure>, ChecklistError> {
    let mut connection = store.acquire().await?;
    let numbers = asked_numbers(&mut connection, tenant, asked.number).await?;
    let rows = checklist::failures::by_code(&mut connection, &numbers, asked.batch, asked.all).await?;
    let advised = rows.into_iter().map(|row| {
        let known = providers.get(&row.provider).and_then(|p| p.errors().get(&row.code));
        let advice = known.map_or_else(unknown_advice, |known| known.advice.clone());
        let wait = known.filter(|known| known.resend == Resend::Later).and_then(ErrorRow::wait);
        AdvisedFailure {
            meaning: known.map(|known| known.meaning.clone()),
            advised: asked.language.of(&advice).to_owned(),
            advice,
            resend: known.map_or(Resend::Later, |known| known.resend),
            resend_after_s: wait.map(|wait| wait.as_secs()),
            scope: row.class.parse().map_or("message", FailureClass::concerns).to_owned(),
            provider: row.provider,
            code: row.code,
            class: row.class,
            messages: row.messages,
            first_at: row.first_at,
            last_at: row.last_at,
            sample: row.sample,
            sample_message: row.sample_message,
            acknowledged: row.acknowledged,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_language_that_there_is_is_taken() {
        let cases = [
            ("", Language::English),
            ("ja", Language::Japanese),
            ("ja-JP,en;q=0.5", Language::Japanese),
            ("fr, ja;q=0.4, en;q=0.8", Language::English),
            ("en;q=0, JA", Language::Japanese),
            ("fr", Language::English),
            ("*;q=x", Language::English),
        ];
        for (header, language) in cases {
            assert_eq!(Language::accepted(header), language, "{header}");
        }
    }
}
