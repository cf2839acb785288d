//! `/v1/masters`: who replicates the log.

use serde::{Deserialize, Serialize};

use crate::ids::{ClusterId, NodeId};

/// One master, as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MasterView {
    /// Its id.
    pub id: NodeId,
    /// Where it is reached.
    pub url: String,
    /// What it is in the group.
    pub role: MasterRole,
    /// Whether the leader has heard of it lately.
    pub active: bool,
    /// The last log index that it is known to have.
    pub matched: u64,
    /// How many entries it is behind the leader.
    pub behind: u64,
    /// Milliseconds by which its clock is ahead of most masters'; none if that is not known.
    #[serde(default)]
    pub clock_ahead_ms: Option<i64>,
    /// Whether its state was the leader's at the last entry at which both took its hash; not known
    /// before there is one, which takes a minute.
    #[serde(default)]
    pub state_agrees: Option<bool>,
    /// Its release, if it answers.
    #[serde(default)]
    pub version: Option<String>,
    /// Log index of its record's last change.
    pub revision: u64,
}

impl MasterView {
    /// Milliseconds by which a clock may be off from most others', far above what a message takes:
    /// further off, a master does not lead.
    pub const MAX_CLOCK_OFFSET_MS: i64 = 2_000;

    /// Whether its clock keeps it from leading.
    pub fn has_bad_clock(&self) -> bool {
        let is_off = |ms: i64| ms.abs() > Self::MAX_CLOCK_OFFSET_MS;
        self.clock_ahead_ms.is_some_and(is_off)
    }
}

/// What a master is in the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum MasterRole {
    /// It leads.
    Leader,
    /// It votes and follows.
    Voter,
    /// It follows, and votes once it has caught up.
    Learner,
    /// It is listed, and not a member yet.
    Joining,
    /// It is on its way out.
    Leaving,
}

impl MasterRole {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Voter => "voter",
            Self::Learner => "learner",
            Self::Joining => "joining",
            Self::Leaving => "leaving",
        }
    }
}

/// A master that wants to come in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct JoinRequest {
    /// Its id.
    pub id: NodeId,
    /// Where others reach it.
    pub url: String,
}

/// A master that waits to be added, for the cluster to invite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InviteRequest {
    /// Where it is reached.
    pub url: String,
}

/// The answer to an [`InviteRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InvitedView {
    /// The master's id.
    pub id: NodeId,
    /// Where it is reached.
    pub url: String,
}

/// What a cluster says to a master that waits to be added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invitation {
    /// Which cluster.
    pub cluster: ClusterId,
    /// Its master that takes it in.
    pub via: String,
}

/// What a master says of itself to one that founds or joins a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Introduction {
    /// Its id.
    pub id: NodeId,
    /// Its cluster; none while it founds one.
    pub cluster: Option<ClusterId>,
    /// The peers with whom it founds one, itself among them, in order; empty in a cluster.
    pub peers: Vec<String>,
    /// The cluster's members; empty while it founds one.
    pub members: Vec<NodeId>,
    /// Its release.
    #[serde(default)]
    pub version: Option<String>,
}
