//! Tasks with containers, with volumes, with disks of their own, or with something to fetch: what these need is got before the task is
//! placed, and let go of after its end.
//!
//! It is recorded when it is there, so that an agent that starts anew lets go of nothing that a task
//! still has.

use std::sync::Arc;

use tepui_types::task::reason;
use tepui_types::wire::agent::TaskLaunch;
use tepui_types::{Bytes, Reason, TaskId, TaskState, Workload};

use super::tasks::{Prepared, Stage};
use super::{Action, Agent, report};
use crate::checkpoint::Record;

/// For these its machine is to blame, and not what a task is.
const MACHINES: [&str; 3] = [
    reason::VOLUME_UNAVAILABLE,
    reason::AGENT_FULL,
    reason::EXECUTOR_FAILED,
];

impl Agent {
    /// Has the kernel keep the sizes of sandboxes, or not: a disk is made then before its task is placed.
    pub fn keep_disks(&mut self, are_kept: bool) {
        self.are_disks_kept = are_kept;
    }

    /// Whether what a task needs of its machine is there; if not, it is being got.
    pub(super) fn is_prepared(&mut self, out: &mut Vec<Action>, launch: &Arc<TaskLaunch>) -> bool {
        let Some(task) = self.tasks.get_mut(&launch.task) else {
            return false;
        };
        let is_prepared = task.prepared.is_some();
        if !is_prepared && !std::mem::replace(&mut task.is_preparing, true) {
            out.push(Action::Prepare(launch.clone()));
        }
        is_prepared
    }

    /// What a task needs of its machine is there, or cannot be had. Of one that has ended since,
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
                task.become_program();
                out.push(Action::Record(Record::Prepared {
                    task: id.clone(),
                    prepared,
                }));
                self.route(out, id);
            }
            Err(why) => {
                let state = match MACHINES.contains(&why.code.as_str()) {
                    true => TaskState::Dropped,
                    false => TaskState::Error,
                };
                self.end(out, report(id, state, Some(why)));
            }
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

    /// Whether something is to be let go of after a task's end. A program that came as an image needs
    /// no more preparation, and had one.
    pub(super) fn is_to_be_released(&self, id: &TaskId) -> bool {
        let task = self.tasks.get(id);
        let is_prepared = task.is_some_and(|task| task.prepared.is_some());
        is_prepared || self.is_to_be_prepared(id)
    }

    /// Whether something is got for a task before it is placed.
    pub(super) fn is_to_be_prepared(&self, id: &TaskId) -> bool {
        let launch = self.tasks.get(id).and_then(|task| task.launch.as_ref());
        launch.is_some_and(|launch| self.needs_preparation(launch))
    }

    pub(super) fn needs_preparation(&self, launch: &TaskLaunch) -> bool {
        needs_preparation(launch) || (self.are_disks_kept && has_disk(launch))
    }
}

/// Whether a task is to have a disk whose size the kernel keeps, if it keeps any. WebAssembly tasks are
/// held back by their executors.
pub fn has_disk(launch: &TaskLaunch) -> bool {
    let is_command = matches!(launch.spec.workload, Workload::Command(_));
    is_command && launch.resources.disk > Bytes(0)
}

fn needs_preparation(launch: &TaskLaunch) -> bool {
    let has_container = match &launch.spec.workload {
        Workload::Command(command) => command.container.is_some(),
        Workload::Wasm(_) => false,
    };
    has_container
        || !launch.volumes.is_empty()
        || !launch.spec.fetch.is_empty()
        || !launch.resources.gpus.is_empty()
}
