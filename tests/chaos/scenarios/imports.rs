//! Files of a million rows, a hundredth of them bad in eight ways, in every form a file may have: read at one go, then
//! again with the process killed in the middle and the same file sent again.

use std::{
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use calamine::Reader as _;
use encoding_rs::{Encoding, SHIFT_JIS, UTF_8, UTF_16LE};

use super::{close, world};
use crate::{Arguments, world::World};

const ROWS: u32 = 1_000_000;
/// What the process may take for a workbook: its table of strings and the rest of the process.
const XLSX_PEAK_MB: u64 = 400;
/// What it may take for text, however long.
const CSV_PEAK_MB: u64 = 200;

#[derive(Debug, Clone, Copy)]
enum Form {
    Csv(&'static Encoding),
    Xlsx,
}

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let world = world(arguments, 1, vec![(80, 0)]).await?;
    let rows = arguments.messages.unwrap_or(ROWS);
    let mut ok = true;
    for form in [Form::Csv(UTF_8), Form::Csv(SHIFT_JIS), Form::Csv(UTF_16LE), Form::Xlsx] {
        let file = write(&world.folder, form, rows)?;
        let (id, told) = whole(&world, &file).await?;
        let peak = world.serves[0].process.peak_mb().await?;
        let is_exact = exact(&world, id, rows).await? && report(&world, id, form, rows).await?;
        let (again, taken_up) = broken(&world, &file, rows).await?;
        let is_exact_again = exact(&world, again, rows).await?;
        let is_small = peak <= if matches!(form, Form::Xlsx) { XLSX_PEAK_MB } else { CSV_PEAK_MB };
        let good = is_exact && is_exact_again && is_small && taken_up > 0 && taken_up < i64::from(rows);
        println!(
            "imports: {} rows={rows} {} MB took {told:.1}s {:.0} rows/s peak={peak} MB exact={is_exact} killed, went on at row {taken_up} \
             exact={is_exact_again} {}",
            name(form),
            std::fs::metadata(&file)?.len() / 1_000_000,
            f64::from(rows) / told,
            if good { "ok" } else { "FAILED" }
        );
        std::fs::remove_file(&file)?;
        ok &= good;
    }
    close(world, ok).await;
    Ok(ok)
}

fn name(form: Form) -> &'static str {
    match form {
        Form::Csv(encoding) => encoding.name(),
        Form::Xlsx => "xlsx",
    }
}

/// What is wrong with a row, if anything: the column and the code.
fn fault(row: u32) -> Option<(&'static str, &'static str)> {
    const FAULTS: [(&str, &str); 8] = [
        ("to", "invalid_number"),
        ("to", "invalid_number"),
        ("to", "invalid_number"),
        ("name", "missing_slot"),
        ("time_zone", "unknown_time_zone"),
        ("ref", "too_long"),
        ("name", "ill_formed"),
        ("to", "duplicate_recipient"),
    ];
    (row % 100 == 50).then(|| FAULTS[way(row)])
}

fn way(row: u32) -> usize {
    (row / 100 % 8) as usize
}

/// The cells of a row, which a spreadsheet shows as `row + 2`.
fn cells(row: u32) -> [String; 4] {
    let address = |row: u32| format!("+8190{:08}", 10_000_000 + row);
    let mut cells = [address(row), format!("佐藤{row}様"), format!("crm-{row}"), "Asia/Tokyo".to_owned()];
    if fault(row).is_some() {
        match way(row) {
            0 => cells[0] = format!("+8190{row}0000000000"),
            1 => cells[0] = format!("090{:08}", 10_000_000 + row),
            2 => cells[0].clear(),
            3 => cells[1].clear(),
            4 => "Asia/Edo".clone_into(&mut cells[3]),
            5 => cells[2] = "r".repeat(300),
            6 => cells[1] = format!("佐藤{row}\n様"),
            _ => cells[0] = address(row - 1),
        }
    }
    cells
}

const HEADER: [&str; 4] = ["to", "name", "ref", "time_zone"];

fn write(folder: &Path, form: Form, rows: u32) -> anyhow::Result<PathBuf> {
    let Form::Csv(encoding) = form else {
        let file = folder.join("recipients.xlsx");
        let mut book = rust_xlsxwriter::Workbook::new();
        // With a table of strings, as spreadsheets write it.
        let sheet = book.add_worksheet_with_low_memory();
        for (column, name) in (0..).zip(HEADER) {
            sheet.write_string(0, column, name)?;
        }
        for row in 0..rows {
            for (column, cell) in (0..).zip(cells(row)) {
                sheet.write_string(row + 1, column, cell)?;
            }
        }
        book.save(&file)?;
        return Ok(file);
    };
    let file = folder.join(format!("recipients.{}.csv", encoding.name()));
    let mut out = BufWriter::new(std::fs::File::create(&file)?);
    let head = format!("{}{}\r\n", if encoding == SHIFT_JIS { "" } else { "\u{feff}" }, HEADER.join(","));
    out.write_all(&encoded(&head, encoding))?;
    for row in 0..rows {
        let [to, name, reference, zone] = cells(row);
        out.write_all(&encoded(&format!("{to},\"{name}\",{reference},{zone}\r\n"), encoding))?;
    }
    out.flush()?;
    Ok(file)
}

fn encoded(text: &str, encoding: &'static Encoding) -> Vec<u8> {
    if encoding == UTF_16LE {
        return text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    }
    encoding.encode(text).0.into_owned()
}

/// Imports under this id, or goes on with it.
async fn import(world: &World, file: &Path, id: uuid::Uuid) -> anyhow::Result<String> {
    let (file, number, id) = (file.display().to_string(), world.numbers[0].business(), id.to_string());
    let names = ["--business-number", &number, "--template", "order", "--language", "ja", "--resume", &id, "--json"];
    world.cli(&[&["imports", "create", &file][..], &names].concat()).await
}

/// In a new process, so that its memory is this file's. Returns the import and the seconds it took.
async fn whole(world: &World, file: &Path) -> anyhow::Result<(uuid::Uuid, f64)> {
    let (serve, id) = (&world.serves[0], uuid::Uuid::now_v7());
    serve.process.terminate(Duration::from_secs(40)).await?;
    serve.process.start().await?;
    world.ready(serve).await?;
    let began = Instant::now();
    import(world, file, id).await?;
    Ok((id, began.elapsed().as_secs_f64()))
}

/// With a kill when a third is read. Returns the import and how many rows were kept by then.
async fn broken(world: &World, file: &Path, rows: u32) -> anyhow::Result<(uuid::Uuid, i64)> {
    let (serve, id) = (&world.serves[0], uuid::Uuid::now_v7());
    let kill = async {
        let mut connection = world.connect().await?;
        for _ in 0..6000 {
            let read: Option<i64> = sqlx::query_scalar("SELECT rows FROM import WHERE id = $1")
                .bind(id)
                .fetch_optional(&mut connection)
                .await?;
            if read.unwrap_or_default() > i64::from(rows / 3) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        serve.process.kill().await?;
        let kept =
            sqlx::query_scalar("SELECT rows FROM import WHERE id = $1").bind(id).fetch_one(&mut connection).await?;
        anyhow::Ok(kept)
    };
    let (sent, kept) = tokio::join!(import(world, file, id), kill);
    anyhow::ensure!(sent.is_err(), "the import ended before its process was killed");
    serve.process.start().await?;
    world.ready(serve).await?;
    import(world, file, id).await?;
    Ok((id, kept?))
}

/// Whether the database has each good row once, and of each bad one exactly its fault.
async fn exact(world: &World, id: uuid::Uuid, rows: u32) -> anyhow::Result<bool> {
    let mut connection = world.connect().await?;
    let (state, good, kept): (String, i64, i64) = sqlx::query_as(
        "SELECT state, good, (SELECT count(*) FROM import_row WHERE import_id = id) FROM import WHERE id = $1",
    )
    .bind(id)
    .fetch_one(&mut connection)
    .await?;
    let bad: Vec<(i64, String, String)> =
        sqlx::query_as("SELECT row, field, code FROM import_rejected WHERE import_id = $1 ORDER BY row")
            .bind(id)
            .fetch_all(&mut connection)
            .await?;
    let expected = (0..rows).filter_map(|row| fault(row).map(|(field, code)| (row, field, code)));
    let expected: Vec<_> = expected.map(|(r, field, code)| (shown(r), field.to_owned(), code.to_owned())).collect();
    let all_good = i64::from(rows) - i64::try_from(expected.len())?;
    Ok(state == "ready" && good == all_good && kept == all_good && bad == expected)
}

/// As a spreadsheet counts.
fn shown(row: u32) -> i64 {
    i64::from(row) + 2
}

/// Whether the report is the same file with only its bad rows, cell by cell, and a reason.
async fn report(world: &World, id: uuid::Uuid, form: Form, rows: u32) -> anyhow::Result<bool> {
    let file = world.folder.join("report");
    world.cli(&["imports", "report", &id.to_string(), "--output", &file.display().to_string()]).await?;
    let lines = match form {
        Form::Csv(encoding) => {
            let bytes = std::fs::read(&file)?;
            let (text, used, broken) = encoding.decode(&bytes);
            anyhow::ensure!(used == encoding && !broken, "the report is not in {}", encoding.name());
            let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(text.as_bytes());
            let lines = reader.records().map(|line| Ok(line?.iter().map(str::to_owned).collect()));
            lines.collect::<Result<Vec<Vec<String>>, csv::Error>>()?
        }
        Form::Xlsx => {
            let mut book: calamine::Xlsx<_> = calamine::open_workbook(&file)?;
            let sheet = book.worksheet_range_at(0).ok_or_else(|| anyhow::anyhow!("the report has no sheet"))??;
            sheet.rows().map(|row| row.iter().map(ToString::to_string).collect()).collect()
        }
    };
    let header: Vec<String> = HEADER.into_iter().chain(["reason"]).map(str::to_owned).collect();
    let bad = (0..rows).filter(|row| fault(*row).is_some()).map(cells);
    let is_row =
        |(line, cells): (&Vec<String>, [String; 4])| line.len() == 5 && line[..4] == cells && !line[4].is_empty();
    Ok(lines.first() == Some(&header)
        && lines.len() == 1 + bad.clone().count()
        && lines.iter().skip(1).zip(bad).all(is_row))
}
