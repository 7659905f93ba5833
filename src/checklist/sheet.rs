//! Rows as a file that people open in a spreadsheet: CSV or a workbook, made while it is sent and never whole in memory.

use std::io;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use rust_xlsxwriter::{Format as CellFormat, Workbook, Worksheet, XlsxError};

use crate::{
    domain::{cell, named},
    files::{FileOut, XLSX, cut, unwritten, workbook},
    store::{StoreError, chain},
};

/// Rows of a sheet, its head among them (Excel specifications).
const SHEET_ROWS: u32 = 1_048_576;

named! {
    /// What a spreadsheet opens.
    pub enum Format {
        /// Comma-separated, UTF-8 with a mark, each cell in quotation marks.
        Csv = "csv",
        /// A workbook; at 1 048 576 rows another sheet begins.
        Xlsx = "xlsx",
    }
}

/// What the cells of a column are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Free text, which is never taken for a formula.
    Text,
    /// An address: text that keeps its plus.
    Address,
    /// A count.
    Number,
}

/// A column: its head, and what it has.
pub(super) type Column = (&'static str, Kind);

/// Some rows, each with a cell for every column.
pub(super) type Rows = Result<Vec<Vec<String>>, StoreError>;

/// The file of these rows.
pub(super) fn export(
    name: &str,
    format: Format,
    columns: &'static [Column],
    pages: impl Stream<Item = Rows> + Send + 'static,
) -> FileOut {
    let (media_type, content) = match format {
        Format::Csv => ("text/csv; charset=utf-8", csv_of(columns, pages).boxed()),
        Format::Xlsx => {
            let content = workbook(pages, move |pages| {
                let mut book = Book::new(columns, SHEET_ROWS)?;
                book.write_all(pages)?;
                Ok(book.inner)
            });
            (XLSX, content.boxed())
        }
    };
    FileOut { file_name: format!("{name}.{format}"), media_type, content }
}

fn csv_of(
    columns: &'static [Column],
    pages: impl Stream<Item = Rows> + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let heads = vec![columns.iter().map(|(head, _)| (*head).to_owned()).collect()];
    // The mark tells Excel that it is UTF-8.
    let head = csv_rows(columns, &heads).map(|head| ["\u{feff}".as_bytes(), &head].concat().into());
    let rows = pages.map(move |page| csv_rows(columns, &page.map_err(failed)?).map(Bytes::from));
    futures_util::stream::iter([head]).chain(rows)
}

/// Every cell in quotation marks, so that a spreadsheet is told that it is text.
fn csv_rows(columns: &[Column], rows: &[Vec<String>]) -> io::Result<Vec<u8>> {
    let mut writer = csv::WriterBuilder::new().quote_style(csv::QuoteStyle::Always).from_writer(Vec::new());
    for row in rows {
        let cells = columns.iter().zip(row).map(|((_, kind), text)| match kind {
            Kind::Text => cell::guarded(text),
            Kind::Address => cell::address(text),
            Kind::Number => text.into(),
        });
        for text in cells {
            writer.write_field(text.as_bytes())?;
        }
        writer.write_record(None::<&[u8]>)?;
    }
    writer.into_inner().map_err(csv::IntoInnerError::into_error)
}

/// A workbook whose rows are on the disk as soon as they are written.
struct Book {
    inner: Workbook,
    columns: &'static [Column],
    most: u32,
    /// Rows of the sheet that is written.
    rows: u32,
    text: CellFormat,
    bold: CellFormat,
}

impl Book {
    fn new(columns: &'static [Column], most: u32) -> io::Result<Self> {
        let (text, bold) = (CellFormat::new().set_num_format("@"), CellFormat::new().set_bold());
        let mut book = Self { inner: Workbook::new(), columns, most, rows: 0, text, bold };
        book.add_sheet()?;
        Ok(book)
    }

    fn add_sheet(&mut self) -> io::Result<()> {
        let sheet = self.inner.add_worksheet_with_constant_memory();
        sheet.set_freeze_panes(1, 0).map_err(unwritten)?;
        for (column, (head, _)) in (0..).zip(self.columns) {
            sheet.write_string_with_format(0, column, *head, &self.bold).map_err(unwritten)?;
        }
        self.rows = 1;
        Ok(())
    }

    fn write_all(&mut self, pages: &mut dyn Iterator<Item = io::Result<Rows>>) -> io::Result<()> {
        for page in pages {
            for row in page?.map_err(failed)? {
                self.write(&row)?;
            }
        }
        Ok(())
    }

    fn write(&mut self, row: &[String]) -> io::Result<()> {
        if self.rows == self.most {
            self.add_sheet()?;
        }
        let last = self.inner.worksheets().len() - 1;
        let sheet = self.inner.worksheet_from_index(last).map_err(unwritten)?;
        for ((column, (_, kind)), cell) in (0..).zip(self.columns).zip(row) {
            write_cell(sheet, (self.rows, column), *kind, cell, &self.text).map_err(unwritten)?;
        }
        self.rows += 1;
        Ok(())
    }
}

/// A text is written as text, whatever it begins with.
fn write_cell(
    sheet: &mut Worksheet,
    (row, column): (u32, u16),
    kind: Kind,
    text: &str,
    format: &CellFormat,
) -> Result<(), XlsxError> {
    if text.is_empty() {
        return Ok(());
    }
    match (kind, text.parse::<f64>()) {
        (Kind::Number, Ok(number)) => sheet.write_number(row, column, number).map(drop),
        _ => sheet.write_string_with_format(row, column, cut(text), format).map(drop),
    }
}

/// Ends the file, for what came so far is not all.
fn failed(error: StoreError) -> io::Error {
    tracing::warn!(error = %chain(&error), "an export broke off");
    io::Error::other(error)
}

#[cfg(test)]
mod tests {
    use calamine::{Data, Reader as _, Xlsx};
    use futures_util::TryStreamExt as _;

    use super::*;

    const COLUMNS: &[Column] = &[("recipient", Kind::Address), ("ref", Kind::Text), ("attempt", Kind::Number)];

    fn row(reference: &str) -> Vec<String> {
        vec!["+819012345678".to_owned(), reference.to_owned(), "2".to_owned()]
    }

    async fn bytes(format: Format, pages: Vec<Rows>) -> io::Result<Vec<u8>> {
        let export = export("sent", format, COLUMNS, futures_util::stream::iter(pages));
        assert_eq!(export.file_name, format!("sent.{format}"));
        Ok(export.content.try_collect::<Vec<_>>().await?.concat())
    }

    #[tokio::test]
    async fn a_csv_has_text_and_no_formula() {
        let pages = vec![Ok(vec![row("=1+1")]), Ok(vec![row("佐藤\"")])];
        let text = String::from_utf8(bytes(Format::Csv, pages).await.unwrap()).unwrap();
        let expected = "\u{feff}\"recipient\",\"ref\",\"attempt\"\n\"+819012345678\",\"'=1+1\",\"2\"\n\"+819012345678\",\"佐藤\"\"\",\"2\"\n";
        assert_eq!(text, expected);
    }

    #[tokio::test]
    async fn a_workbook_has_text_and_no_formula() {
        let file = bytes(Format::Xlsx, vec![Ok(vec![row("=1+1"), row("")])]).await.unwrap();
        let mut book = Xlsx::new(io::Cursor::new(file)).unwrap();
        let sheet = book.worksheet_range_at(0).unwrap().unwrap();
        assert_eq!(sheet.get((1, 0)), Some(&Data::String("+819012345678".to_owned())));
        assert_eq!(sheet.get((1, 1)), Some(&Data::String("=1+1".to_owned())));
        assert_eq!(
            (sheet.get((2, 2)), sheet.get((0, 2))),
            (Some(&Data::Float(2.0)), Some(&Data::String("attempt".to_owned())))
        );
        assert!(book.worksheet_formula("Sheet1").unwrap().is_empty());
    }

    #[test]
    fn a_full_sheet_is_followed_by_another() {
        let mut book = Book::new(COLUMNS, 3).unwrap();
        for number in 0..5 {
            book.write(&row(&number.to_string())).unwrap();
        }
        let mut file = io::Cursor::new(Vec::new());
        book.inner.save_to_writer(&mut file).unwrap();
        let mut book = Xlsx::new(file).unwrap();
        let sheets: Vec<usize> =
            (0..3).map(|sheet| book.worksheet_range_at(sheet).unwrap().unwrap().height()).collect();
        assert_eq!(sheets, [3, 3, 2]);
    }

    #[tokio::test]
    async fn a_file_that_is_not_whole_is_cut() {
        let broken = || StoreError::Schema { found: 1, known: 2, advice: "" };
        for format in [Format::Csv, Format::Xlsx] {
            assert!(bytes(format, vec![Ok(vec![row("")]), Err(broken())]).await.is_err(), "{format}");
        }
    }
}
