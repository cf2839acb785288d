//! Service discovery: a directory of what runs where, kept after the state and asked by DNS and HTTP.
//!
//! Every master keeps its own, from what it has applied: it answers also while no leader is known.
//! States share what did not change, so what has is found at the cost of the change.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use imbl::ordmap::DiffItem;
use tepui_cluster::State;
use tepui_cluster::state::agents::Agent;
use tepui_cluster::state::tasks::Task;
use tepui_discovery::{
    Directory, DnsConfig, DnsListener, DnsServer, Entry, Port, Protocol, Published, Zone,
};
use tepui_types::container::Network;
use tepui_types::{NodeId, TaskSpec, TaskState, Workload};
use tokio::sync::watch;

use crate::Master;
use crate::raft::Leadership;

/// The label by which a task says of which service it is an instance.
pub const SERVICE: &str = "service";
/// The label that names a task's ports, in their order and with commas.
pub const PORT_NAMES: &str = "port-names";
/// How often it is published at most: nobody's answer is older, and a burst of changes costs one.
const PAUSE: Duration = Duration::from_millis(20);

/// The directory, and how names are made of it.
pub struct Discovery {
    newest: Arc<Published>,
    /// Whether it is that of a state yet.
    is_filled: watch::Sender<bool>,
    /// Below which domain.
    pub zone: Zone,
}

impl Discovery {
    /// An empty one.
    pub fn new(zone: Zone) -> Self {
        Self {
            newest: Arc::new(Published::new()),
            is_filled: watch::Sender::new(false),
            zone,
        }
    }

    /// The newest directory. After a start it is waited for, some seconds where there are a million tasks:
    /// an empty one would say that there is nothing.
    pub async fn directory(&self) -> Arc<Directory> {
        let mut is_filled = self.is_filled.subscribe();
        // Its sender is as old as this.
        is_filled.wait_for(|is_filled| *is_filled).await.ok();
        self.newest.load()
    }

    /// Answers DNS questions from it. It has to be kept already.
    pub async fn serve(&self, listener: DnsListener, config: &DnsConfig) -> DnsServer {
        self.directory().await;
        listener.serve(config, self.newest.clone())
    }
}

/// Keeps the directory after the state, as long as this master lives.
pub async fn keep(master: Arc<Master>) {
    let mut directory = Directory::new();
    let mut known = Arc::new(State::new(master.view.load().cluster));
    let mut leadership = master.leadership.clone();
    loop {
        let applied = master.view.applied();
        let state = master.view.load();
        if !Arc::ptr_eq(&known, &state) {
            let (before, now) = (known, state.clone());
            // At a start that is all that there is: no request waits behind it.
            let followed = tokio::task::spawn_blocking(move || {
                follow(&mut directory, &before, &now);
                directory
            });
            let Ok(followed) = followed.await else {
                tracing::error!("the directory of services is not kept any more");
                return;
            };
            (directory, known) = (followed, state);
        }
        let state = &known;
        directory.set_masters(masters(state, master.node, *leadership.borrow_and_update()));
        master.discovery.newest.publish(&directory);
        master.discovery.is_filled.send_replace(true);
        tokio::time::sleep(PAUSE).await;
        tokio::select! {
            () = master.view.wait_for(applied + 1) => {}
            changed = leadership.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// What has changed since `before` is changed in the directory.
fn follow(directory: &mut Directory, before: &State, state: &State) {
    for change in before.agents.diff(&state.agents) {
        match change {
            // Its tasks are new as well.
            DiffItem::Add(_, agent) => {
                directory.put_agent(agent_of(agent));
            }
            DiffItem::Update {
                new: (_, agent), ..
            } => {
                directory.put_agent(agent_of(agent));
                for task in agent.tasks.iter().filter_map(|task| state.tasks.get(task)) {
                    put(directory, state, task);
                }
            }
            DiffItem::Remove(id, _) => {
                directory.remove_agent(*id);
            }
        }
    }
    for change in before.tasks.diff(&state.tasks) {
        match change {
            DiffItem::Add(_, task) | DiffItem::Update { new: (_, task), .. } => {
                put(directory, state, task);
            }
            DiffItem::Remove(_, task) => {
                directory.remove(&task.id);
            }
        }
    }
}

fn put(directory: &mut Directory, state: &State, task: &Task) {
    match entry_of(state, task) {
        Some(entry) => directory.put(entry),
        None => directory.remove(&task.id),
    };
}

fn agent_of(agent: &Agent) -> tepui_discovery::Agent {
    tepui_discovery::Agent {
        id: agent.id,
        hostname: agent.info.hostname.clone(),
        addresses: agent.info.address.into_iter().collect(),
    }
}

/// None of what has ended.
fn entry_of(state: &State, task: &Task) -> Option<Entry> {
    if task.status.state.is_terminal() {
        return None;
    }
    let agent = state.agents.get(&task.agent)?;
    let spec = state.spec(&task.spec)?;
    let signs = task.status.signs.as_deref();
    let own = signs.map_or(&[][..], |signs| signs.addresses.as_slice());
    let addresses: Vec<IpAddr> = match own.is_empty() {
        true => agent.info.address.into_iter().collect(),
        false => own.to_vec(),
    };
    Some(Entry {
        id: task.id.clone(),
        name: task.id.name.to_string(),
        framework: task.framework_name.to_string(),
        service: spec.labels.get(SERVICE).cloned(),
        agent: task.agent,
        hostname: agent.info.hostname.clone(),
        addresses,
        ports: ports_of(spec, task),
        running: task.status.state == TaskState::Running,
        ready: signs.is_none_or(|signs| signs.is_ready()),
    })
}

/// Where a task listens: on what its network maps where that is its own, else on its machine's ports.
fn ports_of(spec: &TaskSpec, task: &Task) -> Vec<Port> {
    let network = match &spec.workload {
        Workload::Command(command) => command.container.as_ref().map(|it| &it.network),
        Workload::Wasm(_) => None,
    };
    let mapped = match network {
        Some(Network::Named(network)) => Some(&network.ports),
        Some(Network::Host | Network::None) | None => None,
    };
    let numbers: Vec<(u16, Protocol)> = match mapped {
        Some(mapped) => mapped
            .iter()
            .map(|port| (port.container, port.protocol))
            .collect(),
        None => {
            let ports = task.resources.ports.iter();
            ports.map(|port| (port, Protocol::Tcp)).collect()
        }
    };
    let names = spec.labels.get(PORT_NAMES);
    let mut names = names.iter().flat_map(|names| names.split(','));
    let mut name = || names.next().map(str::trim).filter(|name| !name.is_empty());
    let port = |(number, protocol)| Port {
        number,
        name: name().map(str::to_owned),
        protocol,
    };
    numbers.into_iter().map(port).collect()
}

fn masters(state: &State, own: NodeId, leadership: Leadership) -> Vec<tepui_discovery::Master> {
    let leads = |node| match leadership {
        Leadership::Leader { .. } => node == own,
        Leadership::Follower { leader } => leader == Some(node),
    };
    let masters = state.masters.iter().filter_map(|(node, master)| {
        let authority = master.url.strip_prefix("http://")?;
        // One that is known by a name alone is not found here.
        let address: std::net::SocketAddr = authority.parse().ok()?;
        Some(tepui_discovery::Master {
            addresses: vec![address.ip()],
            port: address.port(),
            leads: leads(*node),
        })
    });
    masters.collect()
}
