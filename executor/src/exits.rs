//! Exit records: what became of an executor's tasks, in the file `exits` of its
//! folder.
//!
//! The executor appends each end before it says it over the socket; the agent
//! reads the file when it finds the executor gone. After a restart of the machine a
//! task whose end nobody has heard of is lost, whatever it was.

use std::path::Path;

use tepui_types::wire::executor::{EXITS_FILE, TaskUpdate};

use crate::records::{self, Log, Record, RecordsError};

/// The file of exit records, open for its one writer.
pub type ExitLog = Log<TaskUpdate>;

impl Record for TaskUpdate {
    const FILE: &'static str = EXITS_FILE;
    /// Some thousand records, read in milliseconds.
    const FLOOR: u64 = 256 * 1024;
}

/// The records in the executor's folder `dir`, oldest first; none when no task
/// has ended.
///
/// # Errors
/// [`RecordsError::Read`].
pub fn read(dir: &Path) -> Result<Vec<TaskUpdate>, RecordsError> {
    records::read(dir)
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
