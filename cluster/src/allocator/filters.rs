//! Declined resources that stay away for a while.

use std::collections::{BTreeMap, BTreeSet};

use tepui_types::{AgentId, FrameworkId, Resources, Timestamp};

use super::members::MemberId;

/// A filter covers every subset of what was declined, on one agent, for one
/// framework in one role, until its time is over.
#[derive(Debug, Default)]
pub struct Filters {
    table: BTreeMap<(MemberId, AgentId), Filter>,
    by_agent: BTreeSet<(AgentId, MemberId)>,
    by_end: BTreeSet<(Timestamp, MemberId, AgentId)>,
}

#[derive(Debug)]
struct Filter {
    resources: Resources,
    until: Timestamp,
}

impl Filters {
    /// Keeps what was declined away. A second filter on the same agent replaces
    /// the first: what was declined last is what the framework has seen last.
    pub fn add(
        &mut self,
        member: MemberId,
        agent: AgentId,
        resources: Resources,
        until: Timestamp,
    ) {
        self.remove(member, agent);
        self.by_agent.insert((agent, member));
        self.by_end.insert((until, member, agent));
        self.table
            .insert((member, agent), Filter { resources, until });
    }

    /// Whether a filter of this member on this agent covers these resources.
    pub fn covers(&self, member: MemberId, agent: AgentId, resources: &Resources) -> bool {
        let filter = self.table.get(&(member, agent));
        filter.is_some_and(|filter| filter.resources.contains(resources))
    }

    /// What this member has declined of an agent and is not offered again yet.
    pub fn declined(&self, member: MemberId, agent: AgentId) -> Option<&Resources> {
        let filter = self.table.get(&(member, agent));
        filter.map(|filter| &filter.resources)
    }

    /// The agents of which this member has declined something.
    pub fn agents_of(&self, member: MemberId) -> impl Iterator<Item = AgentId> {
        let all = (member, AgentId(0))..=(member, AgentId(u64::MAX));
        self.table.range(all).map(|((_, agent), _)| *agent)
    }

    /// Forgets a member's filters.
    pub fn revive(&mut self, member: MemberId) {
        let agents: Vec<_> = self.agents_of(member).collect();
        for agent in agents {
            self.remove(member, agent);
        }
    }

    /// Forgets the filters of a framework in all its roles.
    pub fn forget_framework(&mut self, framework: FrameworkId) {
        let members = MemberId::all_of(framework);
        let all = (*members.start(), AgentId(0))..=(*members.end(), AgentId(u64::MAX));
        let filters: Vec<_> = self.table.range(all).map(|(key, _)| *key).collect();
        for (member, agent) in filters {
            self.remove(member, agent);
        }
    }

    /// Forgets an agent's filters: it is another than the one that was declined.
    pub fn forget_agent(&mut self, agent: AgentId) {
        let (first, last) = (FrameworkId(0), FrameworkId(u64::MAX));
        let first = (agent, *MemberId::all_of(first).start());
        let last = (agent, *MemberId::all_of(last).end());
        let members = self.by_agent.range(first..=last);
        let members: Vec<_> = members.map(|(_, member)| *member).collect();
        for member in members {
            self.remove(member, agent);
        }
    }

    /// Drops the filters whose time is over; answers whose they were, and of which agents.
    pub fn expire(&mut self, now: Timestamp) -> Vec<(MemberId, AgentId)> {
        let mut over = Vec::new();
        while let Some((until, member, agent)) = self.by_end.first().copied() {
            if until > now {
                break;
            }
            self.remove(member, agent);
            over.push((member, agent));
        }
        over
    }

    /// When the next one ends.
    pub fn next_end(&self) -> Option<Timestamp> {
        self.by_end.first().map(|(until, ..)| *until)
    }

    fn remove(&mut self, member: MemberId, agent: AgentId) {
        if let Some(filter) = self.table.remove(&(member, agent)) {
            self.by_agent.remove(&(agent, member));
            self.by_end.remove(&(filter.until, member, agent));
        }
    }
}
