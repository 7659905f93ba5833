//! Who must not be messaged, as people and their systems say it: addresses checked one by one, the good ones recorded, the
//! others told with their reasons.
//!
//! What is recorded is recorded again without harm: a file whose sending broke off is sent once more from its beginning.

use std::io;

use bytes::Bytes;
use futures_util::Stream;
use phonenumber::country;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use utoipa::ToSchema;

use crate::{
    domain::{
        Channel,
        address::{Address, AddressError},
        cell,
        suppression::SuppressionSource,
    },
    intake::{
        check::address_code,
        fields::storable,
        import::{RowRejection, feed},
        job::JobError,
        lines::{Kind, Line, Lines, each_line},
        sheet::Decoded,
    },
    store::{
        Store, StoreError,
        session::commit,
        suppressions::{self, Cover, Stop},
    },
};

/// Addresses of one request in JSON.
pub const ADDRESSES_MAX: usize = 1000;
/// Addresses per transaction.
const CHUNK: usize = 5000;
/// Faults that the report of a file shows; of a request in JSON all are told.
const FAULTS_SHOWN: usize = 100;

/// What is recorded of each address.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Of whom.
    pub cover: Cover,
    /// What the addresses are.
    pub channel: Channel,
    /// Whose national numbers are understood.
    pub country: Option<country::Id>,
    /// Who says so, and why.
    pub detail: String,
}

/// What became of addresses that were given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SuppressionReport {
    /// Addresses read.
    pub rows: i64,
    /// Suppressed now: `good` = `added` + `unchanged`.
    pub good: i64,
    /// Refused.
    pub bad: i64,
    /// Were not suppressed before.
    pub added: i64,
    /// Were suppressed already, or stood twice.
    pub unchanged: i64,
    /// Good ones that a spreadsheet had taken for a number; recovered where no digit is lost.
    pub changed: i64,
    /// Why, of the first of the refused; of a request in JSON all of them.
    pub rejections: Vec<RowRejection>,
}

/// Why nothing was recorded, or not all.
#[derive(Debug, thiserror::Error)]
pub enum SuppressionError {
    /// The request or the file as a whole is not what it should be.
    #[error("the suppressions are refused: {}", .0.iter().map(|e| e.reason.as_str()).collect::<Vec<_>>().join("; "))]
    Refused(Vec<JobError>),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Checked addresses on their way to the database.
#[derive(Debug, Default)]
struct Chunk {
    good: Vec<String>,
    bad: Vec<RowRejection>,
    changed: i64,
}

impl Chunk {
    fn take(&mut self, terms: &Terms, row: i64, read: Result<(Address, bool), AddressError>) {
        match read {
            Ok((address, is_changed)) => {
                self.changed += i64::from(is_changed);
                self.good.push(address.as_str().to_owned());
            }
            Err(error) => self.refuse(row, address_code(terms.channel), &error.to_string()),
        }
    }

    fn refuse(&mut self, row: i64, code: &str, reason: &str) {
        self.bad.push(RowRejection { row, field: "to".to_owned(), code: code.to_owned(), reason: storable(reason) });
    }

    const fn rows(&self) -> usize {
        self.good.len() + self.bad.len()
    }
}

/// Suppresses addresses that were given in JSON.
///
/// # Errors
/// When there are too many, or none.
pub async fn add(store: &Store, terms: &Terms, addresses: &[String]) -> Result<SuppressionReport, SuppressionError> {
    if addresses.is_empty() || addresses.len() > ADDRESSES_MAX {
        let reason = format!("has {} addresses, a request takes 1 to {ADDRESSES_MAX}: send a file", addresses.len());
        return Err(SuppressionError::Refused(vec![JobError::new("/to", "too_many_addresses", reason)]));
    }
    let mut chunk = Chunk::default();
    for (row, text) in (1..).zip(addresses) {
        let read = Address::parse_in(terms.channel, text, terms.country);
        chunk.take(terms, row, read.map(|address| (address, false)));
    }
    let mut report = SuppressionReport::default();
    write(store, terms, SuppressionSource::Api, chunk, &mut report, usize::MAX).await?;
    Ok(report)
}

/// Suppresses the addresses of a workbook or a CSV file; its column is `to`, what else stands in it is passed over.
///
/// # Errors
/// When it is no such file, or only a part of it came; what stood before is recorded.
pub async fn import(
    store: &Store,
    terms: &Terms,
    file: impl Stream<Item = io::Result<Bytes>> + Send,
) -> Result<SuppressionReport, SuppressionError> {
    let (pieces, incoming) = mpsc::channel(8);
    let (chunks, mut made) = mpsc::channel(2);
    let reader = terms.clone();
    let reading = tokio::task::spawn_blocking(move || {
        each_line(Decoded::new(incoming), |lines| read_lines(&reader, lines, &chunks))
    });
    let writing = async {
        let mut report = SuppressionReport::default();
        while let Some(chunk) = made.recv().await {
            if let Err(error) = write(store, terms, SuppressionSource::File, chunk, &mut report, FAULTS_SHOWN).await {
                // A reader whose chunks nobody takes ends, and with it the feeding.
                made.close();
                return Err(error);
            }
        }
        Ok(report)
    };
    let ((), written) = tokio::join!(feed(file, pieces), writing);
    let read = reading.await.unwrap_or_else(|_| Err(vec![JobError::new("", "unreadable", "could not be read")]));
    let report = written?;
    match read {
        Ok(()) => Ok(report),
        Err(errors) => Err(SuppressionError::Refused(errors.into_iter().map(|e| so_far(e, report.good)).collect())),
    }
}

/// Says what is recorded although the file was refused.
fn so_far(error: JobError, good: i64) -> JobError {
    if good == 0 {
        return error;
    }
    let told = format!("; {good} addresses before that are suppressed: the whole file may be sent again");
    JobError { reason: error.reason + &told, ..error }
}

fn read_lines(terms: &Terms, lines: &mut dyn Lines, chunks: &mpsc::Sender<Chunk>) -> Result<(), Vec<JobError>> {
    let (mut line, mut column, mut chunk) = (Line::default(), None, Chunk::default());
    while lines.next(&mut line).map_err(|error| vec![error])? {
        let Some(column) = column else {
            column = Some(column_of(&line.cells)?);
            continue;
        };
        if line.cells.iter().all(|cell| cell.trim().is_empty()) {
            continue;
        }
        if let Some((code, reason)) = line.fault(column) {
            chunk.refuse(line.row, code, reason);
        } else {
            let cell = cell::unguarded(line.cells.get(column).unwrap_or_default());
            let is_number = line.kind(column) == Kind::Number;
            chunk.take(terms, line.row, Address::parse_cell(terms.channel, cell, is_number, terms.country));
        }
        if chunk.rows() >= CHUNK && chunks.blocking_send(std::mem::take(&mut chunk)).is_err() {
            // The writer failed and says why.
            return Ok(());
        }
    }
    if column.is_none() {
        return Err(vec![JobError::new("", "missing_column", "the file has no header row")]);
    }
    let _writer_failed = chunks.blocking_send(chunk);
    Ok(())
}

/// Where the addresses stand.
fn column_of(header: &csv::StringRecord) -> Result<usize, Vec<JobError>> {
    let mut found = header.iter().enumerate().filter(|(_, name)| name.trim() == "to").map(|(index, _)| index);
    match (found.next(), found.next()) {
        (Some(index), None) => Ok(index),
        (Some(_), Some(_)) => Err(vec![JobError::new("/to", "duplicate_column", "the column `to` stands twice")]),
        (None, _) => Err(vec![JobError::new("/to", "missing_column", "the column `to` is missing")]),
    }
}

async fn write(
    store: &Store,
    terms: &Terms,
    source: SuppressionSource,
    chunk: Chunk,
    report: &mut SuppressionReport,
    shown: usize,
) -> Result<(), SuppressionError> {
    let length = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let (good, bad) = (length(chunk.good.len()), length(chunk.bad.len()));
    let stop = |recipient| Stop { cover: terms.cover, recipient, source, detail: terms.detail.clone(), at: None };
    let stops: Vec<Stop> = chunk.good.into_iter().map(stop).collect();
    let mut work = store.begin().await?;
    let added = suppressions::stop(&mut work, &stops).await?;
    commit(work, "commit suppressions").await?;
    report.rows += good + bad;
    report.good += good;
    report.bad += bad;
    report.added += added;
    report.unchanged += good - added;
    report.changed += chunk.changed;
    let room = shown.saturating_sub(report.rejections.len());
    report.rejections.extend(chunk.bad.into_iter().take(room));
    Ok(())
}
