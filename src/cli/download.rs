//! Files of the server's, here under their name only when they are whole.

use std::{
    fs::{self, File},
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::{
    client::{Client, Query},
    output,
};

/// How often it is told how far a download is, where no bar is drawn.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// Writes what the server sends to `file`. Returns how many bytes that were.
pub(super) async fn to_file(client: &Client, path: &str, query: &Query, file: &Path) -> anyhow::Result<u64> {
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let could_not = || format!("could not write {}", part.display());
    let mut written = File::create(&part).with_context(could_not)?;
    let mut progress = Progress::new();
    let received = client.download(path, query, |piece| {
        progress.add(piece.len() as u64)?;
        written.write_all(piece).with_context(could_not)
    });
    let done = tokio::select! {
        received = received => received,
        interrupted = tokio::signal::ctrl_c() => Err(match interrupted {
            Ok(()) => anyhow!("stopped: {} was not written", file.display()),
            Err(error) => error.into(),
        }),
    };
    let bytes = progress.end();
    if let Err(error) = done {
        fs::remove_file(&part).ok();
        return Err(error);
    }
    fs::rename(&part, file).with_context(|| format!("could not write {}", file.display()))?;
    Ok(bytes)
}

/// Writes what the server sends to standard output.
pub(super) async fn to_output(client: &Client, path: &str, query: &Query) -> anyhow::Result<()> {
    client.download(path, query, output::bytes).await
}

/// How far a download is: a bar on a terminal, a line now and then elsewhere. Nobody knows how long the file will be.
struct Progress {
    bar: Option<ProgressBar>,
    bytes: u64,
    told: Instant,
}

impl Progress {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {bytes} received, {bytes_per_sec}, {elapsed}");
            let bar = ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            // A workbook comes when it is whole: until then the clock shows that something happens.
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { bar, bytes: 0, told: Instant::now() }
    }

    fn add(&mut self, bytes: u64) -> anyhow::Result<()> {
        self.bytes += bytes;
        match &self.bar {
            Some(bar) => bar.set_position(self.bytes),
            None if self.told.elapsed() >= TELL_EVERY => {
                self.told = Instant::now();
                writeln!(std::io::stderr(), "{} bytes received", self.bytes).context("could not say how far it is")?;
            }
            None => {}
        }
        Ok(())
    }

    fn end(self) -> u64 {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
        self.bytes
    }
}
