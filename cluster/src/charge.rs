//! What someone has, as roles are charged with it.
//!
//! What is reserved is charged to its owner and the roles above, whether it is used or not. So a
//! task is charged with what is beyond: of what was nobody's all of its path, of what an ancestor
//! owns the roles below that one. What several tasks have at a time is its owner's charge only, and
//! what is revocable is nobody's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tepui_types::resources::{PoolKind, ResourceRequest};
use tepui_types::{Resources, Role};

/// Amounts by the role that they are reserved for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    /// Reserved for nobody.
    pub open: ResourceRequest,
    /// Reserved, by owner. None is nothing.
    pub reserved: BTreeMap<Role, ResourceRequest>,
}

impl Charge {
    /// Of these resources.
    pub fn of(resources: &Resources) -> Self {
        let mut charge = Self {
            open: ResourceRequest::plain(resources),
            reserved: BTreeMap::new(),
        };
        let counted = |kind: &PoolKind| !kind.revocable && !kind.is_shared();
        for pool in resources.pools.iter().filter(|pool| counted(&pool.kind)) {
            let amounts = ResourceRequest::plain(&pool.amounts);
            match pool.kind.owner() {
                Some(owner) => charge
                    .reserved
                    .entry(owner.clone())
                    .or_default()
                    .add(&amounts),
                None => charge.open.add(&amounts),
            }
        }
        charge
    }

    /// All of it.
    pub fn total(&self) -> ResourceRequest {
        let mut total = self.open.clone();
        self.reserved.values().for_each(|part| total.add(part));
        total
    }

    /// As much of it as a role is charged with that has it, itself or through one below.
    pub fn at(&self, role: &Role) -> ResourceRequest {
        let mut charged = self.open.clone();
        let parts = self.reserved.iter();
        let parts = parts.filter(|(owner, _)| !owner.is_within(role));
        parts.for_each(|(_, part)| charged.add(part));
        charged
    }

    /// Takes another in.
    pub fn add(&mut self, other: &Self) {
        self.open.add(&other.open);
        for (owner, part) in &other.reserved {
            self.reserved.entry(owner.clone()).or_default().add(part);
        }
    }

    /// Takes one out that was taken in.
    pub fn sub(&mut self, other: &Self) {
        self.open = self.open.saturating_sub(&other.open);
        for (owner, part) in &other.reserved {
            if let Some(known) = self.reserved.get_mut(owner) {
                *known = known.saturating_sub(part);
            }
        }
        self.reserved.retain(|_, part| !part.is_empty());
    }
}

/// What is reserved, by owner.
pub fn reserved(resources: &Resources) -> BTreeMap<Role, ResourceRequest> {
    let mut owned: BTreeMap<Role, ResourceRequest> = BTreeMap::new();
    for pool in resources.pools.iter() {
        if let Some(owner) = pool.kind.owner() {
            let amounts = ResourceRequest::plain(&pool.amounts);
            match owned.get_mut(owner) {
                Some(sum) => sum.add(&amounts),
                None => _ = owned.insert(owner.clone(), amounts),
            }
        }
    }
    owned
}
