//! What operators do with agents: take them out of the offers, empty them, let them go.
//!
//! A drain asks every task of an agent to end, each with its grace, and is over when the last has
//! ended. Its deadline is a command's affair, see [`deadlines`](super::deadlines). An agent that is
//! gone never comes back: its tasks end, and its id is refused.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tepui_types::api::event::EventBody;
use tepui_types::wire::agent::AgentEffect;
use tepui_types::{AgentId, AgentStatus, Reason, TaskState, Timestamp, WindowId, task::reason};

use crate::effect::Effect;
use crate::outcome::{Accepted, Outcome, Rejection};
use crate::state::State;
use crate::state::agents::Agent;
use crate::state::context::Context;
use crate::state::deadlines::Deadline;
use crate::state::limits;

/// What operators want with an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// It is offered.
    Open,
    /// It is not offered; its tasks go on.
    Deactivated,
    /// It is not offered, and its tasks are being ended.
    Draining(Drain),
    /// It is not offered, and without tasks.
    Drained(Drain),
}

impl Mode {
    /// The drain that the agent is in or has behind it.
    pub fn drain(&self) -> Option<&Drain> {
        match self {
            Self::Open | Self::Deactivated => None,
            Self::Draining(drain) | Self::Drained(drain) => Some(drain),
        }
    }
}

/// How an agent is drained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// When it began.
    pub since: Timestamp,
    /// When tasks that are left are ended without grace.
    pub deadline: Option<Timestamp>,
    /// Whether that has happened.
    pub is_overdue: bool,
    /// Milliseconds of grace in place of the tasks' own.
    pub grace_ms: Option<u64>,
    /// Whether the agent is gone at the end of it.
    pub mark_gone: bool,
    /// The maintenance window that it is for; at that one's end the agent is open again.
    pub window: Option<WindowId>,
    /// Whether the agent was deactivated before, and is again after the window.
    pub was_deactivated: bool,
}

/// An agent that never comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoneAgent {
    /// As it was.
    pub agent: Arc<Agent>,
    /// Since when.
    pub since: Timestamp,
}

impl State {
    /// The agent with this id that is gone, if that is remembered.
    pub fn gone_agent(&self, id: AgentId) -> Option<&Arc<GoneAgent>> {
        self.gone.get(&id)
    }

    /// Whether this id was given to an agent that is none any more.
    pub fn was_agent(&self, id: AgentId) -> bool {
        id.0 < self.next_agent && !self.agents.contains_key(&id)
    }

    pub(super) fn deactivate_agent(
        &mut self,
        context: &mut Context,
        id: AgentId,
        expected: Option<u64>,
    ) -> Outcome {
        self.find_agent(context, id, expected)?;
        self.set_mode(context, id, Mode::Deactivated);
        self.agent_changed(id)
    }

    pub(super) fn reactivate_agent(
        &mut self,
        context: &mut Context,
        id: AgentId,
        expected: Option<u64>,
    ) -> Outcome {
        self.find_agent(context, id, expected)?;
        self.set_mode(context, id, Mode::Open);
        self.agent_changed(id)
    }

    /// Asks every task of an agent to end. Asking again may change deadline and grace, but what was
    /// asked of a task can only become more urgent.
    pub(super) fn drain_agent(
        &mut self,
        context: &mut Context,
        id: AgentId,
        drain: Drain,
        expected: Option<u64>,
    ) -> Outcome {
        self.find_agent(context, id, expected)?;
        self.begin_drain(context, id, drain);
        match self.gone.get(&id) {
            Some(gone) => Ok(changed(id, gone.agent.revision)),
            None => self.agent_changed(id),
        }
    }

    pub(super) fn begin_drain(&mut self, context: &mut Context, id: AgentId, drain: Drain) {
        let Some(agent) = self.agents.get(&id) else {
            return;
        };
        let since = match &agent.mode {
            Mode::Draining(earlier) => earlier.since,
            _ => context.now,
        };
        let tasks = agent.tasks.clone();
        let drain = Drain { since, ..drain };
        let left = drain.deadline.map(|at| at.millis_since(context.now));
        self.set_mode(context, id, Mode::Draining(drain.clone()));
        for operation in tasks {
            let grace_ms = self.grace_of(operation, drain.grace_ms);
            let grace_ms = grace_ms.min(left.unwrap_or(grace_ms));
            self.begin_kill(context, operation, Some(grace_ms), drained(id));
        }
        self.finish_drain(context, id);
    }

    /// The deadline of a drain has come: what is left has had its time.
    pub(super) fn end_drain(&mut self, context: &mut Context, id: AgentId) {
        let Some(Mode::Draining(drain)) = self.agents.get(&id).map(|agent| agent.mode.clone())
        else {
            return;
        };
        if drain.mark_gone {
            return self.lose_agent(context, id);
        }
        let overdue = Drain {
            is_overdue: true,
            ..drain
        };
        self.set_mode(context, id, Mode::Draining(overdue));
        let tasks = self.agents.get(&id).map(|agent| agent.tasks.clone());
        for operation in tasks.into_iter().flatten() {
            self.begin_kill(context, operation, Some(0), drained(id));
        }
    }

    /// A drain is over when its agent has no task left.
    pub(super) fn finish_drain(&mut self, context: &mut Context, id: AgentId) {
        let Some(agent) = self.agents.get(&id).filter(|agent| agent.tasks.is_empty()) else {
            return;
        };
        let Mode::Draining(drain) = agent.mode.clone() else {
            return;
        };
        if drain.mark_gone {
            self.lose_agent(context, id);
        } else {
            self.set_mode(context, id, Mode::Drained(drain));
        }
    }

    pub(super) fn mark_agent_gone(
        &mut self,
        context: &mut Context,
        id: AgentId,
        expected: Option<u64>,
    ) -> Outcome {
        if let Some(gone) = self.gone.get(&id) {
            return Ok(changed(id, gone.agent.revision));
        }
        self.find_agent(context, id, expected)?;
        self.lose_agent(context, id);
        Ok(changed(id, context.index))
    }

    /// Ends an agent's tasks and takes it out of the table. If it is connected all the same, it is
    /// told to end them, too.
    fn lose_agent(&mut self, context: &mut Context, id: AgentId) {
        let Some(agent) = self.agents.get(&id) else {
            return;
        };
        if matches!(agent.mode, Mode::Draining(_)) {
            // The last task's end must not finish the drain: that is being done here.
            self.set_mode(context, id, Mode::Deactivated);
        }
        self.break_lines(context, id);
        let Some(agent) = self.agents.get(&id) else {
            return;
        };
        let hostname = agent.info.hostname.clone();
        for operation in agent.tasks.clone() {
            if let Some(task) = self.tasks.get(&operation) {
                let (task, grace_ms) = (task.id.clone(), 0);
                let kill = AgentEffect::Kill { task, grace_ms };
                context.effects.push(Effect::Agent(id, kill));
            }
            let why = format!("agent {id} ({hostname}) is gone for good");
            let why = Reason::new(reason::AGENT_GONE, why);
            self.end_task(context, operation, TaskState::Gone, Some(why));
        }
        self.set_claims(context, id, Vec::new());
        let Some(mut agent) = self.agents.remove(&id) else {
            return;
        };
        Arc::make_mut(&mut agent).revision = context.index;
        self.nonces.remove(&agent.nonce);
        self.discount_agent(&agent);
        let since = context.now;
        self.gone.insert(id, Arc::new(GoneAgent { agent, since }));
        if self.gone.len() > limits::GONE_AGENTS {
            let oldest = self
                .gone
                .values()
                .min_by_key(|gone| (gone.agent.revision, gone.agent.id));
            if let Some(oldest) = oldest.map(|gone| gone.agent.id) {
                self.gone.remove(&oldest);
            }
        }
        context.changes.agents.insert(id);
        context.event(EventBody::Agent {
            agent: id,
            status: AgentStatus::Gone,
        });
    }

    /// Gives an agent another mode; the one place where that happens.
    pub(super) fn set_mode(&mut self, context: &mut Context, id: AgentId, mode: Mode) {
        let Some(agent) = self.agents.get_mut(&id) else {
            return;
        };
        if agent.mode == mode {
            return;
        }
        let agent = Arc::make_mut(agent);
        let before = std::mem::replace(&mut agent.mode, mode);
        let is_open = agent.mode == Mode::Open;
        agent.revision = context.index;
        if let Some(at) = drain_deadline(&before) {
            self.deadlines.remove(&(at, Deadline::Drain(id)));
        }
        if let Some(at) = drain_deadline(&agent.mode) {
            self.deadlines.insert((at, Deadline::Drain(id)));
        }
        context.changes.agents.insert(id);
        let status = agent.standing();
        context.event(EventBody::Agent { agent: id, status });
        if !is_open {
            self.break_lines(context, id);
        }
    }

    fn grace_of(&self, operation: tepui_types::OperationId, asked: Option<u64>) -> u64 {
        let of_spec = || {
            let task = self.tasks.get(&operation)?;
            Some(self.specs.get(&task.spec)?.kill_grace_ms)
        };
        asked.or_else(of_spec).unwrap_or(0)
    }

    fn find_agent(
        &self,
        context: &Context,
        id: AgentId,
        expected: Option<u64>,
    ) -> Result<(), Rejection> {
        let Some(agent) = self.agents.get(&id) else {
            return Err(if self.was_agent(id) {
                Rejection::Conflict(format!("agent {id} is gone for good"))
            } else {
                Rejection::NotFound(format!("there is no agent {id}"))
            });
        };
        context.check_revision(expected, agent.revision)
    }

    pub(super) fn agent_changed(&self, id: AgentId) -> Outcome {
        let revision = self.agents.get(&id).map_or(0, |agent| agent.revision);
        Ok(changed(id, revision))
    }
}

/// When a drain's deadline is still to be met.
pub(super) fn drain_deadline(mode: &Mode) -> Option<Timestamp> {
    match mode {
        Mode::Draining(drain) if !drain.is_overdue => drain.deadline,
        _ => None,
    }
}

fn changed(agent: AgentId, revision: u64) -> Accepted {
    Accepted::AgentChanged { agent, revision }
}

fn drained(id: AgentId) -> Reason {
    Reason::new(
        reason::AGENT_DRAINED,
        format!("agent {id} is being drained"),
    )
}
