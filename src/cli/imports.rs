//! Files of recipients.

use std::{
    convert::Infallible,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::{
    checklist::Page,
    cli::{
        Common, PageArgs,
        client::{Client, Method, Query},
        download, ids, output, read,
    },
    intake::import::ImportSummary,
    store::checklist::imports::{ChangedCellRow, ImportRow, RejectedImportRow},
};

/// How often the server is asked how far a file is.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Where there is no terminal, a line after so many.
const LOOKS_A_LINE: u32 = 10;

/// Imports.
#[derive(Debug, clap::Subcommand)]
pub(super) enum ImportsCommand {
    /// Send a workbook (.xlsx) or a CSV file, checked row by row with the template
    Create {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        import: ImportArgs,
    },
    /// The newest first
    List(PageArgs),
    /// One import
    Show {
        /// Its id
        #[arg(value_parser = ids::import)]
        import: uuid::Uuid,
    },
    /// Rows that were refused
    Rejected {
        /// Its id
        #[arg(value_parser = ids::import)]
        import: uuid::Uuid,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Cells that a spreadsheet took for numbers, and what is used for them
    Changed {
        /// Its id
        #[arg(value_parser = ids::import)]
        import: uuid::Uuid,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Fetch the same file with only its bad rows and what is wrong with each
    Report {
        /// Its id
        #[arg(value_parser = ids::import)]
        import: uuid::Uuid,
        /// Where to write it, instead of standard output
        #[arg(long, short)]
        output: Option<PathBuf>,
    },
    /// Fetch an empty workbook with the columns of a template
    Form {
        #[command(flatten)]
        of: FormArgs,
        /// Where to write it, instead of standard output
        #[arg(long, short)]
        output: Option<PathBuf>,
    },
}

/// What a form is for.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct FormArgs {
    /// The number it will be sent from
    #[arg(long)]
    business_number: String,
    /// The template it will be sent with
    #[arg(long)]
    template: String,
    /// The template's language
    #[arg(long)]
    language: String,
}

/// What a file is checked with.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ImportArgs {
    /// The number it will be sent from
    #[arg(long)]
    pub(super) business_number: String,
    /// The template it will be sent with
    #[arg(long)]
    pub(super) template: String,
    /// The template's language
    #[arg(long)]
    pub(super) language: String,
    /// Country of numbers that are not international, for example JP
    #[arg(long)]
    pub(super) country: Option<String>,
    /// Pass over columns that are no slot
    #[arg(long)]
    pub(super) ignore_unknown_columns: bool,
    /// Go on with an import that broke off, with the same file
    #[arg(long, value_name = "IMPORT", value_parser = ids::import)]
    pub(super) resume: Option<uuid::Uuid>,
}

pub(super) async fn run(common: &Common, command: ImportsCommand) -> anyhow::Result<()> {
    let client = common.client()?;
    match command {
        ImportsCommand::Create { file, import } => {
            let value = create(&client, &file, &import).await?;
            if common.json { output::json(&value) } else { summary(&read(&value)?) }
        }
        ImportsCommand::List(page) => {
            let value = client.get("/v1/imports", &page.query()).await?;
            if common.json {
                return output::json(&value);
            }
            table(&read(&value)?)
        }
        ImportsCommand::Show { import } => {
            let value = client.get(&format!("/v1/imports/{import}"), &Query::new()).await?;
            if common.json { output::json(&value) } else { show(&read(&value)?) }
        }
        ImportsCommand::Rejected { import, page } => {
            let value = client.get(&format!("/v1/imports/{import}/rejected"), &page.query()).await?;
            if common.json {
                return output::json(&value);
            }
            let page: Page<RejectedImportRow> = read(&value)?;
            let row =
                |r: &RejectedImportRow| vec![r.row.to_string(), r.field.clone(), r.code.clone(), r.reason.clone()];
            output::table(&["ROW", "COLUMN", "CODE", "REASON"], &page.items.iter().map(row).collect::<Vec<_>>())?;
            output::more(page.next.as_deref())
        }
        ImportsCommand::Changed { import, page } => {
            let value = client.get(&format!("/v1/imports/{import}/changed"), &page.query()).await?;
            if common.json {
                return output::json(&value);
            }
            let page: Page<ChangedCellRow> = read(&value)?;
            let row = |r: &ChangedCellRow| vec![r.row.to_string(), r.field.clone(), r.given.clone(), r.used.clone()];
            output::table(&["ROW", "COLUMN", "CELL", "USED"], &page.items.iter().map(row).collect::<Vec<_>>())?;
            output::more(page.next.as_deref())
        }
        ImportsCommand::Report { import, output } => {
            fetch(common, &client, &format!("/v1/imports/{import}/report"), &Query::new(), output.as_deref()).await
        }
        ImportsCommand::Form { of, output } => {
            let query =
                vec![("business_number", of.business_number), ("template", of.template), ("language", of.language)];
            fetch(common, &client, "/v1/imports/form", &query, output.as_deref()).await
        }
    }
}

/// Writes a file of the server's here.
async fn fetch(
    common: &Common,
    client: &Client,
    path: &str,
    query: &Query,
    output: Option<&Path>,
) -> anyhow::Result<()> {
    let Some(output) = output else {
        return download::to_output(client, path, query).await;
    };
    let bytes = download::to_file(client, path, query, output).await?;
    if common.json {
        return output::json(&json!({ "file": output, "bytes": bytes }));
    }
    output::line(&format!("{}: {bytes} bytes", output.display()))
}

fn table(page: &Page<ImportRow>) -> anyhow::Result<()> {
    let heads = ["IMPORT", "CREATED", "FILE", "TEMPLATE", "STATE", "GOOD", "BAD"];
    let row = |i: &ImportRow| {
        let counts = [i.good, i.bad].map(|count| count.to_string());
        let names = [i.file_name.clone(), i.template.clone(), i.state.clone()];
        let first = [i.id.to_string(), output::time(i.created_at)];
        first.into_iter().chain(names).chain(counts).collect()
    };
    output::table(&heads, &page.items.iter().map(row).collect::<Vec<Vec<_>>>())?;
    output::more(page.next.as_deref())
}

fn summary(made: &ImportSummary) -> anyhow::Result<()> {
    output::line(&format!("import {}: {} rows = {} good + {} bad", made.id, made.rows, made.good, made.bad))?;
    for bad in &made.rejections {
        output::line(&format!("    row {}, {}: {} ({})", bad.row, bad.field, bad.reason, bad.code))?;
    }
    advice(made.id, made.bad, made.changed)
}

/// What to look at before anything is sent.
fn advice(import: uuid::Uuid, bad: i64, changed: i64) -> anyhow::Result<()> {
    if bad > 0 {
        output::line(&format!(
            "the bad rows as a file, to be put right: campaign-dispatch imports report {import} --output FILE"
        ))?;
    }
    if changed > 0 {
        output::line(&format!(
            "{changed} cells were numbers, not text; see what is used for them: campaign-dispatch imports changed {import}"
        ))?;
    }
    Ok(())
}

/// Sends a file, with a bar on a terminal.
pub(super) async fn create(client: &Client, file: &Path, import: &ImportArgs) -> anyhow::Result<Value> {
    let id = import.resume.unwrap_or_else(uuid::Uuid::now_v7);
    let mut query: Query = vec![
        ("id", id.to_string()),
        ("business_number", import.business_number.clone()),
        ("template", import.template.clone()),
        ("language", import.language.clone()),
        ("ignore_unknown_columns", import.ignore_unknown_columns.to_string()),
    ];
    query.extend(import.country.clone().map(|country| ("country", country)));
    query.extend(file.file_name().map(|name| ("file_name", name.to_string_lossy().into_owned())));
    // Draws nothing when standard error is no terminal.
    let bar = ProgressBar::new(tokio::fs::metadata(file).await.map_or(0, |m| m.len()));
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes}  {msg}") {
        bar.set_style(style);
    }
    let told = bar.clone();
    let sending = client.upload("/v1/imports", &query, file, move |bytes| told.inc(bytes));
    let value = tokio::select! {
        value = sending => value,
        never = tell(client, id, &bar) => match never {},
    };
    bar.finish_and_clear();
    match value {
        Err(error) if is_unfinished(client, id).await => Err(error.context(format!(
            "the file was not taken whole: the same command with --resume {id} goes on where it was"
        ))),
        value => value,
    }
}

/// Says how many rows are read: of a workbook none are before all of it has come.
async fn tell(client: &Client, id: uuid::Uuid, bar: &ProgressBar) -> Infallible {
    let mut looks: u32 = 0;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        looks += 1;
        let asked = client.raw(Method::GET, &format!("/v1/imports/{id}"), &Query::new(), None).await;
        let rows = asked.ok().and_then(|(_, import)| import["rows"].as_i64()).unwrap_or_default();
        if !bar.is_hidden() {
            bar.set_message(format!("{rows} rows read"));
        } else if looks.is_multiple_of(LOOKS_A_LINE) {
            // Beside the answer, which may be JSON; nobody may be there to read it.
            writeln!(std::io::stderr(), "{rows} rows read").ok();
        }
    }
}

/// Whether an import waits for the rest of its file, as far as that can be asked.
async fn is_unfinished(client: &Client, id: uuid::Uuid) -> bool {
    let asked = client.raw(Method::GET, &format!("/v1/imports/{id}"), &Query::new(), None).await;
    asked.map_or(true, |(status, import)| status.is_success() && import["state"] == "reading")
}

fn show(i: &ImportRow) -> anyhow::Result<()> {
    output::fields(&[
        ("import", i.id.to_string()),
        ("file", i.file_name.clone()),
        ("for", format!("{} {} ({})", i.template, i.language, i.account)),
        ("state", i.state.clone()),
        ("problem", output::maybe(i.problem.as_ref())),
        ("rows", format!("{} = {} good + {} bad", i.rows, i.good, i.bad)),
    ])?;
    advice(i.id, i.bad, i.changed)
}
