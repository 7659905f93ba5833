//! Publishing a job, by HTTP or as upstream does it: over RabbitMQ, with an answer to `reply_to`.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use crate::cli::client::Method;
use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use crate::{
    broker::{BrokerOptions, Topology, request},
    cli::{
        Common, batches,
        client::Query,
        forecast,
        imports::{self, ImportArgs},
        output,
    },
    intake::job::CANCEL_JOB,
};

const ANSWER_WITHIN: Duration = Duration::from_mins(1);
const REJECTIONS_SHOWN: usize = 10;
/// Global options that are set stay out of it.
const USAGE: &str = "campaign-dispatch send [OPTIONS] <FILE>
       campaign-dispatch send [OPTIONS] --business-number <BUSINESS_NUMBER> --template <TEMPLATE> \
                     --language <LANGUAGE> --producer <PRODUCER> <--to <TO>|--csv <CSV>>";

/// What to publish: a file with the whole job, or its parts.
#[expect(clippy::struct_excessive_bools, reason = "switches of a command")]
#[derive(Debug, clap::Args)]
#[command(override_usage = USAGE)]
pub(super) struct SendArgs {
    /// The job as JSON (send-job/v1 or cancel-job/v1)
    #[arg(conflicts_with_all = ["business_number", "template", "language", "to", "param", "csv", "job_id", "producer", "send_at", "campaign"])]
    file: Option<PathBuf>,
    /// The number to send from
    #[arg(long, required_unless_present = "file")]
    business_number: Option<String>,
    /// The template
    #[arg(long, required_unless_present = "file")]
    template: Option<String>,
    /// The template's language
    #[arg(long, required_unless_present = "file")]
    language: Option<String>,
    /// Who publishes, as registered
    #[arg(long, required_unless_present = "file", env = "DISPATCH__CLIENT__PRODUCER")]
    producer: Option<String>,
    /// A recipient; may be given again
    #[arg(long)]
    to: Vec<String>,
    /// A value for every recipient, SLOT=VALUE; may be given again
    #[arg(long, value_name = "SLOT=VALUE")]
    param: Vec<String>,
    /// Recipients as CSV: imported first, then sent to
    #[arg(long, conflicts_with = "to")]
    csv: Option<PathBuf>,
    /// Country of numbers in the CSV that are not international, for example JP
    #[arg(long, requires = "csv")]
    country: Option<String>,
    /// Names the job; the same again sends nothing. Drawn when not given
    #[arg(long)]
    job_id: Option<String>,
    /// A name to find the batch by
    #[arg(long)]
    campaign: Option<String>,
    /// Not before, for example 2026-12-01T09:00:00+09:00
    #[arg(long)]
    send_at: Option<chrono::DateTime<chrono::FixedOffset>>,
    /// Check only; store nothing
    #[arg(long, conflicts_with = "amqp")]
    dry_run: bool,
    /// Only tell how many it would reach, and when it would start and be through
    #[arg(long, conflicts_with_all = ["amqp", "dry_run", "watch"])]
    forecast: bool,
    /// Publish over RabbitMQ (`AMQP_URL`) and wait for the answer
    #[arg(long)]
    amqp: bool,
    /// With --amqp: by the queue of authentication jobs
    #[arg(long, requires = "amqp")]
    urgent: bool,
    /// Then follow the batch until nothing is pending
    #[arg(long)]
    watch: bool,
}

pub(super) async fn run(common: &Common, args: SendArgs) -> anyhow::Result<()> {
    let job = match &args.file {
        Some(path) => {
            let text = tokio::fs::read(path).await.with_context(|| format!("could not read {}", path.display()))?;
            serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", path.display()))?
        }
        None => from_parts(common, &args).await?,
    };
    if args.forecast {
        let value = common.client()?.call(Method::POST, "/v1/forecast", &Query::new(), Some(&job)).await?;
        return forecast::show(common, &value);
    }
    let answer = if args.amqp {
        by_broker(common, &job, args.urgent).await?
    } else {
        by_http(common, &job, args.dry_run).await?
    };
    if common.json {
        output::json(&answer)?;
    } else {
        show(&answer, args.dry_run)?;
    }
    if answer["status"] != "accepted" {
        bail!("{}", refusal(&job, &answer));
    }
    match answer["batch_id"].as_str() {
        Some(batch) if args.watch && !args.dry_run => batches::watch(common, batch.parse()?).await,
        _ => Ok(()),
    }
}

/// What is to be done about a refused job.
fn refusal(job: &Value, answer: &Value) -> &'static str {
    let has = |code| answer["errors"].as_array().into_iter().flatten().any(|error| error["code"] == code);
    if job["schema"] == CANCEL_JOB {
        "nothing was cancelled"
    } else if has("job_id_reused") {
        "the job was refused: its job id belongs to another job, which stays as it is; give this one an id of its own"
    } else {
        "the job was refused: correct it and send it again, the job id is still free"
    }
}

async fn from_parts(common: &Common, args: &SendArgs) -> anyhow::Result<Value> {
    let part = |value: &Option<String>| value.clone().unwrap_or_default();
    let params: BTreeMap<&str, &str> = args
        .param
        .iter()
        .map(|pair| pair.split_once('=').with_context(|| format!("--param {pair}: write SLOT=VALUE")))
        .collect::<anyhow::Result<_>>()?;
    let mut job = json!({
        "schema": "send-job/v1",
        "job_id": args.job_id.clone().unwrap_or_else(|| format!("cli-{}", uuid::Uuid::now_v7())),
        "producer": part(&args.producer),
        "business_number": part(&args.business_number),
        "template": { "name": part(&args.template), "language": part(&args.language) },
        "params": params,
    });
    if let Some(file) = &args.csv {
        let import = ImportArgs {
            business_number: part(&args.business_number),
            template: part(&args.template),
            language: part(&args.language),
            country: args.country.clone(),
            ignore_unknown_columns: false,
            resume: None,
        };
        let imported = imports::create(&common.client()?, file, &import).await?;
        if !common.json {
            output::line(&format!(
                "import {}: {} good, {} bad",
                imported["id"].as_str().unwrap_or_default(),
                imported["good"],
                imported["bad"]
            ))?;
        }
        job["audience"] = json!({ "import": imported["id"] });
    } else if args.to.is_empty() {
        bail!("nobody to send to: give --to or --csv");
    } else {
        job["recipients"] = args.to.iter().map(|to| json!({ "to": to })).collect();
    }
    if let Some(campaign) = &args.campaign {
        job["campaign"] = json!(campaign);
    }
    if let Some(at) = &args.send_at {
        job["send_at"] = json!(at.to_rfc3339());
    }
    Ok(job)
}

async fn by_http(common: &Common, job: &Value, dry_run: bool) -> anyhow::Result<Value> {
    let query: Query = if dry_run { vec![("dry_run", "true".to_owned())] } else { Query::new() };
    let client = common.client()?;
    let (status, answer) = client.raw(Method::POST, "/v1/jobs", &query, Some(job)).await?;
    if answer.get("status").is_none() {
        let errors = &answer["errors"];
        bail!("refused ({status}): {}", errors[0]["reason"].as_str().unwrap_or("no reason was given"));
    }
    Ok(answer)
}

async fn by_broker(common: &Common, job: &Value, urgent: bool) -> anyhow::Result<Value> {
    let options = BrokerOptions::from_settings(&common.settings()?.broker);
    let key = if urgent { Topology::URGENT_KEY } else { Topology::JOBS_KEY };
    let answer = request::ask(&options, key, serde_json::to_vec(job)?, ANSWER_WITHIN).await?;
    serde_json::from_slice(&answer).context("the answer is not JSON")
}

fn show(answer: &Value, dry_run: bool) -> anyhow::Result<()> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for error in answer["errors"].as_array().into_iter().flatten() {
        output::line(&output::problem(error))?;
    }
    if answer["status"] != "accepted" {
        return Ok(());
    }
    let what = if dry_run { "would be accepted" } else { "accepted" };
    output::line(&format!(
        "batch {}  {what} {}  rejected {}",
        text(&answer["batch_id"]),
        answer["accepted"],
        answer["rejected"]
    ))?;
    for rejection in answer["rejections"].as_array().into_iter().flatten().take(REJECTIONS_SHOWN) {
        output::line(&format!(
            "    row {}: {} ({})",
            rejection["row"],
            text(&rejection["reason"]),
            text(&rejection["code"])
        ))?;
    }
    for hold in answer["holds"].as_array().into_iter().flatten() {
        output::line(&format!(
            "    waits for hold {} on {} ({})",
            hold["id"],
            text(&hold["scope"]),
            text(&hold["cause"])
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_fits_the_refusal() {
        let (send, cancel) = (json!({"schema": "send-job/v1"}), json!({"schema": CANCEL_JOB}));
        let answer = |code: &str| json!({"status": "rejected", "errors": [{"code": code}]});
        assert!(refusal(&send, &answer("unknown_template")).contains("still free"));
        assert!(refusal(&send, &answer("job_id_reused")).contains("an id of its own"));
        assert_eq!(refusal(&cancel, &answer("unknown_job")), "nothing was cancelled");
    }
}
