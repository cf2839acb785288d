//! Raft's configuration follows the table of masters in the state.
//!
//! The leader looks at both after every change and changes one member at a time: whoever is new
//! becomes a learner, a learner that has caught up becomes a voter, whoever left the table leaves
//! the group. A leader that has left first hands the lead to another.

use std::collections::BTreeMap;

use raft::eraftpb::{ConfChange, ConfChangeType};
use raft::{ProgressState, SnapshotStatus, StateRole};
use tepui_cluster::Command;
use tepui_types::{NodeId, Principal};

use super::inbox::Order;
use super::member::Member;
use super::world::World;
use crate::proposals::{ProposeError, Request};

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
    /// What the leader knows of each; elsewhere this master alone.
    pub progress: Vec<MemberProgress>,
    /// Milliseconds by which the clocks that it has heard of lately are ahead of most others.
    pub clocks: BTreeMap<NodeId, i64>,
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
    /// Whether its state was this one's when both were last compared.
    pub state_agrees: Option<bool>,
}

/// One step towards what the table says. A dead member goes before a new one votes, since each voter
/// more is one more that must be up; and a new one votes before one that is up goes, since whoever
/// stays must be enough to commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Learn(u64),
    Leave(u64),
    /// Hand the lead over: this master is to leave.
    HandOver(u64),
    Vote(u64),
    /// It has left; the table may forget it.
    Forget(u64),
}

impl<W: World> Member<W> {
    /// Knows the peers of the state's table.
    pub(super) fn follow_masters(&mut self) {
        let masters = self.applier.state.masters.values();
        let masters = masters.map(|master| (master.id, master.url.clone()));
        self.world.set_peers(masters.collect());
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
            Step::Forget(id) => return self.forget(NodeId(id)),
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
        let state = &self.applier.state;
        // A cluster without a table is one that tests open without addresses.
        if state.masters.is_empty() {
            return None;
        }
        let members = self.raw.store().members();
        let is_member = |id: u64| members.voters.contains(&id) || members.learners.contains(&id);
        let unknown = state.staying_masters().find(|it| !is_member(it.id.0));
        if let Some(unknown) = unknown {
            return Some(Step::Learn(unknown.id.0));
        }
        let own = self.raw.raft.id;
        let all = members.voters.iter().chain(&members.learners).copied();
        let gone: Vec<u64> = all.filter(|id| !self.is_listed(*id)).collect();
        let may_leave = |id: &&u64| **id != own && self.may_leave(**id);
        let mut leaving = gone.iter().filter(may_leave);
        if let Some(dead) = leaving.clone().find(|id| !self.is_active(**id)) {
            return Some(Step::Leave(*dead));
        }
        let mut learners = members.learners.iter().filter(|id| self.is_listed(**id));
        if let Some(learner) = learners.find(|id| self.has_caught_up(**id)) {
            return Some(Step::Vote(*learner));
        }
        if let Some(other) = leaving.next() {
            return Some(Step::Leave(*other));
        }
        if gone.contains(&own) {
            return self.heir().map(Step::HandOver);
        }
        let mut leaving = state.masters.values().filter(|master| master.is_leaving);
        let left = leaving.find(|master| !is_member(master.id.0));
        left.map(|master| Step::Forget(master.id.0))
    }

    /// Whether those who stay when this member leaves can still commit: one that is up does not go
    /// while one that is down would be needed in its place.
    fn may_leave(&self, id: u64) -> bool {
        let voters = &self.raw.store().members().voters;
        if !voters.contains(&id) {
            return true;
        }
        let rest: Vec<u64> = voters.iter().copied().filter(|it| *it != id).collect();
        let active = rest.iter().filter(|id| self.is_active(**id)).count();
        2 * active > rest.len()
    }

    /// Whether a member was heard of lately.
    pub(super) fn is_active(&self, id: u64) -> bool {
        let raft = &self.raw.raft;
        id == raft.id || raft.prs().get(id).is_some_and(|it| it.recent_active)
    }

    /// Takes a master that has left out of the table, unless that is under way.
    fn forget(&mut self, master: NodeId) {
        if self.forgetting > self.applier.applied {
            return;
        }
        let request = Request::new(Principal::Leader, Command::ForgetMaster { master });
        if let Ok(index) = self.propose(request) {
            self.forgetting = index;
        }
    }

    /// Whether the table has a node among those that are to be members.
    fn is_listed(&self, id: u64) -> bool {
        let master = self.applier.state.master(NodeId(id));
        master.is_some_and(|master| !master.is_leaving)
    }

    /// Whether a learner has answered and is close. Raft takes one that it has only just heard of for
    /// active, and in a young log everyone is close.
    fn has_caught_up(&self, id: u64) -> bool {
        let raft = &self.raw.raft;
        let committed = raft.raft_log.committed;
        raft.prs().get(id).is_some_and(|progress| {
            let has_answered = progress.recent_active && progress.matched > 0;
            has_answered && progress.matched + CAUGHT_UP >= committed
        })
    }

    /// The voter that is furthest, of those that stay and are there.
    fn heir(&self) -> Option<u64> {
        let raft = &self.raw.raft;
        let voters = self.raw.store().members().voters.iter().copied();
        voters
            .filter(|id| *id != raft.id && self.is_listed(*id))
            .filter_map(|id| Some((raft.prs().get(id)?, id)))
            .filter(|(progress, _)| progress.recent_active)
            .map(|(progress, id)| (progress.matched, id))
            .max()
            .map(|(_, id)| id)
    }

    /// A peer that was as far as `index`, or further, has turned this master away. If this master
    /// was a member there already, it has left the group since; and for good, for ids are not used
    /// again.
    pub(super) fn on_disowned(&mut self, index: u64) {
        self.is_disowned |= self.member_since.is_some_and(|since| since <= index);
    }

    /// Whether this master was removed and is of no more use to the others: it and the table say
    /// so, or a peer has said it. Until then its vote may be needed for its own removal.
    pub(super) fn has_left(&self) -> bool {
        let id = self.raw.raft.id;
        let has_table = !self.applier.state.masters.is_empty();
        let is_member = self.members.load().contains(&NodeId(id));
        let is_out = has_table && !self.is_listed(id) && !is_member;
        self.member_since.is_some() && (is_out || self.is_disowned)
    }

    /// Asks again for what raft would wait for without end: it never repeats the offer of an image,
    /// which may have been lost on the way, or come while another was fetched.
    pub(super) fn offer_images_again(&mut self) {
        let waiting = self.raw.raft.prs().iter();
        let waiting = waiting.filter(|(_, progress)| progress.state == ProgressState::Snapshot);
        let waiting: Vec<_> = waiting.map(|(id, _)| *id).collect();
        for id in waiting {
            self.raw.report_snapshot(id, SnapshotStatus::Failure);
        }
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

    /// How the group is doing, as this member knows it.
    pub fn members(&self) -> Members {
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
                    state_agrees: self.state_agrees(*id),
                })
                .collect(),
            // Of others it knows nothing.
            _ => vec![MemberProgress {
                id: NodeId(raft.id),
                matched: self.applier.applied,
                active: true,
                state_agrees: None,
            }],
        };
        Members {
            voters: ids(&members.voters),
            learners: ids(&members.learners),
            applied: self.applier.applied,
            progress,
            clocks: self
                .agreement
                .clocks(NodeId(raft.id), &members.voters, self.ticks),
        }
    }
}
