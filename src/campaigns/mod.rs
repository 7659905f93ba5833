//! Campaigns: standing definitions that fire by the clock or when somebody says so.
//!
//! A firing is a row and an owed job, written in one transaction with the campaign's next time ([`tick`]); the job takes
//! the same road as every other, through the outbox and `dispatch.jobs`, or `dispatch.jobs.urgent` when its template is of
//! authentication. Races, and why each is fine:
//!
//! - several processes tick at once: the campaign's row is locked, and whoever finds it locked passes it over;
//! - the process dies after the commit: the job is owed and the next time is written, so nobody fires it again;
//! - the job is published twice: it has one job id, and intake answers the second as the first;
//! - its template changes the category while the job is on its way: intake knows a firing's job and takes it on either road;
//! - a campaign is paused while its job is on its way: intake finds it paused and opens the hold with the batch.

mod change;
mod document;
mod fire;
mod read;
mod tick;

pub use self::{
    change::{Change, Changed, Differences, Means, RunRequest, apply, archive, cancel, pause, resume, run},
    document::{Audience, CAMPAIGN, CampaignDocument, CampaignTemplate, Schedule, WindowZone},
    read::{Definition, Flaw, read},
    tick::{Ticked, Ticker},
};
use crate::store::StoreError;

/// Why a campaign was not changed.
#[derive(Debug, thiserror::Error)]
pub enum CampaignError {
    /// What is wrong with what was asked.
    #[error("refused")]
    Refused(Vec<Flaw>),
    /// There is no such campaign.
    #[error("there is no such campaign")]
    Unknown,
    /// It cannot be done as things stand.
    #[error("{reason}")]
    Conflict {
        /// Why, in one word.
        code: &'static str,
        /// Why.
        reason: String,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
