//! The agent's state machine: which tasks it holds, where they are, what the
//! log has yet to hear.
//!
//! The event loop calls one `on_…` for each thing that happens and performs the
//! [`Action`]s that come out: first all records, in one write, then the rest in
//! order. Nothing here does I/O or reads a clock. What always holds: a task is
//! recorded before anything is done for it, it is handed to at most one
//! executor process, and it is forgotten only when the log has its end.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tepui_pressure::Launches;
use tepui_types::task::reason;
use tepui_types::wire::agent::{AgentEffect, StatusReport, TaskLaunch, VolumeList};
use tepui_types::wire::executor::{ProcessIdentity, TaskUpdate, ToExecutor};
use tepui_types::{Digest, Reason, TaskId, TaskState};

pub use census::{Place, Running};
pub use containers::has_disk;
pub use deaths::Death;
pub use executors::{Executor, ExecutorId, ExecutorKind, Phase, TrustDomain, token};
pub use programs::as_program;
pub use status_updates::Urgency;
pub use tasks::{Life, LocalProgram, Prepared};
pub use throttle::WHOLE_SHARE;

use crate::checkpoint::Record;
use crate::sandbox::Layout;
use artifacts::Artifact;
use executors::Executors;
use status_updates::StatusUpdates;
use tasks::{Stage, Tasks};

mod artifacts;
mod census;
mod checks;
mod containers;
mod deaths;
mod executors;
mod placement;
mod programs;
mod replay;
mod room;
mod status_updates;
mod stops;
mod tasks;
#[cfg(test)]
mod tests;
mod throttle;
mod unfit;

/// While so many are in line behind an end, nobody waits for the log to hear of it: it takes no longer to
/// answer than they run.
const MANY_IN_LINE: usize = 2;

/// Something the shell must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Write this to the journal, before any other action.
    Record(Record),
    /// Get an artifact; answered by [`Agent::on_fetched`].
    Fetch(Digest),
    /// Get what a task's container needs; answered by [`Agent::on_prepared`] unless the task ends.
    Prepare(Arc<TaskLaunch>),
    /// A task with checks runs: begin with them, unless they have begun; they end with it.
    Check(Arc<TaskLaunch>),
    /// A task with a container has ended: what it needed is needed no more.
    Release(TaskId),
    /// Remove an artifact's file; answered by [`Agent::on_removed`].
    Remove(Digest),
    /// Start a process; answered by [`Agent::on_attached`], or by
    /// [`Agent::on_executor_failed`] if there never was one.
    Start(ExecutorId, ExecutorKind),
    /// Look for a process that an earlier agent started; answered by [`Agent::on_attached`] or
    /// [`Agent::on_executor_lost`].
    Find(ExecutorId),
    /// Say this to a connected process.
    Send(ExecutorId, ToExecutor),
    /// Remove what is stored in volumes that are no more.
    KeepVolumes(VolumeList),
    /// A process is gone and all that it left is known: remove its folder.
    Clear(ExecutorId),
    /// A process has nothing and does not understand the agent: end it; answered by
    /// [`Agent::on_executor_lost`].
    End(ExecutorId),
    /// A task has ended: whoever follows its output may stop at the end of it.
    Ended(TaskId, TaskState),
}

/// Effects of a leader that is no longer the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("effects of term {found} came after term {newest} was seen")]
pub struct StaleTerm {
    /// The effects'.
    pub found: u64,
    /// The newest that was seen.
    pub newest: u64,
}

/// All that an agent knows.
#[derive(Debug, Clone)]
pub struct Agent {
    layout: Layout,
    tasks: Tasks,
    statuses: StatusUpdates,
    executors: Executors,
    artifacts: HashMap<Digest, Artifact>,
    /// Whether whoever stopped the last process of this agent has ended its tasks, too.
    was_stopped: bool,
    /// Whether there is no room to record more tasks.
    is_full: bool,
    /// Whether the kernel keeps the sizes of sandboxes.
    are_disks_kept: bool,
    /// What the machine has room for.
    launches: Launches,
    /// How many percent of what may be taken back tasks get of their processors.
    share_percent: u8,
    term: u64,
    /// When what the masters have last heard was sent, by the agent's own clock.
    contact_ms: u64,
}

impl Agent {
    /// An agent that knows nothing yet.
    pub fn new(layout: Layout) -> Self {
        Self {
            layout,
            tasks: Tasks::default(),
            statuses: StatusUpdates::default(),
            executors: Executors::default(),
            artifacts: HashMap::new(),
            was_stopped: false,
            is_full: false,
            are_disks_kept: false,
            launches: Launches::All,
            share_percent: WHOLE_SHARE,
            term: 0,
            contact_ms: 0,
        }
    }

    /// The newest leader's term that was seen.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// What is known of a task.
    pub fn life(&self, task: &TaskId) -> Life {
        self.tasks.life(task)
    }

    /// How many tasks have not ended.
    pub fn living_tasks(&self) -> usize {
        self.tasks.living()
    }

    /// How many executor processes there are.
    pub fn executor_count(&self) -> usize {
        self.executors.len()
    }

    /// The numbers of all executor processes.
    pub fn executor_ids(&self) -> impl Iterator<Item = ExecutorId> {
        self.executors.iter().map(|(id, _)| id)
    }

    /// Ids of all tasks that are not forgotten.
    pub fn held_tasks(&self) -> impl Iterator<Item = &TaskId> {
        self.tasks.iter().map(|(id, _)| id)
    }

    /// Ids of all tasks that have not ended.
    pub fn living_ids(&self) -> impl Iterator<Item = &TaskId> {
        let ids = self.held_tasks();
        ids.filter(|id| self.tasks.life(id) == Life::Living)
    }

    /// What a `Hello` says: every task that is not forgotten.
    pub fn hello_tasks(&self) -> Vec<StatusReport> {
        let report = |id: &TaskId| {
            self.statuses
                .get(id)
                .cloned()
                .unwrap_or_else(|| report(id, TaskState::Starting, None))
        };
        self.tasks.iter().map(|(id, _)| report(id)).collect()
    }

    /// Whether a status waits to be sent.
    pub fn has_statuses(&self, urgency: Urgency) -> bool {
        self.statuses.is_pending(urgency)
    }

    /// Whether a status that waits is to be sent at once.
    pub fn has_urgent_statuses(&self) -> bool {
        self.statuses.is_urgent()
    }

    /// Up to `most` statuses to send now.
    pub fn take_statuses(&mut self, urgency: Urgency, most: usize) -> Vec<StatusReport> {
        self.statuses.take(urgency, most)
    }

    /// A master of this term has taken the agent in.
    pub fn on_registered(&mut self, out: &mut Vec<Action>, term: u64) -> Result<(), StaleTerm> {
        self.on_term(out, term)?;
        self.statuses.resend();
        Ok(())
    }

    /// The master wants these done.
    pub fn on_effects(
        &mut self,
        out: &mut Vec<Action>,
        term: u64,
        effects: Vec<AgentEffect>,
    ) -> Result<(), StaleTerm> {
        self.on_term(out, term)?;
        for effect in effects {
            match effect {
                AgentEffect::Launch(launch) => self.on_launch(out, *launch),
                AgentEffect::Kill { task, grace_ms } => self.on_kill(out, task, grace_ms),
                AgentEffect::Volumes(list) => out.push(Action::KeepVolumes(list)),
            }
        }
        Ok(())
    }

    fn on_term(&mut self, out: &mut Vec<Action>, term: u64) -> Result<(), StaleTerm> {
        if term < self.term {
            return Err(StaleTerm {
                found: term,
                newest: self.term,
            });
        }
        if term > self.term {
            self.term = term;
            out.push(Action::Record(Record::Term(term)));
        }
        Ok(())
    }

    fn on_launch(&mut self, out: &mut Vec<Action>, launch: TaskLaunch) {
        let id = launch.task.clone();
        if self.is_refused(&id) {
            tracing::debug!(task = %id, "launch of a refused task is ignored");
            return;
        }
        let unfit = self.unfit(&launch);
        let unfit = unfit.or_else(|| self.refused_ahead(&launch));
        if let Some(why) = unfit.filter(|_| self.tasks.life(&id) == Life::Unknown) {
            self.refuse(&id, why);
            return;
        }
        if self.tasks.is_forgotten(&id) {
            let why = "its agent has run it before, and knows no more of it";
            let why = Reason::new(reason::AGENT_FORGOT, why);
            self.statuses.set(report(&id, TaskState::Gone, Some(why)));
            return;
        }
        if !self.tasks.insert(launch.clone()) {
            tracing::debug!(task = %id, "launch of a known task is ignored");
            return;
        }
        // As it is here: of one ahead that ended in line the journal may say no more.
        let after = self.tasks.ahead_of(&id);
        let launch = Box::new(TaskLaunch { after, ..launch });
        out.push(Action::Record(Record::Launched(launch)));
        self.line_up_or_route(out, &id);
    }

    fn on_kill(&mut self, out: &mut Vec<Action>, id: TaskId, grace_ms: u64) {
        let Some(task) = self.tasks.get_mut(&id) else {
            tracing::debug!(task = %id, "kill of an unknown task is ignored");
            return;
        };
        match task.stage {
            Stage::InLine | Stage::Fetching | Stage::Placed(_) => {
                let why = Reason::new(reason::KILL_REQUESTED, "it was killed before it started");
                self.end(out, report(&id, TaskState::Killed, Some(why)));
            }
            Stage::Handed { executor, .. } => {
                task.kill = Some(task.kill.map_or(grace_ms, |earlier| earlier.min(grace_ms)));
                self.send(out, executor, ToExecutor::Kill { task: id, grace_ms });
            }
            Stage::Ended(_) => {}
        }
    }

    /// The log has these states.
    pub fn on_recorded(&mut self, out: &mut Vec<Action>, recorded: Vec<(TaskId, TaskState)>) {
        for (id, state) in recorded {
            if !self.statuses.record(&id, state) || !state.is_terminal() {
                continue;
            }
            if self.is_refused(&id) {
                self.statuses.remove(&id);
                self.tasks.remember(id);
                continue;
            }
            let Some(Stage::Ended(executor)) = self.tasks.get(&id).map(|task| task.stage) else {
                continue;
            };
            out.push(Action::Record(Record::Forgotten(id.clone())));
            self.statuses.remove(&id);
            self.tasks.forget(&id);
            let Some(executor) = executor else { continue };
            if let Some(known) = self.executors.get_mut(executor) {
                known.ended = known.ended.saturating_sub(1);
            }
            self.send(out, executor, ToExecutor::Forget(id));
            self.keep_or_retire(out, executor);
        }
    }

    /// A process has answered and tells all the tasks that it has.
    pub fn on_attached(
        &mut self,
        out: &mut Vec<Action>,
        id: ExecutorId,
        identity: ProcessIdentity,
        updates: Vec<TaskUpdate>,
    ) {
        let Some(executor) = self.executors.get_mut(id) else {
            return;
        };
        executor.phase = Phase::Attached;
        if executor.identity.as_ref() != Some(&identity) {
            executor.identity = Some(identity.clone());
            out.push(Action::Record(Record::ExecutorStarted {
                executor: id,
                identity,
            }));
        }
        let mine: Vec<TaskId> = executor.living.iter().cloned().collect();
        let listed: BTreeSet<TaskId> = updates.iter().map(|update| update.task.clone()).collect();
        self.on_updates(out, id, updates);
        for task_id in mine {
            let Some(task) = self.tasks.get(&task_id) else {
                continue;
            };
            if task.stage.is_waiting() && self.is_given_up(id) && !listed.contains(&task_id) {
                self.drop_unfit(out, &task_id, id);
                continue;
            }
            match (task.stage, task.kill) {
                (Stage::Placed(_), _) => self.hand(out, &task_id, id),
                (Stage::Handed { .. }, kill) => {
                    if !listed.contains(&task_id) {
                        // It may have been lost on the way; an executor that
                        // has it ignores the second.
                        self.send_launch(out, &task_id, id);
                    }
                    self.send_share(out, &task_id, id);
                    if let Some(grace_ms) = kill {
                        self.send(
                            out,
                            id,
                            ToExecutor::Kill {
                                task: task_id,
                                grace_ms,
                            },
                        );
                    }
                }
                (Stage::InLine | Stage::Fetching | Stage::Ended(_), _) => {}
            }
        }
        let is_retired = |known: &Executor| known.retired;
        match self.executors.get(id).is_some_and(is_retired) {
            _ if self.is_given_up(id) => self.end_unfit(out, id),
            // It may not have heard of it.
            true => self.send(out, id, ToExecutor::Retire),
            false => self.keep_or_retire(out, id),
        }
    }

    /// A process tells how its tasks go.
    pub fn on_updates(&mut self, out: &mut Vec<Action>, id: ExecutorId, updates: Vec<TaskUpdate>) {
        for update in updates {
            let Some(task) = self.tasks.get_mut(&update.task) else {
                self.on_stranger(out, id, update);
                continue;
            };
            match &mut task.stage {
                Stage::Handed {
                    executor,
                    acknowledged,
                } if *executor == id => {
                    *acknowledged = true;
                    self.on_progress(out, update);
                }
                stage => {
                    tracing::debug!(task = %update.task, executor = %id, ?stage, "late update")
                }
            }
        }
    }

    /// The executor has a task that this agent does not know: forgotten, or
    /// launched by an agent whose journal is lost.
    fn on_stranger(&mut self, out: &mut Vec<Action>, id: ExecutorId, update: TaskUpdate) {
        let task = update.task;
        let message = if update.state.is_terminal() {
            ToExecutor::Forget(task)
        } else {
            ToExecutor::Kill { task, grace_ms: 0 }
        };
        self.send(out, id, message);
    }

    fn on_progress(&mut self, out: &mut Vec<Action>, update: TaskUpdate) {
        let TaskUpdate {
            task,
            state,
            reason,
            exit_code,
            usage,
            members,
        } = update;
        if let Some(known) = self.tasks.get_mut(&task) {
            known.members = members;
        }
        let report = StatusReport {
            signs: self.signs(&task, state),
            task,
            state,
            reason,
            exit_code,
            usage,
        };
        if state.is_terminal() {
            self.end(out, report);
        } else {
            self.check(out, &report.task);
            self.statuses.set(report);
        }
    }

    /// A process lives, but the connection to it broke; the shell reconnects.
    pub fn on_detached(&mut self, id: ExecutorId) {
        self.executors.detach(id);
    }

    /// Time has passed; `now_ms` is of the clock that heartbeats are sent by.
    pub fn on_tick(&mut self, out: &mut Vec<Action>, now_ms: u64) {
        self.stop_unheard(out, now_ms);
        for id in self.executors.retire_idle(now_ms) {
            self.send(out, id, ToExecutor::Retire);
        }
    }

    /// The agent is about to end: processes that wait for another task need not.
    pub fn on_stop(&mut self, out: &mut Vec<Action>) {
        for id in self.executors.retire_empty() {
            self.send(out, id, ToExecutor::Retire);
        }
    }

    /// Whether a process that was told to end, and has nothing, is still there.
    pub fn any_retiring(&self) -> bool {
        self.executors.any_retiring()
    }

    /// Says something to a process if it is connected; if it is not, all that
    /// matters is said again when it attaches.
    fn send(&self, out: &mut Vec<Action>, id: ExecutorId, message: ToExecutor) {
        if self
            .executors
            .get(id)
            .is_some_and(|executor| executor.phase == Phase::Attached)
        {
            out.push(Action::Send(id, message));
        }
    }

    /// The one way in which tasks end.
    fn end(&mut self, out: &mut Vec<Action>, report: StatusReport) {
        let report = self.with_verdict(self.with_stop(report));
        let id = report.task.clone();
        let was_prepared = self.is_to_be_released(&id);
        let Some(before) = self.tasks.end(&id) else {
            return;
        };
        let state = report.state;
        let executor = before.keeper();
        out.push(Action::Record(Record::Ended {
            report: report.clone(),
            executor,
        }));
        match self.tasks.in_line_behind(&id) >= MANY_IN_LINE {
            true => self.statuses.set_for_later(report),
            false => self.statuses.set(report),
        };
        match before {
            Stage::Fetching => self.stop_waiting(&id),
            Stage::Placed(executor) | Stage::Handed { executor, .. } => {
                if let Some(known) = self.executors.get_mut(executor) {
                    known.living.remove(&id);
                    known.ended += usize::from(before.keeper().is_some());
                }
                self.keep_or_retire(out, executor);
                self.end_unfit(out, executor);
            }
            Stage::InLine | Stage::Ended(_) => {}
        }
        if was_prepared {
            out.push(Action::Release(id.clone()));
        }
        for next in self.tasks.take_line(&id) {
            self.begin(out, &next);
        }
        out.push(Action::Ended(id, state));
    }

    /// A native process without a task waits for the next one, or ends once the
    /// log has all that it keeps. Without cgroups it ends: what a task left
    /// running could not be told from the next one's processes.
    fn keep_or_retire(&mut self, out: &mut Vec<Action>, id: ExecutorId) {
        if self.layout.cgroup().is_some() && self.executors.keep(id) {
            return;
        }
        let Some(executor) = self.executors.get_mut(id) else {
            return;
        };
        let is_for_one = match executor.kind {
            ExecutorKind::Native(_) | ExecutorKind::Container(_) => true,
            ExecutorKind::Wasm(_) => false,
        };
        let is_done = executor.living.is_empty() && executor.ended == 0;
        if is_for_one && is_done && !executor.retired {
            executor.retired = true;
            self.send(out, id, ToExecutor::Retire);
        }
    }
}

/// A report without code and usage.
fn report(id: &TaskId, state: TaskState, reason: Option<Reason>) -> StatusReport {
    StatusReport {
        task: id.clone(),
        state,
        reason,
        exit_code: None,
        usage: None,
        signs: None,
    }
}
