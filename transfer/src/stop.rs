//! Tells work on another thread that nobody wants it any longer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Held by who wants the work; the work holds its [`flag`](StopOnDrop::flag).
#[derive(Debug, Default)]
pub struct StopOnDrop(Arc<AtomicBool>);

impl StopOnDrop {
    /// True once this is dropped.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_is_set_when_who_wants_the_work_goes() {
        let stop = StopOnDrop::default();
        let flag = stop.flag();
        assert!(!flag.load(Ordering::Relaxed));
        drop(stop);
        assert!(flag.load(Ordering::Relaxed));
    }
}
