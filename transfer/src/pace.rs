//! Whether enough comes of a transfer.

use std::time::Duration;

use tokio::time::Instant;

/// Bytes in every stall time: far below any link that a cluster could be run over.
const LEAST: u64 = 64 * 1024;

/// Whether enough comes. Who waits for bytes waits until [`Pace::deadline`], and says what came.
#[derive(Debug)]
pub struct Pace {
    stall: Duration,
    deadline: Instant,
    /// Since the deadline was last put off.
    bytes: u64,
}

impl Pace {
    /// From now on 64 KiB have to come in every `stall`.
    pub fn begin(stall: Duration) -> Self {
        Self {
            stall,
            deadline: Instant::now() + stall,
            bytes: 0,
        }
    }

    /// When this is over, whoever sends is to be given up.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// So many bytes have come.
    pub fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        if self.bytes >= LEAST {
            (self.bytes, self.deadline) = (0, Instant::now() + self.stall);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL: Duration = Duration::from_secs(20);

    #[tokio::test(start_paused = true)]
    async fn a_trickle_is_no_progress() {
        let begun = Instant::now();
        let mut pace = Pace::begin(STALL);
        tokio::time::advance(STALL / 2).await;
        pace.add(LEAST - 1);
        assert_eq!(pace.deadline(), begun + STALL);
        pace.add(1);
        assert_eq!(pace.deadline(), begun + STALL / 2 + STALL);
        tokio::time::advance(STALL / 2).await;
        pace.add(1);
        assert_eq!(pace.deadline(), begun + STALL / 2 + STALL);
    }
}
