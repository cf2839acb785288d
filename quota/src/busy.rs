//! One caller a folder at a time: what two threads do with one name is done one after the other.
//!
//! Other processes are kept away by the agent's lock on its data folder.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The names that somebody is at.
#[derive(Debug, Default)]
pub(crate) struct Busy {
    names: Mutex<BTreeSet<String>>,
    freed: Condvar,
}

/// A name that is this caller's until it goes.
#[derive(Debug)]
pub(crate) struct Hold<'a> {
    busy: &'a Busy,
    name: String,
}

impl Busy {
    /// Waits until nobody else is at the name.
    pub fn hold(&self, name: &str) -> Hold<'_> {
        let mut names = self.lock();
        while names.contains(name) {
            let waited = self.freed.wait(names);
            names = waited.unwrap_or_else(PoisonError::into_inner);
        }
        names.insert(name.to_owned());
        Hold {
            busy: self,
            name: name.to_owned(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        // A set of names is whole whatever panicked.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.busy.lock().remove(&self.name);
        self.busy.freed.notify_all();
    }
}
