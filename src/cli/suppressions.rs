//! Who must not be messaged, and what recipients wrote.

use std::path::PathBuf;

use anyhow::bail;
use chrono::{DateTime, Utc};
use indicatif::ProgressBar;
use serde_json::json;

use crate::{
    checklist::Page,
    cli::{
        Common, PageArgs,
        batches::with,
        client::{Client, Method, Query},
        exports::{self, FileArgs},
        output, read,
    },
    domain::{
        Channel,
        suppression::{SuppressionScope, SuppressionSource},
    },
    http::SuppressRequest,
    intake::suppressions::SuppressionReport,
    store::{received::ReceivedRow, suppressions::SuppressionRow},
};

/// Suppressions.
#[derive(Debug, clap::Subcommand)]
pub(super) enum SuppressionsCommand {
    /// Send no more to these recipients
    Add {
        /// Whom
        #[arg(long, required = true, value_delimiter = ',', allow_hyphen_values = true)]
        to: Vec<String>,
        #[command(flatten)]
        cover: CoverArgs,
    },
    /// The same of a workbook (.xlsx) or a CSV file with the column `to`
    Import {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        cover: CoverArgs,
    },
    /// The newest first
    List {
        /// Only of this recipient
        #[arg(long, allow_hyphen_values = true)]
        recipient: Option<String>,
        /// Only of this account
        #[arg(long)]
        account: Option<String>,
        /// marketing, account or tenant
        #[arg(long)]
        scope: Option<SuppressionScope>,
        /// `provider_code`, preference, button, keyword, api or file
        #[arg(long)]
        source: Option<SuppressionSource>,
        /// Lifted ones too
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Let messages go to the recipient again
    Lift {
        /// Its id
        suppression: i64,
        /// For whoever asks later
        #[arg(long)]
        reason: String,
    },
}

/// What is no more sent.
#[derive(Debug, clap::Args)]
pub(super) struct CoverArgs {
    /// marketing or account, of --account; tenant: everything of all accounts
    #[arg(long, default_value = "marketing")]
    scope: SuppressionScope,
    /// The account; none with the scope tenant
    #[arg(long)]
    account: Option<String>,
    /// What the addresses are, where accounts are of several channels
    #[arg(long)]
    channel: Option<Channel>,
    /// Country of numbers that are not international, for example JP
    #[arg(long)]
    country: Option<String>,
    /// For whoever asks later
    #[arg(long)]
    reason: String,
}

/// What recipients wrote.
#[derive(Debug, clap::Subcommand)]
pub(super) enum ReceivedCommand {
    /// The latest first; senders are masked and texts left out without the scope pii
    List {
        #[command(flatten)]
        which: ReceivedArgs,
        #[command(flatten)]
        page: PageArgs,
    },
    /// The whole list as a file for a spreadsheet
    Export {
        #[command(flatten)]
        which: ReceivedArgs,
        #[command(flatten)]
        file: FileArgs,
    },
}

/// Which received messages.
#[derive(Debug, clap::Args)]
pub(super) struct ReceivedArgs {
    /// Only to this business number
    #[arg(long, allow_hyphen_values = true)]
    number: Option<String>,
    /// Only to this account
    #[arg(long)]
    account: Option<String>,
    /// Only of this channel
    #[arg(long)]
    channel: Option<Channel>,
    /// Only from this sender
    #[arg(long, allow_hyphen_values = true)]
    sender: Option<String>,
    /// Only what was received then or later, for example 2026-12-01T09:00:00+09:00
    #[arg(long)]
    since: Option<DateTime<Utc>>,
    /// Only what was received before then
    #[arg(long)]
    until: Option<DateTime<Utc>>,
}

impl ReceivedArgs {
    fn push(self, query: &mut Query) {
        with(query, "number", self.number);
        with(query, "account", self.account);
        with(query, "channel", self.channel);
        with(query, "sender", self.sender);
        with(query, "since", self.since.map(|at| at.to_rfc3339()));
        with(query, "until", self.until.map(|at| at.to_rfc3339()));
    }
}

pub(super) async fn run(common: &Common, command: SuppressionsCommand) -> anyhow::Result<()> {
    let client = common.client()?;
    match command {
        SuppressionsCommand::Add { to, cover } => {
            let CoverArgs { scope, account, channel, country, reason } = cover;
            let request = json!(SuppressRequest { to, scope, account, channel, country, reason });
            let value = client.call(Method::POST, "/v1/suppressions", &Query::new(), Some(&request)).await?;
            report(common, &value)
        }
        SuppressionsCommand::Import { file, cover } => import(common, &client, &file, cover).await,
        SuppressionsCommand::List { recipient, account, scope, source, all, page } => {
            let mut query = page.query();
            with(&mut query, "recipient", recipient);
            with(&mut query, "account", account);
            with(&mut query, "scope", scope);
            with(&mut query, "source", source);
            with(&mut query, "all", all.then_some(true));
            let value = client.get("/v1/suppressions", &query).await?;
            if common.json {
                return output::json(&value);
            }
            let page: Page<SuppressionRow> = read(&value)?;
            let heads = ["SUPPRESSION", "RECIPIENT", "SCOPE", "ACCOUNT", "SOURCE", "SINCE", "STATE", ""];
            output::table(&heads, &page.items.iter().map(row).collect::<Vec<_>>())?;
            output::more(page.next.as_deref())
        }
        SuppressionsCommand::Lift { suppression, reason } => {
            let (path, query) = (format!("/v1/suppressions/{suppression}"), vec![("reason", reason)]);
            client.call(Method::DELETE, &path, &query, None).await?;
            if common.json {
                output::json(&json!({ "lifted": suppression }))
            } else {
                output::line(&format!("suppression {suppression} is lifted"))
            }
        }
    }
}

async fn import(common: &Common, client: &Client, file: &std::path::Path, cover: CoverArgs) -> anyhow::Result<()> {
    let CoverArgs { scope, account, channel, country, reason } = cover;
    let mut query = vec![("scope", scope.to_string()), ("reason", reason)];
    with(&mut query, "account", account);
    with(&mut query, "channel", channel);
    with(&mut query, "country", country);
    // Draws nothing when standard error is no terminal.
    let bar = ProgressBar::new(tokio::fs::metadata(file).await.map_or(0, |m| m.len()));
    let counted = bar.clone();
    let value = client.upload("/v1/suppressions/import", &query, file, move |bytes| counted.inc(bytes)).await;
    bar.finish_and_clear();
    report(common, &value?)
}

/// Says what became of addresses. That none was taken is a failure.
fn report(common: &Common, value: &serde_json::Value) -> anyhow::Result<()> {
    let report: SuppressionReport = read(value)?;
    if common.json {
        output::json(value)?;
    } else {
        let SuppressionReport { rows, good, bad, added, unchanged, changed, .. } = report;
        output::line(&format!("{rows} rows = {good} good ({added} added, {unchanged} unchanged) + {bad} bad"))?;
        if changed > 0 {
            output::line(&format!("{changed} addresses were numbers, not text, and are recovered"))?;
        }
        for bad in &report.rejections {
            output::line(&format!("    row {}, {}: {} ({})", bad.row, bad.field, bad.reason, bad.code))?;
        }
    }
    if report.good == 0 && report.bad > 0 {
        bail!("none of the addresses was taken");
    }
    Ok(())
}

fn row(s: &SuppressionRow) -> Vec<String> {
    let by = output::maybe(s.lifted_by.as_ref());
    let state = s.lifted_at.map_or_else(|| "in force".to_owned(), |at| format!("lifted {} by {by}", output::time(at)));
    vec![
        s.id.to_string(),
        s.recipient.clone(),
        s.scope.clone(),
        output::maybe(s.account.as_ref()),
        s.source.clone(),
        output::time(s.since),
        state,
        s.reason.clone().unwrap_or_else(|| s.detail.clone()),
    ]
}

pub(super) async fn received(common: &Common, command: ReceivedCommand) -> anyhow::Result<()> {
    let (which, page) = match command {
        ReceivedCommand::Export { which, file } => {
            let mut query = Query::new();
            which.push(&mut query);
            return exports::export(common, "/v1/received/export", query, &file).await;
        }
        ReceivedCommand::List { which, page } => (which, page),
    };
    let mut query = page.query();
    which.push(&mut query);
    let value = common.client()?.get("/v1/received", &query).await?;
    if common.json {
        return output::json(&value);
    }
    let page: Page<ReceivedRow> = read(&value)?;
    let row = |r: &ReceivedRow| {
        vec![
            output::time(r.received_at),
            r.sender.clone(),
            r.business_number.clone().unwrap_or_else(|| r.account.clone()),
            r.kind.clone(),
            output::maybe(r.wish.as_ref()),
            r.text.clone().unwrap_or_default().replace(char::is_control, " "),
        ]
    };
    let heads = ["RECEIVED", "SENDER", "TO", "KIND", "WISH", ""];
    output::table(&heads, &page.items.iter().map(row).collect::<Vec<_>>())?;
    output::more(page.next.as_deref())
}
