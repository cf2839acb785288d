//! `/v1/maintenance`: when which machines are worked on.

use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, WindowId};
use crate::time::Timestamp;

/// A window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WindowView {
    /// Its id.
    pub id: WindowId,
    /// Which agents.
    pub agents: Vec<AgentId>,
    /// When they are drained.
    pub drains_at: Timestamp,
    /// When they must be empty.
    pub start: Timestamp,
    /// When they are open again.
    pub end: Timestamp,
    /// Whether they have been drained.
    pub has_begun: bool,
    /// For people.
    pub note: String,
    /// Log index of its last change.
    pub revision: u64,
}

/// `POST /v1/maintenance`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WindowRequest {
    /// Which agents; at least one.
    pub agents: Vec<AgentId>,
    /// When they must be empty, in milliseconds since the Unix epoch.
    pub start: Timestamp,
    /// Milliseconds until they are open again.
    pub duration_ms: u64,
    /// Milliseconds before the start at which they are drained: ten minutes when absent.
    #[serde(default = "default_lead_ms")]
    pub lead_ms: u64,
    /// For people.
    #[serde(default)]
    pub note: String,
}

/// Ten minutes: time for tasks to end, and to begin elsewhere.
pub fn default_lead_ms() -> u64 {
    600_000
}
