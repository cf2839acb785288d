//! Declined resources that stay away for a while.

use std::collections::{BTreeMap, BTreeSet};

use tepui_types::{AgentId, FrameworkId, Resources, Timestamp};

/// A filter covers every subset of what was declined, on one agent, for one
/// framework, until its time is over.
#[derive(Debug, Default)]
pub struct Filters {
    table: BTreeMap<(FrameworkId, AgentId), Filter>,
    by_agent: BTreeSet<(AgentId, FrameworkId)>,
    by_end: BTreeSet<(Timestamp, FrameworkId, AgentId)>,
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
        framework: FrameworkId,
        agent: AgentId,
        resources: Resources,
        until: Timestamp,
    ) {
        self.remove(framework, agent);
        self.by_agent.insert((agent, framework));
        self.by_end.insert((until, framework, agent));
        self.table
            .insert((framework, agent), Filter { resources, until });
    }

    /// Whether a filter of this framework on this agent covers these resources.
    pub fn covers(&self, framework: FrameworkId, agent: AgentId, resources: &Resources) -> bool {
        let filter = self.table.get(&(framework, agent));
        filter.is_some_and(|filter| filter.resources.contains(resources))
    }

    /// The agents of which this framework has declined something.
    pub fn agents_of(&self, framework: FrameworkId) -> impl Iterator<Item = AgentId> {
        let all = (framework, AgentId(0))..=(framework, AgentId(u64::MAX));
        self.table.range(all).map(|((_, agent), _)| *agent)
    }

    /// Forgets a framework's filters.
    pub fn revive(&mut self, framework: FrameworkId) {
        let agents: Vec<_> = self.agents_of(framework).collect();
        for agent in agents {
            self.remove(framework, agent);
        }
    }

    /// Forgets an agent's filters: it is another than the one that was declined.
    pub fn forget_agent(&mut self, agent: AgentId) {
        let all = (agent, FrameworkId(0))..=(agent, FrameworkId(u64::MAX));
        let frameworks: Vec<_> = self
            .by_agent
            .range(all)
            .map(|(_, framework)| *framework)
            .collect();
        for framework in frameworks {
            self.remove(framework, agent);
        }
    }

    /// Drops the filters whose time is over; answers whose they were, and of which agents.
    pub fn expire(&mut self, now: Timestamp) -> Vec<(FrameworkId, AgentId)> {
        let mut over = Vec::new();
        while let Some((until, framework, agent)) = self.by_end.first().copied() {
            if until > now {
                break;
            }
            self.remove(framework, agent);
            over.push((framework, agent));
        }
        over
    }

    /// When the next one ends.
    pub fn next_end(&self) -> Option<Timestamp> {
        self.by_end.first().map(|(until, ..)| *until)
    }

    fn remove(&mut self, framework: FrameworkId, agent: AgentId) {
        if let Some(filter) = self.table.remove(&(framework, agent)) {
            self.by_agent.remove(&(agent, framework));
            self.by_end.remove(&(filter.until, framework, agent));
        }
    }
}
