//! Agents as the allocator last saw them: what is free on each, and in all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tepui_types::resources::ResourceRequest;
use tepui_types::{AgentId, AgentInfo, AgentStatus, Resources};

use super::blocks::Blocks;
use crate::feasibility;
use crate::state::State;
use crate::state::agents::Agent;

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
    total: ResourceRequest,
    free: ResourceRequest,
}

/// One agent.
#[derive(Debug)]
struct Known {
    info: Arc<AgentInfo>,
    /// Whether it counts in the cluster's total.
    counts: bool,
    /// What no task has and no offer holds; nothing while it is not to be offered.
    free: ResourceRequest,
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
    pub fn offerable(&self, agent: &Agent, held: &Resources) -> Resources {
        match feasibility::offerable_of(agent) {
            Ok(free) if !self.is_away(agent.id) && held.is_empty() => free,
            Ok(free) if !self.is_away(agent.id) => free.saturating_sub(held),
            _ => Resources::default(),
        }
    }

    /// Sees an agent as it is now; answers what is free on it. It is not found
    /// by searches until it is listed.
    pub fn see(&mut self, state: &State, id: AgentId, held: &Resources) -> (Resources, Seen) {
        let before = self.forget(id);
        let Some(agent) = state.agent(id) else {
            // Ids are never used again.
            self.away.remove(&id);
            return (Resources::default(), Seen::Same);
        };
        let free = self.offerable(agent, held);
        let known = Known {
            info: agent.info.clone(),
            counts: agent.status == AgentStatus::Active,
            free: ResourceRequest::from(&free),
        };
        if known.counts {
            self.total.include(&agent.info.resources);
        }
        self.free.add(&known.free);
        let same = before.is_none_or(|before| {
            Arc::ptr_eq(&before.info, &known.info)
                || before.info.attributes == known.info.attributes
        });
        self.known.insert(id, known);
        (free, if same { Seen::Same } else { Seen::Otherwise })
    }

    /// Takes from an agent that is not listed what an offer holds now.
    pub fn take(&mut self, agent: AgentId, amounts: &ResourceRequest) {
        if let Some(known) = self.known.get_mut(&agent) {
            known.free = known.free.saturating_sub(amounts);
            self.free = self.free.saturating_sub(amounts);
        }
    }

    /// Lets searches find an agent.
    pub fn list(&mut self, agent: AgentId) {
        if let Some(known) = self.known.get(&agent)
            && !known.free.is_empty()
        {
            let blocks = match known.free.custom.is_empty() {
                true => &mut self.plain,
                false => &mut self.special,
            };
            blocks.insert(agent, &known.free);
        }
    }

    /// Hides an agent from searches.
    pub fn unlist(&mut self, agent: AgentId) {
        if let Some(known) = self.known.get(&agent)
            && !known.free.is_empty()
        {
            let blocks = match known.free.custom.is_empty() {
                true => &mut self.plain,
                false => &mut self.special,
            };
            blocks.remove(agent, &known.free);
        }
    }

    /// The first listed agent on which a request may fit and that is accepted.
    pub fn find<T>(
        &self,
        request: &ResourceRequest,
        mut accept: impl FnMut(AgentId) -> Option<T>,
    ) -> Option<T> {
        let is_plain = request.custom.is_empty();
        let plain = if is_plain {
            self.plain.find(request, &mut accept)
        } else {
            None
        };
        plain.or_else(|| self.special.find(request, &mut accept))
    }

    /// What is free on an agent.
    pub fn free_on(&self, agent: AgentId) -> Option<&ResourceRequest> {
        self.known.get(&agent).map(|known| &known.free)
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
        self.unlist(agent);
        let known = self.known.remove(&agent)?;
        if known.counts {
            self.total.exclude(&known.info.resources);
        }
        self.free = self.free.saturating_sub(&known.free);
        Some(known)
    }
}
