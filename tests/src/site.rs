//! A cluster over a network: masters, an agent and a caller on hosts of their own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tepui_cli::leftovers;

use crate::eventually::{DEADLINE, eventually, eventually_blocking};
use crate::net::Net;
use crate::process::{self, Process};
use crate::watchdog::Watchdog;

/// How many masters there are, on the first hosts.
pub const MASTERS: usize = 3;
/// The host of the agent.
pub const AGENT: usize = 3;
/// The host of those who ask.
pub const CALLER: usize = 4;
/// The job that shows that all parts have found each other.
pub const FIRST_JOB: &str = "first";
/// What proves everyone to everyone.
pub const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A cluster over a network. Fields are dropped in this order.
#[derive(Debug)]
pub struct Site {
    processes: BTreeMap<usize, Process>,
    /// The network.
    pub net: Net,
    _watchdog: Watchdog,
    dir: TempDir,
}

impl Site {
    /// Three masters, an agent, and the framework `batch`.
    pub async fn start() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("tepui-test-").tempdir()?;
        std::fs::write(dir.path().join("token"), TOKEN)?;
        let mut site = Self {
            processes: BTreeMap::new(),
            net: Net::new(MASTERS + 2)?,
            _watchdog: Watchdog::over(dir.path())?,
            dir,
        };
        for host in 0..MASTERS {
            site.start_master(host)?;
        }
        let flags = "--resources cpus=2,mem=1GiB,disk=1GiB,ports=31000-31099 --master";
        let flags = flags.split(' ').map(str::to_owned);
        let flags = flags.chain([format!("http://{}", site.listen(0))]);
        site.spawn(AGENT, "tepui-agent", flags.collect())?;
        let batch = process::guest("frameworks/batch.wasm")?
            .display()
            .to_string();
        site.eventually(&["framework", "deploy", "batch", &batch])
            .await;
        site.eventually(&["run", "--name", FIRST_JOB, "--", "true"])
            .await;
        Ok(site)
    }

    /// Starts a master on its folder, without waiting for anything.
    pub fn start_master(&mut self, host: usize) -> Result<()> {
        let peers: Vec<_> = (0..MASTERS).map(|host| self.listen(host)).collect();
        // Short, so that who is cut off is noticed soon.
        let flags = "--insecure-listen --agent-timeout-ms 1500 --heartbeat-ms 100 --peers";
        let mut flags: Vec<_> = flags.split(' ').map(str::to_owned).collect();
        flags.extend([peers.join(","), "--listen".to_owned(), self.listen(host)]);
        self.spawn(host, "tepui-master", flags)
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

    /// Where a master listens.
    pub fn listen(&self, host: usize) -> String {
        format!("{}:5050", self.net.address(host))
    }

    /// A file or folder of the site.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn spawn(&mut self, host: usize, program: &str, flags: Vec<String>) -> Result<()> {
        let name = format!("{program}-{host}");
        let mut args: Vec<OsString> = self.net.on(host).map(Into::into).into();
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

    /// The host of the leader, and how many masters are there.
    pub async fn masters(&self) -> Result<(usize, usize)> {
        let masters: Vec<Value> =
            serde_json::from_str(&self.tepui(&["master", "list", "-o", "json"]).await?)?;
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
        let agent = [self.path(&format!("tepui-agent-{AGENT}"))];
        eventually_blocking("what the agent started is gone", || {
            leftovers::end_once(&agent)
        });
    }
}
