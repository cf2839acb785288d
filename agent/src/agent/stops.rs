//! Tasks that end when the masters say nothing for too long.
//!
//! Such a task may be replaced elsewhere once its time is over, so it ends before: the time is
//! counted from when the last heartbeat that a leader has heard was sent, and the end is asked for
//! so early that its grace and a quarter of the time are left. Calling [`Agent::on_tick`] four times
//! a second is soon enough: the shortest time is five seconds.

use tepui_types::task::{PartitionPolicy, reason};
use tepui_types::wire::agent::StatusReport;
use tepui_types::{Reason, TaskId, TaskState};

use super::tasks::{Stage, Task};
use super::{Action, Agent};

impl Agent {
    /// The masters have heard what was sent at this time of the agent's clock.
    pub fn on_contact(&mut self, sent_ms: u64) {
        self.contact_ms = self.contact_ms.max(sent_ms);
    }

    /// When what the masters have last heard was sent; none if no task depends on it.
    pub fn kept_contact(&self) -> Option<u64> {
        let mut tasks = self.tasks.iter();
        let depends = tasks.any(|(_, task)| stop_of(task).is_some());
        depends.then_some(self.contact_ms)
    }

    /// Ends the tasks whose time without a word is nearly over.
    pub(super) fn stop_unheard(&mut self, out: &mut Vec<Action>, now_ms: u64) {
        let unheard_ms = now_ms.saturating_sub(self.contact_ms);
        if unheard_ms < PartitionPolicy::MIN_STOP_MS / 2 {
            return;
        }
        let due = self.tasks.iter().filter_map(|(id, task)| {
            let stop = stop_of(task)?;
            (unheard_ms >= stop.begins_ms).then(|| (id.clone(), stop.grace_ms))
        });
        let due: Vec<(TaskId, u64)> = due.collect();
        for (id, grace_ms) in due {
            tracing::warn!(task = %id, unheard_ms, "a task is ended: the masters say nothing");
            if let Some(task) = self.tasks.get_mut(&id) {
                task.stopped = task.kill.is_none();
            }
            self.on_kill(out, id, grace_ms);
        }
    }

    /// Gives the end of a task that was stopped its true reason.
    pub(super) fn with_stop(&self, report: StatusReport) -> StatusReport {
        let stopped = self
            .tasks
            .get(&report.task)
            .is_some_and(|task| task.stopped);
        if !stopped || report.state != TaskState::Killed {
            return report;
        }
        let why = "its agent heard nothing of the masters for too long, and ended it";
        StatusReport {
            reason: Some(Reason::new(reason::STOPPED_UNHEARD, why)),
            ..report
        }
    }
}

/// When a task is stopped.
struct Stop {
    /// Milliseconds without a word after which its end is asked for.
    begins_ms: u64,
    grace_ms: u64,
}

/// When this task is stopped, if that is to be and has not begun. One whose end was asked for
/// gets no more grace than that.
fn stop_of(task: &Task) -> Option<Stop> {
    let spec = &task.launch.as_ref()?.spec;
    let PartitionPolicy::StopAfter(after_ms) = spec.partition else {
        return None;
    };
    let quarter = after_ms / 4;
    let grace_ms = spec.kill_grace_ms.min(quarter);
    let is_ending = task.stopped || task.kill.is_some_and(|earlier| earlier <= grace_ms);
    let is_over = is_ending || matches!(task.stage, Stage::Ended(_));
    (!is_over).then_some(Stop {
        begins_ms: after_ms - quarter - grace_ms,
        grace_ms,
    })
}
