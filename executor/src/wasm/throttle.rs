//! The most that a task gets of the processors for now, whatever it was given.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tepui_types::MilliCpus;

/// Nothing holds the task.
const FREE: u64 = u64::MAX;

/// Shared by whoever is told and whoever runs the task.
#[derive(Clone)]
pub struct Throttle(Arc<AtomicU64>);

impl Default for Throttle {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(FREE)))
    }
}

impl Throttle {
    /// From now on.
    pub fn set(&self, most: Option<MilliCpus>) {
        let most = most.map_or(FREE, |most| most.0);
        self.0.store(most, Ordering::Relaxed);
    }

    /// The most, if anything holds the task.
    pub fn get(&self) -> Option<MilliCpus> {
        let most = self.0.load(Ordering::Relaxed);
        (most != FREE).then_some(MilliCpus(most))
    }
}
