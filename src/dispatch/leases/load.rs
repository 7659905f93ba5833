//! What numbers weigh when workers share them.

use uuid::Uuid;

use crate::{
    domain::ids::NumberId,
    store::{leases::UNLIMITED_WEIGHT, registry::Snapshot},
};

/// The weight of what is held and of everything, counted again only when something changed.
#[derive(Debug, Default)]
pub(super) struct Load {
    registry_version: i64,
    pub(super) is_stale: bool,
    pub(super) mine: i64,
    pub(super) total: i64,
}

impl Load {
    /// Counts again if it has to. `mine` are the numbers that are held and stay so.
    pub(super) fn count<'a>(&mut self, snapshot: &Snapshot, mine: impl Iterator<Item = &'a NumberId>) {
        if !self.is_stale && self.registry_version == snapshot.version {
            return;
        }
        *self = Self {
            registry_version: snapshot.version,
            is_stale: false,
            mine: mine.map(|number| weight(snapshot, *number)).sum(),
            total: snapshot.numbers.keys().map(|number| weight(snapshot, *number)).sum(),
        };
    }
}

/// What a number counts for: its limit.
pub(super) fn weight(snapshot: &Snapshot, number: NumberId) -> i64 {
    snapshot.numbers.get(&number).and_then(|n| n.limit_per_s).map_or(UNLIMITED_WEIGHT, i64::from)
}

/// A place of `number` in an order of the worker's own: two that look in the same moment shall not want the same.
pub(super) fn place(worker: Uuid, number: NumberId) -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    (worker, number).hash(&mut hasher);
    hasher.finish()
}
