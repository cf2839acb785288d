//! Why a framework's request is not met now.

use std::collections::BTreeSet;

use tepui_types::api::demand::Explanation;
use tepui_types::resources::ResourceRequest;
use tepui_types::{Demand, FrameworkId, Gang, Resources, Role};

use super::Allocator;
use super::demands::{Rules, Shape};
use super::members::MemberId;
use super::quota::cut;
use super::volumes;
use crate::explain::Waiting;
use crate::state::State;
use crate::state::agents::Agent;
use crate::state::claims::{Taker, claimed_from};

impl Allocator {
    /// Why a demand of this framework is not met now. What is offered to the
    /// framework itself counts as free.
    pub fn explain(
        &mut self,
        state: &State,
        framework: FrameworkId,
        demand: &Demand,
    ) -> Explanation {
        self.explain_as(state, framework, demand, false)
    }

    fn explain_as(
        &mut self,
        state: &State,
        framework: FrameworkId,
        demand: &Demand,
        in_gang: bool,
    ) -> Explanation {
        let owner = state.framework(framework);
        let settings = &state.settings.settings;
        let rules = match owner {
            Some(owner) => Rules::of(settings, owner, owner.role_of(demand)),
            None => Rules::of_cluster(settings),
        };
        let (request, shape) = (&demand.request, Shape::of(demand, rules));
        if self.is_new {
            // A master that does not lead has seen nothing, and keeps nothing.
            let mut agents = self.agents.afresh(state);
            let mut counts = agents.tally(&shape);
            let role = owner.map_or_else(Role::default, |owner| owner.role_of(demand).clone());
            let nothing = Resources::default();
            let pooled = || agents.pooled().filter_map(|agent| state.agent(agent));
            for agent in pooled() {
                agents.recount(&mut counts, &shape, &role, settings, agent, &nothing);
            }
            let usable = |agent: &Agent| {
                let free = agents.offerable(settings, agent, &nothing);
                free.usable_by(&role, shape.revocable).into_owned()
            };
            let volumes = volumes::fitting(state, pooled(), &shape, &role, usable);
            let waiting = Waiting {
                request,
                constraints: &demand.constraints,
                counts,
                filtered: 0,
                withheld: 0,
                behind_gang: 0,
                quota: None,
                volumes,
            };
            return waiting.explain(|name| agents.largest(name));
        }
        let member = owner.and_then(|owner| MemberId::of(owner, demand.role.as_ref()));
        let member = member.unwrap_or(MemberId::new(framework, 0));
        for agent in self.changed.agents.clone() {
            // It stays to be served; only the counts are brought up to date.
            self.see_early(state, agent);
        }
        let mut counts = self.agents.tally(&shape);
        let own = self.offers.of_member(member);
        let own = own.into_iter().filter_map(|id| self.offers.get(id));
        let own: BTreeSet<_> = own.map(|offer| offer.agent).collect();
        // What is not plain counts for some and not for others.
        let anew: BTreeSet<_> = own.into_iter().chain(self.agents.pooled()).collect();
        let role = owner.map_or_else(Role::default, |owner| owner.role_of(demand).clone());
        for agent in anew.iter().filter_map(|agent| state.agent(*agent)) {
            let held = self.offers.held_by_others(agent.id, member);
            self.agents
                .recount(&mut counts, &shape, &role, settings, agent, &held);
        }
        let pooled = self.agents.pooled();
        let pooled = pooled.filter_map(|agent| state.agent(agent));
        let usable = |agent: &Agent| self.usable(state, member, agent, &shape);
        let volumes = volumes::fitting(state, pooled, &shape, &role, usable);
        let waiting = Waiting {
            request,
            constraints: &demand.constraints,
            volumes,
            filtered: self.filtered(state, member, &shape),
            withheld: self.withheld(state, member, &shape, in_gang),
            behind_gang: self.behind_gang(state, member, &shape),
            quota: self.quota(member, &shape),
            counts,
        };
        waiting.explain(|name| self.agents.largest(name))
    }

    /// Why a gang of this framework is not offered now: the part that fits on the
    /// fewest agents says it.
    pub fn explain_gang(
        &mut self,
        state: &State,
        framework: FrameworkId,
        gang: &Gang,
    ) -> Explanation {
        let mut hardest: Option<(usize, Explanation)> = None;
        for (place, part) in gang.parts.iter().enumerate() {
            let demand = Demand {
                constraints: part.constraints.clone(),
                role: gang.role.clone(),
                ..Demand::new(part.count, part.request.clone())
            };
            let why = self.explain_as(state, framework, &demand, true);
            if hardest
                .as_ref()
                .is_none_or(|(_, least)| why.fitting < least.fitting)
            {
                hardest = Some((place, why));
            }
        }
        let (place, mut why) = hardest.unwrap_or_default();
        let part = match gang.parts.len() {
            1 => "each".to_owned(),
            _ => format!("each of part {}", place + 1),
        };
        why.summary = format!(
            "all {} tasks must fit at once; {part} {}",
            gang.count(),
            why.summary
        );
        why
    }

    fn role_of(&self, member: MemberId) -> Role {
        let member = self.members.get(&member);
        member.map_or_else(Role::default, |member| member.role.clone())
    }

    /// What the framework's role may have of an agent: free, or held by its own offers.
    fn usable(&self, state: &State, member: MemberId, agent: &Agent, shape: &Shape) -> Resources {
        let held = self.offers.held_by_others(agent.id, member);
        let settings = &state.settings.settings;
        let free = self.agents.offerable(settings, agent, &held);
        free.usable_by(&self.role_of(member), shape.revocable)
            .into_owned()
    }

    /// Agents on which a request fits and that its framework has declined.
    fn filtered(&self, state: &State, member: MemberId, shape: &Shape) -> u64 {
        let agents = self.filters.agents_of(member);
        let agents = agents.filter_map(|agent| state.agent(agent));
        let filtered = agents.filter(|agent| {
            let free = self.usable(state, member, agent, shape);
            let flat = free.flat(shape.revocable);
            shape.fits(&agent.info, &ResourceRequest::plain(&free), &free)
                && flat.pick(&shape.request).is_ok()
                && self.filters.covers(member, agent.id, &free)
        });
        filtered.count() as u64
    }

    /// Agents on which a request would fit but for what others have claimed there.
    fn withheld(&self, state: &State, member: MemberId, shape: &Shape, in_gang: bool) -> u64 {
        let role = self.role_of(member);
        let taker = Taker {
            role: &role,
            gang: in_gang.then_some((member.framework, None)),
        };
        let claims = self.claims.iter();
        let agents = claims.filter_map(|(agent, claims)| Some((state.agent(*agent)?, claims)));
        let withheld = agents.filter(|(agent, claims)| {
            let usable = self.usable(state, member, agent, shape);
            let free = usable.flat(shape.revocable);
            let amounts = ResourceRequest::plain(&free);
            let left = amounts.saturating_sub(&claimed_from(claims, taker, &amounts));
            shape.fits(&agent.info, &amounts, &free)
                && !shape.fits(&agent.info, &left, &cut(&free, &left))
                && !self.filters.covers(member, agent.id, &usable)
        });
        withheld.count() as u64
    }

    /// Agents on which a request would fit, and that are kept for a gang which starts before it
    /// would end.
    fn behind_gang(&self, state: &State, member: MemberId, shape: &Shape) -> u64 {
        let agents = self.shadowed().filter_map(|agent| state.agent(agent));
        let kept = agents.filter(|agent| {
            let usable = self.usable(state, member, agent, shape);
            let free = usable.flat(shape.revocable);
            shape.fits(&agent.info, &ResourceRequest::plain(&free), &free)
                && !shape.ends_within(self.backfill_on(agent.id))
                && !self.claims.contains_key(&agent.id)
                && !self.filters.covers(member, agent.id, &usable)
        });
        kept.count() as u64
    }

    /// What quota keeps a framework from a request, unless it holds an offer for it.
    fn quota(&self, member: MemberId, shape: &Shape) -> Option<String> {
        let node = self.roles.node_of(member)?;
        let own = self.offers.of_member(member);
        let mut own = own.into_iter().filter_map(|id| self.offers.get(id));
        if own.any(|offer| offer.resources.pick(&shape.request).is_ok()) {
            return None;
        }
        let bound = |request| self.roles.bound(node, self.agents.free(), request);
        // What it leaves may be too little for an offer.
        let slivers = shape.minimum.iter().map(bound);
        let sliver = slivers.reduce(|one, other| one.and_then(|one| other.map(|_| one)));
        let bound = bound(&shape.request).or_else(|| sliver.flatten());
        bound.map(|bound| bound.to_string())
    }
}
