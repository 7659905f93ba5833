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
    pub(super) fn read(&self, mut file: Decoded, chunks: &mpsc::Sender<Chunk>) -> Result<(), Vec<JobError>> {
        let broken = |error: &dyn std::fmt::Display| vec![JobError::new("", "unreadable", error.to_string())];
        let delimiter = delimiter(file.first_line().map_err(|error| broken(&error))?);
        let since_record = file.counter();
        let mut reader =
            csv::ReaderBuilder::new().has_headers(false).flexible(true).delimiter(delimiter).from_reader(file);
        let (mut counter, mut record) = (RowCounter::default(), csv::StringRecord::new());
        let mut columns: Option<Vec<(String, Column)>> = None;
        let mut chunk = Chunk::default();
        while reader.read_record(&mut record).map_err(|error| broken(&error))? {
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
            if chunk.good.len() + chunk.bad.len() >= CHUNK && chunks.blocking_send(std::mem::take(&mut chunk)).is_err()
            {
                // The writer failed and says why.
                return Ok(());
            }
        }
        if columns.is_none() {
            return Err(vec![JobError::new("", "missing_column", "the file has no header row")]);
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
                    near.extend(self.template.check_names(&given).into_iter().flat_map(|p| p.did_you_mean));
                    let reason =
                        format!("the column `{unknown}` is neither to, ref, time_zone nor a slot of the template");
                    errors.push(JobError::new(format!("/{unknown}"), "unknown_column", reason).meant(near));
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
            errors.push(JobError::new("/to", "missing_column", "the column `to` is missing"));
        }
        if errors.is_empty() { Ok(columns) } else { Err(errors) }
    }

    fn row(&self, row: i64, columns: &[(String, Column)], record: &csv::StringRecord) -> Result<GoodRow, Vec<BadRow>> {
        let mut faults = Faults::default();
        let cells = self.cells(columns, record, &mut faults);
        let address = Address::parse_in(self.channel, cells.to, self.country);
        if let Err(error) = &address {
            faults.add("to", address_code(self.channel), error.to_string());
        }
        if (cells.reference).is_some_and(|text| text.chars().count() > REF_CHARS) {
            let reason = format!("has more than {REF_CHARS} characters");
            faults.add("ref", "too_long", reason);
        }
        if let Some(zone) = cells.time_zone
            && zone.parse::<chrono_tz::Tz>().is_err()
        {
            let reason = format!("`{zone}` is not an IANA time zone");
            faults.add("time_zone", "unknown_time_zone", reason);
        }
        // A slot without a column has its value in the job, which is checked when that comes.
        for problem in self.template.check_names(&cells.params) {
            faults.add(&problem.slot, problem.code, problem.reason);
        }
        match address {
            Ok(address) if faults.0.is_empty() => Ok(GoodRow {
                row,
                recipient: address.as_str().to_owned(),
                reference: cells.reference.map(str::to_owned),
                time_zone: cells.time_zone.map(str::to_owned),
                params: serde_json::json!(cells.params),
            }),
            _ => Err(faults.of_row(row)),
        }
    }

    fn cells<'a>(&self, columns: &[(String, Column)], record: &'a csv::StringRecord, faults: &mut Faults) -> Cells<'a> {
        let mut cells = Cells::default();
        if record.len() > columns.len() {
            let reason = format!("has {} cells, the header has {}", record.len(), columns.len());
            faults.add("", "too_many_cells", reason);
        }
        for (index, (name, column)) in columns.iter().enumerate() {
            let cell = record.get(index).unwrap_or_default();
            if *column != Column::Ignored && cell.contains(['\u{fffd}', '\0']) {
                let reason = "contains characters that are no text in the file's encoding";
                faults.add(name, "unreadable_text", reason.to_owned());
            }
            let given = Some(cell.trim()).filter(|text| !text.is_empty());
            match column {
                Column::To => cells.to = cell,
                Column::Ref => cells.reference = given,
                Column::TimeZone => cells.time_zone = given,
                Column::Slot(slot) if given.is_some() => {
                    cells.params.insert(slot.clone(), cell.to_owned());
                }
                Column::Slot(slot) if self.template.slot(slot).is_some_and(|s| s.required) => {
                    faults.add(name, "missing_slot", "is missing or empty".to_owned());
                }
                Column::Slot(_) | Column::Ignored => {}
            }
        }
        cells
    }
}

/// The cells of a row by what they mean.
#[derive(Default)]
struct Cells<'a> {
    to: &'a str,
    reference: Option<&'a str>,
    time_zone: Option<&'a str>,
    params: Params,
}

/// What is wrong with a row: the first fault of each column.
#[derive(Default)]
struct Faults(BTreeMap<String, (String, String)>);

impl Faults {
    fn add(&mut self, field: &str, code: &str, reason: String) {
        self.0.entry(field.to_owned()).or_insert_with(|| (code.to_owned(), reason));
    }

    fn of_row(self, row: i64) -> Vec<BadRow> {
        let faults = self.0.into_iter();
        faults.map(|(field, (code, reason))| BadRow { row, field, code, reason }).collect()
    }
}
