//! One thing at a time with each attachment of a process.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, PoisonError};

use crate::id::AttachmentId;

/// The attachments that someone works on.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    taken: Mutex<BTreeSet<AttachmentId>>,
    given_back: Condvar,
}

/// Someone's turn; given back when dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    id: AttachmentId,
}

impl Turns {
    /// Waits until nobody else works on it. Whoever does is bounded by its plugins' time.
    pub fn take(&self, id: &AttachmentId) -> Turn<'_> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = self
            .given_back
            .wait_while(taken, |taken| taken.contains(id));
        taken
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id.clone());
        Turn {
            turns: self,
            id: id.clone(),
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let taken = self.turns.taken.lock();
        taken
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.id);
        self.turns.given_back.notify_all();
    }
}
