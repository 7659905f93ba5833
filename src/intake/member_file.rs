//! A CSV file of members: `to`, `ref`, `time_zone`, and a column for each value, by whatever name templates have it.

use std::sync::atomic::Ordering;

use tokio::sync::mpsc;

use crate::{
    domain::{cell, template::Params},
    intake::{
        fields::is_good_text,
        job::{JobError, Recipient},
        members::{CHUNK, Chunk, Members, Target, broken},
        sheet::{Decoded, RowCounter, delimiter},
    },
    store::audiences::NewMember,
};

/// Longest name of a column, in characters.
const NAME_CHARS: usize = 128;

/// What a column holds.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Column {
    To,
    Ref,
    TimeZone,
    Value(String),
    /// It has no name.
    Ignored,
}

/// Reads and checks, on a thread that may block.
pub(super) fn read(target: Target, mut file: Decoded, chunks: &mpsc::Sender<Chunk>) -> Result<(), Vec<JobError>> {
    let header = file.first_line().map_err(|error| broken(&error))?;
    if header.contains(|c: char| c == char::REPLACEMENT_CHARACTER || (c.is_control() && !matches!(c, '\t' | '\r'))) {
        let reason = "the file is not text: save it as CSV, in UTF-8, UTF-16 or Shift_JIS (a workbook is not CSV)";
        return Err(vec![JobError::new("", "unreadable", reason)]);
    }
    let delimiter = delimiter(header);
    let since_record = file.counter();
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).delimiter(delimiter).from_reader(file);
    let (mut counter, mut record) = (RowCounter::default(), csv::StringRecord::new());
    let mut columns: Option<Vec<Column>> = None;
    let (mut good, mut chunk) = (Vec::new(), Chunk::new(Members::Whole(Vec::new())));
    while reader.read_record(&mut record).map_err(|error| unread(&error))? {
        since_record.store(0, Ordering::Relaxed);
        let row = counter.next(reader.position().line(), &record);
        let Some(columns) = &columns else {
            columns = Some(header_of(&record)?);
            continue;
        };
        if record.iter().all(|cell| cell.trim().is_empty()) {
            continue;
        }
        chunk.rows += 1;
        match member(target, columns, &record) {
            Ok(member) => good.push(member),
            Err(faults) => chunk.refuse(row, faults),
        }
        if good.len() + chunk.bad.len() >= CHUNK {
            chunk.good = Members::Whole(std::mem::take(&mut good));
            let full = std::mem::replace(&mut chunk, Chunk::new(Members::Whole(Vec::new())));
            if chunks.blocking_send(full).is_err() {
                // The writer failed and says why.
                return Ok(());
            }
        }
    }
    if columns.is_none() {
        return Err(vec![JobError::new("", "missing_column", "the file has no header row")]);
    }
    chunk.good = Members::Whole(good);
    let _writer_failed = chunks.blocking_send(chunk);
    Ok(())
}

fn header_of(header: &csv::StringRecord) -> Result<Vec<Column>, Vec<JobError>> {
    let mut errors = Vec::new();
    let mut columns: Vec<Column> = Vec::with_capacity(header.len());
    for name in header.iter().map(str::trim) {
        let column = match name {
            "to" => Column::To,
            "ref" => Column::Ref,
            "time_zone" => Column::TimeZone,
            "" => Column::Ignored,
            other => Column::Value(cell::unguarded(other).to_owned()),
        };
        if !name.is_empty() && (!is_good_text(name, NAME_CHARS) || name.contains(char::is_control)) {
            let reason = format!("a column's name has 1 to {NAME_CHARS} characters on one line");
            errors.push(JobError::new("", "ill_formed", reason));
        }
        if column != Column::Ignored && columns.contains(&column) {
            let reason = format!("the column `{name}` stands twice");
            errors.push(JobError::new(format!("/{name}"), "duplicate_column", reason));
        }
        columns.push(column);
    }
    if !columns.contains(&Column::To) {
        errors.push(JobError::new("/to", "missing_column", "the column `to` is missing"));
    }
    if errors.is_empty() { Ok(columns) } else { Err(errors) }
}

fn member(
    target: Target,
    columns: &[Column],
    record: &csv::StringRecord,
) -> Result<NewMember, Vec<(String, String, String)>> {
    let fault = |field: &str, code: &str, reason: &str| vec![(field.to_owned(), code.to_owned(), reason.to_owned())];
    if record.len() > columns.len() {
        let reason = format!("has {} cells, the header has {}", record.len(), columns.len());
        return Err(fault("", "too_many_cells", &reason));
    }
    let mut given = Recipient { to: String::new(), params: Params::new(), reference: None, time_zone: None };
    for (column, cell) in columns.iter().zip(record) {
        if *column != Column::Ignored && cell.contains(['\u{fffd}', '\0']) {
            let reason = "contains characters that are no text in the file's encoding";
            return Err(fault(name(column), "unreadable_text", reason));
        }
        let cell = cell::unguarded(cell);
        let text = || Some(cell.trim()).filter(|text| !text.is_empty()).map(str::to_owned);
        match column {
            Column::To => cell.clone_into(&mut given.to),
            Column::Ref => given.reference = text(),
            Column::TimeZone => given.time_zone = text(),
            Column::Value(name) => {
                given.params.insert(name.clone(), cell.to_owned());
            }
            Column::Ignored => {}
        }
    }
    target.member(given)
}

fn unread(error: &csv::Error) -> Vec<JobError> {
    match error.kind() {
        csv::ErrorKind::Io(error) => broken(error),
        _ => vec![JobError::new("", "unreadable", error.to_string())],
    }
}

fn name(column: &Column) -> &str {
    match column {
        Column::To => "to",
        Column::Ref => "ref",
        Column::TimeZone => "time_zone",
        Column::Value(name) => name,
        Column::Ignored => "",
    }
}
