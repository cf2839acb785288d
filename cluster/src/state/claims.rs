//! Claims: what was taken back on an agent and waits for its role.
//!
//! Nobody else is offered what is claimed, or launches on it, until it is used or its time is over.
//! A claim for a gang says which tasks of it it is for: all claims of a gang together are the whole
//! gang, and they go when it is wanted no more.

use std::sync::Arc;

use imbl::OrdSet;
use serde::{Deserialize, Serialize};
use tepui_types::gang::GangShare;
use tepui_types::resources::ResourceRequest;
use tepui_types::{AgentId, FrameworkId, Resources, Role, Timestamp};

use crate::state::State;
use crate::state::agents::Agent;
use crate::state::context::Context;
use crate::state::deadlines::Deadline;

/// What was taken back on an agent and waits for its role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Whose; roles below it may use it, too.
    pub role: Role,
    /// The gang that alone may use it, if it is for one.
    pub gang: Option<GangClaim>,
    /// How much.
    pub amounts: ResourceRequest,
    /// Until when.
    pub until: Timestamp,
}

/// What a claim is of a gang's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GangClaim {
    /// Whose gang.
    pub framework: FrameworkId,
    /// Which, and which tasks of it.
    pub share: GangShare,
}

/// Who takes something of an agent.
#[derive(Debug, Clone, Copy)]
pub struct Taker<'a> {
    /// For which role.
    pub role: &'a Role,
    /// For a gang: whose, and under which key if that is known.
    pub gang: Option<(FrameworkId, Option<&'a str>)>,
}

impl<'a> Taker<'a> {
    /// A single task, or an operation.
    pub fn single(role: &'a Role) -> Self {
        Self { role, gang: None }
    }
}

impl Claim {
    /// Whether this is who may use it.
    pub fn is_for(&self, taker: Taker<'_>) -> bool {
        let is_its = |gang: &GangClaim| {
            taker.gang.is_some_and(|(framework, key)| {
                gang.is_of(framework) && key.is_none_or(|key| gang.share.key == key)
            })
        };
        taker.role.is_within(&self.role) && self.gang.as_ref().is_none_or(is_its)
    }
}

impl GangClaim {
    fn is_of(&self, framework: FrameworkId) -> bool {
        self.framework == framework
    }
}

/// What these claims keep from someone of what is free. Where that is not enough for all of them it
/// is for those that were made first, so that nobody waits for what others wait for.
pub fn claimed_from(claims: &[Claim], taker: Taker<'_>, free: &ResourceRequest) -> ResourceRequest {
    let (mut left, mut sum) = (free.clone(), ResourceRequest::default());
    for claim in claims {
        let rest = left.saturating_sub(&claim.amounts);
        if !claim.is_for(taker) {
            sum.add(&left.saturating_sub(&rest));
        }
        left = rest;
    }
    sum
}

impl State {
    /// What is claimed for a role and those below it, on all agents.
    pub fn claimed_for(&self, role: &Role) -> ResourceRequest {
        let mut sum = ResourceRequest::default();
        let claims = self.claims().filter(|claim| claim.role.is_within(role));
        claims.for_each(|claim| sum.add(&claim.amounts));
        sum
    }

    /// All claims.
    pub fn claims(&self) -> impl Iterator<Item = &Claim> {
        let agents = self.claimed_agents();
        let agents = agents.filter_map(|id| self.agents.get(&id));
        agents.flat_map(|agent| &agent.claims)
    }

    /// Whether something is claimed for a framework's gang.
    pub fn has_claims_for(&self, framework: FrameworkId, key: &str) -> bool {
        let mut gangs = self.claims().filter_map(|claim| claim.gang.as_ref());
        gangs.any(|gang| gang.is_of(framework) && gang.share.key == key)
    }

    /// Agents with claims.
    pub fn claimed_agents(&self) -> impl Iterator<Item = AgentId> {
        self.claimed_agents.iter().copied()
    }

    /// What is claimed for a role is used by what it launches. What is claimed for a gang stays
    /// until that is wanted no more, for a launch does not say of which gang it is.
    pub(super) fn use_claims(
        &mut self,
        context: &mut Context,
        agent: AgentId,
        role: &Role,
        resources: &Resources,
    ) {
        if !self.claimed_agents.contains(&agent) {
            return;
        }
        let mut used = ResourceRequest::plain(&resources.flat(false));
        let mut claims = self.claims_on(agent);
        let taker = Taker::single(role);
        for claim in claims.iter_mut().filter(|claim| claim.is_for(taker)) {
            let rest = claim.amounts.saturating_sub(&used);
            used = used.saturating_sub(&claim.amounts);
            claim.amounts = rest;
        }
        self.set_claims(context, agent, claims);
    }

    /// Claims whose time is over are given up.
    pub(super) fn end_claims(&mut self, context: &mut Context, agent: AgentId) {
        let mut claims = self.claims_on(agent);
        claims.retain(|claim| claim.until > context.now);
        self.set_claims(context, agent, claims);
    }

    /// What is claimed for a gang that is wanted no more is given up.
    pub(super) fn end_gang_claims(
        &mut self,
        context: &mut Context,
        framework: FrameworkId,
        key: &str,
    ) {
        for agent in self.claimed_agents.clone() {
            let mut claims = self.claims_on(agent);
            claims.retain(|claim| {
                let gang = claim.gang.as_ref();
                !gang.is_some_and(|gang| gang.is_of(framework) && gang.share.key == key)
            });
            self.set_claims(context, agent, claims);
        }
    }

    /// Claims more on an agent.
    pub(super) fn add_claim(&mut self, context: &mut Context, agent: AgentId, claim: Claim) {
        let mut claims = self.claims_on(agent);
        claims.push(claim);
        self.set_claims(context, agent, claims);
    }

    fn claims_on(&self, agent: AgentId) -> Vec<Claim> {
        let agent = self.agents.get(&agent);
        agent.map_or_else(Vec::new, |agent| agent.claims.clone())
    }

    /// Gives an agent other claims; the one place where that happens.
    pub(super) fn set_claims(
        &mut self,
        context: &mut Context,
        id: AgentId,
        mut claims: Vec<Claim>,
    ) {
        claims.retain(|claim| !claim.amounts.is_empty());
        let Some(agent) = self.agents.get_mut(&id) else {
            return;
        };
        if agent.claims == claims {
            return;
        }
        let agent = Arc::make_mut(agent);
        for claim in &agent.claims {
            self.deadlines.remove(&(claim.until, Deadline::Claims(id)));
        }
        for claim in &claims {
            self.deadlines.insert((claim.until, Deadline::Claims(id)));
        }
        match claims.is_empty() {
            true => self.claimed_agents.remove(&id),
            false => self.claimed_agents.insert(id),
        };
        agent.claims = claims;
        agent.revision = context.index;
        context.changes.agents.insert(id);
    }
}

/// Agents with claims. Follows from the agents: not stored.
pub(super) fn derive<'a>(agents: impl Iterator<Item = &'a Arc<Agent>>) -> OrdSet<AgentId> {
    let claimed = agents.filter(|agent| !agent.claims.is_empty());
    claimed.map(|agent| agent.id).collect()
}
