//! What the columns of a file mean, and whether a row of it can be used.

use std::{collections::BTreeMap, sync::Arc, sync::atomic::Ordering};

use tokio::sync::mpsc;

use crate::{
    domain::{
        Channel,
        address::Address,
        template::{Params, Template},
    },
    intake::{
        check::address_code,
        job::JobError,
        nearest,
        sheet::{Decoded, RowCounter, delimiter},
    },
    store::imports::{BadRow, GoodRow},
};

/// Rows per transaction.
const CHUNK: usize = 5000;
/// Longest `ref`, in characters.
const REF_CHARS: usize = 256;

/// Checked rows on their way to the database.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) good: Vec<GoodRow>,
    pub(super) bad: Vec<BadRow>,
    pub(super) rows: i64,
}

/// What a column holds.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Column {
    To,
    Ref,
    TimeZone,
    Slot(String),
    Ignored,
}

/// Reads and checks, on a thread that may block.
pub(super) struct Checker {
    pub(super) channel: Channel,
    pub(super) country: Option<phonenumber::country::Id>,
    pub(super) template: Arc<Template>,
    pub(super) ignore_unknown_columns: bool,
}

impl Checker {
    pub(super) fn read(
        &self,
        mut file: Decoded,
        chunks: &mpsc::Sender<Chunk>,
    ) -> Result<(), Vec<JobError>> {
        let broken = |error: &dyn std::fmt::Display| {
            vec![JobError::new("", "unreadable", error.to_string())]
        };
        let delimiter = delimiter(file.first_line().map_err(|error| broken(&error))?);
        let since_record = file.counter();
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(delimiter)
            .from_reader(file);
        let (mut counter, mut record) = (RowCounter::default(), csv::StringRecord::new());
        let mut columns: Option<Vec<(String, Column)>> = None;
        let mut chunk = Chunk::default();
        while reader
            .read_record(&mut record)
            .map_err(|error| broken(&error))?
        {
            since_record.store(0, Ordering::Relaxed);
            let row = counter.next(reader.position().line(), &record);
            let Some(columns) = &columns else {
                columns = Some(self.columns(&record)?);
                continue;
            };
            if record.iter().all(|cell| cell.trim().is_empty()) {
                continue;
            }
            chunk.rows += 1;
            match self.row(row, columns, &record) {
                Ok(good) => chunk.good.push(good),
                Err(bad) => chunk.bad.extend(bad),
            }
            if chunk.good.len() + chunk.bad.len() >= CHUNK
                && chunks.blocking_send(std::mem::take(&mut chunk)).is_err()
            {
                // The writer failed and says why.
                return Ok(());
            }
        }
        if columns.is_none() {
            return Err(vec![JobError::new(
                "",
                "missing_column",
                "the file has no header row",
            )]);
        }
        if chunk.rows > 0 {
            let _writer_failed = chunks.blocking_send(chunk);
        }
        Ok(())
    }

    fn columns(&self, header: &csv::StringRecord) -> Result<Vec<(String, Column)>, Vec<JobError>> {
        let mut errors = Vec::new();
        let mut columns: Vec<(String, Column)> = Vec::with_capacity(header.len());
        for name in header.iter().map(str::trim) {
            let column = match name {
                "to" => Column::To,
                "ref" => Column::Ref,
                "time_zone" => Column::TimeZone,
                "" => Column::Ignored,
                slot if self.template.slot(slot).is_some() => Column::Slot(slot.to_owned()),
                _ if self.ignore_unknown_columns => Column::Ignored,
                unknown => {
                    let known = ["to", "ref", "time_zone"].into_iter();
                    let given = Params::from([(unknown.to_owned(), String::new())]);
                    let mut near = nearest(unknown, known);
                    near.extend(
                        self.template
                            .check_names(&given)
                            .into_iter()
                            .flat_map(|p| p.did_you_mean),
                    );
                    let reason = format!(
                        "the column `{unknown}` is neither to, ref, time_zone nor a slot of the template"
                    );
                    errors.push(
                        JobError::new(format!("/{unknown}"), "unknown_column", reason).meant(near),
                    );
                    Column::Ignored
                }
            };
            if column != Column::Ignored && columns.iter().any(|(_, other)| *other == column) {
                errors.push(JobError::new(
                    format!("/{name}"),
                    "duplicate_column",
                    format!("the column `{name}` stands twice"),
                ));
            }
            columns.push((name.to_owned(), column));
        }
        if !columns.iter().any(|(_, column)| *column == Column::To) {
            errors.push(JobError::new(
                "/to",
                "missing_column",
                "the column `to` is missing",
            ));
        }
        if errors.is_empty() {
            Ok(columns)
        } else {
            Err(errors)
        }
    }

    fn row(
        &self,
        row: i64,
        columns: &[(String, Column)],
        record: &csv::StringRecord,
    ) -> Result<GoodRow, Vec<BadRow>> {
        let mut bad: BTreeMap<String, BadRow> = BTreeMap::new();
        let mut refuse = |field: &str, code: &str, reason: String| {
            let fault = BadRow {
                row,
                field: field.to_owned(),
                code: code.to_owned(),
                reason,
            };
            bad.entry(field.to_owned()).or_insert(fault);
        };
        let (mut to, mut reference, mut time_zone, mut params) = ("", None, None, Params::new());
        for ((name, column), cell) in columns.iter().zip(record.iter()) {
            if *column != Column::Ignored && cell.contains(['\u{fffd}', '\0']) {
                refuse(
                    name,
                    "unreadable_text",
                    "contains characters that are no text in the file's encoding".to_owned(),
                );
            }
            match column {
                Column::To => to = cell,
                Column::Ref => reference = Some(cell.trim()).filter(|text| !text.is_empty()),
                Column::TimeZone => time_zone = Some(cell.trim()).filter(|text| !text.is_empty()),
                Column::Slot(slot) if !cell.is_empty() => {
                    params.insert(slot.clone(), cell.to_owned());
                }
                Column::Slot(_) | Column::Ignored => {}
            }
            if let Column::Slot(slot) = column
                && cell.trim().is_empty()
                && self.template.slot(slot).is_some_and(|slot| slot.required)
            {
                refuse(name, "missing_slot", "is missing or empty".to_owned());
            }
        }
        if record.len() > columns.len() {
            refuse(
                "",
                "too_many_cells",
                format!(
                    "has {} cells, the header has {}",
                    record.len(),
                    columns.len()
                ),
            );
        }
        let address = match Address::parse_in(self.channel, to, self.country) {
            Ok(address) => Some(address),
            Err(error) => {
                refuse("to", address_code(self.channel), error.to_string());
                None
            }
        };
        if reference.is_some_and(|text| text.chars().count() > REF_CHARS) {
            refuse(
                "ref",
                "too_long",
                format!("has more than {REF_CHARS} characters"),
            );
        }
        if let Some(zone) = time_zone.filter(|zone| zone.parse::<chrono_tz::Tz>().is_err()) {
            refuse(
                "time_zone",
                "unknown_time_zone",
                format!("`{zone}` is not an IANA time zone"),
            );
        }
        // A slot without a column has its value in the job, which is checked when that comes.
        for problem in self.template.check_names(&params) {
            refuse(&problem.slot, problem.code, problem.reason);
        }
        match address {
            Some(address) if bad.is_empty() => Ok(GoodRow {
                row,
                recipient: address.as_str().to_owned(),
                reference: reference.map(str::to_owned),
                time_zone: time_zone.map(str::to_owned),
                params: serde_json::json!(params),
            }),
            _ => Err(bad.into_values().collect()),
        }
    }
}
