//! The order in which a number's messages go out.

use crate::domain::{Category, named};

named! {
    /// The template's category as an order of service, never the caller's wish.
    pub enum Lane {
        /// Uses the whole limit of the number, at once.
        Authentication = "authentication",
        /// Before marketing, spread evenly.
        Utility = "utility",
        /// Last, spread evenly.
        Marketing = "marketing",
    }
}

impl From<Category> for Lane {
    fn from(category: Category) -> Self {
        match category {
            Category::Authentication => Self::Authentication,
            Category::Utility => Self::Utility,
            Category::Marketing => Self::Marketing,
        }
    }
}

impl Lane {
    /// Whether the lane may use the reserve of the limit and need not be spread.
    pub const fn is_urgent(self) -> bool {
        matches!(self, Self::Authentication)
    }
}
