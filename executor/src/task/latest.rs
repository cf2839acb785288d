//! The latest output of a stream, in several files that are begun one after another.
//!
//! What a file is called and what who reads them may rely on is said in
//! [`output`](tepui_executor::output). The order of the steps here keeps that true at every moment, also
//! where this process ends between two of them.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use tepui_executor::output::{Portion, Rotation, parts};
use tepui_types::Bytes;

use crate::outputs::append_to;

/// The files of one stream.
pub struct Latest {
    path: PathBuf,
    rotation: Rotation,
    /// How many there are at most.
    files: usize,
    /// Where the complete ones begin, the oldest first.
    complete: VecDeque<u64>,
    /// Where the present one begins.
    begins: u64,
    /// How much the stream has had.
    end: u64,
    /// The present one; none until something was written to it.
    file: Option<File>,
}

impl Latest {
    /// Goes on with what is there at `path`: in so many files, each of so many bytes at most.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn open(path: &Path, bytes: Bytes, files: u32) -> io::Result<Self> {
        let complete = parts::list(path)?;
        let begins = match complete.last() {
            Some(last) => last.saturating_add(fs::metadata(parts::complete(path, *last))?.len()),
            None => 0,
        };
        let kept = match fs::metadata(path) {
            Ok(present) => present.len(),
            Err(error) if error.kind() == ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        Ok(Self {
            path: path.to_owned(),
            rotation: Rotation::new(bytes.0, kept),
            files: files as usize,
            complete: complete.into(),
            begins,
            end: begins.saturating_add(kept),
            file: None,
        })
    }

    /// Keeps these, the next of the stream; true if files were begun for them. Of many small files those
    /// are never made that would not stay: who writes much pays for little more than what is kept.
    ///
    /// # Errors
    /// Gives back what could not be written, with the reason.
    pub fn keep<'a>(&mut self, bytes: &'a [u8]) -> Result<bool, (&'a [u8], io::Error)> {
        let portions = self.cut(bytes);
        let begun = portions.iter().filter(|portion| portion.begins_file());
        let begun = begun.count();
        // Files that are begun after the one that a portion goes to.
        let mut later = begun;
        let mut lost = bytes;
        for portion in portions {
            let mut done = Ok(());
            if portion.begins_file() {
                if later == begun {
                    done = self.complete_present(begun);
                }
                (self.file, self.begins) = (None, self.end);
                later -= 1;
            }
            if later < self.files {
                let is_new = later < begun;
                done = done.and_then(|()| self.write(portion.bytes(), is_new && later > 0));
                if is_new {
                    done = done.and_then(|()| self.make_room(later.max(1)));
                }
            }
            done.map_err(|error| (lost, error))?;
            self.end += portion.bytes().len() as u64;
            lost = &lost[portion.bytes().len()..];
        }
        Ok(begun > 0)
    }

    fn cut<'a>(&mut self, bytes: &'a [u8]) -> Vec<Portion<'a>> {
        let mut rest = bytes;
        let next = || {
            let portion = self.rotation.take(rest)?;
            rest = portion.rest();
            Some(portion)
        };
        std::iter::from_fn(next).collect()
    }

    /// Nothing more comes into the present file. The oldest go, to make room for so many new ones: after
    /// the present one has its name, or it could be taken for the first. The last one stays until the
    /// next is made: who finds no file at all takes the output for empty.
    fn complete_present(&mut self, begun: usize) -> io::Result<()> {
        match fs::rename(&self.path, parts::complete(&self.path, self.begins)) {
            Ok(()) => self.complete.push_back(self.begins),
            // Nothing was written to it.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.make_room(begun.min(self.files.saturating_sub(1)))
    }

    /// The oldest complete files go, so that there may be so many others.
    fn make_room(&mut self, others: usize) -> io::Result<()> {
        while self.complete.len() > self.files.saturating_sub(others) {
            let Some(oldest) = self.complete.pop_front() else {
                break;
            };
            match fs::remove_file(parts::complete(&self.path, oldest)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes to the file that begins where the present one does; it is complete with that, or the one
    /// that is written to from now on.
    fn write(&mut self, bytes: &[u8], is_complete: bool) -> io::Result<()> {
        if is_complete {
            self.complete.push_back(self.begins);
            return append_to(&parts::complete(&self.path, self.begins))?.write_all(bytes);
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(append_to(&self.path)?),
        };
        file.write_all(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_finds_a_file_at_every_moment_and_never_too_many() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stdout");
        let mut latest = Latest::open(&path, Bytes(4), 3).unwrap();
        assert!(!latest.keep(b"abcd").unwrap());
        // More new ones than are kept.
        latest.complete_present(7).unwrap();
        assert_eq!(parts::list(&path).unwrap(), [0]);
        let mut latest = Latest::open(&path, Bytes(4), 3).unwrap();
        assert!(latest.keep(b"efgh").is_ok());
        for begun in 1..=7_usize {
            let bytes = b"ijklmnopqrstuvwxyzABCDEFGHIJ";
            assert!(latest.keep(&bytes[..4 * begun]).unwrap());
            let all = parts::list(&path).unwrap();
            assert_eq!(all.len(), 2, "and the present one, after {begun} at once");
            assert_eq!(all[1] + 4, latest.begins);
            assert_eq!(fs::read(&path).unwrap(), bytes[4 * begun - 4..4 * begun]);
        }
    }
}
