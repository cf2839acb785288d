//! How far the log was synced, in a file of its own beside the database's.
//!
//! RocksDB takes a record that runs past the end of its write-ahead log for one that a crash tore,
//! and drops it and all after it in silence; a damaged length field, a file cut short or a missing
//! one look the same. So after every sync the log's last index is noted here. The note itself is
//! never synced: after a power failure it may be behind the log, which is harmless, but never
//! before it. A log that ends before its mark has lost what was acknowledged.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Version, index, CRC-32 of both: in one sector, so never half of one and half of another.
const BYTES: usize = 1 + 8 + 4;
const VERSION: u8 = 1;

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
        let file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The last index that was synced, as far as is known. A mark that makes no sense says nothing:
    /// it is a witness, not a record.
    pub fn read(&self) -> io::Result<Option<u64>> {
        let mut bytes = [0; BYTES];
        match self.file.read_exact_at(&mut bytes, 0) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let mut index = [0; 8];
        index.copy_from_slice(&bytes[1..9]);
        let index = u64::from_le_bytes(index);
        Ok((bytes == encode(index)).then_some(index))
    }

    /// Notes an index.
    pub fn write(&self, index: u64) -> io::Result<()> {
        self.file.write_all_at(&encode(index), 0)
    }
}

fn encode(index: u64) -> [u8; BYTES] {
    let mut bytes = [VERSION; BYTES];
    bytes[1..9].copy_from_slice(&index.to_le_bytes());
    let checksum = crc32fast::hash(&bytes[..9]);
    bytes[9..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_back_and_nonsense_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("synced");
        let mark = Watermark::open(&path).unwrap();
        assert_eq!(mark.read().unwrap(), None);
        mark.write(300).unwrap();
        mark.write(7).unwrap();
        assert_eq!(Watermark::open(&path).unwrap().read().unwrap(), Some(7));
        mark.file.write_all_at(&[9], 3).unwrap();
        assert_eq!(mark.read().unwrap(), None);
    }
}
