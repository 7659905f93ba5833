//! What failed, by code; seen to, or sent again.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    checklist::{Acknowledged, AdvisedFailure, ResendDone},
    cli::{
        Common,
        batches::with,
        client::{Method, Query},
        ids, output, read,
    },
    domain::ids::MessageKey,
};

/// Failures.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct FailuresArgs {
    #[command(subcommand)]
    command: Option<FailuresCommand>,
    #[command(flatten)]
    list: ListArgs,
}

/// What to do about them.
#[derive(Debug, clap::Subcommand)]
enum FailuresCommand {
    /// By code, with advice, what was acknowledged left out
    List(ListArgs),
    /// Say that failures are seen to: they leave the list
    Acknowledge(AcknowledgeArgs),
}

/// What the list takes.
#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Only of this batch
    #[arg(long, value_parser = ids::batch)]
    batch: Option<Uuid>,
    /// Only of this business number
    #[arg(long)]
    number: Option<String>,
    /// Also those that somebody has acknowledged
    #[arg(long)]
    all: bool,
    /// Language of the advice
    #[arg(long, default_value = "en", value_parser = ["en", "ja"])]
    lang: String,
}

/// Which failures. At least one option says so; together they narrow each other.
#[derive(Debug, clap::Args)]
struct WhichArgs {
    /// Those with this code
    #[arg(long)]
    code: Option<String>,
    /// Those of this batch
    #[arg(long, value_parser = ids::batch)]
    batch: Option<Uuid>,
    /// Those of this business number
    #[arg(long)]
    number: Option<String>,
    /// Those of this campaign
    #[arg(long)]
    campaign: Option<String>,
    /// This one (`<batch id>.<seq>`), several if need be
    #[arg(long = "message", value_name = "MESSAGE", value_parser = ids::message)]
    messages: Vec<MessageKey>,
}

impl WhichArgs {
    fn body(&self) -> Value {
        let messages: Vec<String> = self.messages.iter().map(ToString::to_string).collect();
        let messages = (!messages.is_empty()).then_some(messages);
        json!({ "code": self.code, "batch": self.batch, "number": self.number, "campaign": self.campaign, "messages": messages })
    }
}

/// What `acknowledge` takes.
#[derive(Debug, clap::Args)]
struct AcknowledgeArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// What was done about them, for whoever asks later
    #[arg(long, required_unless_present = "dry_run")]
    note: Option<String>,
    /// Only say how many it would be
    #[arg(long)]
    dry_run: bool,
}

/// What `resend` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "At least one of --code, --batch, --number, --campaign and --message says which failures. Never sent \
                        again: what is pending or uncertain, what was sent again before, and whoever got it meanwhile."
)]
pub(super) struct ResendArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// For whoever asks later
    #[arg(long, required_unless_present = "dry_run")]
    reason: Option<String>,
    /// At most so many messages; the same command goes on with the rest
    #[arg(long)]
    cap: Option<usize>,
    /// Not before (RFC 3339); at once without it
    #[arg(long)]
    send_at: Option<DateTime<Utc>>,
    /// Not after; without it as long after the start as the first one lived
    #[arg(long)]
    expires_at: Option<DateTime<Utc>>,
    /// Also what somebody has acknowledged
    #[arg(long)]
    acknowledged: bool,
    /// Also what the codes say never to send again, or not yet
    #[arg(long)]
    against_advice: bool,
    /// Only say how many, when, and what is left out and why
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn failures(common: &Common, args: FailuresArgs) -> anyhow::Result<()> {
    match args.command {
        None => list(common, args.list).await,
        Some(FailuresCommand::List(args)) => list(common, args).await,
        Some(FailuresCommand::Acknowledge(args)) => acknowledge(common, args).await,
    }
}

async fn list(common: &Common, args: ListArgs) -> anyhow::Result<()> {
    let mut query = vec![("lang", args.lang)];
    with(&mut query, "batch", args.batch);
    with(&mut query, "number", args.number);
    with(&mut query, "all", args.all.then_some(true));
    let value = common.client()?.get("/v1/failures", &query).await?;
    if common.json {
        return output::json(&value);
    }
    let failures: Vec<AdvisedFailure> = read(&value)?;
    if failures.is_empty() {
        return output::line("nothing failed that nobody has seen to");
    }
    for f in &failures {
        let meaning = f.meaning.as_deref().unwrap_or(&f.sample);
        let after = f.resend_after_s.map(|s| format!(", {} h after the failure", s.div_ceil(3600))).unwrap_or_default();
        let known = if f.acknowledged > 0 { format!(", {} acknowledged", f.acknowledged) } else { String::new() };
        let (class, scope, resend) = (&f.class, &f.scope, &f.resend);
        output::line(&format!(
            "{} × {} {meaning}  [{class}, concerns the {scope}, send again: {resend}{after}{known}]",
            f.messages, f.code
        ))?;
        output::line(&format!("    {}", f.advised))?;
        output::line(&format!("    the provider said: {} (for example {})", f.sample, f.sample_message))?;
    }
    Ok(())
}

async fn acknowledge(common: &Common, args: AcknowledgeArgs) -> anyhow::Result<()> {
    let mut body = args.which.body();
    body["note"] = json!(args.note.unwrap_or_default());
    body["dry_run"] = json!(args.dry_run);
    let client = common.client()?;
    let value = client.call(Method::POST, "/v1/failures/acknowledge", &Query::new(), Some(&body)).await?;
    if common.json {
        return output::json(&value);
    }
    let done: Acknowledged = read(&value)?;
    if args.dry_run {
        output::line(&format!("{} failures would be acknowledged", done.found))
    } else {
        output::line(&format!("{} failures are acknowledged", done.acknowledged))
    }
}

pub(super) async fn resend(common: &Common, args: ResendArgs) -> anyhow::Result<()> {
    let mut body = args.which.body();
    body["reason"] = json!(args.reason.unwrap_or_default());
    body["cap"] = json!(args.cap);
    body["send_at"] = json!(args.send_at);
    body["expires_at"] = json!(args.expires_at);
    body["acknowledged"] = json!(args.acknowledged);
    body["against_advice"] = json!(args.against_advice);
    body["dry_run"] = json!(args.dry_run);
    let value = common.client()?.call(Method::POST, "/v1/resends", &Query::new(), Some(&body)).await?;
    if common.json { output::json(&value) } else { told(&read(&value)?) }
}

fn told(done: &ResendDone) -> anyhow::Result<()> {
    let verb = if done.dry_run { "would be" } else { "are" };
    output::line(&format!("{} of {} failures {verb} sent again", done.resent, done.found))?;
    for from in &done.when {
        let finish = from.finish.map(|at| format!(", the last at {}", output::time(at))).unwrap_or_default();
        let (messages, number) = (from.messages, &from.business_number);
        output::line(&format!("  {messages} from {number}: the first at {}{finish}", output::time(from.start)))?;
    }
    for skipped in &done.skipped {
        output::line(&format!("  {} not ({}): {}", skipped.messages, skipped.why, skipped.explanation))?;
    }
    if done.left > 0 {
        output::line(&format!("  {} beyond the cap: the same command goes on with them", done.left))?;
    }
    for batch in &done.batches {
        let new = batch.batch_id.map(|id| format!(" as {id}")).unwrap_or_default();
        output::line(&format!("  {} of batch {}{new}", batch.messages, batch.resend_of))?;
    }
    Ok(())
}
