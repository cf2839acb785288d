//! Frameworks: the schedulers that are loaded into the master.

use serde::{Deserialize, Serialize};

use crate::ids::Digest;
use crate::role::Roles;

/// A deployment: which component runs under which name and role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameworkInfo {
    /// Unique among living frameworks; a DNS label.
    pub name: String,
    /// What its tasks are charged to: each to one of these.
    pub roles: Roles,
    /// The component.
    pub artifact: Digest,
    /// Handed to `start` as it is.
    pub config: String,
}

impl FrameworkInfo {
    /// The longest configuration, in bytes.
    pub const MAX_CONFIG: usize = 64 * 1024;

    /// What is wrong with it in itself.
    pub fn validate(&self) -> Result<(), String> {
        if !crate::ids::is_label(&self.name) {
            return Err(format!(
                "`{}` is not a framework name: 1 to 63 characters out of a-z, 0-9 and `-`",
                self.name.chars().take(80).collect::<String>()
            ));
        }
        if self.config.len() > Self::MAX_CONFIG {
            return Err(format!("config is longer than {} bytes", Self::MAX_CONFIG));
        }
        Ok(())
    }
}

/// How far a framework has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum FrameworkPhase {
    /// Recorded; its `start` has not committed a turn yet.
    Starting,
    /// It takes turns.
    Running,
    /// It trapped and waits for its next start.
    Backoff,
    /// It failed too often in a row; it stays so until an operator restarts it.
    Failed,
    /// Being removed: its tasks are ended first.
    Removing,
}

impl FrameworkPhase {
    /// The name in URLs and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Backoff => "backoff",
            Self::Failed => "failed",
            Self::Removing => "removing",
        }
    }
}
