//! The cgroup of this process's tasks, which have it one after another.
//!
//! To make and remove a cgroup costs more than to start a small command. So one that nothing is
//! left in serves the next task, where the kernel lets its peak of memory begin anew (v1): what was
//! counted before is taken away, and one that has much memory left charged to it (files in a
//! tmpfs) is made anew.

use std::fs::File;
use std::path::Path;

use tepui_executor::cgroup::{CgroupError, Counters, Counts, Group, Limits, Reach};
use tepui_executor::log;
use tepui_executor::records::RecordsError;
use tepui_executor::usage::UsageLog;
use tepui_types::command::CommandOptions;
use tepui_types::wire::executor::UsageRecord;
use tepui_types::{Bytes, MilliCpus, TaskId};

use crate::process::{Newborn, StartError};
use crate::processes;

/// How much memory an earlier task may have left to the next, in bytes: what the kernel frees
/// late, and a little of the page cache.
const LEFT_BEHIND: u64 = 1024 * 1024;

/// With less memory than this a task may have too little to be started: more than a program's arguments
/// and environment (6 MiB), what else execve(2) needs, and what an earlier task has left.
const SCARCE: Bytes = Bytes::mib(16);

/// The cgroup and what of it stays open.
pub struct TaskGroup {
    group: Group,
    limits: Limits,
    entrances: Vec<File>,
    /// The next task's process, which has entered already.
    newborn: Option<Newborn>,
    counters: Counters,
    /// What earlier tasks have used.
    before: Counts,
    /// What was used when it was last looked.
    latest: Counts,
    /// Where what earlier tasks have used is written down, once a task has begun.
    beginnings: Option<UsageLog>,
    /// Whether it is held to more than its limits, which the next task is not.
    is_restricted: bool,
    /// Whether its task is held to less than its limits, which the next one is not.
    is_throttled: bool,
    /// The time that was used when it got its last whole period's.
    filled_at: u64,
}

impl TaskGroup {
    /// The cgroup of that path with these limits: the one of the task before, or a new one.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn prepare(
        earlier: Option<Self>,
        path: &str,
        limits: Limits,
        reach: Reach,
    ) -> Result<Self, CgroupError> {
        if let Some(earlier) = earlier {
            if earlier.group.path() != path || !earlier.has_little_memory() {
                earlier.discard();
            } else if let Some(renewed) = earlier.renew(limits) {
                return Ok(renewed);
            }
        }
        Self::make(path, limits, reach)
    }

    fn make(path: &str, limits: Limits, reach: Reach) -> Result<Self, CgroupError> {
        let group = Group::create_in(path, reach)?;
        let made = group.limit(&limits).and_then(|()| group.entrances());
        let entrances = made.inspect_err(|_| remove(&group))?;
        Ok(Self {
            counters: group.counters(),
            group,
            limits,
            entrances,
            newborn: None,
            before: Counts::default(),
            latest: Counts::default(),
            beginnings: None,
            is_restricted: false,
            is_throttled: false,
            filled_at: 0,
        })
    }

    fn has_little_memory(&self) -> bool {
        let charged = self.counters.restart_peak();
        charged.is_some_and(|charged| charged <= LEFT_BEHIND)
    }

    /// None, and it is removed, where the kernel refuses the other limits.
    fn renew(mut self, limits: Limits) -> Option<Self> {
        // Nothing has run in it since.
        self.before = self.latest;
        if limits.mem < SCARCE {
            // It must not be in there when that counts.
            self.newborn = None;
        }
        let used = self.before.usage.cpu_micros;
        let renewed = if self.limits != limits || self.is_throttled {
            self.group.limit(&limits)
        } else if used.saturating_sub(self.filled_at) > limits.cpu_quota_micros().unsigned_abs() / 2
        {
            // The tasks before may have used up the time of this period.
            self.group.limit_cpu(limits.cpu_quota_micros())
        } else {
            return Some(self);
        };
        if let Err(error) = renewed {
            log::say(error);
            self.discard();
            return None;
        }
        (self.limits, self.filled_at, self.is_throttled) = (limits, used, false);
        Some(self)
    }

    /// A task begins in it: notes in the executor's folder `dir` what is not that task's, for whoever
    /// reads what is counted here while it runs, or when this process has been killed.
    pub fn begin(&mut self, dir: &Path, task: &TaskId) {
        if let Err(error) = self.note(dir, task) {
            // As on a full disk. What it has used is told at its end, by this process alone.
            log::say(format_args!(
                "what {task} uses is not told while it runs: {error}"
            ));
        }
    }

    fn note(&mut self, dir: &Path, task: &TaskId) -> Result<(), RecordsError> {
        let log = match &mut self.beginnings {
            Some(log) => log,
            none => none.insert(UsageLog::open(dir)?),
        };
        let record = UsageRecord::Before {
            task: task.clone(),
            counted: self.before.usage,
        };
        match log.has_outgrown() {
            true => log.replace([&record]),
            false => log.append([&record]),
        }
    }

    /// Holds it to some of the machine's processors, and to a part of the disk under a sandbox, if
    /// that is asked for. It is in all hierarchies, and no other task gets it.
    ///
    /// # Errors
    /// When that is not to be had.
    pub fn restrict(
        &mut self,
        options: &CommandOptions,
        sandbox: &Path,
    ) -> Result<(), CgroupError> {
        self.is_restricted = true;
        if let Some(processors) = &options.cpuset {
            self.group.limit_processors(processors)?;
        }
        match &options.io {
            Some(io) => self.group.limit_io(io, sandbox),
            None => Ok(()),
        }
    }

    /// Lets its task have no more of the processors than this, or all that it was given.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn throttle(&mut self, most: Option<MilliCpus>) -> Result<(), CgroupError> {
        let given = self.limits.cpus;
        let limits = Limits {
            cpus: most.map_or(given, |most| most.min(given)),
            ..self.limits
        };
        self.group.limit_cpu(limits.cpu_quota_micros())?;
        self.is_throttled = most.is_some();
        Ok(())
    }

    /// Its path below the hierarchies' roots.
    pub fn path(&self) -> &str {
        self.group.path()
    }

    /// Lets the next task's process enter, if there is memory for it and the kernel makes one now. To enter
    /// takes a while.
    pub fn expect_next(&mut self) {
        let is_scarce = self.limits.mem < SCARCE;
        self.newborn = (!is_scarce)
            .then(|| Newborn::make(&self.entrances).ok())
            .flatten();
    }

    /// A process that is in it, or is about to be before it executes anything.
    ///
    /// # Errors
    /// When the kernel makes no process more.
    pub fn take_newborn(&mut self) -> Result<Newborn, StartError> {
        match self.newborn.take() {
            _ if self.limits.mem < SCARCE => Ok(Newborn::to_be_made(&self.entrances)),
            Some(newborn) if newborn.is_alive() => Ok(newborn),
            _ => Newborn::make(&self.entrances),
        }
    }

    /// One more process beside the task's first, which may have used up its memory.
    pub fn newborn(&self) -> Newborn {
        Newborn::to_be_made(&self.entrances)
    }

    /// The memory that its task may have.
    pub fn mem(&self) -> Bytes {
        self.limits.mem
    }

    /// What the task's processes have used and run into.
    pub fn counts(&mut self) -> Counts {
        self.latest = self.counters.read();
        self.latest.since(self.before)
    }

    /// Whether nothing of the task is left in it or to be reaped.
    pub fn is_quiet(&self) -> bool {
        !processes::any_left() && self.is_empty()
    }

    fn is_empty(&self) -> bool {
        match self.counters.is_populated() {
            Some(is_populated) => !is_populated,
            None => self.group.is_empty(),
        }
    }

    /// Ends all that runs in it, once.
    pub fn kill(&self) {
        self.group.kill();
    }

    /// The same, and once nothing runs in it, ends what has come from the task and is elsewhere: what hooks
    /// of its container leave running is in this process's own cgroup.
    pub fn kill_with_strays(&self) {
        match self.is_empty() {
            true => processes::kill_descendants(),
            false => self.group.kill(),
        }
    }

    /// The task has ended. `Ok` once nothing of it is left, with the cgroup if the next task may
    /// have it; else it is removed.
    pub fn clear(self) -> Result<Option<Self>, Box<Self>> {
        // Whatever left the hierarchy that counts processes is our descendant all the same.
        if processes::any_left() || self.counters.is_populated() == Some(true) {
            return Err(Box::new(self));
        }
        if !self.is_restricted && self.counters.can_restart() && self.group.is_leaf() {
            return Ok(Some(self));
        }
        match self.group.is_empty() && self.group.remove().is_ok() {
            true => Ok(None),
            false => Err(Box::new(self)),
        }
    }

    /// Removes it; nothing runs in it but perhaps what waits for the next task.
    pub fn discard(mut self) {
        self.newborn = None;
        remove(&self.group);
    }
}

/// The agent ends what is left when this process is gone.
fn remove(group: &Group) {
    group.remove().unwrap_or_else(log::say);
}
