//! Files as lines of cells, whatever they are written in.

use std::sync::{Arc, atomic::AtomicUsize, atomic::Ordering};

use serde::{Deserialize, Serialize};

use crate::{
    domain::spreadsheet::DIGITS,
    intake::{
        job::JobError,
        sheet::{Content, Decoded, RowCounter, delimiter},
        workbook::{self, SheetLines},
    },
};

/// The code of a file of which only a part came.
pub(super) const CUT_OFF: &str = "cut_off";

/// What a file is written in; its report is written in the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "format", rename_all = "snake_case")]
pub(super) enum Format {
    /// Text.
    Csv {
        /// Between cells.
        delimiter: char,
        /// Its name in the Encoding Standard.
        encoding: String,
        /// Whether it begins with a byte order mark.
        has_mark: bool,
    },
    /// A workbook of Excel 2007 and later.
    Xlsx,
}

/// What a cell holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Text,
    /// Written out as digits.
    Number,
    /// Shown in a way the file does not tell.
    Date,
    /// What a formula that failed shows.
    Fault,
}

/// A line of a file.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// As a spreadsheet counts.
    pub(super) row: i64,
    pub(super) cells: csv::StringRecord,
    /// Shorter than the cells: the rest is text.
    kinds: Vec<Kind>,
}

impl Line {
    pub(super) fn clear(&mut self) {
        self.row = 0;
        self.cells.clear();
        self.kinds.clear();
    }

    pub(super) fn push(&mut self, text: &str, kind: Kind) {
        self.cells.push_field(text);
        self.kinds.push(kind);
    }

    pub(super) fn kind(&self, index: usize) -> Kind {
        self.kinds.get(index).copied().unwrap_or_default()
    }

    /// Why the text of a cell may not be what its author sees: a code and a reason.
    pub(super) fn fault(&self, index: usize) -> Option<(&'static str, &'static str)> {
        let cell = self.cells.get(index).unwrap_or_default();
        let digits = || cell.bytes().filter(u8::is_ascii_digit).count();
        match self.kind(index) {
            Kind::Date => Some(("date_cell", "is a date: make the column text, so that it says what is to be sent")),
            Kind::Fault => Some(("error_cell", "is a formula that failed")),
            Kind::Number if digits() > DIGITS => {
                Some(("rounded_number", "is a number that the spreadsheet has rounded: make the column text"))
            }
            Kind::Text if cell.contains(['\u{fffd}', '\0']) => {
                Some(("unreadable_text", "contains characters that are no text in the file's encoding"))
            }
            Kind::Text | Kind::Number => None,
        }
    }
}

/// Reads a file line by line, whatever it is written in.
pub(super) fn each_line<T>(
    mut file: Decoded,
    read: impl FnOnce(&mut dyn Lines) -> Result<T, Vec<JobError>>,
) -> Result<T, Vec<JobError>> {
    let one = |error| vec![error];
    match file.content().map_err(|error| one(broken(&error)))? {
        Content::Text => read(&mut CsvLines::new(file).map_err(one)?),
        Content::Workbook => {
            let mut book = workbook::keep(file).and_then(workbook::open).map_err(one)?;
            let sheet = workbook::sheet(&mut book).map_err(one)?;
            read(&mut SheetLines::new(&mut book, &sheet).map_err(one)?)
        }
        Content::OldWorkbook => {
            let reason = "the workbook is of an old Excel or under a password: save it as .xlsx without one";
            Err(one(JobError::new("", "unreadable", reason)))
        }
    }
}

/// A file that is read line by line.
pub(super) trait Lines {
    /// What it is written in.
    fn format(&self) -> Format;

    /// Reads the next line; at the end there is none.
    fn next(&mut self, line: &mut Line) -> Result<bool, JobError>;
}

/// A CSV file.
pub(super) struct CsvLines {
    reader: csv::Reader<Decoded>,
    counter: RowCounter,
    since_record: Arc<AtomicUsize>,
    format: Format,
}

impl CsvLines {
    pub(super) fn new(mut file: Decoded) -> Result<Self, JobError> {
        let header = file.first_line().map_err(|error| broken(&error))?;
        if header.contains(|c: char| c == char::REPLACEMENT_CHARACTER || (c.is_control() && !matches!(c, '\t' | '\r')))
        {
            let reason = "the file is not text: save it as .xlsx, or as CSV in UTF-8, UTF-16 or Shift_JIS";
            return Err(JobError::new("", "unreadable", reason));
        }
        let delimiter = delimiter(header);
        let (encoding, has_mark) = file.encoding();
        let format = Format::Csv { delimiter: delimiter.into(), encoding: encoding.name().to_owned(), has_mark };
        let since_record = file.counter();
        let reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).delimiter(delimiter).from_reader(file);
        Ok(Self { reader, counter: RowCounter::default(), since_record, format })
    }
}

impl Lines for CsvLines {
    fn format(&self) -> Format {
        self.format.clone()
    }

    fn next(&mut self, line: &mut Line) -> Result<bool, JobError> {
        let is_there = self.reader.read_record(&mut line.cells).map_err(|error| unread(&error))?;
        self.since_record.store(0, Ordering::Relaxed);
        if is_there {
            line.row = self.counter.next(self.reader.position().line(), &line.cells);
        }
        Ok(is_there)
    }
}

/// What is wrong with a file that cannot be read on.
pub(super) fn broken(error: &std::io::Error) -> JobError {
    // What this side says of the content; everything else comes from whoever sends it.
    if error.kind() == std::io::ErrorKind::InvalidData {
        return JobError::new("", "unreadable", error.to_string());
    }
    JobError::new(
        "",
        CUT_OFF,
        format!("only a part of the file came ({error}): send it again, an import with the same `id`"),
    )
}

fn unread(error: &csv::Error) -> JobError {
    match error.kind() {
        csv::ErrorKind::Io(error) => broken(error),
        _ => JobError::new("", "unreadable", error.to_string()),
    }
}
