//! The leader's offers: the allocator, shared by those who ask it and tell it.
//!
//! Sections under its lock are short: nobody waits or does I/O in one.

use std::sync::{Arc, Mutex, PoisonError};

use tepui_cluster::{Allocator, State};
use tepui_types::{AgentId, OfferId};
use tokio::sync::Notify;

use crate::agents::Sessions;
use crate::clock::Clock;
use crate::frameworks::Answered;

/// Clones share the allocator.
#[derive(Clone)]
pub struct Offers(Arc<Shared>);

struct Shared {
    allocator: Mutex<Allocator>,
    changed: Notify,
    clock: Clock,
}

impl Offers {
    /// None are outstanding; filters end by this clock.
    pub fn new(clock: Clock) -> Self {
        Self(Arc::new(Shared {
            allocator: Mutex::default(),
            changed: Notify::new(),
            clock,
        }))
    }

    /// Asks or tells the allocator something, quickly.
    pub fn with<R>(&self, f: impl FnOnce(&mut Allocator) -> R) -> R {
        f(&mut self
            .0
            .allocator
            .lock()
            .unwrap_or_else(PoisonError::into_inner))
    }

    /// The offers were used up, or are given back without a filter.
    pub fn answered(&self, offers: &[OfferId]) {
        self.with(|allocator| allocator.answered(offers));
        self.0.changed.notify_one();
    }

    /// A turn has answered these.
    pub fn settle(&self, answered: &Answered) {
        if !answered.used.is_empty() {
            self.answered(&answered.used);
        }
        for (refuse_ms, offers) in &answered.declined {
            self.decline(offers, *refuse_ms);
        }
    }

    /// The offers were declined for so many milliseconds.
    pub fn decline(&self, offers: &[OfferId], refuse_ms: u64) {
        let now = self.0.clock.now();
        self.with(|allocator| allocator.decline(offers, refuse_ms, now));
        self.0.changed.notify_one();
    }

    /// An agent has come or gone: only those that are here are offered.
    pub fn note_presence(&self, agent: AgentId, sessions: &Sessions) {
        // Looked up under the lock, so that of two that look the later one is right.
        self.with(|allocator| allocator.set_away(agent, !sessions.connected(agent)));
        self.0.changed.notify_one();
    }

    /// A term begins: nothing is outstanding, and agents are away until they connect.
    pub fn begin(&self, state: &State, sessions: &Sessions) {
        self.reset();
        for agent in state.agents.keys() {
            self.note_presence(*agent, sessions);
        }
    }

    /// A term ends: nothing is outstanding.
    pub fn reset(&self) {
        self.with(|allocator| *allocator = Allocator::new());
    }

    /// Waits until someone has answered offers since the last call.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }
}
