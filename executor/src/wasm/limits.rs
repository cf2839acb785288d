//! The memory of one task: the sum of the linear memories and tables of all its instances.
//!
//! wasmtime asks an instance's [`MemoryLimiter`] before each growth. A refused one is only
//! remembered: the guest sees its `memory.grow` fail and may go on with less. What an instance had
//! is given back when its limiter goes, so a service's requests share one bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tepui_types::Bytes;
use tokio::sync::Notify;
use wasmtime::ResourceLimiter;

/// What an element of a table takes.
const TABLE_ELEMENT_BYTES: u64 = size_of::<usize>() as u64;

/// Counts and bounds a task's memory.
#[derive(Debug)]
pub struct Memory {
    limit: Bytes,
    used: AtomicU64,
    peak: AtomicU64,
    released: Notify,
}

impl Memory {
    /// Nothing used of `limit`.
    pub fn new(limit: Bytes) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            released: Notify::new(),
        })
    }

    /// The bound.
    pub fn limit(&self) -> Bytes {
        self.limit
    }

    /// The most that all instances had at once.
    pub fn peak(&self) -> Bytes {
        Bytes(self.peak.load(Ordering::Relaxed))
    }

    /// What all instances have now.
    pub fn used(&self) -> Bytes {
        Bytes(self.used.load(Ordering::Relaxed))
    }

    /// Told when an instance has gone.
    pub fn released(&self) -> &Notify {
        &self.released
    }

    /// Takes `bytes` more, or says how much there would have been in use.
    fn take(&self, bytes: u64) -> Result<(), Bytes> {
        let more =
            |used: u64| Some(used.saturating_add(bytes)).filter(|wanted| *wanted <= self.limit.0);
        match self
            .used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
        {
            Ok(used) => {
                self.peak.fetch_max(used + bytes, Ordering::Relaxed);
                Ok(())
            }
            Err(used) => Err(Bytes(used.saturating_add(bytes))),
        }
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
    }
}

/// The part that one instance has.
#[derive(Debug)]
pub struct MemoryLimiter {
    memory: Arc<Memory>,
    held: u64,
    /// What would have been used, had the last refused growth been allowed.
    refused: Option<Bytes>,
    /// The growth allowed last, in case it fails after all.
    last: u64,
    is_too_much: bool,
    /// Whether its end is told to who waits for memory.
    is_told: bool,
}

impl MemoryLimiter {
    /// An instance that has none of `memory` yet.
    pub fn new(memory: Arc<Memory>) -> Self {
        Self {
            memory,
            held: 0,
            refused: None,
            last: 0,
            is_too_much: false,
            is_told: true,
        }
    }

    /// The bound.
    pub fn limit(&self) -> Bytes {
        self.memory.limit()
    }

    /// What the task wanted to have when this instance was last refused more.
    pub fn refused(&self) -> Option<Bytes> {
        self.refused
    }

    /// Whether it was refused what no instance of the task could have, however alone it were.
    pub fn is_too_much(&self) -> bool {
        self.is_too_much
    }

    /// It came to nothing for want of memory, and its end is no news: others failed for the same
    /// reason, and would only try again.
    pub fn was_in_vain(&mut self) {
        self.is_told = false;
    }

    fn grow(&mut self, bytes: u64) -> bool {
        match self.memory.take(bytes) {
            Ok(()) => {
                self.held += bytes;
                self.last = bytes;
                true
            }
            Err(wanted) => {
                self.refused = Some(wanted);
                self.is_too_much = self.held.saturating_add(bytes) > self.memory.limit.0;
                false
            }
        }
    }

    /// It failed for another reason, such as the module's own maximum.
    fn take_back(&mut self) {
        let last = std::mem::take(&mut self.last);
        self.held -= last;
        self.memory.give_back(last);
    }
}

impl Drop for MemoryLimiter {
    fn drop(&mut self) {
        self.memory.give_back(self.held);
        if self.is_told {
            self.memory.released.notify_waiters();
        }
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.grow(desired.saturating_sub(current) as u64))
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.grow((desired.saturating_sub(current) as u64).saturating_mul(TABLE_ELEMENT_BYTES)))
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_and_tables_of_all_instances_share_one_bound() {
        let memory = Memory::new(Bytes(100_000));
        let (mut one, mut other) = (
            MemoryLimiter::new(memory.clone()),
            MemoryLimiter::new(memory.clone()),
        );
        assert!(one.memory_growing(0, 65_536, None).unwrap());
        assert!(other.table_growing(0, 1_000, None).unwrap());
        assert!(!other.memory_growing(0, 65_536, None).unwrap());
        assert_eq!(other.refused(), Some(Bytes(65_536 + 8_000 + 65_536)));
        assert_eq!(one.refused(), None);
        assert_eq!(memory.peak(), Bytes(73_536));
        drop(one);
        assert!(other.memory_growing(0, 65_536, None).unwrap());
        drop(other);
        assert_eq!(memory.used(), Bytes(0));
    }

    #[test]
    fn only_what_an_instance_had_is_news_and_not_what_it_wanted() {
        let memory = Memory::new(Bytes(65_536));
        let mut one = MemoryLimiter::new(memory.clone());
        assert!(one.memory_growing(0, 65_536, None).unwrap());
        let mut released = Box::pin(memory.released().notified());
        released.as_mut().enable();
        let mut other = MemoryLimiter::new(memory.clone());
        assert!(!other.memory_growing(0, 65_536, None).unwrap());
        other.was_in_vain();
        drop(other);
        assert!(!released.as_mut().enable());
        drop(one);
        assert!(released.as_mut().enable());
    }

    #[test]
    fn a_growth_that_fails_elsewhere_is_not_counted() {
        let memory = Memory::new(Bytes::mib(1));
        let mut limiter = MemoryLimiter::new(memory);
        assert!(limiter.memory_growing(0, 65_536, Some(0)).unwrap());
        limiter
            .memory_grow_failed(wasmtime::Error::msg("maximum"))
            .unwrap();
        assert!(limiter.memory_growing(0, 1_048_576, None).unwrap());
        assert_eq!(limiter.refused(), None);
    }
}
