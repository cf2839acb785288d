//! One file, checked: which devices it describes, and what each needs.
//!
//! Everything that can be known without the machine is checked here; what a node's numbers are is
//! asked when a container is made.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::error::CdiError;
use super::name::DeviceName;
use super::{version, wire, yaml};
use crate::edits::{Access, ContainerEdits, EditMount, Hook, HookPoint, NodeKind, is_plain};

/// A file that says what the specification allows.
#[derive(Debug)]
pub struct CdiFile {
    /// Where it is.
    pub path: PathBuf,
    /// What containers with any of its devices need.
    pub common: FileEdits,
    /// What each device needs besides.
    pub devices: BTreeMap<DeviceName, FileEdits>,
}

/// Edits whose nodes have no numbers yet.
#[derive(Debug)]
pub struct FileEdits {
    /// All but the nodes.
    pub plain: ContainerEdits,
    /// The nodes.
    pub nodes: Vec<FileNode>,
}

/// A node as the file has it.
#[derive(Debug)]
pub struct FileNode {
    /// In the container.
    pub path: PathBuf,
    /// On the machine.
    pub host_path: PathBuf,
    /// If the file says it.
    pub kind: Option<NodeKind>,
    /// If the file says them.
    pub numbers: Option<(u32, u32)>,
    /// See [`DeviceNode`](crate::DeviceNode).
    pub file_mode: Option<u32>,
    /// See [`DeviceNode`](crate::DeviceNode).
    pub uid: Option<u32>,
    /// See [`DeviceNode`](crate::DeviceNode).
    pub gid: Option<u32>,
    /// See [`DeviceNode`](crate::DeviceNode).
    pub access: Access,
}

impl CdiFile {
    /// Reads a file's text; its name tells the format.
    pub fn parse(path: &Path, text: &str) -> Result<Self, CdiError> {
        let invalid = |why| CdiError::Invalid {
            path: path.to_owned(),
            why,
        };
        let file = shape(path, text).map_err(invalid)?;
        version::check(&file).map_err(invalid)?;
        if file.devices.is_empty() {
            return Err(invalid("it has no devices".into()));
        }
        let mut devices = BTreeMap::new();
        for device in file.devices {
            let name = DeviceName::new(&file.kind, &device.name);
            let name = name.map_err(|error| invalid(error.to_string()))?;
            let at = |why| invalid(format!("device `{}`: {why}", device.name));
            let needs = edits(device.container_edits).map_err(at)?;
            if devices.insert(name, needs).is_some() {
                return Err(at("it stands there twice".into()));
            }
        }
        Ok(Self {
            path: path.to_owned(),
            common: edits(file.container_edits).map_err(invalid)?,
            devices,
        })
    }

    /// Whether programs of the machine are to be run for any of its devices.
    pub fn has_hooks(&self) -> bool {
        let mut all = self.devices.values().chain([&self.common]);
        all.any(|edits| !edits.plain.hooks.is_empty())
    }
}

fn shape(path: &Path, text: &str) -> Result<wire::File, String> {
    let file = match path.extension().and_then(OsStr::to_str) {
        Some("json") => serde_json::from_str(text),
        _ => serde_json::from_value(yaml::parse(text)?),
    };
    file.map_err(|error| error.to_string())
}

fn edits(from: wire::Edits) -> Result<FileEdits, String> {
    let refused = [
        ("intelRdt", from.intel_rdt.is_some()),
        ("netDevices", from.net_devices.is_some()),
    ];
    if let Some((name, _)) = refused.iter().find(|(_, is_there)| *is_there) {
        return Err(format!(
            "`{name}` cannot be applied here: remove it from the file"
        ));
    }
    let mut plain = ContainerEdits::default();
    for pair in from.env {
        let (name, value) = variable(&pair)?;
        plain.set(&name, value);
    }
    for mount in from.mounts {
        plain.mounts.push(self::mount(mount)?);
    }
    for hook in from.hooks {
        plain.hooks.push(self::hook(hook)?);
    }
    // Zero counts for nothing, says the specification.
    plain.additional_gids = from.additional_gids;
    plain.additional_gids.retain(|gid| *gid != 0);
    let nodes = from.device_nodes.into_iter().map(node);
    Ok(FileEdits {
        plain,
        nodes: nodes.collect::<Result<_, _>>()?,
    })
}

fn variable(pair: &str) -> Result<(String, String), String> {
    match pair.split_once('=') {
        Some((name, value)) if !name.is_empty() && !pair.contains('\0') => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err(format!("`{pair}` is not a variable: write NAME=VALUE")),
    }
}

fn plain_path(path: PathBuf) -> Result<PathBuf, String> {
    if is_plain(&path) {
        return Ok(path);
    }
    let path = path.display();
    Err(format!(
        "the path `{path}` is not absolute and plain: write it from `/` on, without `..`"
    ))
}

fn mount(from: wire::Mount) -> Result<EditMount, String> {
    Ok(EditMount {
        host_path: plain_path(from.host_path)?,
        container_path: plain_path(from.container_path)?,
        kind: from.kind.unwrap_or_else(|| "bind".into()),
        options: from.options,
    })
}

fn hook(from: wire::Hook) -> Result<Hook, String> {
    let point = match from.hook_name.as_str() {
        "prestart" => HookPoint::Prestart,
        "createRuntime" => HookPoint::CreateRuntime,
        "createContainer" => HookPoint::CreateContainer,
        "startContainer" => HookPoint::StartContainer,
        "poststart" => HookPoint::Poststart,
        "poststop" => HookPoint::Poststop,
        other => {
            return Err(format!(
                "`{other}` is not a hook: use createRuntime, createContainer, startContainer, \
                 poststart or poststop"
            ));
        }
    };
    if from.timeout == Some(0) {
        return Err("a hook's timeout is 0: write at least 1, or leave it out".into());
    }
    let env = from.env.iter().map(|pair| variable(pair));
    Ok(Hook {
        point,
        path: plain_path(from.path)?,
        args: from.args,
        env: env.collect::<Result<_, _>>()?,
        timeout_s: from.timeout,
    })
}

fn node(from: wire::DeviceNode) -> Result<FileNode, String> {
    let path = plain_path(from.path)?;
    let kind = match from.kind.as_deref() {
        None | Some("") => None,
        Some("c" | "u") => Some(NodeKind::Char),
        Some("b") => Some(NodeKind::Block),
        Some("p") => Some(NodeKind::Fifo),
        Some(other) => return Err(format!("`{other}` is not a kind of device: use c, b or p")),
    };
    Ok(FileNode {
        host_path: match from.host_path {
            Some(host_path) => plain_path(host_path)?,
            None => path.clone(),
        },
        path,
        kind,
        // A driver's number is never 0, which stands for nothing said.
        numbers: match from.major {
            None | Some(0) => None,
            Some(major) => Some((major, from.minor.unwrap_or(0))),
        },
        file_mode: from.file_mode.map(|mode| mode & 0o777),
        uid: from.uid,
        gid: from.gid,
        access: access(from.permissions.as_deref().unwrap_or(""))?,
    })
}

fn access(text: &str) -> Result<Access, String> {
    match text {
        "" => Ok(Access::ALL),
        "none" => Ok(Access::NONE),
        _ if text.bytes().all(|byte| b"rwm".contains(&byte)) => Ok(Access {
            read: text.contains('r'),
            write: text.contains('w'),
            mknod: text.contains('m'),
        }),
        _ => Err(format!("permissions `{text}` are not some of r, w and m")),
    }
}
