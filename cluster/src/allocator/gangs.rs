//! Gangs that wait, and their offers: all of a gang's or none.
//!
//! A gang is placed on a copy of what the agents that it touches have free, and
//! only a whole plan becomes offers, so one that does not fit holds nothing.
//! When one of its offers ends the others are taken back, unless they ended with
//! it. Gangs are looked at before single demands, in the order of service, the
//! oldest of a member first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tepui_types::gang::{Gang, GangShare};
use tepui_types::resources::ResourceRequest;
use tepui_types::{AgentId, Demand, OfferId, Resources, Role, Timestamp};

use super::demands::{Rules, Shape};
use super::members::{MemberId, members};
use super::plan::{Plan, Quota};
use super::quota::cut;
use super::{Allocator, Decision};
use crate::state::State;
use crate::state::frameworks::{Framework, GangEntry};

/// Gangs that one cycle tries to place: a few milliseconds' worth, far more than
/// a cluster has waiting.
const TRIES: usize = 256;

/// Agents among which a gang is placed that does not fit on the smallest: as many
/// as it has tasks at most.
const AGENTS: usize = Gang::MAX_TASKS as usize;

/// The gangs of all members, by key.
#[derive(Debug, Default)]
pub(super) struct Gangs {
    table: BTreeMap<MemberId, BTreeMap<Arc<str>, Waiting>>,
    /// Whether one is new or has lost its offers since the last look.
    pub is_open: bool,
}

/// One gang.
#[derive(Debug)]
pub(super) struct Waiting {
    pub key: Arc<str>,
    pub gang: Arc<Gang>,
    since: Timestamp,
    /// What each part asks for.
    pub shapes: Vec<Shape>,
    /// What it is offered; nothing while it waits.
    offers: BTreeSet<OfferId>,
}

impl Gangs {
    /// Whether any gang of a member waits for offers.
    pub fn wait_for(&self, member: MemberId) -> bool {
        let gangs = self.table.get(&member);
        gangs.is_some_and(|gangs| gangs.values().any(|waiting| waiting.offers.is_empty()))
    }

    /// Whether there are any at all.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// One of a gang's offers has ended; answers those that must end with it.
    pub fn released(&mut self, member: MemberId, key: &str, offer: OfferId) -> Vec<OfferId> {
        let gangs = self.table.get_mut(&member);
        let Some(waiting) = gangs.and_then(|gangs| gangs.get_mut(key)) else {
            return Vec::new();
        };
        waiting.offers.remove(&offer);
        self.is_open |= waiting.offers.is_empty();
        waiting.offers.iter().copied().collect()
    }

    /// The gang under a key.
    pub fn get(&self, member: MemberId, key: &str) -> Option<&Waiting> {
        self.table.get(&member)?.get(key)
    }

    /// Forgets a member's; answers the offers that they had.
    pub fn forget(&mut self, member: MemberId) -> Vec<OfferId> {
        let gangs = self.table.remove(&member).unwrap_or_default();
        let gangs = gangs.into_values();
        gangs.flat_map(|waiting| waiting.offers).collect()
    }

    /// Takes what a member wants now; answers offers that are no longer good.
    fn see<'a>(
        &mut self,
        member: MemberId,
        wanted: impl Iterator<Item = (&'a Arc<str>, &'a GangEntry)>,
        rules: Rules<'_>,
    ) -> Vec<OfferId> {
        let mut before = self.table.remove(&member).unwrap_or_default();
        let (mut gangs, mut gone) = (BTreeMap::new(), Vec::new());
        for (key, entry) in wanted {
            let offers = match before.remove(key) {
                Some(known) if known.since == entry.since && known.gang == entry.gang => {
                    known.offers
                }
                known => {
                    self.is_open = true;
                    gone.extend(known.into_iter().flat_map(|known| known.offers));
                    BTreeSet::new()
                }
            };
            let waiting = Waiting {
                key: key.clone(),
                gang: entry.gang.clone(),
                since: entry.since,
                shapes: shapes(&entry.gang, rules),
                offers,
            };
            gangs.insert(key.clone(), waiting);
        }
        if !gangs.is_empty() {
            self.table.insert(member, gangs);
        }
        gone.extend(before.into_values().flat_map(|waiting| waiting.offers));
        gone
    }

    /// A member's that wait for offers, the oldest first.
    pub fn of(&self, member: MemberId) -> Vec<&Waiting> {
        let gangs = self.table.get(&member);
        let gangs = gangs.into_iter().flat_map(BTreeMap::values);
        let mut waiting: Vec<_> = gangs.filter(|waiting| waiting.is_waiting()).collect();
        waiting.sort_by_key(|waiting| (waiting.since, &waiting.key));
        waiting
    }
}

impl Waiting {
    /// Whether it has no offers.
    pub fn is_waiting(&self) -> bool {
        self.offers.is_empty()
    }
}

/// What each part of a gang asks for.
fn shapes(gang: &Gang, rules: Rules<'_>) -> Vec<Shape> {
    let parts = gang.parts.iter();
    let demands = parts.map(|part| Demand {
        constraints: part.constraints.clone(),
        ..Demand::new(part.count, part.request.clone())
    });
    demands.map(|demand| Shape::of(&demand, rules)).collect()
}

impl Allocator {
    /// Whether a member is to be asked at all.
    pub(super) fn is_hungry(&self, member: MemberId) -> bool {
        let known = self.members.get(&member);
        known.is_some_and(|known| known.demands.is_hungry()) || self.gangs.wait_for(member)
    }

    /// Sees which gangs a framework wants.
    pub(super) fn see_gangs(&mut self, state: &State, framework: &Framework) {
        if framework.gangs.is_empty() && self.gangs.is_empty() {
            return;
        }
        for (member, role) in members(framework) {
            let wants = framework.wants_offers(role);
            let gangs = framework.gangs.iter();
            let wanted =
                gangs.filter(|(_, entry)| wants && framework.role_of_gang(&entry.gang) == role);
            let rules = Rules::of(&state.settings.settings, framework, role);
            let gone = self.gangs.see(member, wanted, rules);
            self.stale.extend(gone);
        }
    }

    /// Offers what whole gangs need, in the order of service.
    pub(super) fn serve_gangs(
        &mut self,
        state: &State,
        now: Timestamp,
        decisions: &mut Vec<Decision>,
    ) {
        self.gangs.is_open = false;
        // Gangs that are alike have the same answer.
        let mut vain: Vec<(MemberId, Arc<Gang>)> = Vec::new();
        let mut tries = TRIES;
        // The first that does not fit is the next that is waited for.
        let mut first: Option<(MemberId, Arc<str>)> = None;
        loop {
            let next = self.roles.ask(|member| {
                let gangs = self.gangs.of(member).into_iter();
                let mut plans = gangs.filter_map(|waiting| {
                    let key = &waiting.key;
                    let is_vain = |(who, gang): &(MemberId, Arc<Gang>)| {
                        *who == member && *gang == waiting.gang
                    };
                    if tries == 0 || vain.iter().any(is_vain) {
                        return None;
                    }
                    tries -= 1;
                    let plan = self.plan_gang(state, member, waiting);
                    if plan.is_none() {
                        first.get_or_insert_with(|| (member, key.clone()));
                        vain.push((member, waiting.gang.clone()));
                    }
                    Some((member, key.clone(), plan?))
                });
                plans.next()
            });
            let Some((member, key, plan)) = next else {
                break;
            };
            self.offer_gang(state, member, &key, plan, now, decisions);
        }
        self.cast_shadow(state, first, now);
    }

    /// Where all of a gang goes, if it goes anywhere.
    fn plan_gang(&self, state: &State, member: MemberId, waiting: &Waiting) -> Option<Plan> {
        let is_next = self.starts_by(member.framework, &waiting.key).is_some();
        let quota = self.quota_of(member, self.agents.free());
        let total = waiting.gang.total();
        if quota.as_ref().is_some_and(|quota| quota.keeps_out(&total)) {
            return None;
        }
        if let Some(plan) = self.plan_on_claims(state, member, waiting, quota.as_ref()) {
            return Some(plan);
        }
        // The smallest agents that will do keep the large ones whole; where that does
        // not work out, the largest take the most together.
        let role = self.members.get(&member)?.role.clone();
        let smallest = |shape: &Shape, plan: &Plan, owned: bool| {
            self.agents.find(shape, &role, owned, |agent| {
                let is_kept = !is_next && self.backfill_on(agent).is_some();
                let is_new = !is_kept && !plan.has(agent);
                let free = is_new.then(|| self.free_for(state, member, waiting, agent, shape));
                free.flatten().map(|free| (agent, free))
            })
        };
        let plan = self.fill(waiting, quota.as_ref(), smallest);
        plan.or_else(|| {
            let mut agents = self.largest_first(state, member, waiting);
            agents.retain(|agent| is_next || self.backfill_on(*agent).is_none());
            let largest = |shape: &Shape, plan: &Plan, owned: bool| {
                let new = agents.iter().filter(|agent| !plan.has(**agent));
                let mut new = new.filter(|agent| !owned || self.agents.is_pooled(**agent));
                new.find_map(|agent| {
                    let free = self.free_for(state, member, waiting, *agent, shape)?;
                    Some((*agent, free))
                })
            };
            self.fill(waiting, quota.as_ref(), largest)
        })
    }

    /// The quota that a member has to keep to while so much is free, if there is any.
    pub(super) fn quota_of<'a>(
        &'a self,
        member: MemberId,
        free: &'a ResourceRequest,
    ) -> Option<Quota<'a>> {
        let (roles, node) = (&self.roles, self.roles.node_of(member)?);
        let is_bounded = roles.is_bounded(node);
        is_bounded.then_some(Quota { roles, node, free })
    }

    /// Agents on which any task of a gang fits, the largest first.
    fn largest_first(&self, state: &State, member: MemberId, waiting: &Waiting) -> Vec<AgentId> {
        let mut agents = BTreeMap::new();
        let known = self.members.get(&member);
        let role = known.map_or_else(Role::default, |known| known.role.clone());
        for shape in &waiting.shapes {
            self.agents.find(shape, &role, false, |agent| {
                if let Some(free) = self.free_for(state, member, waiting, agent, shape) {
                    let free = free.flat(false);
                    agents.insert(agent, (free.gpu_milli(), free.cpus, free.mem));
                }
                (agents.len() >= AGENTS).then_some(())
            });
        }
        let mut agents: Vec<_> = agents.into_iter().collect();
        agents.sort_by_key(|(agent, amounts)| (Reverse(*amounts), *agent));
        agents.into_iter().map(|(agent, _)| agent).collect()
    }

    /// What a member may have of an agent, if that is enough for one task of a gang.
    pub(super) fn free_for(
        &self,
        state: &State,
        member: MemberId,
        waiting: &Waiting,
        agent: AgentId,
        shape: &Shape,
    ) -> Option<Resources> {
        let (info, amounts) = self.agents.known(agent)?;
        let free = self.free_on(state, agent);
        let free = match self.unclaimed(member, Some(&waiting.key), agent, amounts) {
            Some(left) => cut(&free, &left),
            None => free,
        };
        let role = &self.members.get(&member)?.role;
        let usable = free.usable_by(role, false).into_owned();
        let one = usable.pick(&shape.request).ok()?;
        let fits = shape.fits(info, &ResourceRequest::from(&usable), &usable);
        (fits && !self.filters.covers(member, agent, &one)).then_some(usable)
    }

    /// Holds what a plan takes for a gang.
    fn offer_gang(
        &mut self,
        state: &State,
        member: MemberId,
        key: &Arc<str>,
        plan: Plan,
        now: Timestamp,
        decisions: &mut Vec<Decision>,
    ) {
        let mut offers = BTreeSet::new();
        for (agent, spot) in plan.spots {
            let what = spot.granted();
            let share = GangShare {
                key: key.to_string(),
                parts: spot.parts,
            };
            let mut free = self.free_on(state, agent);
            self.agents.unlist(agent);
            let what = (what, Some(share));
            let offer = self.offer(state, member, agent, what, &mut free, now);
            self.agents.list(agent);
            if let Some(Decision::Offer(_, offer)) = &offer {
                offers.insert(offer.id);
            }
            decisions.extend(offer);
        }
        let gangs = self.gangs.table.get_mut(&member);
        if let Some(waiting) = gangs.and_then(|gangs| gangs.get_mut(key)) {
            waiting.offers = offers;
        }
        let is_hungry = self.is_hungry(member);
        self.roles.set_hungry(member, is_hungry);
    }
}
