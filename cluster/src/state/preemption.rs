//! What a role below its guarantee takes back from others.
//!
//! The leader plans (`allocator/preemption.rs`) and proposes; here it is checked again that the role
//! is owed so much, and that whom it is taken from has more than is guaranteed to them and may be
//! ended. Each victim keeps its grace. What the victims leave is *claimed* for the role on their
//! agent until it is used or its time is over, so that nobody else takes it meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdSet;
use serde::{Deserialize, Serialize};
use tepui_types::resources::ResourceRequest;
use tepui_types::{AgentId, Reason, Resources, Role, TaskId, Timestamp, task::reason};

use crate::charge::Charge;
use crate::outcome::{Accepted, Outcome, Rejection};
use crate::state::State;
use crate::state::agents::Agent;
use crate::state::context::Context;
use crate::state::deadlines::Deadline;
use crate::state::limits;
use crate::state::tasks::Task;

/// A wish to end tasks for a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preemption {
    /// Who needs it.
    pub role: Role,
    /// That role, or the one above it, to which it is guaranteed.
    pub guaranteed: Role,
    /// Where.
    pub agent: AgentId,
    /// What it needs there.
    pub request: ResourceRequest,
    /// Which tasks end.
    pub victims: Vec<TaskId>,
}

/// What was taken back on an agent and waits for its role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Whose; roles below it may use it, too.
    pub role: Role,
    /// How much.
    pub amounts: ResourceRequest,
    /// Until when.
    pub until: Timestamp,
}

/// How many tasks were ended for others in this minute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// When it began.
    pub since: Timestamp,
    /// How many.
    pub ended: u32,
}

/// A minute, in milliseconds.
const MINUTE_MS: u64 = 60_000;

impl Agent {
    /// What is claimed on it for others than this role.
    pub fn claimed_from(&self, role: &Role) -> ResourceRequest {
        claimed_from(&self.claims, role)
    }
}

/// What these claims keep from a role.
pub fn claimed_from(claims: &[Claim], role: &Role) -> ResourceRequest {
    let mut sum = ResourceRequest::default();
    let others = claims.iter().filter(|claim| !role.is_within(&claim.role));
    others.for_each(|claim| sum.add(&claim.amounts));
    sum
}

impl State {
    /// Whether tasks of a role may be ended for others: the nearest role upwards that says so
    /// decides, and without one they may not.
    pub fn is_preemptible(&self, role: &Role) -> bool {
        let mut said = role
            .upwards()
            .filter_map(|role| self.roles.get(&role)?.settings.preemptible);
        said.next().unwrap_or(false)
    }

    /// How many more tasks may be ended for others in this minute.
    pub fn preemptions_left(&self, now: Timestamp) -> u32 {
        let most = self.settings.settings.preemptions_per_minute;
        let is_over = now.millis_since(self.preemptions.since) >= MINUTE_MS;
        match is_over {
            true => most,
            false => most.saturating_sub(self.preemptions.ended),
        }
    }

    /// What is claimed for a role and those below it, on all agents.
    pub fn claimed_for(&self, role: &Role) -> ResourceRequest {
        let mut sum = ResourceRequest::default();
        let claims = self.claims().filter(|claim| claim.role.is_within(role));
        claims.for_each(|claim| sum.add(&claim.amounts));
        sum
    }

    /// All claims.
    pub fn claims(&self) -> impl Iterator<Item = &Claim> {
        let agents = self.claimed_agents();
        let agents = agents.filter_map(|id| self.agents.get(&id));
        agents.flat_map(|agent| &agent.claims)
    }

    /// Agents with claims.
    pub fn claimed_agents(&self) -> impl Iterator<Item = AgentId> {
        self.claimed_agents.iter().copied()
    }

    /// The nearest role upwards to which so much more is guaranteed; `had` is what a role has
    /// already.
    pub fn guarantor(
        &self,
        role: &Role,
        request: &ResourceRequest,
        had: impl Fn(&Role) -> ResourceRequest,
    ) -> Option<Role> {
        let owes = |role: &Role| {
            let Some(record) = self.roles.get(role) else {
                return false;
            };
            let mut wanted = had(role);
            wanted.add(&self.claimed_for(role));
            wanted.add(request);
            let promised = &record.settings.guarantee;
            let mut named = promised
                .entries()
                .filter(|(name, _)| request.amount(name) > 0)
                .peekable();
            named.peek().is_some() && named.all(|(name, most)| wanted.amount(name) <= most)
        };
        role.upwards().find(owes)
    }

    /// Whether a task may be ended for a role to which something is guaranteed, after `taken` was
    /// taken from others: nobody is brought below their own guarantee.
    pub fn may_take(
        &self,
        task: &Task,
        guaranteed: &Role,
        taken: &BTreeMap<Role, ResourceRequest>,
    ) -> bool {
        if !task.is_living()
            || task.kill.is_some()
            || task.role.is_within(guaranteed)
            || !self.is_preemptible(&task.role)
        {
            return false;
        }
        let charge = Charge::of(&task.resources);
        // A role that is above both loses nothing.
        let losers = task
            .role
            .upwards()
            .filter(|role| !guaranteed.is_within(role));
        losers
            .filter_map(|role| self.roles.get(&role))
            .all(|record| {
                // What is reserved stays its owner's.
                let loses = charge.at(&record.role);
                let ending = self.ending_use(&record.role);
                let left = self.role_use(&record.role).saturating_sub(&ending);
                let mut left = left.saturating_sub(&loses);
                if let Some(taken) = taken.get(&record.role) {
                    left = left.saturating_sub(taken);
                }
                let mut promised = record.settings.guarantee.entries();
                promised
                    .all(|(name, amount)| loses.amount(name) == 0 || left.amount(name) >= amount)
            })
    }

    pub(super) fn preempt(&mut self, context: &mut Context, wish: &Preemption) -> Outcome {
        let victims = self.check_preemption(context, wish)?;
        let (role, agent) = (&wish.role, wish.agent);
        let needs: Vec<_> = wish
            .request
            .entries()
            .map(|(name, _)| format!("{} {name}", wish.request.show(name)))
            .collect();
        let whom = match wish.guaranteed == *role {
            true => "it".to_owned(),
            false => format!("`{}`", wish.guaranteed),
        };
        let needs = needs.join(", ");
        let why = format!(
            "role `{role}` has less than is guaranteed to {whom}, and needs {needs} on agent {agent}"
        );
        let mut grace_ms = 0;
        for task in &victims {
            let spec = self.specs.get(&task.spec);
            grace_ms = grace_ms.max(spec.map_or(0, |spec| spec.kill_grace_ms));
            let why = Reason::new(reason::PREEMPTED, why.clone());
            self.begin_kill(context, task.operation, None, why);
        }
        if context.now.millis_since(self.preemptions.since) >= MINUTE_MS {
            self.preemptions = Rate {
                since: context.now,
                ended: 0,
            };
        }
        self.preemptions.ended += victims.len() as u32;
        let mut claims = self.claims_on(agent);
        claims.push(Claim {
            role: role.clone(),
            amounts: wish.request.clone(),
            until: context.now.after_millis(grace_ms + limits::CLAIM_MS),
        });
        self.set_claims(context, agent, claims);
        Ok(Accepted::Done)
    }

    /// The victims of a wish that may be granted.
    fn check_preemption(
        &self,
        context: &Context,
        wish: &Preemption,
    ) -> Result<Vec<Arc<Task>>, Rejection> {
        let refuse = |why: String| Err(Rejection::Conflict(why));
        let Some(agent) = self.agents.get(&wish.agent) else {
            return Err(Rejection::NotFound(format!(
                "there is no agent {}",
                wish.agent
            )));
        };
        let left = self.preemptions_left(context.now);
        if wish.victims.len() > left as usize {
            return refuse(format!("{left} more tasks may be ended in this minute"));
        }
        if self.claims().count() >= limits::CLAIMS {
            return refuse(format!("{} claims wait already", limits::CLAIMS));
        }
        let had = |role: &Role| self.role_use(role);
        let guarantor = self.guarantor(&wish.role, &wish.request, had);
        if guarantor.as_ref() != Some(&wish.guaranteed) {
            return refuse(format!("role `{}` is not owed so much", wish.role));
        }
        let mut taken = BTreeMap::new();
        let usable = |resources: &Resources| {
            let usable = resources.usable_by(&wish.role, false);
            ResourceRequest::plain(&usable.flat(false))
        };
        let mut frees = usable(&self.coming_free(agent));
        for claim in &agent.claims {
            frees = frees.saturating_sub(&claim.amounts);
        }
        let mut victims = Vec::new();
        for id in &wish.victims {
            let task = self.task(id).filter(|task| task.agent == wish.agent);
            let may = task.filter(|task| self.may_take(task, &wish.guaranteed, &taken));
            let Some(task) = may else {
                return refuse(format!("task {id} may not be ended for it"));
            };
            note_taken(&mut taken, task);
            frees.add(&usable(&task.resources));
            victims.push(task.clone());
        }
        match wish.request.exceeds(&frees) {
            Some(name) => refuse(format!("that would not free enough {name}")),
            None => Ok(victims),
        }
    }

    /// What is free on an agent, and what the tasks leave that are ending.
    pub fn coming_free(&self, agent: &Agent) -> Resources {
        let tasks = agent
            .tasks
            .iter()
            .filter_map(|operation| self.tasks.get(operation));
        let ending = tasks.filter(|task| task.kill.is_some());
        ending.fold(agent.free(), |sum, task| {
            // An agent that has shrunk under its tasks has less than adds up.
            sum.checked_add(&task.resources.exclusive()).unwrap_or(sum)
        })
    }

    /// What is claimed for a role is used by what it launches.
    pub(super) fn use_claims(
        &mut self,
        context: &mut Context,
        agent: AgentId,
        role: &Role,
        resources: &Resources,
    ) {
        if !self.claimed_agents.contains(&agent) {
            return;
        }
        let mut used = ResourceRequest::plain(&resources.flat(false));
        let mut claims = self.claims_on(agent);
        for claim in claims
            .iter_mut()
            .filter(|claim| role.is_within(&claim.role))
        {
            let rest = claim.amounts.saturating_sub(&used);
            used = used.saturating_sub(&claim.amounts);
            claim.amounts = rest;
        }
        self.set_claims(context, agent, claims);
    }

    /// Claims whose time is over are given up.
    pub(super) fn end_claims(&mut self, context: &mut Context, agent: AgentId) {
        let mut claims = self.claims_on(agent);
        claims.retain(|claim| claim.until > context.now);
        self.set_claims(context, agent, claims);
    }

    fn claims_on(&self, agent: AgentId) -> Vec<Claim> {
        let agent = self.agents.get(&agent);
        agent.map_or_else(Vec::new, |agent| agent.claims.clone())
    }

    /// Gives an agent other claims; the one place where that happens.
    pub(super) fn set_claims(
        &mut self,
        context: &mut Context,
        id: AgentId,
        mut claims: Vec<Claim>,
    ) {
        claims.retain(|claim| !claim.amounts.is_empty());
        let Some(agent) = self.agents.get_mut(&id) else {
            return;
        };
        if agent.claims == claims {
            return;
        }
        let agent = Arc::make_mut(agent);
        for claim in &agent.claims {
            self.deadlines.remove(&(claim.until, Deadline::Claims(id)));
        }
        for claim in &claims {
            self.deadlines.insert((claim.until, Deadline::Claims(id)));
        }
        match claims.is_empty() {
            true => self.claimed_agents.remove(&id),
            false => self.claimed_agents.insert(id),
        };
        agent.claims = claims;
        agent.revision = context.index;
        context.changes.agents.insert(id);
    }
}

/// Notes what a task's end takes from its role and those above.
pub fn note_taken(taken: &mut BTreeMap<Role, ResourceRequest>, task: &Task) {
    let charge = Charge::of(&task.resources);
    for role in task.role.upwards() {
        let part = charge.at(&role);
        taken.entry(role).or_default().add(&part);
    }
}

/// Agents with claims. Follows from the agents: not stored.
pub(super) fn derive<'a>(agents: impl Iterator<Item = &'a Arc<Agent>>) -> OrdSet<AgentId> {
    let claimed = agents.filter(|agent| !agent.claims.is_empty());
    claimed.map(|agent| agent.id).collect()
}
