//! What a role may have more: limits on its path, and what is laid away for others.
//!
//! A node's *need* is what must be laid away for it: the rest of its own
//! guarantee, or the needs of its children together where these are more. The
//! root's need is laid away in the whole cluster, whether its roles are idle or
//! not. Each node keeps its need and the sum of its children's, so a charge
//! changes one path.

use std::fmt;

use tepui_types::resources::ResourceRequest;
use tepui_types::{Resources, Role};

use super::role_tree::{Node, NodeIndex, ROOT, RoleTree};

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

    /// As much of `amounts` as a role may have more, while `free` is free in the cluster.
    pub fn room(
        &self,
        node: NodeIndex,
        free: &ResourceRequest,
        amounts: &ResourceRequest,
    ) -> ResourceRequest {
        let mut room = amounts.clone();
        for (name, amount) in amounts.entries() {
            let (most, _) = self.most(node, free, name);
            if most < amount {
                set(&mut room, name, most);
            }
        }
        room
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

    /// How much of one resource a role may have more, and what bounds it.
    /// The limit of a role, or the guarantees of others.
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

fn set(amounts: &mut ResourceRequest, name: &str, amount: u64) {
    match name {
        "cpus" => amounts.cpus.0 = amount,
        "mem" => amounts.mem.0 = amount,
        "disk" => amounts.disk.0 = amount,
        "ports" => amounts.ports = u32::try_from(amount).unwrap_or(u32::MAX),
        "gpus" => amounts.gpus_milli = amount,
        name if amount == 0 => _ = amounts.custom.remove(name),
        name => _ = amounts.custom.insert(name.to_owned(), amount),
    }
}

/// These resources, cut to at most such amounts. What is left of a device is
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
    let ports = resources.ports.count().min(room.ports);
    Resources {
        cpus: resources.cpus.min(room.cpus),
        mem: resources.mem.min(room.mem),
        disk: resources.disk.min(room.disk),
        ports: resources.ports.lowest(ports).unwrap_or_default(),
        gpus,
        custom: custom.filter(|(_, amount)| *amount > 0).collect(),
    }
}
