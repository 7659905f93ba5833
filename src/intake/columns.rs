//! What the columns of a file mean, and whether a row of it can be used.

use std::{collections::BTreeMap, sync::Arc, sync::atomic::Ordering};

use tokio::sync::mpsc;

use crate::{
    domain::{
        Channel,
        address::Address,
        nearest::nearest,
        template::{Params, Template},
    },
    intake::{
        check::address_code,
        fields::storable,
        job::JobError,
        sheet::{Decoded, RowCounter, delimiter},
        trail::Trail,
    },
    store::imports::{BadRow, GoodRow, Place},
};

/// Rows per transaction.
const CHUNK: usize = 5000;
/// Longest `ref`, in characters.
const REF_CHARS: usize = 256;

/// The code of a file of which only a part came.
pub(super) const CUT_OFF: &str = "cut_off";

/// Checked rows on their way to the database.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) good: Vec<GoodRow>,
    pub(super) bad: Vec<BadRow>,
    pub(super) rows: i64,
    /// Where the file stands after it.
    pub(super) place: Place,
}

/// What a column holds.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Column {
    To,
    Ref,
    TimeZone,
    /// By the slot's own name, whichever way the header writes it.
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
    /// Reads what comes after `from`.
    pub(super) fn read(
        &self,
        mut file: Decoded,
        from: Place,
        chunks: &mpsc::Sender<Chunk>,
    ) -> Result<(), Vec<JobError>> {
        let header = file.first_line().map_err(|error| vec![broken(&error)])?;
        if header.contains(|c: char| c == char::REPLACEMENT_CHARACTER || (c.is_control() && !matches!(c, '\t' | '\r')))
        {
            let reason = "the file is not text: save it as CSV, in UTF-8, UTF-16 or Shift_JIS (a workbook is not CSV)";
            return Err(vec![JobError::new("", "unreadable", reason)]);
        }
        let delimiter = delimiter(header);
        let since_record = file.counter();
        let mut reader =
            csv::ReaderBuilder::new().has_headers(false).flexible(true).delimiter(delimiter).from_reader(file);
        let (mut counter, mut record) = (RowCounter::default(), csv::StringRecord::new());
        let mut columns: Option<Vec<(String, Column)>> = None;
        let (mut chunk, mut trail) = (Chunk::default(), Trail::new(from));
        while reader.read_record(&mut record).map_err(|error| vec![unread(&error)])? {
            since_record.store(0, Ordering::Relaxed);
            let row = counter.next(reader.position().line(), &record);
            let is_known = trail.is_known(row, &record).map_err(|error| vec![error])?;
            let Some(columns) = &columns else {
                columns = Some(self.columns(&record)?);
                continue;
            };
            if is_known || record.iter().all(|cell| cell.trim().is_empty()) {
                continue;
            }
            chunk.rows += 1;
            match self.row(row, columns, &record) {
                Ok(good) => chunk.good.push(good),
                Err(bad) => chunk.bad.extend(bad),
            }
            if chunk.good.len() + chunk.bad.len() < CHUNK {
                continue;
            }
            chunk.place = trail.place();
            if chunks.blocking_send(std::mem::take(&mut chunk)).is_err() {
                // The writer failed and says why.
                return Ok(());
            }
        }
        trail.end().map_err(|error| vec![error])?;
        if columns.is_none() {
            return Err(vec![JobError::new("", "missing_column", "the file has no header row")]);
        }
        if chunk.rows > 0 {
            chunk.place = trail.place();
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
                other => match self.template.slot(other) {
                    Some(slot) => Column::Slot(slot.name.clone()),
                    None if self.ignore_unknown_columns => Column::Ignored,
                    None => {
                        let reason =
                            format!("the column `{other}` is neither to, ref, time_zone nor a slot of the template");
                        let near = nearest(other, self.column_names(other));
                        errors.push(JobError::new(format!("/{other}"), "unknown_column", reason).meant(near));
                        Column::Ignored
                    }
                },
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

    /// The names a column may have, slots of the body in the form that `like` has: `name` or `body.name`.
    fn column_names<'a>(&'a self, like: &str) -> impl Iterator<Item = &'a str> {
        let is_long = like.starts_with("body.");
        let slots = self.template.slots.iter().map(move |slot| {
            let short = slot.name.strip_prefix("body.").unwrap_or(&slot.name);
            let is_short = !is_long && self.template.slot(short) == Some(slot);
            if is_short { short } else { slot.name.as_str() }
        });
        ["to", "ref", "time_zone"].into_iter().chain(slots)
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
            let column = columns.iter().find(|(_, column)| matches!(column, Column::Slot(s) if *s == problem.slot));
            faults.add(column.map_or(&problem.slot, |(name, _)| name), problem.code, problem.reason);
        }
        match address {
            Ok(address) if faults.0.is_empty() => Ok(GoodRow {
                row,
                recipient: address.as_str().to_owned(),
                reference: cells.reference.map(str::to_owned),
                time_zone: cells.time_zone.map(str::to_owned),
                params: cells.params,
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

/// What is wrong with a file that cannot be read on.
fn broken(error: &std::io::Error) -> JobError {
    // What this side says of the content; everything else comes from whoever sends it.
    if error.kind() == std::io::ErrorKind::InvalidData {
        return JobError::new("", "unreadable", error.to_string());
    }
    JobError::new("", CUT_OFF, format!("only a part of the file came ({error}): import it again with the same `id`"))
}

fn unread(error: &csv::Error) -> JobError {
    match error.kind() {
        csv::ErrorKind::Io(error) => broken(error),
        _ => JobError::new("", "unreadable", error.to_string()),
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
        let bad = |(field, (code, reason)): (String, (String, String))| BadRow {
            row,
            field: storable(&field),
            code,
            reason: storable(&reason),
        };
        faults.map(bad).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Category, template::ParameterFormat};

    fn read(file: &[u8]) -> Result<Chunk, Vec<JobError>> {
        let body = serde_json::json!([{"type": "BODY", "text": "{{name}} at {{shop}}!"}]);
        let template = Template::parse("t", "ja", Category::Utility, ParameterFormat::Named, &body).unwrap();
        let channel = Channel::Whatsapp;
        let checker = Checker { channel, country: None, template: Arc::new(template), ignore_unknown_columns: false };
        let (sender, pieces) = mpsc::channel(1);
        sender.try_send(Ok(bytes::Bytes::copy_from_slice(file))).unwrap();
        drop(sender);
        let (chunks, mut made) = mpsc::channel(1);
        checker.read(Decoded::new(pieces), Place::default(), &chunks)?;
        Ok(made.try_recv().unwrap())
    }

    #[test]
    fn what_is_no_text_is_said_to_be_none() {
        for file in [b"\x7fELF\x02\x01\x01\0\0\0to\n".as_slice(), b"PK\x03\x04\x14\0\x06\0", b"to\0,name\n"] {
            let errors = read(file).unwrap_err();
            assert_eq!((errors.len(), errors[0].code.as_ref()), (1, "unreadable"));
            assert!(errors[0].reason.contains("not text"), "{}", errors[0].reason);
        }
    }

    #[test]
    fn a_column_is_called_as_the_header_calls_it() {
        for (header, name) in [("to,name", "name"), ("to,body.name", "body.name")] {
            for (cell, code) in [("", "missing_slot"), ("a\tb", "ill_formed")] {
                let chunk = read(format!("{header}\n+819012345678,{cell}\n").as_bytes()).unwrap();
                let bad = chunk.bad.iter().map(|bad| (bad.field.as_str(), bad.code.as_str()));
                assert_eq!(bad.collect::<Vec<_>>(), [(name, code)], "{header}");
            }
        }
    }

    #[test]
    fn a_wrong_column_suggests_what_the_header_may_say() {
        for (given, meant) in [("nam", "name"), ("body.nam", "body.name"), ("timezone", "time_zone")] {
            let errors = read(format!("to,{given}\n").as_bytes()).unwrap_err();
            assert_eq!(errors[0].did_you_mean.first().map(String::as_str), Some(meant), "{errors:?}");
        }
        let errors = read(b"to,name,body.name\n").unwrap_err();
        assert_eq!(errors[0].code, "duplicate_column");
    }
}
