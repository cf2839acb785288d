//! Declined resources that stay away for a while.

use std::collections::BTreeMap;

use tepui_types::{AgentId, FrameworkId, Resources, Timestamp};

/// A filter covers every subset of what was declined, on one agent, for one
/// framework, until its time is over.
#[derive(Debug, Default)]
pub struct Filters {
    table: BTreeMap<(FrameworkId, AgentId), Filter>,
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
        self.table
            .insert((framework, agent), Filter { resources, until });
    }

    /// Whether these resources are to stay away.
    pub fn refuses(
        &self,
        framework: FrameworkId,
        agent: AgentId,
        resources: &Resources,
        now: Timestamp,
    ) -> bool {
        self.table
            .get(&(framework, agent))
            .is_some_and(|filter| filter.until > now && filter.resources.contains(resources))
    }

    /// Whether any filter of this framework on this agent covers these resources.
    pub fn covers(&self, framework: FrameworkId, agent: AgentId, resources: &Resources) -> bool {
        let filter = self.table.get(&(framework, agent));
        filter.is_some_and(|filter| filter.resources.contains(resources))
    }

    /// Forgets a framework's filters.
    pub fn revive(&mut self, framework: FrameworkId) {
        self.table.retain(|(owner, _), _| *owner != framework);
    }

    /// Drops the filters whose time is over; answers their agents.
    pub fn expire(&mut self, now: Timestamp) -> Vec<AgentId> {
        let over: Vec<_> = self
            .table
            .iter()
            .filter(|(_, filter)| filter.until <= now)
            .map(|(key, _)| *key)
            .collect();
        for key in &over {
            self.table.remove(key);
        }
        over.into_iter().map(|(_, agent)| agent).collect()
    }

    /// When the next one ends.
    pub fn next_end(&self) -> Option<Timestamp> {
        self.table.values().map(|filter| filter.until).min()
    }
}
