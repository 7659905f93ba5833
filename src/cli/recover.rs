//! After the database went back in time.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::{
    cli::{
        Common,
        client::{Method, Query},
        output, read,
    },
    upkeep::recover::Recovered,
};

/// What `recover` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Run it while everything is held. It can be run again: nothing is marked twice.")]
pub(super) struct RecoverArgs {
    /// The last instant of which the database surely knows everything (2026-01-31T09:00:00Z); the hold names it
    #[arg(long, value_name = "TIME")]
    since: DateTime<Utc>,
    /// Only say how many it would be
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(common: &Common, args: RecoverArgs) -> anyhow::Result<()> {
    let client = common.client()?;
    let (mut found, mut marked, mut after) = (0, 0, Value::Null);
    let last = loop {
        let body = json!({"since": args.since, "dry_run": args.dry_run, "after": after});
        let answer = client.call(Method::POST, "/v1/recover", &Query::new(), Some(&body)).await?;
        let done: Recovered = read(&answer)?;
        found += done.found;
        marked += done.marked;
        match &done.next {
            Some(next) => after = json!(next),
            None => break done,
        }
    };
    let total = Recovered { found, marked, ..last };
    if common.json {
        return output::json(&serde_json::to_value(&total)?);
    }
    let (since, until) = (output::time(args.since), output::time(total.until));
    if args.dry_run {
        return output::line(&format!("{found} messages may have been called between {since} and {until}"));
    }
    output::line(&format!(
        "{marked} messages that may have been called between {since} and {until} are uncertain now"
    ))?;
    output::line("\nWhat to do next:")?;
    for step in next_steps(total.hold) {
        output::line(&format!("  {step}"))?;
    }
    Ok(())
}

fn next_steps(hold: Option<i64>) -> Vec<String> {
    let close = match hold {
        Some(hold) => format!("campaign-dispatch holds close {hold} --reason …   lets everything go on"),
        None => "no hold over everything is open: sending goes on already, and may have gone on meanwhile".to_owned(),
    };
    vec![
        "wait some minutes: callbacks that come late resolve their messages by themselves".to_owned(),
        "campaign-dispatch uncertain list   shows what is left; ask the provider's reports about it".to_owned(),
        "campaign-dispatch uncertain resolve --as sent|failed|resend --reason … --evidence …   says what became of it"
            .to_owned(),
        close,
        "what is not resolved is decided by the policy of its category ([uncertain] in the settings)".to_owned(),
    ]
}
