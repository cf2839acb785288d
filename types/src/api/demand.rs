//! `/v1/demands`: what frameworks want and do not have, and why not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::constraint::Constraints;
use crate::gang::GangPart;
use crate::ids::FrameworkId;
use crate::resources::ResourceRequest;
use crate::role::Role;
use crate::time::Timestamp;

/// Demand of one framework under one key, with why it is not met now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DemandView {
    /// Whose.
    pub framework: FrameworkId,
    /// Its name.
    pub framework_name: String,
    /// The framework's key for it, often a job's name.
    pub key: String,
    /// How many are wanted.
    pub count: u32,
    /// What each needs.
    pub request: ResourceRequest,
    /// On which agents.
    #[serde(default)]
    pub constraints: Constraints,
    /// Which of the framework's roles it is for.
    #[serde(default)]
    pub role: Role,
    /// Set where all of it must fit at once; `request` and `constraints` are those
    /// of its first part.
    #[serde(default)]
    pub gang: Option<GangView>,
    /// Since when this is so.
    pub since: Timestamp,
    /// Why it waits.
    pub explanation: Explanation,
}

/// A gang that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GangView {
    /// What it consists of.
    pub parts: Vec<GangPart>,
    /// When it is given up.
    pub deadline: Option<Timestamp>,
    /// When it is expected to start at the latest; known only of the next one, and
    /// where tasks have time limits.
    #[serde(default)]
    pub starts_by: Option<Timestamp>,
}

/// Agents counted by what keeps them from one request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Explanation {
    /// One sentence for people.
    pub summary: String,
    /// Agents looked at.
    pub agents: u64,
    /// Agents on which it fits now.
    pub fitting: u64,
    /// Agents short of each resource now, though large enough when empty.
    pub busy: BTreeMap<String, u64>,
    /// Agents that have too little of each resource even when empty.
    pub too_small: BTreeMap<String, u64>,
    /// The most that an agent has when empty of each resource in `too_small`,
    /// for people.
    #[serde(default)]
    pub largest: BTreeMap<String, String>,
    /// Agents that are not active.
    pub inactive: u64,
    /// Agents that came back with less than is reserved on them, and are offered
    /// to nobody.
    #[serde(default)]
    pub lacking: u64,
    /// Agents that the framework declined a short while ago.
    pub filtered: u64,
    /// Agents that its constraints rule out.
    #[serde(default)]
    pub constrained: u64,
    /// Of these, on how many each constraint does not hold; those that rule out most, where there are many.
    #[serde(default)]
    pub unmet: BTreeMap<String, u64>,
    /// Agents on which it would fit but for what is offered to others now.
    #[serde(default)]
    pub held: u64,
    /// Agents with gpus, which are kept for what asks for gpus.
    #[serde(default)]
    pub spared: u64,
    /// Agents on which it would fit, but with less left than the least offer.
    #[serde(default)]
    pub slivers: u64,
    /// Agents on which it would fit but for what was taken back for a role below
    /// its guarantee.
    #[serde(default)]
    pub withheld: u64,
    /// Agents on which it would fit, and that are kept for a gang which starts
    /// before it would end.
    #[serde(default)]
    pub behind_gang: u64,
    /// Agents on which it would fit but for what is reserved for others, or set
    /// apart otherwise.
    #[serde(default)]
    pub reserved: u64,
    /// Agents that are not among the cluster's allowed hosts.
    #[serde(default)]
    pub disallowed: u64,
    /// The limit of a role, or the guarantees of others, that keep it from what is free.
    #[serde(default)]
    pub quota: Option<String>,
    /// What keeps it from the volumes that it names.
    #[serde(default)]
    pub volumes: Option<String>,
}

impl Explanation {
    /// The constraints that do not hold: `zone=a fails on 3, ssd fails on 1`.
    pub fn unmet_in_words(&self) -> String {
        let unmet = self.unmet.iter();
        let unmet = unmet.map(|(constraint, count)| format!("{constraint} fails on {count}"));
        unmet.collect::<Vec<_>>().join(", ")
    }
}
