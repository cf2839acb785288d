//! What a cluster's agents started and left running on purpose: found, counted,
//! killed, and their control groups removed.
//!
//! Executors are found by the identities in the agent's folder, tasks by the
//! sandbox that their environment names.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tepui_types::wire::executor::{ProcessIdentity, VERSION};
use tepui_types::{AgentId, ClusterId, envelope};

use crate::eventually::eventually_blocking;

/// Where control groups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";
/// The version of an agent's identity file that is read here.
const AGENT_IDENTITY: u8 = 1;

/// What the watchdog does once nobody holds its input: ends all that names the
/// folder, twice for what was just being started, and removes it.
const WATCHDOG: &str = r#"
read -r _
for round in 1 2; do
    for process in /proc/[0-9]*; do
        if grep -qaF "$1/" "$process/cmdline" "$process/environ" 2>/dev/null; then
            kill -9 "${process#/proc/}"
        fi
    done
done
rm -rf "$1"
"#;

/// Ends whatever names a folder once it is dropped; and, by a shell that waits
/// for it, also when this program is itself killed and comes to drop nothing.
#[derive(Debug)]
pub struct Watchdog {
    shell: Child,
    dir: PathBuf,
}

impl Watchdog {
    /// Watches over a folder.
    pub fn over(dir: &Path) -> std::io::Result<Self> {
        let mut shell = Command::new("sh");
        shell.args(["-c", WATCHDOG, "watchdog"]).arg(dir);
        // In a group of its own, Ctrl-C does not reach it.
        shell
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let shell = shell.process_group(0).spawn()?;
        Ok(Self {
            shell,
            dir: dir.to_owned(),
        })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // While its input is still held: what it would do is done here.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
        eventually_blocking("what names the folder is gone", || {
            let living = [tasks(&self.dir), named(&self.dir)].concat();
            living.iter().copied().for_each(kill_process);
            match living.is_empty() {
                true => Ok(()),
                false => Err(format!("{living:?}")),
            }
        });
    }
}

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
    eventually_blocking("what the agents started is gone", || {
        let mut left = false;
        for agent in agents {
            let groups = cgroups(agent);
            let mut living = [executors(agent), tasks(agent), named(agent)].concat();
            groups.iter().for_each(|group| members(group, &mut living));
            left |= !living.is_empty();
            living.into_iter().for_each(kill_process);
            left |= groups.iter().any(|group| !remove_tree(group));
        }
        match left {
            false => Ok(()),
            true => Err("something runs, or its control group stays"),
        }
    });
}

/// An agent's control group, a folder for each hierarchy that has it.
pub fn cgroups(agent: &Path) -> Vec<PathBuf> {
    type Identity = (Option<ClusterId>, Option<AgentId>, u128);
    let bytes = fs::read(agent.join("identity")).unwrap_or_default();
    let Ok((_, _, nonce)) = envelope::decode::<Identity>(AGENT_IDENTITY, &bytes) else {
        return Vec::new();
    };
    let name = format!("tepui/{:016x}", nonce >> 64);
    let root = Path::new(CGROUPS);
    let inner = fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let hierarchies = std::iter::once(root.to_owned()).chain(inner);
    hierarchies
        .map(|hierarchy| hierarchy.join(&name))
        .filter(|group| group.is_dir())
        .collect()
}

/// Adds the processes of a group and of those in it.
fn members(group: &Path, pids: &mut Vec<i32>) {
    let procs = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    pids.extend(procs.lines().filter_map(|line| line.parse::<i32>().ok()));
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            members(&entry.path(), pids);
        }
    }
}

/// Removes a group and the groups in it; says whether they are gone.
fn remove_tree(group: &Path) -> bool {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_tree(&entry.path());
        }
    }
    fs::remove_dir(group).is_ok() || !group.exists()
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
