//! A small framework: wants so many tasks done, one end of each name, and counts every end it sees.
//!
//! It keeps all that it knows in its store, as frameworks are told to: `live/NAME` while a task of
//! that name lives, `done/NAME` once one has finished, `end/TASK` for every end that it was told.

use std::sync::Arc;

use tepui_cluster::state::frameworks::Framework;
use tepui_cluster::{State, Turn, TurnKind};
use tepui_types::operation::{Launch, Operation};
use tepui_types::resources::ResourceRequest;
use tepui_types::task::{CommandWorkload, PartitionPolicy, TaskSpec, Workload};
use tepui_types::{
    AgentId, Bytes, Demand, FrameworkInfo, MilliCpus, Offer, Resources, Role, TaskId, TaskName,
    TaskState,
};

use super::checks::Violation;

/// What becomes of tasks while their agents are not heard of: half of them are waited for.
const POLICIES: [PartitionPolicy; 4] = [
    PartitionPolicy::Wait,
    PartitionPolicy::StopAfter(PartitionPolicy::MIN_STOP_MS),
    PartitionPolicy::Wait,
    PartitionPolicy::ReplaceAfter(2_000),
];
/// The key of its only demand.
const DEMAND: &str = "tasks";

/// A framework and the state that its turn sees.
pub struct Script<'a> {
    state: &'a State,
    framework: &'a Framework,
}

/// What is deployed: a framework that wants so many tasks.
pub fn deployment(name: &str, tasks: usize) -> FrameworkInfo {
    FrameworkInfo {
        name: name.into(),
        roles: Role::default().into(),
        artifact: component(),
        config: tasks.to_string(),
    }
}

/// The digest of its component.
pub fn component() -> tepui_types::Digest {
    tepui_types::Digest::of(b"component")
}

impl<'a> Script<'a> {
    /// The script of this framework.
    pub fn of(state: &'a State, framework: &'a Framework) -> Self {
        Self { state, framework }
    }

    /// Whether everything is done and counted.
    pub fn is_done(&self) -> bool {
        self.framework.pending.is_empty()
            && self.framework.tasks.is_empty()
            && self.names().all(|name| self.has("done", &name))
    }

    /// Whether there is something to do.
    pub fn has_work(&self, offers: &[Offer]) -> bool {
        !self.framework.pending.is_empty()
            || !self.framework.notices.is_empty()
            || !offers.is_empty()
            || self.demand() != self.missing().len() as u32
    }

    /// The turn that begins an incarnation.
    pub fn start(&self) -> Turn {
        let incarnation = self.framework.incarnation + 1;
        let mut turn = Turn::new(self.framework.id, incarnation, 0, TurnKind::Start);
        turn.first_attempt = self.framework.next_attempt;
        turn
    }

    /// The next turn of an instance: takes note of ends, launches what is missing where it fits.
    pub fn handle(
        &self,
        (incarnation, number): (u64, u64),
        offers: &[Offer],
    ) -> Result<Turn, Violation> {
        let id = self.framework.id;
        let mut turn = Turn::new(id, incarnation, number, TurnKind::Handle);
        turn.first_attempt = self.framework.next_attempt;
        turn.notices_seen = self.framework.notices.keys().copied().collect();
        let mut missing = self.missing();
        for operation in &self.framework.pending {
            let task = &self.state.tasks[operation];
            turn.acknowledged.push((task.id.clone(), task.sequence));
            if task.is_living() {
                continue;
            }
            let (name, key) = (task.id.name.to_string(), format!("end/{}", task.id));
            if self.framework.store.contains_key(key.as_str()) {
                return Err(format!("{id} is told twice that {} ended", task.id));
            }
            turn.writes.push((key, Some(Vec::new())));
            turn.writes.push((format!("live/{name}"), None));
            if task.status.state == TaskState::Finished {
                turn.writes.push((format!("done/{name}"), Some(Vec::new())));
            } else {
                missing.push(name);
            }
        }
        turn.specs.extend(POLICIES.map(spec));
        let mut missing = missing.into_iter().peekable();
        for offer in offers {
            let mut free = offer.resources.clone();
            while missing.peek().is_some() && free.contains(&share()) {
                let Some(name) = missing.next() else { break };
                free = free.saturating_sub(&share());
                launch(&mut turn, &name, offer.agent, None)?;
            }
        }
        let role = self.framework.info.roles.first();
        let living = self.framework.tasks.iter();
        let living = living.filter_map(|operation| self.state.tasks.get(operation));
        let heads = living.filter(|task| task.has_place());
        let heads = heads.filter(|task| self.state.hands_on(id, role, task.agent));
        for (task, name) in heads.zip(missing.by_ref()) {
            launch(&mut turn, &name, task.agent, Some(task.id.clone()))?;
        }
        let count = missing.count() as u32;
        if count != self.demand() {
            let request = ResourceRequest::from(&share());
            turn.demands
                .push((DEMAND.into(), Demand::new(count, request)));
        }
        Ok(turn)
    }

    fn names(&self) -> impl Iterator<Item = String> {
        let count: usize = self.framework.info.config.parse().unwrap_or_default();
        (0..count).map(|number| format!("t{number}"))
    }

    fn missing(&self) -> Vec<String> {
        self.names()
            .filter(|name| !self.has("done", name) && !self.has("live", name))
            .collect()
    }

    fn demand(&self) -> u32 {
        let demand = self.framework.demands.get(DEMAND);
        demand.map_or(0, |entry| entry.demand.count)
    }

    fn has(&self, kind: &str, name: &str) -> bool {
        let key = format!("{kind}/{name}");
        self.framework.store.contains_key(key.as_str())
    }
}

/// Launches a task of this name, after another one if there is one.
fn launch(
    turn: &mut Turn,
    name: &str,
    agent: AgentId,
    after: Option<TaskId>,
) -> Result<(), Violation> {
    let name_of_task = task_name(name)?;
    turn.operations.push(Operation::Launch(Launch {
        agent,
        spec: policy_number(&name_of_task) as u32,
        name: name_of_task,
        resources: share(),
        array_index: None,
        role: None,
        chosen: None,
        after,
    }));
    turn.writes.push((format!("live/{name}"), Some(Vec::new())));
    Ok(())
}

/// What each task takes.
fn share() -> Resources {
    Resources {
        cpus: MilliCpus(1_000),
        mem: Bytes::gib(1),
        ..Resources::default()
    }
}

fn task_name(name: &str) -> Result<TaskName, Violation> {
    TaskName::new(name).map_err(|error| error.to_string())
}

/// What becomes of a task while its agent is not heard of: that is in its name.
pub fn policy(name: &TaskName) -> PartitionPolicy {
    POLICIES[policy_number(name)]
}

fn policy_number(name: &TaskName) -> usize {
    let number = name.to_string();
    let number: usize = number.trim_start_matches('t').parse().unwrap_or_default();
    number % POLICIES.len()
}

fn spec(partition: PartitionPolicy) -> Arc<TaskSpec> {
    let command = CommandWorkload::new(vec!["true".into()]);
    Arc::new(TaskSpec {
        kill_grace_ms: 1_000,
        partition,
        ..TaskSpec::new(Workload::Command(command))
    })
}
