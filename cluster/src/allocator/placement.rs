//! Agents × frameworks → offers: what a framework may have of an agent.

use tepui_types::resources::ResourceRequest;
use tepui_types::{AgentId, Offer, Resources, Timestamp};

use super::demands::Demands;
use super::members::MemberId;
use super::offers::Outstanding;
use super::quota::cut;
use super::{Allocator, Decision};
use crate::state::State;
use crate::state::preemption::claimed_from;

/// What can be made of an agent for a framework.
pub(super) enum Use<T> {
    /// It gets this.
    Takes(T),
    /// It would, but for a quota.
    Bounded,
    /// Nothing that it wants fits, or it has declined it.
    None,
}

impl Allocator {
    /// What is free on an agent and held by no offer.
    pub(super) fn free_on(&self, state: &State, agent: AgentId) -> Resources {
        let record = state.agent(agent);
        record.map_or_else(Resources::default, |record| {
            let held = self.offers.held(agent);
            self.agents
                .offerable(&state.settings.settings, record, &held)
        })
    }

    fn demands_of(&self, member: MemberId) -> Option<&Demands> {
        self.members.get(&member).map(|member| &member.demands)
    }

    /// What a framework gets of what is free on an agent.
    pub(super) fn use_of(
        &self,
        member: MemberId,
        agent: AgentId,
        free: &Resources,
    ) -> Use<Resources> {
        let (Some(demands), Some(node)) = (self.demands_of(member), self.roles.node_of(member))
        else {
            return Use::None;
        };
        let Some((info, amounts)) = self.agents.known(agent) else {
            return Use::None;
        };
        if !demands.fits(info, amounts, free) || self.filters.covers(member, agent, free) {
            return Use::None;
        }
        let unclaimed = self.unclaimed(member, agent, amounts);
        let most = unclaimed.as_ref().unwrap_or(amounts);
        if unclaimed.is_none() && !self.roles.is_bounded(node) {
            return Use::Takes(free.clone());
        }
        let room = self.roles.room(node, self.agents.free(), most);
        if room == *amounts {
            return Use::Takes(free.clone());
        }
        let part = cut(free, &room);
        let is_wanted = demands.fits(info, &ResourceRequest::from(&part), &part)
            // With more room it would be more than what was declined.
            && !self.filters.covers(member, agent, &part);
        if is_wanted {
            Use::Takes(part)
        } else if room == *most {
            // Only claims are in the way: when they go, the agent has changed.
            Use::None
        } else {
            Use::Bounded
        }
    }

    /// What claims of others leave of an agent; none if there are none.
    pub(super) fn unclaimed(
        &self,
        member: MemberId,
        agent: AgentId,
        amounts: &ResourceRequest,
    ) -> Option<ResourceRequest> {
        let claims = self.claims.get(&agent)?;
        let role = &self.members.get(&member)?.role;
        Some(amounts.saturating_sub(&claimed_from(claims, role)))
    }

    /// Whether a quota keeps a framework from all that it wants, on whatever agent.
    pub(super) fn is_full(&self, member: MemberId) -> bool {
        let (Some(demands), Some(node)) = (self.demands_of(member), self.roles.node_of(member))
        else {
            return false;
        };
        let mut open = demands.open();
        open.all(|shape| self.roles.blocks(node, self.agents.free(), &shape.request))
    }

    /// The smallest agent that meets some of a framework's open demand.
    pub(super) fn search(&self, state: &State, member: MemberId) -> Use<(AgentId, Resources)> {
        let (Some(demands), Some(node)) = (self.demands_of(member), self.roles.node_of(member))
        else {
            return Use::None;
        };
        let is_bounded = self.roles.is_bounded(node);
        let mut was_bounded = false;
        for shape in demands.open() {
            let free = self.agents.free();
            if is_bounded && self.roles.blocks(node, free, &shape.request) {
                was_bounded = true;
                continue;
            }
            let found = self.agents.find(shape, |agent| {
                match self.use_of(member, agent, &self.free_on(state, agent)) {
                    Use::Takes(resources) => Some((agent, resources)),
                    Use::Bounded => {
                        was_bounded = true;
                        None
                    }
                    Use::None => None,
                }
            });
            if let Some(found) = found {
                return Use::Takes(found);
            }
        }
        if was_bounded { Use::Bounded } else { Use::None }
    }

    /// Holds these resources of what is free on an agent for a framework,
    /// charges them and serves it.
    pub(super) fn offer(
        &mut self,
        state: &State,
        member: MemberId,
        agent: AgentId,
        resources: Resources,
        free: &mut Resources,
        now: Timestamp,
    ) -> Option<Decision> {
        let record = state.agent(agent)?;
        let known = self.members.get_mut(&member)?;
        let role = known.role.clone();
        let covered = known.demands.cover(&record.info, &resources);
        let is_hungry = known.demands.is_hungry();
        let amounts = ResourceRequest::from(&resources);
        self.roles.serve(member, &amounts, is_hungry);
        *free = free.saturating_sub(&resources);
        self.agents.take(agent, &amounts, free);
        let id = self.offers.mint();
        let offer = Offer {
            id,
            agent,
            hostname: record.info.hostname.clone(),
            resources: resources.clone(),
            attributes: record.info.attributes.clone(),
            role,
        };
        let outstanding = Outstanding {
            member,
            agent,
            resources,
            since: now,
            expires: now.after_millis(state.settings.settings.offer_timeout_ms),
            covered,
        };
        self.offers.insert(id, outstanding);
        Some(Decision::Offer(member.framework, offer))
    }
}
