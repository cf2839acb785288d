//! What a role below its guarantee takes back from others.
//!
//! The leader plans (`allocator/preemption.rs`) and proposes; here it is checked again that the role
//! is owed so much, and that whom it is taken from has more than is guaranteed to them and may be
//! ended. Each victim keeps its grace. What the victims leave is claimed for the role (`claims.rs`).
//! What a gang needs is taken back on all of its agents, or on none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tepui_types::gang::GangShare;
use tepui_types::resources::ResourceRequest;
use tepui_types::{AgentId, FrameworkId, Reason, Resources, Role, TaskId, Timestamp, task::reason};

use crate::charge::Charge;
use crate::outcome::{Accepted, Outcome, Rejection};
use crate::state::State;
use crate::state::agents::Agent;
use crate::state::claims::{Claim, GangClaim};
use crate::state::context::Context;
use crate::state::limits;
use crate::state::tasks::Task;

/// A wish to end tasks for a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preemption {
    /// Who needs it.
    pub role: Role,
    /// That role, or the one above it, to which it is guaranteed.
    pub guaranteed: Role,
    /// The gang that starts on all of these places, by its framework and key; a single task starts
    /// on one.
    pub gang: Option<(FrameworkId, String)>,
    /// Where; each agent once.
    pub places: Vec<Place>,
}

/// What is needed of one agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Which.
    pub agent: AgentId,
    /// How much.
    pub request: ResourceRequest,
    /// How many tasks of which parts of the gang that is for.
    pub parts: Vec<(u32, u32)>,
    /// Which tasks end for it.
    pub victims: Vec<TaskId>,
}

impl Preemption {
    /// What is needed on all places.
    pub fn total(&self) -> ResourceRequest {
        let mut total = ResourceRequest::default();
        let requests = self.places.iter().map(|place| &place.request);
        requests.for_each(|request| total.add(request));
        total
    }

    /// Which tasks end, on whatever agent.
    pub fn victims(&self) -> impl Iterator<Item = &TaskId> {
        self.places.iter().flat_map(|place| &place.victims)
    }
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
        if !task.has_place()
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
        // Whoever is on deck behind one ends as well: one of them may have begun by then.
        let ends = victims.into_iter().map(|victims| {
            let on_deck = |victim: &Arc<Task>| self.on_deck_behind(victim);
            let behind: Vec<_> = victims.iter().flat_map(on_deck).collect();
            [victims, behind].concat()
        });
        let ends: Vec<Vec<_>> = ends.collect();
        let grace_of = |task: &Arc<Task>| Some(self.specs.get(&task.spec)?.kill_grace_ms);
        let grace_ms = ends.iter().flatten().filter_map(grace_of).max();
        let grace_ms = grace_ms.unwrap_or(0);
        if context.now.millis_since(self.preemptions.since) >= MINUTE_MS {
            self.preemptions = Rate {
                since: context.now,
                ended: 0,
            };
        }
        for (place, ends) in wish.places.iter().zip(ends) {
            let why = why(wish, place);
            self.preemptions.ended += ends.len() as u32;
            for task in ends {
                let why = Reason::new(reason::PREEMPTED, why.clone());
                self.begin_kill(context, task.operation, None, why);
            }
            let gang = wish.gang.as_ref().map(|(framework, key)| GangClaim {
                framework: *framework,
                share: GangShare {
                    key: key.clone(),
                    parts: place.parts.clone(),
                },
            });
            let claim = Claim {
                role: wish.role.clone(),
                gang,
                amounts: place.request.clone(),
                // For a gang what is free first waits for what is free last.
                until: context.now.after_millis(grace_ms + limits::CLAIM_MS),
            };
            self.add_claim(context, place.agent, claim);
        }
        Ok(Accepted::Done)
    }

    /// The victims of a wish that may be granted, place by place.
    fn check_preemption(
        &self,
        context: &Context,
        wish: &Preemption,
    ) -> Result<Vec<Vec<Arc<Task>>>, Rejection> {
        let refuse = |why: String| Err(Rejection::Conflict(why));
        let agents: BTreeSet<AgentId> = wish.places.iter().map(|place| place.agent).collect();
        if agents.is_empty() || agents.len() < wish.places.len() {
            return refuse("a wish names some agents, each once".into());
        }
        let left = self.preemptions_left(context.now);
        if wish.victims().count() > left as usize {
            return refuse(format!("{left} more tasks may be ended in this minute"));
        }
        if self.claims().count() + wish.places.len() > limits::CLAIMS {
            return refuse(format!("{} claims may wait at a time", limits::CLAIMS));
        }
        let had = |role: &Role| self.role_use(role);
        let guarantor = self.guarantor(&wish.role, &wish.total(), had);
        if guarantor.as_ref() != Some(&wish.guaranteed) {
            return refuse(format!("role `{}` is not owed so much", wish.role));
        }
        if !self.is_as_wanted(wish) {
            return refuse("what it is for is another by now, or is served already".into());
        }
        let mut taken = BTreeMap::new();
        let places = wish.places.iter();
        places
            .map(|place| self.check_place(wish, place, &mut taken))
            .collect()
    }

    /// Whether these places are what a gang wants that waits, or one is what a single task wants.
    fn is_as_wanted(&self, wish: &Preemption) -> bool {
        let Some((framework, key)) = &wish.gang else {
            return wish.places.len() == 1;
        };
        let record = self.frameworks.get(framework);
        let gang = record.and_then(|record| {
            let entry = record.gangs.get(key.as_str())?;
            let is_its = *record.role_of_gang(&entry.gang) == wish.role;
            is_its.then_some(&entry.gang)
        });
        let Some(gang) = gang.filter(|_| !self.has_claims_for(*framework, key)) else {
            return false;
        };
        let parts = wish.places.iter().flat_map(|place| &place.parts);
        let is_sum = |place: &Place| gang.sum(&place.parts).as_ref() == Some(&place.request);
        gang.has_all(parts) && wish.places.iter().all(is_sum)
    }

    /// The victims of one place, after `taken` was taken for those before it.
    fn check_place(
        &self,
        wish: &Preemption,
        place: &Place,
        taken: &mut BTreeMap<Role, ResourceRequest>,
    ) -> Result<Vec<Arc<Task>>, Rejection> {
        let refuse = |why: String| Err(Rejection::Conflict(why));
        let Some(agent) = self.agents.get(&place.agent) else {
            let why = format!("there is no agent {}", place.agent);
            return Err(Rejection::NotFound(why));
        };
        if agent.is_overdrawn() {
            let why = format!("the tasks of agent {} have more than it has", place.agent);
            return refuse(why);
        }
        let usable = |resources: &Resources| {
            let usable = resources.usable_by(&wish.role, false);
            ResourceRequest::plain(&usable.flat(false))
        };
        let mut frees = usable(&self.coming_free(agent));
        for claim in &agent.claims {
            frees = frees.saturating_sub(&claim.amounts);
        }
        let mut victims = Vec::new();
        for id in &place.victims {
            let task = self.task(id).filter(|task| task.agent == place.agent);
            let may = task.filter(|task| self.may_take(task, &wish.guaranteed, taken));
            let Some(task) = may else {
                return refuse(format!("task {id} may not be ended for it"));
            };
            note_taken(taken, task);
            frees.add(&usable(&task.resources));
            victims.push(task.clone());
        }
        match place.request.exceeds(&frees) {
            Some(name) => refuse(format!("that would not free enough {name}")),
            None => Ok(victims),
        }
    }

    /// What is free on an agent, and what tasks leave there soon.
    pub fn coming_free(&self, agent: &Agent) -> Resources {
        let tasks = agent
            .tasks
            .iter()
            .filter_map(|operation| self.tasks.get(operation));
        let leaving = tasks.filter(|task| self.is_leaving(task));
        leaving.fold(agent.free(), |sum, task| {
            // An agent that has shrunk under its tasks has less than adds up.
            sum.checked_add(&task.resources.exclusive()).unwrap_or(sum)
        })
    }
}

/// Why tasks end on a place.
fn why(wish: &Preemption, place: &Place) -> String {
    let (role, agent) = (&wish.role, place.agent);
    let needs = place.request.entries();
    let needs: Vec<_> = needs
        .map(|(name, _)| format!("{} {name}", place.request.show(name)))
        .collect();
    let whom = match wish.guaranteed == *role {
        true => "it".to_owned(),
        false => format!("`{}`", wish.guaranteed),
    };
    let what = match &wish.gang {
        Some((_, key)) => format!(" for its gang `{key}`"),
        None => String::new(),
    };
    format!(
        "role `{role}` has less than is guaranteed to {whom}, and needs {} on agent {agent}{what}",
        needs.join(", ")
    )
}

/// Notes what a task's end takes from its role and those above.
pub fn note_taken(taken: &mut BTreeMap<Role, ResourceRequest>, task: &Task) {
    let charge = Charge::of(&task.resources);
    for role in task.role.upwards() {
        let part = charge.at(&role);
        taken.entry(role).or_default().add(&part);
    }
}
