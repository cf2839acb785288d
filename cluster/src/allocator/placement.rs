//! Agents × frameworks → offers: what a framework may have of an agent.

use std::cmp::Reverse;

use tepui_types::gang::GangShare;
use tepui_types::resources::{Pool, Pools, ResourceRequest};
use tepui_types::{AgentId, Offer, Resources, Role, Timestamp};

use super::demands::{Covered, Demands, Offered};
use super::members::MemberId;
use super::offers::Outstanding;
use super::quota::cut;
use super::role_tree::NodeIndex;
use super::{Allocator, Decision};
use crate::charge::Charge;
use crate::state::State;
use crate::state::claims::{Taker, claimed_from};

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

    /// What a framework gets of what is free on an agent. If that is kept for a gang, only what was
    /// taken back for the framework's role, or for what ends before the gang starts.
    pub(super) fn use_of(
        &self,
        member: MemberId,
        agent: AgentId,
        free: &Resources,
    ) -> Use<Resources> {
        if self.backfill_on(agent).is_some()
            && let Some(claimed) = self.claimed_for(member, agent)
        {
            return self.use_of_free(member, agent, &cut(free, &claimed));
        }
        let within = self.backfill_on(agent);
        if within.is_some() {
            let (Some(demands), Some((info, amounts))) =
                (self.demands_of(member), self.agents.known(agent))
            else {
                return Use::None;
            };
            let mut short = demands.open().filter(|shape| shape.ends_within(within));
            if !short.any(|shape| shape.fits(info, amounts, free)) {
                return Use::None;
            }
        }
        self.use_of_free(member, agent, free)
    }

    fn use_of_free(&self, member: MemberId, agent: AgentId, free: &Resources) -> Use<Resources> {
        let (Some(demands), Some(node)) = (self.demands_of(member), self.roles.node_of(member))
        else {
            return Use::None;
        };
        let Some((info, amounts)) = self.agents.known(agent) else {
            return Use::None;
        };
        if !free.pools.is_empty() {
            return self.use_of_pools(member, agent, free);
        }
        if !demands.fits(info, amounts, free) || self.filters.covers(member, agent, free) {
            return Use::None;
        }
        let unclaimed = self.unclaimed(member, None, agent, amounts);
        let most = unclaimed.as_ref().unwrap_or(amounts);
        if unclaimed.is_none() && !self.roles.is_bounded(node) {
            return Use::Takes(free.clone());
        }
        let room = self.roles.room(node, self.agents.free(), most);
        if room == *amounts {
            return Use::Takes(free.clone());
        }
        // If only claims are in the way: when they go, the agent has changed.
        self.wanted(member, agent, cut(free, &room), room == *most)
    }

    /// The same of an agent of which not all is plain: what others own is not for it, and what it
    /// owns is charged already.
    fn use_of_pools(&self, member: MemberId, agent: AgentId, free: &Resources) -> Use<Resources> {
        let (Some(demands), Some(node), Some((info, amounts))) = (
            self.demands_of(member),
            self.roles.node_of(member),
            self.agents.known(agent),
        ) else {
            return Use::None;
        };
        let role = self.roles.role_at(node);
        let usable = free.usable_by(&role, demands.takes_revocable());
        if usable.is_empty()
            || !demands.fits(info, amounts, &usable)
            || self.filters.covers(member, agent, &usable)
        {
            return Use::None;
        }
        let amounts = ResourceRequest::plain(&usable);
        let unclaimed = self.unclaimed(member, None, agent, &amounts);
        if unclaimed.is_none() && !self.roles.is_bounded(node) {
            return Use::Takes(usable.into_owned());
        }
        let most = unclaimed.as_ref().unwrap_or(&amounts);
        let room = self.roles.room(node, self.agents.free(), most);
        let is_claimed = unclaimed.is_some() && room == *most;
        let part = self.bounded_part(node, &usable, &room);
        if part == *usable {
            return Use::Takes(part);
        }
        self.wanted(member, agent, part, is_claimed)
    }

    /// What limits leave of resources that are not all plain, and `room` of what is: first of what
    /// is reserved, as tasks take it.
    fn bounded_part(
        &self,
        node: NodeIndex,
        usable: &Resources,
        room: &ResourceRequest,
    ) -> Resources {
        let mut owned: Vec<&Pool> = usable.pools.iter().collect();
        owned.sort_by_key(|pool| Reverse(pool.kind.owner().map(Role::depth)));
        let (owned, open): (Vec<&Pool>, Vec<&Pool>) = owned
            .into_iter()
            .partition(|pool| pool.kind.owner().is_some());
        let (mut part, mut given) = (Resources::default(), Charge::default());
        let mut give = |pool: &Pool, given: &mut Charge| {
            let amounts = ResourceRequest::plain(&pool.amounts);
            let owner = pool.kind.owner();
            let room = match pool.kind.revocable {
                true => amounts.clone(),
                false => self.roles.limit_room(node, owner, &amounts, given),
            };
            let amounts = match amounts.fits_in(&room) {
                true => pool.amounts.clone(),
                // What is whole is not cut.
                false if pool.kind.is_whole() => return,
                false => cut(&pool.amounts, &room),
            };
            let kind = pool.kind.clone();
            let pools = Pools::from(Pool { kind, amounts });
            given.add(&Charge::of(&Resources {
                pools: pools.clone(),
                ..Resources::default()
            }));
            part.pools = part.pools.checked_add(&pools).unwrap_or_default();
        };
        owned.into_iter().for_each(|pool| give(pool, &mut given));
        let room = self.roles.limit_room(node, None, room, &given);
        let plain = cut(usable, &room);
        given.add(&Charge::of(&plain));
        open.into_iter().for_each(|pool| give(pool, &mut given));
        Resources {
            pools: part.pools,
            ..plain
        }
    }

    /// What a quota or others' claims have left to a framework, if it can use that.
    fn wanted(
        &self,
        member: MemberId,
        agent: AgentId,
        part: Resources,
        is_claimed: bool,
    ) -> Use<Resources> {
        let (Some(demands), Some((info, _))) = (self.demands_of(member), self.agents.known(agent))
        else {
            return Use::None;
        };
        let is_wanted = demands.fits(info, &ResourceRequest::plain(&part), &part)
            // With more room it would be more than what was declined.
            && !self.filters.covers(member, agent, &part);
        if is_wanted {
            Use::Takes(part)
        } else if is_claimed {
            Use::None
        } else {
            Use::Bounded
        }
    }

    /// What claims of others leave of an agent for a member, or for its gang under a key; none if
    /// there are none.
    pub(super) fn unclaimed(
        &self,
        member: MemberId,
        gang: Option<&str>,
        agent: AgentId,
        amounts: &ResourceRequest,
    ) -> Option<ResourceRequest> {
        let claims = self.claims.get(&agent)?;
        let role = &self.members.get(&member)?.role;
        let gang = gang.map(|key| (member.framework, Some(key)));
        let claimed = claimed_from(claims, Taker { role, gang }, amounts);
        Some(amounts.saturating_sub(&claimed))
    }

    /// What is claimed on an agent for a member's single tasks, if anything is.
    pub(super) fn claimed_for(&self, member: MemberId, agent: AgentId) -> Option<ResourceRequest> {
        let claims = self.claims.get(&agent)?;
        let taker = Taker::single(&self.members.get(&member)?.role);
        let claims = claims.iter().filter(|claim| claim.is_for(taker));
        let sums = claims.map(|claim| claim.amounts.clone());
        sums.reduce(|mut sum, amounts| {
            sum.add(&amounts);
            sum
        })
    }

    /// Whether a quota keeps a framework from all that it wants, on whatever agent.
    pub(super) fn is_full(&self, member: MemberId) -> bool {
        let (Some(demands), Some(node)) = (self.demands_of(member), self.roles.node_of(member))
        else {
            return false;
        };
        let owns = || self.agents.has_owned(&self.roles.role_at(node));
        if self.gangs.wait_for(member) || (self.agents.has_classes() && owns()) {
            return false;
        }
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
        let role = self.roles.role_at(node);
        let mut was_bounded = false;
        for shape in demands.open() {
            let free = self.agents.free();
            let is_blocked = is_bounded && self.roles.blocks(node, free, &shape.request);
            was_bounded |= is_blocked;
            if is_blocked && !self.agents.has_owned(&role) {
                continue;
            }
            let found = self.agents.find(shape, &role, is_blocked, |agent| {
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
        (resources, gang): (Resources, Option<GangShare>),
        free: &mut Resources,
        now: Timestamp,
    ) -> Option<Decision> {
        let record = state.agent(agent)?;
        let of_single = gang.is_none();
        let backfill = self.backfill_for(member, agent).filter(|_| of_single);
        let (within_ms, until) = backfill.unzip();
        let known = self.members.get_mut(&member)?;
        let role = known.role.clone();
        let covered = match &gang {
            Some(_) => Covered::new(),
            None => known.demands.cover(&Offered {
                agent: &record.info,
                resources: &resources,
                within_ms,
            }),
        };
        let is_hungry = self.is_hungry(member);
        let charge = Charge::of(&resources);
        self.roles.serve(member, &charge, is_hungry);
        // It meets guarantees, and nothing that is everybody's is taken for it.
        self.has_loosened |= !charge.reserved.is_empty();
        *free = free.saturating_sub(&resources);
        self.agents.take(agent, free);
        let id = self.offers.mint();
        let offer = Offer {
            id,
            agent,
            hostname: record.info.hostname.clone(),
            resources: resources.clone(),
            attributes: record.info.attributes.clone(),
            role,
            gang: gang.map(Box::new),
            until,
        };
        let outstanding = Outstanding {
            member,
            agent,
            resources,
            since: now,
            expires: now.after_millis(state.settings.settings.offer_timeout_ms),
            covered,
            within_ms,
            gang: offer.gang.as_ref().map(|share| share.key.as_str().into()),
        };
        self.offers.insert(id, outstanding);
        Some(Decision::Offer(member.framework, offer))
    }
}
