//! `tepui dev`: a whole cluster on this machine, for as long as it is wanted.
//!
//! Master and agents are child processes with a folder and a log each. They
//! are started side by side, watched, and started again when they die, which
//! is also a way to see that a cluster does not mind. Whatever ends this
//! command ends all of it: agents, tasks, master. What the cluster knew stays in
//! the folder for the next time.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use futures::future::{join_all, select_all, try_join_all};
use tepui_cli::leftovers;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::client::Client;
use crate::output;

use folder::Folder;
use part::Part;

mod folder;
mod frameworks;
mod machine;
mod part;

/// Where `tepui` looks for a master when it is told nothing.
const DEFAULT_PORT: u16 = 5050;
/// How long master and agents may take to serve. Far above what they need, for
/// loaded machines.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a part may take to end by itself.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a part that dies is started again.
const MAX_RESTARTS: u32 = 5;
/// A framework's memory is dropped after one turn in so many, so that an author
/// who forgot to store something learns it here.
const DISCARD_INSTANCES: &str = "20";
/// Each agent has a thousand ports of its own above 31000, below 65536.
const MAX_AGENTS: i64 = 32;

/// What cluster to start.
#[derive(Debug, Args)]
pub struct Options {
    /// How many masters; this release runs one
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1), value_name = "N")]
    masters: u16,
    /// How many agents
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=MAX_AGENTS), value_name = "N")]
    agents: u16,
    /// Where everything is kept [default: $XDG_STATE_HOME/tepui/dev]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The master's port on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = DEFAULT_PORT, value_name = "PORT")]
    port: u16,
    /// Every *.wasm in it is deployed as a framework [default: beside this program]
    #[arg(long, value_name = "DIR")]
    frameworks: Option<PathBuf>,
}

/// Starts a cluster, keeps it up until Ctrl-C, and stops it.
pub async fn run(options: Options) -> Result<()> {
    let begun = Instant::now();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut cluster = Cluster::prepare(&options)?;
    let result = tokio::select! {
        result = cluster.serve(begun) => result,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = hangup.recv() => Ok(()),
    };
    // A failure is worth more than whatever goes wrong in cleaning up after it.
    let stopped = cluster.stop().await;
    result.and(stopped)?;
    let folder = cluster.folder.path().display();
    output::note(&format!(
        "tepui: the cluster is stopped; {folder} has what it knew"
    ));
    Ok(())
}

/// The parts of a cluster, started or not.
struct Cluster {
    folder: Folder,
    frameworks: PathBuf,
    master: Part,
    agents: Vec<Part>,
    programs: PathBuf,
}

impl Cluster {
    /// Checks all that can be checked beforehand, and ends what an earlier
    /// `tepui dev` of this folder left behind.
    fn prepare(options: &Options) -> Result<Self> {
        let here = std::env::current_exe().context("failed to find this program's own file")?;
        let programs = here
            .parent()
            .context("this program has no folder")?
            .to_owned();
        let frameworks = match &options.frameworks {
            Some(frameworks) if !frameworks.is_dir() => {
                bail!("{} is not a folder of frameworks", frameworks.display())
            }
            Some(frameworks) => frameworks.clone(),
            None => programs.join("frameworks"),
        };
        let folder = Folder::open(options.dir.clone())?;
        let listen = format!("127.0.0.1:{}", options.port);
        // An address in use by another master would take our agents in.
        if let Err(error) = TcpListener::bind(&listen) {
            bail!(
                "port {} is not free ({error}): give another with --port, or --port 0 for any",
                options.port
            );
        }
        let mut master = Part::new("master", program(&programs, "tepui-master")?, &folder);
        master.set_args([
            "--dir".into(),
            master.folder().into(),
            "--listen".into(),
            listen.into(),
            "--discard-instances".into(),
            DISCARD_INSTANCES.into(),
        ]);
        let agent = program(&programs, "tepui-agent")?;
        let agents = (1..=options.agents)
            .map(|number| Part::new(&format!("agent-{number}"), agent.clone(), &folder))
            .collect();
        Ok(Self {
            folder,
            frameworks,
            master,
            agents,
            programs,
        })
    }

    /// Starts everything, says so, and keeps it running. Returns only an error.
    async fn serve(&mut self, begun: Instant) -> Result<()> {
        let deadline = begun + START_TIMEOUT;
        let fixed = self
            .master
            .listen()
            .filter(|listen| !listen.ends_with(":0"));
        self.master.start().await?;
        if let Some(listen) = &fixed {
            self.start_agents(&format!("http://{listen}")).await?;
        }
        let url = self.master.address(deadline).await?;
        if fixed.is_none() {
            self.start_agents(&url).await?;
        }
        let client = Client::new(&url, None)?;
        let agents = self.agents.iter_mut().map(|agent| agent.address(deadline));
        let (_, deployed) = futures::try_join!(
            try_join_all(agents),
            frameworks::deploy(&self.frameworks, &client, deadline),
        )?;
        self.announce(&url, &deployed, begun)?;
        // A master that is started again must be where its agents look for it.
        self.master.set_listen(url.trim_start_matches("http://"));
        self.keep().await
    }

    async fn start_agents(&mut self, url: &str) -> Result<()> {
        let shares = machine::shares(self.agents.len(), self.folder.path())?;
        for (agent, share) in self.agents.iter_mut().zip(shares) {
            agent.set_args([
                "--dir".into(),
                agent.folder().into(),
                "--master".into(),
                url.into(),
                "--hostname".into(),
                share.hostname.into(),
                "--resources".into(),
                share.resources.into(),
            ]);
            agent.start().await?;
        }
        Ok(())
    }

    fn announce(&self, url: &str, deployed: &[String], begun: Instant) -> Result<()> {
        for line in deployed {
            output::line(line)?;
        }
        let tepui = match on_path("tepui") {
            true => "tepui".to_owned(),
            false => self.programs.join("tepui").display().to_string(),
        };
        let master = match url.strip_suffix(&format!(":{DEFAULT_PORT}")) {
            Some(_) => String::new(),
            None => format!(" --master {url}"),
        };
        let agents = match self.agents.len() {
            1 => "1 agent".to_owned(),
            count => format!("{count} agents"),
        };
        output::line(&format!(
            "Tepui runs: 1 master and {agents}, after {}\n\n  \
             dashboard   {url}\n  \
             try         {tepui} run{master} -- echo hello\n  \
             logs        {}\n\nCtrl-C stops it.",
            output::span(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)),
            self.folder.logs().display(),
        ))
    }

    /// Starts again what dies. Returns an error when something dies too often.
    async fn keep(&mut self) -> Result<()> {
        loop {
            let parts = std::iter::once(&mut self.master).chain(&mut self.agents);
            let exits = parts.map(|part| Box::pin(part.exit()));
            let (status, index, _) = select_all(exits).await;
            let part = match index {
                0 => &mut self.master,
                index => &mut self.agents[index - 1],
            };
            if part.starts() > MAX_RESTARTS {
                bail!("{} died too often:\n{}", part.name(), part.last_words());
            }
            output::note(&format!(
                "tepui: {} died ({}) and is started again",
                part.name(),
                status?
            ));
            part.start().await?;
        }
    }

    /// Agents first, so that nothing new is started; then what they ran; the
    /// master last.
    async fn stop(&mut self) -> Result<()> {
        join_all(self.agents.iter_mut().map(|agent| agent.stop(STOP_TIMEOUT))).await;
        let folders: Vec<_> = self
            .agents
            .iter()
            .map(|agent| agent.folder().to_owned())
            .collect();
        let ended = leftovers::end_tasks(&folders).await;
        self.master.stop(STOP_TIMEOUT).await;
        ended.context("some tasks of the stopped cluster may still run")
    }
}

/// A program that is built and installed together with this one.
fn program(folder: &Path, name: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    if !path.is_file() {
        bail!(
            "{} is missing: it belongs beside this program (`cargo xtask build` makes both)",
            path.display()
        );
    }
    Ok(path)
}

fn on_path(name: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(name).is_file()))
}
