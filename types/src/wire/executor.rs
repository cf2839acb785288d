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

use serde::{Deserialize, Serialize};

use crate::ids::TaskId;
use crate::task::{Reason, TaskState, TaskUsage};
use crate::wire::agent::TaskLaunch;

/// The version of every frame here.
pub const VERSION: u8 = 1;
/// The descriptor of the listening socket in a new executor: standard input,
/// which every way of starting a process can hand down safely.
pub const LISTEN_FD: i32 = 0;
/// The file of exit records, in the executor's folder.
pub const EXITS_FILE: &str = "exits";

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
    /// The agent keeps this task's end; the executor may forget it.
    Forget(TaskId),
    /// End as soon as no task is left.
    Retire,
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
    /// The cgroup path of the task, below the hierarchy's root; none where
    /// there are no cgroups.
    pub cgroup: Option<String>,
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
}
