//! The operations of a turn: each is checked against the state as it is, and
//! one that no longer fits is dropped with its reason; the rest stands.

use std::sync::Arc;

use tepui_types::operation::{Kill, Launch, Operation};
use tepui_types::{
    FrameworkId, Reason, TaskId, TaskSpec, TaskState, TaskStatus, Workload, task::reason,
};

use crate::charge::Charge;
use crate::command::Turn;
use crate::effect::Effect;
use crate::feasibility;
use crate::state::State;
use crate::state::claims::Taker;
use crate::state::context::Context;
use crate::state::deadlines::Deadline;
use crate::state::frameworks::Notice;
use crate::state::life::Life;
use crate::state::tasks::Task;

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
                    let refusal = self.launch_refusal(turn.framework, launch, spec, false);
                    self.launch(context, turn.framework, launch, spec, refusal);
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
        refusal: Option<Reason>,
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
        let ended = refusal.is_some();
        let state = if ended {
            TaskState::Dropped
        } else {
            TaskState::Staging
        };
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
            ends_by: spec
                .time_limit_ms
                .map(|millis| context.now.after_millis(millis)),
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
            self.stage(context, &task);
        } else {
            *self.ended_counts.entry(task.status.state).or_default() += 1;
            self.await_acknowledgement(context, &task);
        }
    }

    fn stage(&mut self, context: &mut Context, task: &Task) {
        let name = (task.id.framework, task.id.name.clone());
        self.living_names.insert(name);
        if let Some(at) = task.ends_by {
            let deadline = Deadline::TimeLimit(task.operation);
            self.deadlines.insert((at, deadline));
        }
        if let Some(owner) = self.frameworks.get_mut(&task.id.framework) {
            let owner = Arc::make_mut(owner);
            if let Some(used) = owner.used_in(&task.role) {
                used.add(&Charge::of(&task.resources));
            }
            owner.tasks.insert(task.operation);
        }
        self.charge_role(context, task);
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
        self.use_claims(context, task.agent, &task.role, &task.resources);
        let effect = self.launch_effect(task);
        context
            .effects
            .extend(effect.map(|effect| Effect::Agent(task.agent, effect)));
    }

    /// Why a task cannot start, alone or in a gang.
    pub(super) fn launch_refusal(
        &self,
        framework: FrameworkId,
        launch: &Launch,
        spec: &TaskSpec,
        in_gang: bool,
    ) -> Option<Reason> {
        let owner = self.frameworks.get(&framework)?;
        if self.has_living_task(owner.id, &launch.name) {
            let why = format!("a task named `{}` lives already", launch.name);
            return Some(Reason::new(reason::TASK_EXISTS, why));
        }
        if let Workload::Wasm(wasm) = &spec.workload
            && !self.artifacts.contains_key(&wasm.artifact)
        {
            let why = format!("artifact {} is not known: upload it first", wasm.artifact);
            return Some(Reason::new(reason::ARTIFACT_UNKNOWN, why));
        }
        let roles = &owner.info.roles;
        let Some(role) = roles.get(launch.role.as_ref()) else {
            let why = "the launch names a role that is not one of its framework's";
            return Some(Reason::new(reason::ROLE_FOREIGN, why));
        };
        let mut pools = launch.resources.pools.iter();
        if let Some(pool) = pools.find(|pool| !pool.kind.is_for(role, true)) {
            let why = format!("{pool} is not for role `{role}`");
            return Some(Reason::new(reason::RESERVED_FOR_OTHERS, why));
        }
        let gang = in_gang.then_some((framework, None));
        feasibility::check(self, launch.agent, Taker { role, gang }, &launch.resources)
            .err()
            .or_else(|| self.quota_refusal(role, &Charge::of(&launch.resources)))
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
