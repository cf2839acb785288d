//! A cluster as a sentence: `Cluster::new().agents(3).start().await`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tepui_cli::leftovers;
use tepui_types::api::framework::FrameworkView;
use tepui_types::{AgentStatus, Digest, FrameworkPhase};

use crate::client::Client;
use crate::eventually::{eventually, eventually_blocking};
use crate::process::{self, Process};
use crate::watchdog::Watchdog;

/// What a cluster is to be.
#[derive(Debug, Clone)]
pub struct Plan {
    agents: usize,
    resources: String,
    batch: bool,
    forgetful: bool,
    max_artifact_bytes: Option<u64>,
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    // Fields are dropped in this order: processes before their folder.
    master: Option<Process>,
    agents: Vec<Option<Process>>,
    plan: Plan,
    client: Client,
    _watchdog: Watchdog,
    dir: TempDir,
}

impl Plan {
    /// How many agents.
    pub fn agents(mut self, agents: usize) -> Self {
        self.agents = agents;
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

    /// The most bytes that the master takes as an artifact.
    pub fn max_artifact_bytes(mut self, bytes: u64) -> Self {
        self.max_artifact_bytes = Some(bytes);
        self
    }

    /// Starts it, and waits until every part is in its place.
    pub async fn start(self) -> Result<Cluster> {
        let dir = tempfile::Builder::new().prefix("tepui-test-").tempdir()?;
        let mut cluster = Cluster {
            master: None,
            agents: (0..self.agents).map(|_| None).collect(),
            plan: self,
            client: Client::new("http://127.0.0.1:0")?,
            _watchdog: Watchdog::over(dir.path())?,
            dir,
        };
        cluster.start_master().await?;
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
            agents: 1,
            resources: "cpus=4,mem=4GiB,disk=1GiB,ports=31000-31099".into(),
            batch: true,
            forgetful: true,
            max_artifact_bytes: None,
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

    /// The master's data folder.
    pub fn master_dir(&self) -> PathBuf {
        self.dir().join("master")
    }

    /// The master's process number.
    pub fn master_pid(&self) -> Result<i32> {
        Ok(self
            .master
            .as_ref()
            .context("the master does not run")?
            .pid())
    }

    /// An agent's process number.
    pub fn agent_pid(&self, index: usize) -> Result<i32> {
        Ok(self.agents[index]
            .as_ref()
            .context("the agent does not run")?
            .pid())
    }

    /// What the master said.
    pub fn master_log(&self) -> String {
        self.master.as_ref().map(Process::log).unwrap_or_default()
    }

    /// `kill -9` of the master.
    pub fn kill_master(&mut self) {
        self.master = None;
    }

    /// Asks the master to end, which must succeed.
    pub fn stop_master(&mut self) -> Result<()> {
        let mut master = self.master.take().context("the master does not run")?;
        let status = master.terminate();
        if !status.success() {
            process::print_log(master.log_file());
            bail!("the master ended with {status}");
        }
        Ok(())
    }

    /// Starts the master on its folder, where it was before if it was.
    pub async fn start_master(&mut self) -> Result<()> {
        let folder = self.master_dir();
        let listen = match self.url().strip_prefix("http://") {
            Some(address) if !address.ends_with(":0") => address.to_owned(),
            _ => "127.0.0.1:0".into(),
        };
        let mut args: Vec<OsString> = ["--dir".into(), folder.clone().into()].into();
        args.extend(["--listen".into(), listen.into()]);
        if self.plan.forgetful {
            args.extend(["--discard-instances".into(), "20".into()]);
        }
        if let Some(bytes) = self.plan.max_artifact_bytes {
            args.extend(["--max-artifact-bytes".into(), bytes.to_string().into()]);
        }
        let address = folder.join("address");
        let _ = std::fs::remove_file(&address);
        let log = self.dir().join("master.log");
        let program = process::program("tepui-master")?;
        let master = Process::spawn("master", &program, &args, &log)?;
        let master = self.master.insert(master);
        let url = wait_for_address(master, &address).await?;
        self.client = Client::new(&url)?;
        let client = &self.client;
        eventually("the master is ready", async || match client.ready().await {
            true => Ok(()),
            false => Err("it is not"),
        })
        .await;
        Ok(())
    }

    /// `kill -9` of an agent.
    pub fn kill_agent(&mut self, index: usize) {
        self.agents[index] = None;
    }

    /// Asks an agent to end, which must succeed.
    pub fn stop_agent(&mut self, index: usize) -> Result<()> {
        let mut agent = self.agents[index]
            .take()
            .context("the agent does not run")?;
        let status = agent.terminate();
        if !status.success() {
            process::print_log(agent.log_file());
            bail!("the agent ended with {status}");
        }
        Ok(())
    }

    /// Starts an agent on its folder, and waits until the master has it.
    pub async fn start_agent(&mut self, index: usize) -> Result<()> {
        self.spawn_agent(index)?;
        self.wait_for_agent(index).await
    }

    fn spawn_agent(&mut self, index: usize) -> Result<()> {
        let folder = self.agent_dir(index);
        let args: [OsString; 8] = [
            "--dir".into(),
            folder.clone().into(),
            "--master".into(),
            self.url().into(),
            "--hostname".into(),
            format!("agent-{index}").into(),
            "--resources".into(),
            self.plan.resources.clone().into(),
        ];
        let _ = std::fs::remove_file(folder.join("address"));
        let log = self.dir().join(format!("agent-{index}.log"));
        let program = process::program("tepui-agent")?;
        let agent = Process::spawn(&format!("agent-{index}"), &program, &args, &log)?;
        self.agents[index] = Some(agent);
        Ok(())
    }

    async fn wait_for_agent(&mut self, index: usize) -> Result<()> {
        let address = self.agent_dir(index).join("address");
        let agent = self.agents[index]
            .as_mut()
            .context("the agent does not run")?;
        wait_for_address(agent, &address).await?;
        let hostname = format!("agent-{index}");
        eventually(&format!("{hostname} is connected"), async || {
            let agents = self.client.agents().await?;
            let ours = agents.iter().find(|agent| agent.hostname == hostname);
            match ours {
                Some(agent) if agent.connected && agent.status == AgentStatus::Active => Ok(()),
                ours => bail!("{ours:?}"),
            }
        })
        .await;
        Ok(())
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
            process::print_log(&self.dir().join("master.log"));
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
        self.master = None;
    }
}
