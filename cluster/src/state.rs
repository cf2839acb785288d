//! The state of the cluster, and the one way it changes.
//!
//! Tables are persistent maps: a clone is a consistent view that costs nothing
//! and never stops `apply`. Every object's `revision` is the log index of its
//! last change.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use tepui_types::api::event::EventBody;
use tepui_types::resources::ResourceRequest;
use tepui_types::{
    AgentId, ClusterId, Digest, FrameworkId, NodeId, OperationId, Role, TaskId, TaskName, TaskSpec,
    TaskState, Timestamp, WindowId,
};

use crate::command::Command;
use crate::effect::{Applied, Archived, Effect};
use crate::envelope::Envelope;
use crate::outcome::{Outcome, Rejection};

pub mod agents;
pub mod artifacts;
pub mod claims;
mod context;
pub mod conversions;
pub mod deadlines;
pub mod drains;
pub mod frameworks;
mod gangs;
pub mod hash;
pub mod idempotency;
pub mod invariants;
pub mod life;
pub mod limits;
pub mod maintenance;
pub mod masters;
pub mod operations;
mod partitions;
pub mod preemption;
pub mod reports;
pub mod reservations;
pub mod restore;
pub mod roles;
pub mod settings;
pub mod snapshot;
pub mod specs;
pub mod successors;
pub mod sums;
pub mod tasks;
pub mod turns;

use agents::Agent;
use artifacts::Artifact;
use context::Context;
use conversions::ConversionRecord;
use deadlines::Deadlines;
use drains::{Drain, GoneAgent};
use frameworks::Framework;
use idempotency::Answers;
use maintenance::Window;
use masters::Master;
use preemption::Rate;
use restore::Restores;
use roles::{RoleRecord, RoleUse};
use settings::SettingsRecord;
use specs::{SpecKey, Specs};
use tasks::Task;

/// Tasks by identity.
type TaskIndex = OrdMap<TaskId, OperationId>;
/// Names of living tasks.
type LivingNames = OrdSet<(FrameworkId, TaskName)>;

/// Everything that the log says.
#[derive(Debug, Clone)]
pub struct State {
    /// The cluster; minted once.
    pub cluster: ClusterId,
    /// Which behaviour is in force; see [`crate::version`].
    pub cluster_version: u32,
    /// Log index of the last applied command.
    pub index: u64,
    /// The highest term that a command was applied in.
    pub term: u64,
    /// The cluster's clock: the latest time of any command.
    pub now: Timestamp,
    /// Those who replicate the log, by id.
    pub masters: OrdMap<NodeId, Arc<Master>>,
    next_agent: u64,
    next_framework: u64,
    /// Agents, by id.
    pub agents: OrdMap<AgentId, Arc<Agent>>,
    nonces: OrdMap<u128, AgentId>,
    /// Agents that never come back, as far as they are remembered.
    pub gone: OrdMap<AgentId, Arc<GoneAgent>>,
    next_window: u64,
    /// Maintenance windows that are planned or have begun.
    pub windows: OrdMap<WindowId, Arc<Window>>,
    deadlines: Deadlines,
    /// Whether it once began again from a backup.
    pub restores: Restores,
    /// Frameworks, by id.
    pub frameworks: OrdMap<FrameworkId, Arc<Framework>>,
    names: OrdMap<String, FrameworkId>,
    /// What operators have set of roles.
    pub roles: OrdMap<Role, Arc<RoleRecord>>,
    role_use: RoleUse,
    ending_use: RoleUse,
    claimed_agents: OrdSet<AgentId>,
    /// What all agents lend together. Follows from them: not stored.
    lent: ResourceRequest,
    /// How much was taken back lately.
    pub preemptions: Rate,
    /// What operators have set for the whole cluster.
    pub settings: SettingsRecord,
    /// Tasks, living and remembered, by the operation that launched them:
    /// oldest first.
    pub tasks: OrdMap<OperationId, Arc<Task>>,
    task_ids: TaskIndex,
    /// The names that living tasks have, each once in its framework.
    living_names: LivingNames,
    /// Ended tasks that nobody waits for, oldest end first.
    ended: OrdMap<OperationId, OperationId>,
    specs: Specs,
    /// Operations on resources that are remembered, oldest first.
    pub conversions: OrdMap<OperationId, Arc<ConversionRecord>>,
    /// Artifacts, by digest.
    pub artifacts: OrdMap<Digest, Arc<Artifact>>,
    answers: Answers,
    /// Tasks in the table, by state.
    pub counts: BTreeMap<TaskState, u64>,
    /// Tasks that ended since the cluster began, by state.
    pub ended_counts: BTreeMap<TaskState, u64>,
}

impl State {
    /// An empty cluster.
    pub fn new(cluster: ClusterId) -> Self {
        Self {
            cluster,
            cluster_version: crate::version::NEWEST,
            index: 0,
            term: 0,
            now: Timestamp::default(),
            masters: OrdMap::new(),
            next_agent: 1,
            next_framework: 1,
            agents: OrdMap::new(),
            nonces: OrdMap::new(),
            gone: OrdMap::new(),
            next_window: 1,
            windows: OrdMap::new(),
            deadlines: Deadlines::new(),
            restores: Restores::default(),
            frameworks: OrdMap::new(),
            names: OrdMap::new(),
            roles: OrdMap::new(),
            role_use: RoleUse::new(),
            ending_use: RoleUse::new(),
            claimed_agents: OrdSet::new(),
            lent: ResourceRequest::default(),
            preemptions: Rate::default(),
            settings: SettingsRecord::default(),
            tasks: OrdMap::new(),
            task_ids: OrdMap::new(),
            living_names: OrdSet::new(),
            ended: OrdMap::new(),
            specs: Specs::default(),
            conversions: OrdMap::new(),
            artifacts: OrdMap::new(),
            answers: Answers::default(),
            counts: BTreeMap::new(),
            ended_counts: BTreeMap::new(),
        }
    }

    /// Applies one entry of the log. The same state and entry give the same
    /// result on every master.
    pub fn apply(&mut self, index: u64, envelope: &Envelope) -> Applied {
        assert!(index > self.index, "entries are applied in the log's order");
        self.index = index;
        self.now = self.now.max(envelope.time);
        let mut context = Context::new(index, self.now);
        let outcome = self.decide(envelope, &mut context);
        context.finish(outcome)
    }

    fn decide(&mut self, envelope: &Envelope, context: &mut Context) -> Outcome {
        if envelope.term < self.term {
            return Err(Rejection::Fenced(format!(
                "the command was proposed in term {}, and {} has begun",
                envelope.term, self.term
            )));
        }
        self.term = envelope.term;
        self.answers.expire(self.now);
        if let Some(answer) = self.answers.find(envelope) {
            return answer;
        }
        let outcome = self.dispatch(envelope, context);
        self.answers
            .remember(envelope, context.index, self.now, &outcome);
        outcome
    }

    fn dispatch(&mut self, envelope: &Envelope, context: &mut Context) -> Outcome {
        let expected = envelope.expected_revision;
        match &envelope.body {
            Command::RecordArtifact { digest, size } => {
                self.record_artifact(context, &envelope.principal, *digest, *size)
            }
            Command::DeployFramework(info) => self.deploy_framework(context, info),
            Command::RemoveFramework { framework } => {
                self.remove_framework(context, *framework, expected)
            }
            Command::RestartFramework { framework } => {
                self.restart_framework(context, *framework, expected)
            }
            Command::StopFramework {
                framework,
                incarnation,
                reason,
            } => self.stop_framework(context, *framework, *incarnation, reason),
            Command::KillTask(kill) => self.kill_task(context, kill, expected),
            Command::RegisterAgent {
                nonce,
                boot,
                agent,
                info,
                tasks,
            } => self.register_agent(context, *nonce, *boot, *agent, info, tasks),
            Command::RefreshAgent { agent, info } => self.refresh_connected(context, *agent, info),
            Command::ReportTasks { agent, reports } => self.report_tasks(context, *agent, reports),
            Command::MarkAgentUnreachable { agent } => self.mark_agent_unreachable(context, *agent),
            Command::Turn(turn) => self.take_turn(context, turn),
            Command::AddMaster { master, url } => self.add_master(context, *master, url),
            Command::RemoveMaster { master } => self.remove_master(context, *master, expected),
            Command::ForgetMaster { master } => self.forget_master(context, *master),
            Command::DeactivateAgent { agent } => self.deactivate_agent(context, *agent, expected),
            Command::ReactivateAgent { agent } => self.reactivate_agent(context, *agent, expected),
            Command::DrainAgent {
                agent,
                deadline_ms,
                grace_ms,
                mark_gone,
            } => {
                let drain = Drain {
                    since: context.now,
                    deadline: deadline_ms.map(|millis| context.now.after_millis(millis)),
                    is_overdue: false,
                    grace_ms: *grace_ms,
                    mark_gone: *mark_gone,
                    window: None,
                    was_deactivated: false,
                };
                self.drain_agent(context, *agent, drain, expected)
            }
            Command::EndHeld { agent } => self.end_held(context, *agent),
            Command::MarkAgentGone { agent } => self.mark_agent_gone(context, *agent, expected),
            Command::ScheduleMaintenance(plan) => self.schedule_maintenance(context, plan),
            Command::CancelMaintenance { window } => {
                self.cancel_maintenance(context, *window, expected)
            }
            Command::MeetDeadlines => self.meet_deadlines(context),
            Command::SetRole {
                role,
                settings,
                force,
            } => self.set_role(context, role, settings, *force, expected),
            Command::Operate { agent, wish } => {
                self.operate(context, &envelope.principal, *agent, wish, expected)
            }
            Command::RemoveRole { role } => self.remove_role(context, role, expected),
            Command::Preempt(wish) => self.preempt(context, wish),
            Command::SetSettings(settings) => self.set_settings(context, settings, expected),
            Command::ReplaceTasks {
                agent,
                unreachable_ms,
            } => self.replace_tasks(context, *agent, *unreachable_ms),
        }
    }

    /// The agent whose data folder has this nonce.
    pub fn agent_of_folder(&self, nonce: u128) -> Option<AgentId> {
        self.nonces.get(&nonce).copied()
    }

    /// The agent with this id.
    pub fn agent(&self, id: AgentId) -> Option<&Arc<Agent>> {
        self.agents.get(&id)
    }

    /// The framework with this id.
    pub fn framework(&self, id: FrameworkId) -> Option<&Arc<Framework>> {
        self.frameworks.get(&id)
    }

    /// The framework of this name.
    pub fn framework_named(&self, name: &str) -> Option<&Arc<Framework>> {
        self.names.get(name).and_then(|id| self.frameworks.get(id))
    }

    /// The task with this identity, if it lives or is still remembered.
    pub fn task(&self, id: &TaskId) -> Option<&Arc<Task>> {
        self.task_ids
            .get(id)
            .and_then(|operation| self.tasks.get(operation))
    }

    /// The tasks of a name that live or are still remembered, in the order of their launches.
    pub fn attempts(
        &self,
        framework: FrameworkId,
        name: &TaskName,
    ) -> impl DoubleEndedIterator<Item = &Arc<Task>> {
        let id = |attempt| TaskId {
            framework,
            name: name.clone(),
            attempt,
        };
        let ids = self.task_ids.range(id(0)..=id(u64::MAX));
        ids.filter_map(|(_, operation)| self.tasks.get(operation))
    }

    /// A task's specification.
    pub fn spec(&self, key: &SpecKey) -> Option<&Arc<TaskSpec>> {
        self.specs.get(key)
    }

    /// The answer that was given to this caller under this key, if it is kept.
    pub fn answer(&self, envelope: &Envelope) -> Option<Outcome> {
        self.answers.find(envelope)
    }

    fn archive(&mut self, context: &mut Context, task: &Arc<Task>) {
        self.tasks.remove(&task.operation);
        self.task_ids.remove(&task.id);
        // invariant: a task in the table has its specification in the table.
        let spec = self
            .specs
            .get(&task.spec)
            .cloned()
            .expect("tasks keep their specifications");
        self.specs.release(&task.spec);
        self.count(task.status.state, -1);
        context.effects.push(Effect::Archive(Archived {
            task: task.clone(),
            spec,
        }));
    }

    fn count(&mut self, state: TaskState, by: i64) {
        let count = self.counts.entry(state).or_default();
        *count = count.checked_add_signed(by).unwrap_or(0);
        if *count == 0 {
            self.counts.remove(&state);
        }
    }

    fn task_event(task: &Task) -> EventBody {
        EventBody::Task {
            task: task.id.clone(),
            state: task.status.state,
            agent: task.agent,
            reason: task.status.reason.clone(),
            exit_code: task.status.exit_code,
            in_line: task.waits_for().is_some(),
        }
    }
}
