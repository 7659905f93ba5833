//! Files as lines of cells, whatever they are written in.

use std::sync::{Arc, atomic::AtomicUsize, atomic::Ordering};

use serde::{Deserialize, Serialize};

use crate::intake::{
    job::JobError,
    sheet::{Decoded, RowCounter, delimiter},
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
    JobError::new("", CUT_OFF, format!("only a part of the file came ({error}): import it again with the same `id`"))
}

fn unread(error: &csv::Error) -> JobError {
    match error.kind() {
        csv::ErrorKind::Io(error) => broken(error),
        _ => JobError::new("", "unreadable", error.to_string()),
    }
}
