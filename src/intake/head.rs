//! Whose job a body is, as far as it can be read at all.

use std::borrow::Cow;

use serde::Deserialize;

use crate::intake::{fields::is_good_text, read::JOB_ID_CHARS};

/// Whose job it is, as far as the body can be read at all.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Head<'a> {
    /// `producer`.
    #[serde(borrow, default)]
    pub(super) producer: Option<Cow<'a, str>>,
    /// `job_id`.
    #[serde(borrow, default)]
    pub(super) job_id: Option<Cow<'a, str>>,
}

impl<'a> Head<'a> {
    /// Reads no more than it must; anything unreadable is absent.
    pub(super) fn read(body: &'a [u8]) -> Self {
        let head: Self = serde_json::from_slice(body).unwrap_or_default();
        Self {
            producer: head.producer.filter(|name| is_producer(name)),
            job_id: head.job_id.filter(|id| is_good_text(id, JOB_ID_CHARS)),
        }
    }
}

/// Whether it may be a producer's name: `[a-z0-9-]{1,64}`.
pub(super) fn is_producer(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}
