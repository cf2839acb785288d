//! The executor processes, as the pure core counts on them.
//!
//! A native task has a process to itself; when it has ended, the next task of
//! its trust domain may have the process. A container's process ends with it. Wasm tasks of one trust domain share
//! a process until it is full. Tasks of different domains never have the same
//! process, not one after another either. A process that was told to end, or is
//! about to by itself, gets nothing new.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use tepui_types::wire::agent::TaskLaunch;
use tepui_types::wire::executor::ProcessIdentity;
use tepui_types::{FrameworkId, Reason, Role, TaskId};

/// The most living tasks of one Wasm process: bounds its mappings
/// (`vm.max_map_count`) and what dies with it.
pub const MAX_TASKS: usize = 2_000;
/// Native processes of one domain that wait for another task.
pub const MAX_SPARE: usize = 8;
/// A process that is idle this long gets no new task and is told to end: before
/// it ends by itself, which it does after 60 s.
pub const IDLE_MS: u64 = 45_000;

/// An executor process of this agent. Numbers are never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ExecutorId(pub u64);

impl fmt::Display for ExecutorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}", self.0)
    }
}

impl std::str::FromStr for ExecutorId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        text.strip_prefix('e')
            .and_then(|digits| digits.parse().ok())
            .map(Self)
            .ok_or(())
    }
}

/// Who may share a process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TrustDomain {
    /// The framework.
    pub framework: FrameworkId,
    /// The role that is charged.
    pub role: Role,
    /// On whose behalf.
    pub user: String,
}

impl TrustDomain {
    /// The domain of a task.
    pub fn of(launch: &TaskLaunch) -> Self {
        Self {
            framework: launch.task.framework,
            role: launch.role.clone(),
            user: launch.spec.user.clone(),
        }
    }
}

/// What a process is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecutorKind {
    /// The native tasks of a domain, one after another.
    Native(TrustDomain),
    /// The Wasm tasks of a domain.
    Wasm(TrustDomain),
    /// One container.
    Container(TrustDomain),
}

impl ExecutorKind {
    /// Whose tasks it may have.
    pub fn domain(&self) -> &TrustDomain {
        match self {
            Self::Native(domain) | Self::Wasm(domain) | Self::Container(domain) => domain,
        }
    }
}

/// How far a process has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It is being started, looked for after a restart, or reconnected to.
    Away,
    /// It is connected.
    Attached,
}

/// One process.
#[derive(Debug, Clone)]
pub struct Executor {
    /// What it is for.
    pub kind: ExecutorKind,
    /// How far it has come.
    pub phase: Phase,
    /// Its process, once it has answered.
    pub identity: Option<ProcessIdentity>,
    /// Tasks that are placed here and have not ended.
    pub living: BTreeSet<TaskId>,
    /// Tasks that ended here and that it keeps until the log has their end.
    pub ended: usize,
    /// Whether it gets nothing new.
    pub retired: bool,
    /// Why it is given up, if it does not understand the agent; it is retired then.
    pub unfit: Option<Reason>,
    /// Whether an earlier agent started it, perhaps one of an earlier release: it
    /// gets no new tasks.
    pub is_found: bool,
    idle_since_ms: Option<u64>,
}

/// All processes.
#[derive(Debug, Clone, Default)]
pub struct Executors {
    all: BTreeMap<ExecutorId, Executor>,
    by_domain: BTreeMap<TrustDomain, BTreeSet<ExecutorId>>,
    /// Connected native processes without a task.
    spare: BTreeMap<TrustDomain, BTreeSet<ExecutorId>>,
    next: u64,
}

impl Executors {
    /// The number that the next process gets.
    pub fn next_number(&self) -> u64 {
        self.next
    }

    /// Numbers below `number` are taken.
    pub fn reserve(&mut self, number: u64) {
        self.next = self.next.max(number);
    }

    /// Adds a process under a new number.
    pub fn add(&mut self, kind: ExecutorKind) -> ExecutorId {
        let id = ExecutorId(self.next);
        self.insert(id, kind);
        id
    }

    /// Adds a process that has a number.
    pub fn insert(&mut self, id: ExecutorId, kind: ExecutorKind) {
        self.reserve(id.0 + 1);
        if let ExecutorKind::Wasm(domain) = &kind {
            self.by_domain.entry(domain.clone()).or_default().insert(id);
        }
        let executor = Executor {
            kind,
            phase: Phase::Away,
            identity: None,
            living: BTreeSet::new(),
            ended: 0,
            retired: false,
            unfit: None,
            is_found: false,
            idle_since_ms: None,
        };
        self.all.insert(id, executor);
    }

    /// Takes a process out.
    pub fn remove(&mut self, id: ExecutorId) -> Option<Executor> {
        let executor = self.all.remove(&id)?;
        let index = match &executor.kind {
            ExecutorKind::Native(_) => Some(&mut self.spare),
            ExecutorKind::Wasm(_) => Some(&mut self.by_domain),
            ExecutorKind::Container(_) => None,
        };
        if let Some(index) = index {
            take_out(index, executor.kind.domain(), id);
        }
        Some(executor)
    }

    /// A process.
    pub fn get(&self, id: ExecutorId) -> Option<&Executor> {
        self.all.get(&id)
    }

    /// A process, to be changed.
    pub fn get_mut(&mut self, id: ExecutorId) -> Option<&mut Executor> {
        self.all.get_mut(&id)
    }

    /// All, by number.
    pub fn iter(&self) -> impl Iterator<Item = (ExecutorId, &Executor)> {
        self.all.iter().map(|(id, executor)| (*id, executor))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// The oldest Wasm process of a domain that has room and is of this agent.
    pub fn with_room(&self, domain: &TrustDomain) -> Option<ExecutorId> {
        let ids = self.by_domain.get(domain)?;
        ids.iter().copied().find(|id| {
            self.all.get(id).is_some_and(|executor| {
                let is_open = !executor.retired && !executor.is_found;
                is_open && executor.living.len() < MAX_TASKS
            })
        })
    }

    /// Another agent process goes on with all of them.
    pub fn mark_found(&mut self) {
        self.all
            .values_mut()
            .for_each(|known| known.is_found = true);
    }

    /// Keeps a native process for the next task of its domain: false if it has a
    /// task, is not connected, retired or of an earlier agent, or if enough wait
    /// already.
    pub fn keep(&mut self, id: ExecutorId) -> bool {
        let Some(executor) = self.all.get(&id) else {
            return false;
        };
        let ExecutorKind::Native(domain) = &executor.kind else {
            return false;
        };
        let may = executor.phase == Phase::Attached
            && executor.living.is_empty()
            && !executor.retired
            && !executor.is_found;
        let waiting = self.spare.get(domain);
        if !may || waiting.is_some_and(|ids| ids.len() >= MAX_SPARE && !ids.contains(&id)) {
            return false;
        }
        self.spare.entry(domain.clone()).or_default().insert(id);
        true
    }

    /// Takes a native process that waits for a task of this domain: the one that
    /// has waited least, so that what is too much becomes idle.
    pub fn take_spare(&mut self, domain: &TrustDomain) -> Option<ExecutorId> {
        let id = *self.spare.get(domain)?.last()?;
        take_out(&mut self.spare, domain, id);
        Some(id)
    }

    /// The connection to a process broke.
    pub fn detach(&mut self, id: ExecutorId) {
        if let Some(executor) = self.all.get_mut(&id) {
            executor.phase = Phase::Away;
            take_out(&mut self.spare, executor.kind.domain(), id);
        }
    }

    /// Marks as retired, and names, the connected processes that have been empty
    /// for [`IDLE_MS`].
    pub fn retire_idle(&mut self, now_ms: u64) -> Vec<ExecutorId> {
        let mut idle = Vec::new();
        for (id, executor) in &mut self.all {
            if !executor.may_retire() {
                executor.idle_since_ms = None;
                continue;
            }
            let since = *executor.idle_since_ms.get_or_insert(now_ms);
            if now_ms.saturating_sub(since) >= IDLE_MS {
                idle.push(*id);
            }
        }
        self.retire(&idle);
        idle
    }

    /// Marks as retired, and names, all connected processes that are empty.
    pub fn retire_empty(&mut self) -> Vec<ExecutorId> {
        let all = self.all.iter();
        let empty = all.filter(|(_, executor)| executor.may_retire());
        let empty: Vec<_> = empty.map(|(id, _)| *id).collect();
        self.retire(&empty);
        empty
    }

    /// A process does not understand the agent: it gets nothing new.
    pub fn give_up(&mut self, id: ExecutorId, why: &Reason) {
        self.retire(&[id]);
        if let Some(executor) = self.all.get_mut(&id) {
            executor.unfit = Some(why.clone());
        }
    }

    fn retire(&mut self, ids: &[ExecutorId]) {
        for id in ids {
            if let Some(executor) = self.all.get_mut(id) {
                executor.retired = true;
                take_out(&mut self.spare, executor.kind.domain(), *id);
            }
        }
    }

    /// Whether a process that was told to end, and has nothing, is still there.
    pub fn any_retiring(&self) -> bool {
        self.all
            .values()
            .any(|executor| executor.retired && executor.is_empty())
    }
}

impl Executor {
    /// Whether it is connected, has nothing and was not told to end.
    fn may_retire(&self) -> bool {
        self.is_empty() && self.phase == Phase::Attached && !self.retired
    }

    fn is_empty(&self) -> bool {
        self.living.is_empty() && self.ended == 0
    }
}

/// Takes a process out of an index, and its domain with the last one.
fn take_out(
    index: &mut BTreeMap<TrustDomain, BTreeSet<ExecutorId>>,
    domain: &TrustDomain,
    id: ExecutorId,
) {
    if let Some(ids) = index.get_mut(domain) {
        ids.remove(&id);
        if ids.is_empty() {
            index.remove(domain);
        }
    }
}

/// The token that proves to an executor that its agent is speaking: derived
/// from the agent's nonce, so that an agent that starts again knows it.
pub fn token(nonce: u128, executor: ExecutorId) -> u128 {
    let mut hash = sha2::Sha256::new();
    hash.update(b"tepui executor token 1");
    hash.update(nonce.to_le_bytes());
    hash.update(executor.0.to_le_bytes());
    let digest: [u8; 32] = hash.finalize().into();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    u128::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(user: &str) -> TrustDomain {
        TrustDomain {
            framework: FrameworkId(1),
            role: Role::default(),
            user: user.into(),
        }
    }

    #[test]
    fn domains_never_share_a_process() {
        let mut executors = Executors::default();
        let ada = executors.add(ExecutorKind::Wasm(domain("ada")));
        assert_eq!(executors.with_room(&domain("ada")), Some(ada));
        assert_eq!(executors.with_room(&domain("bob")), None);
        executors.get_mut(ada).unwrap().retired = true;
        assert_eq!(executors.with_room(&domain("ada")), None);
        executors.remove(ada);
        assert_eq!(
            executors.add(ExecutorKind::Wasm(domain("ada"))),
            ExecutorId(1)
        );
    }

    #[test]
    fn a_process_of_an_earlier_agent_gets_nothing_new() {
        let mut executors = Executors::default();
        let earlier = executors.add(ExecutorKind::Wasm(domain("ada")));
        assert_eq!(executors.with_room(&domain("ada")), Some(earlier));
        executors.mark_found();
        assert_eq!(executors.with_room(&domain("ada")), None);
        let own = executors.add(ExecutorKind::Wasm(domain("ada")));
        assert_eq!(executors.with_room(&domain("ada")), Some(own));
    }

    #[test]
    fn idle_processes_are_retired_once() {
        let mut executors = Executors::default();
        let id = executors.add(ExecutorKind::Wasm(domain("ada")));
        assert!(executors.retire_idle(0).is_empty());
        executors.get_mut(id).unwrap().phase = Phase::Attached;
        assert!(executors.retire_idle(5).is_empty());
        assert!(executors.retire_idle(IDLE_MS + 4).is_empty());
        executors.get_mut(id).unwrap().ended = 1;
        assert!(executors.retire_idle(IDLE_MS + 5).is_empty());
        executors.get_mut(id).unwrap().ended = 0;
        assert!(executors.retire_idle(IDLE_MS + 6).is_empty());
        assert_eq!(executors.retire_idle(2 * IDLE_MS + 6), [id]);
        assert!(executors.retire_idle(3 * IDLE_MS + 6).is_empty());
    }

    #[test]
    fn tokens_differ_by_folder_and_number() {
        assert_ne!(token(1, ExecutorId(1)), token(2, ExecutorId(1)));
        assert_ne!(token(1, ExecutorId(1)), token(1, ExecutorId(2)));
        assert_eq!(token(1, ExecutorId(1)), token(1, ExecutorId(1)));
    }
}
