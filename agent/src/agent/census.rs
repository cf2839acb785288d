//! Which tasks run and where: what those look at who watch over the machine.

use std::sync::Arc;

use tepui_types::wire::agent::TaskLaunch;

use super::Agent;
use super::executors::{ExecutorId, ExecutorKind, Phase};
use super::tasks::{Stage, Task};

/// A task that its executor has.
#[derive(Debug, Clone)]
pub struct Running {
    /// What it runs, and with what.
    pub launch: Arc<TaskLaunch>,
    /// The process that has it.
    pub executor: ExecutorId,
    /// Where its processes are.
    pub place: Place,
    /// Whether its network is its own, and not the machine's.
    pub has_own_network: bool,
}

/// Where a task's processes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a cgroup of this path, which no other task has; none where there are no cgroups.
    Alone(Option<String>),
    /// It is a part of this process, as other tasks are.
    Within(ExecutorId),
}

impl Agent {
    /// All tasks that executors have, in the order of their ids.
    pub fn running(&self) -> Vec<Running> {
        let tasks = self.tasks.iter();
        tasks
            .filter_map(|(_, task)| self.running_of(task))
            .collect()
    }

    /// Whether a process is connected.
    pub fn is_attached(&self, executor: ExecutorId) -> bool {
        let known = self.executors.get(executor);
        known.is_some_and(|known| known.phase == Phase::Attached)
    }

    fn running_of(&self, task: &Task) -> Option<Running> {
        let Stage::Handed { executor, .. } = task.stage else {
            return None;
        };
        let place = match self.executors.get(executor)?.kind {
            ExecutorKind::Native(_) | ExecutorKind::Container(_) => {
                Place::Alone(self.layout.task_cgroup(executor))
            }
            ExecutorKind::Wasm(_) => Place::Within(executor),
        };
        let prepared = task.prepared.as_ref();
        Some(Running {
            launch: task.launch.clone()?,
            executor,
            place,
            has_own_network: prepared.is_some_and(|prepared| prepared.network.is_some()),
        })
    }
}
