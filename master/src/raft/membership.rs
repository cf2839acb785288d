//! Raft's configuration follows the table of masters in the state.
//!
//! The leader looks at both after every change and changes one member at a time: whoever is new
//! becomes a learner, a learner that has caught up becomes a voter, whoever left the table leaves
//! the group. A leader that has left first hands the lead to another.

use raft::StateRole;
use raft::eraftpb::{ConfChange, ConfChangeType};
use tepui_types::NodeId;

use super::Node;
use super::inbox::Order;
use crate::proposals::ProposeError;

/// Entries that a learner may be behind when it becomes a voter: a moment's worth, so that it does
/// not hold up commits as one of the majority.
const CAUGHT_UP: u64 = 500;

/// How the group is doing, as this master knows it.
#[derive(Debug, Clone, Default)]
pub struct Members {
    /// Who votes.
    pub voters: Vec<NodeId>,
    /// Who only follows.
    pub learners: Vec<NodeId>,
    /// This master's applied index.
    pub applied: u64,
    /// What the leader knows of each; empty elsewhere.
    pub progress: Vec<MemberProgress>,
}

/// How one member is doing.
#[derive(Debug, Clone, Copy)]
pub struct MemberProgress {
    /// Who.
    pub id: NodeId,
    /// The last entry that it is known to have.
    pub matched: u64,
    /// Whether it was heard of lately.
    pub active: bool,
}

/// One step towards what the table says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Learn(u64),
    Vote(u64),
    Leave(u64),
    /// Hand the lead over: this master is to leave.
    HandOver(u64),
}

impl Node {
    /// Knows the peers of the state's table.
    pub(super) fn follow_masters(&mut self) {
        let masters = &self.applier.state.masters;
        self.transport.set_peers(
            masters
                .values()
                .map(|master| (master.id, master.url.clone())),
        );
    }

    /// Takes the next step towards the table, if this master leads and none is under way.
    pub(super) fn change_membership(&mut self) {
        if self.raw.raft.state != StateRole::Leader || self.raw.raft.has_pending_conf() {
            return;
        }
        let Some(step) = self.next_step() else {
            return;
        };
        let (node_id, change_type) = match step {
            Step::Learn(id) => (id, ConfChangeType::AddLearnerNode),
            Step::Vote(id) => (id, ConfChangeType::AddNode),
            Step::Leave(id) => (id, ConfChangeType::RemoveNode),
            Step::HandOver(id) => return self.raw.transfer_leader(id),
        };
        let mut change = ConfChange {
            node_id,
            ..ConfChange::default()
        };
        change.set_change_type(change_type);
        tracing::info!(?step, "changing the members");
        if let Err(error) = self.raw.propose_conf_change(Vec::new(), change) {
            // The next tick tries again.
            tracing::warn!(%error, ?step, "raft dropped a change of members");
        }
    }

    fn next_step(&self) -> Option<Step> {
        let masters = &self.applier.state.masters;
        // A cluster without a table is one that tests open without addresses.
        if masters.is_empty() {
            return None;
        }
        let members = self.raw.store().members();
        let is_listed = |id: u64| masters.contains_key(&NodeId(id));
        let is_member = |id: u64| members.voters.contains(&id) || members.learners.contains(&id);
        let unknown = masters.keys().find(|id| !is_member(id.0));
        let unknown = unknown.map(|id| Step::Learn(id.0));
        let caught_up = members.learners.iter().find(|id| self.has_caught_up(**id));
        let caught_up = caught_up.map(|id| Step::Vote(*id));
        let all = members.voters.iter().chain(&members.learners);
        let mut left = all.filter(|id| !is_listed(**id));
        unknown.or(caught_up).or_else(|| {
            let left = *left.find(|id| **id != self.raw.raft.id).or(left.next())?;
            match left == self.raw.raft.id {
                true => self.heir().map(Step::HandOver),
                false => Some(Step::Leave(left)),
            }
        })
    }

    fn has_caught_up(&self, id: u64) -> bool {
        let raft = &self.raw.raft;
        let committed = raft.raft_log.committed;
        raft.prs().get(id).is_some_and(|progress| {
            progress.recent_active && progress.matched + CAUGHT_UP >= committed
        })
    }

    /// The voter that is furthest.
    fn heir(&self) -> Option<u64> {
        let raft = &self.raw.raft;
        let others = self.raw.store().members().voters.iter();
        others
            .filter(|id| **id != raft.id)
            .filter_map(|id| Some((raft.prs().get(*id)?.matched, *id)))
            .max()
            .map(|(_, id)| id)
    }

    /// Whether this master was removed and is of no more use to the others: the table says so, and
    /// either its own configuration does too, or a peer has turned it away. Until then its vote may
    /// be needed for its own removal.
    pub(super) fn has_left(&self) -> bool {
        let (id, masters) = (NodeId(self.raw.raft.id), &self.applier.state.masters);
        let is_listed = masters.is_empty() || masters.contains_key(&id);
        let is_member = self.members.load().contains(&id);
        self.was_member && !is_listed && (self.is_disowned || !is_member)
    }

    pub(super) fn on_order(&mut self, order: Order) {
        match order {
            Order::Transfer { to, reply } => {
                let raft = &self.raw.raft;
                let result = if raft.state != StateRole::Leader {
                    let leader = self.leader();
                    Err(ProposeError::NotLeader { leader })
                } else {
                    self.raw.transfer_leader(to.0);
                    Ok(())
                };
                reply.send(result).ok();
            }
            Order::Members(reply) => {
                reply.send(self.members()).ok();
            }
        }
    }

    fn members(&self) -> Members {
        let members = self.raw.store().members();
        let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect();
        let raft = &self.raw.raft;
        let progress = match raft.state {
            StateRole::Leader => raft
                .prs()
                .iter()
                .map(|(id, progress)| MemberProgress {
                    id: NodeId(*id),
                    matched: progress.matched,
                    active: *id == raft.id || progress.recent_active,
                })
                .collect(),
            _ => Vec::new(),
        };
        Members {
            voters: ids(&members.voters),
            learners: ids(&members.learners),
            applied: self.applier.applied,
            progress,
        }
    }
}
