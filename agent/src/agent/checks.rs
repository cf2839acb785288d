//! Checks of tasks: begun when a task runs, told with its status, and the end of one that is not well.

use std::sync::Arc;

use tepui_types::check::CheckStatus;
use tepui_types::task::TaskSigns;
use tepui_types::wire::agent::{StatusReport, TaskLaunch};
use tepui_types::wire::executor::LocalNetwork;
use tepui_types::{Reason, TaskId, TaskState, task::reason};

use super::executors::{ExecutorId, ExecutorKind, Phase};
use super::tasks::Stage;
use super::{Action, Agent, report};
use crate::checkpoint::Record;

/// What a task takes of its machine that others are to have.
const MACHINES: [&str; 3] = [
    reason::DISK_LIMIT,
    reason::PORT_FOREIGN,
    reason::UNDER_PRESSURE,
];
/// The longest that it may go on with that, in milliseconds: enough to end in order, and no way to take
/// it for an hour.
const MACHINES_GRACE_MS: u64 = 10_000;

impl Agent {
    /// A task runs, as its executor says: its checks begin, if it has any.
    pub(super) fn check(&self, out: &mut Vec<Action>, id: &TaskId) {
        let launch = self.tasks.get(id).and_then(|task| task.launch.as_ref());
        if let Some(launch) = launch.filter(|launch| launch.spec.checks.is_some()) {
            out.push(Action::Check(launch.clone()));
        }
    }

    /// How a task's checks stand.
    pub fn on_checked(&mut self, id: &TaskId, checks: Vec<CheckStatus>) {
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        if matches!(task.stage, Stage::Handed { .. }) {
            task.checks = checks;
            let report = StatusReport {
                signs: self.signs(id, TaskState::Running),
                ..report(id, TaskState::Running, None)
            };
            self.statuses.set(report);
        }
    }

    /// A task's checks say that it is to end.
    pub fn on_unwell(&mut self, out: &mut Vec<Action>, id: TaskId, why: Reason) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        let Some(launch) = task.launch.clone() else {
            return;
        };
        if task.unwell.is_some() {
            // It is being ended.
            return;
        }
        tracing::warn!(task = %id, "a task is ended: {why}");
        let code = why.code.clone();
        if task.kill.is_none() {
            task.unwell = Some(why.clone());
            // One that is not handed over has ended when this returns.
            if matches!(task.stage, Stage::Handed { .. }) {
                let task = id.clone();
                out.push(Action::Record(Record::Unwell { task, why }));
            }
        }
        let grace_ms = match MACHINES.contains(&code.as_str()) {
            true => launch.spec.kill_grace_ms.min(MACHINES_GRACE_MS),
            false => launch.spec.kill_grace_ms,
        };
        self.on_kill(out, id, grace_ms);
    }

    /// Gives the end of a task that was not well its true reason. One whose machine was needed by
    /// others has not failed.
    pub(super) fn with_verdict(&self, report: StatusReport) -> StatusReport {
        let task = self.tasks.get(&report.task);
        let unwell = task.and_then(|task| task.unwell.clone());
        match unwell {
            Some(why) if report.state == TaskState::Killed => StatusReport {
                state: match why.code == reason::UNDER_PRESSURE {
                    true => TaskState::Killed,
                    false => TaskState::Failed,
                },
                reason: Some(why),
                ..report
            },
            _ => report,
        }
    }

    /// What a task shows in this state.
    pub(super) fn signs(&self, id: &TaskId, state: TaskState) -> Option<Box<TaskSigns>> {
        let task = self.tasks.get(id).filter(|_| !state.is_terminal())?;
        let network = task
            .prepared
            .as_ref()
            .and_then(|prepared| prepared.network.as_ref());
        let addresses = network.map_or(&[][..], |network| &network.addresses);
        let signs = TaskSigns {
            addresses: addresses
                .iter()
                .copied()
                .take(TaskSigns::MAX_ADDRESSES)
                .collect(),
            checks: task.checks.clone(),
            members: task.members.clone(),
        };
        signs.boxed()
    }

    /// The network of a task's container.
    pub fn network_of(&self, id: &TaskId) -> Option<Arc<LocalNetwork>> {
        let prepared = self.tasks.get(id)?.prepared.as_ref()?;
        prepared.network.clone()
    }

    /// The process that has a task, if it runs.
    pub fn executor_of(&self, task: &TaskId) -> Option<ExecutorId> {
        match self.tasks.get(task)?.stage {
            Stage::Handed { executor, .. } => {
                let known = self.executors.get(executor)?;
                (known.phase == Phase::Attached).then_some(executor)
            }
            Stage::InLine | Stage::Fetching | Stage::Placed(_) | Stage::Ended(_) => None,
        }
    }

    /// Whether a process has commands, and not programs.
    pub fn runs_commands(&self, executor: ExecutorId) -> bool {
        let known = self.executors.get(executor);
        known.is_some_and(|known| !matches!(known.kind, ExecutorKind::Wasm(_)))
    }

    /// What a living task runs.
    pub fn launch_of(&self, task: &TaskId) -> Option<&Arc<TaskLaunch>> {
        self.tasks.get(task)?.launch.as_ref()
    }
}
