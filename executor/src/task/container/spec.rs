//! What a container is to be, as the OCI runtime specification says it (`config.json`, version 1.0).
//!
//! A pure function of the launch and of what was prepared for it. Defaults are those of other
//! runtimes where people rely on them: which file systems there are, which paths of the kernel are
//! hidden; its capabilities and system calls are those of every confined task of this agent.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capability, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxIdMappingBuilder, LinuxNamespace,
    LinuxNamespaceBuilder, LinuxNamespaceType, LinuxResourcesBuilder, Mount, MountBuilder,
    PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, ProcessBuilder, RootBuilder, Spec,
    SpecBuilder, UserBuilder, get_default_maskedpaths, get_default_readonly_paths,
};
use tepui_executor::privileges::Privileges;
use tepui_executor::runtime::Runtime;
use tepui_executor::{confinement, environment};
use tepui_types::container::{Container, MountSource, Namespace, Network};
use tepui_types::task::{CommandWorkload, reason};
use tepui_types::wire::agent::TaskLaunch;
use tepui_types::wire::executor::{ExecutorLaunch, VolumeFolder};
use tepui_types::{AgentId, Reason};

use crate::command::DEFAULT_PATH;
use crate::container::SANDBOX;
use crate::devices;
use crate::files::EtcFile;
use crate::hooks;
use crate::places::Places;
use crate::runtime::path_of;
use crate::shared::Shared;
use crate::sources::Shown;
use crate::userns::UserNamespace;
use crate::users::Account;

/// All that a container is made of.
pub struct Plan<'a> {
    /// The task, and what the agent prepared for it.
    pub launch: &'a ExecutorLaunch,
    /// Its command.
    pub command: &'a CommandWorkload,
    /// The container.
    pub container: &'a Container,
    /// The agent.
    pub agent: AgentId,
    /// Its root file system, mounted.
    pub root: &'a Path,
    /// Its cgroup, below the hierarchies' roots.
    pub cgroup: &'a str,
    /// As whom it runs.
    pub account: &'a Account,
    /// A folder of the machine that no container sees.
    pub hidden: &'a Path,
    /// What it may do.
    pub privileges: Privileges,
    /// What it has in common with other containers of its task.
    pub shared: Option<&'a Shared>,
    /// Its network, where that has loopback alone.
    pub network: Option<&'a OwnedFd>,
    /// Who makes it.
    pub runtime: &'a Runtime,
    /// Where that finds what is its task's.
    pub places: &'a Places,
    /// Its user namespace, where that is its task's own.
    pub users: Option<&'a UserNamespace>,
}

impl Plan<'_> {
    /// What it calls itself.
    pub fn hostname(&self) -> String {
        hostname(&self.launch.launch, self.container)
    }

    /// Where it finds its sandbox.
    fn sandbox(&self) -> &str {
        match self.launch.image {
            Some(_) => SANDBOX,
            None => &self.launch.sandbox,
        }
    }

    /// What it executes: what the command says, else what the image's maker says.
    fn words(&self) -> Result<Vec<String>, Reason> {
        let config = self.launch.image.as_ref().map(|image| &image.config);
        let given = self.container.entrypoint.as_ref();
        let of_image = config.map(|config| &config.entrypoint);
        let mut words = given.or(of_image).cloned().unwrap_or_default();
        if !self.command.argv.is_empty() {
            words.extend(self.command.argv.iter().cloned());
        } else if given.is_none() {
            words.extend(
                config
                    .into_iter()
                    .flat_map(|config| config.cmd.iter().cloned()),
            );
        }
        match words.is_empty() {
            true => Err(Reason::new(
                reason::COMMAND_FAILED,
                "the image says neither entrypoint nor command: name the program to run",
            )),
            false => Ok(words),
        }
    }

    /// The image's, then the task's, then what every task has, then what its devices need.
    fn env(&self) -> Vec<String> {
        let task = &self.launch.launch;
        let own = environment::of(task, self.agent, self.sandbox());
        let image = self.launch.image.iter();
        let image = image.flat_map(|image| image.config.env.iter());
        let image = image.filter_map(|variable| variable.split_once('='));
        let defaults = [("PATH", DEFAULT_PATH), ("HOME", self.account.home.as_str())];
        let mut all = BTreeMap::from(defaults);
        all.extend(image);
        all.extend(
            own.iter()
                .map(|(name, value)| (name.as_str(), value.as_str())),
        );
        let given = self.launch.devices.iter().flat_map(|given| &given.env);
        all.extend(given.map(|(name, value)| (name.as_str(), value.as_str())));
        let all = all.into_iter();
        all.map(|(name, value)| format!("{name}={value}")).collect()
    }

    fn workdir(&self) -> String {
        let image = self.launch.image.as_ref();
        let of_image = image.map(|image| image.config.working_dir.as_str());
        let of_image = of_image.filter(|workdir| !workdir.is_empty());
        match (&self.container.workdir, image) {
            (Some(workdir), _) => workdir.clone(),
            (None, Some(_)) => of_image.unwrap_or("/").to_owned(),
            (None, None) => self.launch.sandbox.clone(),
        }
    }

    /// Its volumes, and where its runtime finds them.
    fn volumes(&self) -> impl Iterator<Item = (&VolumeFolder, &PathBuf)> {
        self.launch.volumes.iter().zip(&self.places.volumes)
    }

    fn shares(&self, namespace: Namespace) -> bool {
        self.container.share.contains(&namespace)
    }
}

/// What a container of that task calls itself.
pub fn hostname(launch: &TaskLaunch, container: &Container) -> String {
    container.hostname.clone().unwrap_or_else(|| {
        let mut name = launch.task.name.to_string();
        name.truncate(Container::MAX_HOSTNAME);
        name
    })
}

/// The specification of a container with these files of its own, whose mounts show that.
pub fn of(plan: &Plan<'_>, files: &[EtcFile], shown: &[Shown]) -> Result<Spec, Reason> {
    let words = plan.words()?;
    build(plan, words, files, shown).map_err(|error| {
        let message = format!("the container's specification: {error}");
        Reason::new(reason::EXECUTOR_FAILED, message)
    })
}

fn build(
    plan: &Plan<'_>,
    words: Vec<String>,
    files: &[EtcFile],
    shown: &[Shown],
) -> Result<Spec, OciSpecError> {
    // A tree of the machine is made read-only with all that is mounted in it, before this.
    let readonly = plan.container.read_only && plan.launch.image.is_some();
    let root = RootBuilder::default().path(plan.root).readonly(readonly);
    let mut spec = SpecBuilder::default()
        .version("1.0.2")
        .root(root.build()?)
        .process(process(plan, words)?)
        .mounts(mounts(plan, files, shown)?)
        .linux(linux(plan)?);
    if let Some(hooks) = hooks::of(plan.launch.devices.as_deref())? {
        spec = spec.hooks(hooks);
    }
    let mut spec = spec.build()?;
    // The builder has a name of its own.
    spec.set_hostname((!plan.shares(Namespace::Uts)).then(|| plan.hostname()));
    Ok(spec)
}

fn process(plan: &Plan<'_>, words: Vec<String>) -> Result<Process, OciSpecError> {
    let account = plan.account;
    let user = UserBuilder::default()
        .uid(account.uid)
        .gid(account.gid)
        .additional_gids(account.groups.clone());
    let mut process = ProcessBuilder::default()
        .terminal(false)
        .user(user.build()?)
        .args(words)
        .env(plan.env())
        .cwd(plan.workdir())
        .no_new_privileges(true)
        .rlimits(rlimits(plan.container)?);
    let kept = capabilities(plan)?;
    let capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(kept.clone())
        .effective(kept.clone())
        .permitted(kept)
        .inheritable(HashSet::new())
        .ambient(HashSet::new());
    process = process.capabilities(capabilities.build()?);
    process.build()
}

/// What root may do; other users have none.
fn capabilities(plan: &Plan<'_>) -> Result<HashSet<Capability>, OciSpecError> {
    let names: Vec<_> = match plan.privileges {
        _ if plan.account.uid != 0 => Vec::new(),
        Privileges::Confined => confinement::capability_names().collect(),
        Privileges::All => {
            let own = confinement::own_capability_names();
            own.map_err(OciSpecError::Io)?.collect()
        }
    };
    let names = names.into_iter().map(str::parse::<Capability>);
    let kept: Result<_, _> = names.collect();
    kept.map_err(|error| OciSpecError::Other(error.to_string()))
}

fn rlimits(container: &Container) -> Result<Vec<PosixRlimit>, OciSpecError> {
    let limit = |(name, limit): (&String, &tepui_types::container::Rlimit)| {
        let typ = format!("RLIMIT_{}", name.to_ascii_uppercase());
        let typ = typ.parse::<PosixRlimitType>();
        let typ = typ.map_err(|error| OciSpecError::Other(error.to_string()))?;
        let builder = PosixRlimitBuilder::default();
        builder.typ(typ).soft(limit.soft).hard(limit.hard).build()
    };
    container.rlimits.iter().map(limit).collect()
}

/// In the order in which they are mounted.
fn mounts(plan: &Plan<'_>, files: &[EtcFile], shown: &[Shown]) -> Result<Vec<Mount>, OciSpecError> {
    let mut mounts = vec![
        kernel("/proc", "proc", &["nosuid", "noexec", "nodev"])?,
        kernel(
            "/dev",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=64k"],
        )?,
        kernel(
            "/dev/pts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        )?,
        match plan.shared.and_then(Shared::shm) {
            Some(shm) => bind_with(shm, "/dev/shm", &["nosuid", "noexec", "nodev", "rw"])?,
            None => kernel(
                "/dev/shm",
                "tmpfs",
                &["nosuid", "noexec", "nodev", "mode=1777", "size=64m"],
            )?,
        },
        kernel("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"])?,
        match &plan.places.sysfs {
            Some(sysfs) => bind_with(sysfs, "/sys", &["nosuid", "noexec", "nodev", "ro", "rro"])?,
            None => kernel("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"])?,
        },
        kernel(
            "/sys/fs/cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"],
        )?,
    ];
    if plan.container.read_only {
        mounts.push(kernel("/tmp", "tmpfs", &["nosuid", "nodev", "mode=1777"])?);
    }
    mounts.push(bind(&plan.places.sandbox, plan.sandbox(), false)?);
    for (volume, folder) in plan.volumes() {
        let place = Path::new(plan.sandbox()).join(&volume.path);
        mounts.push(bind(folder, place, false)?);
    }
    for (file, place) in files {
        mounts.push(bind(file, place, false)?);
    }
    for (mount, shown) in plan.container.mounts.iter().zip(shown) {
        mounts.push(match shown {
            Shown::Path { from, .. } if matches!(mount.source, MountSource::Secret(_)) => {
                bind_with(
                    from,
                    &mount.path,
                    &["nosuid", "noexec", "nodev", "ro", "rro"],
                )?
            }
            Shown::Path { from, read_only } => {
                mounts.push(bind(from, &mount.path, *read_only)?);
                mounts.extend(volumes_below(plan, mount, *read_only)?);
                continue;
            }
            Shown::Memory(size) => {
                let size = format!("size={}", size.0);
                kernel(
                    &mount.path,
                    "tmpfs",
                    &["nosuid", "nodev", "mode=1777", &size],
                )?
            }
        });
    }
    // What is the machine's already is where a container of the machine's tree finds it.
    let given = plan.launch.devices.iter().flat_map(|given| &given.mounts);
    let given = given.filter(|mount| plan.launch.image.is_some() || mount.path != mount.host_path);
    for mount in given {
        mounts.push(bind(&mount.host_path, &mount.path, true)?);
    }
    if plan.users.is_some() {
        // Their root makes no nodes, and is given the machine's.
        let nodes = plan.launch.devices.iter().flat_map(|given| &given.nodes);
        for node in nodes {
            mounts.push(bind_with(&node.host_path, &node.path, &["nosuid"])?);
        }
    }
    Ok(mounts)
}

/// The volumes that lie below what a mount shows of the sandbox.
fn volumes_below(
    plan: &Plan<'_>,
    mount: &tepui_types::container::Mount,
    read_only: bool,
) -> Result<Vec<Mount>, OciSpecError> {
    let MountSource::Sandbox(path) = &mount.source else {
        return Ok(Vec::new());
    };
    let below = plan.volumes().filter_map(|(volume, folder)| {
        let rest = Path::new(&volume.path).strip_prefix(path).ok()?;
        let place = Path::new(&mount.path).join(rest);
        (!rest.as_os_str().is_empty()).then(|| bind(folder, place, read_only))
    });
    below.collect()
}

fn kernel(place: &str, typ: &str, options: &[&str]) -> Result<Mount, OciSpecError> {
    MountBuilder::default()
        .destination(place)
        .typ(typ)
        .source(typ)
        .options(
            options
                .iter()
                .map(|option| (*option).to_owned())
                .collect::<Vec<_>>(),
        )
        .build()
}

fn bind(
    source: impl Into<PathBuf>,
    place: impl Into<PathBuf>,
    read_only: bool,
) -> Result<Mount, OciSpecError> {
    // Runtimes that do not know `rro`, which is for all that is mounted below as well, keep what is on
    // top from being written to.
    match read_only {
        true => bind_with(source, place, &["nosuid", "nodev", "ro", "rro"]),
        false => bind_with(source, place, &["nosuid", "nodev", "rw"]),
    }
}

fn bind_with(
    source: impl Into<PathBuf>,
    place: impl Into<PathBuf>,
    options: &[&str],
) -> Result<Mount, OciSpecError> {
    let options = ["rbind"].iter().chain(options);
    MountBuilder::default()
        .destination(place)
        .typ("bind")
        .source(source)
        .options(
            options
                .map(|option| (*option).to_owned())
                .collect::<Vec<_>>(),
        )
        .build()
}

fn linux(plan: &Plan<'_>) -> Result<oci_spec::runtime::Linux, OciSpecError> {
    let mut read_only = get_default_readonly_paths();
    read_only.extend(plan.container.read_only_paths.iter().cloned());
    let mut hidden = get_default_maskedpaths();
    hidden.push(plan.hidden.display().to_string());
    let given = plan.launch.devices.as_deref();
    let resources = LinuxResourcesBuilder::default().devices(devices::rules(given)?);
    let mut linux = LinuxBuilder::default()
        .cgroups_path(Path::new("/").join(plan.cgroup))
        .resources(resources.build()?)
        .namespaces(namespaces(plan)?)
        .masked_paths(hidden)
        .readonly_paths(read_only);
    if let Some(given) = given.filter(|_| plan.users.is_none()) {
        linux = linux.devices(devices::nodes(given)?);
    }
    if let Some(users) = plan.users {
        let range = users.range();
        let mapping = LinuxIdMappingBuilder::default()
            .container_id(0_u32)
            .host_id(range.first)
            .size(range.count)
            .build()?;
        linux = linux
            .uid_mappings(vec![mapping])
            .gid_mappings(vec![mapping]);
    }
    if plan.privileges == Privileges::Confined {
        linux = linux.seccomp(seccomp()?);
    }
    linux.build()
}

fn namespaces(plan: &Plan<'_>) -> Result<Vec<LinuxNamespace>, OciSpecError> {
    let of = |typ, path: Option<PathBuf>| {
        let builder = LinuxNamespaceBuilder::default().typ(typ);
        match path {
            Some(path) => builder.path(path).build(),
            None => builder.build(),
        }
    };
    let mut namespaces = vec![
        of(LinuxNamespaceType::Mount, None)?,
        of(LinuxNamespaceType::Cgroup, None)?,
    ];
    let choices = [
        (Namespace::Pid, LinuxNamespaceType::Pid),
        (Namespace::Ipc, LinuxNamespaceType::Ipc),
        (Namespace::Uts, LinuxNamespaceType::Uts),
    ];
    for (namespace, typ) in choices {
        if !plan.shares(namespace) {
            let shared = plan.shared.and_then(|shared| shared.namespace(namespace));
            namespaces.push(of(typ, shared.map(|file| path_of(plan.runtime, file)))?);
        }
    }
    if let Some(users) = plan.users {
        let path = path_of(plan.runtime, users.file());
        namespaces.push(of(LinuxNamespaceType::User, Some(path))?);
    }
    let network = match (&plan.launch.network, &plan.container.network) {
        // Their root may not join what is the machine's: who starts the runtime has done so.
        (Some(_), _) if plan.users.is_some() => None,
        (Some(network), _) => Some(Some(PathBuf::from(&network.namespace))),
        (None, Network::None) => Some(plan.network.map(|file| path_of(plan.runtime, file))),
        (None, Network::Host | Network::Named(_)) => None,
    };
    if let Some(path) = network {
        namespaces.push(of(LinuxNamespaceType::Network, path)?);
    }
    Ok(namespaces)
}

/// For runtimes that are programs of their own; the built-in one is filtered as all tasks are.
fn seccomp() -> Result<oci_spec::runtime::LinuxSeccomp, OciSpecError> {
    use oci_spec::runtime::{
        LinuxSeccompAction, LinuxSeccompArgBuilder, LinuxSeccompBuilder, LinuxSeccompOperator,
        LinuxSyscallBuilder,
    };
    let refuse = |names: Vec<String>, errno: i32| {
        LinuxSyscallBuilder::default()
            .names(names)
            .action(LinuxSeccompAction::ScmpActErrno)
            .errno_ret(errno.unsigned_abs())
    };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let refused: BTreeSet<_> = confinement::refused_names().collect();
    let refused: Vec<_> = refused.into_iter().map(str::to_owned).collect();
    let namespace = LinuxSeccompArgBuilder::default()
        .index(0_usize)
        .value(libc::CLONE_NEWUSER as u64)
        .value_two(libc::CLONE_NEWUSER as u64)
        .op(LinuxSeccompOperator::ScmpCmpMaskedEq);
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActAllow)
        .syscalls(vec![
            refuse(refused, libc::EPERM).build()?,
            refuse(names(&["clone", "unshare"]), libc::EPERM)
                .args(vec![namespace.build()?])
                .build()?,
            refuse(names(&["clone3"]), libc::ENOSYS).build()?,
        ])
        .build()
}
