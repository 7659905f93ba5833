//! The report of an import: the same file with only its bad rows, and a column that says what is wrong with each.

use std::io;

use bytes::Bytes;
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};
use futures_util::{Stream, StreamExt as _};
use rust_xlsxwriter::{Format as CellFormat, Workbook};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    domain::ids::TenantId,
    files::{FileOut, XLSX, cut, unwritten, workbook},
    intake::lines::Format,
    store::{
        Store, StoreError, chain,
        checklist::imports::{self, BadLine},
    },
};

/// The column that says what is wrong.
const REASON: &str = "reason";
/// Rows read at once.
const PAGE: i64 = 1000;

/// Makes the report of a tenant's import; none when there is no such import. A file that could not be read at all has
/// nothing in its report.
pub async fn report(store: &Store, tenant: TenantId, import: Uuid) -> Result<Option<FileOut>, StoreError> {
    let mut connection = store.acquire().await?;
    let Some((file_name, written)) = imports::written_in(&mut connection, tenant, import).await? else {
        return Ok(None);
    };
    drop(connection);
    let stem = file_name.rsplit_once('.').map_or(file_name.as_str(), |(stem, _)| stem);
    let known = written.and_then(|(format, header)| Some((serde_json::from_value(format).ok()?, header)));
    let (format, header) = known.unwrap_or_else(|| (plain(), Value::Array(Vec::new())));
    let mut header = texts(&header);
    header.push(REASON.to_owned());
    let pages = pages(store.clone(), import);
    Ok(Some(match format {
        Format::Csv { delimiter, encoding, has_mark } => FileOut {
            file_name: format!("{stem}.bad.csv"),
            media_type: "text/csv",
            content: csv(header, pages, delimiter, &encoding, has_mark).boxed(),
        },
        Format::Xlsx => {
            let content = workbook(pages, move |pages| write(&header, pages)).boxed();
            FileOut { file_name: format!("{stem}.bad.xlsx"), media_type: XLSX, content }
        }
    }))
}

fn plain() -> Format {
    Format::Csv { delimiter: ',', encoding: UTF_8.name().to_owned(), has_mark: false }
}

fn texts(cells: &Value) -> Vec<String> {
    let cells = cells.as_array().into_iter().flatten();
    cells.map(|cell| cell.as_str().unwrap_or_default().to_owned()).collect()
}

type Page = Result<Vec<BadLine>, StoreError>;

/// The bad rows, a page at a time.
fn pages(store: Store, import: Uuid) -> impl Stream<Item = Page> + Send + 'static {
    futures_util::stream::try_unfold(Some(0), move |after| {
        let store = store.clone();
        async move {
            let Some(after) = after else {
                return Ok(None);
            };
            let rows = imports::bad_lines(&mut *store.acquire().await?, import, after, PAGE).await?;
            let next = rows.last().map(|row| row.row);
            Ok(Some((rows, next)))
        }
    })
}

/// A row of the report, as wide as the header: what follows stands behind the reason.
fn row(width: usize, line: &BadLine) -> Vec<String> {
    let mut cells = texts(&line.cells);
    if cells.len() + 1 < width {
        cells.resize(width - 1, String::new());
    }
    cells.insert(width - 1, line.reasons.clone());
    cells
}

fn csv(
    header: Vec<String>,
    pages: impl Stream<Item = Page> + Send + 'static,
    delimiter: char,
    encoding: &str,
    has_mark: bool,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let encoding = Encoding::for_label(encoding.as_bytes()).unwrap_or(UTF_8);
    let width = header.len();
    let delimiter = u8::try_from(delimiter).unwrap_or(b',');
    let text = move |rows: &[Vec<String>]| -> io::Result<String> {
        let terminator = csv::Terminator::CRLF;
        let mut builder = csv::WriterBuilder::new();
        let mut writer = builder.delimiter(delimiter).terminator(terminator).flexible(true).from_writer(Vec::new());
        for row in rows {
            writer.write_record(row)?;
        }
        String::from_utf8(writer.into_inner().map_err(csv::IntoInnerError::into_error)?).map_err(io::Error::other)
    };
    let mark = if has_mark { "\u{feff}" } else { "" };
    let head = text(&[header]).map(|head| encoded(&format!("{mark}{head}"), encoding));
    let rows = pages.map(move |page| {
        let rows: Vec<_> = page.map_err(failed)?.iter().map(|line| row(width, line)).collect();
        Ok(encoded(&text(&rows)?, encoding))
    });
    futures_util::stream::iter([head]).chain(rows)
}

fn encoded(text: &str, encoding: &'static Encoding) -> Bytes {
    // The standard's encoders write UTF-8 in place of UTF-16, and numbers in place of what an encoding has not.
    if encoding == UTF_16LE {
        return text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    }
    if encoding == UTF_16BE {
        return text.encode_utf16().flat_map(u16::to_be_bytes).collect();
    }
    if encoding == UTF_8 {
        return Bytes::copy_from_slice(text.as_bytes());
    }
    Bytes::copy_from_slice(&encoding.encode(&text.replace('\u{fffd}', "?")).0)
}

fn write(header: &[String], pages: &mut dyn Iterator<Item = io::Result<Page>>) -> io::Result<Workbook> {
    let mut book = Workbook::new();
    let (text, bold) = (CellFormat::new().set_num_format("@"), CellFormat::new().set_bold());
    let sheet = book.add_worksheet_with_constant_memory();
    let mut number = 0;
    for (column, name) in (0..).zip(header) {
        // So that a number that is put right stays as it is typed.
        sheet.set_column_format(column, &text).map_err(unwritten)?;
        sheet.write_string_with_format(number, column, cut(name), &bold).map_err(unwritten)?;
    }
    for page in pages {
        for line in page?.map_err(failed)? {
            number += 1;
            for (column, cell) in (0..).zip(row(header.len(), &line)) {
                sheet.write_string_with_format(number, column, cut(&cell), &text).map_err(unwritten)?;
            }
        }
    }
    Ok(book)
}

/// Ends the file, for what came so far is not all.
fn failed(error: StoreError) -> io::Error {
    tracing::warn!(error = %chain(&error), "a report broke off");
    io::Error::other(error)
}
