//! The master: the shell around the pure core.
//!
//! Files in the order of flow: requests and agents come in ([`http`],
//! [`agents`]), become proposals ([`proposals`]), go through the replicated log
//! ([`raft`], [`storage`]) into the state ([`view`]); what follows from them
//! goes to the leader's loop ([`leader`]), to frameworks ([`frameworks`]), and
//! to agents again. [`Running`] wires these parts and holds nothing of its own;
//! [`run`] is a process around it.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use axum::serve::ListenerExt as _;
use tepui_discovery::{DnsListener, DnsServer};
use tepui_types::NodeId;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub mod agents;
pub mod artifacts;
pub mod backup;
pub mod clock;
pub mod config;
pub mod discovery;
pub mod error;
pub mod feed;
pub mod folder;
pub mod frameworks;
pub mod history;
pub mod http;
pub mod identity;
pub mod leader;
pub mod mailbox;
pub mod masters;
pub mod metrics;
pub mod proposals;
pub mod raft;
pub mod storage;
pub mod view;

use agents::Sessions;
use artifacts::Artifacts;
use artifacts::source::{self, Source};
use clock::Clock;
use config::Config;
use discovery::Discovery;
use error::RaftError;
use feed::Feed;
use folder::Folder;
use frameworks::{Compiler, Frameworks, readiness};
use history::History;
use http::door::Door;
use identity::Identities;
use leader::offers::Offers;
use mailbox::Mailbox;
use masters::candidacy::Candidacy;
use masters::founding::{self, Founder};
use masters::peers::Peers;
use masters::presence::Presence;
use masters::rejoin;
use metrics::Metrics;
use proposals::Proposals;
use raft::{Leadership, Log, LogHandle, LogThread};
use storage::Storage;
use view::View;

/// The parts of a running master.
pub struct Master {
    /// What the operator has configured.
    pub config: Config,
    /// This master.
    pub node: NodeId,
    /// Where others reach it.
    pub url: String,
    /// The way to other masters.
    pub peers: Peers,
    /// Which processes those are.
    pub presence: Presence,
    /// The log, for other masters and operators.
    pub log: LogHandle,
    /// The database.
    pub storage: Storage,
    /// Who callers are.
    pub identities: Identities,
    /// The way into the log.
    pub proposals: Proposals,
    /// What leading goes by.
    pub clock: Clock,
    /// The applied state.
    pub view: View,
    /// Events for watchers.
    pub feed: Feed,
    /// What applied commands leave for the leader.
    pub mailbox: Mailbox,
    /// Ended tasks that the state has forgotten.
    pub history: History,
    /// Bytes by digest.
    pub artifacts: Artifacts,
    /// Where other masters' artifacts are.
    pub source: Source,
    /// Outstanding offers.
    pub offers: Offers,
    /// Connected agents.
    pub sessions: Sessions,
    /// Running schedulers.
    pub frameworks: Frameworks,
    /// What runs where, by name.
    pub discovery: Discovery,
    /// Whether this master leads.
    pub leadership: watch::Receiver<Leadership>,
    /// What Prometheus sees.
    pub metrics: Metrics,
    /// What an operator should know of agents that are silent.
    pub silence: agents::liveness::Warning,
    /// What an operator should know of this master's set-up.
    pub warnings: Vec<String>,
}

/// Runs a master until SIGTERM or SIGINT.
pub fn run(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers())
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    runtime.block_on(serve(config))
}

/// Threads for connections and the leader's loop. The log, guests and the database have their own, and
/// threads that wake each other to share little work take time from those.
fn workers() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    processors.div_ceil(2)
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let mut signals = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let mut running = tokio::select! {
        running = Running::start(config) => running?,
        _ = signals.0.recv() => return Ok(()),
        _ = signals.1.recv() => return Ok(()),
    };
    let ended = tokio::select! {
        _ = signals.0.recv() => Ok(()),
        _ = signals.1.recv() => Ok(()),
        ended = running.ended() => ended,
    };
    tracing::info!("stopping");
    running.stop().await?;
    ended
}

/// A master that serves, in whatever process; it stops serving when this is dropped.
pub struct Running {
    /// Its parts.
    pub master: Arc<Master>,
    log: LogThread,
    /// Aborted when they are dropped.
    tasks: JoinSet<()>,
    /// Where names are asked for; ends when it is dropped.
    dns: Option<DnsServer>,
    // Last, so that nobody else has the folder before everything else is gone.
    _folder: Folder,
}

impl Running {
    /// Starts a master. This returns once it has found its place in a cluster, which for one that
    /// waits for others may never be.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        // The folder first: it says who this is, and that no other master is.
        let mut folder = Folder::open(&config.dir)?;
        let listener = bind(&config).await?;
        // Who asks there meanwhile is answered late: it may take long where a master waits for others.
        let dns = match config.dns() {
            Some(dns) => Some((DnsListener::bind(&dns).await?, dns)),
            None => None,
        };
        let address = listener
            .local_addr()
            .context("failed to read the bound address")?;
        let url = config.url(address)?;
        // Peers are answered while this master still finds its place among them.
        let candidacy = Candidacy::default();
        let shared_token = config.token_file.as_deref().map(folder::shared_token);
        let shared_token = shared_token.transpose()?;
        let identities = Identities::new(
            shared_token.as_deref().unwrap_or(folder.token()),
            shared_token.is_some(),
        );
        let peers = Peers::new(shared_token.as_deref())?;
        let waiting = http::candidate::router(candidacy.clone(), identities.clone());
        let door = Door::new(waiting);
        let listener = listener.tap_io(prepare);
        let service = door.service();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            if let Err(error) = axum::serve(listener, service).await {
                tracing::error!(%error, "the server has stopped");
            }
        });
        let (master, log) = open(config, &mut folder, url, &candidacy, identities, peers).await?;
        door.open(http::router(master.clone()));
        tasks.spawn(leader::follow_leadership(master.clone()));
        let (artifacts, view, feed) = (&master.artifacts, &master.view, &master.feed);
        let keeping_up = source::keep_up(artifacts.clone(), view.clone(), feed.clone());
        tasks.spawn(keeping_up);
        let frameworks = master.frameworks.clone();
        tasks.spawn(readiness::keep_ready(
            frameworks,
            view.clone(),
            feed.clone(),
        ));
        tasks.spawn(discovery::keep(master.clone()));
        let others = master.config.way.addresses().to_vec();
        tasks.spawn(masters::moved::look_for_others(master.clone(), others));
        let place = folder.path().to_owned();
        tasks.spawn(announce(master.clone(), address, place));
        let dns = match dns {
            Some((listener, config)) => Some(master.discovery.serve(listener, &config).await),
            None => None,
        };
        Ok(Self {
            master,
            log,
            tasks,
            dns,
            _folder: folder,
        })
    }

    /// Where DNS questions are answered.
    pub fn dns_addresses(&self) -> &[SocketAddr] {
        self.dns.as_ref().map_or(&[], DnsServer::addresses)
    }

    /// Waits until the log ends by itself, upon which the master is of no more use.
    pub async fn ended(&mut self) -> anyhow::Result<()> {
        let ended = self.log.ended().await;
        ended.context("the replicated log stopped")
    }

    /// Stops it; what it has acknowledged is on the disk.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.tasks.abort_all();
        let mut log = self.log;
        tokio::task::spawn_blocking(move || log.stop())
            .await
            .context("the log did not stop")
    }
}

async fn bind(config: &Config) -> anyhow::Result<TcpListener> {
    TcpListener::bind(config.listen).await.with_context(|| {
        format!(
            "failed to listen on {}: choose another address with --listen, or port 0 for any free \
             one",
            config.listen
        )
    })
}

/// Small frames go out at once: with Nagle's algorithm each effect would wait
/// for the acknowledgement of the one before. And who goes without a word is found out.
fn prepare(connection: &mut TcpStream) {
    if let Err(error) = connection.set_nodelay(true) {
        tracing::debug!(%error, "a connection keeps Nagle's algorithm");
    }
    if let Err(error) = tepui_lifeline::watch(connection) {
        tracing::debug!(%error, "a connection is not watched");
    }
}

async fn open(
    config: Config,
    folder: &mut Folder,
    url: String,
    candidacy: &Candidacy,
    identities: Identities,
    peers: Peers,
) -> anyhow::Result<(Arc<Master>, LogThread)> {
    let artifacts = Artifacts::new(&folder.artifacts(), config.max_artifact_bytes)?;
    let founder = Founder {
        url: &url,
        peers: &peers,
        candidacy,
    };
    let opened = match open_log(&config, folder, &founder).await {
        Err(damage) if config.rejoin && damage.is_damage() => {
            let error = &damage as &dyn std::error::Error;
            tracing::error!(error, "taking everything anew from the other masters");
            rejoin::rejoin(folder, &config.way, &founder).await?;
            open_log(&config, folder, &founder).await
        }
        opened => opened,
    };
    let (storage, log, thread) = opened?;
    let source = Source::new(log.identity.node, log.view.clone(), peers.clone());
    artifacts.follow(source.clone());
    let offers = Offers::new(log.clock.clone());
    let frameworks = Frameworks::new(
        &log.proposals,
        &log.clock,
        &log.view,
        &offers,
        &artifacts,
        frameworks::Options {
            code: folder.code(),
            compiler: Compiler::default(),
            discard_instances: config.discard_instances,
        },
    )?;
    let warnings = match config.insecure_listen {
        true => vec![format!(
            "this master listens on {} without encryption: whoever can read the network can read \
             its token",
            config.listen
        )],
        false => Vec::new(),
    };
    warnings
        .iter()
        .for_each(|warning| tracing::warn!("{warning}"));
    let master = Master {
        node: log.identity.node,
        url,
        peers,
        presence: Presence::default(),
        log: log.handle,
        storage,
        identities,
        proposals: log.proposals,
        clock: log.clock,
        view: log.view,
        feed: log.feed,
        mailbox: log.mailbox,
        history: log.history,
        artifacts,
        source,
        offers,
        sessions: Sessions::default(),
        frameworks,
        discovery: Discovery::new(config.zone.clone()),
        leadership: log.leadership,
        metrics: Metrics::default(),
        silence: agents::liveness::Warning::default(),
        warnings,
        config,
    };
    Ok((Arc::new(master), thread))
}

/// Opens the folder's database, which gets its place in a cluster first if it has none.
async fn open_log(
    config: &Config,
    folder: &mut Folder,
    founder: &Founder<'_>,
) -> Result<(Storage, Log, LogThread), RaftError> {
    let storage = Storage::open(&folder.database())?;
    let identity = founding::identify(folder, &storage, &config.way, founder).await?;
    let defaults = raft::Options::default();
    let options = raft::Options {
        snapshot_entries: config.snapshot_entries,
        snapshot_slack: defaults.snapshot_slack.min(config.snapshot_entries),
        ..defaults
    };
    let peers = Some(founder.peers.clone());
    let (log, thread) = raft::start(storage.clone(), identity, founder.url, options, peers)?;
    Ok((storage, log, thread))
}

/// Says where the master is, once it can answer.
async fn announce(master: Arc<Master>, address: SocketAddr, folder: std::path::PathBuf) {
    let mut leadership = master.leadership.clone();
    let knows_leader =
        |leadership: &Leadership| !matches!(leadership, Leadership::Follower { leader: None });
    if leadership.wait_for(knows_leader).await.is_err() {
        return;
    }
    let url = format!("http://{address}");
    if let Err(error) = write_address(&folder, &url) {
        tracing::error!(%error, "failed to write the address file");
    }
    // A closed pipe is no reason to stop.
    writeln!(std::io::stdout(), "tepui-master listens on {url}").ok();
    tracing::info!(%url, cluster = %master.view.load().cluster, node = %master.node, "ready");
    masters::moved::tell(&master).await;
}

fn write_address(folder: &Path, url: &str) -> std::io::Result<()> {
    let unfinished = folder.join("address.new");
    std::fs::write(&unfinished, format!("{url}\n"))?;
    std::fs::rename(unfinished, folder.join("address"))
}
