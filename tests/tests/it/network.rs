//! Machines of their own: masters, an agent and a caller with an address each, and links that break.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::bail;
use serde_json::Value;
use tempfile::TempDir;
use tepui_cli::leftovers;
use tepui_tests::eventually;
use tepui_tests::eventually::{DEADLINE, eventually_blocking};
use tepui_tests::net::Net;
use tepui_tests::process::{self, Process};
use tepui_tests::watchdog::Watchdog;

use super::Result;

const MASTERS: usize = 3;
const AGENT: usize = 3;
const CALLER: usize = 4;
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A cluster over a network. Fields are dropped in this order.
struct Site {
    processes: Vec<Process>,
    net: Net,
    _watchdog: Watchdog,
    dir: TempDir,
}

impl Site {
    async fn start() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("tepui-test-").tempdir()?;
        std::fs::write(dir.path().join("token"), TOKEN)?;
        let mut site = Self {
            processes: Vec::new(),
            net: Net::new(MASTERS + 2)?,
            _watchdog: Watchdog::over(dir.path())?,
            dir,
        };
        let peers: Vec<_> = (0..MASTERS).map(|host| site.listen(host)).collect();
        for host in 0..MASTERS {
            // Short, so that who is cut off is noticed soon.
            let flags = "--insecure-listen --agent-timeout-ms 1500 --heartbeat-ms 100 --peers";
            let mut flags: Vec<_> = flags.split(' ').map(str::to_owned).collect();
            flags.extend([peers.join(","), "--listen".to_owned(), site.listen(host)]);
            site.spawn(host, "tepui-master", flags)?;
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
        site.eventually(&["run", "--", "true"]).await;
        Ok(site)
    }

    fn listen(&self, host: usize) -> String {
        format!("{}:5050", self.net.address(host))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn spawn(&mut self, host: usize, program: &str, flags: Vec<String>) -> anyhow::Result<()> {
        let name = format!("{program}-{host}");
        let mut args: Vec<OsString> = self.net.on(host).map(Into::into).into();
        args.push(process::program(program)?.into());
        args.extend(flags.into_iter().map(Into::into));
        args.extend(["--dir".into(), self.path(&name).into()]);
        args.extend(["--token-file".into(), self.path("token").into()]);
        let log = self.path(&name).with_extension("log");
        let process = Process::spawn(&name, Path::new("ip"), &args, &log)?;
        self.processes.push(process);
        Ok(())
    }

    /// `tepui` on the caller's machine, which knows all masters.
    async fn tepui(&self, args: &[&str]) -> anyhow::Result<String> {
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

    async fn eventually(&self, args: &[&str]) -> String {
        eventually(&format!("{args:?} succeeds"), async || {
            self.tepui(args).await
        })
        .await
    }

    /// Masters by role and whether they are there, the host of the leader first.
    async fn masters(&self) -> anyhow::Result<(usize, usize)> {
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
            let logs = self.processes.iter().map(Process::log_file);
            logs.for_each(process::print_log);
        }
        self.processes.clear();
        let agent = [self.path(&format!("tepui-agent-{AGENT}"))];
        eventually_blocking("what the agent started is gone", || {
            leftovers::end_once(&agent)
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_is_replaced_and_comes_back() -> Result {
    let site = Site::start().await?;
    let (leader, active) = site.masters().await?;
    assert_eq!(active, MASTERS);
    let gate = site.path("gate").display().to_string();
    let script = format!("while ! test -e {gate}; do sleep 0.02; done; echo done");
    site.tepui(&["run", "--name", "long", "-d", "--", "sh", "-c", &script])
        .await?;
    site.net.cut(leader)?;
    let next = eventually("another leads", async || match site.masters().await? {
        (next, _) if next != leader => Ok(next),
        _ => bail!("the same still"),
    })
    .await;
    // The agent turns to it by itself, and what ran goes on.
    site.eventually(&["run", "--", "echo", "new"]).await;
    std::fs::write(&gate, "")?;
    eventually("what ran before is counted", async || {
        let job: Value =
            serde_json::from_str(&site.tepui(&["job", "show", "long", "-o", "json"]).await?)?;
        match job["finished"] == 1 {
            true => Ok(()),
            false => bail!("{job}"),
        }
    })
    .await;
    site.net.heal(leader)?;
    eventually("the old leader follows", async || {
        match site.masters().await? {
            (now, MASTERS) if now == next => Ok(()),
            other => bail!("{other:?}"),
        }
    })
    .await;
    let tasks = site.tepui(&["task", "list", "-o", "json"]).await?;
    let tasks: Vec<Value> = serde_json::from_str(&tasks)?;
    let long = tasks
        .iter()
        .filter(|task| task["id"].as_str().is_some_and(|id| id.contains(".long.")));
    assert_eq!(long.count(), 1, "it was launched once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_no_token_is_nobody_on_another_machine() -> Result {
    let site = Site::start().await?;
    let url = format!("http://{}/v1/cluster", site.listen(0));
    let output = site
        .net
        .command(CALLER, Path::new("curl"))
        .args(["-s", &url])
        .output()
        .await?;
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(answer["status"], 401, "{answer}");
    // Nor is somebody who is on the master's own machine one of the masters.
    let url = format!("http://{}/v1/masters/image", site.listen(0));
    let output = site
        .net
        .command(0, Path::new("curl"))
        .args(["-s", &url])
        .output()
        .await?;
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(answer["status"], 401, "{answer}");
    Ok(())
}
