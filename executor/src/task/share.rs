//! A member's share of its task's cgroup: a cgroup below it, with a bound on memory of its own if
//! the task says so.
//!
//! What holds for the task holds for all together. Where there are several members, each has a
//! share, so that what one runs into is not taken for another's.

use std::path::Path;

use tepui_executor::cgroup::{CgroupError, Counters, Counts, Group, Reach};
use tepui_types::Bytes;
use tepui_types::command::IoLimits;
use tepui_types::task::Workload;
use tepui_types::wire::executor::ExecutorLaunch;

/// The names of shares begin with this: the kernel has a file `tasks` in each cgroup.
const PREFIX: &str = "m-";

/// The cgroup.
pub struct Share {
    group: Group,
    counters: Counters,
    mem: Option<Bytes>,
    /// What was counted before its member's present run.
    before: Counts,
}

impl Share {
    /// Makes that of a member below the task's cgroup, with so much of its memory, and held to the task's
    /// rates of the disk under its sandbox: v1 counts those of each cgroup alone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn make(
        of_task: &str,
        member: &str,
        mem: Option<Bytes>,
        io: Option<(&IoLimits, &Path)>,
    ) -> Result<Self, CgroupError> {
        // Removed with that of the task.
        let group = Group::create_in(&format!("{of_task}/{PREFIX}{member}"), Reach::All)?;
        if let Some(mem) = mem {
            group.limit_memory(mem)?;
        }
        if let Some((io, sandbox)) = io {
            group.limit_io(io, sandbox)?;
        }
        Ok(Self {
            counters: group.counters(),
            group,
            mem,
            before: Counts::default(),
        })
    }

    /// Its path below the hierarchies' roots.
    pub fn path(&self) -> &str {
        self.group.path()
    }

    /// The memory that it has, if that is less than its task's.
    pub fn mem(&self) -> Option<Bytes> {
        self.mem
    }

    /// Its member runs anew.
    pub fn begin(&mut self) {
        self.before = self.counters.read();
    }

    /// What its member has run into since then.
    pub fn counts(&self) -> Counts {
        self.counters.read().since(self.before)
    }

    /// Whether nothing runs in it.
    pub fn is_empty(&self) -> bool {
        self.group.is_empty()
    }

    /// Ends all that runs in it, once.
    pub fn kill(&self) {
        self.group.kill();
    }
}

/// What its command asks of the disk under its sandbox.
pub fn io_of(launch: &ExecutorLaunch) -> Option<(&IoLimits, &Path)> {
    let Workload::Command(command) = &launch.launch.spec.workload else {
        return None;
    };
    let io = command.options.as_ref()?.io.as_ref()?;
    Some((io, Path::new(&launch.sandbox)))
}
