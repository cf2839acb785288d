//! A cluster as a sentence: `Cluster::new().agents(3).start().await`.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tepui_cli::leftovers;
use tepui_types::api::framework::FrameworkView;
use tepui_types::api::master::{MasterRole, MasterView};
use tepui_types::{Digest, FrameworkPhase};

use crate::client::Client;
use crate::clocks::Clocks;
use crate::disk::SmallDisk;
use crate::eventually::{eventually, eventually_blocking};
use crate::process::{self, Process};
use crate::proxy::Proxy;
use crate::watchdog::Watchdog;

mod agents;
mod faults;

/// What a cluster is to be.
#[derive(Debug, Clone)]
pub struct Plan {
    masters: usize,
    master_flags: Vec<String>,
    agents: usize,
    agent_flags: Vec<String>,
    resources: String,
    batch: bool,
    forgetful: bool,
    own_clocks: bool,
    behind_proxies: bool,
    /// Folders that lie on a disk of so many MiB.
    small_disks: Vec<(String, u64)>,
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    // Fields are dropped in this order: processes before their folder.
    masters: Vec<Option<Process>>,
    /// Where each master is, once it has been there.
    addresses: Vec<String>,
    agents: Vec<Option<Process>>,
    plan: Plan,
    client: Client,
    clocks: Option<Clocks>,
    /// What stands before each master, if anything does.
    proxies: Vec<Proxy>,
    disks: BTreeMap<String, SmallDisk>,
    _watchdog: Watchdog,
    dir: TempDir,
}

impl Plan {
    /// How many masters.
    pub fn masters(mut self, masters: usize) -> Self {
        self.masters = masters;
        self
    }

    /// A flag of every master, and its value.
    pub fn master_flag(mut self, flag: &str, value: &str) -> Self {
        self.master_flags
            .extend([flag.to_owned(), value.to_owned()]);
        self
    }

    /// How many agents.
    pub fn agents(mut self, agents: usize) -> Self {
        self.agents = agents;
        self
    }

    /// A flag of every agent, and its value.
    pub fn agent_flag(mut self, flag: &str, value: &str) -> Self {
        self.agent_flags.extend([flag.to_owned(), value.to_owned()]);
        self
    }

    /// What each agent lends, as `--resources` has it.
    pub fn resources(mut self, resources: &str) -> Self {
        self.resources = resources.to_owned();
        self
    }

    /// Leaves the built-in framework out.
    pub fn without_batch(mut self) -> Self {
        self.batch = false;
        self
    }

    /// Leaves frameworks their memory between turns; else one turn in twenty
    /// loses it, so that no test passes by what is only remembered.
    pub fn with_memory(mut self) -> Self {
        self.forgetful = false;
        self
    }

    /// Starts it, and waits until every part is in its place.
    pub async fn start(self) -> Result<Cluster> {
        let dir = tempfile::Builder::new().prefix("tepui-test-").tempdir()?;
        let mut cluster = Cluster {
            masters: (0..self.masters).map(|_| None).collect(),
            addresses: match self.masters {
                1 => vec!["127.0.0.1:0".into()],
                masters => addresses(masters)?,
            },
            agents: (0..self.agents).map(|_| None).collect(),
            clocks: match self.own_clocks {
                true => Some(Clocks::prepare(dir.path())?),
                false => None,
            },
            plan: self,
            client: Client::new("http://127.0.0.1:0")?,
            proxies: Vec::new(),
            disks: BTreeMap::new(),
            _watchdog: Watchdog::over(dir.path())?,
            dir,
        };
        if cluster.plan.behind_proxies {
            for address in cluster.addresses.clone() {
                cluster.proxies.push(Proxy::before(address).await?);
            }
        }
        for (folder, mib) in cluster.plan.small_disks.clone() {
            let disk = SmallDisk::mount(&cluster.dir().join(&folder), mib)?;
            cluster.disks.insert(folder, disk);
        }
        for index in 0..cluster.masters.len() {
            cluster.spawn_master(index)?;
        }
        for index in 0..cluster.masters.len() {
            cluster.wait_for_master(index).await?;
        }
        for index in 0..cluster.agents.len() {
            cluster.spawn_agent(index)?;
        }
        if cluster.plan.batch {
            cluster.deploy("batch", "frameworks/batch.wasm", "").await?;
        }
        for index in 0..cluster.agents.len() {
            cluster.wait_for_agent(index).await?;
        }
        Ok(cluster)
    }
}

impl Cluster {
    /// A plan: one agent, which lends little enough to be exhausted and enough
    /// for most tests, and the framework `batch`.
    #[allow(clippy::new_ret_no_self)]
    pub fn new() -> Plan {
        Plan {
            masters: 1,
            master_flags: Vec::new(),
            agents: 1,
            agent_flags: Vec::new(),
            resources: "cpus=4,mem=4GiB,disk=1GiB,ports=31000-31099".into(),
            batch: true,
            forgetful: true,
            own_clocks: false,
            behind_proxies: false,
            small_disks: Vec::new(),
        }
    }

    /// The master's address.
    pub fn url(&self) -> &str {
        self.client.base()
    }

    /// A client of its master.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The folder of everything.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The data folder of an agent, counted from 0.
    pub fn agent_dir(&self, index: usize) -> PathBuf {
        self.dir().join(format!("agent-{index}"))
    }

    /// The first master's data folder.
    pub fn master_dir(&self) -> PathBuf {
        self.dir_of_master(0)
    }

    /// The data folder of a master, counted from 0.
    pub fn dir_of_master(&self, index: usize) -> PathBuf {
        match index {
            0 => self.dir().join("master"),
            index => self.dir().join(format!("master-{index}")),
        }
    }

    /// The address of a master.
    pub fn url_of_master(&self, index: usize) -> String {
        format!("http://{}", self.reached_at(index))
    }

    fn reached_at(&self, index: usize) -> &str {
        let proxy = self.proxies.get(index).map(Proxy::address);
        proxy.unwrap_or(&self.addresses[index])
    }

    /// A client of a master.
    pub fn client_of(&self, index: usize) -> Result<Client> {
        Client::new(&self.url_of_master(index))
    }

    /// The first master's process number.
    pub fn master_pid(&self) -> Result<i32> {
        self.pid_of_master(0)
    }

    /// A master's process number.
    pub fn pid_of_master(&self, index: usize) -> Result<i32> {
        let master = self.masters[index].as_ref();
        Ok(master.context("the master does not run")?.pid())
    }

    /// An agent's process number.
    pub fn agent_pid(&self, index: usize) -> Result<i32> {
        Ok(self.agents[index]
            .as_ref()
            .context("the agent does not run")?
            .pid())
    }

    /// What the first master said.
    pub fn master_log(&self) -> String {
        self.log_of_master(0)
    }

    /// What a master said.
    pub fn log_of_master(&self, index: usize) -> String {
        let master = self.masters[index].as_ref();
        master.map(Process::log).unwrap_or_default()
    }

    /// `kill -9` of the first master.
    pub fn kill_master(&mut self) {
        self.kill_master_at(0);
    }

    /// `kill -9` of a master.
    pub fn kill_master_at(&mut self, index: usize) {
        self.masters[index] = None;
    }

    /// How a master has ended, if it has.
    pub fn master_ended(&mut self, index: usize) -> Option<std::process::ExitStatus> {
        self.masters[index].as_mut().and_then(Process::ended)
    }

    /// Asks the first master to end, which must succeed.
    pub fn stop_master(&mut self) -> Result<()> {
        let mut master = self.masters[0].take().context("the master does not run")?;
        let status = master.terminate();
        if !status.success() {
            process::print_log(master.log_file());
            bail!("the master ended with {status}");
        }
        Ok(())
    }

    /// Starts the first master on its folder, where it was before.
    pub async fn start_master(&mut self) -> Result<()> {
        self.start_master_at(0).await
    }

    /// Starts a master on its folder, where it was before.
    pub async fn start_master_at(&mut self, index: usize) -> Result<()> {
        self.spawn_master(index)?;
        self.wait_for_master(index).await
    }

    /// From now on every master is started at another address than before.
    pub fn move_masters(&mut self) -> Result<()> {
        self.addresses = addresses(self.masters.len())?;
        Ok(())
    }

    /// From now on a master is started at another address than before, and the others know nothing
    /// of it.
    pub fn move_master(&mut self, index: usize) -> Result<()> {
        self.addresses[index] = addresses(1)?.remove(0);
        Ok(())
    }

    /// Starts one more master, which joins the others; gives its number.
    pub async fn add_master(&mut self) -> Result<usize> {
        let via = self.url().to_owned();
        let index = self.spawn_new_master(|_| vec!["--join".into(), via])?;
        self.wait_for_master(index).await?;
        Ok(index)
    }

    /// Starts one more master with the flags that are given for its address, without waiting for
    /// anything; gives its number.
    pub fn spawn_new_master(&mut self, flags: impl FnOnce(&str) -> Vec<String>) -> Result<usize> {
        let index = self.masters.len();
        let address = addresses(1)?.remove(0);
        let flags = flags(&address);
        self.addresses.push(address);
        self.masters.push(None);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        self.spawn_master_with(index, &flags)?;
        Ok(index)
    }

    /// Starts a master, without waiting for anything.
    pub fn spawn_master(&mut self, index: usize) -> Result<()> {
        self.spawn_master_also(index, &[])
    }

    /// Starts a master with more flags than the others have, without waiting for anything.
    pub fn spawn_master_also(&mut self, index: usize, flags: &[&str]) -> Result<()> {
        let peers: Vec<_> = (0..self.addresses.len())
            .map(|index| self.reached_at(index))
            .collect();
        let peers = peers.join(",");
        match self.plan.masters {
            1 => self.spawn_master_with(index, flags),
            _ => self.spawn_master_with(index, &[&["--peers", &peers], flags].concat()),
        }
    }

    fn spawn_master_with(&mut self, index: usize, flags: &[&str]) -> Result<()> {
        let folder = self.dir_of_master(index);
        let listen = &self.addresses[index];
        let mut program = process::program("tepui-master")?;
        let mut args = Vec::new();
        if let Some(clocks) = &self.clocks {
            args.extend(clocks.environment(index));
            args.push(program.into_os_string());
            program = "env".into();
        }
        args.extend(["--dir".into(), folder.clone().into_os_string()]);
        args.extend(["--listen".into(), listen.into()]);
        if let Some(proxy) = self.proxies.get(index) {
            args.extend(["--advertise".into(), proxy.address().into()]);
        }
        args.extend(flags.iter().map(Into::into));
        args.extend(self.plan.master_flags.iter().map(Into::into));
        if self.plan.forgetful {
            args.extend(["--discard-instances".into(), "20".into()]);
        }
        let _ = std::fs::remove_file(folder.join("address"));
        let log = self.log_file_of_master(index);
        let master = Process::spawn(&format!("master-{index}"), &program, &args, &log)?;
        self.masters[index] = Some(master);
        Ok(())
    }

    /// Waits until a master answers reads: there is a leader, and it has caught up.
    pub async fn wait_for_master(&mut self, index: usize) -> Result<()> {
        let address = self.dir_of_master(index).join("address");
        let master = self.masters[index].as_mut();
        let master = master.context("the master does not run")?;
        let url = wait_for_address(master, &address).await?;
        self.addresses[index] = url.trim_start_matches("http://").to_owned();
        let client = Client::new(&url)?;
        eventually("the master is ready", async || match client.ready().await {
            true => Ok(()),
            false => Err("it is not"),
        })
        .await;
        if index == 0 {
            self.client = client;
        }
        Ok(())
    }

    /// From now on the cluster is spoken to through this master.
    pub fn speak_to(&mut self, index: usize) -> Result<()> {
        self.client = self.client_of(index)?;
        Ok(())
    }

    /// Which master leads, once they agree on one that answers.
    pub async fn leader(&self) -> Result<usize> {
        let url = eventually("a master leads", async || {
            let running = self.masters.iter().position(Option::is_some);
            let client = self.client_of(running.context("no master runs")?)?;
            let masters = client.masters().await?;
            let leads = |master: &&MasterView| master.role == MasterRole::Leader;
            let leader = masters.iter().find(leads).context("nobody leads")?;
            anyhow::Ok(leader.url.clone())
        })
        .await;
        let is_there = |index: &usize| self.url_of_master(*index) == url;
        let found = (0..self.masters.len()).find(is_there);
        found.with_context(|| format!("{url} is none of ours"))
    }

    fn log_file_of_master(&self, index: usize) -> PathBuf {
        self.dir_of_master(index).with_extension("log")
    }

    /// Uploads a guest that was built, such as `tasks/hello.wasm`.
    pub async fn guest(&self, path: &str) -> Result<Digest> {
        let path = process::guest(path)?;
        self.client.upload(std::fs::read(path)?).await
    }

    /// Deploys a guest as a framework, and waits until it takes turns.
    pub async fn deploy(&self, name: &str, path: &str, config: &str) -> Result<FrameworkView> {
        let artifact = self.guest(path).await?;
        self.client.deploy(name, artifact, config).await?;
        Ok(eventually(&format!("framework {name} runs"), async || {
            let framework = self.client.framework(name).await?;
            match framework.phase {
                FrameworkPhase::Running => Ok(framework),
                _ => bail!("{framework:?}"),
            }
        })
        .await)
    }
}

/// Loopback addresses that nobody has now: masters are told of each other before they start.
pub fn addresses(count: usize) -> Result<Vec<String>> {
    // All are held until each has its own.
    let bound: Vec<_> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<std::io::Result<_>>()?;
    let addresses = bound
        .iter()
        .map(|listener| Ok(listener.local_addr()?.to_string()));
    addresses.collect()
}

async fn wait_for_address(part: &mut Process, file: &Path) -> Result<String> {
    let address = eventually("the process serves", async || {
        if let Some(status) = part.ended() {
            return Ok(Err(format!("it ended with {status}")));
        }
        match std::fs::read_to_string(file) {
            Ok(address) if !address.trim().is_empty() => Ok(Ok(address.trim().to_owned())),
            _ => Err("it has written no address"),
        }
    })
    .await;
    address.map_err(|error| {
        process::print_log(part.log_file());
        anyhow::anyhow!(error)
    })
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for index in 0..self.masters.len() {
                process::print_log(&self.log_file_of_master(index));
            }
            for index in 0..self.agents.len() {
                process::print_log(&self.dir().join(format!("agent-{index}.log")));
            }
        }
        for agent in &mut self.agents {
            *agent = None;
        }
        let folders: Vec<_> = (0..self.agents.len())
            .map(|index| self.agent_dir(index))
            .collect();
        eventually_blocking("what the agents started is gone", || {
            leftovers::end_once(&folders)
        });
        self.masters.clear();
    }
}
