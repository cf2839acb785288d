//! Plans what a role below its guarantee takes back.
//!
//! Looked at after cycles, not in them, and only while somebody is hungry whose
//! guarantee is not met: on each agent victims are chosen in order until the
//! request fits, and the agent where it costs least is taken. What is planned is
//! a wish: `apply` checks it again, and only there anything ends. The amount of
//! work is bounded, so in a large cluster not every agent is looked at.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use tepui_types::resources::ResourceRequest;
use tepui_types::{AgentId, Resources, Role, TaskId};

use super::Allocator;
use super::demands::Shape;
use super::members::MemberId;
use super::quota::cut;
use crate::feasibility;
use crate::state::State;
use crate::state::frameworks::Framework;
use crate::state::preemption::{Preemption, claimed_from, note_taken};
use crate::state::tasks::Task;

/// Members that one plan looks at, to see what they are owed.
const MEMBERS: usize = 64;
/// Searches for victims, and tasks that each looks at: some milliseconds' worth.
const SEARCHES: usize = 4;
const TASKS: usize = 1_024;
/// Shapes of one member.
const SHAPES: usize = 8;

/// What a plan costs those who lose, the least first: the highest priority that
/// is ended, how many tasks, how much of the processor.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    priority: i32,
    tasks: usize,
    cpus: u64,
    agent: AgentId,
}

/// What is wanted and guaranteed.
struct Owed<'a> {
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
            owed.extend(self.owed_to(state, member));
            looks = looks.saturating_sub(1);
            (looks == 0).then_some(())
        });
        // Those that are first, and some others, so that who cannot be served keeps nobody
        // waiting for ever.
        let turn = usize::try_from(state.index).unwrap_or(0);
        let others = (0..owed.len()).map(|place| (turn + place) % owed.len());
        let order = (0..owed.len().min(SEARCHES / 2)).chain(others);
        let mut searched = order.take(SEARCHES).map(|place| &owed[place]);
        searched.find_map(|owed| self.plan_for(state, owed, left))
    }

    /// What a member wants that is guaranteed to it, one of each shape.
    fn owed_to(&self, state: &State, member: MemberId) -> Vec<Owed<'_>> {
        let (Some(known), Some(node)) = (self.members.get(&member), self.roles.node_of(member))
        else {
            return Vec::new();
        };
        // What is on its way already.
        let claims = state.claims().filter(|claim| claim.role == known.role);
        if claims.count() as u64 >= known.demands.count() {
            return Vec::new();
        }
        let shapes = known.demands.open().take(SHAPES);
        let owed = shapes.filter_map(|shape| {
            let had = |role: &Role| self.roles.charged(role);
            let guaranteed = state.guarantor(&known.role, &shape.request, had)?;
            let is_limited = self.roles.limits(node, &shape.request);
            (!is_limited).then_some(Owed {
                role: &known.role,
                guaranteed,
                shape,
            })
        });
        owed.collect()
    }

    fn plan_for(&self, state: &State, owed: &Owed<'_>, left: usize) -> Option<Preemption> {
        let Owed {
            role,
            guaranteed,
            shape,
        } = owed;
        let mut best: Option<(Cost, Vec<TaskId>)> = None;
        for (agent, tasks) in self.candidates(state, guaranteed) {
            let found = self.victims(state, agent, tasks, shape, role, guaranteed);
            let found = found.filter(|(_, victims)| victims.len() <= left);
            if let Some(found) = found
                && best.as_ref().is_none_or(|(least, _)| found.0 < *least)
            {
                best = Some(found);
            }
        }
        let (cost, victims) = best?;
        Some(Preemption {
            role: Role::clone(role),
            guaranteed: guaranteed.clone(),
            agent: cost.agent,
            request: shape.request.clone(),
            victims,
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

    /// The victims on an agent after whose end a request fits, and what that costs.
    fn victims(
        &self,
        state: &State,
        agent: AgentId,
        mut tasks: Vec<&Arc<Task>>,
        shape: &Shape,
        role: &Role,
        guaranteed: &Role,
    ) -> Option<(Cost, Vec<TaskId>)> {
        let record = state.agent(agent)?;
        let is_open = feasibility::offerable_of(&state.settings.settings, record).is_ok();
        if !is_open
            || self.agents.is_away(agent)
            || !shape.constraints.hold_of(&record.info)
            || shape.spares(&record.info)
        {
            return None;
        }
        let usable = |resources: &Resources| {
            let usable = resources.usable_by(role, false);
            usable.flat(false).into_owned()
        };
        let free = usable(&self.free_on(state, agent));
        let others = claimed_from(&record.claims, role);
        // Where it fits already it waits for something else.
        if without(&free, &others).pick(&shape.request).is_ok() {
            return None;
        }
        let coming = state.coming_free(record);
        let coming = usable(&coming.saturating_sub(&self.offers.held(agent)));
        let mut claimed = ResourceRequest::default();
        record
            .claims
            .iter()
            .for_each(|claim| claimed.add(&claim.amounts));
        let free = without(&coming, &claimed);
        if !may_be_freed(state, &free, shape, guaranteed) {
            return None;
        }
        let priority = |task: &Task| state.spec(&task.spec).map_or(0, |spec| spec.priority);
        tasks.sort_by_key(|task| (priority(task), Reverse(task.operation)));
        let mut have = free;
        let (mut chosen, mut taken) = (Vec::new(), BTreeMap::new());
        for task in tasks {
            if have.pick(&shape.request).is_ok() {
                break;
            }
            if !state.may_take(task, guaranteed, &taken) {
                continue;
            }
            let Ok(more) = have.checked_add(&usable(&task.resources)) else {
                continue;
            };
            have = more;
            note_taken(&mut taken, task);
            chosen.push(task);
        }
        have.pick(&shape.request).ok()?;
        spare(&mut chosen, &mut have, &shape.request, usable);
        let cost = Cost {
            // What is ending already may do.
            priority: chosen
                .iter()
                .map(|task| priority(task))
                .max()
                .unwrap_or(i32::MIN),
            tasks: chosen.len(),
            cpus: chosen.iter().map(|task| task.resources.cpus.0).sum(),
            agent,
        };
        Some((cost, chosen.iter().map(|task| task.id.clone()).collect()))
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

/// Whether nothing is short on an agent but what is guaranteed.
fn may_be_freed(state: &State, free: &Resources, shape: &Shape, guaranteed: &Role) -> bool {
    let free = ResourceRequest::from(free);
    let promised = state.role_settings(guaranteed).guarantee;
    let mut wanted = shape.request.entries();
    wanted.all(|(name, amount)| promised.amount(name) > 0 || free.amount(name) >= amount)
}

/// Lets those go, the most valuable first, whose end is not needed after all.
fn spare(
    chosen: &mut Vec<&Arc<Task>>,
    have: &mut Resources,
    request: &ResourceRequest,
    usable: impl Fn(&Resources) -> Resources,
) {
    for at in (0..chosen.len()).rev() {
        let without = have.saturating_sub(&usable(&chosen[at].resources));
        if without.pick(request).is_ok() {
            *have = without;
            chosen.remove(at);
        }
    }
}
