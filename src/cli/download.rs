//! Files of the server's, here under their name only when they are whole.

use std::{
    fs::{self, File},
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::{
    client::{Client, Query},
    output,
};

/// How often it is told how far a download is: on a terminal, and in lines elsewhere.
const DRAW_EVERY: Duration = Duration::from_millis(200);
const TELL_EVERY: Duration = Duration::from_secs(5);

/// Writes what the server sends to `file`. Returns how many bytes that were.
pub(super) async fn to_file(client: &Client, path: &str, query: &Query, file: &Path) -> anyhow::Result<u64> {
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let could_not = || format!("could not write {}", part.display());
    let mut written = File::create(&part).with_context(could_not)?;
    let bytes = AtomicU64::new(0);
    let received = client.download(path, query, |piece| {
        bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
        written.write_all(piece).with_context(could_not)
    });
    let done = followed(received, &bytes, file).await;
    if let Err(error) = done {
        fs::remove_file(&part).ok();
        return Err(error);
    }
    fs::rename(&part, file).with_context(|| format!("could not write {}", file.display()))?;
    Ok(bytes.into_inner())
}

/// Says how far a download is, until it ends or somebody stops it. Nobody knows how long the file will be; a workbook comes
/// only when it is whole.
async fn followed(
    received: impl Future<Output = anyhow::Result<()>>,
    bytes: &AtomicU64,
    file: &Path,
) -> anyhow::Result<()> {
    let (bar, began) = (std::io::stderr().is_terminal().then(bar), Instant::now());
    let mut tick = tokio::time::interval(if bar.is_some() { DRAW_EVERY } else { TELL_EVERY });
    tick.reset();
    let (mut received, mut stopped) = (pin!(received), pin!(tokio::signal::ctrl_c()));
    let done = loop {
        tokio::select! {
            received = &mut received => break received,
            stopped = &mut stopped => {
                stopped.context("could not listen for Ctrl-C")?;
                break Err(anyhow!("stopped: {} was not written", file.display()));
            }
            _ = tick.tick() => tell(bar.as_ref(), bytes.load(Ordering::Relaxed), began.elapsed())?,
        }
    };
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    done
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {bytes} received, {bytes_per_sec}, {elapsed}");
    ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
}

fn tell(bar: Option<&ProgressBar>, bytes: u64, elapsed: Duration) -> anyhow::Result<()> {
    if let Some(bar) = bar {
        bar.set_position(bytes);
        bar.tick();
        return Ok(());
    }
    writeln!(std::io::stderr(), "{bytes} bytes received in {} s", elapsed.as_secs())
        .context("could not say how far it is")
}

/// Writes what the server sends to standard output.
pub(super) async fn to_output(client: &Client, path: &str, query: &Query) -> anyhow::Result<()> {
    client.download(path, query, output::bytes).await
}
