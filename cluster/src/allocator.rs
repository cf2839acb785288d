//! The allocator: whose turn it is to be offered what.
//!
//! Outstanding offers and filters are the leader's soft state: losing them is
//! always safe. The allocator follows the state by [`Changes`] and looks only
//! at what has changed since: between two cycles no open demand has an agent
//! that could meet it, and only an agent with more free, or a demand that is
//! open anew, can change that. Roles, and frameworks inside a role, take turns
//! by weighted dominant share (Ghodsi et al., "Dominant Resource Fairness",
//! NSDI 2011). An agent's free resources go whole to one framework, unless a
//! limit or the guarantees of others cut them.
//! `docs/decisions/0007-allocator.md` says why it is built so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tepui_types::offer::Filters as Decline;
use tepui_types::resources::ResourceRequest;
use tepui_types::{AgentId, FrameworkId, Offer, OfferId, Resources, Role, Timestamp};

use crate::charge::Charge;
use crate::effect::Changes;
use crate::state::State;
use crate::state::claims::Claim;

mod agents;
mod blocks;
mod classes;
mod cycle;
pub(crate) mod demands;
mod filters;
mod gangs;
mod members;
mod offers;
mod patience;
mod placement;
mod plan;
mod preemption;
mod quota;
mod reasons;
mod role_tree;
mod shadow;
mod shares;
pub(crate) mod tally;
mod traits;
mod volumes;

use agents::Agents;
use filters::Filters;
use gangs::Gangs;
use members::{Member, MemberId};
use offers::Offers;
pub use patience::Holding;
use role_tree::RoleTree;
use shadow::Shadow;
pub use shares::{Share, dominant_share};

/// What the allocator has decided; the leader tells the frameworks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all decisions are offers, and a box for each would cost a full cycle"
)]
pub enum Decision {
    /// Hold these resources for this framework and tell it.
    Offer(FrameworkId, Offer),
    /// Tell this framework that an offer is no longer good.
    Rescind(FrameworkId, OfferId),
}

/// Outstanding offers, filters, indexes, and what has changed since the last cycle.
#[derive(Debug)]
pub struct Allocator {
    agents: Agents,
    roles: RoleTree,
    members: BTreeMap<MemberId, Member>,
    offers: Offers,
    filters: Filters,
    gangs: Gangs,
    /// What is kept for the gang that is next.
    shadow: Option<Shadow>,
    /// The gang whose start was looked for last and not found, and when.
    vain_look: (Option<(MemberId, Arc<str>)>, Timestamp),
    /// What is reserved for whom, by agents that have something reserved.
    owned: BTreeMap<AgentId, BTreeMap<Role, ResourceRequest>>,
    /// To be looked at in the next cycle.
    changed: Changes,
    /// Whose demand is open anew: they look for agents.
    reopened: BTreeSet<MemberId>,
    /// Hungry ones that a quota has kept from an agent.
    bounded: BTreeSet<MemberId>,
    /// With open demand that a quota keeps from every agent: they are not in the
    /// order of service.
    full: BTreeSet<MemberId>,
    /// Whether less is laid away since what is reserved was offered: there may be room for these.
    has_loosened: bool,
    /// Offers that were made by other rules, or to who is no more: to be rescinded.
    stale: BTreeSet<OfferId>,
    /// What is claimed on agents for roles below their guarantee.
    claims: BTreeMap<AgentId, Vec<Claim>>,
    /// Whether tasks of any role may be ended for others.
    may_preempt: bool,
    /// Nothing has been looked at yet.
    is_new: bool,
}

impl Allocator {
    /// At the beginning of a term: nothing is outstanding, all is to be looked at.
    pub fn new() -> Self {
        Self {
            agents: Agents::default(),
            roles: RoleTree::new(),
            members: BTreeMap::new(),
            offers: Offers::default(),
            filters: Filters::default(),
            gangs: Gangs::default(),
            shadow: None,
            vain_look: (None, Timestamp::default()),
            owned: BTreeMap::new(),
            changed: Changes::default(),
            reopened: BTreeSet::new(),
            bounded: BTreeSet::new(),
            full: BTreeSet::new(),
            has_loosened: false,
            stale: BTreeSet::new(),
            claims: BTreeMap::new(),
            may_preempt: false,
            is_new: true,
        }
    }

    /// Notes what a delivery of commands has changed.
    pub fn on_changes(&mut self, state: &State, changes: &Changes) {
        for (framework, role) in &changes.revived {
            let framework = state.framework(*framework);
            let member = framework.and_then(|framework| MemberId::of(framework, Some(role)));
            if let Some(member) = member {
                self.filters.revive(member);
            }
        }
        for framework in &changes.frameworks {
            if state.framework(*framework).is_none() {
                self.filters.forget_framework(*framework);
            }
        }
        if self.is_new {
            // All of it is looked at anyway.
            return;
        }
        self.changed.agents.extend(&changes.agents);
        self.changed.frameworks.extend(&changes.frameworks);
        self.changed.charged.extend(&changes.charged);
        self.changed.roles.extend(changes.roles.iter().cloned());
        self.changed.settings |= changes.settings;
    }

    /// Notes that an agent has lost its connection to the leader, or has it again.
    pub fn set_away(&mut self, agent: AgentId, is_away: bool) {
        if self.agents.set_away(agent, is_away) {
            self.changed.agents.insert(agent);
        }
    }

    /// The offers were used up, or given back without a filter.
    pub fn answered(&mut self, offers: &[OfferId]) {
        for id in offers {
            let member = self.offers.get(*id).map(|offer| offer.member);
            let member = member.and_then(|member| self.members.get_mut(&member));
            if let Some(member) = member {
                member.patience.answered();
            }
            self.release(*id);
        }
    }

    /// Lets an offer go: what it held is free, and what it covered is open.
    fn release(&mut self, id: OfferId) {
        let Some(offer) = self.offers.remove(id) else {
            return;
        };
        self.changed.agents.insert(offer.agent);
        self.roles
            .discharge(offer.member, &Charge::of(&offer.resources));
        if let Some(key) = &offer.gang {
            // The rest is of no use without it.
            let others = self.gangs.released(offer.member, key, id);
            self.stale.extend(others);
        }
        if let Some(member) = self.members.get_mut(&offer.member) {
            member.demands.uncover(&offer.covered);
            let is_hungry = self.is_hungry(offer.member);
            self.full.remove(&offer.member);
            self.roles.set_hungry(offer.member, is_hungry);
            self.reopened.insert(offer.member);
        }
    }

    /// The offers were declined: nothing of them returns for a while.
    pub fn decline(&mut self, offers: &[OfferId], refuse_ms: u64, now: Timestamp) {
        let until = now.after_millis(refuse_ms.min(Decline::MAX_REFUSE_MS));
        for offer in offers {
            if let Some(offer) = self.offers.get(*offer) {
                let resources = offer.resources.clone();
                self.filters
                    .add(offer.member, offer.agent, resources, until);
            }
        }
        self.answered(offers);
    }

    /// When something happens by itself next: an offer or a filter ends, or a forecast has aged.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let ends = [
            self.offers.next_end(),
            self.filters.next_end(),
            self.shadow_due(),
        ];
        ends.into_iter().flatten().min()
    }

    /// What outstanding offers hold of an agent.
    pub fn offered_on(&self, agent: AgentId) -> Resources {
        self.offers.held(agent)
    }

    /// What outstanding offers hold together.
    pub fn offered_total(&self) -> ResourceRequest {
        self.offers.total().clone()
    }

    /// What a framework holds by offers, and how often it let one expire.
    pub fn holding(&self, framework: FrameworkId) -> Holding {
        let mut holding = Holding::default();
        let ids = self.offers.of_framework(framework);
        for offer in ids.into_iter().filter_map(|id| self.offers.get(id)) {
            holding.offers += 1;
            holding.resources.include(&offer.resources);
            let since = holding.since.get_or_insert(offer.since);
            *since = (*since).min(offer.since);
        }
        let members = self.members.range(MemberId::all_of(framework));
        holding.expired = members.map(|(_, member)| member.patience.expired()).sum();
        holding
    }

    /// What outstanding offers hold for each of these roles and those below it.
    pub fn offered_to(&self, roles: &[Role]) -> Vec<ResourceRequest> {
        let mut offered = BTreeMap::<Role, ResourceRequest>::new();
        for (_, offer) in self.offers.iter() {
            let member = self.members.get(&offer.member);
            for role in member.into_iter().flat_map(|member| member.role.upwards()) {
                offered.entry(role).or_default().include(&offer.resources);
            }
        }
        let roles = roles.iter();
        roles
            .map(|role| offered.remove(role).unwrap_or_default())
            .collect()
    }
}

impl Default for Allocator {
    fn default() -> Self {
        Self::new()
    }
}
