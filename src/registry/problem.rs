//! What is wrong with what somebody sent, in the one shape every answer uses.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::domain::nearest::nearest;

/// One thing that is wrong: where, in one stable word, and for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
pub struct Problem {
    /// JSON pointer into what was sent; empty for the whole of it.
    pub pointer: String,
    /// A stable word for programs.
    pub code: String,
    /// A sentence for people.
    pub reason: String,
    /// The names that were probably meant, the nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub did_you_mean: Vec<String>,
}

impl Problem {
    /// A problem without suggestions.
    pub fn new(pointer: impl Into<String>, code: &str, reason: impl Into<String>) -> Self {
        let (pointer, code, reason) = (pointer.into(), code.to_owned(), reason.into());
        Self { pointer, code, reason, did_you_mean: Vec::new() }
    }

    /// The same, with those of `known` that resemble `given`.
    #[must_use]
    pub fn near<'a>(mut self, given: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        self.did_you_mean = nearest(given, known);
        self
    }
}
