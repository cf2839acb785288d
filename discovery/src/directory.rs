//! The directory: who may be found, by every name that it has. Pure.
//!
//! Whoever follows the cluster's state puts and removes entries; each change costs O(log n) and a
//! clone costs O(1), for the maps are persistent: readers get clones ([`crate::Published`]) and are
//! never in a writer's way. What always holds:
//!
//! - an entry that was removed is in no index, and one that was put again is only what it is now;
//! - of two tasks with one name the one that is ready answers, then the one that has an address,
//!   then the newest;
//! - of two frameworks whose names become one label the older one has it, so that nobody adds
//!   instances to another tenant's service;
//! - services of one framework whose names become one label are one service.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use tepui_types::{AgentId, FrameworkId, TaskId};

use crate::entry::{Agent, Entry, Master};
use crate::label::{framework_label, labels};

/// A cluster has at most seven masters; more than these are not told.
const MAX_MASTERS: usize = 16;

/// The key of an entry: a framework's attempts are never used twice.
pub(crate) type Key = (FrameworkId, u64);

/// An entry and the names that it has.
#[derive(Debug)]
pub(crate) struct Instance {
    pub entry: Entry,
    /// Its name in the order of the tree, with dots: `eu.db` for the task `db.eu`.
    pub name: Arc<str>,
    /// Its service, likewise.
    pub service: Option<Arc<str>>,
    /// Its framework's label.
    pub framework: Arc<str>,
}

impl Instance {
    fn new(mut entry: Entry) -> Self {
        entry.addresses.truncate(Entry::MAX_ADDRESSES);
        entry.ports.truncate(Entry::MAX_PORTS);
        Self {
            name: tree_name(&entry.name),
            service: entry.service.as_deref().map(tree_name),
            framework: framework_label(&entry.framework).into(),
            entry,
        }
    }

    pub fn key(&self) -> Key {
        (self.entry.id.framework, self.entry.id.attempt)
    }

    fn name_key(&self) -> NameKey {
        let rank = match (self.entry.in_service(), self.entry.addresses.is_empty()) {
            (true, _) => Rank::Ready,
            (false, false) => Rank::Addressed,
            (false, true) => Rank::Named,
        };
        NameKey {
            framework: self.entry.id.framework,
            name: self.name.clone(),
            rank,
            newest: Reverse(self.entry.id.attempt),
        }
    }

    fn service_key(&self) -> Option<ServiceKey> {
        Some(ServiceKey {
            framework: self.entry.id.framework,
            service: self.service.clone()?,
            out_of_service: !self.entry.in_service(),
            place: place(self.key()),
            attempt: self.entry.id.attempt,
        })
    }
}

/// Who answers first for a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Ready,
    Addressed,
    Named,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct NameKey {
    framework: FrameworkId,
    name: Arc<str>,
    rank: Rank,
    newest: Reverse<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct ServiceKey {
    framework: FrameworkId,
    service: Arc<str>,
    /// Those in service come first.
    out_of_service: bool,
    /// Where on the ring of its service an instance stands; a random place to begin at makes a
    /// random choice of many instances cheap.
    place: u64,
    attempt: u64,
}

/// How many instances a service has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub ready: usize,
    pub all: usize,
}

/// Who may be found. See the module's header.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    version: u32,
    entries: OrdMap<Key, Arc<Instance>>,
    names: OrdMap<NameKey, Arc<Instance>>,
    members: OrdMap<ServiceKey, Arc<Instance>>,
    services: OrdMap<(FrameworkId, Arc<str>), Counts>,
    frameworks: OrdMap<(Arc<str>, FrameworkId), usize>,
    addresses: OrdSet<(IpAddr, Key)>,
    agents: OrdMap<AgentId, Arc<Agent>>,
    agent_names: OrdSet<(Arc<str>, AgentId)>,
    agent_addresses: OrdSet<(IpAddr, AgentId)>,
    masters: Arc<[Master]>,
}

impl Directory {
    /// Of nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a task, or takes what has changed of it. Says whether anything has.
    pub fn put(&mut self, entry: Entry) -> bool {
        let instance = Arc::new(Instance::new(entry));
        let key = instance.key();
        match self.entries.get(&key).cloned() {
            Some(old) if old.entry == instance.entry => return false,
            Some(old) => self.unindex(&old),
            None => {}
        }
        self.index(&instance);
        self.entries.insert(key, instance);
        self.changed()
    }

    /// Removes a task that has ended. Says whether it was there.
    pub fn remove(&mut self, id: &TaskId) -> bool {
        match self.entries.remove(&(id.framework, id.attempt)) {
            Some(old) => {
                self.unindex(&old);
                self.changed()
            }
            None => false,
        }
    }

    /// Adds an agent, or takes what has changed of it. Says whether anything has.
    pub fn put_agent(&mut self, mut agent: Agent) -> bool {
        agent.addresses.truncate(Entry::MAX_ADDRESSES);
        if self.agents.get(&agent.id).is_some_and(|old| **old == agent) {
            return false;
        }
        self.remove_agent(agent.id);
        for name in agent_names(&agent) {
            self.agent_names.insert((name, agent.id));
        }
        for address in &agent.addresses {
            self.agent_addresses.insert((*address, agent.id));
        }
        self.agents.insert(agent.id, Arc::new(agent));
        self.changed()
    }

    /// Removes an agent. Its tasks are entries of their own. Says whether it was there.
    pub fn remove_agent(&mut self, id: AgentId) -> bool {
        let Some(old) = self.agents.remove(&id) else {
            return false;
        };
        for name in agent_names(&old) {
            self.agent_names.remove(&(name, id));
        }
        for address in &old.addresses {
            self.agent_addresses.remove(&(*address, id));
        }
        self.changed()
    }

    /// Takes who the masters are, and who of them leads. Says whether anything has changed.
    pub fn set_masters(&mut self, mut masters: Vec<Master>) -> bool {
        masters.truncate(MAX_MASTERS);
        for master in &mut masters {
            master.addresses.truncate(Entry::MAX_ADDRESSES);
        }
        if *self.masters == *masters {
            return false;
        }
        self.masters = masters.into();
        self.changed()
    }

    /// How many tasks there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no task.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A number that every change counts up: the zone's serial. It says nothing across masters.
    pub fn version(&self) -> u32 {
        self.version
    }

    fn changed(&mut self) -> bool {
        self.version = self.version.wrapping_add(1);
        true
    }

    fn index(&mut self, instance: &Arc<Instance>) {
        let framework = instance.entry.id.framework;
        self.names.insert(instance.name_key(), instance.clone());
        *self
            .frameworks
            .entry((instance.framework.clone(), framework))
            .or_insert(0) += 1;
        for address in &instance.entry.addresses {
            self.addresses.insert((*address, instance.key()));
        }
        if let Some(key) = instance.service_key() {
            let counts = self
                .services
                .entry((framework, key.service.clone()))
                .or_default();
            counts.all += 1;
            counts.ready += usize::from(!key.out_of_service);
            self.members.insert(key, instance.clone());
        }
    }

    fn unindex(&mut self, instance: &Instance) {
        let framework = instance.entry.id.framework;
        self.names.remove(&instance.name_key());
        let label = (instance.framework.clone(), framework);
        match self.frameworks.get_mut(&label) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.frameworks.remove(&label)),
        }
        for address in &instance.entry.addresses {
            self.addresses.remove(&(*address, instance.key()));
        }
        if let Some(key) = instance.service_key() {
            let service = (framework, key.service.clone());
            match self.services.get_mut(&service) {
                Some(counts) if counts.all > 1 => {
                    counts.all -= 1;
                    counts.ready -= usize::from(!key.out_of_service);
                }
                _ => drop(self.services.remove(&service)),
            }
            self.members.remove(&key);
        }
    }
}

/// What answers are made of.
impl Directory {
    /// The framework that has a label.
    pub(crate) fn framework(&self, label: &str) -> Option<FrameworkId> {
        let from = (Arc::from(label), FrameworkId(0));
        let ((found, id), _) = self.frameworks.range(from..).next()?;
        (**found == *label).then_some(*id)
    }

    /// The task that answers for a name in the order of the tree.
    pub(crate) fn task(&self, framework: FrameworkId, name: &str) -> Option<&Arc<Instance>> {
        let (key, instance) = self.names.range(first_of(framework, name)..).next()?;
        (key.framework == framework && *key.name == *name).then_some(instance)
    }

    /// Whether an instance is who answers for its own name, so that a record may point to it.
    pub(crate) fn answers_for_itself(&self, instance: &Instance) -> bool {
        let (framework, _) = instance.key();
        self.framework(&instance.framework) == Some(framework)
            && self
                .task(framework, &instance.name)
                .is_some_and(|first| first.key() == instance.key())
    }

    /// How many instances a service has; none where there is no such service.
    pub(crate) fn service(&self, framework: FrameworkId, service: &str) -> Option<Counts> {
        self.services.get(&(framework, Arc::from(service))).copied()
    }

    /// Whether tasks or services have names below this one.
    pub(crate) fn names_below(&self, framework: FrameworkId, name: &str) -> bool {
        let prefix = format!("{name}.");
        let mut tasks = self.names.range(first_of(framework, &prefix)..);
        let mut services = self
            .services
            .range((framework, Arc::from(prefix.as_str()))..);
        tasks
            .next()
            .is_some_and(|(key, _)| key.framework == framework && key.name.starts_with(&prefix))
            || services
                .next()
                .is_some_and(|((id, name), _)| *id == framework && name.starts_with(&prefix))
    }

    /// The instances of a service that are in service, once each, from a place on its ring on.
    pub(crate) fn ready<'a>(
        &'a self,
        framework: FrameworkId,
        service: &str,
        from: u64,
    ) -> impl Iterator<Item = &'a Arc<Instance>> + use<'a> {
        let at = |place| ServiceKey {
            framework,
            service: Arc::from(service),
            out_of_service: false,
            place,
            attempt: 0,
        };
        let end = ServiceKey {
            out_of_service: true,
            ..at(0)
        };
        self.members
            .range(at(from)..end)
            .chain(self.members.range(at(0)..at(from)))
            .map(|(_, instance)| instance)
    }

    /// All instances of a service, those in service first.
    pub(crate) fn instances<'a>(
        &'a self,
        framework: FrameworkId,
        service: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Instance>> {
        let from = ServiceKey {
            framework,
            service: Arc::from(service),
            out_of_service: false,
            place: 0,
            attempt: 0,
        };
        self.members
            .range(from..)
            .take_while(move |(key, _)| key.framework == framework && *key.service == *service)
            .map(|(_, instance)| instance)
    }

    /// All services after one, by framework and name.
    pub(crate) fn services_after<'a>(
        &'a self,
        after: Option<(FrameworkId, &str)>,
    ) -> impl Iterator<Item = (FrameworkId, &'a str, Counts)> + use<'a> {
        let after = after.map(|(framework, service)| (framework, Arc::from(service)));
        let from = after.clone().unwrap_or((FrameworkId(0), Arc::from("")));
        self.services
            .range(from..)
            .filter(move |(key, _)| after.as_ref() != Some(key))
            .map(|((framework, service), counts)| (*framework, &**service, *counts))
    }

    /// The agent that has a name in the order of the tree.
    pub(crate) fn agent(&self, name: &str) -> Option<&Agent> {
        let from = (Arc::from(name), AgentId(0));
        let (found, id) = self.agent_names.range(from..).next()?;
        (**found == *name).then(|| self.agents.get(id).map(Arc::as_ref))?
    }

    /// Whether agents have names below this one.
    pub(crate) fn agents_below(&self, name: &str) -> bool {
        let prefix = format!("{name}.");
        let from = (Arc::from(prefix.as_str()), AgentId(0));
        let mut names = self.agent_names.range(from..);
        names
            .next()
            .is_some_and(|(found, _)| found.starts_with(&prefix))
    }

    /// Whose an address is: an agent's before a task's, for tasks may share their machine's.
    pub(crate) fn at(&self, address: IpAddr) -> Option<Owner<'_>> {
        let mut agents = self.agent_addresses.range((address, AgentId(0))..);
        if let Some((_, id)) = agents.next().filter(|(found, _)| *found == address) {
            return self.agents.get(id).map(|agent| Owner::Agent(agent));
        }
        let from = (address, (FrameworkId(0), 0));
        let owners = self
            .addresses
            .range(from..)
            .take_while(|(found, _)| *found == address);
        owners
            .take(Entry::MAX_ADDRESSES)
            .filter_map(|(_, key)| self.entries.get(key))
            .find(|instance| self.answers_for_itself(instance))
            .map(|instance| Owner::Task(instance))
    }

    /// Whether there is any agent.
    pub(crate) fn has_agents(&self) -> bool {
        !self.agents.is_empty()
    }

    /// The masters.
    pub(crate) fn masters(&self) -> &[Master] {
        &self.masters
    }
}

/// Whose an address is.
pub(crate) enum Owner<'a> {
    Agent(&'a Agent),
    Task(&'a Instance),
}

fn first_of(framework: FrameworkId, name: &str) -> NameKey {
    NameKey {
        framework,
        name: Arc::from(name),
        rank: Rank::Ready,
        newest: Reverse(u64::MAX),
    }
}

/// A name's labels, from the tree's root down, with dots between: names below one begin with it.
pub(crate) fn tree_name(text: &str) -> Arc<str> {
    labels(text).join(".").into()
}

/// The names of an agent: its machine's, and its id's.
fn agent_names(agent: &Agent) -> [Arc<str>; 2] {
    [tree_name(&agent.hostname), agent.id.to_string().into()]
}

/// Spreads keys over all numbers, the same on every master (the finish of splitmix64).
fn place((framework, attempt): Key) -> u64 {
    let mut mixed = framework.0.rotate_left(32) ^ attempt;
    mixed = mixed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
