//! Agents: machines that lend resources.
//!
//! `used` is always the sum over the agent's living tasks; an agent that shrank
//! under its tasks may use more than it has, and then offers nothing.

use std::sync::Arc;

use imbl::OrdSet;
use serde::{Deserialize, Serialize};
use tepui_types::api::event::EventBody;
use tepui_types::wire::agent::{AgentEffect, StatusReport};
use tepui_types::{
    AgentId, AgentInfo, AgentStatus, OperationId, Reason, Resources, TaskState, Timestamp,
    task::reason,
};

use crate::effect::Effect;
use crate::outcome::{Accepted, Outcome, Rejection};
use crate::state::State;
use crate::state::claims::Claim;
use crate::state::context::Context;
use crate::state::drains::Mode;
use crate::state::reservations::Converted;
use crate::state::restore::Held;

/// One agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Its id.
    pub id: AgentId,
    /// Drawn with its data folder.
    pub nonce: u128,
    /// The boot of its machine; 0 before it was told.
    pub boot: u128,
    /// What it says of itself.
    pub info: Arc<AgentInfo>,
    /// Whether it is heard of: `Active` or `Unreachable`.
    pub status: AgentStatus,
    /// Since when it has not been heard of.
    pub unreachable_since: Option<Timestamp>,
    /// What operators want with it.
    pub mode: Mode,
    /// What operations have made of its resources; none if nothing.
    pub converted: Option<Arc<Converted>>,
    /// Whether a volume of it was ever destroyed: then it is told which are left.
    pub had_volumes: bool,
    /// What its living tasks that have their place use, without what several may have at a time.
    pub used: Resources,
    /// The living tasks that it was told of, oldest first: those that have their place, and those on deck.
    pub tasks: OrdSet<OperationId>,
    /// What was taken back on it and waits for its role.
    pub claims: Vec<Claim>,
    /// What it runs of a time that a restore has lost.
    pub held: Held,
    /// When it first registered.
    pub registered_at: Timestamp,
    /// Log index of its last change.
    pub revision: u64,
}

impl Agent {
    /// How it stands, in one word.
    pub fn standing(&self) -> AgentStatus {
        match (self.status, &self.mode) {
            (AgentStatus::Active, Mode::Open) if self.info.full.is_some() => AgentStatus::Full,
            (AgentStatus::Active, Mode::Open) => AgentStatus::Active,
            (AgentStatus::Active, Mode::Deactivated) => AgentStatus::Deactivated,
            (AgentStatus::Active, Mode::Draining(_)) => AgentStatus::Draining,
            (AgentStatus::Active, Mode::Drained(_)) => AgentStatus::Drained,
            (status, _) => status,
        }
    }

    /// Whether it shrank under its tasks: what one of them leaves need not be free.
    pub fn is_overdrawn(&self) -> bool {
        !self.total().contains(&self.used)
    }

    /// What no task has.
    pub fn free(&self) -> Resources {
        self.total().saturating_sub(&self.used)
    }
}

/// The most agents, so that lists and cycles stay within what was measured.
const MAX_AGENTS: usize = 200_000;

impl State {
    pub(super) fn register_agent(
        &mut self,
        context: &mut Context,
        nonce: u128,
        boot: u128,
        claimed: Option<AgentId>,
        info: &AgentInfo,
        tasks: &[StatusReport],
    ) -> Outcome {
        let id = match (self.nonces.get(&nonce).copied(), claimed) {
            (Some(known), None) => known,
            (Some(known), Some(claimed)) if known == claimed => known,
            (None, None) => {
                let id = AgentId(self.next_agent);
                self.add_agent(context, id, nonce, info)?
            }
            (None, Some(claimed)) if self.is_lost_agent(claimed) => {
                self.add_agent(context, claimed, nonce, info)?
            }
            (None, Some(claimed)) if self.was_agent(claimed) => {
                return Err(Rejection::Gone(format!(
                    "agent {claimed} was given up for good, and what it ran is run elsewhere: \
                     start it again with an empty folder"
                )));
            }
            (_, Some(claimed)) => {
                return Err(Rejection::Foreign(format!(
                    "agent {claimed} of this cluster has another data folder: this one was \
                     copied, or belongs to another cluster; start with an empty folder"
                )));
            }
        };
        self.check_lent(Some(id), info)?;
        let was_restarted = self.note_boot(id, boot);
        self.refresh_agent(context, id, info);
        self.compare_tasks(context, id, tasks, was_restarted);
        Ok(Accepted::Agent { agent: id })
    }

    fn add_agent(
        &mut self,
        context: &Context,
        id: AgentId,
        nonce: u128,
        info: &AgentInfo,
    ) -> Result<AgentId, Rejection> {
        if self.agents.len() >= MAX_AGENTS {
            return Err(Rejection::Limit(format!(
                "the cluster has {MAX_AGENTS} agents, its most"
            )));
        }
        self.check_lent(None, info)?;
        self.next_agent = self.next_agent.max(id.0 + 1);
        self.nonces.insert(nonce, id);
        let agent = Agent {
            id,
            nonce,
            boot: 0,
            info: Arc::new(info.clone()),
            status: AgentStatus::Unreachable,
            unreachable_since: None,
            mode: Mode::Open,
            converted: None,
            had_volumes: false,
            used: Resources::default(),
            tasks: OrdSet::new(),
            claims: Vec::new(),
            held: Held::default(),
            registered_at: context.now,
            revision: context.index,
        };
        self.count_agent(&agent);
        self.agents.insert(id, Arc::new(agent));
        Ok(id)
    }

    /// Notes the boot of an agent's machine; answers whether it is another than before.
    fn note_boot(&mut self, id: AgentId, boot: u128) -> bool {
        match self.agents.get_mut(&id) {
            Some(agent) if agent.boot != boot => {
                let before = std::mem::replace(&mut Arc::make_mut(agent).boot, boot);
                before != 0
            }
            _ => false,
        }
    }

    /// Takes what a connected agent says of its machine. One that is unreachable says it again when
    /// it registers.
    pub(super) fn refresh_connected(
        &mut self,
        context: &mut Context,
        id: AgentId,
        info: &AgentInfo,
    ) -> Outcome {
        match self.agents.get(&id).map(|agent| agent.status) {
            None => return Err(Rejection::NotFound(format!("there is no agent {id}"))),
            Some(AgentStatus::Active) => {}
            Some(status) => {
                return Err(Rejection::Conflict(format!(
                    "agent {id} is {}: it says what its machine has when it registers",
                    status.as_str()
                )));
            }
        }
        self.check_lent(Some(id), info)?;
        self.refresh_agent(context, id, info);
        Ok(Accepted::Done)
    }

    /// Takes changed resources and attributes live.
    fn refresh_agent(&mut self, context: &mut Context, id: AgentId, info: &AgentInfo) {
        let Some(agent) = self.agents.get(&id) else {
            return;
        };
        if *agent.info == *info && agent.status == AgentStatus::Active {
            return;
        }
        self.set_converted(id, |agent| {
            agent.info = Arc::new(info.clone());
            let made = agent.converted.take();
            agent.converted =
                made.and_then(|made| Converted::lay(&info.resources, &made.pools, &made.made_by));
        });
        let Some(agent) = self.agents.get_mut(&id) else {
            return;
        };
        let agent = Arc::make_mut(agent);
        agent.status = AgentStatus::Active;
        agent.unreachable_since = None;
        agent.revision = context.index;
        let status = agent.standing();
        context.changes.agents.insert(id);
        context.event(EventBody::Agent { agent: id, status });
    }

    /// Compares the log's view of an agent's tasks with the agent's own, both ways.
    fn compare_tasks(
        &mut self,
        context: &mut Context,
        id: AgentId,
        reports: &[StatusReport],
        was_restarted: bool,
    ) {
        self.hold_anew(id);
        self.drop_lines_of_backup(context, id);
        let Some(agent) = self.agents.get(&id) else {
            return;
        };
        // Of what is launched by these very reports it can say nothing.
        let mut silent = agent.tasks.clone();
        for report in reports {
            if let Some(operation) = self.task_ids.get(&report.task) {
                silent.remove(operation);
            }
        }
        self.take_reports(context, id, reports);
        for operation in silent {
            let task = self.tasks.get(&operation);
            let Some(task) = task.filter(|task| task.is_living()) else {
                continue;
            };
            match (task.status.state, task.kill) {
                // The launch has not arrived; it is owed again below.
                (TaskState::Staging, None) if !was_restarted && !self.is_of_backup(task) => {}
                (_, Some(_)) => {
                    let (state, taken) = task.killed_as();
                    let asked = || Reason::new(reason::KILL_REQUESTED, "ended on request");
                    let why = taken.unwrap_or_else(asked);
                    self.end_task(context, operation, state, Some(why));
                }
                // It may have arrived, and run, and gone from memory with the machine's power.
                (TaskState::Staging, None) if was_restarted => {
                    let why = "the agent's machine was restarted, and may have run it before";
                    let why = Reason::new(reason::AGENT_REBOOTED, why);
                    self.end_task(context, operation, TaskState::Gone, Some(why));
                }
                (_, None) => {
                    let why = "the agent came back and does not know the task any more";
                    let why = Reason::new(reason::AGENT_FORGOT, why);
                    self.end_task(context, operation, TaskState::Gone, Some(why));
                }
            }
        }
        let owed = self.owed_to(id);
        context
            .effects
            .extend(owed.into_iter().map(|effect| Effect::Agent(id, effect)));
    }

    /// Everything that an agent has been told and may not have heard. Sent
    /// again after every new session; agents skip what they have done.
    pub fn owed_to(&self, id: AgentId) -> Vec<AgentEffect> {
        let Some(agent) = self.agents.get(&id) else {
            return Vec::new();
        };
        let tasks = agent
            .tasks
            .iter()
            .filter_map(|operation| self.tasks.get(operation));
        let effects = tasks
            .flat_map(|task| match (task.status.state, task.kill) {
                // The launch may not have arrived either, and an agent ends only
                // what it knows; one that it knows is not launched again.
                (_, Some(grace_ms)) => {
                    let task_id = task.id.clone();
                    let kill = AgentEffect::Kill {
                        task: task_id,
                        grace_ms,
                    };
                    [self.launch_effect(task), Some(kill)]
                }
                (TaskState::Staging, None) => [self.launch_effect(task), None],
                _ => [None, None],
            })
            .flatten();
        // Before any launch: what is named anew since is another volume.
        let volumes = self.volume_list(agent).map(AgentEffect::Volumes);
        let volumes = volumes.into_iter();
        volumes.chain(effects).chain(agent.held.owed()).collect()
    }

    /// Whether this is still to be told to an agent. A launch may have waited for its connection, and its task
    /// have ended by then: it may run elsewhere already.
    pub fn is_wanted(&self, effect: &AgentEffect) -> bool {
        match effect {
            AgentEffect::Launch(launch) => {
                let task = self.task(&launch.task);
                task.is_some_and(|task| task.is_living())
            }
            AgentEffect::Kill { .. } | AgentEffect::Volumes(_) => true,
        }
    }

    pub(super) fn mark_agent_unreachable(&mut self, context: &mut Context, id: AgentId) -> Outcome {
        let Some(agent) = self.agents.get_mut(&id) else {
            return Err(Rejection::NotFound(format!("there is no agent {id}")));
        };
        if agent.status == AgentStatus::Unreachable {
            return Ok(Accepted::Done);
        }
        let agent = Arc::make_mut(agent);
        agent.status = AgentStatus::Unreachable;
        agent.unreachable_since = Some(context.now);
        agent.revision = context.index;
        let tasks = agent.tasks.clone();
        let hostname = agent.info.hostname.clone();
        context.changes.agents.insert(id);
        context.event(EventBody::Agent {
            agent: id,
            status: AgentStatus::Unreachable,
        });
        self.break_lines(context, id);
        for operation in tasks {
            let why = format!("agent {id} ({hostname}) has not been heard of");
            let why = Reason::new(reason::AGENT_UNREACHABLE, why);
            self.move_task(context, operation, TaskState::Unreachable, Some(why));
        }
        Ok(Accepted::Done)
    }
}
