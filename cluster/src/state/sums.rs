//! Why no sum of resources leaves its type.
//!
//! Sums are kept by adding and taking away. One that was cut off at the end of its type would be
//! another after the next end of a task, and another again on a master that has counted anew. So what
//! is added up is bounded where it enters: what all agents lend together, what tasks of a role have,
//! and what is guaranteed to all roles. Whatever else is summed, offers among it, is a part of these.

use std::sync::Arc;

use imbl::OrdMap;
use tepui_types::resources::ResourceRequest;
use tepui_types::{AgentId, AgentInfo, Reason, Role, task::reason};

use crate::charge::Charge;
use crate::outcome::Rejection;
use crate::state::State;
use crate::state::agents::Agent;
use crate::state::reservations::Converted;

/// The most of one resource in each of these sums: an eighth of what 64 bits hold, for a role is
/// charged with what is reserved for it, its tasks and its offers, and once more while one changes.
pub const MOST: u64 = 1 << 61;

/// What agents lend together. Follows from the agents: not stored.
pub(super) fn derive(agents: &OrdMap<AgentId, Arc<Agent>>) -> ResourceRequest {
    let mut lent = ResourceRequest::default();
    agents
        .values()
        .for_each(|agent| lent.include(agent.total()));
    lent
}

/// What makes a sum more than can be counted.
pub(super) fn too_much<'a>(had: &ResourceRequest, more: &'a ResourceRequest) -> Option<&'a str> {
    let mut more = more.entries();
    let is_too_much = |(name, amount): &(&str, u64)| {
        let sum = had.amount(name).saturating_add(*amount);
        sum > MOST
    };
    more.find(is_too_much).map(|(name, _)| name)
}

/// The bound, as people write it.
pub(super) fn most(name: &str) -> String {
    ResourceRequest::show_amount(name, MOST)
}

impl State {
    /// An agent lends something else than before.
    pub(super) fn change_lent(&mut self, before: &ResourceRequest, after: &ResourceRequest) {
        self.lent = self.lent.saturating_sub(before);
        self.lent.add(after);
    }

    /// What all agents lend can be counted when one says this of itself.
    pub(super) fn check_lent(
        &self,
        known: Option<AgentId>,
        info: &AgentInfo,
    ) -> Result<(), Rejection> {
        let known = known.and_then(|id| self.agents.get(&id));
        let (mut others, mut lays) = (self.lent.clone(), None);
        if let Some(agent) = known {
            others.exclude(agent.total());
            let made = agent.converted.as_ref();
            lays =
                made.and_then(|made| Converted::lay(&info.resources, &made.pools, &made.made_by));
        }
        let lent = lays.as_ref().map_or(&info.resources, |laid| &laid.total);
        match too_much(&others, &ResourceRequest::from(lent)) {
            Some(name) => Err(Rejection::Limit(format!(
                "the cluster's agents would lend more than {} {name} together, which is the most that \
                 is counted: lend less of it",
                most(name)
            ))),
            None => Ok(()),
        }
    }

    /// Why what tasks of a role have could not be counted any more with this.
    pub(super) fn uncountable(&self, role: &Role, charge: &Charge) -> Option<Reason> {
        let top = role.upwards().last()?;
        let had = self.role_use.get(&top)?;
        let more = charge.at(&top);
        let name = too_much(had, &more)?;
        let why = format!(
            "role `{top}` would have more than {} {name}, which is the most that is counted",
            most(name)
        );
        Some(Reason::new(reason::QUOTA_REACHED, why))
    }
}
