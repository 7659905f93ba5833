//! Reading a CSV file as people save it: its encoding, its delimiter, and rows numbered as a spreadsheet shows them.

use std::io::{self, Read};

use bytes::{Buf as _, Bytes};
use encoding_rs::{Decoder, Encoding, SHIFT_JIS, UTF_8};
use tokio::sync::mpsc;

/// What is looked at to tell the encoding and the delimiter.
const LOOK: usize = 64 * 1024;
/// Longer than any record anybody means; a missing quotation mark makes one that never ends.
const RECORD_MAX: usize = 1024 * 1024;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// CSV, or nothing that is known here.
    Text,
    /// Of Excel 2007 and later.
    Workbook,
    /// Of an older Excel, or a newer one under a password, which looks the same.
    OldWorkbook,
}

/// A file that comes in pieces, read by a blocking thread as UTF-8.
pub(super) struct Decoded {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    ahead: Bytes,
    decoder: Option<Decoder>,
    has_mark: bool,
    ready: String,
    read: usize,
    is_ended: bool,
    since_record: std::sync::Arc<std::sync::atomic::AtomicUsize>,
}

impl Decoded {
    pub(super) fn new(pieces: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        Self {
            pieces,
            ahead: Bytes::new(),
            decoder: None,
            has_mark: false,
            ready: String::new(),
            read: 0,
            is_ended: false,
            since_record: std::sync::Arc::default(),
        }
    }

    /// What the file is, by its first bytes.
    pub(super) fn content(&mut self) -> io::Result<Content> {
        if self.decoder.is_none() {
            self.look()?;
        }
        Ok(match self.ahead.as_ref() {
            [b'P', b'K', 3, 4, ..] => Content::Workbook,
            [0xd0, 0xcf, 0x11, 0xe0, ..] => Content::OldWorkbook,
            _ => Content::Text,
        })
    }

    /// The encoding of a text, and whether it begins with a byte order mark; known after its first line.
    pub(super) fn encoding(&self) -> (&'static Encoding, bool) {
        (self.decoder.as_ref().map_or(UTF_8, Decoder::encoding), self.has_mark)
    }

    /// The next bytes as they came, of a file that is no text.
    pub(super) fn raw(&mut self) -> io::Result<Option<Bytes>> {
        if self.ahead.is_empty() {
            return self.pieces.blocking_recv().transpose();
        }
        Ok(Some(std::mem::take(&mut self.ahead)))
    }

    /// Counts bytes given out; whoever reads records sets it back after each.
    pub(super) fn counter(&self) -> std::sync::Arc<std::sync::atomic::AtomicUsize> {
        std::sync::Arc::clone(&self.since_record)
    }

    /// The first line, without taking it.
    pub(super) fn first_line(&mut self) -> io::Result<&str> {
        while !self.ready.contains('\n') && self.ready.len() < LOOK && !self.is_drained() {
            self.decode_more()?;
        }
        Ok(self.ready.lines().next().unwrap_or_default())
    }

    /// Whether all that will come is decoded.
    fn is_drained(&self) -> bool {
        self.is_ended && self.ahead.is_empty() && self.decoder.is_some()
    }

    fn decode_more(&mut self) -> io::Result<()> {
        if self.decoder.is_none() {
            self.look()?;
        }
        if self.ahead.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.ahead = piece?,
                None => self.is_ended = true,
            }
        }
        let Some(decoder) = &mut self.decoder else {
            return Ok(());
        };
        if self.read > 0 {
            self.ready.drain(..self.read);
            self.read = 0;
        }
        let piece = std::mem::take(&mut self.ahead);
        let room = decoder.max_utf8_buffer_length(piece.len()).unwrap_or(piece.len() * 3 + 16);
        self.ready.reserve(room);
        // Bytes that are no text become U+FFFD, and the rows that hold it are refused.
        let _complete = decoder.decode_to_string(&piece, &mut self.ready, self.is_ended);
        Ok(())
    }

    /// Decides the encoding: a byte order mark says it; else what reads as UTF-8 is UTF-8, and the rest Shift_JIS.
    fn look(&mut self) -> io::Result<()> {
        let mut start = Vec::new();
        while start.len() < LOOK {
            let Some(piece) = self.pieces.blocking_recv() else {
                self.is_ended = true;
                break;
            };
            start.extend_from_slice(&piece?);
        }
        let encoding = match (Encoding::for_bom(&start), std::str::from_utf8(&start)) {
            (Some((encoding, _)), _) => encoding,
            (None, Ok(_)) => UTF_8,
            // Cut in the middle of a character.
            (None, Err(error)) if error.error_len().is_none() && !self.is_ended => UTF_8,
            (None, Err(_)) => SHIFT_JIS,
        };
        self.has_mark = Encoding::for_bom(&start).is_some();
        self.decoder = Some(encoding.new_decoder_with_bom_removal());
        self.ahead = start.into();
        if self.is_ended && self.ahead.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is empty"));
        }
        Ok(())
    }
}

impl Read for Decoded {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.read == self.ready.len() && !self.is_drained() {
            self.decode_more()?;
        }
        let mut rest = self.ready.as_bytes().get(self.read..).unwrap_or_default();
        let count = rest.len().min(into.len());
        if let Some(into) = into.get_mut(..count) {
            rest.copy_to_slice(into);
        }
        self.read += count;
        let since = self.since_record.fetch_add(count, std::sync::atomic::Ordering::Relaxed) + count;
        if since > RECORD_MAX {
            let reason = "a row is longer than 1 MiB: is a quotation mark missing?";
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        Ok(count)
    }
}

/// The delimiter that stands most often in the header, outside quotation marks: comma, semicolon or tab.
pub(super) fn delimiter(header: &str) -> u8 {
    let mut is_quoted = false;
    let mut counts = [(b',', 0), (b';', 0), (b'\t', 0)];
    for byte in header.bytes() {
        if byte == b'"' {
            is_quoted = !is_quoted;
        }
        for (candidate, count) in &mut counts {
            if !is_quoted && byte == *candidate {
                *count += 1;
            }
        }
    }
    counts.into_iter().rev().max_by_key(|(_, count)| *count).map_or(b',', |(delimiter, _)| delimiter)
}

/// Numbers records as a spreadsheet does, which shows the blank lines that a CSV reader passes over.
#[derive(Debug)]
pub(super) struct RowCounter {
    row: i64,
    line: u64,
}

impl Default for RowCounter {
    fn default() -> Self {
        // A reader stands on line 1 before it has read anything.
        Self { row: 0, line: 1 }
    }
}

impl RowCounter {
    /// The number of the record just read: `line` is where the reader stands after it.
    pub(super) fn next(&mut self, line: u64, record: &csv::StringRecord) -> i64 {
        let inside: usize = record.iter().map(|field| field.bytes().filter(|b| *b == b'\n').count()).sum();
        let passed = line.saturating_sub(self.line);
        // Its own lines, of which the last may be counted with the next record.
        let blank = passed.saturating_sub(1 + inside as u64);
        self.line = line;
        self.row += 1 + i64::try_from(blank).unwrap_or_default();
        self.row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> Vec<i64> {
        let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
        let (mut counter, mut record, mut rows) = (RowCounter::default(), csv::StringRecord::new(), Vec::new());
        while reader.read_record(&mut record).unwrap() {
            rows.push(counter.next(reader.position().line(), &record));
        }
        rows
    }

    #[test]
    fn rows_are_numbered_as_a_spreadsheet_does() {
        assert_eq!(rows("to\na\nb"), [1, 2, 3]);
        assert_eq!(rows("to\r\na\r\nb\r\n"), [1, 2, 3]);
        assert_eq!(rows("to\na\n\n\nb\nc\n"), [1, 2, 5, 6]);
        assert_eq!(rows("to\r\na\r\n\r\n\r\nb\r\nc"), [1, 2, 5, 6]);
        assert_eq!(rows("to,x\na,\"1\n2\n3\"\nb,\nc,"), [1, 2, 3, 4]);
    }

    #[test]
    fn the_delimiter_is_seen_in_the_header() {
        assert_eq!(delimiter("to,name"), b',');
        assert_eq!(delimiter("to;\"a,b,c\";name"), b';');
        assert_eq!(delimiter("to\tname"), b'\t');
        assert_eq!(delimiter("to"), b',');
    }

    #[test]
    fn encodings_are_told_apart() {
        for (bytes, is_whole) in [
            ("to,name\n+81,佐藤".as_bytes().to_vec(), true),
            ([b"\xef\xbb\xbf".as_slice(), "to,name\n+81,佐藤".as_bytes()].concat(), true),
            (SHIFT_JIS.encode("to,name\n+81,佐藤").0.into_owned(), true),
            ("\u{feff}to,name\n+81,佐藤".encode_utf16().flat_map(u16::to_le_bytes).collect(), true),
            ("\u{feff}to,name\n+81,佐藤".encode_utf16().flat_map(u16::to_be_bytes).collect(), false),
        ] {
            let (sender, pieces) = mpsc::channel(100);
            let size = if is_whole { bytes.len() } else { 3 };
            bytes.chunks(size).for_each(|piece| sender.try_send(Ok(Bytes::copy_from_slice(piece))).unwrap());
            drop(sender);
            let mut decoded = Decoded::new(pieces);
            assert_eq!(decoded.first_line().unwrap(), "to,name");
            let mut text = String::new();
            decoded.read_to_string(&mut text).unwrap();
            assert_eq!(text, "to,name\n+81,佐藤");
        }
    }
}
