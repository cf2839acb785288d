//! The memory of one task: the sum of its linear memories and tables.
//!
//! wasmtime asks before each growth. A refused one is only remembered: the
//! guest sees its `memory.grow` fail and may go on with less.

use tepui_types::Bytes;
use wasmtime::ResourceLimiter;

/// What an element of a table takes.
const TABLE_ELEMENT_BYTES: u64 = size_of::<usize>() as u64;

/// Counts and bounds a task's memory.
#[derive(Debug)]
pub struct MemoryLimiter {
    limit: Bytes,
    used: u64,
    peak: u64,
    /// What would have been used, had the last refused growth been allowed.
    refused: Option<Bytes>,
    /// The growth allowed last, in case it fails after all.
    last: u64,
}

impl MemoryLimiter {
    /// Nothing used of `limit`.
    pub fn new(limit: Bytes) -> Self {
        Self {
            limit,
            used: 0,
            peak: 0,
            refused: None,
            last: 0,
        }
    }

    /// The bound.
    pub fn limit(&self) -> Bytes {
        self.limit
    }

    /// The most it had at once.
    pub fn peak(&self) -> Bytes {
        Bytes(self.peak)
    }

    /// What it wanted to have when it was last refused more.
    pub fn refused(&self) -> Option<Bytes> {
        self.refused
    }

    fn grow(&mut self, bytes: u64) -> bool {
        let wanted = self.used.saturating_add(bytes);
        if wanted > self.limit.0 {
            self.refused = Some(Bytes(wanted));
            return false;
        }
        self.last = bytes;
        self.used = wanted;
        self.peak = self.peak.max(wanted);
        true
    }

    /// It failed for another reason, such as the module's own maximum.
    fn take_back(&mut self) {
        self.used -= std::mem::take(&mut self.last);
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
    fn memories_and_tables_share_one_bound() {
        let mut limiter = MemoryLimiter::new(Bytes(100_000));
        assert!(limiter.memory_growing(0, 65_536, None).unwrap());
        assert!(limiter.table_growing(0, 1_000, None).unwrap());
        assert!(!limiter.memory_growing(65_536, 131_072, None).unwrap());
        assert_eq!(limiter.refused(), Some(Bytes(65_536 + 8_000 + 65_536)));
        assert_eq!(limiter.peak(), Bytes(73_536));
    }

    #[test]
    fn a_growth_that_fails_elsewhere_is_not_counted() {
        let mut limiter = MemoryLimiter::new(Bytes::mib(1));
        assert!(limiter.memory_growing(0, 65_536, Some(0)).unwrap());
        limiter
            .memory_grow_failed(wasmtime::Error::msg("maximum"))
            .unwrap();
        assert!(limiter.memory_growing(0, 1_048_576, None).unwrap());
        assert_eq!(limiter.refused(), None);
    }
}
