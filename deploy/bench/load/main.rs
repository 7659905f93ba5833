//! The load that `deploy/bench.sh` puts on the product: signed callbacks, jobs, and the watching of a stub.
//!
//! Everything a request consists of is made before the clock starts, so that what is measured is the product and not
//! this program. Times are printed as milliseconds since 1970.

mod callbacks;
mod jobs;
mod lists;
mod watch;

use std::{
    io::Write as _,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::Parser;

/// The load of `deploy/bench.sh`.
#[derive(Debug, Parser)]
enum Load {
    /// Posts signed callbacks, one status each, of the messages on standard input (`batch seq number` a line, the number by its id at the provider)
    Callbacks(callbacks::Callbacks),
    /// Publishes jobs of one recipient each
    Jobs(jobs::Jobs),
    /// Asks for pages of lists (`name|path` a line on standard input) and says how long each filter takes
    Lists(lists::Lists),
    /// Says when a stub got its first and its last request
    Watch(watch::Watch),
    /// Says by how much the clock of a simulator is behind the wall clock
    Clock(watch::Clock),
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match Load::parse() {
        Load::Callbacks(callbacks) => runtime.block_on(callbacks.run()),
        Load::Jobs(jobs) => runtime.block_on(jobs.run()),
        Load::Lists(lists) => runtime.block_on(lists.run()),
        Load::Watch(watch) => runtime.block_on(watch.run()),
        Load::Clock(clock) => runtime.block_on(clock.run()),
    }
}

/// Milliseconds since 1970.
fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64() * 1000.0)
}

/// Writes a line at once: whoever reads it waits for it.
fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}
