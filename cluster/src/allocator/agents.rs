//! Agents as the allocator last saw them: what is free on each, and in all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tepui_types::resources::ResourceRequest;
use tepui_types::setting::Settings;
use tepui_types::{AgentId, AgentInfo, AgentStatus, Resources, Role};

use super::blocks::Blocks;
use super::classes::{Classes, Free, OfResources as _};
use super::demands::Shape;
use super::tally::{Counted, Counts, Stock, Tally};
use super::traits::{Traits, TraitsId, Verdicts};
use crate::feasibility;
use crate::state::State;
use crate::state::agents::Agent;
use crate::state::reservations::Converted;

/// The agents, their sums, and the index by what is free.
#[derive(Debug, Default)]
pub struct Agents {
    known: BTreeMap<AgentId, Known>,
    /// Without a connection to the leader now: what is launched there would wait.
    away: BTreeSet<AgentId>,
    /// Agents without anything free of a custom resource, and those with some:
    /// who wants none meets these last.
    plain: Blocks,
    special: Blocks,
    /// Agents of which something is free that is not plain.
    classes: Classes,
    /// Those that lend something that is not plain, free or not.
    pooled: BTreeSet<AgentId>,
    total: ResourceRequest,
    free: ResourceRequest,
    tally: Tally,
    traits: Traits,
}

/// One agent.
#[derive(Debug)]
struct Known {
    info: Arc<AgentInfo>,
    converted: Option<Arc<Converted>>,
    traits: TraitsId,
    /// Whether it counts in the cluster's total.
    counts: bool,
    /// Whether it could be offered at all.
    is_open: bool,
    /// Whether that is for having less than is reserved on it.
    is_short: bool,
    /// Whether the cluster's settings let it be.
    is_allowed: bool,
    /// What no task has and no offer holds; nothing while it is not to be offered.
    free: Stock,
    /// What no task has, where offers hold some of it.
    unused: Option<Box<Stock>>,
    /// What is free for roles that own some of it; of most agents nothing.
    classes: Option<Box<Free>>,
}

impl Known {
    fn new(
        settings: &Settings,
        agent: &Agent,
        is_away: bool,
        held: &Resources,
    ) -> (Self, Resources) {
        let unused = feasibility::offerable_of(settings, agent);
        let unused = unused.ok().filter(|_| !is_away);
        let is_open = unused.is_some();
        let unused = unused.unwrap_or_default();
        let (free, unused) = match held.is_empty() {
            true => (unused, None),
            false => (
                unused.saturating_sub(held),
                Some(Box::new(Stock::of(&unused))),
            ),
        };
        let known = Self {
            info: agent.info.clone(),
            converted: agent.converted.clone(),
            traits: TraitsId::NONE,
            counts: agent.status == AgentStatus::Active,
            is_open,
            is_short: agent.standing() == AgentStatus::Active
                && agent.short().is_some()
                && !is_away,
            is_allowed: settings.allows(&agent.info.hostname),
            free: Stock::of(&free),
            unused,
            classes: Free::of(&free),
        };
        (known, free)
    }

    /// All that it lends.
    fn total(&self) -> &Resources {
        match &self.converted {
            Some(converted) => &converted.total,
            None => &self.info.resources,
        }
    }

    /// Takes an agent out of the lists in which it is.
    fn unlist(
        &self,
        agent: AgentId,
        plain: &mut Blocks,
        special: &mut Blocks,
        classes: &mut Classes,
    ) {
        if !self.free.amounts.is_empty() {
            let blocks = match self.free.amounts.custom.is_empty() {
                true => plain,
                false => special,
            };
            blocks.remove(agent, self.traits, &self.free.amounts);
        }
        if let Some(free) = &self.classes {
            classes.remove(agent, self.traits, free);
        }
    }

    fn counted(&self) -> Counted<'_> {
        Counted {
            info: &self.info,
            total: self.total(),
            all: None,
            is_open: self.is_open,
            is_short: self.is_short,
            is_allowed: self.is_allowed,
            unused: self.unused.as_deref().unwrap_or(&self.free),
            free: &self.free,
        }
    }
}

/// Whether an agent has gpus, in use or not.
pub(super) fn has_gpus(agent: &AgentInfo) -> bool {
    let mut pools = agent.resources.pools.iter();
    !agent.resources.gpus.is_empty() || pools.any(|pool| !pool.amounts.gpus.is_empty())
}

/// What has changed about an agent beside what is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// Nothing.
    Same,
    /// Its attributes are others: what was declined of it was another agent.
    Otherwise,
}

impl Agents {
    /// All agents of a state, seen for the first time, without any offer.
    pub fn afresh(&self, state: &State) -> Self {
        let mut agents = Self {
            away: self.away.clone(),
            ..Self::default()
        };
        let settings = &state.settings.settings;
        for (id, agent) in &state.agents {
            agents.see(settings, *id, Some(agent), &Resources::default());
        }
        agents
    }

    /// Notes that an agent has lost its connection to the leader, or has it
    /// again; answers whether that is news.
    pub fn set_away(&mut self, agent: AgentId, is_away: bool) -> bool {
        if is_away {
            self.away.insert(agent)
        } else {
            self.away.remove(&agent)
        }
    }

    /// Whether an agent has no connection to the leader.
    pub fn is_away(&self, agent: AgentId) -> bool {
        self.away.contains(&agent)
    }

    /// What an agent could be offered now, while offers hold some of it.
    pub fn offerable(&self, settings: &Settings, agent: &Agent, held: &Resources) -> Resources {
        match feasibility::offerable_of(settings, agent) {
            Ok(free) if !self.is_away(agent.id) && held.is_empty() => free,
            Ok(free) if !self.is_away(agent.id) => free.saturating_sub(held),
            _ => Resources::default(),
        }
    }

    /// Sees an agent as it is now; answers what is free on it. It is not found
    /// by searches until it is listed.
    pub fn see(
        &mut self,
        settings: &Settings,
        id: AgentId,
        agent: Option<&Arc<Agent>>,
        held: &Resources,
    ) -> (Resources, Seen) {
        let before = self.forget(id);
        let Some(agent) = agent else {
            // Ids are never used again.
            self.away.remove(&id);
            return (Resources::default(), Seen::Same);
        };
        let (mut known, free) = Known::new(settings, agent, self.is_away(id), held);
        known.traits = match &before {
            Some(before) if Arc::ptr_eq(&before.info, &known.info) => before.traits,
            _ => self.traits.of(&known.info),
        };
        if known.counts {
            self.total.include(agent.total());
        }
        self.free.add(&known.free.amounts);
        self.tally.count(&known.counted(), 1);
        if known.is_open {
            self.tally.size(known.total(), 1);
        }
        let same = before.is_none_or(|before| {
            Arc::ptr_eq(&before.info, &known.info)
                || before.info.attributes == known.info.attributes
        });
        if !known.total().pools.is_empty() {
            self.pooled.insert(id);
        }
        if let Some(free) = &known.classes {
            self.classes.count(free, true);
        }
        self.known.insert(id, known);
        (free, if same { Seen::Same } else { Seen::Otherwise })
    }

    /// Takes from an agent that is not listed what an offer holds now; the
    /// rest is what is free then.
    pub fn take(&mut self, agent: AgentId, rest: &Resources) {
        if let Some(known) = self.known.get_mut(&agent) {
            self.tally.count(&known.counted(), -1);
            let before = std::mem::replace(&mut known.free, Stock::of(rest));
            self.free = self.free.saturating_sub(&before.amounts);
            self.free.add(&known.free.amounts);
            known.unused.get_or_insert_with(|| Box::new(before));
            let before = std::mem::replace(&mut known.classes, Free::of(rest));
            if let Some(free) = before {
                self.classes.count(&free, false);
            }
            if let Some(free) = &known.classes {
                self.classes.count(free, true);
            }
            self.tally.count(&known.counted(), 1);
        }
    }

    /// Lets searches find an agent.
    pub fn list(&mut self, agent: AgentId) {
        let Some(known) = self.known.get(&agent) else {
            return;
        };
        if !known.free.amounts.is_empty() {
            let blocks = match known.free.amounts.custom.is_empty() {
                true => &mut self.plain,
                false => &mut self.special,
            };
            blocks.insert(agent, known.traits, &known.free.amounts);
        }
        if let Some(free) = &known.classes {
            self.classes.insert(agent, known.traits, free);
        }
    }

    /// Hides an agent from searches.
    pub fn unlist(&mut self, agent: AgentId) {
        if let Some(known) = self.known.get(&agent) {
            known.unlist(agent, &mut self.plain, &mut self.special, &mut self.classes);
        }
    }

    /// The first listed agent on which a shape may be met and that is accepted. What is reserved
    /// for the role or those above it comes first; of the rest nothing is looked at with `owned`.
    pub fn find<T>(
        &self,
        shape: &Shape,
        role: &Role,
        owned: bool,
        mut accept: impl FnMut(AgentId) -> Option<T>,
    ) -> Option<T> {
        let mut verdicts = Verdicts::new(&shape.constraints);
        let mut accept = |agent, traits| {
            let info = || self.known.get(&agent).map(|known| &*known.info);
            let is_spared = || shape.spares_gpus && info().is_some_and(|info| shape.spares(info));
            (verdicts.allow(traits, info) && !is_spared())
                .then(|| accept(agent))
                .flatten()
        };
        if let Some(found) = self.classes.find(shape, role, &mut accept) {
            return Some(found);
        }
        if owned {
            return None;
        }
        let request = &shape.request;
        let plain = match request.custom.is_empty() {
            true => self.plain.find(request, &mut accept),
            false => None,
        };
        plain.or_else(|| self.special.find(request, &mut accept))
    }

    /// Whether anything is free that is not plain.
    pub fn has_classes(&self) -> bool {
        !self.classes.is_empty()
    }

    /// Whether something that is reserved for a role or those above it is free.
    pub fn has_owned(&self, role: &Role) -> bool {
        self.classes.has(role)
    }

    /// Agents by what keeps a request from them.
    pub fn tally(&mut self, shape: &Shape) -> Counts {
        let known = self.known.values();
        self.tally.ask(shape, known.map(Known::counted))
    }

    /// Counts an agent as if what `held` leaves were free on it, and as it is for a role.
    pub fn recount(
        &self,
        counts: &mut Counts,
        shape: &Shape,
        role: &Role,
        settings: &Settings,
        agent: &Agent,
        held: &Resources,
    ) {
        let Some(known) = self.known.get(&agent.id) else {
            return;
        };
        counts.count(shape, &known.counted(), -1);
        let (otherwise, free) = Known::new(settings, agent, self.is_away(agent.id), held);
        let total = agent.total();
        if total.pools.is_empty() {
            counts.count(shape, &otherwise.counted(), 1);
            return;
        }
        let flat = |resources: &Resources| {
            let usable = resources.usable_by(role, shape.revocable);
            usable.flat(shape.revocable).into_owned()
        };
        let unused = self.offerable(settings, agent, &Resources::default());
        let counted = Counted {
            total: &flat(total),
            all: Some(&total.flat(true)),
            unused: &Stock::of(&flat(&unused)),
            free: &Stock::of(&flat(&free)),
            ..otherwise.counted()
        };
        counts.count(shape, &counted, 1);
    }

    /// Agents that lend something that is not plain.
    pub fn pooled(&self) -> impl Iterator<Item = AgentId> {
        self.pooled.iter().copied()
    }

    /// Whether an agent lends something that is not plain.
    pub fn is_pooled(&self, agent: AgentId) -> bool {
        self.pooled.contains(&agent)
    }

    /// The most of a resource that an agent has when empty.
    pub fn largest(&self, name: &str) -> u64 {
        self.tally.largest(name)
    }

    /// Whether an agent has other attributes than when it was last seen.
    pub fn is_other(&self, agent: &Agent) -> bool {
        let known = self.known.get(&agent.id);
        known.is_some_and(|known| {
            !Arc::ptr_eq(&known.info, &agent.info) && known.info.attributes != agent.info.attributes
        })
    }

    /// Whether an agent has other resources than when it was last seen.
    pub fn is_resized(&self, agent: &Agent) -> bool {
        let known = self.known.get(&agent.id);
        known.is_some_and(|known| {
            let same = Arc::ptr_eq(&known.info, &agent.info)
                && known.converted.as_ref().map(Arc::as_ptr)
                    == agent.converted.as_ref().map(Arc::as_ptr);
            !same && known.total() != agent.total()
        })
    }

    /// What an agent says of itself, and what is free on it.
    pub fn known(&self, agent: AgentId) -> Option<(&AgentInfo, &ResourceRequest)> {
        let known = self.known.get(&agent)?;
        Some((&known.info, &known.free.amounts))
    }

    /// What the cluster has.
    pub fn total(&self) -> &ResourceRequest {
        &self.total
    }

    /// What is free in the cluster.
    pub fn free(&self) -> &ResourceRequest {
        &self.free
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    fn forget(&mut self, agent: AgentId) -> Option<Known> {
        let known = self.known.remove(&agent)?;
        known.unlist(agent, &mut self.plain, &mut self.special, &mut self.classes);
        if !known.total().pools.is_empty() {
            self.pooled.remove(&agent);
        }
        if let Some(free) = &known.classes {
            self.classes.count(free, false);
        }
        if known.counts {
            self.total.exclude(known.total());
        }
        self.free = self.free.saturating_sub(&known.free.amounts);
        self.tally.count(&known.counted(), -1);
        if known.is_open {
            self.tally.size(known.total(), -1);
        }
        Some(known)
    }
}
