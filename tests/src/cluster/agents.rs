//! The agents of a cluster: started, stopped, killed, and with other flags than before.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use tepui_cli::leftovers;
use tepui_types::AgentStatus;

use super::{Cluster, wait_for_address};
use crate::eventually::eventually;
use crate::process::{self, Process};

impl Cluster {
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

    /// How an agent has ended, if it has.
    pub fn agent_ended(&mut self, index: usize) -> Option<std::process::ExitStatus> {
        self.agents[index].as_mut().and_then(Process::ended)
    }

    /// What an agent said.
    pub fn log_of_agent(&self, index: usize) -> String {
        let agent = self.agents[index].as_ref();
        agent.map(Process::log).unwrap_or_default()
    }

    /// What agents that are started from now on lend.
    pub fn set_resources(&mut self, resources: &str) {
        self.plan.resources = resources.to_owned();
    }

    /// Agents that are started from now on have this flag, too.
    pub fn add_agent_flag(&mut self, flag: &str, value: &str) {
        self.plan
            .agent_flags
            .extend([flag.to_owned(), value.to_owned()]);
    }

    /// Starts an agent on its folder, without waiting for anything.
    pub fn spawn_agent(&mut self, index: usize) -> Result<()> {
        self.spawn_agent_by(index, process::program("tepui-agent")?, Vec::new())
    }

    /// Starts an agent on its folder as after a restart of its machine: what ran there is gone, and
    /// the kernel tells another boot id. Waits until the master has it.
    pub async fn reboot_agent(&mut self, index: usize) -> Result<()> {
        self.kill_agent(index);
        let folder = self.agent_dir(index);
        leftovers::executors(&folder)
            .into_iter()
            .chain(leftovers::tasks(&folder))
            .for_each(leftovers::kill_process);
        let boot_id = self.dir().join(format!("boot-id-{index}"));
        std::fs::write(&boot_id, "11111111-2222-3333-4444-555555555555\n")?;
        // A mount of its own, which goes with the process.
        let script = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
        let mut before: Vec<OsString> = ["-m", "sh", "-c", script].map(Into::into).into();
        before.extend([
            boot_id.into(),
            process::program("tepui-agent")?.into_os_string(),
        ]);
        self.spawn_agent_by(index, "unshare".into(), before)?;
        self.wait_for_agent(index).await
    }

    fn spawn_agent_by(
        &mut self,
        index: usize,
        program: PathBuf,
        mut args: Vec<OsString>,
    ) -> Result<()> {
        let folder = self.agent_dir(index);
        let own: [OsString; 8] = [
            "--dir".into(),
            folder.clone().into(),
            "--master".into(),
            // The rest it learns from whoever leads.
            self.url().into(),
            "--hostname".into(),
            format!("agent-{index}").into(),
            "--resources".into(),
            self.plan.resources.clone().into(),
        ];
        args.extend(own);
        args.extend(self.plan.agent_flags.iter().map(OsString::from));
        let _ = std::fs::remove_file(folder.join("address"));
        let log = self.dir().join(format!("agent-{index}.log"));
        let agent = Process::spawn(&format!("agent-{index}"), &program, &args, &log)?;
        self.agents[index] = Some(agent);
        Ok(())
    }

    pub(super) async fn wait_for_agent(&mut self, index: usize) -> Result<()> {
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
}
