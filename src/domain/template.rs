//! Templates: what a send must fill, checked before anything is accepted.

use std::collections::BTreeMap;

/// Values by slot name, as a job, a row of a file or a default carries them.
pub type Params = BTreeMap<String, String>;

/// A registered template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// The provider's name for it.
    pub name: String,
    /// Its language as the provider writes it, for example `ja` or `en_US`.
    pub language: String,
}

/// A template's slots with the values of one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filled(pub Vec<String>);
