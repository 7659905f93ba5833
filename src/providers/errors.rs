//! What a provider's codes mean: a table that is data, so that a new code is a row and not a release.

use std::{collections::BTreeMap, time::Duration};

use crate::domain::{
    failure::{FailureClass, Refusal},
    hold::Resume,
};

/// The codes that are ours and the same for every provider (`timeout`, `http_5xx` …).
const COMMON: &str = include_str!("errors.toml");

/// A row of a provider's `errors.toml`.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorRow {
    /// The provider's code as text.
    pub code: String,
    /// What it means in an answer to a call.
    pub class: FailureClass,
    /// What it means in a callback, when that differs.
    pub callback_class: Option<FailureClass>,
    /// Seconds to wait, when the code has a clock of its own. With a fault: when its hold may end by itself.
    pub wait_s: Option<u64>,
    /// Who ends the hold of a fault without a clock; absent is a person. `probe` is for what heals by itself,
    /// `credentials` for what new credentials mend.
    #[serde(default = "a_person")]
    pub resume: Resume,
    /// What the provider calls it, in a few words.
    pub meaning: String,
    /// What a person can do.
    pub advice: Advice,
    /// Whether to send again.
    pub resend: Resend,
}

impl ErrorRow {
    /// The code's own clock.
    pub fn wait(&self) -> Option<Duration> {
        self.wait_s.map(Duration::from_secs)
    }

    /// What the code means in a callback.
    pub fn in_callback(&self) -> FailureClass {
        self.callback_class.unwrap_or(self.class)
    }
}

/// Advice in the languages the product speaks.
#[derive(Debug, Clone, serde::Deserialize, serde::Serialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Advice {
    /// English.
    pub en: String,
    /// Japanese.
    pub ja: String,
}

const fn a_person() -> Resume {
    Resume::Person
}

crate::domain::named! {
    /// Whether sending the same again makes sense.
    pub enum Resend {
        /// Once the cause is mended.
        Now = "now",
        /// After some time.
        Later = "later",
        /// Never.
        Never = "never",
    }
}

/// A provider's codes, looked up by code.
#[derive(Debug, Default)]
pub struct ErrorTable(BTreeMap<String, ErrorRow>);

/// Why a table was refused.
#[derive(Debug, thiserror::Error)]
pub enum ErrorTableProblem {
    /// Not the form of a table.
    #[error("could not read the table of codes")]
    Form(#[from] toml::de::Error),
    /// One code has two rows.
    #[error("the code {0} has two rows")]
    Twice(String),
}

impl ErrorTable {
    /// Reads a provider's rows and adds those that every provider shares.
    pub fn from_toml(text: &str) -> Result<Self, ErrorTableProblem> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            row: Vec<ErrorRow>,
        }
        let mut rows = BTreeMap::new();
        for text in [COMMON, text] {
            for row in toml::from_str::<File>(text)?.row {
                if let Some(twice) = rows.insert(row.code.clone(), row) {
                    return Err(ErrorTableProblem::Twice(twice.code));
                }
            }
        }
        Ok(Self(rows))
    }

    /// The row of a code; an HTTP status without one of its own (`http_502`) has that of its hundred (`http_5xx`).
    pub fn get(&self, code: &str) -> Option<&ErrorRow> {
        self.0.get(code).or_else(|| {
            let hundred = code.strip_prefix("http_")?.chars().next()?;
            self.0.get(&format!("http_{hundred}xx"))
        })
    }

    /// Who ends the hold that a code opens.
    pub fn resume(&self, code: &str) -> Resume {
        self.get(code).map_or(Resume::Person, |row| row.resume)
    }

    /// What to tell people about a code: its row, or that of `unknown_code`.
    pub fn explain(&self, code: &str) -> Option<&ErrorRow> {
        self.get(code).or_else(|| self.0.get("unknown_code"))
    }

    /// Every row, by code.
    pub fn rows(&self) -> impl Iterator<Item = &ErrorRow> {
        self.0.values()
    }

    /// A refusal as the table classes it; a code without a row fails the message and nothing else.
    pub(super) fn refusal(&self, code: String, reason: String) -> Refusal {
        let row = self.get(&code);
        let class = row.map_or(FailureClass::Message, |row| row.class);
        Refusal { code, class, reason, wait: row.and_then(ErrorRow::wait) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(code: &str) -> String {
        format!(
            "[[row]]\ncode = '{code}'\nclass = 'message'\nmeaning = 'x'\nadvice = {{ en = 'x', ja = 'x' }}\nresend = 'now'\n"
        )
    }

    #[test]
    fn the_shared_rows_read_and_advise_in_both_languages() {
        let table = ErrorTable::from_toml("row = []").unwrap();
        for row in table.rows() {
            let filled = [&row.meaning, &row.advice.en, &row.advice.ja].iter().all(|text| !text.trim().is_empty());
            assert!(filled, "{}", row.code);
        }
        assert_eq!(table.get("http_502").map(|row| row.class), Some(FailureClass::Uncertain));
        assert_eq!(table.get("http_429").map(|row| row.class), Some(FailureClass::ThrottledNumber));
        assert!(table.get("7").is_none());
        assert_eq!(table.explain("7").map(|row| row.code.as_str()), Some("unknown_code"));
        assert_eq!(table.refusal("7".to_owned(), String::new()).class, FailureClass::Message);
    }

    #[test]
    fn a_code_has_one_row() {
        assert!(ErrorTable::from_toml(&row("1")).is_ok());
        let twice = ErrorTable::from_toml(&(row("1") + &row("1")));
        assert!(matches!(twice, Err(ErrorTableProblem::Twice(code)) if code == "1"));
        assert!(matches!(ErrorTable::from_toml(&row("timeout")), Err(ErrorTableProblem::Twice(_))));
        assert!(matches!(ErrorTable::from_toml("[[row]]\ncode = 1"), Err(ErrorTableProblem::Form(_))));
    }
}
