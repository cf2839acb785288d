//! The operations of a turn: each is checked against the state as it is, and
//! one that no longer fits is dropped with its reason; the rest stands.

use std::sync::Arc;

use tepui_types::operation::{Kill, Launch, Operation};
use tepui_types::{
    AgentId, FrameworkId, OperationId, Reason, Resources, Role, TaskId, TaskSpec, TaskState,
    TaskStatus, Workload, task::reason,
};

use crate::charge::Charge;
use crate::command::Turn;
use crate::feasibility;
use crate::state::State;
use crate::state::claims::Taker;
use crate::state::context::Context;
use crate::state::deadlines::Deadline;
use crate::state::frameworks::Notice;
use crate::state::life::Life;
use crate::state::tasks::Task;

/// How a launched task comes into the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// It has its place.
    Now,
    /// It waits for this one's.
    After(OperationId),
    /// It does not fit.
    Refused(Reason),
}

impl State {
    pub(super) fn take_operation(
        &mut self,
        context: &mut Context,
        turn: &Turn,
        operation: &Operation,
    ) {
        match operation {
            Operation::Launch(launch) => {
                // A turn whose launches name no specification was refused whole.
                if let Some(spec) = turn.specs.get(launch.spec as usize) {
                    let entry = match &launch.after {
                        Some(after) => self.entry_after(turn.framework, launch, spec, after),
                        None => self
                            .launch_refusal(turn.framework, launch, spec, false)
                            .map_or(Entry::Now, Entry::Refused),
                    };
                    self.launch(context, turn.framework, launch, spec, entry);
                }
            }
            Operation::LaunchGang(launches) => self.launch_gang(context, turn, launches),
            Operation::Kill(kill) => self.kill_own(context, turn.framework, kill),
            Operation::Convert(convert) => self.convert_own(context, turn.framework, convert),
        }
    }

    /// Records the task, whether it fits or not: one that does not is born
    /// `dropped`, and its framework learns that as of any other end.
    pub(super) fn launch(
        &mut self,
        context: &mut Context,
        framework: FrameworkId,
        launch: &Launch,
        spec: &Arc<TaskSpec>,
        entry: Entry,
    ) {
        let Some(owner) = self.frameworks.get_mut(&framework) else {
            return;
        };
        let owner = Arc::make_mut(owner);
        let role = owner.info.roles.get(launch.role.as_ref());
        // A task that names another role is dropped, and charged to nobody.
        let role = role.unwrap_or_else(|| owner.info.roles.first()).clone();
        let attempt = owner.next_attempt;
        owner.next_attempt += 1;
        let (state, after, refusal) = match entry {
            Entry::Now => (TaskState::Staging, None, None),
            Entry::After(before) => (TaskState::Staging, Some(before), None),
            Entry::Refused(why) => (TaskState::Dropped, None, Some(why)),
        };
        let ended = refusal.is_some();
        let task = Task {
            id: TaskId {
                framework,
                name: launch.name.clone(),
                attempt,
            },
            operation: context.operation(),
            agent: launch.agent,
            framework_name: owner.info.name.as_str().into(),
            role,
            spec: self.specs.intern(spec),
            resources: launch.resources.clone(),
            array_index: launch.array_index,
            chosen: launch.chosen,
            after,
            on_deck: false,
            next: None,
            life: Life::default(),
            status: TaskStatus {
                state,
                reason: refusal,
                exit_code: None,
                usage: None,
                signs: None,
                time: context.now,
            },
            // Nobody has to be told of the launch itself, but of its drop.
            sequence: u64::from(ended),
            acknowledged: 0,
            kill: None,
            taken: None,
            ends_by: None,
            launched_at: context.now,
            started_at: None,
            ended_at: ended.then_some(context.now),
            revision: context.index,
        };
        self.insert_task(context, Arc::new(task));
    }

    fn insert_task(&mut self, context: &mut Context, task: Arc<Task>) {
        self.count(task.status.state, 1);
        self.tasks.insert(task.operation, task.clone());
        self.task_ids.insert(task.id.clone(), task.operation);
        context.event(Self::task_event(&task));
        if task.is_living() {
            self.note_living(&task);
            match task.after {
                Some(before) => self.wait_in_line(task.operation, before),
                None => {
                    self.give_place(context, task.operation);
                    self.use_claims(context, task.agent, &task.role, &task.resources);
                    self.send_launch(context, &task);
                }
            }
        } else {
            *self.ended_counts.entry(task.status.state).or_default() += 1;
            self.await_acknowledgement(context, &task);
        }
    }

    fn note_living(&mut self, task: &Task) {
        let name = (task.id.framework, task.id.name.clone());
        self.living_names.insert(name);
        if let Some(owner) = self.frameworks.get_mut(&task.id.framework) {
            Arc::make_mut(owner).tasks.insert(task.operation);
        }
    }

    /// Gives a living task what it was launched with. Whether that is free has been checked.
    pub(super) fn give_place(&mut self, context: &mut Context, operation: OperationId) {
        let Some(task) = self.tasks.get_mut(&operation) else {
            return;
        };
        let limit_ms = self
            .specs
            .get(&task.spec)
            .and_then(|spec| spec.time_limit_ms);
        // One whose end was asked for while it waited has a shorter time.
        let limit_ms = limit_ms.filter(|_| task.kill.is_none());
        let ends_by = limit_ms.map(|millis| context.now.after_millis(millis));
        if let Some(at) = ends_by {
            Arc::make_mut(task).ends_by = ends_by;
            let deadline = Deadline::TimeLimit(operation);
            self.deadlines.insert((at, deadline));
        }
        let task = &task.clone();
        if let Some(owner) = self.frameworks.get_mut(&task.id.framework)
            && let Some(used) = Arc::make_mut(owner).used_in(&task.role)
        {
            used.add(&Charge::of(&task.resources));
        }
        self.charge_role(context, task);
        if task.kill.is_some() {
            self.note_ending(&task.role, &task.resources);
        }
        if let Some(agent) = self.agents.get_mut(&task.agent) {
            let agent = Arc::make_mut(agent);
            // invariant: feasibility has checked that this is free, so it adds up.
            agent.used = agent
                .used
                .checked_add(&task.resources.exclusive())
                .expect("free resources add up");
            agent.tasks.insert(task.operation);
            context.changes.agents.insert(task.agent);
        }
    }

    /// Why a task cannot start, alone or in a gang.
    pub(super) fn launch_refusal(
        &self,
        framework: FrameworkId,
        launch: &Launch,
        spec: &TaskSpec,
        in_gang: bool,
    ) -> Option<Reason> {
        let role = match self.role_charged(framework, launch, spec) {
            Ok(role) => role,
            Err(why) => return Some(why),
        };
        let gang = in_gang.then_some((framework, None));
        let taker = Taker { role, gang };
        self.place_refusal(taker, launch.agent, &launch.resources)
    }

    /// Why somebody cannot have these resources of an agent now.
    pub(super) fn place_refusal(
        &self,
        taker: Taker<'_>,
        agent: AgentId,
        resources: &Resources,
    ) -> Option<Reason> {
        feasibility::check(self, agent, taker, resources)
            .err()
            .or_else(|| self.quota_refusal(taker.role, &Charge::of(resources)))
    }

    /// The role that a launch is charged to, or why it cannot be, wherever.
    pub(super) fn role_charged(
        &self,
        framework: FrameworkId,
        launch: &Launch,
        spec: &TaskSpec,
    ) -> Result<&Role, Reason> {
        let Some(owner) = self.frameworks.get(&framework) else {
            let why = format!("there is no framework {framework}");
            return Err(Reason::new(reason::FRAMEWORK_REMOVED, why));
        };
        if self.has_living_task(owner.id, &launch.name) {
            let why = format!("a task named `{}` lives already", launch.name);
            return Err(Reason::new(reason::TASK_EXISTS, why));
        }
        if let Workload::Wasm(wasm) = &spec.workload
            && !self.artifacts.contains_key(&wasm.artifact)
        {
            let why = format!("artifact {} is not known: upload it first", wasm.artifact);
            return Err(Reason::new(reason::ARTIFACT_UNKNOWN, why));
        }
        let roles = &owner.info.roles;
        let Some(role) = roles.get(launch.role.as_ref()) else {
            let why = "the launch names a role that is not one of its framework's";
            return Err(Reason::new(reason::ROLE_FOREIGN, why));
        };
        let mut pools = launch.resources.pools.iter();
        if let Some(pool) = pools.find(|pool| !pool.kind.is_for(role, true)) {
            let why = format!("{pool} is not for role `{role}`");
            return Err(Reason::new(reason::RESERVED_FOR_OTHERS, why));
        }
        Ok(role)
    }

    fn kill_own(&mut self, context: &mut Context, framework: FrameworkId, kill: &Kill) {
        let task = self
            .task(&kill.task)
            .filter(|task| task.id.framework == framework);
        let Some(task) = task else {
            let why = Reason::new("task-unknown", format!("there is no task {}", kill.task));
            return self.notice(context, framework, "kill", kill.task.to_string(), why);
        };
        // The end of a task that has ended is on its way to the framework anyway.
        if task.is_living() {
            let why = Reason::new(reason::KILL_REQUESTED, "its framework asked for its end");
            self.begin_kill(context, task.operation, kill.grace_ms, why);
        }
    }

    pub(super) fn notice(
        &mut self,
        context: &mut Context,
        framework: FrameworkId,
        operation: &str,
        subject: String,
        reason: Reason,
    ) {
        let Some(framework_record) = self.frameworks.get_mut(&framework) else {
            return;
        };
        let record = Arc::make_mut(framework_record);
        let notice = Notice {
            operation: operation.into(),
            subject,
            reason,
        };
        record.notices.insert(record.next_notice, notice);
        record.next_notice += 1;
        context.changes.inboxes.insert(framework);
    }

    /// Tells the agent to end everything of a framework that is being removed.
    pub(super) fn kill_all(&mut self, context: &mut Context, framework: FrameworkId) {
        let Some(record) = self.frameworks.get(&framework) else {
            return;
        };
        for operation in record.tasks.clone() {
            let why = Reason::new(reason::FRAMEWORK_REMOVED, "its framework is being removed");
            self.begin_kill(context, operation, None, why);
        }
    }
}
