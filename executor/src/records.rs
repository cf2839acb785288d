//! Records in files that only grow, as in an executor's folder: what its agent reads when it finds the
//! executor gone.
//!
//! A record is a frame and a checksum, so that a record torn by a crash ends the reading instead of
//! confusing it. Only the executor writes; it replaces a file by a shorter one when that has outgrown
//! what the agent may still ask for.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::marker::PhantomData;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tepui_types::Digest;
use tepui_types::wire::{LENGTH_BYTES, frame, frame_len, parse};

use crate::protocol::ProtocolError;

/// The version of every record: one of the files' own, for they outlive the connection's.
const VERSION: u8 = 1;

/// Bytes of checksum after each frame: the first of its SHA-256.
const CHECKSUM_BYTES: usize = 8;

/// What has a file of its own.
pub trait Record: Serialize + DeserializeOwned {
    /// The file's name.
    const FILE: &'static str;
    /// A file below this size, in bytes, is not worth replacing.
    const FLOOR: u64;
}

/// Why records could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// The file could not be opened.
    #[error("failed to open the records {path}")]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file could not be read.
    #[error("failed to read the records {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Records could not be added; what was there is as it was.
    #[error("failed to append to the records {path}")]
    Append {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file could not be replaced; it is as it was.
    #[error("failed to replace the records {path}")]
    Replace {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A record is larger than a frame may be.
    #[error("a record does not encode")]
    Encode(#[source] ProtocolError),
}

/// A file of records, open for its one writer.
#[derive(Debug)]
pub struct Log<T> {
    path: PathBuf,
    file: File,
    len: u64,
    replace_at: u64,
    records: PhantomData<fn(&T)>,
}

impl<T: Record> Log<T> {
    /// Opens or creates the file in the executor's folder `dir`.
    ///
    /// # Errors
    /// [`RecordsError::Open`].
    pub fn open(dir: &Path) -> Result<Self, RecordsError> {
        let path = dir.join(T::FILE);
        let result = open(&path).and_then(|file| file.metadata().map(|meta| (file, meta.len())));
        match result {
            Ok((file, len)) => Ok(Self {
                path,
                file,
                len,
                replace_at: T::FLOOR,
                records: PhantomData,
            }),
            Err(source) => Err(RecordsError::Open { path, source }),
        }
    }

    /// Appends all of `records` in one write, which survives this process, but
    /// not its machine.
    ///
    /// # Errors
    /// [`RecordsError::Append`]: none of them is there then.
    pub fn append<'a>(
        &mut self,
        records: impl IntoIterator<Item = &'a T>,
    ) -> Result<(), RecordsError>
    where
        T: 'a,
    {
        let bytes = encode_all(records)?;
        // If half of one stays, the reader stops there.
        append(&mut self.file, &mut self.len, &bytes).map_err(|(source, _)| RecordsError::Append {
            path: self.path.clone(),
            source,
        })
    }

    /// Whether most of the file may be of tasks that are forgotten.
    pub fn has_outgrown(&self) -> bool {
        self.len > self.replace_at
    }

    /// Replaces all records by `records`; a reader sees the old ones or these.
    ///
    /// # Errors
    /// [`RecordsError::Replace`]: the old ones are there then.
    pub fn replace<'a>(
        &mut self,
        records: impl IntoIterator<Item = &'a T>,
    ) -> Result<(), RecordsError>
    where
        T: 'a,
    {
        let bytes = encode_all(records)?;
        // Also if this fails: it is not tried again with every record.
        self.replace_at = T::FLOOR.max(self.len.saturating_mul(2));
        let draft = self.path.with_extension("new");
        let written = fs::write(&draft, &bytes).and_then(|()| {
            let file = open(&draft)?;
            fs::rename(&draft, &self.path)?;
            Ok(file)
        });
        self.file = written.map_err(|source| RecordsError::Replace {
            path: self.path.clone(),
            source,
        })?;
        self.len = bytes.len() as u64;
        self.replace_at = T::FLOOR.max(self.len.saturating_mul(4));
        Ok(())
    }
}

/// Appends records to a file of that length. A half-written one would hide those that follow it: it is cut
/// off, and the error says whether it could be.
pub(crate) fn append(
    file: &mut File,
    len: &mut u64,
    bytes: &[u8],
) -> Result<(), (io::Error, bool)> {
    match file.write_all(bytes) {
        Ok(()) => {
            *len += bytes.len() as u64;
            Ok(())
        }
        Err(error) => Err((error, file.set_len(*len).is_ok())),
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600).open(path)
}

/// The bytes of one record.
///
/// # Errors
/// [`ProtocolError::TooLarge`] alone.
pub fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, ProtocolError> {
    let mut bytes = frame(VERSION, record)?;
    let sum = checksum(&bytes);
    bytes.extend_from_slice(&sum);
    Ok(bytes)
}

fn encode_all<'a, T: Record + 'a>(
    records: impl IntoIterator<Item = &'a T>,
) -> Result<Vec<u8>, RecordsError> {
    let mut bytes = Vec::new();
    for record in records {
        bytes.extend(encode(record).map_err(RecordsError::Encode)?);
    }
    Ok(bytes)
}

fn checksum(frame: &[u8]) -> Sum {
    let digest = Digest::of(frame).0;
    std::array::from_fn(|place| digest[place])
}

/// The records in the executor's folder `dir`, oldest first; none where there is no file of them. What
/// follows a torn record is not read.
///
/// # Errors
/// [`RecordsError::Read`].
pub fn read<T: Record>(dir: &Path) -> Result<Vec<T>, RecordsError> {
    let path = dir.join(T::FILE);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(decode(&bytes).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(RecordsError::Read { path, source }),
    }
}

/// The records in `bytes`, as far as the first that is torn or of another version.
pub fn decode<T: DeserializeOwned>(mut bytes: &[u8]) -> impl Iterator<Item = T> {
    std::iter::from_fn(move || {
        let (record, rest) = next(bytes)?;
        bytes = rest;
        Some(record)
    })
}

/// The first record in `bytes` whose own bytes begin with these. Others are passed over without a look at
/// their sums.
pub fn find<T: DeserializeOwned>(mut bytes: &[u8], begins: &[u8]) -> Option<T> {
    loop {
        let (frame, sum, rest) = split(bytes)?;
        // Behind its length and its version.
        let is_wanted = frame.get(LENGTH_BYTES + 1..)?.starts_with(begins);
        if is_wanted {
            return checked(frame, sum);
        }
        bytes = rest;
    }
}

fn next<T: DeserializeOwned>(bytes: &[u8]) -> Option<(T, &[u8])> {
    let (frame, sum, rest) = split(bytes)?;
    Some((checked(frame, sum)?, rest))
}

type Sum = [u8; CHECKSUM_BYTES];

fn split(bytes: &[u8]) -> Option<(&[u8], &Sum, &[u8])> {
    let header = bytes.first_chunk::<LENGTH_BYTES>()?;
    let frame_bytes = LENGTH_BYTES + frame_len(*header).ok()?;
    let (frame, rest) = bytes.split_at_checked(frame_bytes)?;
    let (sum, rest) = rest.split_first_chunk::<CHECKSUM_BYTES>()?;
    Some((frame, sum, rest))
}

fn checked<T: DeserializeOwned>(frame: &[u8], sum: &Sum) -> Option<T> {
    let is_whole = *sum == checksum(frame);
    is_whole.then(|| parse(VERSION, &frame[LENGTH_BYTES..]).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Vec<String> {
        decode(bytes).collect()
    }

    #[test]
    fn a_torn_or_foreign_tail_leaves_the_records_before_it() {
        let words = ["one", "two"].map(String::from);
        let first = encode(&words[0]).unwrap();
        let whole = [first.clone(), encode(&words[1]).unwrap()].concat();
        assert_eq!(all(&whole), words);
        for cut in first.len()..whole.len() {
            assert_eq!(all(&whole[..cut]), words[..1], "cut at {cut}");
        }
        for tail in [&b"garbage garbage"[..], &[0; 64], &[0xff; 64]] {
            assert_eq!(all(&[&whole, tail].concat()), words);
        }
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        assert_eq!(all(&flipped), words[..1]);
    }
}
