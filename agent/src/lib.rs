//! The agent of a Tepui cluster: runs a machine's share of the tasks.
//!
//! [`run`] takes the folder, replays the journal, finds the executors of an
//! earlier process and then serves the master until it is told to stop. Tasks
//! run in executor processes that outlive the agent; nothing that ends here
//! ends a task.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt as _;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use tepui_folder::{FolderError, Format, Hold};
use tepui_types::agent::AgentInfo;
use tepui_types::{Bytes, TaskId};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agent::{Action, Agent, ExecutorId};
use crate::beside::Beside;
use crate::checkpoint::Journal;
use crate::checks::Checker;
use crate::config::Config;
use crate::containers::{Containers, Means};
use crate::error::AgentError;
use crate::event_loop::{EVENTS, EventLoop, Parts};
use crate::executor::{Supervisor, Template};
use crate::fetcher::Fetcher;
use crate::gpus::{Gpus, Guard};
use crate::identity::{Identity, random_u128};
use crate::master::Dialer;
use crate::masters::Masters;
use crate::metrics::Metrics;
use crate::pressure::Pressure;
use crate::sandbox::Layout;
use crate::sizes::{DiskUse, Keeping, Sizes};
use crate::task_disks::TaskDisks;
use crate::usage::Gauge;
use crate::volumes::Volumes;

pub mod agent;
pub mod beside;
pub mod cgroups;
pub mod checkpoint;
pub mod checks;
pub mod config;
pub mod contact;
pub mod containers;
pub mod error;
pub mod event_loop;
pub mod executor;
pub mod fetcher;
pub mod frames;
pub mod gc;
pub mod gpus;
pub mod http;
pub mod identity;
pub mod master;
pub mod masters;
pub mod metrics;
pub mod pools;
pub mod ports;
pub mod pressure;
pub mod resources;
pub mod sandbox;
pub mod sandboxes;
pub mod sizes;
pub mod streams;
pub mod task_disks;
pub mod uptime;
pub mod usage;
pub mod volumes;

/// The layout of the data folder that this release writes.
const FORMAT: Format = Format {
    program: "tepui-agent",
    version: 1,
};
/// How long a connection to the master may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a folder may be held by what a killed agent left, and how often it
/// is asked for meanwhile.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// Runs an agent until `stop`. Its tasks go on.
///
/// # Errors
/// Whatever keeps the agent from starting or from going on.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), AgentError> {
    let layout = Layout::new(config.dir.clone());
    executor::check_programs(&config.executors)?;
    let _hold = take_folder(&layout).await?;
    layout.create()?;
    remove_stale_address(&layout)?;
    let identity = Identity::load_or_create(&layout)?;
    let cgroup = cgroups::parent(&layout, &identity)?;
    let layout = layout
        .with_cgroup(cgroup)
        .with_disks(config.special.paths(), identity.nonce);
    let gpu_config = config.gpus;
    let gpus = tokio::task::spawn_blocking(move || Gpus::find(gpu_config)).await;
    // One that breaks off is as one that finds nothing.
    let gpus = Arc::new(gpus.unwrap_or_default());
    let guard = Guard::new(&gpus, layout.cgroup().is_some()).map(Arc::new);
    let layout = layout.with_guard(guard.is_some());
    let is_set_aside = config.sandbox_sizes == Keeping::Enforced;
    // A task that was given all of the disk could not have it: some of it stays free.
    let headroom = match is_set_aside {
        true => volumes::headroom(&config.dir),
        false => Bytes(0),
    };
    let found = gpus.resources();
    let resources = config.resources.complete(&config.dir, headroom, found)?;
    let address = match config.address {
        Some(address) => Some(address),
        None => address_towards(&config.masters).await,
    };
    let mut attributes = gpus.attributes();
    attributes.extend(config.attributes);
    let info = AgentInfo {
        address,
        hostname: config.hostname,
        resources: config.special.lay(resources)?,
        attributes: attributes.into(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        full: None,
    };
    info.validate().map_err(AgentError::Config)?;
    tracing::info!(resources = %info.resources, dir = %layout.dir().display(), "starting");

    fetcher::clear_drafts(&layout);
    let Restored {
        agent,
        journal,
        boot_id,
        first,
    } = restore(&layout, config.sandbox_sizes)?;
    let metrics = Arc::new(Metrics::new());
    let (listener, address) = listen(config.listen).await?;
    let client = reqwest::Client::builder();
    let client = tepui_lifeline::watched_and_given_up(client)
        // Masters speak plain HTTP: a machine without certificates is as good as any.
        .tls_certs_only([])
        .no_proxy()
        .default_headers(credentials(config.token.as_deref())?)
        .connect_timeout(CONNECT_TIMEOUT)
        .build()
        .map_err(|error| AgentError::System("set up HTTP", std::io::Error::other(error)))?;
    let masters = Arc::new(Masters::new(config.masters));
    let dialer = Arc::new(Dialer::new(client.clone(), masters.clone()));
    let (events, inbox) = mpsc::channel(EVENTS);
    let supervisor = Supervisor::new(
        layout.clone(),
        Template {
            programs: config.executors,
            output_limit: config.output_limit,
            privileges: config.privileges,
            runtime: config.runtime,
            guard,
        },
        identity.nonce,
        events.clone(),
    );
    let fetcher = Arc::new(Fetcher::new(
        client,
        masters,
        layout.clone(),
        metrics.clone(),
    ));

    let (of, sizes) = (layout.clone(), config.volume_sizes);
    let volumes = tokio::task::spawn_blocking(move || Volumes::open(&of, sizes)).await;
    let volumes = volumes.map_err(|error| AgentError::System("open volumes", error.into()))??;
    let (of, sizes) = (layout.clone(), config.sandbox_sizes);
    let living: HashSet<TaskId> = agent.living_ids().cloned().collect();
    let disks = tokio::task::spawn_blocking(move || TaskDisks::open(&of, sizes, &living)).await;
    let disks = disks.map_err(|error| AgentError::System("open tasks' disks", error.into()))??;
    tokio::spawn(disks.clone().tend(events.clone()));
    let kept = agent.prepared();
    let kept = kept.map(|(task, prepared)| (task.clone(), prepared.clone()));
    let containers = Containers::open(
        layout.clone(),
        config.containers,
        Means {
            fetcher: fetcher.clone(),
            gpus,
            volumes: volumes.clone(),
            disks: disks.clone(),
        },
        identity.nonce,
        events.clone(),
        kept.collect(),
    );
    let containers = containers.await?;

    let beside = Beside::new(events.clone());
    let checker = Checker::new(layout.clone(), events.clone(), beside.clone());

    let listener = listener.tap_io(|connection| {
        if let Err(error) = tepui_lifeline::watch(connection) {
            tracing::debug!(%error, "a connection is not watched");
        }
    });
    let serve = axum::serve(listener, http::router(metrics.clone()));
    tokio::spawn(async move { serve.await });
    let (disk, strain) = watch::channel(tepui_pressure::Strain::Calm);
    tokio::spawn(gc::run(
        layout.clone(),
        containers.images().clone(),
        disks.clone(),
        strain,
        events.clone(),
    ));
    tokio::spawn(volumes::health::watch(
        volumes.clone(),
        metrics.clone(),
        events.clone(),
    ));
    let disk_use = DiskUse::default();
    let gauge = Gauge {
        layout: layout.clone(),
        disk_use: disk_use.clone(),
        disks: disks.clone(),
        events: events.clone(),
    };
    let sizes = Sizes {
        layout: layout.clone(),
        volumes: volumes.clone(),
        sandboxes: config.sandbox_sizes,
        disks: disks.clone(),
        disk_use: disk_use.clone(),
        events: events.clone(),
    };
    tokio::spawn(sizes.run());
    let pressure = Pressure {
        layout: layout.clone(),
        lent: info.resources.clone(),
        slack: config.special.slack(),
        disk,
        disk_use,
        events: events.clone(),
    };
    tokio::spawn(pressure.run());
    tokio::spawn(ports::run(
        config.task_ports,
        info.resources.clone(),
        events.clone(),
    ));
    let (to_master, events_of_master) = (dialer.clone(), events.clone());
    tokio::spawn(async move { master::run(&to_master, &events_of_master).await });
    let parts = Parts {
        agent,
        journal,
        boot_id,
        identity,
        process: random_u128()?,
        info,
        layout,
        address,
        supervisor,
        fetcher,
        containers,
        volumes,
        disks,
        beside,
        checker,
        gauge,
        dialer,
        metrics,
    };
    EventLoop::new(parts, events).run(inbox, stop, first).await
}

/// The address of this machine that masters see: that of a socket which would send to one of them.
async fn address_towards(masters: &[String]) -> Option<IpAddr> {
    for url in masters {
        let authority = url.split("://").nth(1)?;
        let Ok(addresses) = tokio::net::lookup_host(authority).await else {
            continue;
        };
        for master in addresses {
            let any: SocketAddr = match master {
                SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            // Nothing is sent: the system only chooses where from.
            if let Ok(socket) = tokio::net::UdpSocket::bind(any).await
                && socket.connect(master).await.is_ok()
                && let Ok(ours) = socket.local_addr()
            {
                return Some(ours.ip());
            }
        }
    }
    None
}

/// What every request to a master carries.
fn credentials(token: Option<&str>) -> Result<HeaderMap, AgentError> {
    let mut headers = HeaderMap::new();
    if let Some(token) = token {
        let bearer = HeaderValue::try_from(format!("Bearer {token}"));
        let mut bearer = bearer.map_err(|_| AgentError::Config("the token is no text".into()))?;
        bearer.set_sensitive(true);
        headers.insert(AUTHORIZATION, bearer);
    }
    Ok(headers)
}

/// Takes the folder. Where an agent was killed while it forked, its child holds
/// the lock until it executes its program, so one that is taken is asked for
/// again for a moment.
async fn take_folder(layout: &Layout) -> Result<Hold, FolderError> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match Hold::take(layout.dir(), FORMAT) {
            Err(FolderError::Locked { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(LOCK_RETRY).await;
            }
            result => return result,
        }
    }
}

/// An address of an earlier process would tell scripts that this one is ready.
fn remove_stale_address(layout: &Layout) -> Result<(), FolderError> {
    let path = layout.address();
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(FolderError::io("remove", &path, source))
        }
        _ => Ok(()),
    }
}

/// Whether the tasks of the last process were ended with it. Told once: those of this one are not.
fn take_stop(layout: &Layout) -> Result<bool, FolderError> {
    let path = layout.stopped();
    match std::fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(FolderError::io("remove", &path, source)),
    }
}

async fn listen(address: std::net::SocketAddr) -> Result<(TcpListener, String), AgentError> {
    let failed = |source| AgentError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, format!("http://{bound}")))
}

struct Restored {
    agent: Agent,
    journal: Journal,
    boot_id: String,
    first: Vec<Action>,
}

/// What the folder remembers, in a fresh journal.
fn restore(layout: &Layout, sandboxes: Keeping) -> Result<Restored, AgentError> {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_err(|source| AgentError::System("read the machine's boot id", source))?;
    let boot_id = boot_id.trim().to_owned();
    let records = Journal::read(&layout.checkpoint())?;
    let (mut agent, last_boot) = Agent::restore(layout.clone(), records);
    if take_stop(layout)? {
        agent.on_stopped();
    }
    agent.keep_disks(sandboxes == Keeping::Enforced);
    // Where nothing is known, the time without a word begins now.
    let contact = contact::read(layout, &boot_id).filter(|ms| *ms <= uptime::now_ms());
    agent.on_contact(contact.unwrap_or_else(uptime::now_ms));
    let executors: Vec<ExecutorId> = agent.executor_ids().collect();
    executor::clear_strangers(layout, |id| executors.contains(&id));
    if executors.is_empty() {
        // What is in the agent's cgroup belongs to no task that is known.
        cgroups::clear(layout.cgroup().map(str::to_owned));
    }
    let mut first = Vec::new();
    if last_boot.as_ref().is_some_and(|last| *last != boot_id) {
        let exits = executors
            .into_iter()
            .map(|id| (id, executor::read_exits(&layout.executor(id), id)))
            .collect();
        agent.on_reboot(&mut first, exits);
        tracing::warn!("the machine was restarted: tasks that left no word are gone");
    } else {
        agent.on_restart(&mut first);
    }
    // The fresh journal says what those actions would record.
    first.retain(|action| !matches!(action, Action::Record(_)));
    let journal = Journal::create(&layout.checkpoint(), &agent.records(&boot_id))?;
    Ok(Restored {
        agent,
        journal,
        boot_id,
        first,
    })
}
