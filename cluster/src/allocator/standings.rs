//! Who is next: roles by weighted dominant share, then frameworks inside a role.

use std::collections::BTreeMap;

use tepui_types::resources::ResourceRequest;
use tepui_types::{AgentStatus, FrameworkId, Resources, Role};

use super::coverage::Coverage;
use super::shares::{Share, dominant_share};
use crate::state::State;

/// The frameworks that want offers, with what they and their roles have.
#[derive(Debug)]
pub struct Standings {
    total: ResourceRequest,
    roles: BTreeMap<Role, Standing>,
    frameworks: BTreeMap<FrameworkId, Candidate>,
}

/// What someone has, offers included, and how often it was served.
#[derive(Debug, Clone, Default)]
struct Standing {
    used: ResourceRequest,
    share: Share,
    turns: u64,
}

#[derive(Debug)]
struct Candidate {
    role: Role,
    standing: Standing,
    coverage: Coverage,
}

/// The order of service: the lowest is next. Fields in order of importance;
/// equal shares alternate by turns, and the id only breaks the last tie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank<'a> {
    role_share: Share,
    role_turns: u64,
    role: &'a Role,
    share: Share,
    turns: u64,
    framework: FrameworkId,
}

impl Standings {
    /// As the state has it, before any outstanding offer.
    pub fn new(state: &State, turns: &BTreeMap<FrameworkId, u64>) -> Self {
        let mut total = ResourceRequest::default();
        let active = state
            .agents
            .values()
            .filter(|agent| agent.status == AgentStatus::Active);
        active.for_each(|agent| total.include(&agent.info.resources));
        let mut standings = Self {
            total,
            roles: BTreeMap::new(),
            frameworks: BTreeMap::new(),
        };
        for framework in state.frameworks.values() {
            let turns = turns.get(&framework.id).copied().unwrap_or(0);
            let role = standings
                .roles
                .entry(framework.info.role.clone())
                .or_default();
            role.turns += turns;
            role.add(&framework.used, &standings.total);
            if framework.wants_offers() {
                let mut standing = Standing {
                    turns,
                    ..Standing::default()
                };
                standing.add(&framework.used, &standings.total);
                let role = framework.info.role.clone();
                let coverage = Coverage::of(framework);
                standings.frameworks.insert(
                    framework.id,
                    Candidate {
                        role,
                        standing,
                        coverage,
                    },
                );
            }
        }
        standings
    }

    /// Whether nobody wants anything.
    pub fn is_empty(&self) -> bool {
        self.frameworks.is_empty()
    }

    /// Charges an offer to its framework and role.
    pub fn offered(&mut self, framework: FrameworkId, resources: &Resources) {
        let Some(candidate) = self.frameworks.get_mut(&framework) else {
            return;
        };
        candidate.coverage.offer(resources);
        let amounts = ResourceRequest::from(resources);
        candidate.standing.turns += 1;
        candidate.standing.add(&amounts, &self.total);
        if let Some(role) = self.roles.get_mut(&candidate.role) {
            role.turns += 1;
            role.add(&amounts, &self.total);
        }
    }

    /// The framework that these resources go to.
    pub fn next(
        &self,
        free: &Resources,
        may_have: impl Fn(FrameworkId) -> bool,
    ) -> Option<FrameworkId> {
        let candidates = self.frameworks.iter();
        candidates
            .filter(|(id, candidate)| may_have(**id) && candidate.coverage.fits(free))
            .map(|(id, candidate)| self.rank(*id, candidate))
            .min()
            .map(|rank| rank.framework)
    }

    fn rank<'a>(&'a self, framework: FrameworkId, candidate: &'a Candidate) -> Rank<'a> {
        let role = self.roles.get(&candidate.role);
        Rank {
            role_share: role.map_or(Share(0), |role| role.share),
            role_turns: role.map_or(0, |role| role.turns),
            role: &candidate.role,
            share: candidate.standing.share,
            turns: candidate.standing.turns,
            framework,
        }
    }
}

impl Standing {
    fn add(&mut self, amounts: &ResourceRequest, total: &ResourceRequest) {
        self.used.add(amounts);
        self.share = dominant_share(&self.used, total);
    }
}
