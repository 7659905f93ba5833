//! The program: reads the command line, sets up the runtime, says what went wrong.

use std::{io::Write as _, process::ExitCode};

use campaign_dispatch::{
    app::init_tracing,
    cli::{Cli, MustLook},
    settings::Log,
    store::chain,
};
use clap::Parser as _;

/// A call to a provider allocates and frees dozens of small pieces, which were a fifth of what a send cost.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Beside the threads that dispatch runs on: API, broker and database.
const WORKER_THREADS: usize = 2;

fn main() -> ExitCode {
    campaign_dispatch::fault::set_up();
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // What somebody must look at has been shown.
        Err(error) if error.is::<MustLook>() => ExitCode::from(3),
        Err(error) => {
            // Nobody is left to tell when standard error is closed.
            writeln!(std::io::stderr().lock(), "error: {}", chain(error.as_ref())).ok();
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    // An error says that it is installed already.
    drop(rustls::crypto::ring::default_provider().install_default());
    if cli.is_server() {
        init_tracing(&cli.load_settings()?.log);
    } else {
        init_tracing(&Log { format: "text".to_owned(), filter: "warn".to_owned() });
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKER_THREADS).enable_all().build()?;
    runtime.block_on(cli.run())
}
