//! What tasks need of their machine before they start: images, networks, host paths, secrets, volumes,
//! disks, and what is fetched into their sandboxes.
//!
//! For each task one job gets all of it, and is told to stop when the task has ended; what it had by
//! then is let go of. An image that a task has is not removed; a network is attached until the task's
//! release, whichever agent process sees that.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tepui_fetch::FetchConfig;
use tepui_image::{Images, ImagesConfig, Pulled};
use tepui_network::NetworksConfig;
use tepui_tree::remove_folder;
use tepui_types::container::{Container, MountSource, Network, Userns};
use tepui_types::task::{CommandWorkload, reason};
use tepui_types::wire::agent::TaskLaunch;
use tepui_types::wire::executor::UserRange;
use tepui_types::{Reason, TaskId, Workload};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::agent::{Prepared, as_program};
use crate::error::AgentError;
use crate::event_loop::Event;
use crate::fetcher::Fetcher;
use crate::gpus::Gpus;
use crate::sandbox::Layout;
use crate::sandboxes::Sandboxes;
use crate::task_disks::TaskDisks;
use crate::volumes::Volumes;
use attachments::Attachments;
use progress::Teller;
pub use users::UserPool;

mod attachments;
mod images;
mod progress;
mod users;

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
    /// How long one call of a network plugin may take; as long as it is usual when absent.
    pub plugin_timeout: Option<Duration>,
    /// The folder with secrets, `ROLE/NAME` each; there are none when absent.
    pub secrets: Option<PathBuf>,
    /// What may be fetched into sandboxes.
    pub fetch: FetchConfig,
    /// Users that containers may have of their own; there are none when absent.
    pub users: Option<UserPool>,
}

/// What containers of this agent need and have.
#[derive(Debug)]
pub struct Containers {
    images: Images,
    attachments: Arc<Attachments>,
    fetcher: Arc<Fetcher>,
    layout: Layout,
    host_paths: Vec<PathBuf>,
    secrets: Option<PathBuf>,
    users: Option<UserPool>,
    sandboxes: Sandboxes,
    gpus: Arc<Gpus>,
    volumes: Arc<Volumes>,
    disks: Arc<TaskDisks>,
    events: mpsc::Sender<Event>,
    jobs: Mutex<HashMap<TaskId, Job>>,
}

/// What the agent gets things by that tasks need.
#[derive(Debug)]
pub struct Means {
    /// Artifacts.
    pub fetcher: Arc<Fetcher>,
    /// GPUs.
    pub gpus: Arc<Gpus>,
    /// Persistent volumes.
    pub volumes: Arc<Volumes>,
    /// Disks of tasks.
    pub disks: Arc<TaskDisks>,
}

/// What is got for one task.
#[derive(Debug, Default)]
struct Job {
    cancelled: CancellationToken,
    images: Vec<Pulled>,
    users: Option<UserRange>,
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
        means: Means,
        nonce: u128,
        events: mpsc::Sender<Event>,
        kept: Vec<(TaskId, Prepared)>,
    ) -> Result<Arc<Self>, AgentError> {
        let Means {
            fetcher,
            gpus,
            volumes,
            disks,
        } = means;
        let images = Images::open(layout.images(), config.images).await;
        let images = images.map_err(|error| AgentError::Containers(anyhow::Error::from(error)))?;
        let defaults = NetworksConfig::default();
        let networks = NetworksConfig {
            config_dirs: or(config.network_configs, defaults.config_dirs),
            plugin_dirs: or(config.network_plugins, defaults.plugin_dirs),
            plugin_timeout: config.plugin_timeout.unwrap_or(defaults.plugin_timeout),
        };
        let attached = kept.iter().filter(|(_, had)| had.network.is_some());
        let attached: Vec<_> = attached.map(|(task, _)| task.clone()).collect();
        let attachments = Attachments::open(&layout, networks, nonce, &attached)?;
        let sandboxes = Sandboxes::open(&layout, config.fetch, fetcher.clone()).await?;
        let this = Arc::new(Self {
            images,
            attachments,
            fetcher,
            layout,
            host_paths: config.host_paths,
            secrets: config.secrets,
            users: config.users,
            sandboxes,
            gpus,
            volumes,
            disks,
            events,
            jobs: Mutex::default(),
        });
        this.hold(kept);
        Ok(this)
    }

    /// The tasks that an earlier process has prepared still have their images and users.
    fn hold(&self, kept: Vec<(TaskId, Prepared)>) {
        for (task, prepared) in kept {
            let images = prepared.image.iter().chain(prepared.images.values());
            let digests = images.map(|it| it.digest);
            let digests = digests.chain(prepared.program.iter().map(|it| it.image));
            let job = Job {
                images: digests.flat_map(|it| self.images.get(&it)).collect(),
                users: prepared.users,
                ..Job::default()
            };
            self.jobs().insert(task, job);
        }
    }

    /// Detaches every network: the tasks that had them have been ended. Blocks.
    pub fn detach_all(&self) {
        self.attachments.detach_all();
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
            ..Job::default()
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
        let (this, task) = (self.clone(), task.clone());
        tokio::spawn(async move {
            // What it wrote over its image: its mounts are gone with its processes.
            let (disks, of) = (this.disks.clone(), task.clone());
            let ended = move || {
                remove_leavings(&leavings);
                disks.end(&of);
            };
            let _ = tokio::task::spawn_blocking(ended).await;
            this.attachments.release(&task).await;
        });
    }

    async fn get(
        self: &Arc<Self>,
        launch: &Arc<TaskLaunch>,
        cancelled: CancellationToken,
    ) -> Result<Prepared, Reason> {
        self.make_volumes_ready(launch).await?;
        let mut prepared = match container_of(launch) {
            Some((command, container)) => {
                let cancelled = cancelled.clone();
                self.contain(launch, command, container, cancelled).await?
            }
            None => Prepared::default(),
        };
        if prepared.program.is_none() {
            self.disks.prepare(launch.clone(), cancelled).await?;
        }
        prepared.devices = match &prepared.program {
            Some(program) => self.gpus.devices(&as_program(launch, program.digest)?)?,
            None => self.gpus.devices(launch)?,
        }
        .map(Arc::new);
        let teller = Teller::new(&self.events, &launch.task);
        let filling = self.sandboxes.fill(launch, |far| teller.say(|| far));
        teller.while_doing(filling).await?;
        Ok(prepared)
    }

    async fn make_volumes_ready(&self, launch: &Arc<TaskLaunch>) -> Result<(), Reason> {
        if launch.volumes.is_empty() {
            return Ok(());
        }
        let (volumes, launch) = (self.volumes.clone(), launch.clone());
        let ready = tokio::task::spawn_blocking(move || volumes.make_ready(&launch.volumes));
        ready
            .await
            .unwrap_or_else(|error| Err(Reason::new(reason::VOLUME_UNAVAILABLE, error.to_string())))
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
        prepared.users = match container.userns {
            Userns::Host => None,
            Userns::Private => Some(self.lend_users(&launch.task)?),
        };
        self.pull_all(&mut prepared, launch, command).await?;
        if let Network::Named(network) = &container.network {
            let network = self.attachments.attach(launch, network, cancelled);
            let network = network.await?;
            prepared.network = Some(Arc::new(network));
        }
        Ok(prepared)
    }

    /// Users that no other task has, until this one is released.
    fn lend_users(&self, task: &TaskId) -> Result<UserRange, Reason> {
        let Some(pool) = self.users else {
            let message = "this agent has no users to lend to containers: its operator sets some aside \
                           with --userns-range; or leave out `userns`";
            return Err(Reason::new(reason::CONTAINER_REFUSED, message));
        };
        let mut jobs = self.jobs();
        let free = pool.free(jobs.values().filter_map(|job| job.users));
        let Some(free) = free else {
            let message = format!(
                "all {} parts of the users that this agent lends to containers are lent: wait for another \
                 task's end, or for its operator to set more aside (--userns-range {pool})",
                pool.parts()
            );
            return Err(Reason::new(reason::AGENT_FULL, message));
        };
        // Of a task that is released already nobody sees the result.
        if let Some(job) = jobs.get_mut(task) {
            job.users = Some(free);
        }
        Ok(free)
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

    fn jobs(&self) -> MutexGuard<'_, HashMap<TaskId, Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
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
