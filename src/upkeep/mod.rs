//! Periodic repairs, and what is owed to the outside after a commit.

pub mod outbox;
