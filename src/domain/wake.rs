//! Word that there is work.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::domain::ids::NumberId;

/// Numbers that have new work that is due.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wake {
    /// To be looked at.
    pub numbers: BTreeSet<NumberId>,
    /// With small authentication jobs, which are claimed without a look.
    #[serde(default)]
    pub urgent: BTreeSet<NumberId>,
    /// Given up by their holder: to be taken.
    #[serde(default)]
    pub free: BTreeSet<NumberId>,
}

impl Wake {
    /// Adds another word.
    pub fn merge(&mut self, other: &Self) {
        self.numbers.extend(&other.numbers);
        self.urgent.extend(&other.urgent);
        self.free.extend(&other.free);
    }
}

impl FromIterator<NumberId> for Wake {
    fn from_iter<I: IntoIterator<Item = NumberId>>(numbers: I) -> Self {
        Self { numbers: numbers.into_iter().collect(), ..Self::default() }
    }
}
