//! Frames between an agent and an executor process, version 1.
//!
//! The agent binds the Unix socket, hands the listening descriptor down as
//! standard input and connects; after a restart it connects again. The executor
//! serves one connection at a time, newest first. It must stay compatible with
//! every earlier release: old executors stay until they are empty.
//!
//! Beside the socket, each end of a task is appended to the file `exits` in the
//! executor's folder before it is said here, so that an agent that finds the
//! executor dead still learns what became of its tasks.

use core::net::IpAddr;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, TaskId};
use crate::resources::MilliCpus;
use crate::task::{MemberStatus, Reason, TaskState, TaskUsage};
use crate::wire::agent::TaskLaunch;
use crate::wire::stream::TerminalSize;

/// The version of every frame here.
pub const VERSION: u8 = 1;
/// The descriptor of the listening socket in a new executor: standard input,
/// which every way of starting a process can hand down safely.
pub const LISTEN_FD: i32 = 0;
/// The file of exit records, in the executor's folder.
pub const EXITS_FILE: &str = "exits";
/// The file of what running tasks have used, in the executor's folder; it holds a [`UsageRecord`].
pub const USAGE_FILE: &str = "usage";

/// From the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToExecutor {
    /// First on every connection: proves that it is this executor's agent.
    Attach {
        /// Drawn by the agent when it started the executor.
        token: u128,
    },
    /// Run a task.
    Launch(Box<ExecutorLaunch>),
    /// End a task: politely now, by force after the grace.
    Kill {
        /// Which.
        task: TaskId,
        /// Milliseconds in between.
        grace_ms: u64,
    },
    /// Run a command beside a task, in its cgroup and its container; answered by
    /// [`FromExecutor::Ran`] or [`FromExecutor::NotNow`]. With `io` that is not nothing, the descriptors that it has come with
    /// the frame (unix(7), `SCM_RIGHTS`).
    Run(RunBeside),
    /// End the command of this id, if it runs: nobody waits for it any more.
    Abandon(u64),
    /// Write this to the standard input of a task that keeps it open; answered by
    /// [`FromExecutor::Took`] as soon as there is room for it, or by [`FromExecutor::NotTook`].
    Input(TaskInput),
    /// The window of a task's terminal has another size.
    Resize {
        /// Whose.
        task: TaskId,
        /// Which.
        size: TerminalSize,
    },
    /// The agent keeps this task's end; the executor may forget it.
    Forget(TaskId),
    /// End as soon as no task is left.
    Retire,
    /// Let a task have no more of the processors than this, from now on; what it was given, where
    /// nothing is said.
    Throttle {
        /// Which.
        task: TaskId,
        /// The most.
        most: Option<MilliCpus>,
    },
    /// This caller has gone: what it sent and what was not taken is not wanted any more.
    CallerLeft(u128),
    /// Has this command of a task run all the time? Answered as [`ToExecutor::Run`] is: by 0 if it
    /// has, and by [`FromExecutor::NotNow`] if it has not, or has just begun.
    Look(Look),
    /// What do these use now? Answered by [`FromExecutor::Measured`], of those that are parts of the
    /// executor's process: what others use their cgroups tell.
    Measure {
        /// Names it in the answer.
        id: u64,
        /// Which, at most as many as one page of a list has.
        tasks: Vec<TaskId>,
    },
}

/// Something for the standard input of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskInput {
    /// Whose.
    pub task: TaskId,
    /// What, at most [`MAX_CHUNK`](crate::wire::stream::MAX_CHUNK); nothing closes it.
    pub bytes: Vec<u8>,
    /// Who is told that it was taken, and sends nothing more before that.
    pub caller: u128,
    /// Of which input it is a piece: the same on every connection over which that comes.
    pub source: u128,
    /// Where in that it begins; its end counts as one byte. What was taken before is not written again.
    pub at: u64,
}

/// What a task that runs in its executor's process has used, and uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskMeasure {
    /// Which.
    pub task: TaskId,
    /// Since it began.
    pub usage: TaskUsage,
    /// The memory that it has now, in bytes.
    pub mem_bytes: u64,
}

/// What an executor writes down for the agent that finds it dead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UsageRecord {
    /// Of an executor whose tasks are parts of its process: what each of those that run had used.
    Used(Vec<(TaskId, TaskUsage)>),
    /// Of one whose tasks have a cgroup one after another: what that had counted when the latest began.
    Before {
        /// The latest.
        task: TaskId,
        /// In all, of those before it.
        counted: TaskUsage,
    },
}

/// Whether a command of a task has run all the time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// Names it in the answer.
    pub id: u64,
    /// Of which task.
    pub task: TaskId,
    /// Which of its commands, by name; the first when absent.
    pub member: Option<String>,
    /// For the last so many milliseconds.
    pub for_ms: u64,
}

/// A command that runs beside a task, as part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunBeside {
    /// Names it in the answer.
    pub id: u64,
    /// Beside which.
    pub task: TaskId,
    /// Beside which of its commands, by name; the first when absent.
    pub member: Option<String>,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Added to the task's environment.
    pub env: Vec<(String, String)>,
    /// Milliseconds after which it is ended; none when absent.
    pub timeout_ms: Option<u64>,
    /// What it reads and writes.
    pub io: RunIo,
}

/// What a command beside a task reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunIo {
    /// Nothing.
    Nothing,
    /// Three descriptors: what it reads, its output, its error.
    Pipes,
    /// One descriptor: a terminal, which becomes its controlling one.
    Terminal,
}

impl RunIo {
    /// How many descriptors come with it.
    pub fn descriptors(self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Pipes => 3,
            Self::Terminal => 1,
        }
    }
}

/// A task with all that the agent prepared for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutorLaunch {
    /// The task.
    pub launch: TaskLaunch,
    /// Its sandbox folder; made by the executor when first needed.
    pub sandbox: String,
    /// Its persistent volumes.
    pub volumes: Vec<VolumeFolder>,
    /// Where the program's bytes lie, for Wasm.
    pub program: Option<String>,
    /// Where the bytes of its standard input lie, where that is an artifact.
    pub stdin: Option<String>,
    /// The cgroup path of the task, below the hierarchy's root; none where
    /// there are no cgroups.
    pub cgroup: Option<String>,
    /// The image of its container.
    pub image: Option<Arc<LocalImage>>,
    /// All images of its companions and of its mounts, by their names.
    pub images: BTreeMap<String, Arc<LocalImage>>,
    /// The files of its secrets on the agent's machine, by their names.
    pub secrets: BTreeMap<String, String>,
    /// The devices that it was given.
    pub devices: Option<Arc<LocalDevices>>,
    /// The network of its container, where it has one of its own.
    pub network: Option<Arc<LocalNetwork>>,
    /// Which users of the machine those of its containers are; the same ones when absent.
    pub users: Option<UserRange>,
}

/// A range of ids of the machine, of users and of groups alike, that stand for those of a container
/// from 0 on; user_namespaces(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRange {
    /// The machine's id of the container's root.
    pub first: u32,
    /// How many there are.
    pub count: u32,
}

impl UserRange {
    /// The machine's id of one of the container's, which may have no such id.
    pub fn of_machine(self, id: u32) -> Option<u32> {
        let is_in = id < self.count;
        is_in.then(|| self.first.checked_add(id)).flatten()
    }

    /// Whether they have an id in common.
    pub fn overlaps(self, other: Self) -> bool {
        let end = |range: Self| u64::from(range.first) + u64::from(range.count);
        u64::from(self.first) < end(other) && u64::from(other.first) < end(self)
    }
}

/// An image, unpacked on the agent's machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalImage {
    /// Its manifest's.
    pub digest: Digest,
    /// The folders of its layers, absolute, the lowest first.
    pub layers: Vec<String>,
    /// What its maker says of it.
    pub config: ImageConfig,
}

/// What an image's maker says of how it is to be run; the `config` of the OCI image specification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// The program, with its first arguments.
    pub entrypoint: Vec<String>,
    /// The arguments after those, unless others are given.
    pub cmd: Vec<String>,
    /// `NAME=VALUE` each.
    pub env: Vec<String>,
    /// As whom; root when empty.
    pub user: String,
    /// Where; `/` when empty.
    pub working_dir: String,
    /// What asks it to end, as signal(7) names it; SIGTERM when absent.
    pub stop_signal: Option<String>,
}

/// Devices of the agent's machine, and what makes them of use to a task; as the Container Device
/// Interface describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalDevices {
    /// Added to the environment.
    pub env: Vec<(String, String)>,
    /// Nodes under `/dev`.
    pub nodes: Vec<DeviceNode>,
    /// Files and folders of the machine, which cannot be written to.
    pub mounts: Vec<DeviceMount>,
    /// Programs of the machine, in the order in which they run around a container's start and end.
    pub hooks: Vec<DeviceHook>,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Its path in the task.
    pub path: String,
    /// Its path on the machine.
    pub host_path: String,
    /// Whether it is of blocks, and not of characters.
    pub is_block: bool,
    /// Its major number.
    pub major: i64,
    /// Its minor number.
    pub minor: i64,
}

/// Something of the machine that a device needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceMount {
    /// Its path on the machine.
    pub host_path: String,
    /// Its path in the task.
    pub path: String,
}

/// A program of the machine that is run for a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceHook {
    /// When.
    pub point: HookPoint,
    /// Its path on the machine; in the container for [`HookPoint::StartContainer`].
    pub path: String,
    /// Its arguments, its own name first.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: Vec<(String, String)>,
    /// Seconds after which it has failed.
    pub timeout_s: u32,
}

/// When a hook runs, as the OCI runtime specification has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum HookPoint {
    /// Before the root is changed (an older name of `CreateRuntime`).
    Prestart,
    /// In the machine's namespaces, before the root is changed.
    CreateRuntime,
    /// In the container's namespaces, before the root is changed.
    CreateContainer,
    /// In the container, before its program.
    StartContainer,
    /// After its program has started.
    Poststart,
    /// After the container has gone.
    Poststop,
}

/// The network of a container, made by the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalNetwork {
    /// The file that stands for its namespace.
    pub namespace: String,
    /// What `/etc/resolv.conf` holds.
    pub resolv_conf: String,
    /// What `/etc/hosts` holds.
    pub hosts: String,
    /// By which the container is reached.
    pub addresses: Vec<IpAddr>,
}

/// A persistent volume on the agent's machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeFolder {
    /// Its folder, absolute; made by the executor when absent.
    pub folder: String,
    /// Where the task finds it, below its sandbox.
    pub path: String,
}

/// From the executor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromExecutor {
    /// Answers a good `Attach`: who it is, and every task it has not forgotten.
    Attached {
        /// Its process.
        identity: ProcessIdentity,
        /// Its release.
        version: String,
        /// Tasks with their latest state.
        tasks: Vec<TaskUpdate>,
    },
    /// A task has moved.
    Update(TaskUpdate),
    /// A command that was to be run has ended: with a code, or with what kept it from that.
    Ran {
        /// Which.
        id: u64,
        /// How.
        result: Result<i32, String>,
    },
    /// A command was not run, since the one beside which it was to run does not run now: it has not
    /// begun, or pauses before it is started again.
    NotNow(u64),
    /// What this caller sent for a task's input is on its way to the command, or nobody will ever read
    /// it: the command has closed its input.
    Took(u128),
    /// What this caller sent was not taken, and nothing of it is kept: the task does not run here.
    NotTook(u128),
    /// What tasks use now, as far as it is known here.
    Measured {
        /// Of the question.
        id: u64,
        /// Those of its tasks that run.
        tasks: Vec<TaskMeasure>,
    },
}

/// A process that cannot be mistaken for a later one of the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Its number.
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`, in clock ticks since boot.
    pub start_time: u64,
}

/// What an executor says of a task; with a terminal state it is the exit record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskUpdate {
    /// Which.
    pub task: TaskId,
    /// Its state.
    pub state: TaskState,
    /// Why.
    pub reason: Option<Reason>,
    /// The code it exited with.
    pub exit_code: Option<i32>,
    /// What it used; at its end.
    pub usage: Option<TaskUsage>,
    /// Its commands, where there are several or one was started again.
    pub members: Vec<MemberStatus>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_users_begins_with_root_and_ends_before_the_next() {
        let range = |first, count| UserRange { first, count };
        let users = range(100_000, 65536);
        assert_eq!(users.of_machine(0), Some(100_000));
        assert_eq!(users.of_machine(65535), Some(165_535));
        assert_eq!(users.of_machine(65536), None);
        assert!(users.overlaps(users));
        assert!(users.overlaps(range(165_535, 1)) && !users.overlaps(range(165_536, 1)));
        assert!(users.overlaps(range(99_999, 2)) && !users.overlaps(range(99_999, 1)));
        assert!(!users.overlaps(range(u32::MAX, u32::MAX)));
    }
}
