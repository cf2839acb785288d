//! A file read at places of one's own, until nobody wants it any longer.
//!
//! Several may read one open file: its own position is neither used nor moved.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

/// An open file and a place in it.
#[derive(Debug, Clone)]
pub struct Positioned<'a> {
    file: &'a File,
    length: u64,
    at: u64,
    cancelled: &'a AtomicBool,
}

impl<'a> Positioned<'a> {
    /// At its beginning.
    pub fn new(file: &'a File, cancelled: &'a AtomicBool) -> io::Result<Self> {
        Ok(Self {
            length: file.metadata()?.len(),
            file,
            at: 0,
            cancelled,
        })
    }
}

/// Whether nobody wants it any longer.
pub fn is_cancelled(cancelled: &AtomicBool) -> bool {
    cancelled.load(Ordering::Relaxed)
}

impl Read for Positioned<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if is_cancelled(self.cancelled) {
            return Err(io::Error::other("broken off"));
        }
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Positioned<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        // pread(2) counts in signed numbers.
        let at = at.filter(|at| i64::try_from(*at).is_ok());
        self.at = at.ok_or_else(|| io::Error::other("a place that no file has"))?;
        Ok(self.at)
    }
}
