//! The state as bytes, and back.
//!
//! The encoding is canonical: equal states have equal bytes. Indexes that
//! follow from the tables are not stored but rebuilt.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use tepui_types::envelope::DecodeError;
use tepui_types::{
    AgentId, ClusterId, FrameworkId, OperationId, Principal, TaskSpec, TaskState, Timestamp,
};

use super::agents::Agent;
use super::artifacts::Artifact;
use super::conversions::ConversionRecord;
use super::drains::GoneAgent;
use super::frameworks::Framework;
use super::idempotency::Answer;
use super::maintenance::Window;
use super::masters::Master;
use super::preemption::Rate;
use super::restore::Restores;
use super::roles::RoleRecord;
use super::settings::SettingsRecord;
use super::tasks::Task;
use super::{LivingNames, State, TaskIndex};

/// Version of the encoding.
pub const VERSION: u8 = 1;

/// Version 1; frozen once released.
#[derive(Serialize, Deserialize)]
struct SnapshotV1 {
    cluster: ClusterId,
    cluster_version: u32,
    index: u64,
    term: u64,
    now: Timestamp,
    masters: Vec<Arc<Master>>,
    next_agent: u64,
    next_framework: u64,
    agents: Vec<Arc<Agent>>,
    gone: Vec<Arc<GoneAgent>>,
    next_window: u64,
    windows: Vec<Arc<Window>>,
    restores: Restores,
    frameworks: Vec<Arc<Framework>>,
    specs: Vec<(Arc<TaskSpec>, u64)>,
    tasks: Vec<Arc<Task>>,
    ended: Vec<(OperationId, OperationId)>,
    artifacts: Vec<Arc<Artifact>>,
    answers: Vec<((Principal, String), Answer)>,
    ended_counts: BTreeMap<TaskState, u64>,
    roles: Vec<Arc<RoleRecord>>,
    settings: SettingsRecord,
    preemptions: Rate,
    conversions: Vec<Arc<ConversionRecord>>,
}

impl State {
    /// The whole state, versioned.
    pub fn encode(&self) -> Vec<u8> {
        tepui_types::envelope::encode(VERSION, &self.snapshot())
    }

    /// The same in pieces of so many bytes, the last of fewer: a large state in
    /// one would have the kernel move and unmap half a gigabyte at a time, and
    /// other threads wait for that.
    pub fn encode_in_pieces(&self, bytes: usize) -> Vec<Vec<u8>> {
        let pieces = Pieces {
            all: Vec::new(),
            size: bytes.max(1),
        };
        let pieces = tepui_types::envelope::encode_to(VERSION, &self.snapshot(), pieces);
        // invariant: encoding to memory fails no more than in `encode`.
        pieces.expect("a state always encodes").all
    }

    fn snapshot(&self) -> SnapshotV1 {
        let answers = self.answers.iter();
        SnapshotV1 {
            cluster: self.cluster,
            cluster_version: self.cluster_version,
            index: self.index,
            term: self.term,
            now: self.now,
            masters: self.masters.values().cloned().collect(),
            next_agent: self.next_agent,
            next_framework: self.next_framework,
            agents: self.agents.values().cloned().collect(),
            gone: self.gone.values().cloned().collect(),
            next_window: self.next_window,
            windows: self.windows.values().cloned().collect(),
            restores: self.restores.clone(),
            frameworks: self.frameworks.values().cloned().collect(),
            specs: self
                .specs
                .iter()
                .map(|(_, spec, tasks)| (spec.clone(), tasks))
                .collect(),
            tasks: self.tasks.values().cloned().collect(),
            ended: self.ended.iter().map(|(end, task)| (*end, *task)).collect(),
            artifacts: self.artifacts.values().cloned().collect(),
            answers: answers
                .map(|(caller, answer)| (caller.clone(), (**answer).clone()))
                .collect(),
            ended_counts: self.ended_counts.clone(),
            roles: self.roles.values().cloned().collect(),
            settings: self.settings.clone(),
            preemptions: self.preemptions,
            conversions: self.conversions.values().cloned().collect(),
        }
    }

    /// The state in `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let snapshot: SnapshotV1 = tepui_types::envelope::decode(VERSION, bytes)?;
        Ok(Self::from(snapshot))
    }
}

/// Bytes in pieces of one size.
struct Pieces {
    all: Vec<Vec<u8>>,
    size: usize,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.all.last().is_none_or(|last| last.len() == self.size) {
            self.all.push(Vec::with_capacity(self.size));
        }
        let Some(last) = self.all.last_mut() else {
            return Ok(0);
        };
        let taken = bytes.len().min(self.size - last.len());
        last.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl From<SnapshotV1> for State {
    fn from(snapshot: SnapshotV1) -> Self {
        let mut counts = BTreeMap::new();
        let mut unseen_ends: BTreeMap<FrameworkId, usize> = BTreeMap::new();
        for task in &snapshot.tasks {
            *counts.entry(task.status.state).or_default() += 1;
            if task.is_pending() && !task.is_living() {
                *unseen_ends.entry(task.id.framework).or_default() += 1;
            }
        }
        let nonces = snapshot
            .agents
            .iter()
            .map(|agent| (agent.nonce, agent.id))
            .collect();
        let name = |framework: &Arc<Framework>| (framework.info.name.clone(), framework.id);
        let names = snapshot.frameworks.iter().map(name).collect();
        let living = snapshot.tasks.iter().filter(|task| task.is_living());
        let living_names = living.map(|task| (task.id.framework, task.id.name.clone()));
        let living_names: LivingNames = living_names.collect();
        let task_ids: TaskIndex = snapshot
            .tasks
            .iter()
            .map(|task| (task.id.clone(), task.operation))
            .collect();
        let agent_key = |agent: Arc<Agent>| -> (AgentId, Arc<Agent>) { (agent.id, agent) };
        let framework_key = |mut framework: Arc<Framework>| -> (FrameworkId, Arc<Framework>) {
            let ends = unseen_ends.get(&framework.id).copied().unwrap_or(0);
            Arc::make_mut(&mut framework).unseen_ends = ends;
            (framework.id, framework)
        };
        let ending_use = super::roles::derive_ending(snapshot.tasks.iter());
        let role_use = super::roles::derive(snapshot.agents.iter(), snapshot.tasks.iter());
        let agents = snapshot.agents.into_iter().map(agent_key).collect();
        let gone = snapshot.gone.into_iter().map(|gone| (gone.agent.id, gone));
        let windows = snapshot.windows.into_iter();
        let windows = windows.map(|window| (window.id, window)).collect();
        let roles = snapshot.roles.into_iter();
        let roles = roles.map(|record| (record.role.clone(), record)).collect();
        let conversions = snapshot.conversions.into_iter();
        let conversions = conversions.map(|record| (record.id, record));
        let agents: OrdMap<AgentId, Arc<Agent>> = agents;
        let claimed_agents = super::claims::derive(agents.values());
        let lent = super::sums::derive(&agents);
        let deadlines = super::deadlines::derive(
            &agents,
            &windows,
            snapshot.frameworks.iter(),
            snapshot.tasks.iter(),
        );
        Self {
            cluster: snapshot.cluster,
            cluster_version: snapshot.cluster_version,
            index: snapshot.index,
            term: snapshot.term,
            now: snapshot.now,
            masters: snapshot
                .masters
                .into_iter()
                .map(|master| (master.id, master))
                .collect(),
            next_agent: snapshot.next_agent,
            next_framework: snapshot.next_framework,
            agents,
            nonces,
            gone: gone.collect(),
            next_window: snapshot.next_window,
            windows,
            deadlines,
            restores: snapshot.restores,
            frameworks: snapshot.frameworks.into_iter().map(framework_key).collect(),
            names,
            roles,
            role_use,
            ending_use,
            claimed_agents,
            lent,
            settings: snapshot.settings,
            preemptions: snapshot.preemptions,
            tasks: snapshot
                .tasks
                .into_iter()
                .map(|task| (task.operation, task))
                .collect(),
            task_ids,
            living_names,
            ended: snapshot.ended.into_iter().collect(),
            specs: snapshot.specs.into_iter().collect(),
            conversions: conversions.collect(),
            artifacts: snapshot
                .artifacts
                .into_iter()
                .map(|artifact| (artifact.digest, artifact))
                .collect(),
            answers: snapshot.answers.into_iter().collect(),
            counts,
            ended_counts: snapshot.ended_counts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_whole_and_full_but_for_the_last() {
        let state = State::new(ClusterId(7));
        let whole = state.encode();
        for size in [1, 2, 7, whole.len(), whole.len() + 1] {
            let pieces = state.encode_in_pieces(size);
            assert_eq!(pieces.concat(), whole, "pieces of {size}");
            let (last, others) = pieces.split_last().unwrap();
            assert!(others.iter().all(|piece| piece.len() == size));
            assert!((1..=size).contains(&last.len()));
        }
    }
}
