//! Processes that plugins of a dead agent have left behind: found by the lock that they hold.
//!
//! Nobody but plugins, and what they have started, has the lock's file open; so whoever has it open
//! and is not this process is one of them, whatever groups and sessions it has moved to.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Kills every other process that has the file open, and says how many those were.
pub(crate) fn kill_holders(path: &Path) -> io::Result<usize> {
    let file = fs::metadata(path)?;
    let mut killed = 0;
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.filter(|pid| *pid != std::process::id().cast_signed()) else {
            continue;
        };
        let Some(pid) = Pid::from_raw(pid) else {
            continue;
        };
        // Held before it is looked at, so that the number cannot become another process's.
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
            continue;
        };
        if holds(pid, path, &file) && pidfd_send_signal(&process, Signal::KILL).is_ok() {
            killed += 1;
        }
    }
    Ok(killed)
}

/// A process that ends meanwhile holds nothing.
fn holds(pid: Pid, path: &Path, file: &Metadata) -> bool {
    let folder = PathBuf::from(format!("/proc/{}/fd", pid.as_raw_nonzero()));
    let Ok(entries) = fs::read_dir(folder) else {
        return false;
    };
    let is_it = |link: &Path| {
        // Names first: to look at any other file could block, on a network's file system.
        let named = fs::read_link(link).is_ok_and(|target| target.file_name() == path.file_name());
        let same = |other: Metadata| (other.dev(), other.ino()) == (file.dev(), file.ino());
        named && fs::metadata(link).is_ok_and(same)
    };
    entries.flatten().any(|entry| is_it(&entry.path()))
}
