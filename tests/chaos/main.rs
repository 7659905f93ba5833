//! Real processes killed, frozen and cut off, judged from the provider's ledger and a recount of the rows.
//!
//! Started by `deploy/chaos.sh`, which brings up the servers. Not part of `cargo test`: it takes minutes and turns the
//! servers off and on.
#![expect(clippy::print_stdout, reason = "a report for people")]

mod children;
mod faults;
mod judge;
mod load;
mod person;
mod points;
mod rare;
mod registry;
mod relays;
mod rest;
mod run;
mod scenarios;
mod services;
mod simulator;
mod wire;
mod world;

use std::process::ExitCode;

use clap::Parser as _;

/// Kills, freezes and cuts, and counts what became of the messages.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "deploy/chaos.sh", version)]
pub(crate) struct Arguments {
    /// How long faults go on
    #[arg(long, default_value_t = 15)]
    minutes: u64,
    /// Decides what is published and which faults come in which order
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// `serve` processes
    #[arg(long, default_value_t = 3)]
    workers: usize,
    /// Messages; 100 000, or what a scenario takes
    #[arg(long)]
    messages: Option<u32>,
    /// The broker is the three-node cluster of deploy/cluster.sh
    #[arg(long)]
    cluster: bool,
    /// About a minute: a fixed list of faults, a few thousand messages
    #[arg(long)]
    short: bool,
    /// Every fault point, one after the other; with --short only a crash at the first pass
    #[arg(long)]
    points: bool,
    /// One story instead: takeover, outage, drain, token, pacing, cron, cancel, shares, imports, events
    #[arg(long, value_name = "NAME")]
    scenario: Option<String>,
}

async fn all(arguments: Arguments) -> anyhow::Result<bool> {
    if arguments.points {
        return points::run(&arguments).await;
    }
    match arguments.scenario.clone() {
        Some(name) => scenarios::run(&name, &arguments).await,
        None => run::run(&arguments).await,
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    children::raise_priority();
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(until_ended(arguments)),
        Err(error) => {
            println!("no runtime: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn until_ended(arguments: Arguments) -> ExitCode {
    rustls::crypto::ring::default_provider().install_default().ok();
    let mut terminated = match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(terminated) => terminated,
        Err(error) => {
            println!("could not listen for SIGTERM: {error}");
            return ExitCode::FAILURE;
        }
    };
    tokio::select! {
        result = all(arguments) => match result {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                println!("chaos could not go on: {error:#}");
                ExitCode::FAILURE
            }
        },
        // The children die with us.
        _ = terminated.recv() => ExitCode::from(143),
        _ = tokio::signal::ctrl_c() => ExitCode::from(130),
    }
}
