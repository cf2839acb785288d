//! Calls the allocator: whenever something has changed, or is due.
//!
//! One cycle takes in all that gathered since the last, so a burst costs one.

use std::time::Duration;

use tepui_cluster::{Changes, Decision};

use super::offers::Offers;
use crate::clock::Clock;
use crate::view::View;

/// Runs cycles over the leader's offers.
pub struct Allocation {
    offers: Offers,
    clock: Clock,
}

impl Allocation {
    /// Cycles over these offers.
    pub fn new(offers: Offers, clock: Clock) -> Self {
        Self { offers, clock }
    }

    /// One cycle, after `changes`.
    pub fn run(&self, view: &View, changes: &Changes) -> Vec<Decision> {
        self.offers.with(|allocator| {
            // Loaded under the lock: an offer that was answered before is used up
            // in this state.
            let state = view.load();
            allocator.on_changes(&state, changes);
            allocator.allocate(&state, self.clock.now())
        })
    }

    /// How long until an offer or a filter ends by itself; none if there is none.
    pub fn next_deadline(&self) -> Option<Duration> {
        let deadline = self.offers.with(|allocator| allocator.next_deadline())?;
        // A millisecond more, so that it is past when the timer fires.
        Some(Duration::from_millis(
            deadline.millis_since(self.clock.now()).saturating_add(1),
        ))
    }
}
