//! Executors that do not understand the agent, mostly since they are of another release: half of an upgrade.
//!
//! Their tasks that have not begun are told so while they wait. In the end they are dropped, to be run
//! elsewhere: the machine is to blame, and not what they are. One that was sent to the process may run there
//! since, so that is done only when the process was asked once more, and does not have it. What does run
//! there goes on, and a process without any is ended.

use tepui_types::task::reason;
use tepui_types::{Reason, TaskId, TaskState};

use super::tasks::Stage;
use super::{Action, Agent, ExecutorId, report};

impl Agent {
    /// A process hangs up again and again; it is given up where that has gone on for long.
    pub fn on_unfit(
        &mut self,
        out: &mut Vec<Action>,
        id: ExecutorId,
        why: &Reason,
        given_up: bool,
    ) {
        let Some(executor) = self.executors.get(id) else {
            return;
        };
        let living: Vec<TaskId> = executor.living.iter().cloned().collect();
        if given_up {
            self.executors.give_up(id, why);
        }
        for task in living {
            match self.tasks.get(&task).map(|task| task.stage) {
                Some(Stage::Placed(_)) if given_up => self.drop_unfit(out, &task, id),
                Some(stage) if stage.is_waiting() => {
                    let waits = report(&task, TaskState::Starting, Some(why.clone()));
                    self.statuses.set(waits);
                }
                _ => {}
            }
        }
        self.end_unfit(out, id);
    }

    /// Whether a process is given up.
    pub(super) fn is_given_up(&self, id: ExecutorId) -> bool {
        let executor = self.executors.get(id);
        executor.is_some_and(|executor| executor.unfit.is_some())
    }

    /// A task does not run in a process that is given up.
    pub(super) fn drop_unfit(&mut self, out: &mut Vec<Action>, task: &TaskId, id: ExecutorId) {
        let is_killed = self.tasks.get(task).is_some_and(|task| task.kill.is_some());
        let executor = self.executors.get(id);
        let report = match executor.and_then(|executor| executor.unfit.clone()) {
            _ if is_killed => {
                let why = Reason::new(reason::KILL_REQUESTED, "it was killed before it started");
                report(task, TaskState::Killed, Some(why))
            }
            why => report(task, TaskState::Dropped, why),
        };
        self.end(out, report);
    }

    /// Ends a process that is given up, once nothing runs there, and says so once.
    pub(super) fn end_unfit(&self, out: &mut Vec<Action>, id: ExecutorId) {
        let executor = self.executors.get(id);
        let is_done = executor.is_some_and(|it| it.unfit.is_some() && it.living.is_empty());
        if is_done && !out.contains(&Action::End(id)) {
            out.push(Action::End(id));
        }
    }
}
