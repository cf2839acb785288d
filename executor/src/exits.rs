//! Exit records: what became of an executor's tasks, in the file `exits` of its
//! folder.
//!
//! The executor appends each end before it says it over the socket; the agent
//! reads the file when it finds the executor gone. They are [`records`](crate::records).
//! Only the executor writes; one of many tasks replaces the file by a shorter
//! one when it has outgrown what the agent may still ask for.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tepui_types::wire::executor::{EXITS_FILE, TaskUpdate};

use crate::protocol::ProtocolError;
use crate::records;

/// A file below this size is not worth replacing: some thousand records, read
/// in milliseconds.
const REPLACE_FLOOR: u64 = 256 * 1024;

/// Why exit records could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ExitsError {
    /// The file could not be opened.
    #[error("failed to open the exit records {path}")]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file could not be read.
    #[error("failed to read the exit records {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Records could not be added; what was there is as it was.
    #[error("failed to append to the exit records {path}")]
    Append {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file could not be replaced; it is as it was.
    #[error("failed to replace the exit records {path}")]
    Replace {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A record is larger than a frame may be.
    #[error("an exit record does not encode")]
    Encode(#[source] ProtocolError),
}

/// The file of exit records, open for its one writer.
#[derive(Debug)]
pub struct ExitLog {
    path: PathBuf,
    file: File,
    len: u64,
    replace_at: u64,
}

impl ExitLog {
    /// Opens or creates the file in the executor's folder `dir`.
    ///
    /// # Errors
    /// [`ExitsError::Open`].
    pub fn open(dir: &Path) -> Result<Self, ExitsError> {
        let path = dir.join(EXITS_FILE);
        let result = open(&path).and_then(|file| file.metadata().map(|meta| (file, meta.len())));
        match result {
            Ok((file, len)) => Ok(Self {
                path,
                file,
                len,
                replace_at: REPLACE_FLOOR,
            }),
            Err(source) => Err(ExitsError::Open { path, source }),
        }
    }

    /// Appends all of `records` in one write, which survives this process, but
    /// not its machine: after a restart of that a task whose end nobody has
    /// heard of is lost, whatever it was.
    ///
    /// # Errors
    /// [`ExitsError::Append`]: none of them is there then.
    pub fn append<'a>(
        &mut self,
        records: impl IntoIterator<Item = &'a TaskUpdate>,
    ) -> Result<(), ExitsError> {
        let bytes = encode(records)?;
        match self.file.write_all(&bytes) {
            Ok(()) => {
                self.len += bytes.len() as u64;
                Ok(())
            }
            Err(source) => {
                // A half-written record would hide those that follow it. If
                // cutting it off fails too, the reader stops there.
                let _ = self.file.set_len(self.len);
                Err(ExitsError::Append {
                    path: self.path.clone(),
                    source,
                })
            }
        }
    }

    /// Whether most of the file may be of tasks that are forgotten.
    pub fn has_outgrown(&self) -> bool {
        self.len > self.replace_at
    }

    /// Replaces all records by `records`; a reader sees the old ones or these.
    ///
    /// # Errors
    /// [`ExitsError::Replace`]: the old ones are there then.
    pub fn replace<'a>(
        &mut self,
        records: impl IntoIterator<Item = &'a TaskUpdate>,
    ) -> Result<(), ExitsError> {
        let bytes = encode(records)?;
        // Also if this fails: it is not tried again with every record.
        self.replace_at = REPLACE_FLOOR.max(self.len.saturating_mul(2));
        let draft = self.path.with_extension("new");
        let written = fs::write(&draft, &bytes).and_then(|()| {
            let file = open(&draft)?;
            fs::rename(&draft, &self.path)?;
            Ok(file)
        });
        self.file = written.map_err(|source| ExitsError::Replace {
            path: self.path.clone(),
            source,
        })?;
        self.len = bytes.len() as u64;
        self.replace_at = REPLACE_FLOOR.max(self.len.saturating_mul(4));
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600).open(path)
}

fn encode<'a>(updates: impl IntoIterator<Item = &'a TaskUpdate>) -> Result<Vec<u8>, ExitsError> {
    let mut bytes = Vec::new();
    for record in updates {
        bytes.extend(records::encode(record).map_err(ExitsError::Encode)?);
    }
    Ok(bytes)
}

/// The records in the executor's folder `dir`, oldest first; none when no task
/// has ended. What follows a torn record is not read.
///
/// # Errors
/// [`ExitsError::Read`].
pub fn read(dir: &Path) -> Result<Vec<TaskUpdate>, ExitsError> {
    let path = dir.join(EXITS_FILE);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(records::decode(&bytes).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(ExitsError::Read { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use tepui_types::{Reason, TaskState};

    use super::*;

    fn record(name: &str) -> TaskUpdate {
        TaskUpdate {
            task: format!("f1.{name}.0").parse().unwrap(),
            state: TaskState::Failed,
            reason: Some(Reason::new("exit-code", "the command exited with code 3")),
            exit_code: Some(3),
            usage: None,
            members: Vec::new(),
        }
    }

    #[test]
    fn records_come_back_in_order() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), []);
        let mut log = ExitLog::open(dir.path()).unwrap();
        log.append([&record("a"), &record("b")]).unwrap();
        drop(log);
        let mut log = ExitLog::open(dir.path()).unwrap();
        log.append([&record("c")]).unwrap();
        assert_eq!(read(dir.path()).unwrap(), ["a", "b", "c"].map(record));
    }

    #[test]
    fn a_replaced_file_has_the_given_records_and_those_that_come_after() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = ExitLog::open(dir.path()).unwrap();
        let many: Vec<_> = (0..100).map(|_| record("old")).collect();
        while !log.has_outgrown() {
            log.append(&many).unwrap();
        }
        log.replace([&record("kept")]).unwrap();
        assert!(!log.has_outgrown());
        log.append([&record("new")]).unwrap();
        let records = read(dir.path()).unwrap();
        assert_eq!(records, ["kept", "new"].map(record));
        // One that cannot be replaced goes on as it is, and not tries each time.
        while !log.has_outgrown() {
            log.append(&many).unwrap();
        }
        std::fs::create_dir(dir.path().join("exits.new")).unwrap();
        log.replace([&record("kept")]).unwrap_err();
        assert!(!log.has_outgrown());
        assert!(read(dir.path()).unwrap().len() > 100);
    }
}
