//! What operations have made of an agent's resources: reservations and volumes.
//!
//! They are laid over what the agent declares, whenever it registers, for both may have changed
//! meanwhile. An agent that has less than is reserved on it keeps all reservations and offers
//! nothing, until some are taken back or it has more again.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tepui_types::resources::{Disk, Pool, Pools, ResourceRequest};
use tepui_types::wire::agent::{TaskVolume, VolumeList};
use tepui_types::{AgentId, OperationId, Resources, Role};

use crate::charge;
use crate::state::State;
use crate::state::agents::Agent;
use crate::state::restore;
use crate::state::roles::RoleUse;
use crate::state::tasks::Task;

/// An agent's resources with what operations have made of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Converted {
    /// The pools that they made.
    pub pools: Pools,
    /// All that there is, these included.
    pub total: Resources,
    /// What the agent has too little of for these pools.
    pub short: Option<String>,
    /// Which operation made each volume.
    pub made_by: BTreeMap<String, OperationId>,
}

impl Converted {
    /// These pools laid over what an agent declares; none without pools.
    pub fn lay(
        declared: &Resources,
        pools: &Pools,
        made_by: &BTreeMap<String, OperationId>,
    ) -> Option<Arc<Self>> {
        if pools.is_empty() {
            return None;
        }
        let under = declared_of(pools);
        let (rest, short) = match declared.checked_sub(&under) {
            Ok(rest) => (rest, None),
            Err(short) => (declared.saturating_sub(&under), Some(short.to_string())),
        };
        let made = Resources {
            pools: pools.clone(),
            ..Resources::default()
        };
        // What operations made is of other kinds than what agents declare.
        let total = rest.checked_add(&made).unwrap_or(rest);
        Some(Arc::new(Self {
            pools: pools.clone(),
            total,
            short,
            made_by: made_by.clone(),
        }))
    }

    /// Resources as operations have left them; none if those are what was declared.
    pub(super) fn of(
        declared: &Resources,
        total: Resources,
        made_by: BTreeMap<String, OperationId>,
    ) -> Option<Arc<Self>> {
        let pools = total.pools.filtered(|kind| *kind != kind.declared());
        if pools.is_empty() {
            return None;
        }
        debug_assert!(declared.contains(&declared_of(&pools)));
        Some(Arc::new(Self {
            pools,
            total,
            short: None,
            made_by,
        }))
    }
}

/// What agents declare of these pools.
fn declared_of(pools: &Pools) -> Resources {
    let mut under = Resources::default();
    let mut special: Vec<Pool> = Vec::new();
    for pool in pools.iter() {
        let kind = pool.kind.declared();
        if kind.is_plain() {
            under = under.checked_add(&pool.amounts).unwrap_or(under);
            continue;
        }
        let amounts = pool.amounts.clone();
        special.push(Pool { kind, amounts });
    }
    under.pools = Pools::try_from(special).unwrap_or_default();
    under
}

impl Agent {
    /// All that it lends, as operations have left it.
    pub fn total(&self) -> &Resources {
        match &self.converted {
            Some(converted) => &converted.total,
            None => &self.info.resources,
        }
    }

    /// What it has too little of for what is reserved on it.
    pub fn short(&self) -> Option<&str> {
        self.converted.as_ref()?.short.as_deref()
    }
}

impl State {
    /// All volumes of an agent, if it has or had some.
    pub(super) fn volume_list(&self, agent: &Agent) -> Option<VolumeList> {
        let made_by = agent.converted.as_ref().map(|converted| &converted.made_by);
        let kept: Vec<_> = made_by
            .into_iter()
            .flat_map(BTreeMap::values)
            .copied()
            .collect();
        let has_some = agent.had_volumes || !kept.is_empty();
        has_some.then_some(VolumeList {
            kept,
            from: restore::first_index_of_epoch(self.index),
            to: self.index,
        })
    }

    /// The volumes of a task, as its agent knows them.
    pub(super) fn volumes_of(&self, task: &Task) -> Vec<TaskVolume> {
        let agent = self.agents.get(&task.agent);
        let converted = agent.and_then(|agent| agent.converted.as_ref());
        let pools = task.resources.pools.iter();
        let volumes = pools.filter_map(|pool| {
            let volume = pool.kind.volume.as_ref()?;
            Some(TaskVolume {
                made_by: *converted?.made_by.get(&volume.id)?,
                disk: pool.kind.disk.as_ref().map(|disk| disk.id().to_owned()),
                path: volume.path.clone(),
                bytes: match pool.kind.disk {
                    Some(Disk::Mount(_)) => None,
                    Some(Disk::Path(_)) | None => Some(pool.amounts.disk),
                },
            })
        });
        volumes.collect()
    }

    /// Counts what an agent lends that is new, and charges the roles for which it has something.
    pub(super) fn count_agent(&mut self, agent: &Agent) {
        self.change_lent(&ResourceRequest::default(), &agent.total().into());
        for (role, part) in charge::reserved(agent.total()) {
            charge(&mut self.role_use, &role, &part);
        }
    }

    /// Takes the count of an agent back that is none any more.
    pub(super) fn discount_agent(&mut self, agent: &Agent) {
        self.change_lent(&agent.total().into(), &ResourceRequest::default());
        for (role, part) in charge::reserved(agent.total()) {
            discharge(&mut self.role_use, &role, &part);
        }
    }

    /// Gives an agent's resources another form, and charges the roles that own some of them.
    pub(super) fn set_converted(&mut self, id: AgentId, change: impl FnOnce(&mut Agent)) {
        let Some(agent) = self.agents.get_mut(&id) else {
            return;
        };
        let counts = |agent: &Agent| {
            let total = agent.total();
            (ResourceRequest::from(total), charge::reserved(total))
        };
        let (lent_before, before) = counts(agent);
        let agent = Arc::make_mut(agent);
        change(agent);
        let (lent, after) = counts(agent);
        self.change_lent(&lent_before, &lent);
        if before != after {
            before
                .iter()
                .for_each(|(role, part)| discharge(&mut self.role_use, role, part));
            after
                .iter()
                .for_each(|(role, part)| charge(&mut self.role_use, role, part));
        }
    }
}

/// Charges a role that owns something, and those above it.
pub(super) fn charge(charged: &mut RoleUse, owner: &Role, amounts: &ResourceRequest) {
    for role in owner.upwards() {
        Arc::make_mut(charged.entry(role).or_default()).add(amounts);
    }
}

/// Takes such a charge back.
pub(super) fn discharge(charged: &mut RoleUse, owner: &Role, amounts: &ResourceRequest) {
    for role in owner.upwards() {
        let Some(used) = charged.get_mut(&role) else {
            continue;
        };
        let rest = used.saturating_sub(amounts);
        if rest.is_empty() {
            charged.remove(&role);
        } else {
            *used = Arc::new(rest);
        }
    }
}
