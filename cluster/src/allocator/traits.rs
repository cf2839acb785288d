//! Attributes that agents share, each set of them once.
//!
//! A constraint is tried once on each set while a demand looks for agents, not
//! once on each agent.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use tepui_types::constraint::Constraints;
use tepui_types::{AgentInfo, Attributes};

/// The most sets that are told apart: agents mostly have a zone, a rack and the
/// like. Past it constraints are tried on agents one by one.
const MOST: usize = 10_000;

/// A set of attributes; `NONE` is that of agents past the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TraitsId(u32);

/// Sets of attributes, by a digest first, so that sets are rarely compared. Ids are never used
/// again, so they stay good.
#[derive(Debug, Default)]
pub(super) struct Traits(BTreeMap<(u64, Attributes), TraitsId>);

impl TraitsId {
    /// Not told apart from others.
    pub const NONE: Self = Self(u32::MAX);
}

impl Traits {
    /// The id of an agent's attributes.
    pub fn of(&mut self, info: &AgentInfo) -> TraitsId {
        let mut digest = DefaultHasher::new();
        info.attributes.hash(&mut digest);
        let key = (digest.finish(), info.attributes.clone());
        if let Some(id) = self.0.get(&key) {
            return *id;
        }
        if self.0.len() >= MOST {
            return TraitsId::NONE;
        }
        // There are at most `MOST`.
        let id = TraitsId(self.0.len() as u32);
        self.0.insert(key, id);
        id
    }
}

/// What one search has found of constraints.
pub(super) struct Verdicts<'a> {
    constraints: &'a Constraints,
    names_hosts: bool,
    known: Vec<Option<bool>>,
}

impl<'a> Verdicts<'a> {
    /// Nothing yet.
    pub fn new(constraints: &'a Constraints) -> Self {
        Self {
            constraints,
            names_hosts: constraints.names_hosts(),
            known: Vec::new(),
        }
    }

    /// Whether an agent with these attributes will do.
    pub fn allow<'b>(
        &mut self,
        traits: TraitsId,
        info: impl FnOnce() -> Option<&'b AgentInfo>,
    ) -> bool {
        if self.constraints.is_empty() {
            return true;
        }
        let ask = || info().is_some_and(|info| self.constraints.hold_of(info));
        if self.names_hosts || traits == TraitsId::NONE {
            return ask();
        }
        let place = traits.0 as usize;
        if let Some(Some(known)) = self.known.get(place) {
            return *known;
        }
        let verdict = ask();
        if self.known.len() <= place {
            self.known.resize(place + 1, None);
        }
        self.known[place] = Some(verdict);
        verdict
    }
}
