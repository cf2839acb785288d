//! The allocator: whose turn it is to be offered what.
//!
//! Outstanding offers and filters are the leader's soft state: losing them is
//! always safe. The allocator follows the state by [`Changes`] and looks only
//! at what has changed since. Roles, and frameworks inside a role, take turns
//! by dominant share (Ghodsi et al., "Dominant Resource Fairness", NSDI 2011).
//! An agent's free resources go whole to one framework: the one with the lowest
//! share among those whose demand they could meet.

use std::collections::{BTreeMap, BTreeSet};

use tepui_types::api::demand::Explanation;
use tepui_types::offer::Filters as Decline;
use tepui_types::resources::ResourceRequest;
use tepui_types::{AgentId, FrameworkId, Offer, OfferId, Resources, Role, Timestamp};

use crate::effect::Changes;
use crate::explain;
use crate::feasibility;
use crate::state::State;

mod coverage;
mod filters;
mod shares;
mod standings;

pub use shares::{Share, dominant_share};

use filters::Filters;
use standings::Standings;

/// Milliseconds for which an offer is held before it is rescinded: far above
/// the longest turn, so that only a framework that ignores offers loses them.
pub const OFFER_TIMEOUT_MS: u64 = 30_000;

/// What the allocator has decided; the leader tells the frameworks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Hold these resources for this framework and tell it.
    Offer(FrameworkId, Offer),
    /// Tell this framework that an offer is no longer good.
    Rescind(FrameworkId, OfferId),
}

/// An offer that has not been answered.
#[derive(Debug, Clone)]
struct Outstanding {
    framework: FrameworkId,
    agent: AgentId,
    resources: Resources,
    expires: Timestamp,
}

/// Outstanding offers, filters, and what has changed since the last cycle.
#[derive(Debug)]
pub struct Allocator {
    offers: BTreeMap<OfferId, Outstanding>,
    next_offer: u64,
    filters: Filters,
    /// How often each framework was offered something: equal shares alternate.
    turns: BTreeMap<FrameworkId, u64>,
    changed_agents: BTreeSet<AgentId>,
    /// Without a connection to the leader now: what is launched there would wait.
    away: BTreeSet<AgentId>,
    /// Someone's demand is open anew: every agent is worth a look.
    look_at_all: bool,
}

impl Allocator {
    /// At the beginning of a term: nothing is outstanding, all is to be looked at.
    pub fn new() -> Self {
        Self {
            offers: BTreeMap::new(),
            next_offer: 1,
            filters: Filters::default(),
            turns: BTreeMap::new(),
            changed_agents: BTreeSet::new(),
            away: BTreeSet::new(),
            look_at_all: true,
        }
    }

    /// Notes what a delivery of commands has changed.
    pub fn on_changes(&mut self, state: &State, changes: &Changes) {
        self.changed_agents.extend(&changes.agents);
        for framework in &changes.revived {
            self.filters.revive(*framework);
        }
        for framework in &changes.frameworks {
            self.look_at_all = true;
            if state.framework(*framework).is_none() {
                self.filters.revive(*framework);
                self.turns.remove(framework);
            }
        }
    }

    /// Notes that an agent has lost its connection to the leader, or has it again.
    pub fn set_away(&mut self, agent: AgentId, is_away: bool) {
        if is_away {
            self.away.insert(agent);
        } else if self.away.remove(&agent) {
            self.changed_agents.insert(agent);
        }
    }

    /// One cycle: what is overdue is rescinded, what is free and wanted is
    /// offered.
    pub fn allocate(&mut self, state: &State, now: Timestamp) -> Vec<Decision> {
        let mut decisions = self.rescind(state, now);
        self.changed_agents.extend(self.filters.expire(now));
        let agents = self.take_agents(state);
        if agents.is_empty() {
            return decisions;
        }
        let mut standings = Standings::new(state, &self.turns);
        for offer in self.offers.values() {
            standings.offered(offer.framework, &offer.resources);
        }
        if standings.is_empty() {
            return decisions;
        }
        for agent in agents {
            let Some(offer) = self.offer_agent(state, agent, &mut standings, now) else {
                continue;
            };
            decisions.push(offer);
        }
        decisions
    }

    /// The offers were used up, or given back without a filter.
    pub fn answered(&mut self, offers: &[OfferId]) {
        for offer in offers {
            if let Some(offer) = self.offers.remove(offer) {
                self.changed_agents.insert(offer.agent);
                self.look_at_all = true;
            }
        }
    }

    /// The offers were declined: nothing of them returns for a while.
    pub fn decline(&mut self, offers: &[OfferId], refuse_ms: u64, now: Timestamp) {
        let until = now.after_millis(refuse_ms.min(Decline::MAX_REFUSE_MS));
        for offer in offers {
            if let Some(offer) = self.offers.get(offer) {
                let resources = offer.resources.clone();
                self.filters
                    .add(offer.framework, offer.agent, resources, until);
            }
        }
        self.answered(offers);
    }

    /// When something happens by itself next: an offer or a filter ends.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let expiry = self.offers.values().map(|offer| offer.expires).min();
        [expiry, self.filters.next_end()]
            .into_iter()
            .flatten()
            .min()
    }

    /// What outstanding offers hold of an agent.
    pub fn offered_on(&self, agent: AgentId) -> Resources {
        let offers = self.offers.values().filter(|offer| offer.agent == agent);
        offers.fold(Resources::default(), |sum, offer| {
            // Offers of one agent never overlap, so they add up.
            sum.checked_add(&offer.resources).unwrap_or(sum)
        })
    }

    /// What outstanding offers hold together.
    pub fn offered_total(&self) -> ResourceRequest {
        let mut total = ResourceRequest::default();
        self.offers
            .values()
            .for_each(|offer| total.include(&offer.resources));
        total
    }

    /// What outstanding offers hold for each of these roles and those below it.
    pub fn offered_to(&self, state: &State, roles: &[Role]) -> Vec<ResourceRequest> {
        let mut offered = BTreeMap::<Role, ResourceRequest>::new();
        for offer in self.offers.values() {
            let framework = state.framework(offer.framework);
            for role in framework.into_iter().flat_map(|f| f.info.role.upwards()) {
                offered.entry(role).or_default().include(&offer.resources);
            }
        }
        let roles = roles.iter();
        roles
            .map(|role| offered.remove(role).unwrap_or_default())
            .collect()
    }

    /// Why a request of this framework is not met now. What is offered to the
    /// framework itself counts as free.
    pub fn explain(
        &self,
        state: &State,
        framework: FrameworkId,
        request: &ResourceRequest,
    ) -> Explanation {
        let held = |agent| {
            let others = self
                .offers
                .values()
                .filter(|offer| offer.framework != framework);
            others
                .filter(|offer| offer.agent == agent)
                .fold(Resources::default(), |sum, offer| {
                    sum.checked_add(&offer.resources).unwrap_or(sum)
                })
        };
        let filtered = |agent, free: &Resources| self.filters.covers(framework, agent, free);
        let is_away = |agent| self.away.contains(&agent);
        explain::explain(state, request, is_away, held, filtered)
    }

    /// Takes back offers that are overdue, or whose agent or framework is gone.
    fn rescind(&mut self, state: &State, now: Timestamp) -> Vec<Decision> {
        let is_bad = |offer: &Outstanding| {
            offer.expires <= now
                || self.away.contains(&offer.agent)
                || feasibility::check(state, offer.agent, &offer.resources).is_err()
                || !state
                    .framework(offer.framework)
                    .is_some_and(|f| f.takes_turns())
        };
        let bad: Vec<_> = self
            .offers
            .iter()
            .filter(|(_, offer)| is_bad(offer))
            .map(|(id, _)| *id)
            .collect();
        let mut decisions = Vec::with_capacity(bad.len());
        for id in bad {
            if let Some(offer) = self.offers.get(&id) {
                decisions.push(Decision::Rescind(offer.framework, id));
                if offer.expires <= now {
                    // Who held an offer for so long has no use for it.
                    self.decline(&[id], Decline::DEFAULT.refuse_ms, now);
                } else {
                    self.answered(&[id]);
                }
            }
        }
        decisions
    }

    /// The agents that this cycle looks at.
    fn take_agents(&mut self, state: &State) -> Vec<AgentId> {
        let changed = std::mem::take(&mut self.changed_agents);
        if std::mem::take(&mut self.look_at_all) {
            state.agents.keys().copied().collect()
        } else {
            changed.into_iter().collect()
        }
    }

    fn offer_agent(
        &mut self,
        state: &State,
        agent: AgentId,
        standings: &mut Standings,
        now: Timestamp,
    ) -> Option<Decision> {
        if self.away.contains(&agent) {
            return None;
        }
        let free = feasibility::offerable(state, agent).ok()?;
        let free = free.saturating_sub(&self.offered_on(agent));
        if free.is_empty() {
            return None;
        }
        let filters = &self.filters;
        let framework = standings.next(&free, |framework| {
            !filters.refuses(framework, agent, &free, now)
        })?;
        standings.offered(framework, &free);
        *self.turns.entry(framework).or_default() += 1;
        let id = OfferId(self.next_offer);
        self.next_offer += 1;
        let record = state.agent(agent)?;
        let offer = Offer {
            id,
            agent,
            hostname: record.info.hostname.clone(),
            resources: free.clone(),
            attributes: record.info.attributes.clone(),
        };
        let expires = now.after_millis(OFFER_TIMEOUT_MS);
        self.offers.insert(
            id,
            Outstanding {
                framework,
                agent,
                resources: free,
                expires,
            },
        );
        Some(Decision::Offer(framework, offer))
    }
}

impl Default for Allocator {
    fn default() -> Self {
        Self::new()
    }
}
