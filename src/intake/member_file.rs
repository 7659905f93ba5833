//! A CSV file or a workbook of members: `to`, `ref`, `time_zone`, and a column for each value, by whatever name templates have it.

use tokio::sync::mpsc;

use crate::{
    domain::{
        address::{Address, AddressError},
        cell,
        template::Params,
    },
    intake::{
        fields::is_good_text,
        job::{JobError, Recipient},
        lines::{Kind, Line, Lines, each_line},
        members::{CHUNK, Chunk, MemberFaults, Members, Target},
        sheet::Decoded,
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
pub(super) fn read(target: Target, file: Decoded, chunks: &mpsc::Sender<Chunk>) -> Result<(), Vec<JobError>> {
    each_line(file, |lines| read_lines(target, lines, chunks))
}

fn read_lines(target: Target, lines: &mut dyn Lines, chunks: &mpsc::Sender<Chunk>) -> Result<(), Vec<JobError>> {
    let mut line = Line::default();
    let mut columns: Option<Vec<Column>> = None;
    let (mut good, mut chunk) = (Vec::new(), Chunk::new(Members::Whole(Vec::new())));
    while lines.next(&mut line).map_err(|error| vec![error])? {
        let Some(columns) = &columns else {
            columns = Some(header_of(&line.cells)?);
            continue;
        };
        if line.cells.iter().all(|cell| cell.trim().is_empty()) {
            continue;
        }
        chunk.rows += 1;
        match member(target, columns, &line) {
            Ok((member, is_changed)) => {
                chunk.changed += i64::from(is_changed);
                good.push(member);
            }
            Err(faults) => chunk.refuse(line.row, faults),
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

/// A member, and whether its address had to be recovered.
fn member(target: Target, columns: &[Column], line: &Line) -> Result<(NewMember, bool), MemberFaults> {
    let fault = |field: &str, code: &str, reason: &str| vec![(field.to_owned(), code.to_owned(), reason.to_owned())];
    if line.cells.len() > columns.len() {
        let reason = format!("has {} cells, the header has {}", line.cells.len(), columns.len());
        return Err(fault("", "too_many_cells", &reason));
    }
    let mut given = Recipient { to: String::new(), params: Params::new(), reference: None, time_zone: None };
    let (mut address, mut is_changed) = (Err(AddressError::Empty), false);
    for (index, (column, cell)) in columns.iter().zip(&line.cells).enumerate() {
        if *column == Column::Ignored {
            continue;
        }
        if let Some((code, reason)) = line.fault(index) {
            return Err(fault(name(column), code, reason));
        }
        let cell = cell::unguarded(cell);
        let text = || Some(cell.trim()).filter(|text| !text.is_empty()).map(str::to_owned);
        match column {
            Column::To => {
                let is_number = line.kind(index) == Kind::Number;
                let read = Address::parse_cell(target.channel, cell, is_number, target.country);
                is_changed = read.as_ref().is_ok_and(|(_, is_changed)| *is_changed);
                address = read.map(|(address, _)| address);
            }
            Column::Ref => given.reference = text(),
            Column::TimeZone => given.time_zone = text(),
            Column::Value(name) => {
                given.params.insert(name.clone(), cell.to_owned());
            }
            Column::Ignored => {}
        }
    }
    Ok((target.member(address, given)?, is_changed))
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
