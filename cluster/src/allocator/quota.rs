//! What a role may have more: limits on its path, and what is laid away for others.
//!
//! A node's *need* is what must be laid away for it: the rest of its own
//! guarantee, or the needs of its children together where these are more. The
//! root's need is laid away in the whole cluster, whether its roles are idle or
//! not. Each node keeps its need and the sum of its children's, so a charge
//! changes one path.

use std::fmt;

use tepui_types::resources::{MILLI, ResourceLimit, ResourceRequest};
use tepui_types::{Bytes, MilliCpus, Resources, Role};

use super::role_tree::{Node, NodeIndex, ROOT, RoleTree};
use crate::charge::Charge;

/// What keeps a role from more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Bound {
    /// The limit of a role: its most of a resource.
    Limit(Role, String, u64),
    /// The guarantees of others of a resource.
    Guarantees(String),
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit(role, name, most) => {
                let most = ResourceRequest::show_amount(name, *most);
                write!(f, "the limit of {most} {name} of role `{role}` is reached")
            }
            Self::Guarantees(name) => {
                write!(f, "what is free of {name} is guaranteed to other roles")
            }
        }
    }
}

impl RoleTree {
    /// Whether anything keeps a role from anything.
    pub fn is_bounded(&self, node: NodeIndex) -> bool {
        !self.nodes[ROOT].need.is_empty() || self.path(node).any(|node| !node.limit.is_empty())
    }

    /// Whether nothing has to be laid away for anybody.
    pub fn owes_nothing(&self) -> bool {
        self.nodes[ROOT].need.is_empty()
    }

    /// Whether a limit on its path keeps a role from a request.
    pub fn limits(&self, node: NodeIndex, request: &ResourceRequest) -> bool {
        self.path(node).any(|node| {
            let mut limits = node.limit.entries();
            limits.any(|(name, most)| {
                let wanted = request.amount(name);
                wanted > 0 && node.charged.amount(name).saturating_add(wanted) > most
            })
        })
    }

    /// Whether a role may be charged with so much more while `free` is free in the cluster.
    pub fn allows(&self, node: NodeIndex, free: &ResourceRequest, charge: &Charge) -> bool {
        let is_limited = |node: &Node| {
            let charge = node.role().map(|role| charge.at(role)).unwrap_or_default();
            let mut limits = node.limit.entries();
            limits.any(|(name, most)| {
                let wanted = charge.amount(name);
                wanted > 0 && node.charged.amount(name).saturating_add(wanted) > most
            })
        };
        !self.blocks(node, free, &charge.open) && !self.path(node).any(is_limited)
    }

    /// As much of `amounts` as a role may have more, while `free` is free in the cluster.
    pub fn room(
        &self,
        node: NodeIndex,
        free: &ResourceRequest,
        amounts: &ResourceRequest,
    ) -> ResourceRequest {
        let [cpus, mem, disk, ports, gpus] = self.five_left(node, free);
        let custom = amounts.custom.iter().map(|(name, amount)| {
            let (most, _) = self.most(node, free, name);
            (name.clone(), (*amount).min(most))
        });
        ResourceRequest {
            cpus: amounts.cpus.min(MilliCpus(cpus)),
            mem: amounts.mem.min(Bytes(mem)),
            disk: amounts.disk.min(Bytes(disk)),
            ports: amounts.ports.min(ports),
            gpus_milli: amounts.gpus_milli.min(gpus),
            custom: custom.filter(|(_, amount)| *amount > 0).collect(),
        }
    }

    /// As much of `amounts` as the limits let a role have more that is about to have `given`. Of
    /// what a role above owns, its limit and those further up say nothing: it is charged already.
    pub fn limit_room(
        &self,
        node: NodeIndex,
        owner: Option<&Role>,
        amounts: &ResourceRequest,
        given: &Charge,
    ) -> ResourceRequest {
        let mut room = amounts.clone();
        let below = |node: &&Node| owner.is_none() || node.role() != owner;
        for node in self.path(node).take_while(below) {
            if node.limit.is_empty() {
                continue;
            }
            let given = node.role().map(|role| given.at(role)).unwrap_or_default();
            for (name, most) in node.limit.entries() {
                let left = most.saturating_sub(node.charged.amount(name));
                room.lower(name, left.saturating_sub(given.amount(name)));
            }
        }
        room
    }

    /// Whether a quota keeps a role from a request on whatever agent.
    pub fn blocks(
        &self,
        node: NodeIndex,
        free: &ResourceRequest,
        request: &ResourceRequest,
    ) -> bool {
        let left = self.five_left(node, free);
        let mut wanted = five(request).into_iter().zip(left);
        wanted.any(|(wanted, left)| wanted > left)
            || request
                .custom
                .iter()
                .any(|(name, amount)| *amount > self.most(node, free, name).0)
    }

    /// How much of what has no name of its own a role may have more: what
    /// [`Self::most`] says of each.
    fn five_left(&self, node: NodeIndex, free: &ResourceRequest) -> [u64; 5] {
        let (mut left, mut own) = ([u64::MAX; 5], [0_u64; 5]);
        for node in self.path(node) {
            let charged = five(&node.charged);
            if !node.limit.is_empty() {
                let room = node.ceiling.iter().zip(charged);
                for (left, (ceiling, charged)) in left.iter_mut().zip(room) {
                    *left = (*left).min(ceiling.saturating_sub(charged));
                }
            }
            if !node.guarantee.is_empty() {
                let rest = five(&node.guarantee).into_iter().zip(charged);
                let rest = rest.zip(five(&node.children_need));
                for (own, ((promised, charged), below)) in own.iter_mut().zip(rest) {
                    let rest = promised.saturating_sub(charged).saturating_sub(below);
                    *own = own.saturating_add(rest);
                }
            }
        }
        let needs = five(&self.nodes[ROOT].need).into_iter().zip(five(free));
        for ((left, own), (need, free)) in left.iter_mut().zip(own).zip(needs) {
            if need > 0 {
                *left = (*left).min(free.saturating_sub(need).saturating_add(own));
            }
        }
        left
    }

    /// What keeps a role from a request, if anything does.
    pub fn bound(
        &self,
        node: NodeIndex,
        free: &ResourceRequest,
        request: &ResourceRequest,
    ) -> Option<Bound> {
        let mut entries = request.entries();
        entries.find_map(|(name, amount)| {
            let (most, bound) = self.most(node, free, name);
            let (role, limit) = bound.filter(|_| most < amount)?;
            Some(match role {
                Some(role) => Bound::Limit(role, name.to_owned(), limit),
                None => Bound::Guarantees(name.to_owned()),
            })
        })
    }

    /// How much of one resource a role may have more, and what bounds it: the
    /// limit of a role, or the guarantees of others.
    fn most(
        &self,
        node: NodeIndex,
        free: &ResourceRequest,
        name: &str,
    ) -> (u64, Option<(Option<Role>, u64)>) {
        let mut most = u64::MAX;
        let mut bound = None;
        let mut own = 0_u64;
        for node in self.path(node) {
            if let Some(limit) = node.limit.of(name) {
                let left = limit.saturating_sub(node.charged.amount(name));
                if left < most {
                    most = left;
                    bound = self.role_of(node).map(|role| (Some(role), limit));
                }
            }
            own = own.saturating_add(node.deficit(name));
        }
        let need = self.nodes[ROOT].need.amount(name);
        if need > 0 {
            let left = free.amount(name).saturating_sub(need).saturating_add(own);
            if left < most {
                most = left;
                bound = Some((None, 0));
            }
        }
        (most, bound)
    }

    /// Finds the needs on a node's path anew.
    pub(super) fn update_need(&mut self, node: NodeIndex) {
        let mut above = Some(node);
        while let Some(index) = above {
            let node = &self.nodes[index];
            if node.guarantee.is_empty() && node.children_need.is_empty() && node.need.is_empty() {
                above = node.parent;
                continue;
            }
            let rest = node.guarantee.saturating_sub(&node.charged);
            let need = rest.or_more(&node.children_need);
            if need == node.need {
                // One further up may have been charged beyond what is laid away for this one.
                above = node.parent;
                continue;
            }
            let before = std::mem::replace(&mut self.nodes[index].need, need.clone());
            above = self.nodes[index].parent;
            if let Some(parent) = above {
                let sum = &mut self.nodes[parent].children_need;
                sum.add(&need);
                *sum = sum.saturating_sub(&before);
            }
        }
    }
}

impl Node {
    /// What of its own guarantee is not laid away through its children.
    fn deficit(&self, name: &str) -> u64 {
        let rest = self.guarantee.amount(name);
        let rest = rest.saturating_sub(self.charged.amount(name));
        rest.saturating_sub(self.children_need.amount(name))
    }
}

/// What has no name of its own, in one order.
pub(super) fn five(amounts: &ResourceRequest) -> [u64; 5] {
    [
        amounts.cpus.0,
        amounts.mem.0,
        amounts.disk.0,
        amounts.ports,
        amounts.gpus_milli,
    ]
}

/// The same of a limit; the greatest number where there is none.
pub(super) fn ceiling(limit: &ResourceLimit) -> [u64; 5] {
    ["cpus", "mem", "disk", "ports", "gpus"].map(|name| limit.of(name).unwrap_or(u64::MAX))
}

/// What is plain of these resources, cut to at most such amounts. What is left of a device is
/// given whole or not at all.
pub(super) fn cut(resources: &Resources, room: &ResourceRequest) -> Resources {
    let mut gpus_left = room.gpus_milli;
    let mut fits = |milli: u64| {
        let fits = milli <= gpus_left;
        gpus_left -= if fits { milli } else { 0 };
        fits
    };
    let devices = resources.gpus.iter().filter(|(_, milli)| fits(**milli));
    let gpus = devices
        .map(|(name, milli)| (name.clone(), *milli))
        .collect();
    let custom = resources.custom.iter().map(|(name, amount)| {
        let most = room.custom.get(name).copied().unwrap_or(0);
        (name.clone(), (*amount).min(most))
    });
    let items = resources.items.iter().filter_map(|(name, items)| {
        let most = room
            .custom
            .get(name)
            .copied()
            .unwrap_or(0)
            .min(items.milli());
        let lowest = items.lowest(most - most % MILLI)?;
        (!lowest.is_empty()).then(|| (name.clone(), lowest))
    });
    let ports = resources.ports.size().min(room.ports);
    Resources {
        cpus: resources.cpus.min(room.cpus),
        mem: resources.mem.min(room.mem),
        disk: resources.disk.min(room.disk),
        ports: resources.ports.lowest(ports).unwrap_or_default(),
        gpus,
        custom: custom.filter(|(_, amount)| *amount > 0).collect(),
        items: items.collect(),
        ..Resources::default()
    }
}
