//! What is wrong with what somebody sent, in the one shape every answer uses.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
        const ALIKE: f64 = 0.7;
        const SHOWN: usize = 3;
        let mut alike: Vec<(f64, &str)> = known
            .into_iter()
            .map(|name| (strsim::jaro_winkler(given, name), name))
            .filter(|(likeness, _)| *likeness >= ALIKE)
            .collect();
        alike.sort_by(|a, b| b.0.total_cmp(&a.0));
        self.did_you_mean = alike.into_iter().take(SHOWN).map(|(_, name)| name.to_owned()).collect();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_comes_first() {
        let problem = Problem::new("/account", "unknown_account", "is not known")
            .near("shop-jp", ["warehouse", "shop-us", "shop-jp1"]);
        assert_eq!(problem.did_you_mean, ["shop-jp1", "shop-us"]);
    }
}
