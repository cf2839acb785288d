//! `/v1/cluster`: the whole at a glance.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{ClusterId, NodeId};
use crate::resources::ResourceRequest;
use crate::task::TaskState;

/// The cluster as the answering master sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ClusterView {
    /// The cluster.
    pub cluster: ClusterId,
    /// The master that was asked; what another one knows better it has asked that.
    pub node: NodeId,
    /// The leader it knows.
    pub leader: Option<NodeId>,
    /// Where that is reached.
    #[serde(default)]
    pub leader_url: Option<String>,
    /// Masters of the cluster.
    #[serde(default)]
    pub masters: u64,
    /// Its Raft term.
    pub term: u64,
    /// The last log index in the state that was read.
    pub index: u64,
    /// The master's release.
    pub version: String,
    /// Sums over active agents; ports and gpus as counts.
    pub total: ResourceRequest,
    /// What tasks have of it.
    pub used: ResourceRequest,
    /// What outstanding offers hold of it.
    pub offered: ResourceRequest,
    /// Agents by status.
    pub agents: BTreeMap<String, u64>,
    /// Frameworks by phase.
    pub frameworks: BTreeMap<String, u64>,
    /// Living and remembered tasks by state.
    pub tasks: BTreeMap<TaskState, u64>,
    /// Terminal tasks by state since the cluster began.
    pub ended: BTreeMap<TaskState, u64>,
    /// Tasks that frameworks want and nobody runs yet.
    pub waiting: u64,
    /// Warnings that an operator should see: insecure listening and the like.
    pub warnings: Vec<String>,
}
