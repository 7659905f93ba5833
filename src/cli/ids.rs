//! Ids as arguments: one that is none is answered with where to find it.

use uuid::Uuid;

use crate::domain::ids::MessageKey;

/// The argument is no id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not the id of {what}: `campaign-dispatch {list}` lists them")]
pub(super) struct NotAnId {
    what: &'static str,
    list: &'static str,
}

fn id<T: std::str::FromStr>(text: &str, what: &'static str, list: &'static str) -> Result<T, NotAnId> {
    text.trim().parse().map_err(|_| NotAnId { what, list })
}

pub(super) fn batch(text: &str) -> Result<Uuid, NotAnId> {
    id(text, "a batch", "batches list")
}

pub(super) fn import(text: &str) -> Result<Uuid, NotAnId> {
    id(text, "an import", "imports list")
}

pub(super) fn token(text: &str) -> Result<Uuid, NotAnId> {
    id(text, "a token", "tokens list")
}

/// `<batch id>.<seq>`.
pub(super) fn message(text: &str) -> Result<MessageKey, NotAnId> {
    id(text, "a message", "messages list")
}
