//! Whether the log's thread is at work, as other threads see it.
//!
//! Only that thread knows whether this master still leads. Where it waits for a disk that hangs, it may
//! long be another that does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// When the thread last looked around; beats at every event, and ticks are events.
#[derive(Debug)]
pub struct Pulse {
    began: Instant,
    /// Microseconds since then.
    beaten: AtomicU64,
}

impl Pulse {
    /// One that has just beaten.
    pub fn start() -> Self {
        Self {
            began: Instant::now(),
            beaten: AtomicU64::new(0),
        }
    }

    /// It looks around now.
    pub fn beat(&self) {
        // 500,000 years fit.
        let now = self.began.elapsed().as_micros() as u64;
        self.beaten.store(now, Ordering::Relaxed);
    }

    /// How long ago that was.
    pub fn since(&self) -> Duration {
        let beaten = Duration::from_micros(self.beaten.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(beaten)
    }
}
