//! What is watched while the simulation runs: the first thing that is not as it must be ends it.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};
use tepui_cluster::State;
use tepui_types::api::event::{Event, EventBody, Sequence};
use tepui_types::task::reason;
use tepui_types::{AgentId, Digest, FrameworkId, TaskId, TaskState};

use super::scheduler;
use super::world::MILLI;

/// Something that must never be.
pub type Violation = String;

/// Indexes between two looks at the whole state: the look costs as much as some hundred steps.
const LOOK_EVERY: u64 = 16;

/// All that was seen.
#[derive(Debug, Default)]
pub struct Checks {
    /// The state's hash by the index of its last command.
    hashes: BTreeMap<u64, [u8; 32]>,
    /// The last index whose state was looked at as a whole.
    looked_at: u64,
    /// The last event that was seen, and what events there were.
    newest: Sequence,
    events: BTreeMap<Sequence, [u8; 32]>,
    /// Who led in which term.
    leaders: BTreeMap<u64, usize>,
    /// Artifacts whose record was acknowledged, with the index that was given.
    recorded: BTreeMap<Digest, u64>,
    /// Frameworks whose deployment was acknowledged.
    deployed: BTreeSet<FrameworkId>,
    /// The last turn of each framework that was acknowledged.
    turns: BTreeMap<FrameworkId, (u64, u64)>,
    /// The highest index that was acknowledged.
    acknowledged: u64,
    /// Tasks that have waited in line.
    lined_up: BTreeSet<TaskId>,
    /// Tasks in line of which an agent was told ahead.
    promised: BTreeMap<TaskId, TaskId>,
    /// Tasks to which the log has given a place.
    launched: BTreeSet<TaskId>,
    /// Tasks that were started on some machine.
    started: BTreeSet<TaskId>,
    /// Since when each task's agent is unreachable.
    unreachable_at: BTreeMap<TaskId, u64>,
    /// Tasks that count as gone because their agent was not heard of, and where they were.
    replaced: Vec<(AgentId, TaskId)>,
    /// Tasks that were told ahead behind one that waited itself.
    deep: usize,
    /// Tasks that were dropped, or ended with the boot of a machine, and are started no more.
    void: BTreeSet<TaskId>,
    /// How each task ended.
    ended: BTreeMap<TaskId, TaskState>,
}

impl Checks {
    /// A master has applied commands; this is its state now.
    pub fn on_state(&mut self, master: usize, state: &State) -> Result<(), Violation> {
        let hash = state.hash();
        let first = *self.hashes.entry(state.index).or_insert(hash);
        if first != hash {
            return Err(format!(
                "master {master} has another state than others at index {}",
                state.index
            ));
        }
        if state.index >= self.looked_at + LOOK_EVERY {
            self.looked_at = state.index;
            state.check_invariants().map_err(|what| {
                format!("an invariant is broken at index {}: {what}", state.index)
            })?;
        }
        Ok(())
    }

    /// A master tells its watchers of these, at this time.
    pub fn on_events(
        &mut self,
        master: usize,
        events: &[Event],
        now_us: u64,
    ) -> Result<(), Violation> {
        for event in events {
            let hash: [u8; 32] = Sha256::digest(format!("{event:?}")).into();
            if event.sequence <= self.newest {
                if self.events.get(&event.sequence) != Some(&hash) {
                    return Err(format!(
                        "master {master} tells another event at {:?} than others: {:?}",
                        event.sequence, event.body
                    ));
                }
                continue;
            }
            self.newest = event.sequence;
            self.events.insert(event.sequence, hash);
            if let EventBody::Task {
                task,
                state,
                agent,
                reason,
                in_line,
                ..
            } = &event.body
            {
                self.on_task(task, *state, *in_line)?;
                match state {
                    // Told again where it gets the place of another.
                    TaskState::Unreachable => {
                        self.unreachable_at.entry(task.clone()).or_insert(now_us);
                    }
                    TaskState::Staging | TaskState::Starting | TaskState::Running => {
                        self.unreachable_at.remove(task);
                    }
                    _ => {}
                }
                let is_reason = |code| reason.as_ref().is_some_and(|why| why.code == code);
                if *state == TaskState::Dropped || is_reason(reason::AGENT_REBOOTED) {
                    self.void.insert(task.clone());
                }
                if is_reason(reason::REPLACED) {
                    self.on_replaced(task, *agent, now_us)?;
                }
            }
        }
        Ok(())
    }

    fn on_task(&mut self, task: &TaskId, state: TaskState, in_line: bool) -> Result<(), Violation> {
        if let Some(end) = self.ended.get(task) {
            return Err(format!("{task} is {state} after its end, {end}"));
        }
        let is_staged = state == TaskState::Staging;
        if is_staged && in_line && !self.lined_up.insert(task.clone()) {
            return Err(format!("the log lines {task} up twice"));
        }
        if is_staged && !in_line && !self.launched.insert(task.clone()) {
            return Err(format!("the log launches {task} twice"));
        }
        if state.is_terminal() {
            self.ended.insert(task.clone(), state);
        }
        Ok(())
    }

    /// A task counts as gone, because its agent was not heard of.
    fn on_replaced(&mut self, task: &TaskId, at: AgentId, now_us: u64) -> Result<(), Violation> {
        let since = self.unreachable_at.get(task);
        let waited_us = since.map_or(0, |since| now_us - since);
        let after_ms = scheduler::policy(&task.name).replaces_after_ms();
        if after_ms.is_none_or(|after_ms| waited_us < after_ms * MILLI) {
            return Err(format!("{task} is replaced after {waited_us} us"));
        }
        self.replaced.push((at, task.clone()));
        Ok(())
    }

    /// Tasks that count as gone because their agent was not heard of, from the first that was not asked for.
    pub fn replaced_since(&self, asked_for: usize) -> Vec<(AgentId, TaskId)> {
        self.replaced.iter().skip(asked_for).cloned().collect()
    }

    /// A master leads.
    pub fn on_leader(&mut self, master: usize, term: u64, state: &State) -> Result<(), Violation> {
        let first = *self.leaders.entry(term).or_insert(master);
        if first != master {
            return Err(format!(
                "masters {first} and {master} both lead term {term}"
            ));
        }
        // One that learns late of its own election may be behind a later leader.
        match self.leaders.last_key_value() {
            Some((newest, _)) if *newest == term => self.check_acknowledged(master, state),
            _ => Ok(()),
        }
    }

    /// All that was acknowledged is in a state that must be as new.
    pub fn check_acknowledged(&self, master: usize, state: &State) -> Result<(), Violation> {
        let missing = self
            .recorded
            .iter()
            .find(|(digest, _)| !state.artifacts.contains_key(*digest));
        if let Some((digest, index)) = missing {
            return Err(format!(
                "master {master} leads and lacks the record of {digest}, acknowledged at {index}"
            ));
        }
        let mut deployed = self.deployed.iter();
        if let Some(framework) = deployed.find(|id| state.framework(**id).is_none()) {
            return Err(format!(
                "master {master} leads and lacks {framework}, whose deployment was acknowledged"
            ));
        }
        for (framework, acknowledged) in &self.turns {
            let has = state.framework(*framework);
            let has = has.map(|framework| (framework.incarnation, framework.turns));
            if has.is_none_or(|has| has < (acknowledged.0, acknowledged.1 + 1)) {
                return Err(format!(
                    "master {master} leads and is at turn {has:?} of {framework}, of which \
                     {acknowledged:?} was acknowledged"
                ));
            }
        }
        Ok(())
    }

    /// A command was acknowledged.
    pub fn on_acknowledged(&mut self, index: u64) {
        self.acknowledged = self.acknowledged.max(index);
    }

    /// The record of an artifact was acknowledged.
    pub fn on_recorded(&mut self, digest: Digest, index: u64) {
        self.recorded.insert(digest, index);
    }

    /// A framework's deployment was acknowledged.
    pub fn on_deployed(&mut self, framework: FrameworkId) {
        self.deployed.insert(framework);
    }

    /// A framework's turn was acknowledged.
    pub fn on_turn(&mut self, framework: FrameworkId, incarnation: u64, number: u64) {
        let last = self.turns.entry(framework).or_default();
        *last = (*last).max((incarnation, number));
    }

    /// The highest index that was acknowledged: a reader who comes now sees it.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// A leader tells an agent of a task that waits for another's end.
    pub fn on_promise(&mut self, task: &TaskId, after: &TaskId) -> Result<(), Violation> {
        if !self.lined_up.contains(task) {
            return Err(format!("{task} is promised a place, and is not in line"));
        }
        self.deep += usize::from(!self.launched.contains(after));
        self.promised.insert(task.clone(), after.clone());
        Ok(())
    }

    /// All that have, or had, a place before a task that is promised it.
    pub fn ahead_of(&self, task: &TaskId) -> BTreeSet<TaskId> {
        let ahead = std::iter::successors(self.promised.get(task), |task| self.promised.get(task));
        ahead.cloned().collect()
    }

    /// A machine runs a task from now on.
    pub fn on_start(&mut self, task: &TaskId) -> Result<(), Violation> {
        if !self.launched.contains(task) && !self.promised.contains_key(task) {
            return Err(format!("{task} is started, and the log does not know it"));
        }
        if self.void.contains(task) {
            return Err(format!("{task} is started, and the log has ended it"));
        }
        if !self.started.insert(task.clone()) {
            return Err(format!("{task} is started twice"));
        }
        Ok(())
    }

    /// At the end, everything adds up.
    pub fn at_the_end(&self, state: &State) -> Result<(), Violation> {
        state.check_invariants()?;
        let counted: u64 = state.ended_counts.values().sum();
        if counted != self.ended.len() as u64 {
            return Err(format!(
                "{} tasks ended, and {counted} are counted",
                self.ended.len()
            ));
        }
        for framework in state.frameworks.values() {
            let seen = framework.store.keys().filter(|key| key.starts_with("end/"));
            let ended = self
                .ended
                .keys()
                .filter(|task| task.framework == framework.id);
            let (seen, ended) = (seen.count(), ended.count());
            if seen != ended {
                return Err(format!(
                    "{ended} tasks of {} ended, and it has seen {seen}",
                    framework.id
                ));
            }
        }
        Ok(())
    }

    /// How many tasks were started, and how many ended.
    pub fn tasks(&self) -> (usize, usize) {
        (self.started.len(), self.ended.len())
    }

    /// How many tasks count as gone because their agent was not heard of.
    pub fn replaced(&self) -> usize {
        self.replaced.len()
    }

    /// How many were promised their place behind one that waited itself.
    pub fn deep(&self) -> usize {
        self.deep
    }

    /// How many tasks were promised their place.
    pub fn promised(&self) -> usize {
        self.promised.len()
    }

    /// How many tasks got the place of another for which they had waited.
    pub fn succeeded(&self) -> usize {
        self.lined_up.intersection(&self.launched).count()
    }
}
