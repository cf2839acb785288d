//! Jobs of the built-in framework `batch`, under `/frameworks/batch/`.
//!
//! `POST jobs` takes a [`JobRequest`] and answers 201 with a [`JobView`]; `GET
//! jobs`, `GET jobs/{name}` and `DELETE jobs/{name}` list, show and end them.

use serde::{Deserialize, Serialize};

use crate::check::Checks;
use crate::constraint::Constraints;
use crate::fetch::Fetch;
use crate::ids::TaskId;
use crate::resources::ResourceRequest;
use crate::role::Role;
use crate::task::{PartitionPolicy, Reason, TaskState, Workload};

/// The most tasks of one job.
pub const MAX_COUNT: u32 = 100_000;

/// One task, or an array of `count` of them, that run to their end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct JobRequest {
    /// A DNS label of at most 50 characters; made up when absent.
    #[serde(default)]
    pub name: Option<String>,
    /// What to run.
    pub workload: Workload,
    /// What each task needs; 0.1 cpus and 64 MiB when absent.
    #[serde(default = "default_resources")]
    pub resources: ResourceRequest,
    /// How many tasks; each finds its number in `TEPUI_ARRAY_INDEX`.
    #[serde(default = "one")]
    pub count: u32,
    /// How often a failed task is run again.
    #[serde(default)]
    pub max_restarts: u32,
    /// Higher goes first; from -1000 to 1000.
    #[serde(default)]
    pub priority: i32,
    /// Milliseconds between the polite end and the forced one.
    #[serde(default = "crate::task::default_kill_grace_ms")]
    pub kill_grace_ms: u64,
    /// Free text for people and tools.
    #[serde(default)]
    pub labels: std::collections::BTreeMap<String, String>,
    /// What becomes of its tasks while their agents are not heard of.
    #[serde(default)]
    pub partition: PartitionPolicy,
    /// On which agents its tasks may run; on all when absent.
    #[serde(default)]
    pub constraints: Constraints,
    /// Which of the framework's roles its tasks are charged to; the first when
    /// absent.
    #[serde(default)]
    pub role: Option<Role>,
    /// Persistent volumes that each task uses: it runs where they are and free.
    #[serde(default)]
    pub volumes: Vec<String>,
    /// Whether its tasks may take what can be taken back at any time.
    #[serde(default)]
    pub revocable: bool,
    /// Whether all tasks start together or not at all; at most 1,000.
    #[serde(default)]
    pub gang: bool,
    /// Milliseconds after which a gang that did not fit at once fails; it waits for
    /// ever when absent.
    #[serde(default)]
    pub gang_wait_ms: Option<u64>,
    /// Milliseconds from its launch after which a task is ended, as failed.
    #[serde(default)]
    pub time_limit_ms: Option<u64>,
    /// How the life of its tasks is looked at.
    #[serde(default)]
    pub checks: Option<Box<Checks>>,
    /// What the sandbox of each task holds before it starts.
    #[serde(default)]
    pub fetch: Vec<Fetch>,
}

fn one() -> u32 {
    1
}

/// A tenth of a processor and 64 MiB.
pub fn default_resources() -> ResourceRequest {
    ResourceRequest {
        cpus: crate::MilliCpus(100),
        mem: crate::Bytes::mib(64),
        ..ResourceRequest::default()
    }
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum JobState {
    /// No task of it has been launched yet.
    Waiting,
    /// Some have.
    Running,
    /// Its end was asked for, and tasks of it have not ended yet.
    Killing,
    /// All finished.
    Finished,
    /// All ended, and at least one for good without success.
    Failed,
    /// Ended by request.
    Killed,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct JobView {
    /// Its name.
    pub name: String,
    /// Who submitted it.
    pub user: String,
    /// How far it is.
    pub state: JobState,
    /// What each task needs.
    pub resources: ResourceRequest,
    /// How many tasks it has.
    pub count: u32,
    /// Tasks that wait for resources or for their next attempt.
    pub waiting: u32,
    /// Tasks launched and not ended.
    pub active: u32,
    /// Tasks that finished.
    pub finished: u32,
    /// Tasks that failed for good.
    pub failed: u32,
    /// Tasks that were ended by request.
    pub killed: u32,
    /// Attempts after a failure, over all tasks. One that was lost, or drained
    /// off its agent, is placed anew without being counted.
    pub restarts: u32,
    /// Higher goes first.
    pub priority: i32,
    /// Which of the framework's roles is charged; the first where none is named.
    #[serde(default)]
    pub role: Option<Role>,
    /// On which agents its tasks may run.
    #[serde(default)]
    pub constraints: Constraints,
    /// Persistent volumes that each task uses.
    #[serde(default)]
    pub volumes: Vec<String>,
    /// Whether its tasks may take what can be taken back at any time.
    #[serde(default)]
    pub revocable: bool,
    /// Whether all tasks start together or not at all.
    #[serde(default)]
    pub gang: bool,
    /// Milliseconds from its launch after which a task is ended.
    #[serde(default)]
    pub time_limit_ms: Option<u64>,
    /// Why it waits or failed, in the words of the last task that did.
    pub reason: Option<Reason>,
    /// For a job of one task: that task's latest attempt.
    pub task: Option<JobTask>,
}

/// The latest attempt of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct JobTask {
    /// Its identity.
    pub id: TaskId,
    /// How far it is.
    pub state: TaskState,
    /// The code it exited with.
    pub exit_code: Option<i32>,
}
