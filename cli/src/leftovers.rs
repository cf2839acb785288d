//! What must not outlive a local cluster: its parts, executors, tasks, cgroups.
//!
//! Agents leave executors and tasks running on purpose. Where everything is
//! meant to end, when `tepui dev` or a test of a whole cluster is over, the
//! processes are found by what cannot be mistaken: the identity files in the
//! agents' folders, the agents' control groups, and the sandbox that the
//! environment of a task names.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tepui_types::envelope;
use tepui_types::wire::executor::{ProcessIdentity, VERSION};
use tokio::time::Instant;

/// How long killed processes may take to be gone: what holds them up is the
/// kernel giving back their memory.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often they are looked at meanwhile.
const LOOK: Duration = Duration::from_millis(5);
/// Where control groups are mounted, each hierarchy in a folder or all in one.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Keeps a process's identity for a later [`end_process`].
pub fn remember_process(file: &Path, pid: u32) -> Result<()> {
    let pid = i32::try_from(pid).context("a process number is out of range")?;
    if let Some(identity) = identity_of(pid)? {
        let text = serde_json::to_string(&identity)?;
        fs::write(file, text).with_context(|| format!("failed to write {}", file.display()))?;
    }
    Ok(())
}

/// Ends the process whose identity a file holds, if it still runs.
pub async fn end_process(file: &Path) -> Result<()> {
    let Ok(text) = fs::read_to_string(file) else {
        return Ok(());
    };
    // A file that was cut off by a crash names nobody.
    if let Ok(identity) = serde_json::from_str::<ProcessIdentity>(&text) {
        let deadline = Instant::now() + PATIENCE;
        while is_alive(&identity) {
            kill_process(identity.pid);
            if Instant::now() > deadline {
                bail!("process {} of an earlier run does not end", identity.pid);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    let _ = fs::remove_file(file);
    Ok(())
}

/// The process whose identity a file holds, if it still runs.
pub fn living(file: &Path) -> Option<i32> {
    let text = fs::read_to_string(file).ok()?;
    let identity = serde_json::from_str::<ProcessIdentity>(&text).ok()?;
    is_alive(&identity).then_some(identity.pid)
}

/// The master that was told to listen there, and its data folder.
pub fn master_at(address: &str) -> Option<(i32, PathBuf)> {
    let value = |words: &[&[u8]], flag: &str| {
        let at = words.iter().position(|word| *word == flag.as_bytes())?;
        words.get(at + 1).map(|value| value.to_vec())
    };
    let pids = everyone("cmdline", |words| {
        is_program(words, b"tepui-master")
            && value(words, "--listen").is_some_and(|listens| listens == address.as_bytes())
    });
    let pid = *pids.first()?;
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<_> = line.split(|byte| *byte == 0).collect();
    let dir = value(&words, "--dir")?;
    Some((pid, PathBuf::from(std::ffi::OsString::from_vec(dir))))
}

/// Whether a command line is of a program whose name begins so.
fn is_program(words: &[&[u8]], name: &[u8]) -> bool {
    let program = words.first().copied().unwrap_or_default();
    let program = program.rsplit(|byte| *byte == b'/').next();
    program.is_some_and(|program| program.starts_with(name))
}

/// Ends all executors and tasks of these agents, and removes their cgroups.
pub async fn end_tasks(agents: &[PathBuf]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while let Err(left) = end_once(agents) {
        if Instant::now() > deadline {
            bail!("{left}");
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Ends all of that, and leaves word of it for the next process of each agent: its tasks have not
/// failed, but were stopped with it.
pub async fn stop_tasks(agents: &[PathBuf]) -> Result<()> {
    end_tasks(agents).await?;
    for file in agents.iter().map(|agent| agent.join("stopped")) {
        match fs::write(&file, "") {
            // An agent that never came up has no folder, and no tasks.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            written => written.with_context(|| format!("failed to write {}", file.display()))?,
        }
    }
    Ok(())
}

/// What a round of [`end_once`] has found.
#[derive(Debug, thiserror::Error)]
#[error("processes {processes:?} do not end, or control groups {groups:?} stay")]
pub struct Left {
    processes: BTreeSet<i32>,
    groups: Vec<PathBuf>,
}

/// One round of ending what these agents have started. It takes a moment until
/// killed processes are gone, and they may just have started others: all is
/// over once a round has found nothing.
///
/// # Errors
/// When there was something to end.
pub fn end_once(agents: &[PathBuf]) -> Result<(), Left> {
    // These first, or they would note that their tasks were killed.
    let executors = agents.iter().flat_map(|agent| executors(agent));
    executors.for_each(kill_process);
    let processes: BTreeSet<i32> = agents.iter().flat_map(|agent| processes(agent)).collect();
    processes.iter().copied().for_each(kill_process);
    let groups = agents.iter().flat_map(|agent| cgroups(agent));
    let groups: Vec<_> = groups.filter(|group| remove_tree(group).is_err()).collect();
    if processes.is_empty() && groups.is_empty() {
        return Ok(());
    }
    Err(Left { processes, groups })
}

/// `kill -9`, if it still runs.
pub fn kill_process(pid: i32) {
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

/// What an agent has started and runs now.
fn processes(agent: &Path) -> Vec<i32> {
    let mut pids = [executors(agent), starting(agent), tasks(agent)].concat();
    for group in cgroups(agent) {
        members(&group, &mut pids);
    }
    pids
}

/// The executors of an agent that run now.
pub fn executors(agent: &Path) -> Vec<i32> {
    let executors = fs::read_dir(agent.join("executors"))
        .into_iter()
        .flatten()
        .flatten();
    executors
        .filter_map(|executor| fs::read(executor.path().join("identity")).ok())
        .filter_map(|bytes| envelope::decode::<ProcessIdentity>(VERSION, &bytes).ok())
        .filter(is_alive)
        .map(|identity| identity.pid)
        .collect()
}

/// The executors of an agent that have just been started, and perhaps written
/// no identity yet: known by their program and arguments.
fn starting(agent: &Path) -> Vec<i32> {
    let folder = inside(agent);
    everyone("cmdline", |words| {
        is_program(words, b"tepui-executor-") && words.iter().any(|word| word.starts_with(&folder))
    })
}

/// The native tasks that run now and whose environment names a sandbox of this
/// agent, or of one below this folder.
pub fn tasks(agent: &Path) -> Vec<i32> {
    let mut sandbox = b"TEPUI_SANDBOX=".to_vec();
    sandbox.extend(inside(agent));
    everyone("environ", |variables| {
        variables
            .iter()
            .any(|variable| variable.starts_with(&sandbox))
    })
}

/// The processes that run now and name something in this folder as an argument,
/// whoever started them.
pub fn named(folder: &Path) -> Vec<i32> {
    let folder = inside(folder);
    let names_it = |word: &&[u8]| word.windows(folder.len()).any(|part| part == folder);
    everyone("cmdline", |words| words.iter().any(names_it))
}

/// How the paths of all that is in a folder begin.
fn inside(folder: &Path) -> Vec<u8> {
    let mut path = folder.as_os_str().as_bytes().to_vec();
    path.push(b'/');
    path
}

/// The processes whose arguments (`cmdline`) or variables (`environ`) match.
fn everyone(file: &str, matches: impl Fn(&[&[u8]]) -> bool) -> Vec<i32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            // One that is gone by now has neither.
            let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let words: Vec<_> = bytes.split(|byte| *byte == 0).collect();
            matches(&words)
        })
        .collect()
}

/// An agent's control group, a folder for each hierarchy that has it, by the name that the agent
/// left in its folder.
pub fn cgroups(agent: &Path) -> Vec<PathBuf> {
    let name = fs::read_to_string(agent.join("cgroup")).unwrap_or_default();
    let below = name.strip_prefix("tepui/").unwrap_or_default();
    if below.is_empty() || below.contains('/') {
        return Vec::new();
    }
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

/// Removes a group and the groups in it; that it is not there is no error.
fn remove_tree(group: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(group) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries.flatten() {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

fn is_alive(identity: &ProcessIdentity) -> bool {
    identity_of(identity.pid).is_ok_and(|found| found.as_ref() == Some(identity))
}

/// The identity of a process that runs; a zombie does not.
fn identity_of(pid: i32) -> Result<Option<ProcessIdentity>> {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .context("failed to read the machine's boot id")?;
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return Ok(None);
    };
    Ok(parse_stat(&stat)
        .filter(|(state, _)| !matches!(state, 'Z' | 'X' | 'x'))
        .map(|(_, start_time)| ProcessIdentity {
            boot_id: boot_id.trim().to_owned(),
            pid,
            start_time,
        }))
}

/// State and start time, fields 3 and 22 of proc_pid_stat(5). The name in field
/// 2 may hold blanks and parentheses.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[tokio::test]
    async fn a_process_is_ended_once_and_another_of_its_number_never() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("identity");
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        remember_process(&file, child.id()).unwrap();
        let mut other: ProcessIdentity =
            serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        other.start_time += 1;
        let mistaken = folder.path().join("mistaken");
        fs::write(&mistaken, serde_json::to_string(&other).unwrap()).unwrap();
        end_process(&mistaken).await.unwrap();
        assert!(
            child.try_wait().unwrap().is_none(),
            "it is not the process that was meant"
        );
        end_process(&file).await.unwrap();
        assert!(!child.wait().unwrap().success());
        end_process(&file).await.unwrap();
    }

    #[tokio::test]
    async fn a_task_is_known_by_its_sandbox() {
        let folder = tempfile::tempdir().unwrap();
        let agent = folder.path().join("agent-1");
        let sandbox = agent.join("tasks/f1.x.0/sandbox");
        let run = |sandbox: &Path| {
            Command::new("sleep")
                .arg("60")
                .env("TEPUI_SANDBOX", sandbox)
                .spawn()
                .unwrap()
        };
        let mut ours = run(&sandbox);
        let mut other = run(&folder.path().join("agent-10/tasks/f1.x.0/sandbox"));
        end_tasks(&[agent]).await.unwrap();
        assert!(!ours.wait().unwrap().success());
        assert!(
            other.try_wait().unwrap().is_none(),
            "it belongs to another agent"
        );
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn an_agent_that_never_started_has_no_cgroup() {
        let folder = tempfile::tempdir().unwrap();
        assert!(cgroups(folder.path()).is_empty());
        fs::write(folder.path().join("identity"), "garbage").unwrap();
        assert!(cgroups(folder.path()).is_empty());
    }
}
