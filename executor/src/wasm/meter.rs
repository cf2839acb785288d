//! What a running task uses, for whoever asks while it runs; and whether any task has used something.
//!
//! The server holds a meter of each task, from before its program is there to its end.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use std::sync::{Arc, OnceLock};

use tepui_types::task::TaskUsage;
use tokio::sync::Notify;

use crate::cpu::Cpu;
use crate::limits::Memory;

/// What all instances of a task take together.
#[derive(Clone)]
pub struct Counters {
    /// Processor time.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Arc<Memory>,
    /// How many there have been.
    instances: Arc<AtomicU32>,
}

impl Counters {
    /// Of a task that has had no instance.
    pub fn new(cpu: Cpu, memory: Arc<Memory>) -> Self {
        let instances = Arc::default();
        Self {
            cpu,
            memory,
            instances,
        }
    }

    /// There is one more instance.
    pub fn add_instance(&self) {
        self.instances.fetch_add(1, Ordering::Relaxed);
    }

    /// What has been used so far.
    pub fn usage(&self) -> TaskUsage {
        TaskUsage {
            cpu_micros: self.cpu.micros(),
            mem_peak_bytes: self.memory.peak().0,
            instances: Some(self.instances.load(Ordering::Relaxed)),
        }
    }
}

/// Shared by whoever runs the task and whoever is asked.
#[derive(Clone, Default)]
pub struct Meter(Arc<OnceLock<Counters>>);

impl Meter {
    /// From now on these count.
    pub fn begin(&self, counters: Counters) {
        // A task begins once.
        let _ = self.0.set(counters);
    }

    /// What has been used so far, and the memory that is in use now, in bytes; none before it has begun.
    pub fn read(&self) -> Option<(TaskUsage, u64)> {
        let counters = self.0.get()?;
        Some((counters.usage(), counters.memory.used().0))
    }
}

/// Whether any task has used something since that was last noted.
#[derive(Debug, Default)]
pub struct Stir {
    is_stirred: AtomicBool,
    told: Notify,
}

impl Stir {
    /// A task has used something. Cheap where that is known: it is said after every poll.
    pub fn note(&self) {
        // Either this sees that it was settled, or who settles sees what was used: see `settle`.
        fence(Ordering::SeqCst);
        if !self.is_stirred.load(Ordering::Relaxed) && !self.is_stirred.swap(true, Ordering::AcqRel)
        {
            self.told.notify_one();
        }
    }

    /// Ends when a task uses something; at once if one has since [`Stir::settle`].
    pub async fn stirred(&self) {
        self.told.notified().await;
    }

    /// What has been used so far is about to be noted.
    pub fn settle(&self) {
        self.is_stirred.swap(false, Ordering::SeqCst);
        // What is read from now on is read after that.
        fence(Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_stir_is_told_once_until_it_is_settled() {
        let stir = Stir::default();
        let is_told = || stir.stirred().now_or_never().is_some();
        assert!(!is_told());
        stir.note();
        stir.note();
        assert!(is_told());
        stir.note();
        assert!(!is_told(), "it is known");
        stir.settle();
        assert!(!is_told());
        stir.note();
        assert!(is_told());
    }
}
