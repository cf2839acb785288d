//! What a framework's turn does to the cluster.

use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, TaskId, TaskName};
use crate::resources::{Conversion, Resources};
use crate::role::Role;
use crate::task::Chosen;

/// One operation of a turn. Each names agent and resources, not only an offer,
/// and is checked again when the turn is applied; one that no longer fits is
/// dropped with its reason, and the rest of the turn stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Run a task.
    Launch(Launch),
    /// End a task.
    Kill(Kill),
    /// Reserve, unreserve, or do something with a volume.
    Convert(Convert),
    /// Run all of these tasks, or none.
    LaunchGang(Vec<Launch>),
}

impl Operation {
    /// The tasks that it launches.
    pub fn launches(&self) -> &[Launch] {
        match self {
            Self::Launch(launch) => std::slice::from_ref(launch),
            Self::LaunchGang(launches) => launches,
            Self::Kill(_) | Self::Convert(_) => &[],
        }
    }
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
    /// The offer that it took, for the task's history; it changes nothing.
    pub chosen: Option<Chosen>,
    /// The task whose place it takes when that ends: one of the framework's own, on the same
    /// agent, with the same resources. It waits at the end of the line after that task.
    pub after: Option<TaskId>,
}

/// End a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kill {
    /// Which.
    pub task: TaskId,
    /// Milliseconds of grace in place of the task's own.
    pub grace_ms: Option<u64>,
}

/// Make something else of an agent's resources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Convert {
    /// Whose.
    pub agent: AgentId,
    /// The framework's own name for it, in its record and when it is dropped.
    pub name: String,
    /// What.
    pub conversion: Conversion,
    /// In which of the framework's roles; the first if none is named.
    pub role: Option<Role>,
}

impl Convert {
    /// Bytes of a name.
    pub const MAX_NAME: usize = 128;
}

/// What became of a conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ConversionState {
    /// It is done.
    Finished,
    /// It did not fit any more when it was committed, and changed nothing.
    Dropped,
}

impl ConversionState {
    /// The name in URLs and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Dropped => "dropped",
        }
    }
}
