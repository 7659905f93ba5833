//! Files of the server's, here under their name only when they are whole.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use crate::cli::{
    client::{Client, Query},
    output,
};

/// Writes what the server sends to `file`. Returns how many bytes that were.
pub(super) async fn to_file(client: &Client, path: &str, query: &Query, file: &Path) -> anyhow::Result<usize> {
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let could_not = || format!("could not write {}", part.display());
    let mut written = File::create(&part).with_context(could_not)?;
    let mut bytes = 0;
    let done = client.download(path, query, |piece| {
        bytes += piece.len();
        written.write_all(piece).with_context(could_not)
    });
    if let Err(error) = done.await {
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
