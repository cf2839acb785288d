//! What a cluster's agents started and left running on purpose: found, counted,
//! killed, and their control groups removed.
//!
//! Executors are found by the identities in the agent's folder, tasks by the
//! sandbox that their environment names.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tepui_types::envelope;
use tepui_types::wire::executor::{ProcessIdentity, VERSION};

use crate::eventually::eventually_blocking;

/// Where control groups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The executors of an agent that run now.
pub fn executors(agent: &Path) -> Vec<i32> {
    let folders = fs::read_dir(agent.join("executors"))
        .into_iter()
        .flatten()
        .flatten();
    folders
        .filter_map(|folder| fs::read(folder.path().join("identity")).ok())
        .filter_map(|bytes| envelope::decode::<ProcessIdentity>(VERSION, &bytes).ok())
        .filter(is_alive)
        .map(|identity| identity.pid)
        .collect()
}

/// The native tasks below a folder that run now.
pub fn tasks(folder: &Path) -> Vec<i32> {
    let mut sandbox = OsStr::new("TEPUI_SANDBOX=").as_bytes().to_vec();
    sandbox.extend(folder.as_os_str().as_bytes());
    sandbox.push(b'/');
    everyone("environ", |variable| variable.starts_with(&sandbox))
}

/// The processes that run now and name something in a folder as an argument.
pub fn named(folder: &Path) -> Vec<i32> {
    let mut folder = folder.as_os_str().as_bytes().to_vec();
    folder.push(b'/');
    everyone("cmdline", |word| {
        word.windows(folder.len()).any(|part| part == folder)
    })
}

/// The processes with a matching word in a file of theirs below `/proc`.
fn everyone(file: &str, matches: impl Fn(&[u8]) -> bool) -> Vec<i32> {
    let folders = fs::read_dir("/proc").into_iter().flatten().flatten();
    folders
        .filter_map(|folder| folder.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let words = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            words.split(|byte| *byte == 0).any(&matches)
        })
        .collect()
}

/// `kill -9`.
pub fn kill_process(pid: i32) {
    // It may be gone already.
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

/// Ends everything that these agents started.
pub fn everything(agents: &[PathBuf]) {
    let mut cgroups = BTreeSet::new();
    eventually_blocking("what the agents started is gone", || {
        let mut living: Vec<i32> = agents.iter().flat_map(|agent| executors(agent)).collect();
        living.extend(agents.iter().flat_map(|agent| tasks(agent)));
        living.extend(agents.iter().flat_map(|agent| named(agent)));
        for &pid in &living {
            cgroups.extend(cgroups_of(pid));
            kill_process(pid);
        }
        match living.is_empty() {
            true => Ok(()),
            false => Err(format!("{living:?}")),
        }
    });
    for group in &cgroups {
        remove_cgroup(group);
    }
}

/// The control groups of this project that a process is in.
pub fn cgroups_of(pid: i32) -> Vec<PathBuf> {
    let lines = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    lines
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .filter(|path| is_ours(Path::new(path)))
        .map(|path| PathBuf::from(path.trim_start_matches('/')))
        .collect()
}

/// The folders of a control group, one for each hierarchy that has it.
pub fn cgroup_folders(group: &Path) -> Vec<PathBuf> {
    let root = Path::new(CGROUPS);
    let inner = fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    std::iter::once(root.to_owned())
        .chain(inner)
        .map(|hierarchy| hierarchy.join(group))
        .filter(|folder| folder.is_dir())
        .collect()
}

fn is_ours(group: &Path) -> bool {
    group
        .iter()
        .any(|name| name.as_bytes().starts_with(b"tepui"))
}

/// Removes a group, and those above it that are ours and empty.
fn remove_cgroup(group: &Path) {
    for folder in cgroup_folders(group) {
        let levels = group.ancestors().take_while(|group| is_ours(group)).count();
        for folder in folder.ancestors().take(levels) {
            remove_tree(folder);
        }
    }
}

/// Only empty groups can be removed, so that another cluster's are safe.
fn remove_tree(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(folder);
}

/// Whether the process that was given this identity still runs; a zombie does not.
fn is_alive(identity: &ProcessIdentity) -> bool {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let stat = fs::read_to_string(format!("/proc/{}/stat", identity.pid)).unwrap_or_default();
    let Some((_, fields)) = stat.rsplit_once(')') else {
        return false;
    };
    let fields: Vec<_> = fields.split_ascii_whitespace().collect();
    let (Some(state), Some(start_time)) = (fields.first(), fields.get(19)) else {
        return false;
    };
    boot_id.trim() == identity.boot_id
        && !matches!(*state, "Z" | "X" | "x")
        && start_time.parse() == Ok(identity.start_time)
}
