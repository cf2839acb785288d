//! The container of a command: from which image it runs, what it sees of its machine, how it is
//! connected.
//!
//! A command without one runs on the agent's machine as it is, in its own cgroup. In a container it
//! has namespaces(7) of its own for mounts, processes, inter-process communication and names, and
//! the root file system of its image; without an image it sees the machine's, and may be kept from
//! writing to it.

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::image::{ImageRef, PullPolicy};
use crate::resources::Bytes;

/// What a command's container is like.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Container {
    /// Its root file system; the machine's own when absent.
    #[serde(default)]
    pub image: Option<ImageRef>,
    /// When the image is asked for anew.
    #[serde(default)]
    pub pull: PullPolicy,
    /// In place of the image's entrypoint. What the command's `argv` says are then its arguments.
    #[serde(default)]
    pub entrypoint: Option<Vec<String>>,
    /// `user`, `uid`, `user:group` or `uid:gid`, looked up in the container's root; the image's
    /// choice when absent, and root without one.
    #[serde(default)]
    pub user: Option<String>,
    /// Absolute, within the container; the image's choice when absent, and `/` without one. Without
    /// an image: the sandbox.
    #[serde(default)]
    pub workdir: Option<String>,
    /// Whether nothing but mounts, volumes, the sandbox and `/tmp` can be written to.
    #[serde(default)]
    pub read_only: bool,
    /// Absolute paths below which nothing can be written.
    #[serde(default)]
    pub read_only_paths: BTreeSet<String>,
    /// What else is found in it.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// How it is connected.
    #[serde(default)]
    pub network: Network,
    /// Its name for itself; the task's when absent.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Namespaces of the machine that it shares.
    #[serde(default)]
    pub share: BTreeSet<Namespace>,
    /// Its limits as getrlimit(2) names them, without `RLIMIT_` and in lower case: `nofile`.
    #[serde(default)]
    pub rlimits: BTreeMap<String, Rlimit>,
    /// Which users of the machine its users are.
    #[serde(default)]
    pub userns: Userns,
}

/// Which users of the machine the users of a container are; user_namespaces(7).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Userns {
    /// Those of the same ids: root is root, with few capabilities.
    #[default]
    Host,
    /// None that anybody else is: its ids are a range of the machine's that no other task has.
    Private,
}

/// Something that is found in a container.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Mount {
    /// Where, absolute.
    pub path: String,
    /// What.
    pub source: MountSource,
    /// Whether nothing can be written to it.
    #[serde(default)]
    pub read_only: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum MountSource {
    /// A file or folder of the machine, absolute; agents allow few of them, and none unless told.
    Host(String),
    /// Memory, of so many bytes at most; it counts as the task's.
    Tmpfs(Bytes),
    /// What lies at this path below the sandbox: a volume, or something fetched.
    Sandbox(String),
    /// A secret that the agent keeps for the task's role, as a file; never written to.
    Secret(String),
    /// The files of another image; never written to.
    Image(ImageRef),
}

/// How a container is connected.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Network {
    /// As its machine.
    #[default]
    Host,
    /// To nothing but itself.
    None,
    /// With an address of its own.
    Named(NamedNetwork),
}

/// A network that an agent's operator has configured.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NamedNetwork {
    /// The name in its CNI configuration.
    pub name: String,
    /// Ports of the machine that lead to it.
    #[serde(default)]
    pub ports: Vec<PortMapping>,
    /// Name servers, in place of the network's or the machine's.
    #[serde(default)]
    pub nameservers: Vec<String>,
    /// Domains that names are looked up in.
    #[serde(default)]
    pub search: Vec<String>,
}

/// A port of the machine that leads to one of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PortMapping {
    /// Where the container listens.
    pub container: u16,
    /// One of the task's own ports; the first that no other mapping has when absent.
    #[serde(default)]
    pub host: Option<u16>,
    /// By which protocol.
    #[serde(default)]
    pub protocol: Protocol,
}

/// What ports are of.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Protocol {
    /// Streams.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
}

/// A namespace(7) that a container may share with its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Namespace {
    /// Processes.
    Pid,
    /// Shared memory, semaphores and queues.
    Ipc,
    /// Names.
    Uts,
}

/// One limit of setrlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Rlimit {
    /// What counts, until the program raises it.
    pub soft: u64,
    /// How far it can.
    pub hard: u64,
}

/// Limits that a container may have, as getrlimit(2) names them.
pub const RLIMITS: [&str; 15] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "sigpending",
    "stack",
];

impl Container {
    /// The most mounts, and the most read-only paths.
    pub const MAX_MOUNTS: usize = 64;
    /// The longest path, in bytes: the kernel's.
    pub const MAX_PATH: usize = 4096;
    /// The longest host name, in bytes: the kernel's.
    pub const MAX_HOSTNAME: usize = 64;
    /// The most port mappings of one container.
    pub const MAX_PORTS: usize = 256;
    /// Bytes of a secret's name.
    pub const MAX_SECRET: usize = 128;

    /// What is wrong with it in itself.
    pub fn validate(&self) -> Result<(), String> {
        let paths = self
            .mounts
            .iter()
            .map(|mount| ("a mount's path", &mount.path));
        let hosts = self.mounts.iter().filter_map(|mount| match &mount.source {
            MountSource::Host(path) => Some(("a mount's host path", path)),
            _ => None,
        });
        let workdir = self.workdir.iter().map(|path| ("workdir", path));
        let read_only = self.read_only_paths.iter();
        let read_only = read_only.map(|path| ("a read-only path", path));
        for (what, path) in paths.chain(hosts).chain(workdir).chain(read_only) {
            check_path(what, path)?;
        }
        let most = Self::MAX_MOUNTS;
        if self.mounts.len() > most || self.read_only_paths.len() > most {
            return Err(format!(
                "a container has at most {most} mounts and {most} read-only paths"
            ));
        }
        let places: BTreeSet<&str> = self
            .mounts
            .iter()
            .map(|mount| mount.path.as_str())
            .collect();
        if places.len() < self.mounts.len() {
            return Err("two mounts have the same path".into());
        }
        let empty = |mount: &&Mount| mount.source == MountSource::Tmpfs(Bytes(0));
        if let Some(mount) = self.mounts.iter().find(empty) {
            return Err(format!("the tmpfs at {} has no size", mount.path));
        }
        self.check_sources()?;
        self.check_program()?;
        self.check_names()?;
        self.check_userns()?;
        self.check_rlimits()?;
        self.network.validate()
    }

    fn check_sources(&self) -> Result<(), String> {
        let is_name_char = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        for mount in &self.mounts {
            match &mount.source {
                MountSource::Sandbox(path) => check_path("a mount's path", &format!("/{path}"))?,
                MountSource::Secret(name)
                    if name.is_empty()
                        || name.len() > Self::MAX_SECRET
                        || name.starts_with('.')
                        || !name.chars().all(is_name_char) =>
                {
                    return Err(format!(
                        "`{name}` names no secret: use letters, digits, `.`, `_` and `-`, at most {}",
                        Self::MAX_SECRET
                    ));
                }
                MountSource::Host(_)
                | MountSource::Tmpfs(_)
                | MountSource::Secret(_)
                | MountSource::Image(_) => {}
            }
        }
        Ok(())
    }

    fn check_program(&self) -> Result<(), String> {
        if let Some(entrypoint) = &self.entrypoint {
            if entrypoint.first().is_none_or(String::is_empty) {
                return Err("entrypoint is empty: name the program, or leave it out".into());
            }
            if entrypoint.iter().any(|text| text.contains('\0')) {
                return Err("the entrypoint may not hold NUL characters".into());
            }
        }
        if self.image.is_none() && self.entrypoint.is_some() {
            return Err("entrypoint is without an image: say the whole command in argv".into());
        }
        let is_user_char = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
        match &self.user {
            Some(user)
                if user.is_empty()
                    || user.len() > 128
                    || !user.chars().all(is_user_char)
                    || user.matches(':').count() > 1 =>
            {
                Err(format!(
                    "`{user}` is no user: write `name`, `uid`, `name:group` or `uid:gid`"
                ))
            }
            _ => Ok(()),
        }
    }

    fn check_names(&self) -> Result<(), String> {
        let Some(name) = &self.hostname else {
            return Ok(());
        };
        let is_label = |label: &str| {
            let inner = |c: char| c.is_ascii_alphanumeric() || c == '-';
            !label.is_empty() && label.chars().all(inner) && !label.starts_with('-')
        };
        if name.len() > Self::MAX_HOSTNAME || !name.split('.').all(is_label) {
            return Err(format!(
                "`{name}` is no host name: letters, digits and `-`, in parts with dots between, {} \
                 bytes at most",
                Self::MAX_HOSTNAME
            ));
        }
        match self.share.contains(&Namespace::Uts) {
            true => {
                Err("a container that shares the machine's names has no hostname of its own".into())
            }
            false => Ok(()),
        }
    }

    /// The machine's own files and namespaces are no other users'.
    fn check_userns(&self) -> Result<(), String> {
        if self.userns == Userns::Host {
            return Ok(());
        }
        if self.image.is_none() {
            return Err("userns is private without an image: name one".into());
        }
        match self.share.is_empty() {
            true => Ok(()),
            false => Err(
                "a container whose userns is private shares no namespace of the machine: leave out share"
                    .into(),
            ),
        }
    }

    fn check_rlimits(&self) -> Result<(), String> {
        for (name, limit) in &self.rlimits {
            if !RLIMITS.contains(&name.as_str()) {
                let known = RLIMITS.join(", ");
                return Err(format!("`{name}` is not a limit; one of {known}"));
            }
            if limit.soft > limit.hard {
                return Err(format!("the soft limit of {name} is above the hard one"));
            }
        }
        Ok(())
    }
}

impl Network {
    fn validate(&self) -> Result<(), String> {
        let Self::Named(network) = self else {
            return Ok(());
        };
        let is_name_char = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if network.name.is_empty()
            || network.name.len() > 64
            || !network.name.chars().all(is_name_char)
        {
            return Err(format!("`{}` names no network", network.name));
        }
        if network.ports.len() > Container::MAX_PORTS {
            return Err(format!(
                "a container has at most {} port mappings",
                Container::MAX_PORTS
            ));
        }
        let mut taken = BTreeSet::new();
        for mapping in &network.ports {
            if mapping.container == 0 || mapping.host == Some(0) {
                return Err("0 is no port to map".into());
            }
            if let Some(host) = mapping.host
                && !taken.insert((host, mapping.protocol))
            {
                return Err(format!("port {host} of the machine is mapped twice"));
            }
        }
        if network.nameservers.len() > 3 || network.search.len() > 6 {
            return Err("resolv.conf(5) takes at most 3 name servers and 6 search domains".into());
        }
        let is_address = |text: &&String| text.parse::<IpAddr>().is_err();
        if let Some(server) = network.nameservers.iter().find(is_address) {
            return Err(format!("`{server}` is no address of a name server"));
        }
        let is_domain =
            |text: &&String| text.is_empty() || text.len() > 253 || !text.chars().all(is_name_char);
        match network.search.iter().find(is_domain) {
            Some(domain) => Err(format!("`{domain}` is no search domain")),
            None => Ok(()),
        }
    }
}

/// Paths are compared as text, so each has one way to be written.
fn check_path(what: &str, path: &str) -> Result<(), String> {
    let Some(below) = path.strip_prefix('/') else {
        return Err(format!("{what} is `{path}`, which is not absolute"));
    };
    if path.len() > Container::MAX_PATH || path.contains('\0') {
        return Err(format!(
            "{what} is longer than {} bytes or holds a NUL",
            Container::MAX_PATH
        ));
    }
    match below.is_empty() || below.split('/').any(|part| matches!(part, "" | "." | "..")) {
        true => Err(format!(
            "{what} is `{path}`: it may not be the root, nor hold empty parts, `.` or `..`"
        )),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> Result<(), String> {
        let container: Container = serde_json::from_str(json).map_err(|error| error.to_string())?;
        container.validate()
    }

    #[test]
    fn a_container_says_what_it_needs_and_no_more() {
        for good in [
            "{}",
            r#"{"read_only": true, "read_only_paths": ["/usr"], "share": ["pid"]}"#,
            r#"{"mounts": [{"path": "/data", "source": {"host": "/srv/data"}, "read_only": true},
                {"path": "/cache", "source": {"tmpfs": 1048576}}]}"#,
            r#"{"mounts": [{"path": "/var/lib/db", "source": {"sandbox": "data"}},
                {"path": "/run/key", "source": {"secret": "tls.key"}},
                {"path": "/tools", "source": {"image": "busybox:1.36"}}]}"#,
            r#"{"network": {"named": {"name": "web", "ports": [{"container": 80}]}}}"#,
            r#"{"user": "1000:1000", "rlimits": {"nofile": {"soft": 1, "hard": 2}}}"#,
            r#"{"hostname": "db.example", "network": "none"}"#,
            r#"{"image": "busybox", "userns": "private"}"#,
            r#"{"userns": "host", "share": ["pid"]}"#,
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_name() {
        for (bad, hint) in [
            (r#"{"workdir": "tmp"}"#, "workdir is `tmp`"),
            (r#"{"workdir": "/a/../b"}"#, "`..`"),
            (
                r#"{"mounts": [{"path": "/", "source": {"tmpfs": 1}}]}"#,
                "the root",
            ),
            (
                r#"{"mounts": [{"path": "/a", "source": {"tmpfs": 0}}]}"#,
                "no size",
            ),
            (
                r#"{"mounts": [{"path": "/a", "source": {"tmpfs": 1}}, {"path": "/a", "source": {"host": "/b"}}]}"#,
                "same path",
            ),
            (
                r#"{"mounts": [{"path": "/a", "source": {"sandbox": "../b"}}]}"#,
                "`..`",
            ),
            (
                r#"{"mounts": [{"path": "/a", "source": {"secret": "../b"}}]}"#,
                "no secret",
            ),
            (r#"{"entrypoint": ["x"]}"#, "without an image"),
            (r#"{"user": "a b"}"#, "no user"),
            (r#"{"user": "a:b:c"}"#, "no user"),
            (r#"{"hostname": "-a"}"#, "no host name"),
            (r#"{"hostname": "a", "share": ["uts"]}"#, "shares"),
            (
                r#"{"rlimits": {"files": {"soft": 1, "hard": 1}}}"#,
                "nofile",
            ),
            (
                r#"{"rlimits": {"nofile": {"soft": 2, "hard": 1}}}"#,
                "above",
            ),
            (
                r#"{"network": {"named": {"name": "../x"}}}"#,
                "names no network",
            ),
            (
                r#"{"network": {"named": {"name": "x", "ports": [{"container": 1, "host": 2}, {"container": 3, "host": 2}]}}}"#,
                "mapped twice",
            ),
            (
                r#"{"network": {"named": {"name": "x", "nameservers": ["ns"]}}}"#,
                "name server",
            ),
            (r#"{"userns": "private"}"#, "without an image"),
            (
                r#"{"image": "busybox", "userns": "private", "share": ["ipc"]}"#,
                "leave out share",
            ),
            (r#"{"imge": "busybox"}"#, "unknown field"),
        ] {
            let error = check(bad).unwrap_err();
            assert!(error.contains(hint), "{bad}: {error}");
        }
    }
}
