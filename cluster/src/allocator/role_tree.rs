//! Roles as a tree, and who of them is next.
//!
//! Each node is charged with what its tasks have and its offers hold, and with
//! what those below it are. It keeps its *hungry* children, below which someone
//! has open demand, in the order of service: the lowest weighted dominant share
//! first, of equal ones who was served longest ago. A role's own frameworks are
//! together one child beside its child roles. Nothing here is computed over
//! all: a charge moves one framework and the nodes above it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use tepui_types::Role;
use tepui_types::resources::{ResourceLimit, ResourceRequest};
use tepui_types::role::RoleSettings;

use super::members::MemberId;
use super::quota::ceiling;
use super::shares::{Share, weighted_share};
use crate::charge::Charge;

/// Where a node stands in the table.
pub(super) type NodeIndex = usize;
/// The cluster: above all roles.
pub(super) const ROOT: NodeIndex = 0;

/// All roles that are set or used, and their frameworks.
#[derive(Debug)]
pub struct RoleTree {
    pub(super) nodes: Vec<Node>,
    /// Places in the table that are free.
    unused: Vec<NodeIndex>,
    by_role: BTreeMap<Role, NodeIndex>,
    seats: BTreeMap<MemberId, Seat>,
    total: ResourceRequest,
    served: u64,
}

/// One role.
#[derive(Debug, Default)]
pub(super) struct Node {
    name: Arc<str>,
    role: Option<Role>,
    pub(super) parent: Option<NodeIndex>,
    weight_milli: u32,
    pub(super) guarantee: ResourceRequest,
    pub(super) limit: ResourceLimit,
    pub(super) ceiling: [u64; 5],
    is_set: bool,
    /// What is reserved for it, used or not.
    owned: ResourceRequest,
    /// What it and those below it have.
    pub(super) charged: ResourceRequest,
    /// What must be laid away for it, and for its children together.
    pub(super) need: ResourceRequest,
    pub(super) children_need: ResourceRequest,
    served: u64,
    children: BTreeSet<NodeIndex>,
    hungry: BTreeSet<Rank>,
    rank: Option<Rank>,
    own: Own,
}

/// A role's own frameworks.
#[derive(Debug, Default)]
struct Own {
    charged: ResourceRequest,
    served: u64,
    members: BTreeSet<MemberId>,
    hungry: BTreeSet<SeatRank>,
    rank: Option<Rank>,
}

/// Where a member sits.
#[derive(Debug)]
struct Seat {
    node: NodeIndex,
    charged: Charge,
    /// All of that.
    total: ResourceRequest,
    served: u64,
    is_hungry: bool,
    rank: Option<SeatRank>,
}

/// The order of service among a node's children; the name only decides among
/// those that were never served.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    share: Share,
    served: u64,
    name: Arc<str>,
    child: Child,
}

/// The order of service among a role's own frameworks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct SeatRank {
    share: Share,
    served: u64,
    member: MemberId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Child {
    Own,
    Role(NodeIndex),
}

impl Node {
    /// Which it is; none is the cluster.
    pub(super) fn role(&self) -> Option<&Role> {
        self.role.as_ref()
    }
}

impl Seat {
    /// Puts who sits here into its place among the frameworks of its role.
    fn rerank(&mut self, member: MemberId, own: &mut Own, total: &ResourceRequest) {
        let rank = self.is_hungry.then(|| SeatRank {
            share: weighted_share(&self.total, total, RoleSettings::DEFAULT_WEIGHT_MILLI),
            served: self.served,
            member,
        });
        if let Some(before) = std::mem::replace(&mut self.rank, rank) {
            own.hungry.remove(&before);
        }
        own.hungry.extend(rank);
    }
}

impl RoleTree {
    /// Without roles.
    pub fn new() -> Self {
        Self {
            nodes: vec![Node::default()],
            unused: Vec::new(),
            by_role: BTreeMap::new(),
            seats: BTreeMap::new(),
            total: ResourceRequest::default(),
            served: 0,
        }
    }

    /// Gives a role its weight and quota.
    pub fn set_role(&mut self, role: &Role, settings: &RoleSettings, is_set: bool) {
        let index = self.node(role);
        let node = &mut self.nodes[index];
        node.weight_milli = settings.weight_milli;
        node.guarantee = settings.guarantee.clone();
        node.limit = settings.limit.clone();
        node.ceiling = ceiling(&settings.limit);
        node.is_set = is_set;
        self.update_need(index);
        self.rerank_path(index);
        self.prune(index);
    }

    /// Seats a framework that is new, and knows what it has.
    pub fn seat(&mut self, member: MemberId, role: &Role) {
        if self.seats.contains_key(&member) {
            return;
        }
        let node = self.node(role);
        self.nodes[node].own.members.insert(member);
        let seat = Seat {
            node,
            charged: Charge::default(),
            total: ResourceRequest::default(),
            served: 0,
            is_hungry: false,
            rank: None,
        };
        self.seats.insert(member, seat);
    }

    /// Forgets a framework, and its role when nothing else is there.
    pub fn unseat(&mut self, member: MemberId) {
        let charged = self.seats.get(&member).map(|seat| seat.charged.clone());
        let Some(charged) = charged else {
            return;
        };
        self.set_hungry(member, false);
        self.discharge(member, &charged);
        if let Some(seat) = self.seats.remove(&member) {
            self.nodes[seat.node].own.members.remove(&member);
            self.prune(seat.node);
        }
    }

    /// Whether a framework has open demand.
    pub fn set_hungry(&mut self, member: MemberId, is_hungry: bool) {
        let Some(seat) = self.seats.get_mut(&member) else {
            return;
        };
        if std::mem::replace(&mut seat.is_hungry, is_hungry) != is_hungry {
            self.rerank(member);
        }
    }

    /// Charges a framework and the roles above it.
    pub fn charge(&mut self, member: MemberId, charge: &Charge) {
        self.shift(member, charge, Charge::add, ResourceRequest::add);
    }

    /// Takes a charge back.
    pub fn discharge(&mut self, member: MemberId, charge: &Charge) {
        self.shift(member, charge, Charge::sub, |charged, amounts| {
            *charged = charged.saturating_sub(amounts)
        });
    }

    /// Charges a role that owns something, and those above it, in place of what it owned before.
    pub fn set_owned(&mut self, role: &Role, before: &ResourceRequest, after: &ResourceRequest) {
        let index = self.node(role);
        let mut above = Some(index);
        let owned = &mut self.nodes[index].owned;
        owned.add(after);
        *owned = owned.saturating_sub(before);
        while let Some(index) = above {
            let charged = &mut self.nodes[index].charged;
            charged.add(after);
            *charged = charged.saturating_sub(before);
            above = self.nodes[index].parent;
        }
        self.update_need(index);
        self.rerank_path(index);
        self.prune(index);
    }

    /// The role, and those above it, that have more than their limits.
    pub fn over_limit(&self, role: &Role) -> Vec<Role> {
        let Some(node) = self.by_role.get(role) else {
            return Vec::new();
        };
        let over = self
            .path(*node)
            .filter(|node| node.limit.passed_by(&node.charged).is_some());
        over.filter_map(|node| node.role.clone()).collect()
    }

    /// Charges a framework with what it is offered. Among equals it comes last
    /// now.
    pub fn serve(&mut self, member: MemberId, charge: &Charge, is_hungry: bool) {
        let Some(seat) = self.seats.get_mut(&member) else {
            return;
        };
        self.served += 1;
        seat.served = self.served;
        seat.is_hungry = is_hungry;
        let mut above = Some(seat.node);
        self.nodes[seat.node].own.served = self.served;
        while let Some(index) = above {
            self.nodes[index].served = self.served;
            above = self.nodes[index].parent;
        }
        self.charge(member, charge);
    }

    /// Takes the cluster's total: shares are parts of it. What is named counts in
    /// nobody's share.
    pub fn set_total(&mut self, total: &ResourceRequest, unshared: &BTreeSet<String>) {
        if unshared.is_empty() {
            if self.total == *total {
                return;
            }
            self.total = total.clone();
        } else {
            // Of what there is nothing, nobody has a part.
            let mut shared = total.clone();
            unshared.iter().for_each(|name| shared.clear(name));
            if self.total == shared {
                return;
            }
            self.total = shared;
        }
        self.sort(ROOT);
    }

    /// Whether anything is reserved for a role or one above it, used or not.
    pub(super) fn owns(&self, node: NodeIndex) -> bool {
        self.path(node).any(|node| !node.owned.is_empty())
    }

    /// The node of a framework's role.
    pub(super) fn node_of(&self, member: MemberId) -> Option<NodeIndex> {
        self.seats.get(&member).map(|seat| seat.node)
    }

    /// What tasks and offers of a role and those below it have.
    pub(super) fn charged(&self, role: &Role) -> ResourceRequest {
        let node = self.by_role.get(role).map(|index| &self.nodes[*index]);
        node.map_or_else(ResourceRequest::default, |node| node.charged.clone())
    }

    /// The node and those above it, upwards.
    pub(super) fn path(&self, node: NodeIndex) -> impl Iterator<Item = &Node> {
        std::iter::successors(Some(&self.nodes[node]), |node| {
            node.parent.map(|parent| &self.nodes[parent])
        })
    }

    /// The role of a node; none of the cluster's own.
    pub(super) fn role_of(&self, node: &Node) -> Option<Role> {
        node.role.clone()
    }

    /// The role of a node below the cluster's own.
    pub(super) fn role_at(&self, node: NodeIndex) -> Role {
        self.nodes[node].role.clone().unwrap_or_default()
    }

    /// Asks the hungry members one after another, in the order of service,
    /// until one answers.
    pub fn ask<T>(&self, mut ask: impl FnMut(MemberId) -> Option<T>) -> Option<T> {
        match self.ask_below(ROOT, &mut ask) {
            ControlFlow::Break(answer) => Some(answer),
            ControlFlow::Continue(()) => None,
        }
    }

    fn ask_below<T>(
        &self,
        node: NodeIndex,
        ask: &mut impl FnMut(MemberId) -> Option<T>,
    ) -> ControlFlow<T> {
        for rank in &self.nodes[node].hungry {
            match rank.child {
                Child::Role(child) => self.ask_below(child, ask)?,
                Child::Own => {
                    for rank in &self.nodes[node].own.hungry {
                        if let Some(answer) = ask(rank.member) {
                            return ControlFlow::Break(answer);
                        }
                    }
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn shift(
        &mut self,
        member: MemberId,
        charge: &Charge,
        change_charge: impl Fn(&mut Charge, &Charge),
        change: impl Fn(&mut ResourceRequest, &ResourceRequest),
    ) {
        let Some(seat) = self.seats.get_mut(&member) else {
            return;
        };
        change_charge(&mut seat.charged, charge);
        let node = seat.node;
        let parts = charge
            .reserved
            .iter()
            .map(|(owner, part)| (Some(owner), part));
        for (owner, part) in std::iter::once((None, &charge.open)).chain(parts) {
            change(&mut seat.total, part);
            change(&mut self.nodes[node].own.charged, part);
            let mut above = Some(node);
            // The owner, and those above it, are charged with it already.
            while let Some(index) = above
                && (owner.is_none() || self.nodes[index].role.as_ref() != owner)
            {
                change(&mut self.nodes[index].charged, part);
                above = self.nodes[index].parent;
            }
        }
        seat.rerank(member, &mut self.nodes[node].own, &self.total);
        self.update_need(node);
        self.rerank_path(node);
    }

    /// The node of a role, made together with those above it if need be.
    fn node(&mut self, role: &Role) -> NodeIndex {
        if let Some(index) = self.by_role.get(role) {
            return *index;
        }
        let parent = match role.parent() {
            Some(parent) => self.node(&parent),
            None => ROOT,
        };
        let node = Node {
            name: role.as_str().into(),
            role: Some(role.clone()),
            parent: Some(parent),
            weight_milli: RoleSettings::DEFAULT_WEIGHT_MILLI,
            ..Node::default()
        };
        let index = match self.unused.pop() {
            Some(index) => {
                self.nodes[index] = node;
                index
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        };
        self.nodes[parent].children.insert(index);
        self.by_role.insert(role.clone(), index);
        index
    }

    /// Forgets a node that nobody needs, and those above it that nobody needs then.
    fn prune(&mut self, mut index: NodeIndex) {
        while let Some(parent) = self.nodes[index].parent {
            let node = &self.nodes[index];
            let is_needed = node.is_set
                || !node.children.is_empty()
                || !node.own.members.is_empty()
                || !node.owned.is_empty();
            if is_needed {
                return;
            }
            let node = std::mem::take(&mut self.nodes[index]);
            if let Some(role) = &node.role {
                self.by_role.remove(role);
            }
            self.nodes[parent].children.remove(&index);
            self.unused.push(index);
            index = parent;
        }
    }

    fn rerank(&mut self, member: MemberId) {
        let Some(seat) = self.seats.get_mut(&member) else {
            return;
        };
        let node = seat.node;
        seat.rerank(member, &mut self.nodes[node].own, &self.total);
        self.rerank_path(node);
    }

    /// Puts a node's own frameworks, it, and those above it, into their places.
    fn rerank_path(&mut self, index: NodeIndex) {
        let rank = self.own_rank(index);
        let node = &mut self.nodes[index];
        if node.own.rank != rank {
            if let Some(before) = std::mem::replace(&mut node.own.rank, rank.clone()) {
                node.hungry.remove(&before);
            }
            node.hungry.extend(rank);
        }
        let mut child = index;
        while let Some(parent) = self.nodes[child].parent {
            let rank = self.node_rank(child);
            if self.nodes[child].rank != rank {
                let before = std::mem::replace(&mut self.nodes[child].rank, rank.clone());
                let hungry = &mut self.nodes[parent].hungry;
                if let Some(before) = before {
                    hungry.remove(&before);
                }
                hungry.extend(rank);
            }
            child = parent;
        }
    }

    fn own_rank(&self, index: NodeIndex) -> Option<Rank> {
        let own = &self.nodes[index].own;
        (!own.hungry.is_empty()).then(|| Rank {
            share: weighted_share(
                &own.charged,
                &self.total,
                RoleSettings::DEFAULT_WEIGHT_MILLI,
            ),
            served: own.served,
            name: Arc::default(),
            child: Child::Own,
        })
    }

    fn node_rank(&self, index: NodeIndex) -> Option<Rank> {
        let node = &self.nodes[index];
        (!node.hungry.is_empty()).then(|| Rank {
            share: weighted_share(&node.charged, &self.total, node.weight_milli),
            served: node.served,
            name: node.name.clone(),
            child: Child::Role(index),
        })
    }

    /// Sorts everything below a node anew.
    fn sort(&mut self, index: NodeIndex) {
        let mut hungry = BTreeSet::new();
        for member in &self.nodes[index].own.members {
            let Some(seat) = self.seats.get_mut(member) else {
                continue;
            };
            if let Some(rank) = &mut seat.rank {
                let weight = RoleSettings::DEFAULT_WEIGHT_MILLI;
                rank.share = weighted_share(&seat.total, &self.total, weight);
                hungry.insert(*rank);
            }
        }
        self.nodes[index].own.hungry = hungry;
        self.nodes[index].own.rank = self.own_rank(index);
        let mut hungry: BTreeSet<Rank> = self.nodes[index].own.rank.clone().into_iter().collect();
        let children: Vec<_> = self.nodes[index].children.iter().copied().collect();
        for child in children {
            self.sort(child);
            self.nodes[child].rank = self.node_rank(child);
            hungry.extend(self.nodes[child].rank.clone());
        }
        self.nodes[index].hungry = hungry;
    }
}
