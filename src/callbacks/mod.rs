//! What providers tell us later: authenticate, publish to `dispatch.callbacks`, reply; then apply in bulk.
//!
//! The reply says only that the broker has it. A provider repeats what it was not thanked for, so a broker that is down
//! costs a repeat and nothing more.

mod apply;
mod hear;
mod receive;

pub use apply::Applier;
pub use receive::{Receiver, routes};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::domain::ids::AccountId;

/// Several authenticated requests as one broker message. Version 1.
#[derive(Debug, Serialize, Deserialize)]
struct Group<'a> {
    v: u8,
    #[serde(borrow)]
    items: Vec<Item<'a>>,
}

/// One request: whose hook it came to, and its body as it was.
#[derive(Debug, Serialize, Deserialize)]
struct Item<'a> {
    account: AccountId,
    #[serde(borrow)]
    body: &'a RawValue,
}
