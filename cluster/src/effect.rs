//! All that may follow a commit.
//!
//! Only the leader performs effects on agents; they are idempotent and can be
//! derived from the state again (`State::owed_to`), so losing one is safe.
//! Every master writes history and feeds its watchers.

use std::collections::BTreeSet;
use std::sync::Arc;

use tepui_types::api::event::Event;
use tepui_types::wire::agent::AgentEffect;
use tepui_types::{AgentId, FrameworkId, Role, TaskId, TaskSpec, TaskState};

use crate::outcome::Outcome;
use crate::state::tasks::Task;

/// What one command did.
#[derive(Debug)]
pub struct Applied {
    /// What became of it.
    pub outcome: Outcome,
    /// What is to be done.
    pub effects: Vec<Effect>,
    /// What watchers are told; the same on every master.
    pub events: Vec<Event>,
    /// What the leader's soft parts should look at again.
    pub changes: Changes,
}

/// Something to be done outside the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Tell an agent to do something.
    Agent(AgentId, AgentEffect),
    /// Tell an agent that the log has these states of its tasks.
    Recorded(AgentId, Vec<(TaskId, TaskState)>),
    /// The state forgets this ended task; each master keeps it in its history.
    Archive(Archived),
}

/// An ended task on its way into history, with the specification that the
/// state may forget together with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archived {
    /// The task.
    pub task: Arc<Task>,
    /// What it ran.
    pub spec: Arc<TaskSpec>,
}

/// What has changed, for those who follow the state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Agents whose resources, use or status changed.
    pub agents: BTreeSet<AgentId>,
    /// Frameworks whose phase or demand changed, or that are gone.
    pub frameworks: BTreeSet<FrameworkId>,
    /// Frameworks that raised their demand, or revived, for a role: their filters
    /// for it are void.
    pub revived: BTreeSet<(FrameworkId, Role)>,
    /// Frameworks with updates, notices or timers to look at.
    pub inboxes: BTreeSet<FrameworkId>,
    /// Frameworks whose tasks came or ended: what they have changed.
    pub charged: BTreeSet<FrameworkId>,
    /// Roles whose weight or quota changed.
    pub roles: BTreeSet<Role>,
    /// Whether the cluster's settings changed.
    pub settings: bool,
    /// Whether the table of masters changed.
    pub masters: bool,
}

impl Changes {
    /// Takes `other` in.
    pub fn merge(&mut self, other: Self) {
        take_in(&mut self.agents, other.agents);
        take_in(&mut self.frameworks, other.frameworks);
        take_in(&mut self.revived, other.revived);
        take_in(&mut self.inboxes, other.inboxes);
        take_in(&mut self.charged, other.charged);
        take_in(&mut self.roles, other.roles);
        self.settings |= other.settings;
        self.masters |= other.masters;
    }

    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn take_in<T: Ord>(set: &mut BTreeSet<T>, other: BTreeSet<T>) {
    match set.is_empty() {
        true => *set = other,
        false => set.extend(other),
    }
}
