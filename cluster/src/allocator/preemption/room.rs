//! An agent as a plan of preemption sees it: what will be free on it, and whose end frees more.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use tepui_types::resources::ResourceRequest;
use tepui_types::{AgentId, AgentInfo, Resources, Role};

use super::super::demands::Shape;
use crate::state::State;
use crate::state::preemption::note_taken;
use crate::state::tasks::Task;

/// What a plan costs those who lose, the least first: the highest priority that
/// is ended, how many tasks, how much of the processor.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cost {
    priority: i32,
    tasks: usize,
    cpus: u64,
    pub agent: AgentId,
}

/// Who takes back, from whom that was taken in this plan already, and by whose guarantee.
pub(super) struct Taking<'a> {
    pub state: &'a State,
    pub role: &'a Role,
    pub guaranteed: &'a Role,
    pub taken: BTreeMap<Role, ResourceRequest>,
}

/// One agent.
pub(super) struct Room<'a> {
    pub agent: AgentId,
    pub info: &'a AgentInfo,
    /// What the role may have of it when its victims and what is ending anyway have ended.
    all: Resources,
    /// The same without what is placed on it.
    left: Resources,
    /// Tasks that may be ended, in the order in which they are.
    tasks: Vec<&'a Arc<Task>>,
    pub victims: Vec<&'a Arc<Task>>,
    /// How many tasks of which parts are placed on it.
    pub parts: Vec<(u32, u32)>,
}

impl Taking<'_> {
    pub fn usable(&self, resources: &Resources) -> Resources {
        let usable = resources.usable_by(self.role, false);
        usable.flat(false).into_owned()
    }

    fn priority(&self, task: &Task) -> i32 {
        let spec = self.state.spec(&task.spec);
        spec.map_or(0, |spec| spec.priority)
    }

    /// Whether nothing is short of a request but what is guaranteed.
    fn may_free(&self, free: &Resources, request: &ResourceRequest) -> bool {
        let free = ResourceRequest::from(free);
        let promised = self.state.role_settings(self.guaranteed).guarantee;
        let mut wanted = request.entries();
        wanted.all(|(name, amount)| promised.amount(name) > 0 || free.amount(name) >= amount)
    }
}

impl<'a> Room<'a> {
    /// An agent of which so much will be free, with tasks that may be ended.
    pub fn new(
        taking: &Taking<'_>,
        (agent, info): (AgentId, &'a AgentInfo),
        free: Resources,
        mut tasks: Vec<&'a Arc<Task>>,
    ) -> Self {
        tasks.sort_by_key(|task| (taking.priority(task), Reverse(task.operation)));
        Self {
            agent,
            info,
            left: free.clone(),
            all: free,
            tasks,
            victims: Vec::new(),
            parts: Vec::new(),
        }
    }

    /// Whether a shape may be met here at all.
    pub fn admits(&self, shape: &Shape) -> bool {
        shape.constraints.hold_of(self.info) && !shape.spares(self.info)
    }

    /// More victims after whose end one more fits, and what that costs.
    pub fn more_victims(
        &self,
        taking: &Taking<'_>,
        request: &ResourceRequest,
    ) -> Option<(Cost, Vec<&'a Arc<Task>>)> {
        if !taking.may_free(&self.left, request) {
            return None;
        }
        let mut have = self.left.clone();
        let (mut chosen, mut taken) = (Vec::new(), taking.taken.clone());
        for task in &self.tasks {
            if have.pick(request).is_ok() {
                break;
            }
            if !taking.state.may_take(task, taking.guaranteed, &taken) {
                continue;
            }
            let Ok(more) = have.checked_add(&taking.usable(&task.resources)) else {
                continue;
            };
            have = more;
            note_taken(&mut taken, task);
            chosen.push(*task);
        }
        have.pick(request).ok()?;
        let fits = |have: &Resources| have.pick(request).is_ok();
        spare(taking, &mut chosen, &mut have, fits);
        let priorities = chosen.iter().map(|task| taking.priority(task));
        let cost = Cost {
            // What is ending already may do.
            priority: priorities.max().unwrap_or(i32::MIN),
            tasks: chosen.len(),
            cpus: chosen.iter().map(|task| task.resources.cpus.0).sum(),
            agent: self.agent,
        };
        Some((cost, chosen))
    }

    /// Ends these.
    pub fn end(&mut self, taking: &mut Taking<'_>, victims: Vec<&'a Arc<Task>>) {
        for task in &victims {
            let freed = taking.usable(&task.resources);
            let (all, left) = (self.all.checked_add(&freed), self.left.checked_add(&freed));
            // They add up, for they are parts of one agent; its end is of no use otherwise.
            if let (Ok(all), Ok(left)) = (all, left) {
                (self.all, self.left) = (all, left);
            }
            note_taken(&mut taking.taken, task);
        }
        let is_victim = |task: &&Arc<Task>| {
            let mut victims = victims.iter();
            victims.any(|victim| victim.operation == task.operation)
        };
        self.tasks.retain(|task| !is_victim(task));
        self.victims.extend(victims);
    }

    /// Places as many tasks of a part as fit, of those that are missing.
    pub fn place(&mut self, part: u32, request: &ResourceRequest, missing: &mut u32) {
        let (count, left) = self.left.pick_many(request, *missing);
        if count == 0 {
            return;
        }
        self.left = left;
        *missing -= count;
        match self.parts.last_mut() {
            Some((last, known)) if *last == part => *known += count,
            _ => self.parts.push((part, count)),
        }
    }

    /// Lets those go whose end is not needed for what is placed after all.
    pub fn spare(&mut self, taking: &Taking<'_>, request_of: impl Fn(u32) -> ResourceRequest) {
        let parts = &self.parts;
        let fits = |have: &Resources| {
            let mut have = have.clone();
            parts.iter().all(|(part, count)| {
                let (fitting, left) = have.pick_many(&request_of(*part), *count);
                have = left;
                fitting == *count
            })
        };
        spare(taking, &mut self.victims, &mut self.all, fits);
    }
}

/// Lets those go, the most valuable first, without whose end it still fits.
fn spare(
    taking: &Taking<'_>,
    victims: &mut Vec<&Arc<Task>>,
    have: &mut Resources,
    fits: impl Fn(&Resources) -> bool,
) {
    for at in (0..victims.len()).rev() {
        let without = have.saturating_sub(&taking.usable(&victims[at].resources));
        if fits(&without) {
            *have = without;
            victims.remove(at);
        }
    }
}
