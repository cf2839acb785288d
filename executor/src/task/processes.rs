//! The processes of a task, as the executor's descendants.
//!
//! The executor is their subreaper: whatever a command leaves behind becomes
//! its child, daemons included. Where there is no cgroup, this is all that is known of them.

use std::collections::HashMap;
use std::fs;
use std::str::FromStr;

use nix::errno::Errno;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::sys::time::TimeValLike;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, getpid};
use tepui_types::task::TaskUsage;

/// Sends SIGKILL to every descendant of the calling process, once.
pub fn kill_descendants() {
    for pid in descendants(getpid()) {
        // It may have ended meanwhile.
        let _ = kill(pid, Signal::SIGKILL);
    }
}

/// Whether any descendant, not yet reaped ones included, is left.
pub fn any_left() -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::All, flags) != Err(Errno::ECHILD)
}

/// What the reaped descendants used: time of all, memory of the largest.
pub fn usage() -> TaskUsage {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else {
        return TaskUsage::default();
    };
    let cpu = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    TaskUsage {
        cpu_micros: u64::try_from(cpu).unwrap_or(0),
        mem_peak_bytes: u64::try_from(usage.max_rss())
            .unwrap_or(0)
            .saturating_mul(1024),
        instances: None,
    }
}

/// All that come of a process, as far as they are there now, without itself.
pub fn descendants(root: Pid) -> Vec<Pid> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        if let Some(parent) = parent_of(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = children.remove(&root.as_raw()).unwrap_or_default();
    let mut next = 0;
    while next < found.len() {
        found.extend(children.remove(&found[next]).unwrap_or_default());
        next += 1;
    }
    found.into_iter().map(Pid::from_raw).collect()
}

/// Whether it has begun to end, or has ended: it closes its files some time before it can be waited for.
pub fn is_ending(pid: Pid) -> bool {
    /// Of `include/linux/sched.h` in Linux; never changed.
    const PF_EXITING: u32 = 4;
    stat(pid.as_raw(), 9).is_none_or(|flags: u32| flags & PF_EXITING != 0)
}

fn parent_of(pid: i32) -> Option<i32> {
    stat(pid, 4)
}

/// That field of proc_pid_stat(5), which is behind the name in parentheses.
fn stat<T: FromStr>(pid: i32, field: usize) -> Option<T> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let text = fields.split_ascii_whitespace().nth(field - 3)?;
    text.parse().ok()
}
