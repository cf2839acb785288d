//! What has to change in a container, or around a process, so that devices work in it.
//!
//! Plain data, made by `cdi` and by the built-in descriptions, and put into an OCI runtime
//! specification by an executor. Every path in it is absolute and without `..`. Of what stands at
//! one place in a container the last one counts, as CDI has it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};

pub use tepui_types::wire::executor::HookPoint;

use crate::rules::DeviceRule;

/// Changes to a container, in the order of the OCI runtime specification's fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerEdits {
    /// Variables and their values; the last of a name counts.
    pub env: Vec<(String, String)>,
    /// Folders to put in front of what a variable lists, such as `LD_LIBRARY_PATH`.
    pub search: Vec<(String, PathBuf)>,
    /// Nodes to make, and to allow.
    pub devices: Vec<DeviceNode>,
    /// Mounts to add, in this order.
    pub mounts: Vec<EditMount>,
    /// Programs of the machine to run around the container's start and end.
    pub hooks: Vec<Hook>,
    /// Groups that the container's process is in as well.
    pub additional_gids: Vec<u32>,
    /// Whether it has to share the machine's IPC namespace, as clients of a shared device do.
    pub share_ipc: bool,
}

/// What a node leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeKind {
    /// A character device: all GPUs are.
    Char,
    /// A block device.
    Block,
    /// A named pipe, which has no numbers.
    Fifo,
}

impl NodeKind {
    /// The letter in specifications and in the kernel's lists.
    pub fn letter(self) -> char {
        match self {
            Self::Char => 'c',
            Self::Block => 'b',
            Self::Fifo => 'p',
        }
    }
}

/// What a container may do with a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Access {
    /// Open it to read.
    pub read: bool,
    /// Open it to write.
    pub write: bool,
    /// Make nodes of it.
    pub mknod: bool,
}

impl Access {
    /// All of it: what CDI gives when a file says nothing.
    pub const ALL: Self = Self::new(true, true, true);
    /// To use, and not to make nodes of: enough for a program.
    pub const USE: Self = Self::new(true, true, false);
    /// None: the node is there and cannot be opened.
    pub const NONE: Self = Self::new(false, false, false);

    const fn new(read: bool, write: bool, mknod: bool) -> Self {
        Self { read, write, mknod }
    }
}

impl fmt::Display for Access {
    /// Such as `rwm`, as the OCI specification and cgroup v1 write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = [(self.read, "r"), (self.write, "w"), (self.mknod, "m")];
        letters
            .iter()
            .filter(|(is_set, _)| *is_set)
            .try_for_each(|(_, letter)| f.write_str(letter))
    }
}

/// A device node of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    /// Where it is in the container.
    pub path: PathBuf,
    /// Where it is on the machine.
    pub host_path: PathBuf,
    /// What it leads to.
    pub kind: NodeKind,
    /// The driver's number.
    pub major: u32,
    /// The device's number.
    pub minor: u32,
    /// Its permissions; the machine's own if nothing is said.
    pub file_mode: Option<u32>,
    /// Its owner; the container's user if nothing is said.
    pub uid: Option<u32>,
    /// Its group; the container's if nothing is said.
    pub gid: Option<u32>,
    /// What the container's cgroup allows.
    pub access: Access,
}

/// A mount of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EditMount {
    /// What is mounted.
    pub host_path: PathBuf,
    /// Where it is mounted.
    pub container_path: PathBuf,
    /// The kind of file system; `bind` unless a file says another.
    pub kind: String,
    /// As mount(8) has them.
    pub options: Vec<String>,
}

impl EditMount {
    /// A file or folder of the machine that can be read and not written.
    pub fn read_only(host_path: impl Into<PathBuf>, container_path: impl Into<PathBuf>) -> Self {
        let options = ["ro", "nosuid", "nodev", "rbind", "rprivate"];
        Self {
            host_path: host_path.into(),
            container_path: container_path.into(),
            kind: "bind".into(),
            options: options.map(str::to_owned).into(),
        }
    }
}

/// A program of the machine that a runtime calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// When.
    pub point: HookPoint,
    /// Which.
    pub path: PathBuf,
    /// Its arguments, its own name first.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: Vec<(String, String)>,
    /// After how many seconds it is ended.
    pub timeout_s: Option<u32>,
}

impl ContainerEdits {
    /// `other` after these: at a place that both name, `other` counts.
    pub fn append(&mut self, other: Self) {
        self.share_ipc |= other.share_ipc;
        for (name, value) in other.env {
            self.set(&name, value);
        }
        for search in other.search {
            if !self.search.contains(&search) {
                self.search.push(search);
            }
        }
        for device in other.devices {
            self.devices.retain(|known| known.path != device.path);
            self.devices.push(device);
        }
        for mount in other.mounts {
            let place = &mount.container_path;
            self.mounts.retain(|known| known.container_path != *place);
            self.mounts.push(mount);
        }
        for hook in other.hooks {
            if !self.hooks.contains(&hook) {
                self.hooks.push(hook);
            }
        }
        for gid in other.additional_gids {
            if !self.additional_gids.contains(&gid) {
                self.additional_gids.push(gid);
            }
        }
    }

    /// Sets one variable.
    pub fn set(&mut self, name: &str, value: String) {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value));
    }

    /// What a container's environment is with these.
    pub fn apply_env(&self, env: &mut BTreeMap<String, String>) {
        env.extend(self.env.iter().cloned());
        for (name, folder) in &self.search {
            let folder = folder.display();
            let value = match env.get(name).filter(|rest| !rest.is_empty()) {
                Some(rest) => format!("{folder}:{rest}"),
                None => folder.to_string(),
            };
            env.insert(name.clone(), value);
        }
    }

    /// What its cgroup has to allow, each device once.
    pub fn device_rules(&self) -> Vec<DeviceRule> {
        let mut rules: Vec<DeviceRule> = Vec::new();
        let opened =
            |node: &&DeviceNode| node.kind != NodeKind::Fifo && node.access != Access::NONE;
        for node in self.devices.iter().filter(opened) {
            let rule = DeviceRule::allow(node.kind, node.major, node.minor, node.access);
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        rules
    }
}

/// Whether a path may stand in edits: absolute, plain, and not the root itself.
pub(crate) fn is_plain(path: &Path) -> bool {
    let is_clean = |text: &str| !text.contains('\0') && !text.split('/').any(|part| part == "..");
    path.is_absolute()
        && path.to_str().is_some_and(is_clean)
        && path
            .components()
            .any(|part| matches!(part, Component::Normal(_)))
}
