//! Batches as tables and followed on a terminal; refused jobs.

use std::{io::IsTerminal as _, time::Duration};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use serde_json::{Value, json};

use crate::{
    checklist::Page,
    cli::{
        Common, PageArgs,
        client::{Method, Query},
        exports::{self, FileArgs},
        filters::BatchFilterArgs,
        ids, output, read,
    },
    store::{
        checklist::{
            batches::BatchRow,
            refused::{RejectedJobRow, RejectedRecipientRow},
        },
        control::{Released, Stopped},
    },
};

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Jobs.
#[derive(Debug, clap::Subcommand)]
pub(super) enum JobsCommand {
    /// Jobs that were refused whole, with field and reason
    Rejected(PageArgs),
}

/// Batches.
#[derive(Debug, clap::Subcommand)]
pub(super) enum BatchesCommand {
    /// The newest first; of one number the latest due first
    List {
        #[command(flatten)]
        which: Box<BatchFilterArgs>,
        #[command(flatten)]
        page: PageArgs,
    },
    /// The whole list as a file for a spreadsheet
    Export {
        #[command(flatten)]
        which: Box<BatchFilterArgs>,
        #[command(flatten)]
        file: FileArgs,
    },
    /// One batch
    Show {
        /// Its id
        #[arg(value_parser = ids::batch)]
        batch: uuid::Uuid,
    },
    /// Follow a batch until nothing is pending
    Watch {
        /// Its id
        #[arg(value_parser = ids::batch)]
        batch: uuid::Uuid,
    },
    /// Stop it for now
    Pause(StopArgs),
    /// Let it go on
    Resume(StopArgs),
    /// Give up what it has not sent yet, for good
    Cancel(StopArgs),
    /// Recipients of a batch that were refused
    Rejected {
        /// Its id
        #[arg(value_parser = ids::batch)]
        batch: uuid::Uuid,
        #[command(flatten)]
        page: PageArgs,
    },
}

/// Which batch, and why.
#[derive(Debug, clap::Args)]
pub(super) struct StopArgs {
    /// Its id
    #[arg(value_parser = ids::batch)]
    batch: uuid::Uuid,
    /// For whoever asks later
    #[arg(long)]
    reason: String,
}

/// Adds a pair that was given.
pub(super) fn with(query: &mut Query, name: &'static str, value: Option<impl ToString>) {
    query.extend(value.map(|value| (name, value.to_string())));
}

pub(super) async fn jobs(common: &Common, command: JobsCommand) -> anyhow::Result<()> {
    let JobsCommand::Rejected(page) = command;
    let value = common.client()?.get("/v1/jobs/rejected", &page.query()).await?;
    if common.json {
        return output::json(&value);
    }
    let page: Page<RejectedJobRow> = read(&value)?;
    for job in &page.items {
        let id = output::maybe(job.job_id.as_ref());
        let times = if job.times > 1 { format!(", {} times", job.times) } else { String::new() };
        output::line(&format!("{}  {} {id} by {}{times}", output::time(job.rejected_at), job.producer, job.source))?;
        for error in job.errors.as_array().into_iter().flatten() {
            output::line(&format!("    {}", output::problem(error)))?;
        }
    }
    output::more(page.next.as_deref())
}

pub(super) async fn batches(common: &Common, command: BatchesCommand) -> anyhow::Result<()> {
    let client = common.client()?;
    match command {
        BatchesCommand::Export { which, file } => {
            let mut query = Query::new();
            which.push(&mut query);
            exports::export(common, "/v1/batches/export", query, &file).await
        }
        BatchesCommand::List { which, page } => {
            let mut query = page.query();
            which.push(&mut query);
            let value = client.get("/v1/batches", &query).await?;
            if common.json {
                return output::json(&value);
            }
            let page: Page<BatchRow> = read(&value)?;
            batch_table(&page.items)?;
            output::more(page.next.as_deref())
        }
        BatchesCommand::Show { batch } => {
            let value = client.get(&format!("/v1/batches/{batch}"), &Query::new()).await?;
            if common.json { output::json(&value) } else { show_batch(&read(&value)?) }
        }
        BatchesCommand::Watch { batch } => watch(common, batch).await,
        BatchesCommand::Pause(args) => stop(common, "pause", &args).await,
        BatchesCommand::Cancel(args) => stop(common, "cancel", &args).await,
        BatchesCommand::Resume(args) => resume(common, &args).await,
        BatchesCommand::Rejected { batch, page } => {
            let value = client.get(&format!("/v1/batches/{batch}/rejected"), &page.query()).await?;
            if common.json {
                return output::json(&value);
            }
            let page: Page<RejectedRecipientRow> = read(&value)?;
            let row =
                |r: &RejectedRecipientRow| vec![r.row.to_string(), r.pointer.clone(), r.code.clone(), r.reason.clone()];
            output::table(&["ROW", "POINTER", "CODE", "REASON"], &page.items.iter().map(row).collect::<Vec<_>>())?;
            output::more(page.next.as_deref())
        }
    }
}

async fn change(common: &Common, what: &str, args: &StopArgs) -> anyhow::Result<Value> {
    let (path, body) = (format!("/v1/batches/{}/{what}", args.batch), json!({ "reason": args.reason }));
    common.client()?.call(Method::POST, &path, &Query::new(), Some(&body)).await
}

async fn stop(common: &Common, what: &str, args: &StopArgs) -> anyhow::Result<()> {
    let value = change(common, what, args).await?;
    if common.json {
        return output::json(&value);
    }
    let Stopped { waiting, calling, uncertain } = read(&value)?;
    let fate = if what == "cancel" { "are given up" } else { "wait" };
    output::line(&format!(
        "{waiting} messages {fate}; {calling} were being called and may arrive, {uncertain} are uncertain"
    ))
}

async fn resume(common: &Common, args: &StopArgs) -> anyhow::Result<()> {
    let value = change(common, "resume", args).await?;
    if common.json {
        return output::json(&value);
    }
    let released: Released = read(&value)?;
    let was = if released.was_paused { "goes on" } else { "was not paused" };
    output::line(&format!("batch {} {was}", args.batch))?;
    for hold in released.holds {
        output::line(&format!("hold {hold} on it is still open: campaign-dispatch holds show {hold}"))?;
    }
    Ok(())
}

const fn gone_out(batch: &BatchRow) -> i32 {
    batch.accepted + batch.sent + batch.delivered + batch.read
}

const fn not_sent(batch: &BatchRow) -> i32 {
    batch.failed + batch.expired + batch.suppressed + batch.cancelled
}

fn batch_table(batches: &[BatchRow]) -> anyhow::Result<()> {
    let heads = [
        "BATCH",
        "CREATED",
        "JOB",
        "CAMPAIGN",
        "NUMBER",
        "TEMPLATE",
        "RECIPIENTS",
        "PENDING",
        "UNCERTAIN",
        "SENT",
        "FAILED",
    ];
    let row = |b: &BatchRow| {
        let counts = [b.recipients, b.pending, b.uncertain, gone_out(b), not_sent(b)].map(|count| count.to_string());
        let names = [
            b.batch_id.to_string(),
            output::time(b.created_at),
            b.job_id.clone(),
            output::maybe(b.campaign.as_ref()),
            b.business_number.clone(),
            b.template.clone(),
        ];
        names.into_iter().chain(counts).collect()
    };
    output::table(&heads, &batches.iter().map(row).collect::<Vec<Vec<_>>>())
}

fn show_batch(b: &BatchRow) -> anyhow::Result<()> {
    output::fields(&[
        ("batch", b.batch_id.to_string()),
        ("job", format!("{} / {}", b.producer, b.job_id)),
        ("campaign", output::maybe(b.campaign.as_ref())),
        ("from", format!("{} ({}, {})", b.business_number, b.account, b.channel)),
        ("template", format!("{} {} ({})", b.template, b.language, b.category)),
        ("state", b.state.clone()),
        ("send at", output::time(b.send_at)),
        ("expires at", output::time(b.expires_at)),
        ("cancelled at", b.cancelled_at.map(output::time).unwrap_or_default()),
        ("recipients", format!("{} (and {} refused)", b.recipients, b.rejected)),
        ("pending", b.pending.to_string()),
        ("uncertain", b.uncertain.to_string()),
        (
            "sent",
            format!(
                "{}  = accepted {} + sent {} + delivered {} + read {}",
                gone_out(b),
                b.accepted,
                b.sent,
                b.delivered,
                b.read
            ),
        ),
        (
            "failed",
            format!(
                "{}  = failed {} + expired {} + suppressed {} + cancelled {}",
                not_sent(b),
                b.failed,
                b.expired,
                b.suppressed,
                b.cancelled
            ),
        ),
    ])
}

/// Follows a batch until nothing is pending: a bar on a terminal, a line a second elsewhere, JSON lines when asked.
pub(super) async fn watch(common: &Common, batch: uuid::Uuid) -> anyhow::Result<()> {
    let bar = (!common.json && std::io::stderr().is_terminal()).then(progress_bar);
    let followed = tokio::select! {
        followed = follow(common, batch, bar.as_ref()) => followed,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            Err(anyhow::anyhow!("stopped following; the batch goes on: campaign-dispatch batches watch {batch}"))
        }
    };
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    match followed? {
        Some(counts) => output::line(&counts),
        None => Ok(()),
    }
}

fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len}  {rate}  {msg}");
    let rate = |state: &ProgressState, text: &mut dyn std::fmt::Write| {
        // Drawing goes on without it.
        write!(text, "{:.0}/s", state.per_sec()).ok();
    };
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).with_key("rate", rate))
}

/// The last counts, when no line was written of them.
async fn follow(common: &Common, id: uuid::Uuid, bar: Option<&ProgressBar>) -> anyhow::Result<Option<String>> {
    let client = common.client()?;
    loop {
        let value = client.get(&format!("/v1/batches/{id}"), &Query::new()).await?;
        let batch: BatchRow = read(&value)?;
        let done = u64::try_from(batch.recipients - batch.pending).unwrap_or_default();
        let counts = counts(&batch);
        match bar {
            Some(bar) => {
                bar.set_length(u64::try_from(batch.recipients).unwrap_or_default());
                bar.set_position(done);
                bar.set_message(counts.clone());
            }
            None if common.json => output::line(&value.to_string())?,
            None => output::line(&format!("{done}/{} {counts}", batch.recipients))?,
        }
        if batch.pending == 0 && batch.state == "planned" {
            return Ok(bar.map(|_| format!("{done}/{} {counts}", batch.recipients)));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn counts(batch: &BatchRow) -> String {
    format!(
        "sent {} failed {} uncertain {} pending {}",
        gone_out(batch),
        not_sent(batch),
        batch.uncertain,
        batch.pending
    )
}
