//! The command line. Commands that act on a running system are clients of its API; `serve`, `migrate`, `check` and the
//! first `tokens create` work on the database itself.
//!
//! Exit codes: 0 done, 1 failed or refused, 2 not understood; of `status` 3 when somebody must look.

mod audiences;
mod audit;
mod batches;
mod campaigns;
mod client;
mod contracts;
mod download;
mod exports;
mod failures;
mod filters;
mod forecast;
mod holds;
mod ids;
mod imports;
mod messages;
mod output;
mod recover;
mod registry;
mod send;
mod server;
mod status;
mod suppressions;
mod tokens;
mod uncertain;
mod why;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use secrecy::SecretString;

pub use status::MustLook;

use crate::{cli::client::Client, settings::Settings, simulator::cli::SimulateArgs};

/// Sends message campaigns for businesses, at exactly the pace each number allows.
#[derive(Debug, Parser)]
#[command(name = "campaign-dispatch", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// Where the help lists them.
const GLOBAL: &str = "Global options";

/// What every command takes.
#[derive(Debug, clap::Args)]
struct Common {
    /// Settings that differ from the defaults (TOML)
    #[arg(long, global = true, value_name = "FILE", help_heading = GLOBAL)]
    settings: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long, global = true, help_heading = GLOBAL)]
    json: bool,
    /// Where the API is
    #[arg(
        long,
        global = true,
        env = "DISPATCH__CLIENT__URL",
        default_value = "http://127.0.0.1:8080",
        help_heading = GLOBAL
    )]
    url: String,
    /// The token to call it with
    #[arg(long, global = true, env = "DISPATCH__CLIENT__TOKEN", hide_env_values = true, help_heading = GLOBAL)]
    token: Option<SecretString>,
}

impl Common {
    fn client(&self) -> anyhow::Result<Client> {
        Client::new(&self.url, self.token.clone())
    }

    fn settings(&self) -> anyhow::Result<Settings> {
        Ok(Settings::load(self.settings.as_deref(), std::env::vars())?)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run: take jobs, send, follow, answer
    Serve(server::ServeArgs),
    /// Bring the database's schema up to date
    Migrate,
    /// Stand in for the providers, to rehearse
    Simulate(SimulateArgs),
    /// Say whether everything `serve` needs is there
    Check,
    /// Health, rates, queues, holds and alarms on one screen; exit code 3 when somebody must look
    Status,
    /// Write or compare the published contracts
    Contracts(contracts::ContractsArgs),
    /// Print the exchanges and queues
    Topology,
    /// Jobs that were refused
    #[command(subcommand)]
    Jobs(batches::JobsCommand),
    /// Publish a job
    Send(Box<send::SendArgs>),
    /// What is sent by the clock, or when somebody says so
    #[command(subcommand)]
    Campaigns(campaigns::CampaignsCommand),
    /// Batches and their tallies
    #[command(subcommand)]
    Batches(batches::BatchesCommand),
    /// Messages: sent, pending, failed, uncertain
    #[command(subcommand)]
    Messages(messages::MessagesCommand),
    /// Why a message or a batch waits, and what to do
    Why(why::WhyArgs),
    /// What failed, by code, and what to do
    Failures(Box<failures::FailuresArgs>),
    /// Send failed messages again
    Resend(Box<failures::ResendArgs>),
    /// Calls whose outcome nobody knows
    #[command(subcommand)]
    Uncertain(uncertain::UncertainCommand),
    /// Why something is not being sent
    #[command(subcommand)]
    Holds(holds::HoldsCommand),
    /// Accounts at providers
    #[command(subcommand)]
    Accounts(registry::RegistryCommand),
    /// Business numbers
    #[command(subcommand)]
    Numbers(registry::RegistryCommand),
    /// Templates and their slots
    #[command(subcommand)]
    Templates(registry::RegistryCommand),
    /// Files of recipients
    #[command(subcommand)]
    Imports(imports::ImportsCommand),
    /// Groups of recipients, kept by name
    #[command(subcommand)]
    Audiences(audiences::AudiencesCommand),
    /// Recipients who must not be messaged
    #[command(subcommand)]
    Suppressions(suppressions::SuppressionsCommand),
    /// What recipients wrote
    #[command(subcommand)]
    Received(suppressions::ReceivedCommand),
    /// How many messages are in which state, by day, number, template, campaign or error
    Reports(exports::ReportArgs),
    /// Mark what may have been sent after the database went back in time
    Recover(recover::RecoverArgs),
    /// What people did
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Tokens of the API
    #[command(subcommand)]
    Tokens(tokens::TokensCommand),
}

impl Cli {
    /// Whether the command runs until it is told to stop, and so logs by the settings.
    pub const fn is_server(&self) -> bool {
        matches!(self.command, Command::Serve(_))
    }

    /// The settings it would run with.
    pub fn load_settings(&self) -> anyhow::Result<Settings> {
        self.common.settings()
    }

    /// Does what was asked.
    pub async fn run(self) -> anyhow::Result<()> {
        let common = &self.common;
        match self.command {
            Command::Serve(args) => server::serve(common, args).await,
            Command::Migrate => server::migrate(common).await,
            Command::Simulate(args) => crate::simulator::cli::run(args).await,
            Command::Check => server::check(common).await,
            Command::Status => status::run(common).await,
            Command::Contracts(args) => contracts::run(&args),
            Command::Topology => server::topology(common),
            Command::Jobs(command) => batches::jobs(common, command).await,
            Command::Send(args) => send::run(common, *args).await,
            Command::Campaigns(command) => campaigns::run(common, command).await,
            Command::Batches(command) => batches::batches(common, command).await,
            Command::Messages(command) => messages::messages(common, command).await,
            Command::Why(args) => why::run(common, args).await,
            Command::Failures(args) => failures::failures(common, *args).await,
            Command::Resend(args) => failures::resend(common, *args).await,
            Command::Uncertain(command) => uncertain::run(common, command).await,
            Command::Recover(args) => recover::run(common, args).await,
            Command::Holds(command) => holds::holds(common, command).await,
            Command::Accounts(command) => registry::run(common, registry::Kind::Accounts, command).await,
            Command::Numbers(command) => registry::run(common, registry::Kind::Numbers, command).await,
            Command::Templates(command) => registry::run(common, registry::Kind::Templates, command).await,
            Command::Imports(command) => imports::run(common, command).await,
            Command::Audiences(command) => audiences::run(common, command).await,
            Command::Suppressions(command) => suppressions::run(common, command).await,
            Command::Received(command) => suppressions::received(common, command).await,
            Command::Reports(args) => exports::report(common, args).await,
            Command::Audit(command) => audit::run(common, command).await,
            Command::Tokens(command) => tokens::run(common, command).await,
        }
    }
}

/// A table's rows from the API's JSON.
fn read<T: serde::de::DeserializeOwned>(value: &serde_json::Value) -> anyhow::Result<T> {
    T::deserialize(value).context("the server answers in a way this version does not know: is it another version?")
}

/// What a list takes.
#[derive(Debug, clap::Args)]
struct PageArgs {
    /// Rows of the page
    #[arg(long, default_value_t = 50)]
    limit: u16,
    /// Go on after this
    #[arg(long, value_name = "NEXT")]
    after: Option<String>,
}

impl PageArgs {
    fn query(&self) -> client::Query {
        let mut query = vec![("limit", self.limit.to_string())];
        query.extend(self.after.clone().map(|after| ("after", after)));
        query
    }
}

#[cfg(test)]
mod tests;
