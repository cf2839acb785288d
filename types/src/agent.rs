//! Agents, as masters know them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::resources::Resources;

/// What an agent says of itself when it registers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentInfo {
    /// For people; need not be unique.
    pub hostname: String,
    /// All that it lends to the cluster.
    pub resources: Resources,
    /// What frameworks may choose by: `zone`, `arch`…
    pub attributes: BTreeMap<String, String>,
    /// The agent's release.
    pub version: String,
}

impl AgentInfo {
    /// The most attributes.
    pub const MAX_ATTRIBUTES: usize = 256;

    /// What is wrong with it in itself.
    pub fn validate(&self) -> Result<(), String> {
        if self.hostname.is_empty() || self.hostname.len() > 253 {
            return Err("an agent's hostname has 1 to 253 characters".into());
        }
        if self.attributes.len() > Self::MAX_ATTRIBUTES {
            return Err(format!(
                "an agent has at most {} attributes",
                Self::MAX_ATTRIBUTES
            ));
        }
        if let Some((name, milli)) = self.resources.gpus.iter().find(|(_, milli)| **milli > 1000) {
            return Err(format!(
                "gpu `{name}` has {milli} thousandths; a device has 1000"
            ));
        }
        Ok(())
    }
}

/// Whether an agent takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum AgentStatus {
    /// It is offered and its tasks are known.
    Active,
    /// Not heard of for longer than the cluster's window.
    Unreachable,
}

impl AgentStatus {
    /// The name in URLs and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Unreachable => "unreachable",
        }
    }
}
