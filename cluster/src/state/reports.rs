//! What agents say of their tasks.
//!
//! A report that is late, repeated or out of order changes nothing, and is
//! answered all the same: the agent sends a state until the log has it.

use std::sync::Arc;

use tepui_types::wire::agent::{AgentEffect, StatusReport};
use tepui_types::{AgentId, TaskId, TaskState, TaskStatus};

use crate::effect::Effect;
use crate::outcome::{Accepted, Outcome, Rejection};
use crate::state::State;
use crate::state::context::Context;
use crate::state::tasks::Task;

impl State {
    pub(super) fn report_tasks(
        &mut self,
        context: &mut Context,
        agent: AgentId,
        reports: &[StatusReport],
    ) -> Outcome {
        if !self.agents.contains_key(&agent) {
            return Err(Rejection::NotFound(format!("there is no agent {agent}")));
        }
        self.take_reports(context, agent, reports);
        Ok(Accepted::Done)
    }

    pub(super) fn take_reports(
        &mut self,
        context: &mut Context,
        agent: AgentId,
        reports: &[StatusReport],
    ) {
        let recorded = reports.iter();
        let recorded: Vec<(TaskId, TaskState)> = recorded
            .map(|report| (report.task.clone(), report.state))
            .collect();
        if !recorded.is_empty() {
            // Before what follows from it: a task's end may be another's launch.
            context.effects.push(Effect::Recorded(agent, recorded));
        }
        for report in reports {
            self.take_report(context, agent, report);
        }
    }

    /// What ends those of an agent's tasks that it has beyond the log's: the log knows of no such task, or
    /// that it has ended, and whatever still runs there is not ours to keep. Who registers has no session
    /// yet when that is told of first.
    pub fn ends_beyond<'a>(
        &self,
        agent: AgentId,
        tasks: impl IntoIterator<Item = &'a TaskId>,
    ) -> Vec<AgentEffect> {
        let tasks = tasks.into_iter();
        let beyond = tasks
            .filter(|task| !self.is_of_lost_time(task) && self.living_on(agent, task).is_none());
        beyond.map(kill_at_once).collect()
    }

    fn living_on(&self, agent: AgentId, task: &TaskId) -> Option<&Arc<Task>> {
        let known = self.task(task).filter(|task| task.agent == agent);
        known.filter(|task| task.is_told())
    }

    fn take_report(&mut self, context: &mut Context, agent: AgentId, report: &StatusReport) {
        if self.is_of_lost_time(&report.task) {
            return self.hold(context, agent, report);
        }
        let Some(task) = self.living_on(agent, &report.task) else {
            if !report.state.is_terminal() {
                let kill = kill_at_once(&report.task);
                context.effects.push(Effect::Agent(agent, kill));
            }
            return;
        };
        let operation = task.operation;
        let is_step = task.status.state.may_become(report.state);
        if !(is_step || is_news(&task.status, report)) || is_masters_own(report.state) {
            return;
        }
        let back_in_sight = task.status.state == TaskState::Unreachable && task.kill.is_some();
        let state = match report.state {
            living if back_in_sight && !living.is_terminal() => TaskState::Killing,
            state => state,
        };
        let (state, taken) = match state {
            TaskState::Killed => task.killed_as(),
            state => (state, None),
        };
        let status = TaskStatus {
            state,
            reason: taken.or_else(|| report.reason.clone()),
            exit_code: report.exit_code,
            usage: report.usage,
            signs: report.signs.clone(),
            time: context.now,
        };
        self.set_status(context, operation, status);
    }
}

fn kill_at_once(task: &TaskId) -> AgentEffect {
    AgentEffect::Kill {
        task: task.clone(),
        grace_ms: 0,
    }
}

/// Whether a living task shows something else than it did, or has another reason to be where it is.
fn is_news(status: &TaskStatus, report: &StatusReport) -> bool {
    status.state == report.state
        && !status.state.is_terminal()
        && (status.reason != report.reason || status.signs != report.signs)
}

/// States that only masters give.
fn is_masters_own(state: TaskState) -> bool {
    matches!(
        state,
        TaskState::Staging | TaskState::Unreachable | TaskState::Unknown
    )
}
