//! What one command does beside changing the tables.

use std::collections::BTreeMap;

use tepui_types::api::event::{Event, EventBody, Sequence};
use tepui_types::{OperationId, Timestamp};

use crate::effect::{Applied, Changes, Effect};
use crate::outcome::{Outcome, Rejection};

/// Collects the consequences of one command while it is applied.
pub struct Context {
    pub index: u64,
    pub now: Timestamp,
    pub effects: Vec<Effect>,
    pub changes: Changes,
    /// Of tasks that got their place by this command, for how many milliseconds the last one had it.
    pub paces: BTreeMap<OperationId, u64>,
    events: Vec<Event>,
    operations: u32,
}

impl Context {
    pub fn new(index: u64, now: Timestamp) -> Self {
        Self {
            index,
            now,
            effects: Vec::new(),
            changes: Changes::default(),
            paces: BTreeMap::new(),
            events: Vec::new(),
            operations: 0,
        }
    }

    /// For what is only tried, on a copy: its operations are nobody's.
    pub fn trial(index: u64, now: Timestamp) -> Self {
        Self {
            operations: 1 << 31,
            ..Self::new(index, now)
        }
    }

    pub fn event(&mut self, body: EventBody) {
        // A command has far fewer events than there are ordinals.
        let ordinal = self.events.len() as u32;
        let sequence = Sequence {
            index: self.index,
            ordinal,
        };
        self.events.push(Event {
            sequence,
            time: self.now,
            body,
        });
    }

    /// The next operation's id.
    pub fn operation(&mut self) -> OperationId {
        let ordinal = self.operations;
        self.operations += 1;
        OperationId {
            index: self.index,
            ordinal,
        }
    }

    /// Refuses what was asked of an earlier revision (If-Match).
    pub fn check_revision(&self, expected: Option<u64>, actual: u64) -> Result<(), Rejection> {
        match expected {
            Some(expected) if expected != actual => Err(Rejection::Revision { expected, actual }),
            _ => Ok(()),
        }
    }

    pub fn finish(self, outcome: Outcome) -> Applied {
        Applied {
            outcome,
            effects: self.effects,
            events: self.events,
            changes: self.changes,
        }
    }
}
