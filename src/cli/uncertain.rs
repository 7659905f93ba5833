//! Uncertain messages: listed, and decided about by a person.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use serde_json::json;
use uuid::Uuid;

use crate::{
    checklist::{Page, Resolved, UncertainMessage},
    cli::{
        Common, PageArgs,
        batches::with,
        client::{Client, Method, Query},
        ids, output, read,
    },
    domain::{ids::MessageKey, uncertain::Decided},
};

/// Ids in one request.
const IDS: usize = 5000;

/// Uncertain messages.
#[derive(Debug, clap::Subcommand)]
pub(super) enum UncertainCommand {
    /// What was called, and nobody knows whether it was taken; the latest due batch first
    List {
        /// Only of this batch
        #[arg(long, value_parser = ids::batch)]
        batch: Option<Uuid>,
        /// Only of this business number
        #[arg(long)]
        number: Option<String>,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Say what became of calls, by evidence you have
    #[command(
        after_help = "At least one of --batch, --number, MESSAGE and --ids-file says about which; together they \
                            narrow each other. What is not uncertain any more is left as it is and counted as moved."
    )]
    Resolve(ResolveArgs),
}

/// What `resolve` takes.
#[derive(Debug, clap::Args)]
pub(super) struct ResolveArgs {
    /// `<batch id>.<seq>`, several if need be
    #[arg(value_name = "MESSAGE", value_parser = ids::message)]
    messages: Vec<MessageKey>,
    /// A file with one message id a line; `-` is standard input
    #[arg(long, value_name = "FILE")]
    ids_file: Option<PathBuf>,
    /// Those of this batch
    #[arg(long, value_parser = ids::batch)]
    batch: Option<Uuid>,
    /// Those of this business number
    #[arg(long)]
    number: Option<String>,
    /// sent: it was taken; failed: it was not, leave it; resend: it was not, call again
    #[arg(long = "as", value_name = "sent|failed|resend")]
    decided: Decided,
    /// For whoever asks later
    #[arg(long)]
    reason: String,
    /// What you know it by: a report of the provider, a ticket, …
    #[arg(long, default_value = "")]
    evidence: String,
    /// Only say how many it would be
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(common: &Common, command: UncertainCommand) -> anyhow::Result<()> {
    match command {
        UncertainCommand::List { batch, number, page } => {
            let mut query = page.query();
            with(&mut query, "batch", batch);
            with(&mut query, "number", number);
            list(common, &query).await
        }
        UncertainCommand::Resolve(args) => resolve(common, args).await,
    }
}

async fn list(common: &Common, query: &Query) -> anyhow::Result<()> {
    let value = common.client()?.get("/v1/uncertain", query).await?;
    if common.json {
        return output::json(&value);
    }
    let page: Page<UncertainMessage> = read(&value)?;
    let row = |m: &UncertainMessage| {
        let (time, row) = (|at: Option<_>| at.map(output::time).unwrap_or_default(), &m.message.row);
        vec![
            m.message.id.clone(),
            row.recipient.clone(),
            row.business_number.clone(),
            row.category.clone(),
            time(m.called_at),
            time(row.due_at),
            output::maybe(m.call_code.as_ref()),
            output::maybe(m.call_reason.as_ref()),
        ]
    };
    let heads = ["MESSAGE", "RECIPIENT", "FROM", "CATEGORY", "CALLED", "POLICY DECIDES", "WHY", ""];
    output::table(&heads, &page.items.iter().map(row).collect::<Vec<_>>())?;
    output::more(page.next.as_deref())
}

async fn resolve(common: &Common, args: ResolveArgs) -> anyhow::Result<()> {
    let mut ids: Vec<String> = args.messages.iter().map(ToString::to_string).collect();
    if let Some(file) = &args.ids_file {
        ids.extend(ids_of(file)?);
    }
    let is_named = !args.messages.is_empty() || args.ids_file.is_some();
    if is_named && ids.is_empty() {
        bail!("no message is named: the file is empty");
    }
    ids.sort_unstable();
    ids.dedup();
    let client = common.client()?;
    let mut total = Resolved::default();
    if is_named {
        for chunk in ids.chunks(IDS) {
            all(&client, &args, Some(chunk), &mut total).await.map_err(|error| so_far(error, &total))?;
        }
    } else {
        all(&client, &args, None, &mut total).await.map_err(|error| so_far(error, &total))?;
    }
    if common.json {
        return output::json(&serde_json::to_value(&total)?);
    }
    if args.dry_run {
        return output::line(&format!(
            "{} messages are uncertain and would be resolved as {}",
            total.found, args.decided
        ));
    }
    let moved = if total.moved > 0 {
        format!("; {} were not uncertain (any more) and are left as they are", total.moved)
    } else {
        String::new()
    };
    output::line(&format!("{} messages are resolved as {}{moved}", total.resolved, args.decided))
}

/// Asks until the server has gone through all, a part at a time.
async fn all(client: &Client, args: &ResolveArgs, ids: Option<&[String]>, total: &mut Resolved) -> anyhow::Result<()> {
    let mut after: Option<String> = None;
    loop {
        let body = json!({"batch": args.batch, "number": args.number, "messages": ids, "as": args.decided, "reason": args.reason,
                          "evidence": args.evidence, "dry_run": args.dry_run, "after": after});
        let answer = client.call(Method::POST, "/v1/uncertain/resolve", &Query::new(), Some(&body)).await?;
        let done: Resolved = read(&answer)?;
        total.found += done.found;
        total.resolved += done.resolved;
        total.moved += done.moved;
        match done.next {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
    }
}

/// A command that failed on the way says what stands.
fn so_far(error: anyhow::Error, total: &Resolved) -> anyhow::Error {
    if total.resolved == 0 {
        return error;
    }
    error.context(format!("stopped after {} were resolved; the same command goes on with the rest", total.resolved))
}

/// One id a line; what is no id is told with its line before anything is done.
fn ids_of(file: &Path) -> anyhow::Result<Vec<String>> {
    let text = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().lock().read_to_string(&mut text).context("could not read standard input")?;
        text
    } else {
        std::fs::read_to_string(file).with_context(|| format!("could not read {}", file.display()))?
    };
    ids_in(&text)
}

fn ids_in(text: &str) -> anyhow::Result<Vec<String>> {
    let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim())).filter(|(_, line)| !line.is_empty());
    lines
        .map(|(number, line)| Ok(ids::message(line).with_context(|| format!("line {number}: {line}"))?.to_string()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_line_by_line_and_a_bad_one_is_named() {
        let id = "01900000-0000-7000-8000-000000000001.7";
        assert_eq!(ids_in(&format!("{id}\r\n\n  {id}  \n")).unwrap(), [id, id]);
        let error = ids_in(&format!("{id}\nnonsense\n")).unwrap_err().to_string();
        assert_eq!(error, "line 2: nonsense");
    }
}
