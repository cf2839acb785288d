//! An executor as its agent sees it, and the image that containers of the benchmark have.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tepui_executor::output::DEFAULT_LIMIT;
use tepui_executor::privileges::Privileges;
use tepui_executor::runtime::Runtime;
use tepui_executor::spawn::{Spawn, connect, spawn};
use tepui_executor::{cgroup, protocol};
use tepui_types::task::CommandWorkload;
use tepui_types::wire::agent::TaskLaunch;
use tepui_types::wire::executor::{
    ExecutorLaunch, FromExecutor, ImageConfig, LocalImage, ProcessIdentity, ToExecutor,
};
use tepui_types::{
    AgentId, Bytes, Container, Digest, MilliCpus, OperationId, Resources, Role, TaskId, TaskSpec,
    TaskState, Workload,
};

use crate::process;

const TOKEN: u128 = 1;
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// What an executor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Native commands.
    Native,
    /// One container.
    Container,
}

/// A running executor; dropped, it and all that it runs end.
pub struct Executor {
    dir: PathBuf,
    group: String,
    stream: UnixStream,
    identity: ProcessIdentity,
    launched: u32,
}

impl Executor {
    /// Starts one in a folder of its own below `root`.
    pub fn start(root: &Path, kind: Kind) -> Result<Self> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = root.join(format!("executors/e{number}"));
        let group = format!("tepui-bench-{}-{number}", std::process::id());
        let runtime = (kind == Kind::Container).then_some(&Runtime::BuiltIn);
        spawn(&Spawn {
            program: &process::program("tepui-executor-task")?,
            dir: &dir,
            token: TOKEN,
            agent: AgentId(1),
            output_limit: DEFAULT_LIMIT,
            privileges: Privileges::default(),
            runtime,
            code_cache: None,
            packs: None,
            cgroup: Some(&format!("{group}/executor")),
        })?;
        let mut stream = connect(&dir)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        protocol::write_frame(&mut stream, &ToExecutor::Attach { token: TOKEN })?;
        let Some(FromExecutor::Attached { identity, .. }) = protocol::read_frame(&mut stream)?
        else {
            bail!("the executor does not introduce itself");
        };
        Ok(Self {
            dir,
            group,
            stream,
            identity,
            launched: 0,
        })
    }

    /// Has it run a command.
    pub fn launch(&mut self, argv: &[&str], image: Option<&Image>) -> Result<()> {
        self.launched += 1;
        let task: TaskId = format!("f1.t{}.0", self.launched)
            .parse()
            .map_err(anyhow::Error::msg)?;
        let mut command =
            CommandWorkload::new(argv.iter().map(|word| (*word).to_owned()).collect());
        command.container = image.map(|_| Box::new(Container::default()));
        let sandbox = self
            .dir
            .join("tasks")
            .join(task.to_string())
            .join("sandbox");
        let launch = TaskLaunch {
            operation: OperationId {
                index: 1,
                ordinal: self.launched,
            },
            task,
            framework_name: "bench".into(),
            role: Role::default(),
            spec: Arc::new(TaskSpec::new(Workload::Command(command))),
            resources: Resources {
                cpus: MilliCpus(1000),
                mem: Bytes::mib(64),
                ..Resources::default()
            },
            revocable: Resources::default(),
            volumes: Vec::new(),
            array_index: None,
            after: None,
        };
        let launch = ExecutorLaunch {
            launch,
            sandbox: text(&sandbox)?,
            volumes: Vec::new(),
            program: None,
            stdin: None,
            cgroup: Some(format!("{}/task", self.group)),
            image: image.map(|image| image.0.clone()),
            images: BTreeMap::new(),
            secrets: BTreeMap::new(),
            devices: None,
            network: None,
            users: None,
        };
        protocol::write_frame(&mut self.stream, &ToExecutor::Launch(Box::new(launch)))?;
        Ok(())
    }

    /// Waits for a state of the task that was launched last.
    pub fn until(&mut self, wanted: impl Fn(TaskState) -> bool) -> Result<TaskState> {
        loop {
            match protocol::read_frame(&mut self.stream)? {
                Some(FromExecutor::Update(update)) if wanted(update.state) => {
                    if update.state.is_terminal() {
                        let forget = ToExecutor::Forget(update.task);
                        protocol::write_frame(&mut self.stream, &forget)?;
                    }
                    return Ok(update.state);
                }
                Some(FromExecutor::Update(update)) if update.state.is_terminal() => {
                    bail!("the task is {}: {:?}", update.state, update.reason);
                }
                Some(_) => {}
                None => bail!("the executor hung up"),
            }
        }
    }

    /// What it takes of memory, what it shares in parts.
    pub fn pss_mib(&self) -> Result<f64> {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.identity.pid))?;
        let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
        let pss = pss.and_then(|rest| rest.trim().strip_suffix(" kB"));
        let kib: f64 = pss.context("no Pss in smaps_rollup")?.parse()?;
        Ok(kib / 1024.0)
    }

    /// A bundle of the specification that it made, on the files of the image, in another cgroup.
    pub fn bundle_for(&self, root: &Path, image: &Image, group: &str) -> Result<PathBuf> {
        let config = std::fs::read(self.dir.join("bundle/config.json"))?;
        let mut config: serde_json::Value = serde_json::from_slice(&config)?;
        config["root"]["path"] = image.0.layers[0].clone().into();
        config["linux"]["cgroupsPath"] = format!("/{group}/runc").into();
        let bundle = root.join("bundle");
        std::fs::create_dir_all(&bundle)?;
        std::fs::write(bundle.join("config.json"), serde_json::to_vec(&config)?)?;
        Ok(bundle)
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.identity.pid);
        // It may have ended by itself.
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        let _ = cgroup::destroy(&self.group, Duration::from_secs(10));
    }
}

/// An image of one layer: Debian's busybox-static.
pub struct Image(Arc<LocalImage>);

impl Image {
    /// Makes it below `root`.
    pub fn make(root: &Path) -> Result<Self> {
        let layer = root.join("layer");
        std::fs::create_dir_all(layer.join("bin"))?;
        std::fs::copy("/bin/busybox", layer.join("bin/busybox")).context("busybox-static")?;
        for tool in ["true", "sleep"] {
            symlink("busybox", layer.join("bin").join(tool))?;
        }
        Ok(Self(Arc::new(LocalImage {
            digest: Digest::of(b"bench"),
            layers: vec![text(&layer)?],
            config: ImageConfig::default(),
        })))
    }
}

fn text(path: &Path) -> Result<String> {
    let text = path.to_str().context("a path of text")?;
    Ok(text.to_owned())
}
