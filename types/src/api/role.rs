//! `/v1/roles`: what each role counts, is promised, may have, and has.

use serde::{Deserialize, Serialize};

use crate::resources::{ResourceLimit, ResourceRequest};
use crate::role::{Role, RoleSettings};

/// A role. What it has is with all that those below it have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RoleView {
    /// Its path.
    pub role: Role,
    /// Whether an operator has set anything of it.
    pub is_set: bool,
    /// How much it counts beside its siblings, in thousandths.
    pub weight_milli: u32,
    /// What is laid away for it, whether it uses it or not.
    pub guarantee: ResourceRequest,
    /// The most that it may have; what is absent has no limit.
    pub limit: ResourceLimit,
    /// Whether its tasks may be ended for roles below their guarantee; as with
    /// the role above it when absent.
    #[serde(default)]
    pub preemptible: Option<bool>,
    /// What is claimed for it: tasks of others are being ended, or were.
    #[serde(default)]
    pub claimed: ResourceRequest,
    /// What its tasks have; ports and gpus as counts.
    pub used: ResourceRequest,
    /// What outstanding offers hold for it.
    pub offered: ResourceRequest,
    /// The largest part of the cluster that its tasks have of any one resource, in millionths.
    pub share_ppm: u64,
    /// Frameworks in it and below.
    pub frameworks: u64,
    /// Tasks that these want and have not got.
    pub waiting: u64,
    /// Log index of its last change; 0 when nothing is set.
    pub revision: u64,
}

/// `PUT /v1/roles/{role}`: all that is set of a role.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RoleRequest {
    /// Thousandths; 1,000 when absent.
    #[serde(default)]
    pub weight_milli: Option<u32>,
    /// Nothing when absent.
    #[serde(default)]
    pub guarantee: ResourceRequest,
    /// None when absent.
    #[serde(default)]
    pub limit: ResourceLimit,
    /// Whether its tasks may be ended for roles below their guarantee; as with
    /// the role above it when absent.
    #[serde(default)]
    pub preemptible: Option<bool>,
    /// Also where the cluster has less than is guaranteed, or the role more than its limit.
    #[serde(default)]
    pub force: bool,
}

impl RoleRequest {
    /// What is to be set.
    pub fn settings(self) -> RoleSettings {
        RoleSettings {
            weight_milli: self
                .weight_milli
                .unwrap_or(RoleSettings::DEFAULT_WEIGHT_MILLI),
            guarantee: self.guarantee,
            limit: self.limit,
            preemptible: self.preemptible,
        }
    }
}
