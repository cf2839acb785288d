//! Plans what a role below its guarantee takes back.
//!
//! Looked at after cycles, not in them, and only while somebody is hungry whose
//! guarantee is not met: on each agent victims are chosen in order until the
//! request fits, and the agent where it costs least is taken; for a gang one
//! agent after another (`gang.rs`). What is planned is a wish: `apply` checks it
//! again, and only there anything ends. The amount of work is bounded, so in a
//! large cluster not every agent is looked at.

use std::collections::BTreeMap;
use std::sync::Arc;

use tepui_types::resources::ResourceRequest;
use tepui_types::{AgentId, Resources, Role};

use super::Allocator;
use super::demands::Shape;
use super::members::MemberId;
use super::quota::cut;
use crate::feasibility;
use crate::state::State;
use crate::state::claims::{Taker, claimed_from};
use crate::state::frameworks::Framework;
use crate::state::preemption::{Place, Preemption};
use crate::state::tasks::Task;

use gang::OwedGang;
use room::{Cost, Room, Taking};

mod gang;
mod room;

/// Members that one plan looks at, to see what they are owed.
const MEMBERS: usize = 64;
/// Searches for victims, and tasks that each looks at: some milliseconds' worth.
const SEARCHES: usize = 4;
const TASKS: usize = 1_024;
/// Shapes of one member, and gangs.
const SHAPES: usize = 8;

/// What is wanted and guaranteed.
enum Owed<'a> {
    One(OwedOne<'a>),
    Gang(OwedGang<'a>),
}

/// One task of a shape.
struct OwedOne<'a> {
    member: MemberId,
    role: &'a Role,
    /// To whom.
    guaranteed: Role,
    shape: &'a Shape,
}

impl Allocator {
    /// What should be taken back first, if anything should and may.
    pub fn plan_preemption(&self, state: &State) -> Option<Preemption> {
        if self.is_new || !self.may_preempt || self.roles.owes_nothing() {
            return None;
        }
        let left = state.preemptions_left(state.now) as usize;
        let mut owed = Vec::new();
        let mut looks = if left > 0 { MEMBERS } else { 0 };
        self.roles.ask(|member| {
            self.owed_to(state, member, &mut owed);
            looks = looks.saturating_sub(1);
            (looks == 0).then_some(())
        });
        // Those that are first, and some others, so that who cannot be served keeps nobody
        // waiting for ever.
        let turn = usize::try_from(state.index).unwrap_or(0);
        let others = (0..owed.len()).map(|place| (turn + place) % owed.len());
        let order = (0..owed.len().min(SEARCHES / 2)).chain(others);
        let mut searched = order.take(SEARCHES).map(|place| &owed[place]);
        searched.find_map(|owed| match owed {
            Owed::One(owed) => self.plan_for_one(state, owed, left),
            Owed::Gang(owed) => self.plan_for_gang(state, owed, left),
        })
    }

    /// What a member wants that is guaranteed to it: gangs, and one of each shape.
    fn owed_to<'a>(&'a self, state: &State, member: MemberId, owed: &mut Vec<Owed<'a>>) {
        let (Some(known), Some(node)) = (self.members.get(&member), self.roles.node_of(member))
        else {
            return;
        };
        let role = &known.role;
        let guarantor = |request: &ResourceRequest| {
            let had = |role: &Role| self.roles.charged(role);
            let guaranteed = state.guarantor(role, request, had);
            guaranteed.filter(|_| !self.roles.limits(node, request))
        };
        let gangs = self.gangs.of(member).into_iter().take(SHAPES);
        // What is on its way already is not planned again.
        let gangs = gangs.filter(|waiting| !state.has_claims_for(member.framework, &waiting.key));
        owed.extend(gangs.filter_map(|waiting| {
            let guaranteed = guarantor(&waiting.gang.total())?;
            Some(Owed::Gang(OwedGang {
                member,
                role,
                guaranteed,
                waiting,
            }))
        }));
        let claims = state.claims();
        let claims = claims.filter(|claim| claim.gang.is_none() && claim.role == *role);
        if claims.count() as u64 >= known.demands.count() {
            return;
        }
        let shapes = known.demands.open().take(SHAPES);
        owed.extend(shapes.filter_map(|shape| {
            let guaranteed = guarantor(&shape.request)?;
            Some(Owed::One(OwedOne {
                member,
                role,
                guaranteed,
                shape,
            }))
        }));
    }

    fn plan_for_one(&self, state: &State, owed: &OwedOne<'_>, left: usize) -> Option<Preemption> {
        let OwedOne { role, shape, .. } = *owed;
        let taking = Taking {
            state,
            role,
            guaranteed: &owed.guaranteed,
            taken: BTreeMap::new(),
        };
        let mut best: Option<(Cost, Vec<&Arc<Task>>)> = None;
        for (agent, tasks) in self.candidates(state, &owed.guaranteed) {
            let Some(room) = self.room(&taking, agent, tasks) else {
                continue;
            };
            // Where it fits already it waits for something else.
            if !room.admits(shape)
                || self.fits_now(state, agent, shape, role)
                || self.declines(owed.member, agent, &shape.request)
            {
                continue;
            }
            let found = room.more_victims(&taking, &shape.request);
            let found = found.filter(|(_, victims)| victims.len() <= left);
            if let Some(found) = found
                && best.as_ref().is_none_or(|(least, _)| found.0 < *least)
            {
                best = Some(found);
            }
        }
        let (cost, victims) = best?;
        if !self.may_start(owed.member, victims.iter().copied(), &shape.request) {
            return None;
        }
        let place = Place {
            agent: cost.agent,
            request: shape.request.clone(),
            parts: Vec::new(),
            victims: victims.iter().map(|task| task.id.clone()).collect(),
        };
        Some(Preemption {
            role: role.clone(),
            guaranteed: owed.guaranteed.clone(),
            gang: None,
            places: vec![place],
        })
    }

    /// Tasks that may be ended, by agent; the youngest of each framework that may lose some are
    /// looked at.
    fn candidates<'a>(
        &self,
        state: &'a State,
        guaranteed: &Role,
    ) -> BTreeMap<AgentId, Vec<&'a Arc<Task>>> {
        // On an agent with claims something is ending.
        let claimed = state.claimed_agents().map(|agent| (agent, Vec::new()));
        let mut agents: BTreeMap<AgentId, Vec<&Arc<Task>>> = claimed.collect();
        let may_lose = |role: &Role| !role.is_within(guaranteed) && state.is_preemptible(role);
        let frameworks = state.frameworks.values();
        let frameworks = frameworks.filter(|framework| framework.info.roles.iter().any(may_lose));
        let frameworks: Vec<_> = frameworks.take(TASKS).collect();
        let each = TASKS / frameworks.len().max(1);
        let youngest = |framework: &'a Arc<Framework>| framework.tasks.iter().rev().take(each);
        let tasks = frameworks.into_iter().flat_map(youngest);
        for task in tasks.filter_map(|operation| state.tasks.get(operation)) {
            if state.may_take(task, guaranteed, &BTreeMap::new()) {
                agents.entry(task.agent).or_default().push(task);
            }
        }
        agents
    }

    /// An agent with tasks that may be ended, if it may be offered at all.
    fn room<'a>(
        &self,
        taking: &Taking<'a>,
        agent: AgentId,
        tasks: Vec<&'a Arc<Task>>,
    ) -> Option<Room<'a>> {
        let state = taking.state;
        let record = state.agent(agent)?;
        let is_open = feasibility::offerable_of(&state.settings.settings, record).is_ok();
        if !is_open || self.agents.is_away(agent) || record.is_overdrawn() {
            return None;
        }
        let coming = state.coming_free(record);
        let coming = coming.saturating_sub(&self.offers.held(agent));
        let coming = taking.usable(&coming);
        let mut claimed = ResourceRequest::default();
        record
            .claims
            .iter()
            .for_each(|claim| claimed.add(&claim.amounts));
        let free = without(&coming, &claimed);
        Some(Room::new(taking, (agent, &record.info), free, tasks))
    }

    /// Whether a member's quota lets it have so much when these have ended: what its role is
    /// guaranteed may be laid away for roles below.
    fn may_start<'a>(
        &self,
        member: MemberId,
        victims: impl Iterator<Item = &'a Arc<Task>>,
        total: &ResourceRequest,
    ) -> bool {
        let mut free = self.agents.free().clone();
        victims.for_each(|task| free.add(&ResourceRequest::plain(&task.resources)));
        let node = self.roles.node_of(member);
        node.is_some_and(|node| !self.roles.blocks(node, &free, total))
    }

    fn fits_now(&self, state: &State, agent: AgentId, shape: &Shape, role: &Role) -> bool {
        let free = self.free_on(state, agent);
        let free = free.usable_by(role, false).flat(false).into_owned();
        let claims = self.claims.get(&agent).map_or(&[][..], |claims| claims);
        let amounts = ResourceRequest::from(&free);
        let others = claimed_from(claims, Taker::single(role), &amounts);
        without(&free, &others).pick(&shape.request).is_ok()
    }

    /// Whether a member has declined as much of an agent: it would not be offered again soon.
    fn declines(&self, member: MemberId, agent: AgentId, request: &ResourceRequest) -> bool {
        let declined = self.filters.declined(member, agent);
        declined.is_some_and(|declined| request.fits_in(&ResourceRequest::from(declined)))
    }
}

/// These resources without such amounts.
fn without(resources: &Resources, amounts: &ResourceRequest) -> Resources {
    match amounts.is_empty() {
        true => resources.clone(),
        false => {
            let left = ResourceRequest::from(resources).saturating_sub(amounts);
            cut(resources, &left)
        }
    }
}
