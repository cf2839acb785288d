//! A command in a container: its root file system, its specification, its runtime, in that order.
//!
//! This process has mounts of its own (mount_namespaces(7)) from the first container on, so whatever
//! is mounted for it is gone when both have ended, however they end. Its containers are those of one
//! task, and it ends after them.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use tepui_executor::cgroup::CgroupError;
use tepui_executor::runtime::Runtime;
use tepui_executor::startup::Startup;
use tepui_executor::{cgroup, log};
use tepui_types::container::{Container, Namespace, Userns};
use tepui_types::task::{CommandWorkload, reason};
use tepui_types::wire::executor::ExecutorLaunch;
use tepui_types::{Bytes, Reason};

use crate::attempt::Attempt;
use crate::places::Places;
use crate::shared::Shared;
use crate::signals::StopSignal;
use crate::sources::Sources;
use crate::spec::Plan;
use crate::stdio::Theirs;
use crate::userns::UserNamespace;
use crate::users::Account;
use crate::{devices, files, places, root, runtime, shared, spec, users};

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
    /// The memory that it may have there.
    pub mem: Bytes,
    /// The folder of its root and its files.
    pub beside: &'a Path,
    /// The folder of what its runtime notes.
    pub dir: &'a Path,
    /// Its root file system, if it has run before: it finds there what it wrote.
    pub root: Option<&'a Path>,
    /// What it has in common with others.
    pub shared: Option<&'a mut Shared>,
    /// Whose its files are, and where they are mounted, if its users are none of the machine's own.
    pub mapped: Option<Mapped<'a>>,
}

/// A container whose users are none of the machine's own.
#[derive(Clone, Copy)]
pub struct Mapped<'a> {
    /// Their namespace.
    pub users: &'a UserNamespace,
    /// The folder where its things are mounted for them.
    pub stage: &'a Path,
}

/// A container that is being started.
pub struct Started {
    /// Its first process, once that has executed its program.
    pub init: Attempt,
    /// What asks it to end.
    pub stop_signal: StopSignal,
    /// Whether its first process is the first of a namespace, which has no default actions.
    pub is_first: bool,
    /// Its root file system.
    pub root: PathBuf,
}

impl Prepared<'_> {
    /// Starts it, with these as its input and output. The process becomes this one's child, and is
    /// reaped with all others.
    pub fn start(mut self, theirs: Theirs, startup: &Startup) -> Result<Started, Reason> {
        let image = self.launch.image.as_deref();
        if self.container.image.is_some() && image.is_none() {
            return Err(executor_failed("its image was not prepared".into()));
        }
        if self.container.userns == Userns::Private && self.mapped.is_none() {
            return Err(executor_failed("its users were not prepared".into()));
        }
        let stop_signal = image.and_then(|image| image.config.stop_signal.as_deref());
        let stop_signal = stop_signal.map_or(Ok(StopSignal::TERM), StopSignal::named);
        let stop_signal = stop_signal
            .map_err(|why| Reason::new(reason::IMAGE_INVALID, format!("its stop signal: {why}")))?;
        for volume in &self.launch.volumes {
            tepui_executor::volume::make(volume).map_err(failed("volume"))?;
        }
        let root = match self.root {
            Some(root) => Ok(root.to_owned()),
            None => self.make_root(),
        };
        let root = root.map_err(failed("root file system"))?;
        let account = self.account(&root)?;
        let owner = self.owner(&account)?;
        self.open_folders(&account)?;
        theirs
            .give(owner.0, owner.1)
            .map_err(failed("input and output"))?;
        let sources = Sources {
            launch: self.launch,
            owner,
            folder: &self.place(),
            users: self.users(),
        };
        let shown = sources.of(self.container)?;
        let places = self.places().map_err(failed("sandbox and volumes"))?;
        let own = self.own_network().map_err(failed("network"))?;
        let network = self.shared.as_deref().and_then(Shared::network);
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
            shared: self.shared.as_deref(),
            network: network.or(own.as_ref()),
            runtime: &startup.runtime,
            places: &places,
            users: self.users(),
        };
        let etc = self.beside.join("etc");
        let mut files = files::write(&etc, &plan).map_err(failed("files in /etc"))?;
        if let Some(Mapped { users, stage }) = self.mapped {
            places::show_files(&mut files, users, stage).map_err(failed("files in /etc"))?;
        }
        let spec = spec::of(&plan, &files, &shown)?;
        let workdir = spec.process().as_ref().map(|process| process.cwd().clone());
        if let Some(workdir) = workdir.filter(|_| image.is_some()) {
            let owner = self.users().map(UserNamespace::root);
            root::make_folders(&root, &workdir, owner.unwrap_or_default())
                .map_err(failed("working folder"))?;
        }
        self.guard_devices(&startup.runtime)?;
        let start = runtime::Start {
            runtime: &startup.runtime,
            mem: self.mem,
            privileges: startup.privileges,
            stdio: theirs.files,
            has_terminal: theirs.is_terminal,
            outside: outside(self.launch, self.users()),
        };
        let mut init = runtime::start(start, &spec, self.dir)?;
        if let Some(own) = own {
            init.keep(own);
        }
        Ok(Started {
            init,
            stop_signal,
            is_first: !self.container.share.contains(&Namespace::Pid),
            root,
        })
    }

    /// Keeps it from devices where the runtime would not: the built-in one knows v1's controller alone.
    fn guard_devices(&self, runtime: &Runtime) -> Result<(), Reason> {
        if *runtime != Runtime::BuiltIn || !cgroup::devices::is_without_controller() {
            return Ok(());
        }
        let policy = devices::policy(self.launch.devices.as_deref());
        match cgroup::devices::restrict(self.cgroup, &policy) {
            Ok(()) => Ok(()),
            Err(error) => go_unguarded(&error),
        }
    }

    fn make_root(&self) -> io::Result<PathBuf> {
        match (&self.shared, self.mapped) {
            (_, Some(_)) => {}
            // They have left the machine's mounts together.
            (Some(_), None) => root::set_root_apart(self.beside)?,
            (None, None) => root::leave_mounts()?,
        }
        match self.launch.image.as_deref() {
            Some(image) => root::of_image(self.beside, &self.place(), &image.layers, self.users()),
            None => root::of_machine(self.beside, self.container.read_only),
        }
    }

    /// Has whoever it runs as write to its sandbox and its new volumes, which on disk are as if its users
    /// were the machine's.
    fn open_folders(&mut self, account: &Account) -> Result<(), Reason> {
        let (uid, gid) = (account.uid, account.gid);
        let sandbox = Path::new(&self.launch.sandbox);
        let opened = match &mut self.shared {
            Some(shared) => shared.open_sandbox(sandbox, account),
            None => std::os::unix::fs::chown(sandbox, Some(uid), Some(gid)),
        };
        opened.map_err(failed("sandbox"))?;
        for volume in &self.launch.volumes {
            tepui_executor::volume::give(volume, uid, gid).map_err(failed("volume"))?;
        }
        Ok(())
    }

    /// The one that no other container has, where it is to have loopback alone.
    fn own_network(&self) -> io::Result<Option<OwnedFd>> {
        match self.shared {
            Some(_) => Ok(None),
            None => shared::network_of(self.container, self.users()),
        }
    }

    fn users(&self) -> Option<&UserNamespace> {
        self.mapped.map(|mapped| mapped.users)
    }

    /// The folder where its root and its mounts are.
    fn place(&self) -> PathBuf {
        match self.mapped {
            Some(mapped) => mapped.stage.to_owned(),
            None => self.beside.join("container"),
        }
    }

    fn places(&self) -> io::Result<Places> {
        match self.mapped {
            Some(Mapped { users, stage }) => {
                Places::mounted(self.launch, self.container, users, stage)
            }
            None => Ok(Places::of(self.launch)),
        }
    }

    /// As whom it runs, as the machine counts.
    fn owner(&self, account: &Account) -> Result<(u32, u32), Reason> {
        let Account { uid, gid, .. } = *account;
        let Some(mapped) = self.mapped else {
            return Ok((uid, gid));
        };
        let groups = account.groups.iter();
        let known = groups.map(|group| mapped.users.of_machine(uid, *group));
        let known: Result<Vec<_>, _> = known.collect();
        let owner = known.and_then(|_| mapped.users.of_machine(uid, gid));
        owner.map_err(|why| Reason::new(reason::COMMAND_FAILED, why))
    }

    fn account(&self, root: &Path) -> Result<Account, Reason> {
        let image = self.launch.image.as_deref();
        let of_image = image.map(|image| image.config.user.as_str());
        let wanted = self.container.user.as_deref().or(of_image);
        users::find(root, wanted.unwrap_or_default())
            .map_err(|why| Reason::new(reason::COMMAND_FAILED, why))
    }
}

/// What a container of that launch with these users is started in, and what runs beside it.
pub fn outside<'a>(
    launch: &'a ExecutorLaunch,
    users: Option<&'a UserNamespace>,
) -> runtime::Outside<'a> {
    let network = launch.network.as_deref().filter(|_| users.is_some());
    runtime::Outside {
        network: network.map(|network| Path::new(&network.namespace)),
        users,
    }
}

/// Where the kernel refuses to keep a container from devices, it has its own `/dev` and few privileges, as
/// is. What is wrong with the rules themselves is no word of the kernel's.
fn go_unguarded(error: &CgroupError) -> Result<(), Reason> {
    match error {
        CgroupError::Refused { .. } => {
            log::say(format_args!(
                "nothing but privileges keeps the container from devices: {error}"
            ));
            Ok(())
        }
        _ => Err(Reason::new(
            reason::CONTAINER_REFUSED,
            format!("the container's devices: {error}"),
        )),
    }
}

/// What the machine cannot is no failure.
fn failed(what: &'static str) -> impl Fn(io::Error) -> Reason {
    move |error| {
        let code = match error.kind() {
            ErrorKind::Unsupported => reason::CONTAINER_REFUSED,
            _ => reason::EXECUTOR_FAILED,
        };
        Reason::new(code, format!("the container's {what}: {error}"))
    }
}

fn executor_failed(message: String) -> Reason {
    Reason::new(reason::EXECUTOR_FAILED, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_goes_unguarded_by_the_kernels_word_alone() {
        let refused = CgroupError::Refused {
            step: "load a program for devices",
            path: "/sys/fs/cgroup/a".into(),
            message: "Operation not permitted".into(),
        };
        assert_eq!(go_unguarded(&refused), Ok(()));
        let why = go_unguarded(&CgroupError::DeviceRules(501)).unwrap_err();
        assert_eq!(why.code, reason::CONTAINER_REFUSED);
        assert!(why.message.contains("501"), "{why:?}");
    }
}
