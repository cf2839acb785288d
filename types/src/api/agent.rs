//! `/v1/agents`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::agent::AgentStatus;
use crate::ids::AgentId;
use crate::resources::Resources;
use crate::time::Timestamp;

/// An agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AgentView {
    /// Its id.
    pub id: AgentId,
    /// Its machine.
    pub hostname: String,
    /// Whether it takes part.
    pub status: AgentStatus,
    /// Whether it is connected to this master now.
    pub connected: bool,
    /// All that it lends.
    pub total: Resources,
    /// What its tasks have.
    pub used: Resources,
    /// What is held in outstanding offers.
    pub offered: Resources,
    /// What frameworks may choose by.
    pub attributes: BTreeMap<String, String>,
    /// Living tasks.
    pub tasks: u64,
    /// Its release.
    pub version: String,
    /// When it first registered.
    pub registered_at: Timestamp,
    /// Log index of its last change.
    pub revision: u64,
}
