//! What running tasks have used, in the file `usage` of their executor's folder: the agent reads it when
//! it finds the executor dead, for nobody else can tell then.
//!
//! An executor of tasks that are parts of its process appends now and then what those have used that
//! used something. One whose tasks have a cgroup, which counts on without it, appends when a task begins:
//! what the cgroup had counted before is not that task's.

use std::collections::BTreeMap;
use std::path::Path;

use tepui_types::TaskId;
use tepui_types::task::TaskUsage;
use tepui_types::wire::executor::{USAGE_FILE, UsageRecord};

use crate::records::{self, Log, Record, RecordsError};

/// The file, open for its one writer.
pub type UsageLog = Log<UsageRecord>;

impl Record for UsageRecord {
    const FILE: &'static str = USAGE_FILE;
    /// Some hundred records: it is read for each task of whose cgroup somebody wants to know.
    const FLOOR: u64 = 16 * 1024;
}

/// What is known of the tasks of an executor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// What those have used that are parts of its process, as of the latest note; some have ended since.
    pub used: BTreeMap<TaskId, TaskUsage>,
    /// The latest of those that have its cgroup one after another, and what that had counted before.
    pub before: Option<(TaskId, TaskUsage)>,
}

/// What the file in the executor's folder `dir` tells.
///
/// # Errors
/// [`RecordsError::Read`].
pub fn read(dir: &Path) -> Result<Known, RecordsError> {
    let mut known = Known::default();
    for record in records::read(dir)? {
        match record {
            UsageRecord::Used(tasks) => known.used.extend(tasks),
            UsageRecord::Before { task, counted } => known.before = Some((task, counted)),
        }
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(cpu_micros: u64) -> TaskUsage {
        TaskUsage {
            cpu_micros,
            mem_peak_bytes: 7,
            instances: Some(1),
        }
    }

    fn id(name: &str) -> TaskId {
        format!("f1.{name}.0").parse().unwrap()
    }

    #[test]
    fn the_latest_that_was_noted_of_each_task_counts() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), Known::default());
        let mut log = UsageLog::open(dir.path()).unwrap();
        let notes = [
            UsageRecord::Used(vec![(id("a"), used(1)), (id("b"), used(2))]),
            UsageRecord::Used(vec![(id("b"), used(5))]),
        ];
        log.append(&notes).unwrap();
        let known = read(dir.path()).unwrap();
        assert_eq!(known.used, [(id("a"), used(1)), (id("b"), used(5))].into());
        assert_eq!(known.before, None);

        for (name, counted) in [("c", used(0)), ("d", used(9))] {
            let task = id(name);
            log.append(&[UsageRecord::Before { task, counted }])
                .unwrap();
        }
        assert_eq!(read(dir.path()).unwrap().before, Some((id("d"), used(9))));
    }
}
