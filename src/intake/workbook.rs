//! Reading a workbook cell by cell. Its table of contents stands at its end, so the file is kept on the disk first; of its
//! content only the table of strings is held in memory.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read as _, Seek as _, Write as _},
};

use calamine::{Cell, DataRef, Reader as _, Xlsx, XlsxCellReader, XlsxError};
use zip::ZipArchive;

use crate::intake::{
    job::JobError,
    lines::{Format, Kind, Line, Lines, broken},
    sheet::Decoded,
};

/// A workbook on the disk.
pub(super) type Workbook = Xlsx<BufReader<File>>;

/// A million rows of five long cells have less.
const FILE_MAX: u64 = 512 << 20;
/// A million rows with five strings of their own, names and numbers, have about half of it. In memory it is as much again.
const STRINGS_MAX: u64 = 256 << 20;
/// Columns that are read.
const COLUMNS_MAX: u32 = 1000;

/// Keeps the file until it is closed, without a name.
pub(super) fn keep(file: Decoded) -> Result<File, JobError> {
    let kept = write(file).map_err(|error| broken(&error))?;
    let mut zip = ZipArchive::new(BufReader::new(&kept)).map_err(|error| damaged(&error.to_string()))?;
    let strings = zip.file_names().find(|name| name.to_ascii_lowercase().ends_with("sharedstrings.xml"));
    if let Some(name) = strings.map(str::to_owned) {
        let mut table = zip.by_name(&name).map_err(|error| damaged(&error.to_string()))?;
        if table.size() > STRINGS_MAX || announced(&mut table)? > STRINGS_MAX {
            let reason = format!("the texts of the workbook have more than {} MiB: save it as CSV", STRINGS_MAX >> 20);
            return Err(JobError::new("", "too_large", reason));
        }
    }
    drop(zip);
    (&kept).rewind().map_err(|error| broken(&error))?;
    Ok(kept)
}

fn write(mut file: Decoded) -> io::Result<File> {
    let kept = tempfile::tempfile()?;
    let mut writer = BufWriter::new(kept);
    let mut size = 0;
    while let Some(piece) = file.raw()? {
        size += piece.len() as u64;
        if size > FILE_MAX {
            let reason = format!("the workbook has more than {} MiB: save it as CSV", FILE_MAX >> 20);
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        writer.write_all(&piece)?;
    }
    writer.into_inner().map_err(io::IntoInnerError::into_error)
}

/// How many strings the table says it has: room is made for so many before they are read.
fn announced(table: &mut impl io::Read) -> Result<u64, JobError> {
    let mut start = Vec::new();
    table.take(4096).read_to_end(&mut start).map_err(|error| damaged(&error.to_string()))?;
    let start = String::from_utf8_lossy(&start);
    let digits = start.split_once("uniqueCount=").map_or("", |(_, rest)| rest.trim_start_matches(['"', '\'']));
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let count = digits.get(..end).filter(|digits| !digits.is_empty());
    // A string takes more than eight bytes in the file.
    Ok(count.map_or(0, |digits| digits.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(8)))
}

/// Reads what a workbook has but its sheets.
pub(super) fn open(kept: File) -> Result<Workbook, JobError> {
    Xlsx::new(BufReader::new(kept)).map_err(|error| unread(&error))
}

/// The one sheet whose first line has a column `to`; the first when there is none.
pub(super) fn sheet(book: &mut Workbook) -> Result<String, JobError> {
    let names = book.sheet_names();
    let mut found = Vec::new();
    for name in &names {
        let mut line = Line::default();
        // Charts have no cells.
        if let Ok(mut lines) = SheetLines::new(book, name)
            && lines.next(&mut line)?
            && line.cells.iter().any(|cell| cell.trim() == "to")
        {
            found.push(name.clone());
        }
    }
    if found.len() > 1 {
        let reason = format!("the sheets {} all have a column `to`: import each by itself", found.join(", "));
        return Err(JobError::new("", "several_sheets", reason));
    }
    found.pop().or_else(|| names.first().cloned()).ok_or_else(|| damaged("it has no sheet"))
}

/// The lines of a sheet.
pub(super) struct SheetLines<'a> {
    cells: XlsxCellReader<'a, BufReader<File>>,
    ahead: Option<Cell<DataRef<'a>>>,
    last: i64,
    is_ended: bool,
}

impl<'a> SheetLines<'a> {
    pub(super) fn new(book: &'a mut Workbook, sheet: &str) -> Result<Self, JobError> {
        let cells = book.worksheet_cells_reader(sheet).map_err(|error| unread(&error))?;
        Ok(Self { cells, ahead: None, last: 0, is_ended: false })
    }
}

impl Lines for SheetLines<'_> {
    fn format(&self) -> Format {
        Format::Xlsx
    }

    fn next(&mut self, line: &mut Line) -> Result<bool, JobError> {
        line.clear();
        while !self.is_ended {
            let next = match self.ahead.take() {
                None => self.cells.next_cell().map_err(|error| unread(&error))?,
                ahead => ahead,
            };
            let Some(cell) = next else {
                self.is_ended = true;
                break;
            };
            if matches!(cell.get_value(), DataRef::Empty) {
                continue;
            }
            let (row, column) = cell.get_position();
            let row = i64::from(row) + 1;
            if line.row > 0 && row != line.row {
                self.ahead = Some(cell);
                return Ok(true);
            }
            if line.row == 0 && row <= self.last || line.cells.len() as u64 > u64::from(column) {
                return Err(damaged("its cells are not in order"));
            }
            if column >= COLUMNS_MAX {
                let reason = format!("row {row} has more than the {COLUMNS_MAX} columns that are read");
                return Err(JobError::new("", "too_many_columns", reason));
            }
            (self.last, line.row) = (row, row);
            while (line.cells.len() as u64) < u64::from(column) {
                line.push("", Kind::Text);
            }
            put(line, cell.get_value());
        }
        Ok(line.row > 0)
    }
}

fn put(line: &mut Line, value: &DataRef<'_>) {
    match value {
        DataRef::String(text) => line.push(text, Kind::Text),
        DataRef::SharedString(text) => line.push(text, Kind::Text),
        DataRef::Int(number) => line.push(&number.to_string(), Kind::Number),
        DataRef::Float(number) => line.push(&number.to_string(), Kind::Number),
        DataRef::Bool(value) => line.push(if *value { "TRUE" } else { "FALSE" }, Kind::Text),
        DataRef::DateTime(date) => line.push(&date.as_f64().to_string(), Kind::Date),
        DataRef::DateTimeIso(text) | DataRef::DurationIso(text) => line.push(text, Kind::Date),
        DataRef::Error(error) => line.push(&error.to_string(), Kind::Fault),
        DataRef::Empty => {}
    }
}

fn unread(error: &XlsxError) -> JobError {
    damaged(&error.to_string())
}

fn damaged(reason: &str) -> JobError {
    JobError::new("", "unreadable", format!("the workbook cannot be read ({reason}): save it again, or as CSV"))
}

#[cfg(test)]
mod tests {
    use rust_xlsxwriter::{ExcelDateTime, Format as CellFormat, Worksheet};

    use super::*;
    use crate::{
        domain::{
            Category,
            template::{ParameterFormat, Template},
        },
        intake::{columns::tests::read, form},
    };

    fn workbook(sheets: &[&dyn Fn(&mut Worksheet)]) -> Vec<u8> {
        let mut book = rust_xlsxwriter::Workbook::new();
        for fill in sheets {
            fill(book.add_worksheet());
        }
        book.save_to_buffer().unwrap()
    }

    fn header(sheet: &mut Worksheet) {
        for (column, name) in (0..).zip(["to", "name", "shop"]) {
            sheet.write_string(0, column, name).unwrap();
        }
    }

    #[test]
    fn cells_are_read_as_what_they_show() {
        let file = workbook(&[&|sheet| {
            header(sheet);
            sheet.write_string(1, 0, "+81 90-1234-5678").unwrap().write_string(1, 1, "佐藤").unwrap();
            sheet.write_string(1, 2, "Ginza").unwrap();
            // A gap, then numbers for text.
            sheet.write_number(4, 0, 819_012_345_679.0).unwrap().write_number(4, 1, 12.5).unwrap();
            sheet.write_boolean(4, 2, true).unwrap();
            sheet.write_number(5, 0, 9_012_345_670.0).unwrap().write_string(5, 1, "=1+1").unwrap();
            sheet.write_string(5, 2, "x").unwrap();
        }]);
        let chunk = read(&file, Some("JP")).unwrap();
        assert_eq!(chunk.bad, []);
        let good: Vec<_> = chunk
            .good
            .iter()
            .map(|row| {
                (row.row, row.recipient.as_str(), row.params["body.name"].as_str(), row.params["body.shop"].as_str())
            })
            .collect();
        let expected = [
            (2, "+819012345678", "佐藤", "Ginza"),
            (5, "+819012345679", "12.5", "TRUE"),
            (6, "+819012345670", "=1+1", "x"),
        ];
        assert_eq!(good, expected);
        let changed: Vec<_> =
            chunk.changed.iter().map(|cell| (cell.row, cell.field.as_str(), cell.used.as_str())).collect();
        assert_eq!(changed, [(5, "name", "12.5"), (5, "to", "+819012345679"), (6, "to", "+819012345670")]);
    }

    #[test]
    fn what_may_not_be_what_is_shown_is_refused() {
        let file = workbook(&[&|sheet| {
            header(sheet);
            let date = CellFormat::new().set_num_format("yyyy/mm/dd");
            for row in 1..=4 {
                sheet.write_string(row, 0, format!("+81901234567{row}")).unwrap();
                sheet.write_string(row, 2, "x").unwrap();
            }
            let day = ExcelDateTime::from_ymd(2026, 12, 1).unwrap();
            sheet.write_datetime_with_format(1, 1, day, &date).unwrap();
            sheet.write_number(2, 1, 0.1 + 0.2).unwrap();
            sheet.write_formula(3, 1, rust_xlsxwriter::Formula::new("=NA()").set_result("#N/A")).unwrap();
            sheet.write_number(4, 0, 1_234_567_890_123_456.0).unwrap().write_string(4, 1, "y").unwrap();
        }]);
        let chunk = read(&file, None).unwrap();
        let bad: Vec<_> = chunk.bad.iter().map(|bad| (bad.row, bad.field.as_str(), bad.code.as_str())).collect();
        assert_eq!((chunk.good.len(), chunk.changed.len()), (0, 0));
        let expected = [
            (2, "name", "date_cell"),
            (3, "name", "rounded_number"),
            (4, "name", "error_cell"),
            (5, "to", "rounded_number"),
        ];
        assert_eq!(bad, expected);
    }

    #[test]
    fn the_sheet_with_recipients_is_read_and_only_one() {
        let cover = |sheet: &mut Worksheet| {
            sheet.write_string(0, 0, "Campaign of spring").unwrap();
        };
        let list = |sheet: &mut Worksheet| {
            header(sheet);
            for (column, cell) in (0..).zip(["+819012345678", "a", "b"]) {
                sheet.write_string(1, column, cell).unwrap();
            }
        };
        assert_eq!(read(&workbook(&[&cover, &list]), None).unwrap().good.len(), 1);
        assert_eq!(read(&workbook(&[&list, &list]), None).unwrap_err()[0].code, "several_sheets");
        assert_eq!(read(&workbook(&[&cover]), None).unwrap_err().last().unwrap().code, "missing_column");
    }

    #[test]
    fn a_form_has_the_columns_of_its_template() {
        let body = serde_json::json!([{"type": "BODY", "text": "{{name}} at {{shop}}!"}]);
        let template = Template::parse("t", "ja", Category::Utility, ParameterFormat::Named, &body).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&form::form(&template).unwrap()).unwrap();
        file.rewind().unwrap();
        let mut book = open(file).unwrap();
        let sheet = sheet(&mut book).unwrap();
        let (mut line, mut lines) = (Line::default(), SheetLines::new(&mut book, &sheet).unwrap());
        assert!(lines.next(&mut line).unwrap());
        assert_eq!(line.cells.iter().collect::<Vec<_>>(), ["to", "ref", "time_zone", "name", "shop"]);
        assert!(!lines.next(&mut line).unwrap());
    }

    #[test]
    fn a_table_that_announces_too_much_is_not_believed() {
        let count = |text: &str| announced(&mut text.as_bytes()).unwrap();
        assert_eq!(count(r#"<sst count="5" uniqueCount="3">"#), 24);
        assert_eq!(count("<sst>"), 0);
        assert!(count(r#"<sst uniqueCount="99999999999999999999999">"#) > STRINGS_MAX);
    }
}
