//! Agents of which something is free that is not plain, by whom it is for.
//!
//! A class is a role that owns something, or revocable resources. An agent is in a class with all
//! that the role may have of it, what is plain and what roles above own included, so one search of
//! a class finds where a request may fit. Most agents are in none.

use std::collections::{BTreeMap, BTreeSet};

use tepui_types::resources::ResourceRequest;
use tepui_types::{AgentId, Resources, Role};

use super::blocks::Blocks;
use super::demands::Shape;
use super::traits::TraitsId;

/// A role that owns something; none for what is revocable.
type Class = Option<Role>;

/// What is free of one agent for each class.
pub(super) type Free = BTreeMap<Class, ResourceRequest>;

/// How [`Free`] is found.
pub(super) trait OfResources: Sized {
    /// Of what is free on an agent; none if it is plain.
    fn of(free: &Resources) -> Option<Box<Self>>;
}

impl OfResources for Free {
    fn of(free: &Resources) -> Option<Box<Self>> {
        if free.pools.is_empty() {
            return None;
        }
        let kinds = free.pools.iter().map(|pool| &pool.kind);
        let kinds = kinds.filter(|kind| kind.revocable || kind.owner().is_some());
        // What is revocable has no owner.
        let classes: BTreeSet<Option<&Role>> = kinds.map(|kind| kind.owner()).collect();
        let amounts = classes.into_iter().map(|class| {
            let class = class.cloned();
            let role = class.clone().unwrap_or_default();
            let usable = free.usable_by(&role, true);
            (class, ResourceRequest::plain(&usable.flat(true)))
        });
        Some(Box::new(amounts.collect()))
    }
}

/// The classes that have agents.
#[derive(Debug, Default)]
pub(super) struct Classes {
    /// Agents that searches find.
    listed: BTreeMap<Class, (Blocks, usize)>,
    /// How many there are, those that are just being served included.
    counts: BTreeMap<Class, usize>,
}

impl Classes {
    /// Takes an agent in.
    pub fn insert(&mut self, agent: AgentId, traits: TraitsId, free: &Free) {
        for (class, amounts) in free {
            let (blocks, count) = self.listed.entry(class.clone()).or_default();
            blocks.insert(agent, traits, amounts);
            *count += 1;
        }
    }

    /// Takes an agent out that was put in so.
    pub fn remove(&mut self, agent: AgentId, traits: TraitsId, free: &Free) {
        for (class, amounts) in free {
            let Some((blocks, count)) = self.listed.get_mut(class) else {
                continue;
            };
            blocks.remove(agent, traits, amounts);
            *count -= 1;
            if *count == 0 {
                self.listed.remove(class);
            }
        }
    }

    /// The first agent of which something is for a role, or revocable if the shape takes that, on
    /// which the shape may be met and that is accepted: the role's own before those of roles above.
    pub fn find<T>(
        &self,
        shape: &Shape,
        role: &Role,
        mut accept: impl FnMut(AgentId, TraitsId) -> Option<T>,
    ) -> Option<T> {
        if self.listed.is_empty() {
            return None;
        }
        let owners = role.upwards().map(Some);
        let mut classes = owners.chain(shape.revocable.then_some(None));
        classes.find_map(|class| {
            let (blocks, _) = self.listed.get(&class)?;
            blocks.find(&shape.request, &mut accept)
        })
    }

    /// Counts what is free of an agent, whether searches find it or not; or no longer.
    pub fn count(&mut self, free: &Free, is_there: bool) {
        for class in free.keys() {
            let count = self.counts.entry(class.clone()).or_default();
            *count = match is_there {
                true => *count + 1,
                false => count.saturating_sub(1),
            };
            if *count == 0 {
                self.counts.remove(class);
            }
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// Whether something is for a role and those below it.
    pub fn has(&self, role: &Role) -> bool {
        let has = |role| self.counts.contains_key(&Some(role));
        !self.counts.is_empty() && role.upwards().any(has)
    }
}
