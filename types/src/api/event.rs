//! `/v1/events`: what changed, in order, as server-sent events.
//!
//! The `id:` of each event is its sequence, `index.ordinal`, the same on every
//! master. Send the last one seen as `Last-Event-ID` (or `?after=`) to resume;
//! past the retention the answer is 410, and the lists are read anew.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::agent::AgentStatus;
use crate::framework::FrameworkPhase;
use crate::ids::{AgentId, Digest, FrameworkId, NodeId, TaskId};
use crate::role::Role;
use crate::task::{Reason, TaskState};
use crate::time::Timestamp;

/// Where an event stands: log index, then place in that entry.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Sequence {
    /// Log index of the command.
    pub index: u64,
    /// Place among the command's events.
    pub ordinal: u32,
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.ordinal)
    }
}

impl FromStr for Sequence {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (index, ordinal) = text.split_once('.').unwrap_or((text, "0"));
        match (index.parse(), ordinal.parse()) {
            (Ok(index), Ok(ordinal)) => Ok(Self { index, ordinal }),
            _ => Err("an event sequence looks like `1204.0`".into()),
        }
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Event {
    /// Where it stands.
    pub sequence: Sequence,
    /// When.
    pub time: Timestamp,
    /// What.
    pub body: EventBody,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum EventBody {
    /// A task came to be or moved.
    Task {
        /// Which.
        task: TaskId,
        /// Its state now.
        state: TaskState,
        /// Where.
        agent: AgentId,
        /// Why.
        reason: Option<Reason>,
        /// The code it exited with.
        exit_code: Option<i32>,
        /// Whether it waits in line for the place of another task of its framework.
        #[serde(default)]
        in_line: bool,
    },
    /// An agent came to be or changed.
    Agent {
        /// Which.
        agent: AgentId,
        /// Its status now.
        status: AgentStatus,
    },
    /// A framework came to be or changed.
    Framework {
        /// Which.
        framework: FrameworkId,
        /// Its name.
        name: String,
        /// How far it is; none when it was removed.
        phase: Option<FrameworkPhase>,
        /// Why.
        reason: Option<Reason>,
    },
    /// A framework's demand changed.
    Demand {
        /// Whose.
        framework: FrameworkId,
        /// Which.
        key: String,
        /// How many are wanted now.
        count: u32,
    },
    /// An artifact was recorded.
    Artifact {
        /// Which.
        digest: Digest,
    },
    /// A master came in, moved or left.
    Master {
        /// Which.
        master: NodeId,
        /// Whether it is a member now.
        present: bool,
    },
    /// A role's weight or quota changed.
    Role {
        /// Which.
        role: Role,
        /// Whether something is set of it now.
        is_set: bool,
    },
    /// A gang did not fit for as long as it waits, and was given up.
    GangOverdue {
        /// Whose.
        framework: FrameworkId,
        /// Its key.
        key: String,
    },
    /// The cluster's settings changed.
    Settings {},
}
