//! How far the log was synced, in a file of its own beside the database's.
//!
//! RocksDB takes a record that runs past the end of its write-ahead log for one that a crash tore,
//! and drops it and all after it in silence; a damaged length field, a file cut short or a missing
//! one look the same. So after every sync the log's end is noted here. The note itself is synced
//! only where it goes back: after a power failure it may be behind the log, which is harmless, but
//! never before it. A log that ends before its mark has lost what was acknowledged.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Version, three numbers, CRC-32 of them: in one sector, so never half of one and half of another.
const BYTES: usize = 1 + 3 * 8 + 4;
const VERSION: u8 = 1;

/// What was synced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark {
    /// The log's last index.
    pub index: u64,
    /// The highest term that was seen.
    pub term: u64,
    /// Whom this node voted for in it; 0 for nobody.
    pub vote: u64,
}

/// The file, open.
#[derive(Debug)]
pub struct Watermark {
    file: File,
    path: PathBuf,
}

impl Watermark {
    /// Opens the mark at `path`, making one that says nothing if there is none.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        Ok(Self {
            file: options.open(path)?,
            path: path.to_owned(),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was synced at least. A mark that makes no sense says nothing: it is a witness, not a
    /// record.
    pub fn read(&self) -> io::Result<Mark> {
        let mut bytes = [0; BYTES];
        match self.file.read_exact_at(&mut bytes, 0) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Ok(Mark::default());
            }
            Err(error) => return Err(error),
        }
        let number = |from: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[from..from + 8]);
            u64::from_le_bytes(number)
        };
        let mark = Mark {
            index: number(1),
            term: number(9),
            vote: number(17),
        };
        Ok(if bytes == encode(mark) {
            mark
        } else {
            Mark::default()
        })
    }

    /// Notes what was synced.
    pub fn write(&self, mark: Mark) -> io::Result<()> {
        self.file.write_all_at(&encode(mark), 0)
    }

    /// Brings the note to the disk.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn encode(mark: Mark) -> [u8; BYTES] {
    let mut bytes = [VERSION; BYTES];
    bytes[1..9].copy_from_slice(&mark.index.to_le_bytes());
    bytes[9..17].copy_from_slice(&mark.term.to_le_bytes());
    bytes[17..25].copy_from_slice(&mark.vote.to_le_bytes());
    let checksum = crc32fast::hash(&bytes[..25]);
    bytes[25..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_back_and_nonsense_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("synced");
        let watermark = Watermark::open(&path).unwrap();
        assert_eq!(watermark.read().unwrap(), Mark::default());
        let mark = Mark {
            index: 300,
            term: 2,
            vote: u64::MAX,
        };
        watermark.write(mark).unwrap();
        assert_eq!(Watermark::open(&path).unwrap().read().unwrap(), mark);
        watermark.file.write_all_at(&[9], 3).unwrap();
        assert_eq!(watermark.read().unwrap(), Mark::default());
    }
}
