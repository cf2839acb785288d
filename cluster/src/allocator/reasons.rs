//! Why a framework's request is not met now.

use std::collections::BTreeSet;

use tepui_types::api::demand::Explanation;
use tepui_types::resources::ResourceRequest;
use tepui_types::{Demand, FrameworkId, Resources};

use super::Allocator;
use super::demands::Shape;
use super::members::MemberId;
use crate::explain::Waiting;
use crate::state::State;

impl Allocator {
    /// Why a demand of this framework is not met now. What is offered to the
    /// framework itself counts as free.
    pub fn explain(
        &mut self,
        state: &State,
        framework: FrameworkId,
        demand: &Demand,
    ) -> Explanation {
        let (request, shape) = (&demand.request, Shape::from(demand));
        if self.is_new {
            // A master that does not lead has seen nothing, and keeps nothing.
            let mut agents = self.agents.afresh(state);
            let counts = agents.tally(&shape);
            let waiting = Waiting {
                request,
                counts,
                filtered: 0,
                quota: None,
            };
            return waiting.explain(|name| agents.largest(name));
        }
        let owner = state.framework(framework);
        let member = owner.and_then(|owner| MemberId::of(owner, demand.role.as_ref()));
        let member = member.unwrap_or(MemberId::new(framework, 0));
        for agent in self.changed.agents.clone() {
            // It stays to be served; only the counts are brought up to date.
            self.see_agent(state, agent);
            self.agents.list(agent);
        }
        let mut counts = self.agents.tally(&shape);
        let own = self.offers.of_member(member);
        let own = own.into_iter().filter_map(|id| self.offers.get(id));
        let own: BTreeSet<_> = own.map(|offer| offer.agent).collect();
        for agent in own.iter().filter_map(|agent| state.agent(*agent)) {
            let held = self.offers.held_by_others(agent.id, member);
            self.agents.recount(&mut counts, &shape, agent, &held);
        }
        let waiting = Waiting {
            request,
            filtered: self.filtered(state, member, demand),
            quota: self.quota(member, request),
            counts,
        };
        waiting.explain(|name| self.agents.largest(name))
    }

    /// Agents on which a request fits and that its framework has declined.
    fn filtered(&self, state: &State, member: MemberId, demand: &Demand) -> u64 {
        let agents = self.filters.agents_of(member);
        let agents = agents.filter_map(|agent| state.agent(agent));
        let filtered = agents.filter(|agent| {
            let held = self.offers.held_by_others(agent.id, member);
            let free: Resources = self.agents.offerable(agent, &held);
            free.pick(&demand.request).is_ok()
                && demand.constraints.hold_of(&agent.info)
                && self.filters.covers(member, agent.id, &free)
        });
        filtered.count() as u64
    }

    /// What quota keeps a framework from a request, unless it holds an offer for it.
    fn quota(&self, member: MemberId, request: &ResourceRequest) -> Option<String> {
        let node = self.roles.node_of(member)?;
        let own = self.offers.of_member(member);
        let mut own = own.into_iter().filter_map(|id| self.offers.get(id));
        if own.any(|offer| offer.resources.pick(request).is_ok()) {
            return None;
        }
        let bound = self.roles.bound(node, self.agents.free(), request);
        bound.map(|bound| bound.to_string())
    }
}
