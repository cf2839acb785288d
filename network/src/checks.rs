//! A task's checks: when each is made, and what follows from its outcomes. Pure.
//!
//! The agent feeds [`TaskChecks`] events that carry their time, and does what it answers. It is
//! stored as it is, and goes on from there after a restart of the agent. What always holds:
//!
//! - of each check at most one probe is under way;
//! - readiness and health begin when the start-up check has passed, which then is over;
//! - nothing is killed for failures within a check's grace period and before its first success;
//! - every report of a check differs from the one before;
//! - after a kill nothing follows.

use serde::{Deserialize, Serialize};
use tepui_types::check::{Check, CheckRole, CheckState, CheckStatus, Checks, Probe};
use tepui_types::task::{Reason, reason};

/// How much longer than its timeout a probe is waited for, in milliseconds. Whoever makes it keeps
/// the time; this is for probes that are lost, or wait for their turn on a machine of many.
const LOST_MS: u64 = 10_000;
/// How much of a probe's message is kept, in bytes; it goes into the task's status.
const MAX_MESSAGE: usize = 512;

/// A probe of a task: its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProbeId(pub u64);

/// What happens to a task's checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The agent has come back, and whoever made probes is gone: those under way are made again.
    Resumed,
    /// Time has passed; at the latest due when [`TaskChecks::wake_at`] says.
    Time,
    /// A probe has ended: with success, or with what is wrong.
    Probed(ProbeId, Result<(), String>),
    /// A probe could not be made, since what it looks at does not run now and is about to: nothing is
    /// counted, and it is made again when the next is due.
    Skipped(ProbeId),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make this probe, within this time, and say how it ended.
    Run {
        /// To be given back with its outcome.
        id: ProbeId,
        /// For which check.
        check: CheckRole,
        /// What is tried.
        probe: Probe,
        /// How long it may take.
        timeout_ms: u64,
    },
    /// Give this probe up; nobody waits for its outcome.
    Cancel(ProbeId),
    /// Tell how a check stands.
    Report(CheckStatus),
    /// End the task.
    Kill(Reason),
}

/// The checks of a task that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskChecks {
    /// The start-up check alone until it has passed, then the others.
    running: Vec<Running>,
    /// What begins when the start-up check has passed.
    later: Checks,
    next_probe: u64,
}

/// A check that has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Running {
    role: CheckRole,
    check: Check,
    /// When failures begin to count, if there was no success.
    grace_until_ms: u64,
    turn: Turn,
    state: CheckState,
    /// Whether a probe has succeeded, ever.
    succeeded: bool,
    /// In a row, up to what the check needs.
    failures: u32,
    successes: u32,
    message: String,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Turn {
    /// A probe, at this time.
    Due(u64),
    /// This probe's end, at this time at the latest.
    Probing(ProbeId, u64),
}

impl TaskChecks {
    /// The checks of a task that starts now. All times are milliseconds of one clock that does not
    /// stand still while the agent is restarted, as `CLOCK_BOOTTIME`.
    pub fn start(checks: Checks, now_ms: u64) -> (Self, Vec<Action>) {
        let mut task = Self {
            running: Vec::new(),
            later: checks,
            next_probe: 0,
        };
        let mut actions = Vec::new();
        match task.later.startup.take() {
            Some(startup) => task.begin(CheckRole::Startup, startup, now_ms, &mut actions),
            None => task.begin_later(now_ms, &mut actions),
        }
        task.run_due(now_ms, &mut actions);
        (task, actions)
    }

    /// What follows from an event at this time.
    pub fn on_event(&mut self, now_ms: u64, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Resumed => self.on_resumed(now_ms),
            Event::Time => {}
            Event::Probed(id, outcome) => self.on_probed(now_ms, id, outcome, &mut actions),
            Event::Skipped(id) => self.on_skipped(now_ms, id),
        }
        self.give_up_lost(now_ms, &mut actions);
        self.run_due(now_ms, &mut actions);
        actions
    }

    /// When it wants to hear of the time; none if there is nothing to do any more.
    pub fn wake_at(&self) -> Option<u64> {
        let times = self.running.iter().map(|running| match running.turn {
            Turn::Due(at) | Turn::Probing(_, at) => at,
        });
        times.min()
    }

    /// How its checks stand.
    pub fn statuses(&self) -> impl Iterator<Item = CheckStatus> {
        self.running.iter().map(Running::status)
    }

    fn begin(&mut self, role: CheckRole, check: Check, now_ms: u64, actions: &mut Vec<Action>) {
        let running = Running {
            role,
            grace_until_ms: now_ms.saturating_add(check.grace_ms),
            turn: Turn::Due(now_ms.saturating_add(check.delay_ms)),
            check,
            state: CheckState::Pending,
            succeeded: false,
            failures: 0,
            successes: 0,
            message: String::new(),
        };
        actions.push(Action::Report(running.status()));
        self.running.push(running);
    }

    fn begin_later(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        let later = std::mem::take(&mut self.later);
        for (role, check) in [
            (CheckRole::Readiness, later.readiness),
            (CheckRole::Health, later.health),
        ] {
            if let Some(check) = check {
                self.begin(role, check, now_ms, actions);
            }
        }
    }

    /// Times that cannot be are those of a clock that has begun anew.
    fn on_resumed(&mut self, now_ms: u64) {
        for running in &mut self.running {
            let latest =
                now_ms.saturating_add(running.check.interval_ms.max(running.check.delay_ms));
            running.turn = match running.turn {
                Turn::Due(at) => Turn::Due(at.min(latest)),
                Turn::Probing(..) => Turn::Due(now_ms),
            };
            let latest = now_ms.saturating_add(running.check.grace_ms);
            running.grace_until_ms = running.grace_until_ms.min(latest);
        }
    }

    fn on_probed(
        &mut self,
        now_ms: u64,
        id: ProbeId,
        outcome: Result<(), String>,
        actions: &mut Vec<Action>,
    ) {
        let is_it = |running: &Running| running.is_probed_by(id);
        // Of a probe that was given up, nobody wants to know.
        if let Some(place) = self.running.iter().position(is_it) {
            self.conclude(place, now_ms, outcome, actions);
        }
    }

    fn on_skipped(&mut self, now_ms: u64, id: ProbeId) {
        let mut all = self.running.iter_mut();
        if let Some(running) = all.find(|running| running.is_probed_by(id)) {
            running.turn = Turn::Due(now_ms.saturating_add(running.check.interval_ms));
        }
    }

    fn give_up_lost(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        let lost = |running: &Running| match running.turn {
            Turn::Probing(id, until) if until <= now_ms => Some(id),
            _ => None,
        };
        // A conclusion may end checks, so that places move.
        while let Some((place, id)) = {
            let mut all = self.running.iter().enumerate();
            all.find_map(|(place, running)| Some((place, lost(running)?)))
        } {
            actions.push(Action::Cancel(id));
            let message = "the probe was lost: nobody said how it ended";
            self.conclude(place, now_ms, Err(message.into()), actions);
        }
    }

    /// Counts the outcome of a check's probe, and does what follows.
    fn conclude(
        &mut self,
        place: usize,
        now_ms: u64,
        outcome: Result<(), String>,
        actions: &mut Vec<Action>,
    ) {
        let running = &mut self.running[place];
        let before = running.status();
        running.count(now_ms, outcome);
        let status = running.status();
        let is_over = running.role == CheckRole::Startup && status.state == CheckState::Passing;
        let kill = running.kill();
        if status != before {
            actions.push(Action::Report(status));
        }
        if let Some(reason) = kill {
            self.end(actions);
            actions.push(Action::Kill(reason));
        } else if is_over {
            self.running.clear();
            self.begin_later(now_ms, actions);
        }
    }

    fn end(&mut self, actions: &mut Vec<Action>) {
        self.later = Checks::default();
        for running in self.running.drain(..) {
            if let Turn::Probing(id, _) = running.turn {
                actions.push(Action::Cancel(id));
            }
        }
    }

    fn run_due(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        for running in &mut self.running {
            if !matches!(running.turn, Turn::Due(at) if at <= now_ms) {
                continue;
            }
            let id = ProbeId(self.next_probe);
            self.next_probe += 1;
            let timeout_ms = running.check.timeout_ms;
            let until = now_ms.saturating_add(timeout_ms).saturating_add(LOST_MS);
            running.turn = Turn::Probing(id, until);
            actions.push(Action::Run {
                id,
                check: running.role,
                probe: running.check.probe.clone(),
                timeout_ms,
            });
        }
    }
}

impl Running {
    fn is_probed_by(&self, id: ProbeId) -> bool {
        matches!(self.turn, Turn::Probing(own, _) if own == id)
    }

    fn count(&mut self, now_ms: u64, outcome: Result<(), String>) {
        self.turn = Turn::Due(now_ms.saturating_add(self.check.interval_ms));
        match outcome {
            Ok(()) => {
                self.succeeded = true;
                self.failures = 0;
                self.message.clear();
                self.successes = (self.successes + 1).min(self.check.successes);
                if self.successes == self.check.successes {
                    self.state = CheckState::Passing;
                }
            }
            Err(_) if !self.succeeded && now_ms < self.grace_until_ms => {}
            // It has failed and still does: that is no news, whatever the words.
            Err(_) if self.failures == self.check.failures => self.successes = 0,
            Err(message) => {
                self.successes = 0;
                self.failures += 1;
                self.message = message[..message.floor_char_boundary(MAX_MESSAGE)].to_owned();
                if self.failures == self.check.failures {
                    self.state = CheckState::Failing;
                }
            }
        }
    }

    fn kill(&self) -> Option<Reason> {
        let kills = match self.role {
            CheckRole::Startup | CheckRole::Health => self.state == CheckState::Failing,
            CheckRole::Readiness => false,
        };
        kills.then(|| {
            let message = format!(
                "its {} check failed {} times in a row, the last time because {}",
                self.role, self.failures, self.message
            );
            Reason::new(reason::HEALTH_CHECK_FAILED, message)
        })
    }

    fn status(&self) -> CheckStatus {
        CheckStatus {
            check: self.role,
            state: self.state,
            consecutive_failures: self.failures,
            message: self.message.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
