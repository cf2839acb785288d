//! Bodies of volumes and of `/v1/operations`; what is asked stands in [`crate::wish`].

use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, FrameworkId, TaskId};
use crate::operation::ConversionState;
use crate::resources::{Bytes, Conversion, Disk};
use crate::role::Role;
use crate::task::Reason;
use crate::time::Timestamp;

/// `POST /v1/agents/{id}/volumes/{volume}/grow` and `shrink`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ResizeRequest {
    /// By how much.
    pub by_bytes: Bytes,
}

/// A persistent volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VolumeView {
    /// On which agent.
    pub agent: AgentId,
    /// That agent's machine.
    pub hostname: String,
    /// Its name there.
    pub id: String,
    /// Whose it is.
    pub role: Role,
    /// Where tasks find it.
    pub path: String,
    /// Whether several may use it at a time.
    pub shared: bool,
    /// How large it is.
    pub size_bytes: Bytes,
    /// On which disk; the root disk when absent.
    pub disk: Option<Disk>,
    /// A task that uses it.
    pub used_by: Option<TaskId>,
}

/// What became of an operation on resources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OperationView {
    /// Its id: log index and place in its command.
    pub id: String,
    /// The name that its framework gave it.
    pub name: String,
    /// On which agent.
    pub agent: AgentId,
    /// The framework that asked for it, if one did.
    pub framework: Option<FrameworkId>,
    /// Who asked for it.
    pub by: String,
    /// `reserve`, `unreserve`, `create`, `destroy`, `grow` or `shrink`.
    pub kind: String,
    /// What was asked.
    pub operation: Conversion,
    /// Whether it was done.
    pub state: ConversionState,
    /// Why not.
    pub reason: Option<Reason>,
    /// When it was committed.
    pub time: Timestamp,
}
