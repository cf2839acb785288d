//! The shadow of the gang that is next: when it starts, and on which agents.
//!
//! A gang that does not fit holds nothing, so small tasks could keep it waiting
//! for ever. Of the first gang in the order of service that does not fit, it is
//! found when it will: tasks with a time limit end by then, one after another.
//! Until then only what ends before that time is offered on the agents that it
//! will need (backfill); all others are free for all. Without time limits there
//! is no such time, and nothing is kept. It is a forecast: tasks that end early
//! start the gang early.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tepui_types::resources::ResourceRequest;
use tepui_types::{AgentId, FrameworkId, Resources, Timestamp};

use super::Allocator;
use super::demands::Shape;
use super::gangs::Waiting;
use super::members::MemberId;
use super::plan::{Plan, Quota};
use crate::feasibility;
use crate::state::State;

/// Ends of tasks that are looked at, the next first.
const ENDS: usize = 4_096;
/// Milliseconds for which a forecast is good enough: it is made of many tasks,
/// and a cycle follows nearly every command.
const FRESH_MS: u64 = 1_000;

/// When and where a gang will start.
#[derive(Debug)]
pub(super) struct Shadow {
    member: MemberId,
    key: Arc<str>,
    /// When it was found.
    found: Timestamp,
    /// By when the gang fits.
    pub at: Timestamp,
    /// What is kept for it.
    pub agents: BTreeSet<AgentId>,
    /// Milliseconds until then, as of the last cycle.
    left_ms: u64,
}

/// What tasks leave on their agents when they end.
type Freed = BTreeMap<AgentId, Resources>;

impl Allocator {
    /// Milliseconds within which a task has to end on an agent, if that is kept
    /// for a gang; none of the gang's own.
    pub(super) fn backfill_on(&self, agent: AgentId) -> Option<u64> {
        let shadow = self.shadow.as_ref()?;
        shadow.agents.contains(&agent).then_some(shadow.left_ms)
    }

    /// The same for a member's single tasks, and by when they have to end: what was taken back for
    /// them on an agent is kept for nobody else.
    pub(super) fn backfill_for(
        &self,
        member: MemberId,
        agent: AgentId,
    ) -> Option<(u64, Timestamp)> {
        let shadow = self.shadow.as_ref()?;
        let is_kept = shadow.agents.contains(&agent) && self.claimed_for(member, agent).is_none();
        is_kept.then_some((shadow.left_ms, shadow.at))
    }

    /// When the forecast is to be made again, whatever else happens.
    pub(super) fn shadow_due(&self) -> Option<Timestamp> {
        match (&self.shadow, self.gangs.is_empty()) {
            (Some(_), true) => Some(Timestamp::default()),
            (Some(shadow), false) => Some(shadow.found.after_millis(FRESH_MS)),
            // It may be known by now, or the gang may be another's turn.
            (None, false) if self.vain_look.0.is_some() => {
                Some(self.vain_look.1.after_millis(FRESH_MS))
            }
            (None, _) => None,
        }
    }

    /// Agents that are kept for a gang.
    pub(super) fn shadowed(&self) -> impl Iterator<Item = AgentId> {
        let shadow = self.shadow.iter();
        shadow.flat_map(|shadow| shadow.agents.iter().copied())
    }

    /// When the gang under this key is expected to start, if it is the next.
    pub fn starts_by(&self, framework: FrameworkId, key: &str) -> Option<Timestamp> {
        let shadow = self.shadow.as_ref()?;
        let is_it = shadow.member.framework == framework && &*shadow.key == key;
        is_it.then_some(shadow.at)
    }

    /// Looks ahead for the gang that is next, or for none.
    pub(super) fn cast_shadow(
        &mut self,
        state: &State,
        next: Option<(MemberId, Arc<str>)>,
        now: Timestamp,
    ) {
        if next.is_none() {
            // Nobody waits, so nobody looks.
            self.vain_look = (None, now);
        }
        // What is offered meanwhile may put another first: that is looked at later.
        let is_fresh = |shadow: &Shadow| {
            let waiting = self.gangs.get(shadow.member, &shadow.key);
            waiting.is_some_and(Waiting::is_waiting)
                && now.millis_since(shadow.found) < FRESH_MS
                && now < shadow.at
        };
        let before = self.shadow.take();
        let mut shadow = match before {
            Some(shadow) if is_fresh(&shadow) => Some(shadow),
            before => {
                let kept = before.map(|before| before.agents).unwrap_or_default();
                let shadow = next.and_then(|next| self.look_again(state, next, &kept, now));
                let keeps = |agent: &AgentId| {
                    let shadow = shadow.as_ref();
                    shadow.is_some_and(|shadow| shadow.agents.contains(agent))
                };
                if kept.iter().any(|agent| !keeps(agent)) {
                    // Whoever was kept from them may have them now.
                    self.reopened.extend(self.members.keys());
                }
                shadow
            }
        };
        if let Some(shadow) = &mut shadow {
            shadow.left_ms = shadow.at.millis_since(now);
        }
        self.shadow = shadow;
    }

    /// Looks ahead, unless it was in vain a moment ago.
    fn look_again(
        &mut self,
        state: &State,
        next: (MemberId, Arc<str>),
        kept: &BTreeSet<AgentId>,
        now: Timestamp,
    ) -> Option<Shadow> {
        let (last, at) = &self.vain_look;
        if kept.is_empty()
            && last.as_ref() == Some(&next)
            && now.millis_since(*at) < FRESH_MS
            && now >= *at
        {
            return None;
        }
        let shadow = self.look_ahead(state, next.clone(), kept, now);
        self.vain_look = match &shadow {
            Some(_) => (None, now),
            None => (Some(next), now),
        };
        shadow
    }

    fn look_ahead(
        &self,
        state: &State,
        (member, key): (MemberId, Arc<str>),
        kept: &BTreeSet<AgentId>,
        now: Timestamp,
    ) -> Option<Shadow> {
        let waiting = self.gangs.get(member, &key)?;
        let total = waiting.gang.total();
        let ends: Vec<_> = state.time_limits().take(ENDS).collect();
        // What has had its time, or is ended for another reason, is about to go.
        let (ending, grace_ms) = ending_on(state, kept);
        let plan = |count: usize| {
            let mut freed = ending.clone();
            for (_, task) in &ends[..count] {
                let sum = freed.entry(task.agent).or_default();
                *sum = sum.checked_add(&task.resources).ok()?;
            }
            let mut free = self.agents.free().clone();
            freed.values().for_each(|resources| free.include(resources));
            let quota = self.quota_of(member, &free);
            match quota.as_ref().is_some_and(|quota| quota.keeps_out(&total)) {
                true => None,
                false => self.plan_ahead(state, member, waiting, &freed, quota.as_ref()),
            }
        };
        let shadow = |at: Timestamp, plan: Plan| Shadow {
            member,
            key: key.clone(),
            found: now,
            at,
            agents: plan.spots.into_keys().collect(),
            left_ms: 0,
        };
        if let Some(plan) = plan(0) {
            // Where nothing has to end, it waits for something else.
            if ending.is_empty() {
                return None;
            }
            let at = now.after_millis(grace_ms.max(FRESH_MS));
            return Some(shadow(at, plan));
        }
        plan(ends.len())?;
        // With more that has ended it fits no worse.
        let (mut too_few, mut enough) = (0, ends.len());
        while enough - too_few > 1 {
            let middle = too_few + (enough - too_few) / 2;
            match plan(middle) {
                Some(_) => enough = middle,
                None => too_few = middle,
            }
        }
        let (at, _) = ends.get(enough.checked_sub(1)?)?;
        Some(shadow(*at, plan(enough)?))
    }

    /// Where a gang would go, were this free as well.
    fn plan_ahead(
        &self,
        state: &State,
        member: MemberId,
        waiting: &Waiting,
        freed: &Freed,
        quota: Option<&Quota<'_>>,
    ) -> Option<Plan> {
        let role = self.members.get(&member)?.role.clone();
        let later = |agent: AgentId, shape: &Shape| {
            let record = state.agent(agent)?;
            let offerable = feasibility::offerable_of(&state.settings.settings, record);
            if offerable.is_err() || self.agents.is_away(agent) {
                return None;
            }
            let free = self.free_on(state, agent);
            let free = free.checked_add(freed.get(&agent)?).ok()?;
            let free = free.usable_by(&role, false).into_owned();
            let amounts = ResourceRequest::from(&free);
            shape.fits(&record.info, &amounts, &free).then_some(free)
        };
        self.fill(waiting, quota, |shape, plan, owned| {
            let agents = freed.keys().filter(|agent| !plan.has(**agent));
            let mut agents = agents.filter(|agent| !owned || self.agents.is_pooled(**agent));
            let ended = agents.find_map(|agent| Some((*agent, later(*agent, shape)?)));
            ended.or_else(|| {
                self.agents.find(shape, &role, owned, |agent| {
                    let is_new = !plan.has(agent) && !freed.contains_key(&agent);
                    let free = is_new.then(|| self.free_for(state, member, waiting, agent, shape));
                    free.flatten().map(|free| (agent, free))
                })
            })
        })
    }
}

/// What tasks leave on these agents that are being ended, and their longest grace.
fn ending_on(state: &State, agents: &BTreeSet<AgentId>) -> (Freed, u64) {
    let (mut freed, mut grace_ms) = (Freed::new(), 0);
    let agents = agents.iter().filter_map(|agent| state.agent(*agent));
    let tasks = agents.flat_map(|agent| agent.tasks.iter());
    for task in tasks.filter_map(|operation| state.tasks.get(operation)) {
        let Some(grace) = task.kill.filter(|_| state.is_leaving(task)) else {
            continue;
        };
        let sum = freed.entry(task.agent).or_default();
        if let Ok(more) = sum.checked_add(&task.resources) {
            *sum = more;
            grace_ms = grace_ms.max(grace);
        }
    }
    (freed, grace_ms)
}
