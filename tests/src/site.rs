//! A cluster over a network: masters, agents and a caller on hosts of their own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tepui_cli::leftovers;

use crate::clocks::Clocks;
use crate::disk::{FOR_A_MASTER_MIB, SmallDisk};
use crate::eventually::{DEADLINE, eventually, eventually_blocking};
use crate::net::Net;
use crate::process::{self, Process};
use crate::watchdog::Watchdog;

/// How many masters there are, on the first hosts.
pub const MASTERS: usize = 3;
/// The host of those who ask.
pub const CALLER: usize = 3;
/// The host of the first agent; others follow.
pub const AGENT: usize = 4;
/// The job that shows that all parts have found each other.
pub const FIRST_JOB: &str = "first";
/// What proves everyone to everyone.
pub const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// What a site is to be, beside its three masters.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How many agents, from [`AGENT`] on.
    pub agents: usize,
    /// Whether each master has a disk that can be filled, and a clock that can be set.
    pub own_machines: bool,
}

/// A cluster over a network. Fields are dropped in this order.
#[derive(Debug)]
pub struct Site {
    processes: BTreeMap<usize, Process>,
    /// The network.
    pub net: Net,
    disks: Vec<SmallDisk>,
    clocks: Option<Clocks>,
    agents: usize,
    _watchdog: Watchdog,
    dir: TempDir,
}

impl Site {
    /// Three masters, an agent, and the framework `batch`.
    pub async fn start() -> Result<Self> {
        let plan = Plan {
            agents: 1,
            own_machines: false,
        };
        Self::start_as(plan).await
    }

    /// Three masters, some agents, and the framework `batch`.
    pub async fn start_as(plan: Plan) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("tepui-test-").tempdir()?;
        std::fs::write(dir.path().join("token"), TOKEN)?;
        let mut site = Self {
            processes: BTreeMap::new(),
            net: Net::new(AGENT + plan.agents)?,
            disks: Vec::new(),
            clocks: None,
            agents: plan.agents,
            _watchdog: Watchdog::over(dir.path())?,
            dir,
        };
        if plan.own_machines {
            let disk = |host| SmallDisk::mount(&site.folder_of_master(host), FOR_A_MASTER_MIB);
            site.disks = (0..MASTERS).map(disk).collect::<Result<_>>()?;
            site.clocks = Some(Clocks::prepare(site.dir.path())?);
        }
        for host in 0..MASTERS {
            site.start_master(host)?;
        }
        for host in site.agents() {
            let flags = "--resources cpus=2,mem=1GiB,disk=1GiB,ports=31000-31099 --master";
            let flags = flags.split(' ').map(str::to_owned);
            let flags = flags.chain([format!("http://{}", site.listen(0))]);
            site.spawn(host, "tepui-agent", Vec::new(), flags.collect())?;
        }
        let batch = process::guest("frameworks/batch.wasm")?
            .display()
            .to_string();
        site.eventually(&["framework", "deploy", "batch", &batch])
            .await;
        site.eventually(&["run", "--name", FIRST_JOB, "--", "true"])
            .await;
        Ok(site)
    }

    /// The hosts of the agents.
    pub fn agents(&self) -> std::ops::Range<usize> {
        AGENT..AGENT + self.agents
    }

    /// Starts a master on its folder, without waiting for anything.
    pub fn start_master(&mut self, host: usize) -> Result<()> {
        self.start_master_also(host, &[])
    }

    /// Starts a master with more flags than usual, without waiting for anything.
    pub fn start_master_also(&mut self, host: usize, more: &[&str]) -> Result<()> {
        let peers: Vec<_> = (0..MASTERS).map(|host| self.listen(host)).collect();
        // Short, so that who is cut off is noticed soon.
        let flags = "--insecure-listen --agent-timeout-ms 1500 --heartbeat-ms 100 --peers";
        let mut flags: Vec<_> = flags.split(' ').map(str::to_owned).collect();
        flags.extend([peers.join(","), "--listen".to_owned(), self.listen(host)]);
        flags.extend(more.iter().map(|flag| (*flag).to_owned()));
        let clock = self.clocks.as_ref().map(|clocks| clocks.environment(host));
        let environment = clock.into_iter().flatten().collect();
        self.spawn(host, "tepui-master", environment, flags)
    }

    /// The data folder of a master.
    pub fn folder_of_master(&self, host: usize) -> PathBuf {
        self.path(&format!("tepui-master-{host}"))
    }

    /// The disk of a master that has its own machine.
    pub fn disk(&self, host: usize) -> Result<&SmallDisk> {
        self.disks.get(host).context("masters have own machines")
    }

    /// Sets the clock of a master that has its own machine to so many seconds after the others'.
    pub fn set_clock(&self, host: usize, ahead_s: i64) -> Result<()> {
        let clocks = self.clocks.as_ref().context("masters have own machines")?;
        clocks.set(host, ahead_s)
    }

    /// Removes all that a master has, which does not run.
    pub fn wipe_master(&self, host: usize) -> Result<()> {
        // The folder itself may be where its disk is mounted.
        for entry in std::fs::read_dir(self.folder_of_master(host))? {
            let path = entry?.path();
            match path.is_dir() {
                true => std::fs::remove_dir_all(path)?,
                false => std::fs::remove_file(path)?,
            }
        }
        Ok(())
    }

    /// `kill -9` of what runs on a host.
    pub fn kill(&mut self, host: usize) {
        self.processes.remove(&host);
    }

    /// Sends a signal to what runs on a host.
    pub fn signal(&self, host: usize, signal: Signal) -> Result<()> {
        let process = self.processes.get(&host).context("nothing runs there")?;
        Ok(kill(Pid::from_raw(process.pid()), signal)?)
    }

    /// What runs on a host has written this so far.
    pub fn log(&self, host: usize) -> String {
        self.processes
            .get(&host)
            .map(Process::log)
            .unwrap_or_default()
    }

    /// Where a master listens.
    pub fn listen(&self, host: usize) -> String {
        format!("{}:5050", self.net.address(host))
    }

    /// A file or folder of the site.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn spawn(
        &mut self,
        host: usize,
        program: &str,
        environment: Vec<OsString>,
        flags: Vec<String>,
    ) -> Result<()> {
        let name = format!("{program}-{host}");
        let mut args: Vec<OsString> = self.net.on(host).map(Into::into).into();
        args.push("env".into());
        args.extend(environment);
        args.push(process::program(program)?.into());
        args.extend(flags.into_iter().map(Into::into));
        args.extend(["--dir".into(), self.path(&name).into()]);
        args.extend(["--token-file".into(), self.path("token").into()]);
        let log = self.path(&name).with_extension("log");
        let process = Process::spawn(&name, Path::new("ip"), &args, &log)?;
        self.processes.insert(host, process);
        Ok(())
    }

    /// `tepui` on the caller's machine, which knows all masters.
    pub async fn tepui(&self, args: &[&str]) -> Result<String> {
        let masters: Vec<_> = (0..MASTERS).map(|host| self.listen(host)).collect();
        let mut command = self.net.command(CALLER, &process::program("tepui")?);
        command
            .args(args)
            .env("TEPUI_MASTER", masters.join(","))
            .env("TEPUI_TOKEN", TOKEN);
        let output = tokio::time::timeout(DEADLINE, command.output()).await??;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(said)
    }

    /// `tepui`, again until it succeeds.
    pub async fn eventually(&self, args: &[&str]) -> String {
        eventually(&format!("{args:?} succeeds"), async || {
            self.tepui(args).await
        })
        .await
    }

    /// Waits until all masters vote and are there, and none is listed beside them.
    pub async fn all_vote(&self) {
        eventually("all masters vote", async || {
            let masters = self.list_masters().await?;
            let votes = |master: &Value| {
                let role = master["role"].as_str();
                master["active"] == true && matches!(role, Some("leader" | "voter"))
            };
            match masters.len() == MASTERS && masters.iter().all(votes) {
                true => Ok(()),
                false => bail!("{masters:?}"),
            }
        })
        .await;
    }

    async fn list_masters(&self) -> Result<Vec<Value>> {
        let listed = self.tepui(&["master", "list", "-o", "json"]).await?;
        Ok(serde_json::from_str(&listed)?)
    }

    /// The host of the leader, and how many masters are there.
    pub async fn masters(&self) -> Result<(usize, usize)> {
        let masters = self.list_masters().await?;
        let active = masters
            .iter()
            .filter(|master| master["active"] == true)
            .count();
        let leader = masters.iter().find(|master| master["role"] == "leader");
        let is_there = |host: &usize| {
            let url = format!("http://{}", self.listen(*host));
            leader.is_some_and(|leader| leader["url"] == url.as_str())
        };
        match (0..MASTERS).find(is_there) {
            Some(leader) => Ok((leader, active)),
            None => bail!("nobody leads: {masters:?}"),
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self.processes.values().map(Process::log_file);
            logs.for_each(process::print_log);
        }
        self.processes.clear();
        let agents = self.agents();
        let agents = agents.map(|host| self.path(&format!("tepui-agent-{host}")));
        let agents: Vec<_> = agents.collect();
        eventually_blocking("what the agents started is gone", || {
            leftovers::end_once(&agents)
        });
    }
}
