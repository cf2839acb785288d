//! One cycle: what has changed is seen, what is no longer good is rescinded,
//! changed agents go to who is next, and reopened demands look for agents.

use std::collections::BTreeSet;

use tepui_types::offer::Filters as Decline;
use tepui_types::resources::ResourceRequest;
use tepui_types::{AgentId, FrameworkId, OfferId, Resources, Role, Timestamp};

use super::agents::Seen;
use super::demands::{Demands, Rules};
use super::members::{MemberId, members};
use super::offers::Outstanding;
use super::placement::Use;
use super::{Allocator, Decision};
use crate::charge::reserved;
use crate::effect::Changes;
use crate::state::State;
use crate::state::claims::{Claim, Taker, claimed_from};
use crate::state::frameworks::Framework;

impl Allocator {
    /// One cycle: what is overdue is rescinded, what is free and wanted is
    /// offered.
    pub fn allocate(&mut self, state: &State, now: Timestamp) -> Vec<Decision> {
        let mut decisions = Vec::new();
        if std::mem::take(&mut self.is_new) {
            self.look_at_all(state);
        } else if std::mem::take(&mut self.changed.settings) {
            // What was offered by other rules is shared out anew.
            self.look_at_all(state);
            self.stale.extend(self.offers.iter().map(|(id, _)| id));
        }
        self.see_frameworks(state);
        let changed = std::mem::take(&mut self.changed.agents);
        for agent in &changed {
            self.see_owners(state, *agent);
        }
        self.changed.agents = changed;
        self.rescind(state, now, &mut decisions);
        for (member, agent) in self.filters.expire(now) {
            self.changed.agents.insert(agent);
            self.reopened.insert(member);
        }
        let changed = std::mem::take(&mut self.changed.agents);
        let is_due = self.shadow_due().is_some_and(|due| due <= now);
        if changed.is_empty() && self.reopened.is_empty() && !self.gangs.is_open && !is_due {
            return decisions;
        }
        let mut seen = Vec::with_capacity(changed.len());
        for agent in changed {
            seen.push((agent, self.see_agent(state, agent)));
        }
        self.roles
            .set_total(self.agents.total(), &state.settings.settings.unshared);
        // What has come free may be room for who was kept from more.
        self.reopen_bounded();
        if !self.gangs.is_empty() || self.shadow.is_some() {
            self.gangs_first(state, &mut seen, now, &mut decisions);
        }
        let all = seen.len() >= self.agents.len();
        decisions.reserve(seen.len());
        for (agent, free) in seen {
            self.serve_agent(state, agent, free, now, &mut decisions);
            self.agents.list(agent);
        }
        if all {
            // Every agent has been looked at, for everybody.
            self.reopened.clear();
        }
        self.serve_demands(state, now, &mut decisions);
        while std::mem::take(&mut self.has_loosened) {
            self.reopen_bounded();
            self.serve_demands(state, now, &mut decisions);
        }
        decisions
    }

    /// Serves gangs before single demands; what they leave of changed agents is free then.
    fn gangs_first(
        &mut self,
        state: &State,
        seen: &mut [(AgentId, Resources)],
        now: Timestamp,
        decisions: &mut Vec<Decision>,
    ) {
        for (agent, _) in seen.iter() {
            self.agents.list(*agent);
        }
        self.serve_gangs(state, now, decisions);
        for (agent, free) in seen {
            *free = self.free_on(state, *agent);
            self.agents.unlist(*agent);
        }
    }

    /// Sees an agent between cycles. What was offered of it as it was before is
    /// rescinded in the next.
    pub(super) fn see_early(&mut self, state: &State, agent: AgentId) {
        let lost = self.lost_offers(state, agent);
        self.stale.extend(lost);
        self.see_owners(state, agent);
        self.see_agent(state, agent);
        self.agents.list(agent);
    }

    /// Sees an agent as it is now; answers what is free on it. With other attributes
    /// it is not what was declined.
    fn see_agent(&mut self, state: &State, agent: AgentId) -> Resources {
        let held = self.offers.held(agent);
        let record = state.agent(agent);
        let settings = &state.settings.settings;
        let (free, is) = self.agents.see(settings, agent, record, &held);
        match record.filter(|record| !record.claims.is_empty()) {
            Some(record) => _ = self.claims.insert(agent, record.claims.clone()),
            None => _ = self.claims.remove(&agent),
        }
        if is == Seen::Otherwise {
            self.filters.forget_agent(agent);
        }
        free
    }

    /// Charges roles with what is reserved for them on an agent, in place of what was. What is
    /// offered to a role that has come to have more than its limit so is taken back.
    fn see_owners(&mut self, state: &State, agent: AgentId) {
        let record = state.agent(agent);
        let total = record.map(|record| record.total());
        let after = total.filter(|total| !total.pools.is_empty()).map(reserved);
        let after = after.unwrap_or_default();
        if after.is_empty() && !self.owned.contains_key(&agent) {
            return;
        }
        let before = self.owned.remove(&agent).unwrap_or_default();
        if before != after {
            let nothing = ResourceRequest::default();
            for (role, amounts) in &before {
                let now = after.get(role).unwrap_or(&nothing);
                self.roles.set_owned(role, amounts, now);
            }
            for (role, amounts) in after.iter().filter(|(role, _)| !before.contains_key(role)) {
                self.roles.set_owned(role, &nothing, amounts);
            }
            let over = after.keys().flat_map(|role| self.roles.over_limit(role));
            let over: BTreeSet<Role> = over.collect();
            let offers = self.offers.iter().filter(|(_, offer)| {
                let member = self.members.get(&offer.member);
                member.is_some_and(|member| over.iter().any(|role| member.role.is_within(role)))
            });
            self.stale.extend(offers.map(|(id, _)| id));
        }
        if !after.is_empty() {
            self.owned.insert(agent, after);
        }
    }

    fn look_at_all(&mut self, state: &State) {
        self.changed.merge(Changes {
            agents: state.agents.keys().copied().collect(),
            frameworks: state.frameworks.keys().copied().collect(),
            roles: state.roles.keys().cloned().collect(),
            ..Changes::default()
        });
    }

    /// Sees roles and frameworks as they are now.
    fn see_frameworks(&mut self, state: &State) {
        let roles = std::mem::take(&mut self.changed.roles);
        if !roles.is_empty() {
            let mut set = state.roles.values();
            self.may_preempt = set.any(|record| record.settings.preemptible == Some(true));
            for role in &roles {
                let is_set = state.roles.contains_key(role);
                self.roles
                    .set_role(role, &state.role_settings(role), is_set);
            }
            // What was offered by other rules is shared out anew.
            let offers: Vec<_> = self.offers.iter().map(|(id, _)| id).collect();
            self.stale.extend(offers);
            self.reopened.extend(self.members.keys());
        }
        let changed = std::mem::take(&mut self.changed.frameworks);
        let mut charged = std::mem::take(&mut self.changed.charged);
        for framework in changed {
            charged.remove(&framework);
            self.see_framework(state, framework);
        }
        for framework in charged {
            self.see_use(state, framework);
        }
    }

    /// Sees a framework whose demand or phase is another.
    fn see_framework(&mut self, state: &State, id: FrameworkId) {
        let framework = state.framework(id);
        if framework.is_none_or(|framework| !framework.takes_turns()) {
            self.stale.extend(self.offers.of_framework(id));
        }
        let Some(framework) = framework else {
            let gone = self.members.range(MemberId::all_of(id));
            let gone: Vec<_> = gone.map(|(member, _)| *member).collect();
            for member in gone {
                let offers = self.gangs.forget(member);
                self.stale.extend(offers);
                self.roles.unseat(member);
                self.members.remove(&member);
                self.reopened.remove(&member);
                self.bounded.remove(&member);
                self.full.remove(&member);
            }
            return;
        };
        self.see_gangs(state, framework);
        for (member, role) in members(framework) {
            self.see_member(state, member, framework, role);
        }
        self.see_use(state, id);
    }

    /// Sees what a framework wants for one of its roles.
    fn see_member(&mut self, state: &State, id: MemberId, framework: &Framework, role: &Role) {
        self.roles.seat(id, role);
        let rules = Rules::of(&state.settings.settings, framework, role);
        let mut demands = Demands::of(framework, role, rules);
        let offers = self.offers.of_member(id);
        if !offers.is_empty() {
            self.recount(state, id, &mut demands, &offers);
        }
        let member = self.members.entry(id).or_default();
        (member.demands, member.role) = (demands, role.clone());
        let is_hungry = self.is_hungry(id);
        self.full.remove(&id);
        self.roles.set_hungry(id, is_hungry);
        self.reopened.insert(id);
    }

    /// Finds anew what a member's offers cover of what it wants now.
    fn recount(&mut self, state: &State, id: MemberId, demands: &mut Demands, offers: &[OfferId]) {
        let nothing = Demands::default();
        let before = self.members.get(&id).map(|member| &member.demands);
        let places = demands.places_of(before.unwrap_or(&nothing));
        let offered = |offer: &Outstanding| state.agent(offer.agent).map(|agent| &*agent.info);
        for id in offers {
            self.offers.recover(*id, |offer, covered| {
                let Some(agent) = offered(offer) else {
                    return covered.clear();
                };
                let known = covered.iter();
                let known = known.filter_map(|(at, count)| Some(((*places.get(*at)?)?, *count)));
                *covered = demands.keep(&offer.offered(agent), known);
            });
        }
        for id in offers {
            self.offers.recover(*id, |offer, covered| {
                if let Some(agent) = offered(offer).filter(|_| demands.is_hungry()) {
                    demands.cover_more(&offer.offered(agent), covered);
                }
            });
        }
    }

    /// Sees what a framework's tasks have.
    fn see_use(&mut self, state: &State, id: FrameworkId) {
        let Some(framework) = state.framework(id) else {
            return;
        };
        for ((id, _), used) in members(framework).zip(&framework.used) {
            let Some(member) = self.members.get_mut(&id) else {
                continue;
            };
            if member.used != *used {
                let before = std::mem::replace(&mut member.used, used.clone());
                self.roles.discharge(id, &before);
                self.roles.charge(id, used);
            }
        }
    }

    /// Takes back offers that are overdue, or whose agent or framework is no
    /// longer what it was.
    fn rescind(&mut self, state: &State, now: Timestamp, decisions: &mut Vec<Decision>) {
        for id in self.offers.overdue(now) {
            let Some(offer) = self.offers.get(id) else {
                continue;
            };
            let member = offer.member;
            decisions.push(Decision::Rescind(member.framework, id));
            // Who held an offer for so long has no use for it.
            let refuse_ms = match self.members.get_mut(&member) {
                Some(member) => {
                    let held_ms = offer.expires.millis_since(offer.since);
                    member.patience.expire(held_ms)
                }
                None => Decline::DEFAULT.refuse_ms,
            };
            let (agent, resources) = (offer.agent, offer.resources.clone());
            let until = now.after_millis(refuse_ms);
            self.filters.add(member, agent, resources, until);
            self.release(id);
        }
        let mut bad = std::mem::take(&mut self.stale);
        for agent in &self.changed.agents {
            bad.extend(self.lost_offers(state, *agent));
        }
        while !bad.is_empty() {
            for id in bad {
                if let Some(offer) = self.offers.get(id) {
                    decisions.push(Decision::Rescind(offer.member.framework, id));
                    self.release(id);
                }
            }
            // A gang's others go with it.
            bad = std::mem::take(&mut self.stale);
        }
    }

    /// Offers that an agent has no longer room for, each of them or, where it
    /// shrank, beside those before it. Where it did not, the use has grown by
    /// what one of the offers held, and that is about to be answered. An agent
    /// with other attributes is not what was offered.
    fn lost_offers(&self, state: &State, agent: AgentId) -> Vec<OfferId> {
        let mut offers = self.offers.of_agent(agent).peekable();
        if offers.peek().is_none() {
            return Vec::new();
        }
        let record = state.agent(agent);
        let is_resized = record.is_some_and(|record| self.agents.is_resized(record));
        let record = record.filter(|record| !self.agents.is_other(record));
        let mut left = record.map_or_else(Resources::default, |record| {
            self.agents
                .offerable(&state.settings.settings, record, &Resources::default())
        });
        let claims = record.map_or(&[][..], |record| &record.claims);
        let lost = offers.filter(|(_, offer)| match left.checked_sub(&offer.resources) {
            Ok(rest) if self.spares_claims(claims, offer, (&left, &rest)) => {
                if is_resized || !claims.is_empty() {
                    left = rest;
                }
                false
            }
            _ => true,
        });
        lost.map(|(id, _)| id).collect()
    }

    /// Whether an offer leaves what others have claimed of what is free.
    fn spares_claims(
        &self,
        claims: &[Claim],
        offer: &Outstanding,
        (free, rest): (&Resources, &Resources),
    ) -> bool {
        if claims.is_empty() {
            return true;
        }
        let Some(member) = self.members.get(&offer.member) else {
            return true;
        };
        let (framework, key) = (offer.member.framework, offer.gang.as_deref());
        let taker = Taker {
            role: &member.role,
            gang: key.map(|key| (framework, Some(key))),
        };
        let claimed = claimed_from(claims, taker, &ResourceRequest::plain(free));
        claimed.exceeds(&ResourceRequest::plain(rest)).is_none()
    }

    /// A quota has kept these from an agent. Whom it keeps from every agent
    /// leaves the order of service until there is room.
    fn note_bounded(&mut self, members: Vec<MemberId>) {
        for member in members {
            if self.is_full(member) {
                self.full.insert(member);
                self.roles.set_hungry(member, false);
            } else {
                self.bounded.insert(member);
            }
        }
    }

    /// Lets those for whom there may be room now look for agents.
    fn reopen_bounded(&mut self) {
        self.reopened.append(&mut self.bounded);
        let full = self.full.iter().copied();
        let roomy: Vec<_> = full.filter(|member| !self.is_full(*member)).collect();
        for member in roomy {
            self.full.remove(&member);
            self.roles.set_hungry(member, true);
            self.reopened.insert(member);
        }
    }

    /// Offers what is free on an agent: to one, or what one's quota leaves to the next.
    fn serve_agent(
        &mut self,
        state: &State,
        agent: AgentId,
        mut free: Resources,
        now: Timestamp,
        decisions: &mut Vec<Decision>,
    ) {
        while !free.is_empty() {
            let mut bounded = Vec::new();
            let next = self
                .roles
                .ask(|member| match self.use_of(member, agent, &free) {
                    Use::Takes(resources) => Some((member, resources)),
                    Use::Bounded => {
                        bounded.push(member);
                        None
                    }
                    Use::None => None,
                });
            self.note_bounded(bounded);
            let Some((member, resources)) = next else {
                return;
            };
            let Some(decision) =
                self.offer(state, member, agent, (resources, None), &mut free, now)
            else {
                return;
            };
            decisions.push(decision);
        }
    }

    /// Lets reopened demands look for agents, in the order of service.
    fn serve_demands(&mut self, state: &State, now: Timestamp, decisions: &mut Vec<Decision>) {
        while !self.reopened.is_empty() {
            let (mut bounded, mut vain) = (Vec::new(), Vec::new());
            let next = self.roles.ask(|member| {
                if !self.reopened.contains(&member) {
                    return None;
                }
                let found = self.search(state, member);
                match found {
                    Use::Takes((agent, resources)) => return Some((member, agent, resources)),
                    Use::Bounded => bounded.push(member),
                    Use::None => {}
                }
                vain.push(member);
                None
            });
            self.note_bounded(bounded);
            for member in vain {
                self.reopened.remove(&member);
            }
            let Some((member, agent, resources)) = next else {
                self.reopened.clear();
                return;
            };
            let mut free = self.free_on(state, agent);
            self.agents.unlist(agent);
            let decision = self.offer(state, member, agent, (resources, None), &mut free, now);
            self.agents.list(agent);
            if decision.is_none() {
                self.reopened.remove(&member);
            }
            decisions.extend(decision);
        }
    }
}
