//! What applied commands leave for the leader's loop.
//!
//! The log's thread fills it while this master leads; the leader's loop empties it. It is bounded
//! by merging: changes are sets, and past a cap of effects it says `overflowed`, upon which the
//! leader derives what is owed from the state again. Losing it with the leadership is safe for the
//! same reason.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tepui_cluster::{Changes, Effect};
use tokio::sync::Notify;

/// Effects kept for the leader's loop: tens of turns of the largest size. A launch with its own
/// specification takes some hundred bytes, so they stay under about 50 MiB.
const EFFECTS: usize = 65_536;

/// What the leader's loop has to look at.
#[derive(Debug, Default)]
pub struct Delivery {
    /// What to tell agents, in the log's order; [`Effect::Agent`] and [`Effect::Recorded`] only.
    pub effects: Vec<Effect>,
    /// What has changed.
    pub changes: Changes,
    /// Whether effects were lost: derive them from the state.
    pub overflowed: bool,
}

impl Delivery {
    fn is_empty(&self) -> bool {
        self.effects.is_empty() && self.changes.is_empty() && !self.overflowed
    }

    fn merge(&mut self, effects: Vec<Effect>, changes: Changes) {
        self.changes.merge(changes);
        if self.effects.len() + effects.len() > EFFECTS {
            self.effects.clear();
            self.overflowed = true;
        } else if !self.overflowed {
            self.effects.extend(effects);
        }
    }
}

/// The mailbox; clones share it. One loop takes from it.
#[derive(Clone, Default)]
pub struct Mailbox(Arc<Shared>);

#[derive(Default)]
struct Shared {
    inner: Mutex<Inner>,
    filled: Notify,
}

#[derive(Default)]
struct Inner {
    leading: bool,
    delivery: Delivery,
}

impl Mailbox {
    /// What has gathered since the last call; waits until there is something. May be cancelled
    /// without loss.
    pub async fn take(&self) -> Delivery {
        loop {
            let filled = self.0.filled.notified();
            let delivery = mem::take(&mut self.0.inner().delivery);
            if !delivery.is_empty() {
                return delivery;
            }
            filled.await;
        }
    }

    /// Begins to gather, with nothing in it: what came before is in the state.
    pub(crate) fn lead(&self) {
        *self.0.inner() = Inner {
            leading: true,
            delivery: Delivery::default(),
        };
    }

    /// Stops to gather.
    pub(crate) fn stop_leading(&self) {
        *self.0.inner() = Inner::default();
    }

    pub(crate) fn deliver(&self, effects: Vec<Effect>, changes: Changes) {
        let mut inner = self.0.inner();
        if !inner.leading {
            return;
        }
        inner.delivery.merge(effects, changes);
        let is_filled = !inner.delivery.is_empty();
        // Whoever is woken takes the lock at once.
        drop(inner);
        if is_filled {
            self.0.filled.notify_one();
        }
    }
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tepui_types::{AgentId, FrameworkId};

    fn recorded(agent: u64, times: usize) -> Vec<Effect> {
        vec![Effect::Recorded(AgentId(agent), Vec::new()); times]
    }

    fn changed(framework: u64) -> Changes {
        let mut changes = Changes::default();
        changes.frameworks.insert(FrameworkId(framework));
        changes
    }

    #[tokio::test]
    async fn deliveries_merge_until_they_are_taken() {
        let mailbox = Mailbox::default();
        mailbox.lead();
        mailbox.deliver(recorded(1, 1), changed(1));
        mailbox.deliver(recorded(2, 1), changed(2));
        let delivery = mailbox.take().await;
        assert_eq!(delivery.effects.len(), 2);
        assert_eq!(delivery.changes.frameworks.len(), 2);
        assert!(!delivery.overflowed);
        let waiting = tokio::spawn({
            let mailbox = mailbox.clone();
            async move { mailbox.take().await }
        });
        mailbox.deliver(recorded(3, 1), Changes::default());
        assert_eq!(waiting.await.unwrap().effects, recorded(3, 1));
    }

    #[tokio::test]
    async fn past_the_cap_it_says_so_and_keeps_the_changes() {
        let mailbox = Mailbox::default();
        mailbox.lead();
        mailbox.deliver(recorded(1, EFFECTS), changed(1));
        mailbox.deliver(recorded(1, 1), changed(2));
        mailbox.deliver(recorded(1, 1), changed(3));
        let delivery = mailbox.take().await;
        assert!(delivery.overflowed && delivery.effects.is_empty());
        assert_eq!(delivery.changes.frameworks.len(), 3);
    }

    #[tokio::test]
    async fn only_a_leader_gathers() {
        let mailbox = Mailbox::default();
        mailbox.deliver(recorded(1, 1), Changes::default());
        mailbox.lead();
        mailbox.deliver(recorded(2, 1), Changes::default());
        assert_eq!(mailbox.take().await.effects, recorded(2, 1));
    }
}
