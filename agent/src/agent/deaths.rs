//! Executor processes that are dead, or never were: what becomes of their tasks.

use std::collections::BTreeMap;

use tepui_types::task::{TaskUsage, reason};
use tepui_types::wire::agent::StatusReport;
use tepui_types::wire::executor::TaskUpdate;
use tepui_types::{Reason, TaskId, TaskState};

use super::tasks::{MAX_PLACEMENTS, Stage};
use super::{Action, Agent, ExecutorId, report};
use crate::checkpoint::Record;

/// What a dead process left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Death {
    /// The ends that it wrote down.
    pub exits: Vec<TaskUpdate>,
    /// Whether it went because it had nothing to do: a task that it never spoke
    /// of cannot have run there.
    pub left: bool,
    /// The end of its log.
    pub last_words: String,
    /// What its tasks had used that it did not see the end of, as far as that is known; of others, too.
    pub used: BTreeMap<TaskId, TaskUsage>,
}

impl Agent {
    /// Whoever stopped the agent has ended its tasks with it: that the processes which are looked for
    /// are gone is nobody's failure.
    pub fn on_stopped(&mut self) {
        self.was_stopped = true;
    }

    /// A process could not be started: the machine is to blame, and its tasks may
    /// run elsewhere.
    pub fn on_executor_failed(&mut self, out: &mut Vec<Action>, id: ExecutorId, why: &Reason) {
        let Some(executor) = self.executors.remove(id) else {
            return;
        };
        for task in executor.living {
            self.end(out, report(&task, TaskState::Dropped, Some(why.clone())));
        }
        out.push(Action::Record(Record::ExecutorGone(id)));
        out.push(Action::Clear(id));
    }

    /// A process is dead.
    pub fn on_executor_lost(&mut self, out: &mut Vec<Action>, id: ExecutorId, death: Death) {
        let Death {
            exits,
            left,
            last_words,
            used,
        } = death;
        self.on_updates(out, id, exits);
        let Some(executor) = self.executors.remove(id) else {
            return;
        };
        let mut elsewhere = Vec::new();
        for task_id in executor.living {
            let Some(task) = self.tasks.get_mut(&task_id) else {
                continue;
            };
            let may_have_run = match task.stage {
                Stage::Handed { acknowledged, .. } => acknowledged || !left,
                Stage::InLine | Stage::Fetching | Stage::Placed(_) | Stage::Ended(_) => false,
            };
            if may_have_run {
                let report = match self.was_stopped && executor.is_found {
                    true => stopped(&task_id),
                    false => terminated(&task_id, &last_words),
                };
                let usage = used.get(&task_id).copied();
                self.end(out, StatusReport { usage, ..report });
            } else if task.placements >= MAX_PLACEMENTS {
                let why = Reason::new(
                    reason::EXECUTOR_FAILED,
                    format!("{MAX_PLACEMENTS} executor processes ended before they took it"),
                );
                self.end(out, report(&task_id, TaskState::Dropped, Some(why)));
            } else if let Some(grace) = task.kill {
                tracing::debug!(task = %task_id, grace, "its executor left before the kill");
                let why = Reason::new(reason::KILL_REQUESTED, "it was killed before it started");
                self.end(out, report(&task_id, TaskState::Killed, Some(why)));
            } else {
                elsewhere.push(task_id);
            }
        }
        // After the ends, or a torn journal would run the ended ones again; and before the others
        // are handed over, or it would have them in two processes.
        out.push(Action::Record(Record::ExecutorGone(id)));
        out.push(Action::Clear(id));
        for task_id in elsewhere {
            self.place(out, &task_id);
        }
    }
}

/// It ended under its process.
fn terminated(task: &TaskId, last_words: &str) -> StatusReport {
    let mut message = "its executor process ended under it".to_owned();
    if !last_words.is_empty() {
        message = format!("{message}; it had said: {last_words}");
    }
    let why = Reason::new(reason::EXECUTOR_TERMINATED, message);
    report(task, TaskState::Failed, Some(why))
}

/// It ended with its agent, as someone asked.
pub(super) fn stopped(task: &TaskId) -> StatusReport {
    let why = "its agent was stopped, and its tasks with it";
    let why = Reason::new(reason::KILL_REQUESTED, why);
    report(task, TaskState::Killed, Some(why))
}
