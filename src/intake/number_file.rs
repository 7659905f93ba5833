//! A list of phone numbers, pasted or from a file.

use std::{
    io::Read as _,
    sync::{Arc, atomic::AtomicUsize, atomic::Ordering},
};

use tokio::sync::mpsc;

use crate::{
    domain::number_list,
    intake::{
        check::address_code,
        job::JobError,
        lines::broken,
        members::{CHUNK, Chunk, Members, Target},
        sheet::{Content, Decoded},
    },
};

/// Read at once.
const BLOCK: usize = 64 * 1024;

/// Reads and checks, on a thread that may block.
pub(super) fn read(target: Target, mut file: Decoded, chunks: &mpsc::Sender<Chunk>) -> Result<(), Vec<JobError>> {
    if file.content().map_err(|error| vec![broken(&error)])? != Content::Text {
        let reason = "a workbook is no list of numbers: fill the group with it, or paste its column";
        return Err(vec![JobError::new("", "unreadable", reason)]);
    }
    let since_part = file.counter();
    let mut list = List { target, chunks, row: 1, good: Vec::new(), chunk: empty(), since_part };
    let (mut block, mut text) = (vec![0; BLOCK], String::new());
    let mut bytes = Vec::new();
    loop {
        let count = file.read(&mut block).map_err(|error| vec![broken(&error)])?;
        bytes.extend_from_slice(block.get(..count).unwrap_or_default());
        // A block may end within a character, whose rest comes with the next one.
        let whole = std::str::from_utf8(&bytes).map_or_else(|error| error.valid_up_to(), str::len);
        text.push_str(std::str::from_utf8(bytes.get(..whole).unwrap_or_default()).unwrap_or_default());
        bytes.drain(..whole);
        let is_end = count == 0;
        let known = if is_end { text.len() } else { text.rfind(number_list::is_separator).map_or(0, |at| at + 1) };
        let parts: String = text.drain(..known).collect();
        if !list.parts(&parts) {
            // The writer failed and says why.
            return Ok(());
        }
        if is_end {
            break;
        }
    }
    let _writer_failed = list.send();
    Ok(())
}

/// What was read so far and not sent.
struct List<'a> {
    target: Target,
    chunks: &'a mpsc::Sender<Chunk>,
    /// The line.
    row: i64,
    good: Vec<String>,
    chunk: Chunk,
    since_part: Arc<AtomicUsize>,
}

fn empty() -> Chunk {
    Chunk::new(Members::Addresses(Vec::new()))
}

impl List<'_> {
    /// Takes whole parts, each with its separator but for the last of the file. `false` when nobody takes them any more.
    fn parts(&mut self, text: &str) -> bool {
        if !text.is_empty() {
            self.since_part.store(0, Ordering::Relaxed);
        }
        for part in text.split_inclusive(number_list::is_separator) {
            let text = part.strip_suffix(number_list::is_separator).unwrap_or(part);
            for found in number_list::read(self.target.channel, text, self.target.country) {
                self.chunk.rows += 1;
                match found {
                    Ok(address) => self.good.push(address.as_str().to_owned()),
                    Err(bad) => {
                        let reason = format!("`{}` {}", bad.shown, bad.error);
                        let code = match bad.error {
                            number_list::NumberError::Address(_) => address_code(self.target.channel),
                            number_list::NumberError::Ambiguous => "ambiguous_number",
                        };
                        self.chunk.refuse(self.row, vec![("to".to_owned(), code.to_owned(), reason)]);
                    }
                }
            }
            self.row += i64::from(part.ends_with('\n'));
            if self.good.len() + self.chunk.bad.len() >= CHUNK && !self.send() {
                return false;
            }
        }
        true
    }

    fn send(&mut self) -> bool {
        self.chunk.good = Members::Addresses(std::mem::take(&mut self.good));
        self.chunks.blocking_send(std::mem::replace(&mut self.chunk, empty())).is_ok()
    }
}
