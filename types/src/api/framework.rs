//! `/v1/frameworks`.

use serde::{Deserialize, Serialize};

use crate::framework::FrameworkPhase;
use crate::ids::{Digest, FrameworkId};
use crate::resources::ResourceRequest;
use crate::role::{Role, Roles};
use crate::task::Reason;
use crate::time::Timestamp;

/// `POST /v1/frameworks`: deploy an artifact as a framework.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeployRequest {
    /// Unique among living frameworks; a DNS label.
    pub name: String,
    /// The component, uploaded before.
    pub artifact: Digest,
    /// What its tasks are charged to; `*` when absent. Short for `roles` with one.
    #[serde(default)]
    pub role: Option<Role>,
    /// The roles that it may name for its demand and tasks. What names none is
    /// for the first.
    #[serde(default)]
    pub roles: Vec<Role>,
    /// Handed to `start` as it is.
    #[serde(default)]
    pub config: String,
}

impl DeployRequest {
    /// The roles that are meant, or why there are none.
    pub fn roles(&self) -> Result<Roles, String> {
        match (&self.role, self.roles.as_slice()) {
            (Some(_), [_, ..]) => Err("say `role` or `roles`, not both".into()),
            (Some(role), []) => Ok(role.clone().into()),
            (None, []) => Ok(Role::default().into()),
            (None, roles) => Roles::new(roles.to_vec()),
        }
    }
}

/// A framework.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FrameworkView {
    /// Its id.
    pub id: FrameworkId,
    /// Its name.
    pub name: String,
    /// The first of its roles.
    pub role: Role,
    /// What its tasks are charged to: each to one of these.
    #[serde(default)]
    pub roles: Vec<Role>,
    /// How far it is.
    pub phase: FrameworkPhase,
    /// Why it waits or failed.
    pub reason: Option<Reason>,
    /// Its component.
    pub artifact: Digest,
    /// How often it was started anew.
    pub incarnation: u64,
    /// Committed turns of this incarnation.
    pub turns: u64,
    /// What its tasks have; ports and gpus as counts.
    pub used: ResourceRequest,
    /// Living tasks.
    pub tasks: u64,
    /// Tasks it wants and has not got.
    pub waiting: u64,
    /// Offers that it has not answered.
    #[serde(default)]
    pub offers: u64,
    /// What they hold; ports and gpus as counts.
    #[serde(default)]
    pub offered: ResourceRequest,
    /// Since when it holds the oldest of them.
    #[serde(default)]
    pub offered_since: Option<Timestamp>,
    /// Offers that it has let expire under this leader.
    #[serde(default)]
    pub offers_expired: u64,
    /// Keys in its store.
    pub store_keys: u64,
    /// Bytes in its store.
    pub store_bytes: u64,
    /// When it was deployed.
    pub deployed_at: Timestamp,
    /// Log index of its last change.
    pub revision: u64,
}

impl FrameworkView {
    /// All its roles, for people.
    pub fn show_roles(&self) -> String {
        let roles = match self.roles.as_slice() {
            // Of a master that knew only one.
            [] => std::slice::from_ref(&self.role),
            roles => roles,
        };
        let roles: Vec<_> = roles.iter().map(Role::as_str).collect();
        roles.join(", ")
    }
}

/// One line that a framework logged (`GET /v1/frameworks/{id}/logs`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogLine {
    /// When.
    pub time: Timestamp,
    /// `trace`, `debug`, `info`, `warn` or `error`.
    pub level: String,
    /// The line.
    pub message: String,
}
