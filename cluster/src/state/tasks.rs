//! Tasks: what was launched, and the latest that is known of it.
//!
//! A task holds its latest status and the sequence that its framework has
//! acknowledged; what is still to be delivered follows from the two.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tepui_types::operation::Kill;
use tepui_types::task::Chosen;
use tepui_types::wire::agent::{AgentEffect, TaskLaunch};
use tepui_types::{
    AgentId, FrameworkId, OperationId, Reason, Resources, Role, TaskId, TaskName, TaskState,
    TaskStatus, Timestamp, task::reason,
};

use crate::charge::Charge;
use crate::effect::Effect;
use crate::outcome::{Accepted, Outcome, Rejection};
use crate::state::State;
use crate::state::context::Context;
use crate::state::deadlines::Deadline;
use crate::state::life::Life;
use crate::state::specs::SpecKey;

/// One task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its identity.
    pub id: TaskId,
    /// The operation that launched it.
    pub operation: OperationId,
    /// Where it runs.
    pub agent: AgentId,
    /// Its framework's name.
    pub framework_name: Arc<str>,
    /// What it is charged to.
    pub role: Role,
    /// What it runs; see [`State::spec`].
    pub spec: SpecKey,
    /// What it has.
    pub resources: Resources,
    /// Its place in its array.
    pub array_index: Option<u32>,
    /// The offer that its launch took.
    pub chosen: Option<Chosen>,
    /// The task for whose place it waits, or waited when it ended; see [`successors`](super::successors).
    pub after: Option<OperationId>,
    /// Whether its agent has been told of it ahead, and begins it when the one before has ended.
    pub on_deck: bool,
    /// The task that waits for its place, or has got it.
    pub next: Option<OperationId>,
    /// The latest that the log knows.
    pub status: TaskStatus,
    /// What it was before; see [`Task::steps`].
    pub life: Life,
    /// Counts the changes of `status`, from 1.
    pub sequence: u64,
    /// The last sequence that its framework has acknowledged.
    pub acknowledged: u64,
    /// Milliseconds of grace, once its end has been asked for.
    pub kill: Option<u64>,
    /// Why the cluster asked for it, if nobody else did: a drain of its agent, its
    /// time limit, or a role below its guarantee.
    pub taken: Option<Reason>,
    /// When its time limit ends it.
    pub ends_by: Option<Timestamp>,
    /// When its launch was committed, or when it got the place that it waited for.
    pub launched_at: Timestamp,
    /// When it was first known to run.
    pub started_at: Option<Timestamp>,
    /// When it was known to have ended.
    pub ended_at: Option<Timestamp>,
    /// Log index of its last change.
    pub revision: u64,
}

impl Task {
    /// Whether it has not ended.
    pub fn is_living(&self) -> bool {
        !self.status.state.is_terminal()
    }

    /// Whether it has what it was launched with: it lives, and does not wait for another's place.
    pub fn has_place(&self) -> bool {
        self.is_living() && self.after.is_none()
    }

    /// Whether its agent has been told of it: it has its place, or gets it whatever happens.
    pub fn is_told(&self) -> bool {
        self.has_place() || self.is_living() && self.on_deck
    }

    /// For whose place it waits, if it stands in line.
    pub fn waits_for(&self) -> Option<OperationId> {
        self.after.filter(|_| self.is_living())
    }

    /// For how many milliseconds it had its resources, once it has ended.
    pub fn held_ms(&self) -> Option<u64> {
        let ended_at = self.ended_at?;
        match self.after {
            Some(_) => Some(0),
            None => Some(ended_at.millis_since(self.launched_at)),
        }
    }

    /// How it ends when its agent says that it was killed, and why if the cluster
    /// asked for that: a time limit is the task's own.
    pub fn killed_as(&self) -> (TaskState, Option<Reason>) {
        let is_limit = |why: &Reason| why.code == reason::TIME_LIMIT;
        let state = match self.taken.as_ref().is_some_and(is_limit) {
            true => TaskState::Failed,
            false => TaskState::Killed,
        };
        (state, self.taken.clone())
    }

    /// Whether its framework has yet to see its latest status.
    pub fn is_pending(&self) -> bool {
        self.acknowledged < self.sequence
    }
}

/// Whether the cluster asked for an end by itself.
fn is_of_cluster(why: &Reason) -> bool {
    [reason::AGENT_DRAINED, reason::PREEMPTED, reason::TIME_LIMIT].contains(&why.code.as_str())
}

impl State {
    /// Ends a task by a user's wish.
    pub(super) fn kill_task(
        &mut self,
        context: &mut Context,
        kill: &Kill,
        expected: Option<u64>,
    ) -> Outcome {
        let Some(task) = self.task(&kill.task).cloned() else {
            return Err(Rejection::NotFound(format!(
                "there is no task {}",
                kill.task
            )));
        };
        context.check_revision(expected, task.revision)?;
        if task.is_living() {
            let why = Reason::new(reason::KILL_REQUESTED, "its end was asked for");
            self.begin_kill(context, task.operation, kill.grace_ms, why);
        }
        let revision = self
            .tasks
            .get(&task.operation)
            .map_or(task.revision, |task| task.revision);
        Ok(Accepted::Task {
            task: task.id.clone(),
            revision,
        })
    }

    /// Marks a living task as to be ended and tells its agent. Asking again may
    /// only shorten the grace.
    pub(super) fn begin_kill(
        &mut self,
        context: &mut Context,
        operation: OperationId,
        grace_ms: Option<u64>,
        why: Reason,
    ) {
        let Some(task) = self.tasks.get(&operation) else {
            return;
        };
        if task.is_living() && !task.is_told() {
            return self.end_task(context, operation, TaskState::Killed, Some(why));
        }
        let of_spec = self
            .specs
            .get(&task.spec)
            .map_or(0, |spec| spec.kill_grace_ms);
        let grace_ms = grace_ms.unwrap_or(of_spec);
        let is_sooner = task.kill.is_none_or(|known| grace_ms < known);
        // Whoever asks beside the cluster wants no other attempt elsewhere. What the
        // cluster asked first is why.
        let taken = match (&task.kill, &task.taken) {
            _ if !is_of_cluster(&why) => None,
            (None, _) => Some(why.clone()),
            (Some(_), taken) => taken.clone(),
        };
        if !is_sooner && taken == task.taken {
            return;
        }
        let Some(task) = self.tasks.get_mut(&operation) else {
            return;
        };
        let task = Arc::make_mut(task);
        task.taken = taken;
        task.revision = context.index;
        if !is_sooner {
            return;
        }
        let is_first = task.kill.replace(grace_ms).is_none();
        if let Some(at) = task.ends_by {
            self.deadlines.remove(&(at, Deadline::TimeLimit(operation)));
        }
        let (id, agent) = (task.id.clone(), task.agent);
        if is_first && task.has_place() {
            let task = task.clone();
            self.note_ending(&task.role, &task.resources);
        }
        context.effects.push(Effect::Agent(
            agent,
            AgentEffect::Kill { task: id, grace_ms },
        ));
        self.move_task(context, operation, TaskState::Killing, Some(why));
    }

    /// A task has had the time that its limit gives it.
    pub(super) fn end_overlong(&mut self, context: &mut Context, operation: OperationId) {
        let Some(task) = self.tasks.get(&operation) else {
            return;
        };
        let limit = task.ends_by.unwrap_or(task.launched_at);
        let limit = limit.millis_since(task.launched_at);
        let why = format!("its time limit of {limit} ms is over");
        let why = Reason::new(reason::TIME_LIMIT, why);
        self.begin_kill(context, operation, None, why);
    }

    /// Moves a living task to another living state, if that is a step forward
    /// or a loss of sight.
    pub(super) fn move_task(
        &mut self,
        context: &mut Context,
        operation: OperationId,
        to: TaskState,
        why: Option<Reason>,
    ) {
        let Some(task) = self.tasks.get(&operation) else {
            return;
        };
        let from = task.status.state;
        let sight_lost = to == TaskState::Unreachable && from != to && !from.is_terminal();
        let killed_unseen = to == TaskState::Killing && from == TaskState::Unreachable;
        if killed_unseen || !(from.may_become(to) || sight_lost) {
            return;
        }
        let status = TaskStatus {
            state: to,
            reason: why,
            exit_code: None,
            usage: None,
            signs: task.status.signs.clone(),
            time: context.now,
        };
        self.set_status(context, operation, status);
    }

    /// Ends a living task.
    pub(super) fn end_task(
        &mut self,
        context: &mut Context,
        operation: OperationId,
        to: TaskState,
        why: Option<Reason>,
    ) {
        assert!(to.is_terminal(), "{to} ends no task");
        let status = TaskStatus {
            state: to,
            reason: why,
            exit_code: None,
            usage: None,
            signs: None,
            time: context.now,
        };
        self.set_status(context, operation, status);
    }

    /// Gives a living task its next status; the one place where that happens.
    pub(super) fn set_status(
        &mut self,
        context: &mut Context,
        operation: OperationId,
        status: TaskStatus,
    ) {
        let Some(task) = self.tasks.get_mut(&operation) else {
            return;
        };
        let from = task.status.state;
        assert!(!from.is_terminal(), "an ended task never changes");
        let to = status.state;
        let task = Arc::make_mut(task);
        if from != to {
            task.life.leave(&task.status, task.started_at);
        }
        task.status = status;
        task.sequence += 1;
        task.revision = context.index;
        if to == TaskState::Running && task.started_at.is_none() {
            task.started_at = Some(context.now);
        }
        let mut waited_for = None;
        if to.is_terminal() {
            task.ended_at = Some(context.now);
            waited_for = task.after;
        }
        let task = Arc::new(task.clone());
        context.event(Self::task_event(&task));
        self.count(from, -1);
        self.count(to, 1);
        if to.is_terminal() {
            match waited_for {
                Some(before) => self.leave_line(context, &task, before),
                None => self.release_resources(context, &task),
            }
            *self.ended_counts.entry(to).or_default() += 1;
        }
        self.await_acknowledgement(context, &task);
    }

    /// Gives back what an ended task had, once.
    fn release_resources(&mut self, context: &mut Context, task: &Task) {
        self.forget_living(task);
        if let Some(at) = task.ends_by {
            let deadline = Deadline::TimeLimit(task.operation);
            self.deadlines.remove(&(at, deadline));
        }
        self.discharge_role(context, task);
        if let Some(agent) = self.agents.get_mut(&task.agent) {
            let agent = Arc::make_mut(agent);
            agent.used = agent.used.saturating_sub(&task.resources.exclusive());
            agent.tasks.remove(&task.operation);
            context.changes.agents.insert(task.agent);
        }
        if let Some(framework) = self.frameworks.get_mut(&task.id.framework) {
            let framework = Arc::make_mut(framework);
            if let Some(used) = framework.used_in(&task.role) {
                used.sub(&Charge::of(&task.resources));
            }
        }
        self.succeed(context, task);
        self.finish_drain(context, task.agent);
    }

    /// Takes an ended task out of the tables of those that live.
    pub(super) fn forget_living(&mut self, task: &Task) {
        let name = (task.id.framework, task.id.name.clone());
        self.living_names.remove(&name);
        if let Some(framework) = self.frameworks.get_mut(&task.id.framework) {
            Arc::make_mut(framework).tasks.remove(&task.operation);
        }
    }

    /// Whether a task of this name lives.
    pub(super) fn has_living_task(&self, framework: FrameworkId, name: &TaskName) -> bool {
        self.living_names.contains(&(framework, name.clone()))
    }

    /// Lets the framework know; where there is none any more, nobody waits.
    pub(super) fn await_acknowledgement(&mut self, context: &mut Context, task: &Task) {
        match self.frameworks.get_mut(&task.id.framework) {
            Some(framework) if framework.takes_turns() => {
                let framework = Arc::make_mut(framework);
                framework.pending.insert(task.operation);
                // An end is awaited once, for an ended task never changes.
                framework.unseen_ends += usize::from(!task.is_living());
                context.changes.inboxes.insert(task.id.framework);
            }
            _ => self.acknowledge(context, task.operation, task.sequence),
        }
        self.forget_if_removed(context, task.id.framework);
    }

    /// Notes that a framework has seen a status. An ended task that it has seen
    /// joins the remembered ones, of which the oldest go to history.
    pub(super) fn acknowledge(
        &mut self,
        context: &mut Context,
        operation: OperationId,
        sequence: u64,
    ) {
        let Some(task) = self.tasks.get_mut(&operation) else {
            return;
        };
        let framework = task.id.framework;
        if sequence <= task.acknowledged || sequence > task.sequence {
            return;
        }
        let task = Arc::make_mut(task);
        task.acknowledged = sequence;
        let (is_pending, is_living) = (task.is_pending(), task.is_living());
        if is_pending {
            return;
        }
        if let Some(framework) = self.frameworks.get_mut(&framework) {
            let framework = Arc::make_mut(framework);
            let waited = framework.pending.remove(&operation).is_some();
            framework.unseen_ends -= usize::from(waited && !is_living);
        }
        if !is_living {
            self.ended.insert(context.operation(), operation);
            self.trim_ended(context);
        }
    }

    fn trim_ended(&mut self, context: &mut Context) {
        while self.ended.len() > crate::state::limits::ENDED_TASKS {
            let Some(&(oldest, operation)) = self.ended.get_min() else {
                return;
            };
            self.ended.remove(&oldest);
            if let Some(task) = self.tasks.get(&operation).cloned() {
                self.archive(context, &task);
            }
        }
    }

    /// Tells its agent to run a task, now or when the one before it has ended.
    pub(super) fn send_launch(&self, context: &mut Context, task: &Task) {
        let effect = self.launch_effect(task);
        let effect = effect.map(|effect| Effect::Agent(task.agent, effect));
        context.effects.extend(effect);
    }

    pub(super) fn launch_effect(&self, task: &Task) -> Option<AgentEffect> {
        let spec = self.specs.get(&task.spec)?.clone();
        let before = task.after.and_then(|before| self.tasks.get(&before));
        Some(AgentEffect::Launch(Box::new(TaskLaunch {
            operation: task.operation,
            task: task.id.clone(),
            framework_name: task.framework_name.to_string(),
            role: task.role.clone(),
            spec,
            // Which part was reserved is nothing to the machine.
            resources: task.resources.flat(true).into_owned(),
            revocable: task.resources.revocable(),
            volumes: self.volumes_of(task),
            array_index: task.array_index,
            after: before.map(|before| before.id.clone()),
        })))
    }
}
