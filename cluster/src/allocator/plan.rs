//! Where all of a gang goes: a plan on copies of what agents have free.
//!
//! A plan is whole or there is none. It keeps to the quota of its role: what is
//! reserved for the role is charged already, so only what a plan takes beyond that
//! counts as new.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use tepui_types::gang::Gang;
use tepui_types::resources::ResourceRequest;
use tepui_types::{AgentId, Resources};

use super::Allocator;
use super::demands::Shape;
use super::gangs::Waiting;
use super::members::MemberId;
use super::role_tree::{NodeIndex, RoleTree};
use crate::charge::Charge;
use crate::state::State;

/// Which agents a gang takes what of.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub spots: BTreeMap<AgentId, Spot>,
    /// What its role would be charged with.
    charge: Charge,
}

/// What a gang takes of an agent.
#[derive(Debug)]
pub(super) struct Spot {
    /// All that its role may have there.
    usable: Resources,
    /// The sum of what is left of it, and of what is taken.
    left: Resources,
    taken: Resources,
    charge: Charge,
    pub parts: Vec<(u32, u32)>,
}

/// What bounds a role whose gang is placed.
pub(super) struct Quota<'a> {
    pub roles: &'a RoleTree,
    pub node: NodeIndex,
    /// What is free in the cluster.
    pub free: &'a ResourceRequest,
}

impl Quota<'_> {
    /// Whether nothing that asks for so much may start, wherever it goes.
    pub fn keeps_out(&self, total: &ResourceRequest) -> bool {
        !self.roles.owns(self.node) && self.roles.blocks(self.node, self.free, total)
    }

    fn allows(&self, charge: &Charge) -> bool {
        self.roles.allows(self.node, self.free, charge)
    }
}

impl Plan {
    /// Whether an agent is in it.
    pub fn has(&self, agent: AgentId) -> bool {
        self.spots.contains_key(&agent)
    }

    /// Takes as many tasks of a part as fit on an agent that is in it, of those that are missing.
    fn take(
        &mut self,
        agent: AgentId,
        (part, request): (usize, &ResourceRequest),
        missing: &mut u32,
        quota: Option<&Quota<'_>>,
    ) {
        let Some(spot) = self.spots.get_mut(&agent) else {
            return;
        };
        let (fitting, _) = spot.left.pick_many(request, *missing);
        let Some(quota) = quota else {
            spot.take(part, request, fitting);
            *missing -= fitting;
            return;
        };
        self.charge.sub(&spot.charge);
        let charge_of = |count| {
            let (_, left) = spot.left.pick_many(request, count);
            let taken = spot.taken_with(&left);
            let mut charge = Charge::of(&spot.grant(&taken));
            charge.add(&self.charge);
            charge
        };
        // With more tasks the charge is no less.
        let (mut most, mut too_many) = (0, fitting + 1);
        while too_many - most > 1 {
            let middle = most + (too_many - most) / 2;
            match quota.allows(&charge_of(middle)) {
                true => most = middle,
                false => too_many = middle,
            }
        }
        spot.take(part, request, most);
        spot.charge = Charge::of(&spot.granted());
        self.charge.add(&spot.charge);
        *missing -= most;
    }
}

impl Spot {
    fn new(usable: Resources) -> Self {
        Self {
            left: usable.flat(false).into_owned(),
            usable,
            taken: Resources::default(),
            charge: Charge::default(),
            parts: Vec::new(),
        }
    }

    /// What is taken, by where it is taken from.
    pub fn granted(&self) -> Resources {
        self.grant(&self.taken)
    }

    fn grant(&self, taken: &Resources) -> Resources {
        // It was picked out of the sum of what it is taken from.
        let granted = self.usable.grant(taken);
        granted.unwrap_or_else(|_| taken.clone())
    }

    /// What is taken when so much is left.
    fn taken_with(&self, left: &Resources) -> Resources {
        let more = self.left.saturating_sub(left);
        // Both are parts of one agent's resources.
        self.taken.checked_add(&more).unwrap_or(more)
    }

    fn take(&mut self, part: usize, request: &ResourceRequest, count: u32) {
        if count > 0 {
            let (_, left) = self.left.pick_many(request, count);
            self.taken = self.taken_with(&left);
            self.left = left;
            // A gang has few parts.
            self.parts.push((part as u32, count));
        }
    }
}

/// The places of a gang's parts in the order in which they are placed.
pub(super) fn largest_part_first(gang: &Gang) -> Vec<usize> {
    let mut order: Vec<usize> = (0..gang.parts.len()).collect();
    order.sort_by_key(|part| {
        let request = &gang.parts[*part].request;
        Reverse((
            request.gpus_milli,
            request.cpus,
            request.mem,
            Reverse(*part),
        ))
    });
    order
}

impl Allocator {
    /// Where a gang goes for which room was taken back: there, if all of that is free by now.
    pub(super) fn plan_on_claims(
        &self,
        state: &State,
        member: MemberId,
        waiting: &Waiting,
        quota: Option<&Quota<'_>>,
    ) -> Option<Plan> {
        let shares = self.claims.iter().flat_map(|(agent, claims)| {
            let gangs = claims.iter().filter_map(|claim| claim.gang.as_ref());
            let its = gangs.filter(|gang| {
                gang.framework == member.framework && *gang.share.key == *waiting.key
            });
            its.map(|gang| (*agent, &gang.share.parts))
        });
        let shares: Vec<_> = shares.collect();
        let gang = &waiting.gang;
        if !gang.has_all(shares.iter().flat_map(|(_, parts)| *parts)) {
            return None;
        }
        let mut plan = Plan::default();
        for (agent, parts) in shares {
            for (part, count) in parts {
                let (part, mut missing) = (*part as usize, *count);
                let shape = waiting.shapes.get(part)?;
                if !plan.has(agent) {
                    let usable = self.free_for(state, member, waiting, agent, shape)?;
                    plan.spots.insert(agent, Spot::new(usable));
                }
                plan.take(agent, (part, &shape.request), &mut missing, quota);
                if missing > 0 {
                    return None;
                }
            }
        }
        Some(plan)
    }

    /// Places a gang's parts, the largest first, on agents that were begun and on
    /// those that `next` has for a shape: any, or of those alone of which something is reserved
    /// for its role.
    pub(super) fn fill(
        &self,
        waiting: &Waiting,
        quota: Option<&Quota<'_>>,
        next: impl Fn(&Shape, &Plan, bool) -> Option<(AgentId, Resources)>,
    ) -> Option<Plan> {
        let mut plan = Plan::default();
        for part in largest_part_first(&waiting.gang) {
            let shape = waiting.shapes.get(part)?;
            let mut missing = waiting.gang.parts[part].count;
            let what = (part, &shape.request);
            let begun: Vec<AgentId> = plan.spots.keys().copied().collect();
            for agent in begun {
                let (info, _) = self.agents.known(agent)?;
                if missing > 0 && shape.constraints.hold_of(info) && !shape.spares(info) {
                    plan.take(agent, what, &mut missing, quota);
                }
            }
            while missing > 0 {
                let is_full = quota.is_some_and(|quota| {
                    let mut more = plan.charge.clone();
                    more.open.add(&shape.request);
                    !quota.allows(&more)
                });
                let (agent, usable) = next(shape, &plan, is_full)?;
                plan.spots.insert(agent, Spot::new(usable));
                plan.take(agent, what, &mut missing, quota);
            }
        }
        plan.spots.retain(|_, spot| !spot.parts.is_empty());
        Some(plan)
    }
}
