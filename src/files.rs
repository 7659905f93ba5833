//! Files that are made while they are sent: never whole in memory.

use std::{
    fmt,
    io::{self, Read as _, Seek as _},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream::BoxStream};
use rust_xlsxwriter::{Workbook, XlsxError};
use tokio::sync::mpsc;

/// Media type of a workbook (ECMA-376).
pub const XLSX: &str = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet";
/// Most characters of a cell (Excel specifications).
const CELL_CHARS: usize = 32_767;
const CHUNK_BYTES: usize = 64 << 10;

/// A file on its way out.
pub struct FileOut {
    /// What it may be called.
    pub file_name: String,
    /// Its media type.
    pub media_type: &'static str,
    /// Its bytes. One that ends with an error is not whole.
    pub content: BoxStream<'static, io::Result<Bytes>>,
}

impl fmt::Debug for FileOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileOut").field("file_name", &self.file_name).finish_non_exhaustive()
    }
}

/// The workbook that `write` makes of pages, on a thread that may block: row by row to the disk, then sent from there. When
/// whoever asked has gone, the pages end with an error.
pub fn workbook<P: Send + 'static>(
    pages: impl Stream<Item = P> + Send + 'static,
    write: impl FnOnce(&mut dyn Iterator<Item = io::Result<P>>) -> io::Result<Workbook> + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let (sender, mut bytes) = mpsc::channel(8);
    tokio::spawn(async move {
        let (queue, mut queued) = mpsc::channel(2);
        let done = sender.clone();
        let writing = tokio::task::spawn_blocking(move || {
            let mut pages = std::iter::from_fn(|| {
                let page = queued.blocking_recv()?;
                Some(if sender.is_closed() { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(page) })
            });
            send(write(&mut pages)?, &sender)
        });
        let mut pages = std::pin::pin!(pages);
        while let Some(page) = pages.next().await {
            if queue.send(page).await.is_err() {
                break;
            }
        }
        drop(queue);
        if let Ok(Err(error)) = writing.await {
            // Whoever asked may have gone.
            done.send(Err(error)).await.ok();
        }
    });
    futures_util::stream::poll_fn(move |context| bytes.poll_recv(context))
}

fn send(mut book: Workbook, out: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    let mut file = tempfile::tempfile()?;
    book.save_to_writer(&mut file).map_err(unwritten)?;
    file.rewind()?;
    loop {
        let mut chunk = vec![0; CHUNK_BYTES];
        let read = file.read(&mut chunk)?;
        chunk.truncate(read);
        if read == 0 || out.blocking_send(Ok(chunk.into())).is_err() {
            return Ok(());
        }
    }
}

/// As much of a text as a cell of a workbook takes.
pub fn cut(cell: &str) -> &str {
    if cell.len() <= CELL_CHARS {
        return cell;
    }
    cell.char_indices().nth(CELL_CHARS).and_then(|(end, _)| cell.get(..end)).unwrap_or(cell)
}

/// A workbook that cannot be written.
pub fn unwritten(error: XlsxError) -> io::Error {
    io::Error::other(error)
}
