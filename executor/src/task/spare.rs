//! What the next task of this process may have of the one before.

use crate::folder::SpareFolder;
use crate::group::TaskGroup;

/// It; of a process that has had no task, nothing.
#[derive(Default)]
pub struct Spare {
    /// Its cgroup, in which nothing is left.
    pub group: Option<TaskGroup>,
    /// Its folder, the same.
    pub folder: Option<SpareFolder>,
}

impl Spare {
    /// Another task is expected soon.
    pub fn expect_next(&mut self) {
        if let Some(group) = &mut self.group {
            group.expect_next();
        }
    }

    /// There is no other. The folder goes with this process's own.
    pub fn discard(self) {
        if let Some(group) = self.group {
            group.discard();
        }
    }
}
