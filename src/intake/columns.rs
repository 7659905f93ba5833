//! What the columns of a file mean, and whether a row of it can be used.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    domain::{
        Channel,
        address::{Address, AddressError},
        nearest::nearest,
        template::{Params, Template},
        zones,
    },
    intake::{
        check::address_code,
        fields::storable,
        job::JobError,
        lines::{Format, Kind, Line, Lines, each_line},
        sheet::Decoded,
        trail::Trail,
    },
    store::imports::{BadRow, ChangedCell, GoodRow, Place},
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
    pub(super) changed: Vec<ChangedCell>,
    /// Every row as it stands in the file, in order.
    pub(super) lines: Vec<(i64, csv::StringRecord)>,
    /// With the first chunk: what the file is written in, and its header.
    pub(super) head: Option<(Format, csv::StringRecord)>,
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
    /// Reads what comes after `from`, until nobody takes it.
    pub(super) fn read(
        &self,
        file: Decoded,
        from: Place,
        give: &mut dyn FnMut(Chunk) -> bool,
    ) -> Result<(), Vec<JobError>> {
        each_line(file, |lines| self.read_lines(lines, from, give))
    }

    fn read_lines(
        &self,
        lines: &mut dyn Lines,
        from: Place,
        give: &mut dyn FnMut(Chunk) -> bool,
    ) -> Result<(), Vec<JobError>> {
        let mut line = Line::default();
        let mut columns: Option<Vec<(String, Column)>> = None;
        let (mut chunk, mut trail) = (Chunk::default(), Trail::new(from));
        while lines.next(&mut line).map_err(|error| vec![error])? {
            let is_known = trail.is_known(line.row, &line.cells).map_err(|error| vec![error])?;
            let Some(columns) = &columns else {
                columns = Some(self.columns(&line.cells)?);
                chunk.head = Some((lines.format(), line.cells.clone()));
                continue;
            };
            if is_known || line.cells.iter().all(|cell| cell.trim().is_empty()) {
                continue;
            }
            match self.row(&line, columns, &mut chunk.changed) {
                Ok(good) => chunk.good.push(good),
                Err(bad) => chunk.bad.extend(bad),
            }
            chunk.lines.push((line.row, line.cells.clone()));
            if chunk.lines.len() < CHUNK {
                continue;
            }
            chunk.place = trail.place();
            if !give(std::mem::take(&mut chunk)) {
                // The writer failed and says why.
                return Ok(());
            }
        }
        trail.end().map_err(|error| vec![error])?;
        if columns.is_none() {
            return Err(vec![JobError::new("", "missing_column", "the file has no header row")]);
        }
        if !chunk.lines.is_empty() {
            chunk.place = trail.place();
            give(chunk);
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
        let slots = self.template.slots.iter();
        let slots = slots.map(move |slot| if is_long { slot.name.as_str() } else { self.template.short_name(slot) });
        ["to", "ref", "time_zone"].into_iter().chain(slots)
    }

    /// Checks a row; cells that had to be changed to be used are put to `changed`.
    fn row(
        &self,
        line: &Line,
        columns: &[(String, Column)],
        changed: &mut Vec<ChangedCell>,
    ) -> Result<GoodRow, Vec<BadRow>> {
        let mut faults = Faults::default();
        let mut cells = self.cells(columns, line, &mut faults);
        let address = self.address(&mut cells);
        if let Err(error) = &address {
            faults.add("to", address_code(self.channel), error.to_string());
        }
        if (cells.reference).is_some_and(|text| text.chars().count() > REF_CHARS) {
            let reason = format!("has more than {REF_CHARS} characters");
            faults.add("ref", "too_long", reason);
        }
        if let Some(unknown) = cells.time_zone.and_then(|zone| zones::named(zone).err()) {
            faults.add("time_zone", "unknown_time_zone", unknown.to_string());
        }
        // A slot without a column has its value in the job, which is checked when that comes.
        for problem in self.template.check_names(&cells.params) {
            let column = columns.iter().find(|(_, column)| matches!(column, Column::Slot(s) if *s == problem.slot));
            faults.add(column.map_or(&problem.slot, |(name, _)| name), problem.code, problem.reason);
        }
        let row = line.row;
        match address {
            Ok(address) if faults.0.is_empty() => {
                let of_row = |(field, given, used): (&str, &str, String)| ChangedCell {
                    row,
                    field: storable(field),
                    given: storable(given),
                    used,
                };
                changed.extend(cells.changed.into_iter().map(of_row));
                Ok(GoodRow {
                    row,
                    recipient: address.as_str().to_owned(),
                    reference: cells.reference.map(str::to_owned),
                    time_zone: cells.time_zone.map(str::to_owned),
                    params: cells.params,
                })
            }
            _ => Err(faults.of_row(row)),
        }
    }

    /// Reads the address, also where a spreadsheet took it for a number.
    fn address(&self, cells: &mut Cells<'_>) -> Result<Address, AddressError> {
        let (address, is_changed) = Address::parse_cell(self.channel, cells.to, cells.is_number, self.country)?;
        if is_changed {
            cells.changed.push(("to", cells.to, address.as_str().to_owned()));
        }
        Ok(address)
    }

    fn cells<'a>(&self, columns: &'a [(String, Column)], line: &'a Line, faults: &mut Faults) -> Cells<'a> {
        let mut cells = Cells::default();
        if line.cells.len() > columns.len() {
            let reason = format!("has {} cells, the header has {}", line.cells.len(), columns.len());
            faults.add("", "too_many_cells", reason);
        }
        for (index, (name, column)) in columns.iter().enumerate() {
            if *column == Column::Ignored {
                continue;
            }
            let cell = line.cells.get(index).unwrap_or_default();
            let given = Some(cell.trim()).filter(|text| !text.is_empty());
            if let Some((code, reason)) = line.fault(index) {
                faults.add(name, code, reason.to_owned());
            }
            match column {
                Column::To => (cells.to, cells.is_number) = (cell, line.kind(index) == Kind::Number),
                Column::Ref => cells.reference = given,
                Column::TimeZone => cells.time_zone = given,
                Column::Slot(slot) if given.is_some() => {
                    if line.kind(index) == Kind::Number {
                        cells.changed.push((name, cell, cell.to_owned()));
                    }
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
    /// Whether the address is a cell with a number.
    is_number: bool,
    /// Column, what the cell holds, and what is used for it.
    changed: Vec<(&'a str, &'a str, String)>,
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
pub(super) mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::domain::{Category, template::ParameterFormat};

    pub(crate) fn read(file: &[u8], country: Option<&str>) -> Result<Chunk, Vec<JobError>> {
        let body = serde_json::json!([{"type": "BODY", "text": "{{name}} at {{shop}}!"}]);
        let template = Template::parse("t", "ja", Category::Utility, ParameterFormat::Named, &body).unwrap();
        let country = country.map(|country| country.parse().unwrap());
        let (channel, template) = (Channel::Whatsapp, Arc::new(template));
        let checker = Checker { channel, country, template, ignore_unknown_columns: false };
        let (sender, pieces) = mpsc::channel(1);
        sender.try_send(Ok(bytes::Bytes::copy_from_slice(file))).unwrap();
        drop(sender);
        let mut made = Vec::new();
        checker.read(Decoded::new(pieces), Place::default(), &mut |chunk| {
            made.push(chunk);
            true
        })?;
        Ok(made.remove(0))
    }

    #[test]
    fn what_is_no_text_is_said_to_be_none() {
        for (file, what) in [
            (b"\x7fELF\x02\x01\x01\0\0\0to\n".as_slice(), "not text"),
            (b"to\0,name\n", "not text"),
            (b"PK\x03\x04\x14\0\x06\0", "workbook cannot be read"),
            (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "old Excel"),
        ] {
            let errors = read(file, None).unwrap_err();
            assert_eq!((errors.len(), errors[0].code.as_ref()), (1, "unreadable"));
            assert!(errors[0].reason.contains(what), "{}", errors[0].reason);
        }
    }

    #[test]
    fn a_column_is_called_as_the_header_calls_it() {
        for (header, name) in [("to,name", "name"), ("to,body.name", "body.name")] {
            for (cell, code) in [("", "missing_slot"), ("a\tb", "ill_formed")] {
                let chunk = read(format!("{header}\n+819012345678,{cell}\n").as_bytes(), None).unwrap();
                let bad = chunk.bad.iter().map(|bad| (bad.field.as_str(), bad.code.as_str()));
                assert_eq!(bad.collect::<Vec<_>>(), [(name, code)], "{header}");
            }
        }
    }

    #[test]
    fn a_wrong_column_suggests_what_the_header_may_say() {
        for (given, meant) in [("nam", "name"), ("body.nam", "body.name"), ("timezone", "time_zone")] {
            let errors = read(format!("to,{given}\n").as_bytes(), None).unwrap_err();
            assert_eq!(errors[0].did_you_mean.first().map(String::as_str), Some(meant), "{errors:?}");
        }
        let errors = read(b"to,name,body.name\n", None).unwrap_err();
        assert_eq!(errors[0].code, "duplicate_column");
    }

    #[test]
    fn numbers_that_went_through_a_spreadsheet_are_recovered_or_refused() {
        let file = b"to,name\n819012345678.0,a\n8.19012345679E+11,b\n8.19E+11,c\n9012345670.0,d\n";
        let chunk = read(file, Some("JP")).unwrap();
        let good = chunk.good.iter().map(|good| (good.row, good.recipient.as_str()));
        assert_eq!(good.collect::<Vec<_>>(), [(2, "+819012345678"), (3, "+819012345679"), (5, "+819012345670")]);
        let changed = chunk.changed.last().map(|cell| (cell.row, cell.given.as_str(), cell.used.as_str()));
        assert_eq!(changed, Some((5, "9012345670.0", "+819012345670")));
        assert_eq!((chunk.bad.len(), chunk.bad[0].row), (1, 4));
        assert!(chunk.bad[0].reason.contains("rounded"), "{:?}", chunk.bad);
    }
}
