//! A job and its state machine.
//!
//! What was asked for ([`Terms`]) never changes; what has happened
//! ([`Progress`]) is counters, so that an array is one small record whatever
//! its size; tasks that need more have a cell in [`Tasks`]. All of it is pure:
//! time and updates come in, and the caller stores what changed.

use serde::{Deserialize, Serialize};
use tepui_sdk::resources::ResourceRequest;
use tepui_sdk::{Constraints, Gang, GangPart, Reason, Role, Task, TaskClass, TaskState};
use tepui_types::api::job::JobState;
use tepui_types::task::reason;

use crate::lines::Lines;
use crate::tasks::{Cell, Place, Tasks};

/// The wait before the second attempt of a failed task; doubles with each.
pub const BACKOFF_FIRST_MS: u64 = 1_000;
/// The longest wait between two attempts: five minutes.
pub const BACKOFF_MOST_MS: u64 = 300_000;
/// Bytes of a reason's message that are kept: one stands in every job's record,
/// and a turn may rewrite thousands of those.
const REASON_BYTES: usize = 240;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Its place in the order of submission.
    pub sequence: u64,
    /// Who submitted it.
    pub user: String,
    /// What each task needs.
    pub request: ResourceRequest,
    /// How many tasks it has.
    pub count: u32,
    /// How often a failed task is run again.
    pub max_restarts: u32,
    /// Higher goes first.
    pub priority: i32,
    /// Bytes of the stored specification.
    pub spec_bytes: u32,
    /// The idempotency key it was submitted with.
    pub key: Option<String>,
    /// On which agents its tasks may run.
    pub constraints: Constraints,
    /// Whether its tasks start together.
    pub gang: bool,
    /// How long each task runs at most.
    pub time_limit_ms: Option<u64>,
    /// How long a gang waits before it fails.
    pub gang_wait_ms: Option<u64>,
    /// Which role is charged; the framework's first if none is named.
    pub role: Option<Role>,
    /// Volumes that each task uses.
    pub volumes: Vec<String>,
    /// Whether they may take what can be taken back.
    pub revocable: bool,
}

/// What has happened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Tasks from this index on were never launched.
    pub fresh: u32,
    /// Tasks that were launched and wait for their next attempt.
    pub retrying: u32,
    /// Tasks launched and not ended.
    pub active: u32,
    /// Tasks that finished.
    pub finished: u32,
    /// Tasks that failed for good.
    pub failed: u32,
    /// Tasks that were ended by request, or cancelled before they ran.
    pub killed: u32,
    /// Attempts after a failure, over all tasks; those after a loss are not
    /// counted.
    pub restarts: u32,
    /// Whether its end was asked for.
    pub cancelled: bool,
    /// What the cluster was last told to be wanted.
    pub demanded: u32,
    /// Whether the cluster was told that all are wanted at once.
    pub gang_wanted: bool,
    /// Why the last task that did not succeed did not.
    pub reason: Option<Reason>,
    /// For a job of one task: its latest attempt.
    pub latest: Option<Attempt>,
}

/// An attempt of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Minted by the host.
    pub attempt: u64,
    /// How far it is.
    pub state: TaskState,
    /// The code it exited with.
    pub exit_code: Option<i32>,
}

/// A job that has not been filed away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// What was asked for.
    pub terms: Terms,
    /// What has happened.
    pub progress: Progress,
    /// Tasks between their first launch and their end.
    pub tasks: Tasks,
    /// When its timer fires, as far as this instance knows.
    pub timer: Option<u64>,
    /// Which of its tasks run one after another, as far as this instance knows.
    pub lines: Lines,
}

impl Progress {
    /// How far the job is.
    pub fn state(&self, count: u32) -> JobState {
        if self.cancelled {
            return match self.is_ended(count) {
                true => JobState::Killed,
                false => JobState::Killing,
            };
        }
        let ended = self.finished + self.failed + self.killed;
        match (self.fresh, ended) {
            (0, 0) => JobState::Waiting,
            _ if ended < count => JobState::Running,
            _ if self.failed > 0 => JobState::Failed,
            _ if self.killed > 0 => JobState::Killed,
            _ => JobState::Finished,
        }
    }

    /// Whether every task has ended for good.
    pub fn is_ended(&self, count: u32) -> bool {
        self.finished + self.failed + self.killed == count
    }
}

impl Job {
    /// A job as it begins.
    pub fn new(terms: Terms) -> Self {
        Self {
            terms,
            progress: Progress::default(),
            tasks: Tasks::default(),
            timer: None,
            lines: Lines::default(),
        }
    }

    /// Whether every task has ended for good.
    pub fn is_ended(&self) -> bool {
        self.progress.is_ended(self.terms.count)
    }

    /// Whether its tasks start together or not at all: none has yet, or all that
    /// did were lost or failed, and are run again.
    pub fn is_gang(&self) -> bool {
        let progress = &self.progress;
        let ended = progress.finished + progress.failed + progress.killed;
        self.terms.gang && progress.active + ended == 0
    }

    /// Whether its tasks may run one after another in one place: what takes a volume, or what can be
    /// taken back, is placed anew each time.
    pub fn may_line_up(&self) -> bool {
        !self.is_gang() && self.terms.volumes.is_empty() && !self.terms.revocable
    }

    /// Tasks that may be launched one by one at `now`.
    pub fn singles(&self, now: u64) -> u32 {
        if self.is_gang() {
            0
        } else {
            self.placeable(now)
        }
    }

    /// What is wanted at once at `now`, if all of it may be launched.
    pub fn gang(&self, now: u64) -> Option<Gang> {
        let Terms {
            count,
            request,
            constraints,
            ..
        } = &self.terms;
        (self.is_gang() && self.placeable(now) == *count).then(|| Gang {
            parts: vec![GangPart {
                count: *count,
                request: request.clone(),
                constraints: constraints.clone(),
            }],
            role: self.terms.role.clone(),
            wait_ms: self.terms.gang_wait_ms,
        })
    }

    /// A gang was given up: none of its tasks will run. Answers whether that is
    /// news.
    pub fn give_up(&mut self, reason: &Reason) -> bool {
        if !self.is_gang() || !self.progress.gang_wanted {
            return false;
        }
        self.tasks.drop_waiting();
        let progress = &mut self.progress;
        progress.failed = self.terms.count;
        progress.retrying = 0;
        progress.fresh = self.terms.count;
        progress.gang_wanted = false;
        progress.reason = Some(short(&reason.code, &reason.message));
        true
    }

    /// Tasks that may be launched at `now`.
    pub fn placeable(&self, now: u64) -> u32 {
        // At most `count` of them wait.
        self.unlaunched() + self.tasks.ready(now).count() as u32
    }

    /// The next `most` tasks to launch: those that wait again, then new ones.
    pub fn candidates(&self, now: u64, most: u32) -> Vec<u32> {
        let new = self.progress.fresh..self.terms.count;
        self.tasks
            .ready(now)
            .chain(new)
            .take(most as usize)
            .collect()
    }

    /// Notes a launch of one of the [`candidates`](Self::candidates), in their
    /// order.
    pub fn launched(&mut self, index: u32, attempt: u64) {
        let progress = &mut self.progress;
        let before = self.tasks.get(index);
        match before {
            Some(cell) => {
                progress.retrying -= 1;
                progress.restarts += u32::from(cell.losses == 0);
            }
            None => progress.fresh = index + 1,
        }
        progress.active += 1;
        let Cell {
            failures, losses, ..
        } = before.unwrap_or(Cell {
            failures: 0,
            losses: 0,
            place: Place::Waiting(0),
        });
        self.tasks.set(
            index,
            Cell {
                failures,
                losses,
                place: Place::Active(attempt),
            },
        );
        if self.terms.count == 1 {
            progress.latest = Some(Attempt {
                attempt,
                state: TaskState::Staging,
                exit_code: None,
            });
        }
    }

    /// Takes in an update about a task; answers whether anything changed. One
    /// about another attempt than the launched one changes nothing, so that no
    /// end counts twice.
    pub fn on_update(&mut self, index: u32, task: &Task, now: u64) -> bool {
        let Some(cell) = self.tasks.get(index) else {
            return false;
        };
        let (Place::Active(attempt) | Place::Killing(attempt)) = cell.place else {
            return false;
        };
        if attempt != task.id.attempt {
            return false;
        }
        if task.status.class == TaskClass::Living && self.terms.count > 1 {
            return false;
        }
        self.note_latest(task);
        match task.status.class {
            TaskClass::Living => return true,
            TaskClass::Succeeded => self.progress.finished += 1,
            TaskClass::Killed => self.on_killed(index, task),
            TaskClass::Failed => self.on_failed(index, cell, task, now),
            TaskClass::Lost => self.on_lost(index, cell, task, now),
        }
        self.progress.active -= 1;
        let is_good = task.status.class == TaskClass::Succeeded;
        let held_ms = task.status.held_ms.filter(|_| is_good);
        self.lines.end(index, held_ms);
        if self.tasks.get(index) == Some(cell) {
            self.tasks.remove(index);
        }
        true
    }

    /// Cancels what waits; what is launched must be killed. Answers whether
    /// that is news.
    pub fn cancel(&mut self, by: &str) -> bool {
        if self.progress.cancelled || self.is_ended() {
            return false;
        }
        let waiting = self.unlaunched() + self.progress.retrying;
        self.tasks.drop_waiting();
        let progress = &mut self.progress;
        progress.killed += waiting;
        progress.retrying = 0;
        progress.fresh = self.terms.count;
        progress.cancelled = true;
        progress.reason = Some(short(
            reason::KILL_REQUESTED,
            &format!("ended on request of {by}"),
        ));
        true
    }

    /// Notes that a launched task's end was asked for.
    pub fn kill_sent(&mut self, index: u32) {
        if let Some(cell) = self.tasks.get(index)
            && let Place::Active(attempt) = cell.place
        {
            self.tasks.set(
                index,
                Cell {
                    place: Place::Killing(attempt),
                    ..cell
                },
            );
        }
    }

    fn unlaunched(&self) -> u32 {
        self.terms.count - self.progress.fresh
    }

    fn on_killed(&mut self, index: u32, task: &Task) {
        self.progress.killed += 1;
        if !self.progress.cancelled {
            self.note_reason(index, task);
        }
    }

    fn on_failed(&mut self, index: u32, cell: Cell, task: &Task, now: u64) {
        let failures = cell.failures + 1;
        self.note_reason(index, task);
        let again =
            failures <= self.terms.max_restarts && !self.progress.cancelled && !is_permanent(task);
        if again {
            let due = now.saturating_add(backoff_ms(failures));
            self.wait(
                index,
                Cell {
                    failures,
                    losses: 0,
                    place: Place::Waiting(due),
                },
            );
        } else {
            self.progress.failed += 1;
        }
    }

    fn on_lost(&mut self, index: u32, cell: Cell, task: &Task, now: u64) {
        if self.progress.cancelled {
            self.progress.killed += 1;
            return;
        }
        if was_only_in_line(task) {
            let place = Place::Waiting(now);
            return self.wait(index, Cell { place, ..cell });
        }
        self.note_reason(index, task);
        if is_permanent(task) {
            self.progress.failed += 1;
            return;
        }
        let losses = cell.losses.saturating_add(1);
        // The first is run again at once. One that is lost again and again
        // waits longer each time, so that it cannot keep the cluster busy.
        let wait = if losses == 1 {
            0
        } else {
            backoff_ms(losses - 1)
        };
        let due = now.saturating_add(wait);
        self.wait(
            index,
            Cell {
                failures: cell.failures,
                losses,
                place: Place::Waiting(due),
            },
        );
    }

    fn wait(&mut self, index: u32, cell: Cell) {
        self.progress.retrying += 1;
        self.tasks.set(index, cell);
    }

    fn note_latest(&mut self, task: &Task) {
        if self.terms.count == 1 {
            self.progress.latest = Some(Attempt {
                attempt: task.id.attempt,
                state: state_of(task),
                exit_code: task.status.exit_code,
            });
        }
    }

    fn note_reason(&mut self, index: u32, task: &Task) {
        let status = &task.status;
        let (code, message) = match &status.reason {
            Some(reason) => (reason.code.as_str(), reason.message.as_str()),
            None => (status.code.as_str(), "the task gave no reason"),
        };
        self.progress.reason = Some(if self.terms.count == 1 {
            short(code, message)
        } else {
            short(code, &format!("task {index}: {message}"))
        });
    }
}

/// Whether it waited for a place that others want now: nothing was lost but its turn.
fn was_only_in_line(task: &Task) -> bool {
    let reason = task.status.reason.as_ref();
    reason.is_some_and(|why| why.code == reason::PLACE_WANTED)
}

/// Ends that another attempt on another machine would not change.
fn is_permanent(task: &Task) -> bool {
    let codes = [
        reason::ARTIFACT_UNKNOWN,
        reason::WASM_INVALID,
        reason::WASM_IMPORT_MISSING,
    ];
    task.status
        .reason
        .as_ref()
        .is_some_and(|why| codes.contains(&why.code.as_str()))
}

/// The state, or the nearest known one of its class: the host's list may grow.
fn state_of(task: &Task) -> TaskState {
    task.status.state().unwrap_or(match task.status.class {
        TaskClass::Living => TaskState::Running,
        TaskClass::Succeeded => TaskState::Finished,
        TaskClass::Failed => TaskState::Failed,
        TaskClass::Killed => TaskState::Killed,
        TaskClass::Lost => TaskState::Gone,
    })
}

/// The wait after the `failures`th failure: 1 s, 2 s, 4 s… five minutes.
fn backoff_ms(failures: u32) -> u64 {
    let doublings = failures.saturating_sub(1).min(32);
    BACKOFF_FIRST_MS
        .saturating_mul(1 << doublings)
        .min(BACKOFF_MOST_MS)
}

fn short(code: &str, message: &str) -> Reason {
    let mut end = REASON_BYTES.min(message.len());
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    let mark = if end < message.len() { " […]" } else { "" };
    Reason {
        code: code.to_owned(),
        message: format!("{}{mark}", &message[..end]),
    }
}

#[cfg(test)]
mod tests;
