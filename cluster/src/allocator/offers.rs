//! Outstanding offers: soft state of the leader.
//!
//! An offer lives from a cycle until it is answered, rescinded or expired.
//! Losing one is safe: nothing runs without a committed command.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tepui_types::resources::ResourceRequest;
use tepui_types::{AgentId, AgentInfo, FrameworkId, OfferId, Resources, Timestamp};

use super::demands::{Covered, Offered};
use super::members::MemberId;

/// An offer that has not been answered.
#[derive(Debug, Clone)]
pub struct Outstanding {
    pub member: MemberId,
    pub agent: AgentId,
    pub resources: Resources,
    pub since: Timestamp,
    pub expires: Timestamp,
    /// What of its framework's demand it can meet.
    pub covered: Covered,
    /// Milliseconds within which what is launched on it has to end, as it was made.
    pub within_ms: Option<u64>,
    /// The gang that it is a part of.
    pub gang: Option<Arc<str>>,
}

impl Outstanding {
    /// What it is of its agent.
    pub fn offered<'a>(&'a self, agent: &'a AgentInfo) -> Offered<'a> {
        Offered {
            agent,
            resources: &self.resources,
            within_ms: self.within_ms,
        }
    }
}

/// Outstanding offers, found by what concerns them.
#[derive(Debug, Default)]
pub struct Offers {
    table: BTreeMap<OfferId, Outstanding>,
    by_agent: BTreeSet<(AgentId, OfferId)>,
    by_member: BTreeSet<(MemberId, OfferId)>,
    by_end: BTreeSet<(Timestamp, OfferId)>,
    total: ResourceRequest,
    last: u64,
}

impl Offers {
    /// The next offer's id.
    pub fn mint(&mut self) -> OfferId {
        self.last += 1;
        OfferId(self.last)
    }

    /// Holds an offer.
    pub fn insert(&mut self, id: OfferId, offer: Outstanding) {
        self.by_agent.insert((offer.agent, id));
        self.by_member.insert((offer.member, id));
        self.by_end.insert((offer.expires, id));
        self.total.include(&offer.resources);
        self.table.insert(id, offer);
    }

    /// Lets an offer go.
    pub fn remove(&mut self, id: OfferId) -> Option<Outstanding> {
        let offer = self.table.remove(&id)?;
        self.by_agent.remove(&(offer.agent, id));
        self.by_member.remove(&(offer.member, id));
        self.by_end.remove(&(offer.expires, id));
        self.total.exclude(&offer.resources);
        Some(offer)
    }

    /// An offer.
    pub fn get(&self, id: OfferId) -> Option<&Outstanding> {
        self.table.get(&id)
    }

    /// All, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (OfferId, &Outstanding)> {
        self.table.iter().map(|(id, offer)| (*id, offer))
    }

    /// Those of an agent.
    pub fn of_agent(&self, agent: AgentId) -> impl Iterator<Item = (OfferId, &Outstanding)> {
        let all = (agent, OfferId(0))..=(agent, OfferId(u64::MAX));
        let ids = self.by_agent.range(all).map(|(_, id)| *id);
        ids.filter_map(|id| Some((id, self.table.get(&id)?)))
    }

    /// Those of a member, oldest first.
    pub fn of_member(&self, member: MemberId) -> Vec<OfferId> {
        let all = (member, OfferId(0))..=(member, OfferId(u64::MAX));
        self.by_member.range(all).map(|(_, id)| *id).collect()
    }

    /// Those of a framework in all its roles, by role.
    pub fn of_framework(&self, framework: FrameworkId) -> Vec<OfferId> {
        let members = MemberId::all_of(framework);
        let all = (*members.start(), OfferId(0))..=(*members.end(), OfferId(u64::MAX));
        self.by_member.range(all).map(|(_, id)| *id).collect()
    }

    /// Changes what of its framework's demand an offer covers; that of a gang covers none.
    pub fn recover(&mut self, id: OfferId, recover: impl FnOnce(&Outstanding, &mut Covered)) {
        if let Some(offer) = self.table.get_mut(&id)
            && offer.gang.is_none()
        {
            let mut covered = std::mem::take(&mut offer.covered);
            recover(offer, &mut covered);
            offer.covered = covered;
        }
    }

    /// What offers hold of an agent.
    pub fn held(&self, agent: AgentId) -> Resources {
        sum(self.of_agent(agent).map(|(_, offer)| offer))
    }

    /// What offers to others than this member hold of an agent.
    pub fn held_by_others(&self, agent: AgentId, member: MemberId) -> Resources {
        let offers = self.of_agent(agent).map(|(_, offer)| offer);
        sum(offers.filter(|offer| offer.member != member))
    }

    /// What offers hold together.
    pub fn total(&self) -> &ResourceRequest {
        &self.total
    }

    /// Those whose time is over.
    pub fn overdue(&self, now: Timestamp) -> Vec<OfferId> {
        let ended = self.by_end.iter().take_while(|(end, _)| *end <= now);
        ended.map(|(_, id)| *id).collect()
    }

    /// When the next one ends.
    pub fn next_end(&self) -> Option<Timestamp> {
        self.by_end.first().map(|(end, _)| *end)
    }
}

fn sum<'a>(offers: impl Iterator<Item = &'a Outstanding>) -> Resources {
    offers.fold(Resources::default(), |sum, offer| {
        // Offers of one agent never overlap, so they add up.
        sum.checked_add(&offer.resources).unwrap_or(sum)
    })
}
