//! Agents, as masters know them.

use core::net::IpAddr;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::resources::Resources;

/// What frameworks may choose agents by: `zone`, `arch`… Every offer of an agent shares them.
pub type Attributes = Arc<BTreeMap<String, String>>;

/// What an agent says of itself when it registers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentInfo {
    /// For people; need not be unique.
    pub hostname: String,
    /// By which others reach its machine.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// All that it lends to the cluster.
    pub resources: Resources,
    /// What frameworks may choose it by.
    pub attributes: Attributes,
    /// The agent's release.
    pub version: String,
    /// Why it takes no new task now; none while it does.
    #[serde(default)]
    pub full: Option<String>,
}

impl AgentInfo {
    /// The most attributes.
    pub const MAX_ATTRIBUTES: usize = 256;
    /// The most bytes of all of it, encoded: a thousand names of some length.
    pub const MAX_ENCODED: usize = 64 * 1024;

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
        let size = crate::envelope::encode(1, self).len();
        if size > Self::MAX_ENCODED {
            return Err(format!(
                "an agent's attributes and resources take {size} bytes, and at most {}",
                Self::MAX_ENCODED
            ));
        }
        self.resources.validate()
    }
}

/// How an agent stands, in one word: what keeps it from taking part comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum AgentStatus {
    /// It is offered and its tasks are known.
    Active,
    /// Not heard of for longer than the cluster's window.
    Unreachable,
    /// Not offered; its tasks go on.
    Deactivated,
    /// Not offered, and its tasks are being ended.
    Draining,
    /// Not offered, and without tasks.
    Drained,
    /// An operator has said that it never comes back.
    Gone,
    /// Not offered while its machine has no room; its tasks go on.
    Full,
}

impl AgentStatus {
    /// The name in URLs and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Unreachable => "unreachable",
            Self::Deactivated => "deactivated",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Gone => "gone",
            Self::Full => "full",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_says_of_itself_is_bounded() {
        let mut info = AgentInfo {
            address: None,
            hostname: "one".into(),
            resources: Resources::default(),
            attributes: BTreeMap::from([("zone".into(), "a".into())]).into(),
            version: "0".into(),
            full: None,
        };
        assert_eq!(info.validate(), Ok(()));
        let long = "x".repeat(AgentInfo::MAX_ENCODED);
        info.attributes = BTreeMap::from([("zone".into(), long)]).into();
        assert!(info.validate().unwrap_err().contains("at most 65536"));
    }
}
