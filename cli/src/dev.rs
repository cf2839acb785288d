//! `tepui dev`: a whole cluster on this machine, for as long as it is wanted.
//!
//! Masters and agents are child processes with a folder and a log each. They
//! are started side by side, watched, and started again when they die, which
//! is also a way to see that a cluster does not mind. Whatever ends this
//! command ends all of it: agents, tasks, master. What the cluster knew stays in
//! the folder for the next time.

use std::ffi::OsString;
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

use addresses::DEFAULT_PORT;
use folder::Folder;
use part::Part;

mod addresses;
mod earlier;
mod folder;
mod frameworks;
mod machine;
mod part;

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
/// As many as a cluster takes.
const MAX_MASTERS: i64 = 9;
/// Each agent has a thousand ports of its own above 31000, below 65536.
const MAX_AGENTS: i64 = 32;

/// What cluster to start.
#[derive(Debug, Args)]
pub struct Options {
    /// How many masters; an odd number, so that a majority outlives as many as can be
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=MAX_MASTERS), value_name = "N")]
    masters: u16,
    /// How many agents
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=MAX_AGENTS), value_name = "N")]
    agents: u16,
    /// Where everything is kept [default: $XDG_STATE_HOME/tepui/dev]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The first master's port on 127.0.0.1, the others' follow; 0 takes free ones [default: 5050,
    /// or where several masters of this folder were before]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Every *.wasm in it is deployed as a framework [default: beside this program]
    #[arg(long, value_name = "DIR")]
    frameworks: Option<PathBuf>,
    /// Stop the cluster of this folder, with its tasks, whether its `tepui dev` still runs or was
    /// killed, and start none
    #[arg(long, conflicts_with_all = ["masters", "agents", "port", "frameworks"])]
    stop: bool,
}

/// Starts a cluster, keeps it up until Ctrl-C, and stops it.
pub async fn run(options: Options) -> Result<()> {
    let place = folder::place(options.dir.as_deref())?;
    if options.stop {
        return earlier::stop(&place).await;
    }
    let begun = Instant::now();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut cluster = Cluster::prepare(&options, &place).await?;
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
    /// The first listens on the port that was asked for.
    masters: Vec<Part>,
    agents: Vec<Part>,
    programs: PathBuf,
}

impl Cluster {
    /// Checks all that can be checked beforehand, and ends what an earlier
    /// `tepui dev` of this folder left behind.
    async fn prepare(options: &Options, place: &Path) -> Result<Self> {
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
        if options.masters.is_multiple_of(2) {
            let (masters, fewer) = (options.masters, options.masters - 1);
            output::note(&format!(
                "tepui: {masters} masters outlive no more than {fewer} would: a majority must stay"
            ));
        }
        let master = program(&programs, "tepui-master")?;
        let agent = program(&programs, "tepui-agent")?;
        if !place.exists() {
            // What cannot be started leaves no new folder.
            addresses::find(options.masters, options.port, place)?;
        }
        let folder = Folder::open(place)?;
        earlier::take_over(&folder, options.agents).await?;
        let addresses = addresses::find(options.masters, options.port, folder.path())?;
        addresses::remember(&addresses, folder.path())?;
        let names = (1..).map(|number| match options.masters {
            1 => "master".to_owned(),
            _ => format!("master-{number}"),
        });
        let masters = names.zip(&addresses).map(|(name, address)| {
            let mut part = Part::new(&name, master.clone(), &folder);
            part.set_args(master_args(&part, address, &addresses));
            part
        });
        let masters = masters.collect();
        let agents = (1..=options.agents)
            .map(|number| Part::new(&folder::agent(number), agent.clone(), &folder))
            .collect();
        Ok(Self {
            folder,
            frameworks,
            masters,
            agents,
            programs,
        })
    }

    /// Starts everything, says so, and keeps it running. Returns only an error.
    async fn serve(&mut self, begun: Instant) -> Result<()> {
        let deadline = begun + START_TIMEOUT;
        for master in &mut self.masters {
            master.start().await?;
        }
        let listens: Vec<_> = self.masters.iter().filter_map(Part::listen).collect();
        let urls = listens.iter().map(|listen| format!("http://{listen}"));
        let urls = urls.collect::<Vec<_>>().join(",");
        self.start_agents(&urls).await?;
        let masters = self.masters.iter_mut().map(|part| part.address(deadline));
        let url = try_join_all(masters).await?.swap_remove(0);
        let client = Client::new(&urls, None)?;
        let agents = self.agents.iter_mut().map(|agent| agent.address(deadline));
        let (_, deployed) = futures::try_join!(
            try_join_all(agents),
            frameworks::deploy(&self.frameworks, &client, deadline),
        )?;
        self.announce(&url, &urls, &deployed, begun)?;
        self.keep().await
    }

    async fn start_agents(&mut self, masters: &str) -> Result<()> {
        let shares = machine::shares(self.agents.len(), self.folder.path())?;
        for (agent, share) in self.agents.iter_mut().zip(shares) {
            agent.set_args([
                "--dir".into(),
                agent.folder().into(),
                "--master".into(),
                masters.into(),
                "--hostname".into(),
                share.hostname.into(),
                "--resources".into(),
                share.resources.into(),
            ]);
            agent.start().await?;
        }
        Ok(())
    }

    fn announce(&self, url: &str, urls: &str, deployed: &[String], begun: Instant) -> Result<()> {
        for line in deployed {
            output::line(line)?;
        }
        let tepui = match on_path("tepui") {
            true => "tepui".to_owned(),
            false => self.programs.join("tepui").display().to_string(),
        };
        let master = match url.strip_suffix(&format!(":{DEFAULT_PORT}")) {
            Some(_) => String::new(),
            None => format!(" --master {urls}"),
        };
        let cgroup = |agent: &Part| agent.folder().join("cgroup").exists();
        if !self.agents.iter().all(cgroup) {
            output::note(
                "tepui: the limits of tasks are not enforced, which takes cgroups and so root; the \
                 agents' logs say what is missing",
            );
        }
        let masters = count(self.masters.len(), "master");
        let agents = count(self.agents.len(), "agent");
        output::line(&format!(
            "Tepui runs: {masters} and {agents}, after {}\n\n  \
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
            let parts = self.masters.iter_mut().chain(&mut self.agents);
            let exits = parts.map(|part| Box::pin(part.exit()));
            let (status, index, _) = select_all(exits).await;
            let masters = self.masters.len();
            let part = match index.checked_sub(masters) {
                None => &mut self.masters[index],
                Some(index) => &mut self.agents[index],
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
    /// masters last.
    async fn stop(&mut self) -> Result<()> {
        join_all(self.agents.iter_mut().map(|agent| agent.stop(STOP_TIMEOUT))).await;
        let folders: Vec<_> = self
            .agents
            .iter()
            .map(|agent| agent.folder().to_owned())
            .collect();
        let ended = leftovers::stop_tasks(&folders).await;
        join_all(self.masters.iter_mut().map(|part| part.stop(STOP_TIMEOUT))).await;
        ended.context("some tasks of the stopped cluster may still run")
    }
}

fn master_args(part: &Part, address: &str, addresses: &[String]) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec![
        "--dir".into(),
        part.folder().into(),
        "--listen".into(),
        address.into(),
        "--discard-instances".into(),
        DISCARD_INSTANCES.into(),
    ];
    if addresses.len() > 1 {
        args.extend(["--peers".into(), addresses.join(",").into()]);
    }
    args
}

fn count(count: usize, of: &str) -> String {
    match count {
        1 => format!("1 {of}"),
        _ => format!("{count} {of}s"),
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
