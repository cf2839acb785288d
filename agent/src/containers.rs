//! What tasks need of their machine before they start: images, networks, host paths, secrets, and what
//! is fetched into their sandboxes.
//!
//! For each task one job gets all of it, and is told to stop when the task has ended; what it had by
//! then is let go of. An image that a task has is not removed; a network is attached until the task's
//! release, whichever agent process sees that.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tepui_fetch::FetchConfig;
use tepui_image::{Images, ImagesConfig, Pulled};
use tepui_network::{
    Attach, Attachment, AttachmentId, Dns, NetworkError, Networks, NetworksConfig, Recovered,
};
use tepui_tree::remove_folder;
use tepui_types::container::{Container, MountSource, NamedNetwork, Network, Protocol};
use tepui_types::task::{CommandWorkload, reason};
use tepui_types::wire::agent::TaskLaunch;
use tepui_types::wire::executor::LocalNetwork;
use tepui_types::{Reason, TaskId, Workload};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agent::{Prepared, as_program};
use crate::error::AgentError;
use crate::event_loop::Event;
use crate::fetcher::Fetcher;
use crate::gpus::Gpus;
use crate::sandbox::Layout;
use crate::sandboxes::Sandboxes;

mod images;

/// How often it is told how far a pull is; each is an entry of the log.
const PROGRESS: Duration = Duration::from_secs(2);
/// How often a network that does not let go is asked again, and how long after; what is left then is
/// asked for at the agent's next start.
const DETACH_TRIES: u32 = 3;
const DETACH_PAUSE: Duration = Duration::from_secs(5);

/// What an operator allows containers, and where what they need comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainersConfig {
    /// Files and folders of the machine that may be mounted, with what is below them.
    pub host_paths: Vec<PathBuf>,
    /// Registries.
    pub images: ImagesConfig,
    /// Folders with network lists; CNI's own when empty.
    pub network_configs: Vec<PathBuf>,
    /// Folders with network plugins; CNI's own and Debian's when empty.
    pub network_plugins: Vec<PathBuf>,
    /// The folder with secrets, `ROLE/NAME` each; there are none when absent.
    pub secrets: Option<PathBuf>,
    /// What may be fetched into sandboxes.
    pub fetch: FetchConfig,
}

/// What containers of this agent need and have.
#[derive(Debug)]
pub struct Containers {
    images: Images,
    networks: Networks,
    fetcher: Arc<Fetcher>,
    layout: Layout,
    host_paths: Vec<PathBuf>,
    secrets: Option<PathBuf>,
    sandboxes: Sandboxes,
    gpus: Arc<Gpus>,
    /// Makes this agent's attachments its own among those of its machine.
    nonce: u128,
    events: mpsc::Sender<Event>,
    jobs: Mutex<HashMap<TaskId, Job>>,
}

/// What is got for one task.
#[derive(Debug, Default)]
struct Job {
    cancelled: CancellationToken,
    images: Vec<Pulled>,
}

impl Containers {
    /// Takes up what an earlier process of this agent left: what `kept` tasks have stays, all else
    /// goes.
    ///
    /// # Errors
    /// When their folders cannot be used.
    pub async fn open(
        layout: Layout,
        config: ContainersConfig,
        fetcher: Arc<Fetcher>,
        gpus: Arc<Gpus>,
        nonce: u128,
        events: mpsc::Sender<Event>,
        kept: Vec<(TaskId, Prepared)>,
    ) -> Result<Arc<Self>, AgentError> {
        let images = Images::open(layout.images(), config.images).await;
        let images = images.map_err(|error| AgentError::Containers(anyhow::Error::from(error)))?;
        let defaults = NetworksConfig::default();
        let networks = NetworksConfig {
            config_dirs: or(config.network_configs, defaults.config_dirs),
            plugin_dirs: or(config.network_plugins, defaults.plugin_dirs),
            plugin_timeout: defaults.plugin_timeout,
        };
        let networks = Networks::open(&layout.networks(), networks);
        let networks = networks.map_err(|error| AgentError::Containers(error.into()))?;
        let sandboxes = Sandboxes::open(&layout, config.fetch, fetcher.clone()).await?;
        let this = Arc::new(Self {
            images,
            networks,
            fetcher,
            layout,
            host_paths: config.host_paths,
            secrets: config.secrets,
            sandboxes,
            gpus,
            nonce,
            events,
            jobs: Mutex::default(),
        });
        this.recover(kept).await?;
        Ok(this)
    }

    async fn recover(self: &Arc<Self>, kept: Vec<(TaskId, Prepared)>) -> Result<(), AgentError> {
        let mut attached = BTreeSet::new();
        for (task, prepared) in kept {
            if prepared.network.is_some() {
                attached.extend(self.attachment_id(&task));
            }
            let images = prepared.image.iter().chain(prepared.images.values());
            let digests = images.map(|it| it.digest);
            let digests = digests.chain(prepared.program.iter().map(|it| it.image));
            let job = Job {
                images: digests.flat_map(|it| self.images.get(&it)).collect(),
                ..Job::default()
            };
            self.jobs().insert(task, job);
        }
        let this = self.clone();
        let recovered = tokio::task::spawn_blocking(move || this.networks.recover(&attached)).await;
        let Recovered { detached, failed } = match recovered {
            Ok(recovered) => recovered.map_err(|error| AgentError::Containers(error.into()))?,
            Err(error) => return Err(AgentError::Containers(error.into())),
        };
        for id in detached {
            tracing::info!(%id, "a network that an earlier agent left is detached");
        }
        for (id, error) in failed {
            let error = anyhow::Error::from(error);
            tracing::warn!(%id, "a network that an earlier agent left stays: {error:#}");
        }
        Ok(())
    }

    /// All images of this agent.
    pub fn images(&self) -> &Images {
        &self.images
    }

    /// Gets what a task's container needs; tells the loop, unless the task is released before.
    pub fn prepare(self: &Arc<Self>, launch: Arc<TaskLaunch>) {
        let cancelled = CancellationToken::new();
        let job = Job {
            cancelled: cancelled.clone(),
            images: Vec::new(),
        };
        self.jobs().insert(launch.task.clone(), job);
        let this = self.clone();
        tokio::spawn(async move {
            let result = tokio::select! {
                biased;
                () = cancelled.cancelled() => return,
                result = this.get(&launch, cancelled.clone()) => result,
            };
            if let Err(why) = &result {
                tracing::warn!(task = %launch.task, "not prepared: {why}");
            }
            // The loop is gone only when the agent ends.
            let event = Event::Prepared(launch.task.clone(), result);
            let _ = this.events.send(event).await;
        });
    }

    /// Lets go of all that a task had.
    pub fn release(self: &Arc<Self>, task: &TaskId) {
        if let Some(job) = self.jobs().remove(task) {
            job.cancelled.cancel();
        }
        let leavings = self.layout.container(task);
        let Some(id) = self.attachment_id(task) else {
            return;
        };
        let this = self.clone();
        tokio::spawn(async move {
            // What it wrote over its image: its mounts are gone with its processes.
            let _ = tokio::task::spawn_blocking(move || remove_leavings(&leavings)).await;
            for _ in 0..DETACH_TRIES {
                let (networks, attachment) = (this.clone(), id.clone());
                let detach = move || networks.networks.detach(&attachment);
                match tokio::task::spawn_blocking(detach).await {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => {
                        let error = anyhow::Error::from(error);
                        tracing::warn!(%id, "a network does not let go: {error:#}");
                    }
                    Err(error) => tracing::error!(%id, %error, "detaching broke off"),
                }
                tokio::time::sleep(DETACH_PAUSE).await;
            }
        });
    }

    /// Detaches every network: the tasks that had them have been ended. Blocks.
    pub fn detach_all(&self) {
        match self.networks.recover(&BTreeSet::new()) {
            Ok(recovered) => {
                for (id, error) in recovered.failed {
                    let error = anyhow::Error::from(error);
                    tracing::warn!(%id, "a network does not let go: {error:#}");
                }
            }
            Err(error) => {
                let error = anyhow::Error::from(error);
                tracing::warn!("networks stay attached: {error:#}");
            }
        }
    }

    async fn get(
        self: &Arc<Self>,
        launch: &Arc<TaskLaunch>,
        cancelled: CancellationToken,
    ) -> Result<Prepared, Reason> {
        let mut prepared = match container_of(launch) {
            Some((command, container)) => {
                self.contain(launch, command, container, cancelled).await?
            }
            None => Prepared::default(),
        };
        prepared.devices = match &prepared.program {
            Some(program) => self.gpus.devices(&as_program(launch, program.digest)?)?,
            None => self.gpus.devices(launch)?,
        }
        .map(Arc::new);
        let progress = Throttle::new(&self.events, &launch.task);
        self.sandboxes
            .fill(launch, |far| progress.say(|| far))
            .await?;
        Ok(prepared)
    }

    async fn contain(
        self: &Arc<Self>,
        launch: &Arc<TaskLaunch>,
        command: &CommandWorkload,
        container: &Container,
        cancelled: CancellationToken,
    ) -> Result<Prepared, Reason> {
        let mut prepared = Prepared::default();
        for container in command.containers() {
            prepared
                .host_paths
                .extend(self.check_host_paths(container)?);
            prepared
                .secrets
                .extend(self.find_secrets(launch, container)?);
        }
        self.pull_all(&mut prepared, launch, command).await?;
        if let Network::Named(network) = &container.network {
            let network = self.attach(launch, network, cancelled).await?;
            prepared.network = Some(Arc::new(network));
        }
        Ok(prepared)
    }

    /// The files of a container's secrets, which are those of the task's role.
    fn find_secrets(
        &self,
        launch: &TaskLaunch,
        container: &Container,
    ) -> Result<BTreeMap<String, String>, Reason> {
        let mut found = BTreeMap::new();
        for mount in &container.mounts {
            let MountSource::Secret(name) = &mount.source else {
                continue;
            };
            let role = launch.role.as_str();
            let path = self.secrets.as_ref().map(|dir| dir.join(role).join(name));
            let Some(path) = path.filter(|path| path.is_file()) else {
                let message = format!(
                    "this agent keeps no secret `{name}` for role `{role}`: its operator puts it into \
                     the folder that --secrets names, as {role}/{name}"
                );
                return Err(Reason::new(reason::CONTAINER_REFUSED, message));
            };
            found.insert(name.clone(), path.to_string_lossy().into_owned());
        }
        Ok(found)
    }

    /// Where the paths of the machine that it mounts really are. What leads out of the allowed folders
    /// by links is not in them.
    fn check_host_paths(&self, container: &Container) -> Result<BTreeMap<String, String>, Reason> {
        let refused = |message: String| Err(Reason::new(reason::CONTAINER_REFUSED, message));
        let mut found = BTreeMap::new();
        for mount in &container.mounts {
            let MountSource::Host(path) = &mount.source else {
                continue;
            };
            let real = match Path::new(path).canonicalize() {
                Ok(real) => real,
                Err(error) => return refused(format!("`{path}` of the agent's machine: {error}")),
            };
            if !self
                .host_paths
                .iter()
                .any(|allowed| real.starts_with(allowed))
            {
                let allowed: Vec<_> = self
                    .host_paths
                    .iter()
                    .map(|path| path.display().to_string())
                    .collect();
                let allowed = match allowed.is_empty() {
                    true => "none".to_owned(),
                    false => allowed.join(", "),
                };
                return refused(format!(
                    "`{path}` may not be mounted: this agent allows {allowed}; its operator can name \
                     more with --host-path"
                ));
            }
            found.insert(path.clone(), real.to_string_lossy().into_owned());
        }
        Ok(found)
    }

    async fn attach(
        self: &Arc<Self>,
        launch: &Arc<TaskLaunch>,
        network: &NamedNetwork,
        cancelled: CancellationToken,
    ) -> Result<LocalNetwork, Reason> {
        let failed = |message: String| Reason::new(reason::NETWORK_FAILED, message);
        let id = self.attachment_id(&launch.task);
        let id = id.ok_or_else(|| failed("the task's id names no attachment".into()))?;
        let ports = launch.resources.ports.iter();
        let attach = Attach {
            id: id.clone(),
            network: network.name.clone(),
            port_mappings: mappings(network, ports.collect()).map_err(failed)?,
            dns: Dns {
                nameservers: network
                    .nameservers
                    .iter()
                    .flat_map(|text| text.parse())
                    .collect(),
                search: network.search.clone(),
                options: Vec::new(),
            },
        };
        let this = self.clone();
        let attached = tokio::task::spawn_blocking(move || {
            // Whoever releases the task detaches after this, or has cancelled before.
            let attached = this.networks.attach(attach);
            if cancelled.is_cancelled() {
                this.networks.detach(&id)?;
            }
            attached
        });
        let attachment = match attached.await {
            Ok(attached) => attached.map_err(|error: NetworkError| {
                failed(format!("{:#}", anyhow::Error::from(error)))
            })?,
            Err(error) => return Err(failed(error.to_string())),
        };
        let hostname = container_of(launch).and_then(|(_, container)| container.hostname.clone());
        let hostname = hostname.unwrap_or_else(|| launch.task.name.to_string());
        Ok(joined(&attachment, &hostname))
    }

    fn attachment_id(&self, task: &TaskId) -> Option<AttachmentId> {
        format!("{:08x}-{task}", self.nonce as u32).parse().ok()
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<TaskId, Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells how far a task's preparation is, and not too often.
struct Throttle<'a> {
    events: &'a mpsc::Sender<Event>,
    task: &'a TaskId,
    next: Mutex<Instant>,
}

impl<'a> Throttle<'a> {
    fn new(events: &'a mpsc::Sender<Event>, task: &'a TaskId) -> Self {
        Self {
            events,
            task,
            next: Mutex::new(Instant::now() + PROGRESS),
        }
    }

    fn say(&self, how_far: impl FnOnce() -> Reason) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if now >= *next {
            *next = now + PROGRESS;
            // Where the loop is behind, the next word says more.
            let event = Event::Preparing(self.task.clone(), how_far());
            let _ = self.events.try_send(event);
        }
    }
}

fn or(paths: Vec<PathBuf>, defaults: Vec<PathBuf>) -> Vec<PathBuf> {
    if paths.is_empty() { defaults } else { paths }
}

fn container_of(launch: &TaskLaunch) -> Option<(&CommandWorkload, &Container)> {
    match &launch.spec.workload {
        Workload::Command(command) => Some((command, command.container.as_deref()?)),
        Workload::Wasm(_) => None,
    }
}

fn joined(attachment: &Attachment, hostname: &str) -> LocalNetwork {
    LocalNetwork {
        namespace: attachment.netns.to_string_lossy().into_owned(),
        resolv_conf: attachment.resolv_conf().unwrap_or_else(machines_servers),
        hosts: attachment.hosts(hostname),
        addresses: attachment.addresses().collect(),
    }
}

/// The machine's name servers, but for those that only the machine itself reaches.
fn machines_servers() -> String {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let dns = Dns::parse(&text).without_loopback();
    dns.resolv_conf().unwrap_or_default()
}

/// Which ports of the machine lead where: those that are named, and for the others the task's first
/// ports that are not.
fn mappings(
    network: &NamedNetwork,
    ports: Vec<u16>,
) -> Result<Vec<tepui_network::PortMapping>, String> {
    let named: BTreeSet<u16> = network
        .ports
        .iter()
        .filter_map(|mapping| mapping.host)
        .collect();
    if let Some(foreign) = named.iter().find(|port| !ports.contains(port)) {
        return Err(format!(
            "port {foreign} of the machine is not the task's, which has {ports:?}: leave `host` out, \
             and ask for as many ports as are mapped"
        ));
    }
    let mut free = ports.iter().copied().filter(|port| !named.contains(port));
    let mapping = |mapping: &tepui_types::container::PortMapping| {
        let host_port = mapping.host.or_else(|| free.next());
        let host_port = host_port.ok_or_else(|| {
            format!(
                "the task has {} ports, and maps {}: ask for as many (`--ports`)",
                ports.len(),
                network.ports.len()
            )
        })?;
        Ok(tepui_network::PortMapping {
            host_port,
            container_port: mapping.container,
            protocol: match mapping.protocol {
                Protocol::Tcp => tepui_network::Protocol::Tcp,
                Protocol::Udp => tepui_network::Protocol::Udp,
            },
            host_ip: None,
        })
    };
    network.ports.iter().map(mapping).collect()
}

/// Removes what a container wrote over its image, if it wrote anything.
fn remove_leavings(path: &Path) {
    match remove_folder(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            let path = path.display();
            tracing::debug!(%path, %error, "a container's files go with its sandbox");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_ports_are_the_tasks_own() {
        let network: NamedNetwork = serde_json::from_str(
            r#"{"name": "web", "ports": [{"container": 80}, {"container": 53, "host": 31001, "protocol": "udp"}]}"#,
        )
        .unwrap();
        let mapped = mappings(&network, vec![31001, 31000]).unwrap();
        let pairs: Vec<_> = mapped
            .iter()
            .map(|one| (one.host_port, one.container_port))
            .collect();
        assert_eq!(pairs, [(31000, 80), (31001, 53)]);
        assert!(
            mappings(&network, vec![31001])
                .unwrap_err()
                .contains("--ports")
        );
        assert!(
            mappings(&network, vec![31000])
                .unwrap_err()
                .contains("31001")
        );
    }
}
