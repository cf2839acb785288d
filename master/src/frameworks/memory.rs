//! The memory of one instance, all its memories and tables together.

use wasmtime::ResourceLimiter;

use super::limits;

/// Refuses growth past the limit, and remembers that it did: what a guest makes
/// of the refusal is usually a trap that does not say why.
#[derive(Debug, Default)]
pub struct MemoryLimit {
    bytes: usize,
    elements: usize,
    refused: Option<usize>,
}

impl MemoryLimit {
    /// A call begins.
    pub fn begin(&mut self) {
        self.refused = None;
    }

    /// The bytes that the call asked for and did not get.
    pub fn refused(&self) -> Option<usize> {
        self.refused
    }
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let bytes = self.bytes.saturating_add(desired.saturating_sub(current));
        let fits = bytes as u64 <= limits::MEMORY.0;
        if fits {
            self.bytes = bytes;
        } else {
            self.refused = Some(bytes);
        }
        Ok(fits)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let elements = self
            .elements
            .saturating_add(desired.saturating_sub(current));
        let fits = elements <= limits::TABLE_ELEMENTS;
        if fits {
            self.elements = elements;
        }
        Ok(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_memories_count_together() {
        let mut memory = MemoryLimit::default();
        let limit = limits::MEMORY.0 as usize;
        assert!(memory.memory_growing(0, limit / 2, None).unwrap());
        assert!(memory.memory_growing(0, limit / 2, None).unwrap());
        assert_eq!(memory.refused(), None);
        assert!(
            !memory
                .memory_growing(limit / 2, limit / 2 + 1, None)
                .unwrap()
        );
        assert_eq!(memory.refused(), Some(limit + 1));
    }
}
