//! `campaign-dispatch simulate`: the simulator as a process.

use std::{
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::Context as _;

use crate::{
    registry::file::RegistryFile,
    simulator::{self, Fault, SimulatorSettings, Telling},
};

/// What else the long help says.
const HELP: &str = "\
Recipients misbehave by their last four digits:
  0026 0049 0050 0472 0403 0042
        taken, then failed by callback with 131026 131049 131050 130472 130403 131042
  9000  refused with 500/131000
  9001  taken, then the connection is cut
  9002  answered after 5 s
  9003  HTML 502, not taken
  9004  taken, then 500/131000
  9005  refused with 131008
  9006  the connection is cut, not taken
  9007  held for quality, then sent
  9008  held for quality, then dropped
  9010  no callbacks
  9011  every callback twice
  9012  callbacks out of order
  9013  callbacks 5 s late
  9014  a forged callback too

What happened:
  GET  /_sim/ledger                  totals and limits by number
  GET  /_sim/ledger/messages         accepted calls, a line of JSON each; ?accepted=2 lists doubles only
  GET  /_sim/ledger/arrivals         every arrival of a number (?number=ID), a line of JSON each
  GET  /_sim/callbacks               owed, sent and acknowledged by account

What shall happen:
  PUT  /_sim/webhooks                {\"<waba id>\": \"http://...\"}; null clears
  GET, POST, DELETE  /_sim/faults    faults in force; DELETE /_sim/faults/{id} for one
  PUT  /_sim/settings                {\"suffix_faults\"?, \"delay_ms\"?, \"read_share\"?, \"withhold_callbacks\"?}
  PUT  /_sim/numbers                 {\"<id>\": {\"limit\"?: N, or 0 for unlimited, \"status\"?}}
  POST /_sim/reset                   forgets what happened";

/// Stands in for the WhatsApp Cloud API: checks every call as the provider does, sends callbacks, misbehaves on request.
#[derive(Debug, Clone, clap::Args)]
#[command(after_long_help = HELP)]
pub struct SimulateArgs {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Registry file (JSON or TOML) with the accounts, numbers and templates to stand in for
    #[arg(long, value_name = "FILE")]
    pub registry: PathBuf,
    /// Where callbacks of an account go; may be given again, and set later by PUT /_sim/webhooks
    #[arg(long = "webhook", value_name = "WABA=URL")]
    pub webhooks: Vec<WebhookArg>,
    /// Decides every draw of a probability
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Milliseconds from acceptance to `sent`; as many again to `delivered`, and again to `read`
    #[arg(long, default_value_t = 50, value_name = "MS")]
    pub callback_delay_ms: u64,
    /// Share of messages that are read, from 0 to 1
    #[arg(long, default_value_t = 1.0, value_name = "SHARE")]
    pub read_share: f64,
    /// Statuses in one callback POST at most
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub callback_batch: usize,
    /// Callback POSTs of one account on the wire at most
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub callback_concurrency: usize,
    /// MATCH:ACTION, may be given again. MATCH: * or p=SHARE, number=ID, waba=ID, template=NAME, suffix=DIGITS,
    /// after=CALLS, count=CALLS joined by commas. ACTION: CODE or CODE/STATUS, async=CODE, `after_accept=CODE`,
    /// `slow_ms=N`, `late_ms=N`, throttle, `throttle_429`, `token_expired`, `html_502`, `html_502_after_accept`,
    /// `drop_before_accept`, `drop_after_accept`, `error_after_accept`, held, `held_dropped`, `no_callbacks`,
    /// `duplicate_callbacks`, `reorder_callbacks`, `bad_signature`. Example: p=0.01:131000
    #[arg(long = "fault", value_name = "SPEC")]
    pub faults: Vec<Fault>,
    /// Treat all recipients alike, whatever their last digits
    #[arg(long)]
    pub no_suffix_faults: bool,
}

/// `WABA=URL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookArg {
    /// The account's WABA id.
    pub waba_id: String,
    /// Where its callbacks go.
    pub url: String,
}

/// The text is not `WABA=URL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a webhook is WABA=URL, for example 2001=http://127.0.0.1:8080/hooks/whatsapp_cloud/3f2a")]
pub struct NotAWebhook;

impl FromStr for WebhookArg {
    type Err = NotAWebhook;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (waba_id, url) = text.split_once('=').ok_or(NotAWebhook)?;
        Ok(Self { waba_id: waba_id.to_owned(), url: url.to_owned() })
    }
}

/// Runs until SIGTERM or SIGINT. The first line on standard output says where it listens.
pub async fn run(args: SimulateArgs) -> anyhow::Result<()> {
    anyhow::ensure!((0.0..=1.0).contains(&args.read_share), "--read-share is from 0 to 1");
    let registry = RegistryFile::read(&args.registry)?;
    let base_dir = args.registry.parent().unwrap_or_else(|| Path::new("."));
    let settings = SimulatorSettings {
        listen: args.listen,
        webhooks: args.webhooks.into_iter().map(|webhook| (webhook.waba_id, webhook.url)).collect(),
        seed: args.seed,
        telling: Telling { delay_ms: args.callback_delay_ms, read_share: args.read_share },
        callback_batch: args.callback_batch,
        callback_concurrency: args.callback_concurrency,
        faults: args.faults,
        suffix_faults: !args.no_suffix_faults,
        raise_ticker: true,
        ..SimulatorSettings::new(registry, base_dir)
    };
    let mut running = simulator::start(settings).await?;
    {
        let mut out = std::io::stdout().lock();
        writeln!(out, "simulator listening on {}", running.url())?;
        out.flush()?;
    }
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .context("could not listen for SIGTERM")?;
    tokio::select! {
        _ = terminated.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted.context("could not listen for SIGINT")?,
        () = running.ended() => anyhow::bail!("the simulator ended by itself"),
    }
    running.stop().await;
    Ok(())
}
