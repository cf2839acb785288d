//! What a framework's turn does to the cluster.

use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, TaskId, TaskName};
use crate::resources::Resources;
use crate::role::Role;

/// One operation of a turn. Each names agent and resources, not only an offer,
/// and is checked again when the turn is applied; one that no longer fits is
/// dropped with its reason, and the rest of the turn stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Run a task.
    Launch(Launch),
    /// End a task.
    Kill(Kill),
}

/// Run a task on an agent with exactly these resources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Where.
    pub agent: AgentId,
    /// The task's name; unique among the framework's living tasks. The attempt
    /// is minted when the launch is applied.
    pub name: TaskName,
    /// What it takes from the agent.
    pub resources: Resources,
    /// What it runs: a place in the turn's list of specifications.
    pub spec: u32,
    /// Its place in its array, for `TEPUI_ARRAY_INDEX`.
    pub array_index: Option<u32>,
    /// Which of the framework's roles is charged; the first if none is named.
    pub role: Option<Role>,
}

/// End a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kill {
    /// Which.
    pub task: TaskId,
    /// Milliseconds of grace in place of the task's own.
    pub grace_ms: Option<u64>,
}
