//! Who asks for something.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, FrameworkId};

/// Stands in every command from the first entry of the log on, so that rights
/// and audit never have to be added to logged bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Principal {
    /// A person or script, by name; `operator` on loopback without security.
    User(String),
    /// A framework's turn.
    Framework(FrameworkId),
    /// An agent's session.
    Agent(AgentId),
    /// The leader itself: deadlines, liveness.
    Leader,
}

impl Principal {
    /// The longest user name, in bytes.
    pub const MAX_NAME_LEN: usize = 128;

    /// Who speaks over loopback when no security is configured.
    pub fn loopback_operator() -> Self {
        Self::User("operator".into())
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => f.write_str(name),
            Self::Framework(id) => write!(f, "framework:{id}"),
            Self::Agent(id) => write!(f, "agent:{id}"),
            Self::Leader => f.write_str("leader"),
        }
    }
}
