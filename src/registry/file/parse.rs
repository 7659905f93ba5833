//! The two notations of a registry file, and where in the text one of them is broken.

use super::RegistryFile;

pub(super) struct NotParsed {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) reason: String,
}

pub(super) fn json(text: &str) -> Result<RegistryFile, NotParsed> {
    serde_json::from_str(text).map_err(|error| NotParsed {
        line: error.line(),
        column: error.column(),
        reason: error.to_string(),
    })
}

pub(super) fn toml(text: &str) -> Result<RegistryFile, NotParsed> {
    ::toml::from_str(text).map_err(|error| {
        let before = text.get(..error.span().map_or(0, |span| span.start)).unwrap_or_default();
        NotParsed {
            line: before.matches('\n').count() + 1,
            column: before.chars().rev().take_while(|&character| character != '\n').count() + 1,
            reason: error.message().to_owned(),
        }
    })
}
