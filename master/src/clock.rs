//! The leader's clock: the one place where the time of day enters the master.
//!
//! The log's thread gives it to commands, and so to the state; the allocator, frameworks and their
//! timers are measured by it. The machine's own clock may be set back at any time, and the state's
//! time never goes back, so this one does not follow: from where it is it goes on by the monotonic
//! clock, and the machine's clock only moves it forward. While a master leads, its clock is never
//! behind the state's time.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use tepui_types::Timestamp;

/// The clock; clones share it.
#[derive(Debug, Clone)]
pub struct Clock(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    steady: Mutex<Steady>,
    machine: Box<dyn Machine>,
}

/// The clocks of a machine.
pub trait Machine: fmt::Debug + Send + Sync {
    /// The time of day, as well as the machine knows it.
    fn time_of_day(&self) -> Timestamp;

    /// The monotonic clock.
    fn instant(&self) -> Instant;
}

impl Clock {
    /// Starts with this machine's clock.
    pub fn start() -> Self {
        Self::on(ThisMachine)
    }

    /// Starts with the clock of a machine.
    pub fn on(machine: impl Machine + 'static) -> Self {
        let steady = Steady::new(machine.time_of_day(), machine.instant());
        Self(Arc::new(Shared {
            steady: Mutex::new(steady),
            machine: Box::new(machine),
        }))
    }

    /// What the machine's own clock shows, for others to compare with theirs.
    pub fn time_of_day(&self) -> Timestamp {
        self.0.machine.time_of_day()
    }

    /// What it shows.
    pub fn now(&self) -> Timestamp {
        self.show(self.0.machine.time_of_day())
    }

    /// From now on it shows `time` or later: what a new leader finds in the state, which another
    /// machine's clock, or this one's before it was set back, may have put there.
    pub fn not_before(&self, time: Timestamp) {
        self.show(time);
    }

    fn show(&self, least: Timestamp) -> Timestamp {
        // It is whole after every statement, also after a panic.
        let mut steady = self.0.steady.lock().unwrap_or_else(PoisonError::into_inner);
        steady.show(least, self.0.machine.instant())
    }
}

/// The machine that this master runs on.
#[derive(Debug)]
struct ThisMachine;

impl Machine for ThisMachine {
    fn time_of_day(&self) -> Timestamp {
        time_of_day()
    }

    fn instant(&self) -> Instant {
        instant()
    }
}

/// A clock that never goes back and never stands still, whatever it is told.
#[derive(Debug, Clone, Copy)]
struct Steady {
    /// What it showed at `since`, the last time that it was moved forward.
    base: Timestamp,
    since: Instant,
}

impl Steady {
    fn new(base: Timestamp, since: Instant) -> Self {
        Self { base, since }
    }

    /// What it shows at `instant`, having been moved forward to `least` if it was behind.
    fn show(&mut self, least: Timestamp, instant: Instant) -> Timestamp {
        let elapsed = instant.saturating_duration_since(self.since).as_millis();
        let shown = self
            .base
            .after_millis(u64::try_from(elapsed).unwrap_or(u64::MAX));
        // Only a jump begins a new count: beginning one at each call would lose the part of a
        // millisecond that has gone by.
        if least > shown {
            *self = Self::new(least, instant);
        }
        least.max(shown)
    }
}

/// Milliseconds since the Unix epoch by this machine's clock; 0 for a clock set before it.
#[expect(
    clippy::disallowed_methods,
    reason = "the time of day enters the master here"
)]
pub(crate) fn time_of_day() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let since_epoch = since_epoch.unwrap_or_default();
    Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the log's thread, which has no runtime, asks for the time, too"
)]
fn instant() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A clock that showed 1000 when it was started, and the instant so many microseconds later.
    fn steady() -> (Steady, impl Fn(u64) -> Instant) {
        let start = instant();
        let after = move |micros| start + Duration::from_micros(micros);
        (Steady::new(Timestamp(1000), start), after)
    }

    #[test]
    fn a_step_back_of_the_machine_s_clock_neither_turns_it_back_nor_stops_it() {
        let (mut clock, after) = steady();
        assert_eq!(clock.show(Timestamp(1005), after(5_000)), Timestamp(1005));
        assert_eq!(clock.show(Timestamp(10), after(6_000)), Timestamp(1006));
        assert_eq!(clock.show(Timestamp(11), after(7_000)), Timestamp(1007));
        // An hour later the machine's clock is ahead again, by a little.
        let hour = 60 * 60 * 1000;
        assert_eq!(
            clock.show(Timestamp(hour), after(hour * 1000)),
            Timestamp(1000 + hour)
        );
        assert_eq!(
            clock.show(Timestamp(1003 + hour), after(hour * 1000)),
            Timestamp(1003 + hour)
        );
    }

    #[test]
    fn a_step_forward_is_taken_at_once_and_gone_on_from() {
        let (mut clock, after) = steady();
        assert_eq!(clock.show(Timestamp(9000), after(1_000)), Timestamp(9000));
        assert_eq!(clock.show(Timestamp(1002), after(2_000)), Timestamp(9001));
    }

    #[test]
    fn a_master_that_starts_behind_the_state_goes_on_from_the_state_s_time() {
        let (mut clock, after) = steady();
        let state_now = Timestamp(5000);
        clock.show(state_now, after(0));
        assert_eq!(clock.show(Timestamp(1001), after(1_000)), Timestamp(5001));
    }

    #[test]
    fn reading_it_often_does_not_slow_it_down() {
        let (mut clock, after) = steady();
        for micros in 0..10_000 {
            clock.show(Timestamp(10), after(micros));
        }
        assert_eq!(clock.show(Timestamp(10), after(10_000)), Timestamp(1010));
    }

    #[test]
    fn clones_show_the_same_clock() {
        let clock = Clock::start();
        let later = clock.now().after_millis(60 * 60 * 1000);
        clock.clone().not_before(later);
        assert!(clock.now() >= later);
    }
}
