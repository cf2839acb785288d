//! `/v1/tasks`.

use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, TaskId};
use crate::resources::Resources;
use crate::role::Role;
use crate::task::{Chosen, Step, TaskSpec, TaskStatus};
use crate::time::Timestamp;

/// A task, living or remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskView {
    /// Its identity.
    pub id: TaskId,
    /// Its framework's name.
    pub framework_name: String,
    /// What it is charged to.
    pub role: Role,
    /// Where it runs or ran.
    pub agent: AgentId,
    /// That agent's machine.
    pub hostname: String,
    /// The latest that the log knows.
    pub status: TaskStatus,
    /// What it has.
    pub resources: Resources,
    /// What it runs.
    pub spec: TaskSpec,
    /// Its place in its array.
    pub array_index: Option<u32>,
    /// The task before it in line, if it waits for the place of another of its framework.
    pub after: Option<TaskId>,
    /// When its launch was committed; of one that stood in line, when it got its place.
    pub launched_at: Timestamp,
    /// When it was first known to run.
    pub started_at: Option<Timestamp>,
    /// When it was known to have ended.
    pub ended_at: Option<Timestamp>,
    /// Log index of its last change.
    pub revision: u64,
}

/// All that is known of the tasks of one name of a framework.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskHistory {
    /// Its attempts, the newest first.
    pub attempts: Vec<TaskAttempt>,
    /// Whether there were older ones, which are not listed.
    pub more: bool,
}

/// One launch and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskAttempt {
    /// Its identity.
    pub id: TaskId,
    /// Where it runs or ran.
    pub agent: AgentId,
    /// That agent's machine.
    pub hostname: String,
    /// What it is charged to.
    pub role: Role,
    /// What it has, or had.
    pub resources: Resources,
    /// The offer that its framework took for it.
    pub chosen: Option<Chosen>,
    /// The states that it came to, in their order.
    pub steps: Vec<Step>,
    /// How many steps between the first and the rest were forgotten.
    pub forgotten: u32,
    /// The code it exited with, if it exited.
    pub exit_code: Option<i32>,
}

/// `POST /v1/tasks/{id}/kill`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct KillRequest {
    /// Milliseconds of grace in place of the task's own.
    #[serde(default)]
    pub grace_ms: Option<u64>,
}
