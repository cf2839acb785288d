//! `/v1/agents`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::agent::AgentStatus;
use crate::ids::{AgentId, TaskId, WindowId};
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
    /// How it is being drained, or was.
    #[serde(default)]
    pub drain: Option<DrainView>,
    /// Since when it has not been heard of.
    #[serde(default)]
    pub unreachable_since: Option<Timestamp>,
    /// Since when it is gone for good.
    #[serde(default)]
    pub gone_since: Option<Timestamp>,
    /// Whether it is connected to this master now.
    pub connected: bool,
    /// All that it lends.
    pub total: Resources,
    /// What it has too little of for what is reserved on it; until it has that
    /// again, it is offered to nobody.
    #[serde(default)]
    pub short: Option<String>,
    /// Why it takes no new task now, as of a machine that is short of memory; none while it does.
    #[serde(default)]
    pub full: Option<String>,
    /// What its tasks have.
    pub used: Resources,
    /// What is held in outstanding offers.
    pub offered: Resources,
    /// What frameworks may choose by.
    pub attributes: BTreeMap<String, String>,
    /// Living tasks.
    pub tasks: u64,
    /// Tasks that it runs of a time that a restored backup does not know: nothing
    /// is placed on it before they end.
    #[serde(default)]
    pub held: u64,
    /// The first hundred of them.
    #[serde(default)]
    pub held_tasks: Vec<TaskId>,
    /// Its release.
    pub version: String,
    /// When it first registered.
    pub registered_at: Timestamp,
    /// Log index of its last change.
    pub revision: u64,
}

/// A drain; `tasks` of the agent says how many are left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DrainView {
    /// When it began.
    pub since: Timestamp,
    /// When tasks that are left are ended without grace.
    pub deadline: Option<Timestamp>,
    /// Milliseconds of grace in place of the tasks' own.
    pub grace_ms: Option<u64>,
    /// Whether the agent is gone at the end of it.
    pub mark_gone: bool,
    /// The maintenance window that it is for.
    pub window: Option<WindowId>,
}

/// `POST /v1/agents/{id}/drain`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DrainRequest {
    /// Milliseconds from now after which no task gets grace; none when absent.
    #[serde(default)]
    pub deadline_ms: Option<u64>,
    /// Milliseconds of grace in place of the tasks' own.
    #[serde(default)]
    pub grace_ms: Option<u64>,
    /// Whether the agent is gone at the end.
    #[serde(default)]
    pub mark_gone: bool,
}
