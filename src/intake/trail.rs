//! How far a file was read before, and whether what comes now is that file.

use sha2::{Digest as _, Sha256};

use crate::{intake::job::JobError, store::imports::Place};

/// The code of a file that is not the one that was being read.
pub(super) const OTHER_FILE: &str = "other_file";

/// What was read of a file so far.
pub(super) struct Trail {
    from: Place,
    /// Whether the place where the reading goes on was found.
    is_found: bool,
    hash: Sha256,
    row: i64,
}

impl Trail {
    /// A file that goes on after `from`.
    pub(super) fn new(from: Place) -> Self {
        Self { from, is_found: from == Place::default(), hash: Sha256::new(), row: 0 }
    }

    /// Takes a row in. Whether it was read before.
    pub(super) fn is_known(&mut self, row: i64, record: &csv::StringRecord) -> Result<bool, JobError> {
        self.row = row;
        self.hash.update(row.to_le_bytes());
        for cell in record {
            self.hash.update((cell.len() as u64).to_le_bytes());
            self.hash.update(cell);
        }
        if self.is_found {
            return Ok(false);
        }
        self.is_found = row == self.from.row && self.place().digest == self.from.digest;
        if row >= self.from.row && !self.is_found { Err(other_file()) } else { Ok(true) }
    }

    /// Where the file stands now.
    pub(super) fn place(&self) -> Place {
        Place { row: self.row, digest: self.hash.clone().finalize().into() }
    }

    /// To be asked at the end of the file.
    pub(super) fn end(&self) -> Result<(), JobError> {
        if self.is_found { Ok(()) } else { Err(other_file()) }
    }
}

fn other_file() -> JobError {
    let reason = "this is not the file that was being read under that id: import it under a new one";
    JobError::new("", OTHER_FILE, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(trail: &mut Trail, rows: &[&str]) -> Vec<Result<bool, String>> {
        let row = |(place, cells): (usize, &&str)| {
            let record = csv::StringRecord::from(cells.split(',').collect::<Vec<_>>());
            trail.is_known(i64::try_from(place).unwrap() + 1, &record).map_err(|error| error.code.into_owned())
        };
        rows.iter().enumerate().map(row).collect()
    }

    #[test]
    fn the_same_file_goes_on_where_it_was_and_another_does_not() {
        let mut first = Trail::new(Place::default());
        assert_eq!(read(&mut first, &["to,name", "1,a"]), [Ok(false), Ok(false)]);
        let place = first.place();
        let mut again = Trail::new(place);
        assert_eq!(read(&mut again, &["to,name", "1,a", "2,b"]), [Ok(true), Ok(true), Ok(false)]);
        assert!(again.end().is_ok());
        let other = Err(OTHER_FILE.to_owned());
        assert_eq!(read(&mut Trail::new(place), &["to,name", "1a,", "2,b"])[1], other);
        let mut short = Trail::new(place);
        assert_eq!(read(&mut short, &["to,name"]), [Ok(true)]);
        assert_eq!(short.end().unwrap_err().code, OTHER_FILE);
    }
}
