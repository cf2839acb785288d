//! Images on their way to other masters.
//!
//! A newer image would take the place of one that is still being sent, and cut the log after it short:
//! under load, whoever takes longer to fetch one than lies between two would never catch up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many are; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Lending(Arc<AtomicUsize>);

/// An image that is being sent, until this is dropped.
#[derive(Debug)]
pub struct Lent(Lending);

impl Lending {
    /// One more is sent.
    pub fn lend(&self) -> Lent {
        self.0.fetch_add(1, Ordering::Relaxed);
        Lent(self.clone())
    }

    /// Whether any is.
    pub fn is_lending(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
