//! Tasks with containers: what these need is got before the task is placed, and let go of after its
//! end.
//!
//! It is recorded when it is there, so that an agent that starts anew lets go of nothing that a task
//! still has.

use std::sync::Arc;

use tepui_types::wire::agent::TaskLaunch;
use tepui_types::{Reason, TaskId, TaskState, Workload};

use super::tasks::{Prepared, Stage};
use super::{Action, Agent, report};
use crate::checkpoint::Record;

impl Agent {
    /// Whether what a task's container needs is there; if not, it is being got.
    pub(super) fn is_prepared(&self, out: &mut Vec<Action>, launch: &Arc<TaskLaunch>) -> bool {
        let task = self.tasks.get(&launch.task);
        let is_prepared = task.is_some_and(|task| task.prepared.is_some());
        if !is_prepared {
            out.push(Action::Prepare(launch.clone()));
        }
        is_prepared
    }

    /// What a task's container needs is there, or cannot be had. Of one that has ended since,
    /// nothing is left to be said: its release was ordered.
    pub fn on_prepared(
        &mut self,
        out: &mut Vec<Action>,
        id: &TaskId,
        result: Result<Prepared, Reason>,
    ) {
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        if task.stage != Stage::Fetching || task.prepared.is_some() {
            return;
        }
        match result {
            Ok(prepared) => {
                task.prepared = Some(prepared.clone());
                out.push(Action::Record(Record::Prepared {
                    task: id.clone(),
                    prepared,
                }));
                self.place(out, id);
            }
            Err(why) => self.end(out, report(id, TaskState::Error, Some(why))),
        }
    }

    /// What a task's container needs is on its way.
    pub fn on_preparing(&mut self, id: &TaskId, progress: Reason) {
        let stage = self.tasks.get(id).map(|task| task.stage);
        if stage == Some(Stage::Fetching) {
            let report = report(id, TaskState::Starting, Some(progress));
            self.statuses.set(report);
        }
    }

    /// What living tasks' containers have of the machine.
    pub fn prepared(&self) -> impl Iterator<Item = (&TaskId, &Prepared)> {
        let tasks = self.tasks.iter();
        tasks.filter_map(|(id, task)| Some((id, task.prepared.as_ref()?)))
    }

    pub(super) fn has_container(&self, id: &TaskId) -> bool {
        let launch = self.tasks.get(id).and_then(|task| task.launch.as_ref());
        launch.is_some_and(|launch| match &launch.spec.workload {
            Workload::Command(command) => command.container.is_some(),
            Workload::Wasm(_) => false,
        })
    }
}
