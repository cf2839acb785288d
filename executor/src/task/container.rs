//! A command in a container: its root file system, its specification, its runtime, in that order.
//!
//! This process has mounts of its own (mount_namespaces(7)) from the first container on, so whatever
//! is mounted for it is gone when both have ended, however they end. It has one container, and ends
//! after it.

use std::path::Path;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tepui_executor::output::Keep;
use tepui_executor::startup::Startup;
use tepui_types::Reason;
use tepui_types::container::{Container, Namespace};
use tepui_types::task::{CommandWorkload, reason};
use tepui_types::wire::executor::ExecutorLaunch;

use crate::input::Input;
use crate::outputs::Outputs;
use crate::sources::Sources;
use crate::spec::Plan;
use crate::stdio::CommandStdio;
use crate::users::Account;
use crate::{files, root, runtime, signals, spec, users};

/// Where a container with an image finds its sandbox.
pub const SANDBOX: &str = "/mnt/tepui/sandbox";

/// A command to be started in a container.
pub struct Prepared<'a> {
    /// The task, and what the agent prepared for it.
    pub launch: &'a ExecutorLaunch,
    /// Its command.
    pub command: &'a CommandWorkload,
    /// The container.
    pub container: &'a Container,
    /// The cgroup that it joins, which is there.
    pub cgroup: &'a str,
}

/// A container that runs.
pub struct Running {
    /// Its first process.
    pub init: Pid,
    /// What asks it to end.
    pub stop_signal: Signal,
    /// What it writes.
    pub outputs: Outputs,
    /// What it reads, if it is sent to it.
    pub input: Option<Input>,
    /// Whether its first process is the first of a namespace, which has no default actions.
    pub is_first: bool,
}

impl Prepared<'_> {
    /// Starts it. The process is this one's child, and reaped with all others.
    pub fn start(&self, startup: &Startup) -> Result<Running, Reason> {
        let image = self.launch.image.as_deref();
        let stop_signal = image.and_then(|image| image.config.stop_signal.as_deref());
        let stop_signal = signals::named(stop_signal.unwrap_or("SIGTERM"))
            .map_err(|why| Reason::new(reason::IMAGE_INVALID, format!("its stop signal: {why}")))?;
        let sandbox = Path::new(&self.launch.sandbox);
        let beside = sandbox.parent().unwrap_or(sandbox);
        let failed = |what: &'static str| {
            move |error| executor_failed(format!("the container's {what}: {error}"))
        };
        let keep = Keep::of(self.command, startup.output_limit);
        let stdin = self.command.stdin();
        let stdio = files::make(sandbox, stdin, keep).map_err(failed("sandbox"))?;
        for volume in &self.launch.volumes {
            tepui_executor::volume::make(volume).map_err(failed("volume"))?;
        }
        root::leave_mounts().map_err(failed("mounts"))?;
        let root = match image {
            Some(image) => root::of_image(beside, &image.layers),
            None => root::of_machine(beside, self.container.read_only),
        };
        let root = root.map_err(failed("root file system"))?;
        let account = self.account(&root)?;
        // Whoever it runs as can write there.
        std::os::unix::fs::chown(sandbox, Some(account.uid), Some(account.gid))
            .map_err(failed("sandbox"))?;
        stdio
            .give(account.uid, account.gid)
            .map_err(failed("input and output"))?;
        for volume in &self.launch.volumes {
            tepui_executor::volume::give(volume, account.uid, account.gid)
                .map_err(failed("volume"))?;
        }
        let sources = Sources {
            launch: self.launch,
            account: &account,
            folder: &beside.join("container"),
        };
        let shown = sources.of(self.container)?;
        let plan = Plan {
            launch: self.launch,
            command: self.command,
            container: self.container,
            agent: startup.agent,
            root: &root,
            cgroup: self.cgroup,
            account: &account,
            // Who reads this process's token could speak for its agent.
            hidden: startup.dir.parent().unwrap_or(&startup.dir),
            privileges: startup.privileges,
        };
        let etc = beside.join("etc");
        let files = files::write(&etc, &plan).map_err(failed("files in /etc"))?;
        let spec = spec::of(&plan, &files, &shown)?;
        let workdir = spec.process().as_ref().map(|process| process.cwd().clone());
        if let Some(workdir) = workdir.filter(|_| image.is_some()) {
            root::make_folders(&root, &workdir).map_err(failed("working folder"))?;
        }
        let CommandStdio {
            theirs,
            outputs,
            input,
            is_terminal,
        } = stdio;
        let init = runtime::start(
            &startup.runtime,
            &spec,
            &startup.dir,
            theirs,
            is_terminal,
            startup.privileges,
        )?;
        Ok(Running {
            init,
            stop_signal,
            outputs,
            input,
            is_first: !self.container.share.contains(&Namespace::Pid),
        })
    }

    fn account(&self, root: &Path) -> Result<Account, Reason> {
        let image = self.launch.image.as_deref();
        let of_image = image.map(|image| image.config.user.as_str());
        let wanted = self.container.user.as_deref().or(of_image);
        users::find(root, wanted.unwrap_or_default())
            .map_err(|why| Reason::new(reason::COMMAND_FAILED, why))
    }
}

fn executor_failed(message: String) -> Reason {
    Reason::new(reason::EXECUTOR_FAILED, message)
}
