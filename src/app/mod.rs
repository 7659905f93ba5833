//! Composition: which parts a process runs, started and stopped together.

use std::collections::BTreeSet;

use crate::{domain::named, settings::Settings};

named! {
    /// A part of the work that a process may take.
    pub enum Role {
        /// Takes jobs from the broker and plans audiences.
        Intake = "intake",
        /// Leases numbers and sends.
        Dispatch = "dispatch",
        /// Takes callbacks and applies them.
        Callbacks = "callbacks",
        /// Answers the API.
        Http = "http",
        /// Repairs, partitions, outbox.
        Upkeep = "upkeep",
    }
}

/// Runs these roles until SIGTERM.
#[expect(clippy::unused_async, reason = "the composition awaits")]
pub async fn serve(_settings: Settings, _roles: BTreeSet<Role>) -> anyhow::Result<()> {
    anyhow::bail!("serve is not composed yet")
}
