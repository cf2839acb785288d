//! When a process that hangs up on the agent is taken not to understand it. Pure.
//!
//! One that is of another release does not, as after half of an upgrade: it hangs up at the first frame that
//! it does not know, and at that again on each connection.

use std::time::Duration;

/// A connection that was shorter was of no use, and is no reason to try again at once.
pub const BRIEF: Duration = Duration::from_secs(1);
/// So many of those in a row are said: a process that ends soon after its only task has one.
const SAID: u32 = 8;
/// How long that may go on. Whoever replaces the programs one after another and starts the agent anew is
/// done by then; and its tasks can run on another agent.
const PATIENCE: Duration = Duration::from_secs(15);

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The process hung up.
    HungUp,
    /// It said nothing for long: it may be stopped.
    Silent,
    /// The agent ended it.
    Left,
}

/// Those of one process.
#[derive(Debug, Default)]
pub struct HangUps {
    /// How many there were in a row.
    count: u32,
    /// When the first of them was, by any clock that never goes back.
    since: Duration,
}

/// What follows of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Fit,
    /// It does not understand the agent; it may be replaced, or the agent.
    Unfit,
    /// That went on for too long.
    GivenUp,
}

impl HangUps {
    /// A connection that was so long has ended, now.
    pub fn on_end(&mut self, end: End, lasted: Duration, now: Duration) -> Verdict {
        match end {
            End::Silent => {}
            End::HungUp if lasted < BRIEF => {
                if self.count == 0 {
                    self.since = now;
                }
                self.count = self.count.saturating_add(1);
            }
            End::HungUp | End::Left => self.count = 0,
        }
        match self.count {
            0..SAID => Verdict::Fit,
            _ if now.saturating_sub(self.since) < PATIENCE => Verdict::Unfit,
            _ => Verdict::GivenUp,
        }
    }

    /// Whether they are news: there were not as many before.
    pub fn is_news(&self) -> bool {
        self.count == SAID
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(1);

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn many_in_a_row_are_said_and_given_up_after_a_while() {
        let mut hang_ups = HangUps::default();
        for _ in 1..SAID {
            assert_eq!(hang_ups.on_end(End::HungUp, SHORT, secs(9)), Verdict::Fit);
        }
        let mut next = |now| hang_ups.on_end(End::HungUp, SHORT, now);
        assert_eq!(next(secs(9)), Verdict::Unfit);
        assert_eq!(next(secs(9) + PATIENCE - SHORT), Verdict::Unfit);
        assert_eq!(next(secs(9) + PATIENCE), Verdict::GivenUp);
    }

    #[test]
    fn a_connection_that_is_of_use_begins_anew_and_silence_changes_nothing() {
        for (end, lasted) in [(End::HungUp, BRIEF), (End::Left, SHORT)] {
            let mut hang_ups = HangUps::default();
            for _ in 1..SAID {
                hang_ups.on_end(End::HungUp, SHORT, secs(1));
            }
            assert_eq!(hang_ups.on_end(End::Silent, secs(9), secs(1)), Verdict::Fit);
            assert_eq!(hang_ups.on_end(end, lasted, secs(2)), Verdict::Fit);
            assert_eq!(hang_ups.on_end(End::HungUp, SHORT, secs(3)), Verdict::Fit);
        }
    }
}
