//! A cluster that begins again from a backup, and what agents still run of the time after it.
//!
//! What happened after the backup is lost to the log but not to the world: agents were registered,
//! tasks run, terms were seen. A restore raises the cluster's epoch, and no number that may have
//! been given out meanwhile is given out again. A task of a lost time is not ended as other
//! strangers are: it is held on its agent, which is offered nothing more, until it ends or an
//! operator ends it.

use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use tepui_types::wire::agent::{AgentEffect, StatusReport};
use tepui_types::{AgentId, NodeId, Reason, TaskId, TaskState, task::reason};

use crate::effect::Effect;
use crate::outcome::{Outcome, Rejection};
use crate::state::State;
use crate::state::context::Context;
use crate::state::tasks::Task;

/// How far ids and terms are moved on: far more than were used since any backup that is worth a
/// restore, and still easy to type.
const GAP: u64 = 1_000_000;
/// How far the log's index is moved on: years of the fastest log.
const LOG_GAP: u64 = 1 << 40;
/// An attempt's epoch stands above these bits, so that attempts of a lost time are known as such.
const EPOCH_SHIFT: u32 = 32;
/// Restores whose lost agents are known again.
const MAX_RESTORES: usize = 16;
/// Held tasks that are named for one agent; more are held all the same, unnamed.
const MAX_HELD: usize = 10_000;
/// Milliseconds that a held task gets to end by itself; its specification is lost.
const HELD_GRACE_MS: u64 = 5_000;

/// The first entry that may have been written since the last restore.
pub(super) fn first_index_of_epoch(index: u64) -> u64 {
    index - index % LOG_GAP
}

/// What the state knows of restores.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restores {
    /// How many there were.
    pub epoch: u32,
    /// Ids that agents may have been given in lost times: from, and up to without.
    lost_agents: Vec<(u64, u64)>,
}

/// Tasks of a lost time on one agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Which, and how far.
    pub tasks: OrdMap<TaskId, TaskState>,
    /// Whether an operator wants them ended.
    pub are_ending: bool,
}

impl State {
    /// The state of a backup as the first of a cluster of one master, from which it goes on.
    pub fn restored(mut self, master: NodeId, url: String) -> Self {
        self.restores.epoch += 1;
        let first = self.next_agent;
        self.next_agent += GAP;
        self.restores.lost_agents.push((first, self.next_agent));
        if self.restores.lost_agents.len() > MAX_RESTORES {
            self.restores.lost_agents.remove(0);
        }
        self.next_framework += GAP;
        self.next_window += GAP;
        self.index += LOG_GAP;
        self.term += GAP;
        let first_attempt = self.first_attempt();
        let frameworks = self.frameworks.into_iter();
        self.frameworks = frameworks
            .map(|(id, mut framework)| {
                let next = &mut Arc::make_mut(&mut framework).next_attempt;
                *next = first_attempt.max(*next);
                (id, framework)
            })
            .collect();
        self.masters = Self::founded(self.cluster, [(master, url)]).masters;
        self
    }

    /// The first attempt of frameworks that are deployed now.
    pub(super) fn first_attempt(&self) -> u64 {
        u64::from(self.restores.epoch) << EPOCH_SHIFT
    }

    /// Whether this id may have been given to an agent in a lost time.
    pub(super) fn is_lost_agent(&self, id: AgentId) -> bool {
        let mut lost = self.restores.lost_agents.iter();
        let in_range = lost.any(|(from, to)| (*from..*to).contains(&id.0));
        in_range && !self.agents.contains_key(&id) && !self.gone.contains_key(&id)
    }

    /// Whether a task was launched in a lost time: the log does not know it, or has dropped it in the line
    /// in which it stood in the backup.
    pub(super) fn is_of_lost_time(&self, task: &TaskId) -> bool {
        let known = self.task(task);
        let is_launched = |known: &Arc<Task>| known.status.state != TaskState::Dropped;
        task.attempt < self.first_attempt() && !known.is_some_and(is_launched)
    }

    /// Whether a task may have been launched, and have run, in a lost time.
    pub(super) fn is_of_backup(&self, task: &Task) -> bool {
        task.operation.index < first_index_of_epoch(self.index)
    }

    /// Drops what stood in line on an agent in the backup: its turn may have come in the lost time. What
    /// has run by then is held on its agent, and nothing is run there twice.
    pub(super) fn drop_lines_of_backup(&mut self, context: &mut Context, id: AgentId) {
        let Some(agent) = self.agents.get(&id) else {
            return;
        };
        let tasks = agent.tasks.iter();
        let heads = tasks.filter_map(|operation| self.tasks.get(operation));
        let is_next_of_backup = |head: &&Arc<Task>| {
            let next = self.successor_of(head);
            next.is_some_and(|next| self.is_of_backup(&next))
        };
        let heads = heads.filter(is_next_of_backup);
        let heads: Vec<_> = heads.cloned().collect();
        let why = "it waited for its turn when the backup was taken, and may have had it since";
        let why = Reason::new(reason::AGENT_FORGOT, why);
        for head in heads {
            self.break_line(context, &head, &why);
        }
    }

    /// Takes in what an agent says of a task of a lost time.
    pub(super) fn hold(&mut self, context: &mut Context, id: AgentId, report: &StatusReport) {
        let Some(agent) = self.agents.get_mut(&id) else {
            return;
        };
        let agent = Arc::make_mut(agent);
        let held = &mut agent.held;
        if report.state.is_terminal() {
            held.tasks.remove(&report.task);
            held.are_ending &= !held.tasks.is_empty();
        } else if held.tasks.len() < MAX_HELD || held.tasks.contains_key(&report.task) {
            held.tasks.insert(report.task.clone(), report.state);
        }
        if held.are_ending && !report.state.is_terminal() {
            let kill = Held::kill(&report.task);
            context.effects.push(Effect::Agent(id, kill));
        }
        agent.revision = context.index;
        context.changes.agents.insert(id);
    }

    /// Forgets the held tasks of an agent that is about to name all that it runs.
    pub(super) fn hold_anew(&mut self, id: AgentId) {
        if let Some(agent) = self.agents.get_mut(&id)
            && !agent.held.tasks.is_empty()
        {
            Arc::make_mut(agent).held.tasks.clear();
        }
    }

    pub(super) fn end_held(&mut self, context: &mut Context, id: AgentId) -> Outcome {
        let Some(agent) = self.agents.get_mut(&id) else {
            return Err(Rejection::NotFound(format!("there is no agent {id}")));
        };
        if agent.held.tasks.is_empty() {
            return Err(Rejection::Conflict(format!(
                "agent {id} holds no task of before a restore"
            )));
        }
        let agent = Arc::make_mut(agent);
        agent.held.are_ending = true;
        agent.revision = context.index;
        context.changes.agents.insert(id);
        let kills = agent.held.owed().map(|kill| Effect::Agent(id, kill));
        context.effects.extend(kills);
        self.agent_changed(id)
    }
}

impl Held {
    /// What its agent is to be told, again after every new session.
    pub(super) fn owed(&self) -> impl Iterator<Item = AgentEffect> + '_ {
        let tasks = self.tasks.keys().filter(|_| self.are_ending);
        tasks.map(Self::kill)
    }

    fn kill(task: &TaskId) -> AgentEffect {
        AgentEffect::Kill {
            task: task.clone(),
            grace_ms: HELD_GRACE_MS,
        }
    }
}
