//! Ending what runs in a cgroup, and removing it.
//!
//! `cgroup.kill` where the kernel has it; else everything is frozen, killed and
//! thawed, so that nothing forks itself out of the way.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{CGROUP_KILL, CGROUP_PROCS, CgroupError, Group};

impl Group {
    /// Sends SIGKILL to every process in it and below it, once. What it does
    /// not reach (a process just being made) is reached by the next call:
    /// callers repeat until [`Group::is_empty`].
    pub fn kill(&self) {
        if let Some(unified) = &self.unified
            && fs::write(unified.join(CGROUP_KILL), "1").is_ok()
            && self.is_empty()
        {
            return;
        }
        self.freeze(true);
        for dir in &self.dirs {
            kill_below(dir);
        }
        self.freeze(false);
    }

    /// The numbers of the processes in it and below it, in whichever hierarchy; some may have ended
    /// meanwhile. libcontainer's are in v1's alone where there are both.
    pub fn processes(&self) -> BTreeSet<i32> {
        let all = self.dirs.iter();
        all.flat_map(|dir| processes_below(dir)).collect()
    }

    /// Whether no process is left in it or below it.
    pub fn is_empty(&self) -> bool {
        self.dirs.iter().all(|dir| is_empty(dir))
    }

    /// Whether no cgroup was made below it, as far as its last hierarchy knows: who makes one makes
    /// it in all.
    pub fn is_leaf(&self) -> bool {
        self.dirs.last().is_some_and(|dir| is_leaf(dir))
    }

    /// Removes it and the cgroups that its processes made below it.
    ///
    /// # Errors
    /// When processes are left.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let removed = self
            .dirs
            .iter()
            .map(|dir| remove_below(dir))
            .reduce(io::Result::and)
            .unwrap_or(Ok(()));
        removed.map_err(|error| self.refused("remove the folder", error))
    }

    /// Moves the calling process to the root of every hierarchy and removes the
    /// cgroup: the last thing that an executor does in its own.
    ///
    /// # Errors
    /// When the kernel refuses, or others are in it.
    pub fn leave(&self) -> Result<(), CgroupError> {
        let depth = Path::new(&self.path).components().count();
        for dir in &self.dirs {
            let root = dir.ancestors().nth(depth).unwrap_or(dir);
            let left = fs::write(root.join(CGROUP_PROCS), "0");
            left.map_err(|error| self.refused("leave the process list", error))?;
        }
        self.remove()
    }

    /// v1's freezer or v2's file; where neither is, the killing goes on without.
    fn freeze(&self, frozen: bool) {
        for dir in &self.dirs {
            let _ = fs::write(
                dir.join("freezer.state"),
                if frozen { "FROZEN" } else { "THAWED" },
            );
        }
        if let Some(unified) = &self.unified {
            let _ = fs::write(
                unified.join("cgroup.freeze"),
                if frozen { "1" } else { "0" },
            );
        }
    }
}

/// Folders have two links more than they have folders, here as in other file systems.
fn is_leaf(dir: &Path) -> bool {
    fs::metadata(dir).is_ok_and(|metadata| metadata.nlink() <= 2)
}

fn is_empty(dir: &Path) -> bool {
    match is_leaf(dir) {
        true => own_processes(dir).is_empty(),
        false => processes_below(dir).is_empty(),
    }
}

/// Process numbers in `dir` and the folders below it; empty when it is not there.
fn processes_below(dir: &Path) -> Vec<i32> {
    let mut pids = own_processes(dir);
    for child in children(dir) {
        pids.extend(processes_below(&child));
    }
    pids
}

fn own_processes(dir: &Path) -> Vec<i32> {
    let text = fs::read_to_string(dir.join(CGROUP_PROCS)).unwrap_or_default();
    let pids = text.lines().filter_map(|line| line.parse().ok());
    // 0 stands for processes outside this PID namespace.
    pids.filter(|pid| *pid > 0).collect()
}

fn kill_below(dir: &Path) {
    for pid in processes_below(dir) {
        // It may have ended meanwhile.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

fn children(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).collect()
}

fn remove_below(dir: &Path) -> io::Result<()> {
    // Most have no folders below.
    match fs::remove_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(()) => return Ok(()),
        Err(_) => {}
    }
    for child in children(dir) {
        remove_below(&child)?;
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
