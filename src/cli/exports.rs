//! Whole lists as files, and counts by state.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use anyhow::bail;
use chrono::{DateTime, Utc};
use serde_json::json;

use crate::{
    checklist::{Format, Report},
    cli::{Common, batches::with, client::Query, download, output, read},
    store::checklist::reports::{By, ReportRow},
};

/// Where a list goes.
#[derive(Debug, clap::Args)]
pub(super) struct FileArgs {
    /// The file, .csv or .xlsx; `-` is standard output
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// csv or xlsx, where the name of the file does not say it
    #[arg(long)]
    format: Option<Format>,
}

impl FileArgs {
    fn format(&self) -> anyhow::Result<Format> {
        let ending = self.to.extension().and_then(OsStr::to_str).unwrap_or_default();
        match (self.format, ending.to_ascii_lowercase().parse()) {
            (Some(format), _) | (None, Ok(format)) => Ok(format),
            (None, Err(_)) => bail!("say what kind of file {} is: --format csv or --format xlsx", self.to.display()),
        }
    }
}

/// Writes the list behind `path` to a file, which has its name only when it is whole.
pub(super) async fn export(common: &Common, path: &str, mut query: Query, file: &FileArgs) -> anyhow::Result<()> {
    let client = common.client()?;
    query.push(("format", file.format()?.to_string()));
    if file.to == Path::new("-") {
        return download::to_output(&client, path, &query).await;
    }
    let bytes = download::to_file(&client, path, &query, &file.to).await?;
    let name = file.to.display().to_string();
    if common.json {
        return output::json(&json!({ "file": name, "bytes": bytes }));
    }
    output::line(&format!("{name}: {bytes} bytes"))
}

/// Counts of messages by state, of the batches that are due in a range of time.
#[derive(Debug, clap::Args)]
pub(super) struct ReportArgs {
    /// day, `business_number`, template, campaign or error
    #[arg(long)]
    by: By,
    /// Where a day begins, for example Asia/Tokyo
    #[arg(long, default_value = "UTC")]
    zone: String,
    /// Due then or later, for example 2026-12-01T00:00:00+09:00; six days before --until unless told
    #[arg(long)]
    since: Option<DateTime<Utc>>,
    /// Due before then; now unless told
    #[arg(long)]
    until: Option<DateTime<Utc>>,
}

pub(super) async fn report(common: &Common, args: ReportArgs) -> anyhow::Result<()> {
    let mut query = vec![("by", args.by.to_string()), ("zone", args.zone)];
    with(&mut query, "since", args.since.map(|at| at.to_rfc3339()));
    with(&mut query, "until", args.until.map(|at| at.to_rfc3339()));
    let value = common.client()?.get("/v1/reports", &query).await?;
    if common.json {
        return output::json(&value);
    }
    let report: Report = read(&value)?;
    let by = report.by.as_str().to_ascii_uppercase();
    let heads = [
        by.as_str(),
        "BATCHES",
        "MESSAGES",
        "PENDING",
        "UNCERTAIN",
        "ACCEPTED",
        "SENT",
        "DELIVERED",
        "READ",
        "FAILED",
        "EXPIRED",
        "SUPPRESSED",
        "CANCELLED",
    ];
    let row = |r: &ReportRow| {
        let counts = [
            r.batches,
            r.messages,
            r.pending,
            r.uncertain,
            r.accepted,
            r.sent,
            r.delivered,
            r.read,
            r.failed,
            r.expired,
            r.suppressed,
            r.cancelled,
        ];
        std::iter::once(r.key.clone()).chain(counts.map(|count| count.to_string())).collect()
    };
    output::table(&heads, &report.rows.iter().map(row).collect::<Vec<Vec<_>>>())?;
    let (since, until) = (output::time(report.since), output::time(report.until));
    output::line(&format!("from {since} until {until}, days of {}", report.zone))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_file_says_what_it_is() {
        let of = |to: &str, format| FileArgs { to: to.into(), format }.format().ok();
        assert_eq!((of("a.XLSX", None), of("a.csv", None)), (Some(Format::Xlsx), Some(Format::Csv)));
        assert_eq!(
            (of("-", Some(Format::Csv)), of("a.csv", Some(Format::Xlsx))),
            (Some(Format::Csv), Some(Format::Xlsx))
        );
        assert_eq!((of("-", None), of("a.txt", None)), (None, None));
    }
}
