//! The program: reads the command line, sets up the runtime, says what went wrong.

use std::{io::Write as _, process::ExitCode};

use campaign_dispatch::{cli::Cli, settings::Log};
use clap::Parser as _;
use tracing_subscriber::EnvFilter;

/// Beside the threads that dispatch runs on: API, broker and database.
const WORKER_THREADS: usize = 2;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when standard error is closed.
            drop(writeln!(std::io::stderr().lock(), "error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    // An error says that it is installed already.
    drop(rustls::crypto::ring::default_provider().install_default());
    if cli.is_server() {
        log(&cli.load_settings()?.log)?;
    } else {
        log(&Log {
            format: "text".to_owned(),
            filter: "warn".to_owned(),
        })?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()?;
    runtime.block_on(cli.run())
}

fn log(settings: &Log) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&settings.filter)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let started = if settings.format == "json" {
        builder.json().try_init()
    } else {
        builder.try_init()
    };
    started.map_err(|error| anyhow::anyhow!("could not start the log: {error}"))
}
