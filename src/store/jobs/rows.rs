//! The rows that jobs become, all of them in one statement.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::JobKey;
use crate::{
    domain::{
        hold::OpenHold,
        ids::{AccountId, BatchId, NumberId, TemplateId},
        lane::Lane,
    },
    store::{Doing as _, StoreError, session::count_unanswered},
};

/// A batch to be written.
#[derive(Debug, Clone)]
pub struct NewBatch<'a> {
    /// Its id.
    pub batch: BatchId,
    /// The job it comes from.
    pub key: &'a JobKey,
    /// The name to find it by.
    pub campaign: Option<&'a str>,
    /// How it goes out.
    pub account: AccountId,
    /// From which number.
    pub number: NumberId,
    /// With which template.
    pub template: TemplateId,
    /// In which lane.
    pub lane: Lane,
    /// Values for all.
    pub params: Value,
    /// Wanted events, separated by commas.
    pub notify: String,
    /// The import its recipients come from; it is then still to be planned.
    pub import: Option<Uuid>,
    /// Messages written now.
    pub recipients: i32,
    /// Whether its messages are counted by state, and its end told.
    pub has_tally: bool,
    /// Recipients refused.
    pub rejected: i32,
    /// Not before; absent is at once.
    pub send_at: Option<DateTime<Utc>>,
    /// Not after; absent is `life_s` after the start.
    pub expires_at: Option<DateTime<Utc>>,
    /// Seconds.
    pub life_s: i64,
    /// The hours of the recipients in which it goes out, as [`crate::domain::schedule::Hours`].
    pub windows: Option<Value>,
    /// Whose turn its work takes.
    pub turn_group: Uuid,
    /// The hold its work is parked under.
    pub hold: Option<&'a OpenHold>,
}

/// A message to be written.
#[derive(Debug, Clone)]
pub struct NewMessage<'a> {
    /// Its batch.
    pub batch: BatchId,
    /// Its place, from 1.
    pub seq: i32,
    /// The address.
    pub recipient: &'a str,
    /// The producer's name for the recipient.
    pub reference: Option<&'a str>,
    /// IANA.
    pub time_zone: Option<&'a str>,
    /// Its own values.
    pub params: Option<Value>,
}

/// What makes jobs whole whose keys are not taken yet: for each batch, in order, and for all.
#[derive(Debug, Default)]
pub struct Plain {
    /// Digests of the canonical bodies.
    pub digests: Vec<[u8; 32]>,
    /// What is told of each: messages of the outbox, as an array. Where that is left to the caller, the commit does not wait
    /// for the disk. Until the next one has, a crash of the database may undo it: nobody outside may be told before.
    pub told: Option<Vec<Value>>,
    /// Scopes of holds. Where one is open, nothing is written.
    pub scopes: Vec<String>,
}

/// Writes batches with their work, their messages, and their tallies where they have one.
pub async fn insert(
    connection: &mut PgConnection,
    batches: &[NewBatch<'_>],
    messages: &[NewMessage<'_>],
) -> Result<(), StoreError> {
    write(connection, batches, messages, None).await.map(drop)
}

/// Writes jobs as a whole, with their keys and what is told of them; a statement that is a transaction of its own. The
/// batches that were written: not those whose key was taken before, and none when a hold of the scopes is open.
pub async fn insert_plain(
    connection: &mut PgConnection,
    batches: &[NewBatch<'_>],
    messages: &[NewMessage<'_>],
    plain: &Plain,
) -> Result<Vec<BatchId>, StoreError> {
    write(connection, batches, messages, Some(plain)).await
}

async fn write(
    connection: &mut PgConnection,
    batches: &[NewBatch<'_>],
    messages: &[NewMessage<'_>],
    plain: Option<&Plain>,
) -> Result<Vec<BatchId>, StoreError> {
    let digests: Vec<Option<&[u8]>> = match plain {
        Some(plain) => plain.digests.iter().map(|digest| Some(digest.as_slice())).collect(),
        None => vec![None; batches.len()],
    };
    let told: Vec<Option<&Value>> = match plain.and_then(|plain| plain.told.as_ref()) {
        Some(told) => told.iter().map(Some).collect(),
        None => vec![None; batches.len()],
    };
    let query = sqlx::query_file!(
        "src/store/jobs/rows.sql",
        &batches.iter().map(|b| b.batch.0).collect::<Vec<_>>(),
        &batches.iter().map(|b| b.key.tenant.0).collect::<Vec<_>>(),
        &batches.iter().map(|b| b.key.producer.as_str()).collect::<Vec<_>>() as &[&str],
        &batches.iter().map(|b| b.key.job_id.as_str()).collect::<Vec<_>>() as &[&str],
        &batches.iter().map(|b| b.campaign).collect::<Vec<_>>() as &[Option<&str>],
        &batches.iter().map(|b| b.account.0).collect::<Vec<_>>(),
        &batches.iter().map(|b| b.number.0).collect::<Vec<_>>(),
        &batches.iter().map(|b| b.template.0).collect::<Vec<_>>(),
        &batches.iter().map(|b| b.lane.as_str()).collect::<Vec<_>>() as &[&str],
        &batches.iter().map(|b| b.params.clone()).collect::<Vec<_>>(),
        &batches.iter().map(|b| b.notify.as_str()).collect::<Vec<_>>() as &[&str],
        &batches.iter().map(|b| b.recipients).collect::<Vec<_>>(),
        &batches.iter().map(|b| b.rejected).collect::<Vec<_>>(),
        &batches.iter().map(|b| b.import).collect::<Vec<_>>() as &[Option<Uuid>],
        &batches.iter().map(|b| b.send_at).collect::<Vec<_>>() as &[Option<DateTime<Utc>>],
        &batches.iter().map(|b| b.expires_at).collect::<Vec<_>>() as &[Option<DateTime<Utc>>],
        &batches.iter().map(|b| b.life_s).collect::<Vec<_>>(),
        &batches.iter().map(|b| b.windows.clone()).collect::<Vec<_>>() as &[Option<Value>],
        &batches.iter().map(|b| b.turn_group).collect::<Vec<_>>(),
        &batches.iter().map(|b| b.hold.map(|hold| hold.id.0)).collect::<Vec<_>>() as &[Option<i64>],
        &batches.iter().map(|b| b.hold.and_then(|hold| hold.until)).collect::<Vec<_>>() as &[Option<DateTime<Utc>>],
        &digests as &[Option<&[u8]>],
        &told as &[Option<&Value>],
        plain.map_or(&[][..], |plain| plain.scopes.as_slice()),
        &messages.iter().map(|m| m.batch.0).collect::<Vec<_>>(),
        &messages.iter().map(|m| m.seq).collect::<Vec<_>>(),
        &messages.iter().map(|m| m.recipient).collect::<Vec<_>>() as &[&str],
        &messages.iter().map(|m| m.reference).collect::<Vec<_>>() as &[Option<&str>],
        &messages.iter().map(|m| m.time_zone).collect::<Vec<_>>() as &[Option<&str>],
        &messages.iter().map(|m| m.params.clone()).collect::<Vec<_>>() as &[Option<Value>],
        plain.is_some_and(|plain| plain.told.is_none()),
        &batches.iter().map(|b| b.has_tally).collect::<Vec<_>>()
    );
    let written = query.fetch_all(connection).await;
    if plain.is_some() {
        count_unanswered(&written);
    }
    let written = written.doing("write the rows of jobs")?;
    Ok(written.into_iter().map(|row| BatchId(row.batch_id)).collect())
}
