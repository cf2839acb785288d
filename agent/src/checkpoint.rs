//! The journal: what an agent must remember when its process dies.
//!
//! `DIR/checkpoint` is append-only: records are replayed and compacted when the
//! agent starts, and compacted again when they outgrow what they describe. The
//! event loop is its only writer, and writes a record before it does what the
//! record says. Appends reach the kernel but not the disk: they survive the
//! death of the process, and after the death of the machine no task is alive
//! anyway. What the log may owe again then it does not, for the agent says that
//! its machine was restarted. A torn last record is dropped; a broken one before
//! others is an error.
//!
//! A record is `length u32 · its complement u32 · checksum u32 · body`, little
//! endian, the body a postcard value in a versioned envelope.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::fstatvfs;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use tepui_types::wire::agent::{StatusReport, TaskLaunch};
use tepui_types::wire::executor::ProcessIdentity;
use tepui_types::{Reason, TaskId, envelope};

use crate::agent::{ExecutorId, ExecutorKind, Prepared};

/// The version of every record.
const VERSION: u8 = 1;
/// Length, its complement, checksum.
const HEADER_BYTES: usize = 12;
/// The largest body. A launch holds a specification of at most 64 KiB.
const MAX_RECORD: usize = 1024 * 1024;
/// A journal below this size is never compacted while the agent runs: it is
/// replayed in milliseconds.
const COMPACT_FLOOR: u64 = 8 * 1024 * 1024;
/// Room on the disk that is kept behind the journal's end, so that what becomes of the tasks that are
/// here can be written also when the disk is full: some thousand records.
const RESERVE: u64 = 1024 * 1024;
/// Free room on the disk below which no task is worth beginning: its folder and its first output take
/// some of it, and others write there, too.
const MIN_FREE: u64 = 4 * 1024 * 1024;

/// Something that must not be forgotten, version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// An agent process started here; first in every journal.
    Opened {
        /// The boot of the machine.
        boot_id: String,
        /// Executor numbers below this are taken.
        next_executor: u64,
    },
    /// The newest leader's term that was seen.
    Term(u64),
    /// A task was accepted; written before anything is done for it.
    Launched(Box<TaskLaunch>),
    /// An executor process is about to be started.
    ExecutorStarting {
        /// Its number.
        executor: ExecutorId,
        /// What it is for.
        kind: ExecutorKind,
    },
    /// It answered.
    ExecutorStarted {
        /// Its number.
        executor: ExecutorId,
        /// Its process.
        identity: ProcessIdentity,
    },
    /// What a task's container needs is there, and is the task's until it ends.
    Prepared {
        /// Whose.
        task: TaskId,
        /// What.
        prepared: Prepared,
    },
    /// A task is about to be handed to an executor: from here on it may run.
    Handed {
        /// Which.
        task: TaskId,
        /// To whom.
        executor: ExecutorId,
    },
    /// A task has ended.
    Ended {
        /// Its last status.
        report: StatusReport,
        /// The executor that keeps its end until the log has it.
        executor: Option<ExecutorId>,
    },
    /// The log has the task's end.
    Forgotten(TaskId),
    /// An executor process is gone, and what it left is known.
    ExecutorGone(ExecutorId),
    /// A task's checks say that it is to end; written before it is told to.
    Unwell {
        /// Which.
        task: TaskId,
        /// What is wrong with it.
        why: Reason,
    },
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The system refuses.
    #[error("failed to {step} the journal {path}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// The journal.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A record is broken, and it is not the last.
    #[error(
        "the journal {path} is broken at byte {offset} ({detail}). Restore it from a copy; or \
         move it away: the agent then starts without its tasks, and the master gives them up"
    )]
    Corrupt {
        /// The journal.
        path: PathBuf,
        /// Where the broken record starts.
        offset: usize,
        /// What is wrong with it.
        detail: String,
    },
}

impl CheckpointError {
    /// Whether the disk is full.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            Self::Corrupt { .. } => false,
        }
    }
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    len: u64,
    /// Up to where there is room on the disk for sure.
    reserved: u64,
    compact_at: u64,
    buffer: Vec<u8>,
}

impl Journal {
    /// Reads what is there. A journal that is absent is empty.
    pub fn read(path: &Path) -> Result<Vec<Record>, CheckpointError> {
        match std::fs::read(path) {
            Ok(bytes) => parse(&bytes).map_err(|(offset, detail)| CheckpointError::Corrupt {
                path: path.to_owned(),
                offset,
                detail,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => Err(CheckpointError::Io {
                step: "read",
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Replaces whatever is at `path` by a journal of just `records`.
    pub fn create(path: &Path, records: &[Record]) -> Result<Self, CheckpointError> {
        let failed = |step| {
            move |source| CheckpointError::Io {
                step,
                path: path.to_owned(),
                source,
            }
        };
        let mut bytes = Vec::new();
        records.iter().for_each(|record| encode(record, &mut bytes));
        tepui_folder::replace(path, &bytes, 0o644).map_err(failed("write"))?;
        let file = OpenOptions::new()
            .append(true)
            .open(path)
            .map_err(failed("open"))?;
        let len = bytes.len() as u64;
        let compact_at = COMPACT_FLOOR.max(len.saturating_mul(4));
        Ok(Self {
            file,
            path: path.to_owned(),
            len,
            reserved: len,
            compact_at,
            buffer: Vec::new(),
        })
    }

    /// Appends records with one write. After an error nothing of them is there.
    pub fn append<'a>(
        &mut self,
        records: impl IntoIterator<Item = &'a Record>,
    ) -> Result<(), CheckpointError> {
        self.buffer.clear();
        for record in records {
            encode(record, &mut self.buffer);
        }
        let written = self.file.write_all(&self.buffer);
        if let Err(source) = written {
            // Half a record before later ones would make the journal unreadable.
            let _ = self.file.set_len(self.len);
            self.reserved = self.len;
            return Err(CheckpointError::Io {
                step: "append to",
                path: self.path.clone(),
                source,
            });
        }
        self.len += self.buffer.len() as u64;
        Ok(())
    }

    /// Whether there is room for more than what becomes of the tasks that are here. Makes it if
    /// there can be.
    pub fn has_room(&mut self) -> bool {
        // A file system that does not tell is not full.
        let free = fstatvfs(&self.file).map_or(MIN_FREE, |disk| {
            disk.blocks_available() * disk.fragment_size()
        });
        if free < MIN_FREE {
            return false;
        }
        if self.len + RESERVE / 2 <= self.reserved {
            return true;
        }
        let keep_len = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let (from, len) = (self.len.cast_signed(), RESERVE.cast_signed());
        match fallocate(&self.file, keep_len, from, len) {
            Ok(()) => self.reserved = self.len + RESERVE,
            Err(Errno::ENOSPC | Errno::EDQUOT) => return false,
            // This file system keeps no room for anybody; a write will tell.
            Err(_) => self.reserved = self.len + RESERVE,
        }
        true
    }

    /// Lets it grow further before it is to be replaced.
    pub fn put_off_replacement(&mut self) {
        self.compact_at = self.len.saturating_mul(2);
    }

    /// Whether it is worth replacing by a [created](Self::create) one.
    pub fn has_outgrown(&self) -> bool {
        self.len > self.compact_at
    }

    /// Its size, in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

fn encode(record: &Record, bytes: &mut Vec<u8>) {
    let body = envelope::encode(VERSION, record);
    // Bodies are far below four bytes' worth: the largest part is a launch.
    let len = body.len() as u32;
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(&(!len).to_le_bytes());
    bytes.extend_from_slice(&checksum(&body));
    bytes.extend_from_slice(&body);
}

fn checksum(body: &[u8]) -> [u8; 4] {
    let digest: [u8; 32] = sha2::Sha256::digest(body).into();
    [digest[0], digest[1], digest[2], digest[3]]
}

/// The records in `bytes`, or where and how they are broken.
fn parse(bytes: &[u8]) -> Result<Vec<Record>, (usize, String)> {
    let mut records = Vec::new();
    let mut offset = 0;
    while offset < bytes.len() {
        let rest = &bytes[offset..];
        // A power cut may leave a tail that was given room but never written.
        if rest.iter().all(|byte| *byte == 0) {
            break;
        }
        let Some((header, body)) = rest.split_at_checked(HEADER_BYTES) else {
            break;
        };
        let word = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
        let len = u32::from_le_bytes(word(0));
        if u32::from_le_bytes(word(4)) != !len || len as usize > MAX_RECORD {
            return Err((
                offset,
                "the length of a record does not match its check".into(),
            ));
        }
        let Some((body, after)) = body.split_at_checked(len as usize) else {
            break;
        };
        let sound = checksum(body) == word(8);
        if !sound && after.is_empty() {
            break;
        }
        if !sound {
            return Err((offset, "a record does not match its checksum".into()));
        }
        let record = envelope::decode(VERSION, body);
        records.push(record.map_err(|error| (offset, error.to_string()))?);
        offset += HEADER_BYTES + len as usize;
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<Record> {
        let opened = Record::Opened {
            boot_id: "b".into(),
            next_executor: 1,
        };
        let gone = (0..20).map(|number| Record::ExecutorGone(ExecutorId(number)));
        std::iter::once(opened)
            .chain([Record::Term(3)])
            .chain(gone)
            .collect()
    }

    fn bytes_of(records: &[Record]) -> Vec<u8> {
        let mut bytes = Vec::new();
        records.iter().for_each(|record| encode(record, &mut bytes));
        bytes
    }

    #[test]
    fn journal_reads_back_what_was_appended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        assert!(Journal::read(&path).unwrap().is_empty());
        let records = records();
        let mut journal = Journal::create(&path, &records[..2]).unwrap();
        journal.append(&records[2..10]).unwrap();
        journal.append(&records[10..]).unwrap();
        assert_eq!(Journal::read(&path).unwrap(), records);
        assert_eq!(journal.len(), std::fs::metadata(&path).unwrap().len());
    }

    #[test]
    fn a_full_disk_is_told_by_the_system_s_word() {
        let full = |kind: io::ErrorKind| CheckpointError::Io {
            step: "append to",
            path: PathBuf::new(),
            source: kind.into(),
        };
        assert!(full(io::ErrorKind::StorageFull).is_full());
        assert!(!full(io::ErrorKind::PermissionDenied).is_full());
    }

    #[test]
    fn room_that_is_kept_is_no_part_of_the_journal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        let records = records();
        let mut journal = Journal::create(&path, &records[..1]).unwrap();
        assert!(journal.has_room());
        journal.append(&records[1..]).unwrap();
        assert!(journal.has_room());
        assert_eq!(Journal::read(&path).unwrap(), records);
        assert_eq!(journal.len(), std::fs::metadata(&path).unwrap().len());
    }

    #[test]
    fn every_prefix_is_a_journal_without_its_last_record() {
        let records = records();
        let bytes = bytes_of(&records);
        for end in 0..bytes.len() {
            let parsed = parse(&bytes[..end]).unwrap();
            assert_eq!(parsed, records[..parsed.len()]);
            assert!(bytes_of(&records[..=parsed.len()]).len() > end);
        }
    }

    #[test]
    fn broken_record_in_the_middle_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        let good = bytes_of(&records());
        let last = good.len() - bytes_of(&records()[21..]).len();
        for position in 0..last {
            let mut bytes = good.clone();
            bytes[position] ^= 0x40;
            std::fs::write(&path, &bytes).unwrap();
            let error = Journal::read(&path).unwrap_err().to_string();
            assert!(
                error.contains("checkpoint is broken at byte"),
                "{position}: {error}"
            );
        }
    }

    #[test]
    fn torn_tails_of_a_power_cut_are_dropped() {
        let records = records();
        let mut bytes = bytes_of(&records);
        bytes.extend_from_slice(&[0; 100]);
        assert_eq!(parse(&bytes).unwrap(), records);
        let mut bytes = bytes_of(&records);
        *bytes.last_mut().unwrap() ^= 1;
        assert_eq!(parse(&bytes).unwrap(), records[..records.len() - 1]);
    }
}
