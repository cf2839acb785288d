//! What an operator may set: one TOML file, and flags that override it.
//!
//! Checked once, at the start, and then passed as an argument. Unknown keys
//! are refused; `examples/agent.toml` shows every key and is itself tested.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tepui_executor::output::DEFAULT_LIMIT;
use tepui_executor::privileges::Privileges;
use tepui_executor::runtime::Runtime;
use tepui_fetch::FetchConfig;
use tepui_folder::FolderError;
use tepui_types::Bytes;

use crate::containers::ContainersConfig;
use crate::error::AgentError;
use crate::gpus::GpuConfig;
use crate::pools::{DiskSettings, Special};
use crate::ports::TaskPorts;
use crate::resources::{ResourceOverrides, parse_bytes};
use crate::sizes::Keeping;

pub use containers::ContainerSettings;

mod containers;

/// What stands in the file, and what the flags say; both the same keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The data folder.
    pub dir: Option<PathBuf>,
    /// URLs of masters: any of them tells who leads.
    pub masters: Option<Vec<String>>,
    /// Where the agent's own HTTP listens; loopback only.
    pub listen: Option<SocketAddr>,
    /// The name people see.
    pub hostname: Option<String>,
    /// By which others reach this machine; that by which it reaches a master when absent.
    pub address: Option<IpAddr>,
    /// `cpus=2,mem=4GiB,…`; what is not named is detected.
    pub resources: Option<String>,
    /// What is reserved for roles from the start, out of what is lent: amounts by role.
    pub reserve: Option<BTreeMap<String, String>>,
    /// What may be taken back at any time, on top of what is lent.
    pub revocable: Option<String>,
    /// How much of what firm tasks leave unused is lent at most, such as `cpus=4,mem=8GiB`.
    pub slack: Option<String>,
    /// Disks beside that of the data folder, by their names.
    pub disks: Option<BTreeMap<String, DiskSettings>>,
    /// What frameworks may choose by.
    pub attributes: Option<BTreeMap<String, String>>,
    /// The folder of the executors' binaries.
    pub executors: Option<PathBuf>,
    /// How much of each output of a task is kept, as a size such as `64MiB`.
    pub output_limit: Option<String>,
    /// What native tasks may do: `confined` or `all`.
    pub task_privileges: Option<String>,
    /// Where tasks may listen in the machine's own network.
    pub task_ports: Option<TaskPorts>,
    /// How the sizes of volumes are kept.
    pub volume_sizes: Option<Keeping>,
    /// How the sizes of sandboxes are kept.
    pub sandbox_sizes: Option<Keeping>,
    /// What containers may have, and where their images come from.
    pub containers: Option<ContainerSettings>,
    /// What may be fetched into sandboxes.
    pub fetch: Option<FetchConfig>,
    /// What is done with GPUs.
    pub gpus: Option<GpuConfig>,
    /// A file with the masters' token.
    pub token_file: Option<PathBuf>,
}

impl Settings {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, AgentError> {
        let text = std::fs::read_to_string(path).map_err(|source| AgentError::ReadConfig {
            path: path.to_owned(),
            source,
        })?;
        toml::from_str(&text).map_err(|source| AgentError::ParseConfig {
            path: path.to_owned(),
            source: Box::new(source),
        })
    }

    /// These settings, and those of `rest` where these say nothing.
    pub fn or(self, rest: Self) -> Self {
        Self {
            dir: self.dir.or(rest.dir),
            masters: self.masters.or(rest.masters),
            listen: self.listen.or(rest.listen),
            hostname: self.hostname.or(rest.hostname),
            address: self.address.or(rest.address),
            resources: self.resources.or(rest.resources),
            reserve: self.reserve.or(rest.reserve),
            revocable: self.revocable.or(rest.revocable),
            slack: self.slack.or(rest.slack),
            disks: self.disks.or(rest.disks),
            attributes: self.attributes.or(rest.attributes),
            executors: self.executors.or(rest.executors),
            output_limit: self.output_limit.or(rest.output_limit),
            task_privileges: self.task_privileges.or(rest.task_privileges),
            task_ports: self.task_ports.or(rest.task_ports),
            volume_sizes: self.volume_sizes.or(rest.volume_sizes),
            sandbox_sizes: self.sandbox_sizes.or(rest.sandbox_sizes),
            containers: match (self.containers, rest.containers) {
                (Some(ours), Some(theirs)) => Some(ours.or(theirs)),
                (ours, theirs) => ours.or(theirs),
            },
            fetch: match (self.fetch, rest.fetch) {
                (Some(ours), Some(mut theirs)) => {
                    theirs.file_folders.extend(ours.file_folders);
                    theirs.allow.extend(ours.allow);
                    Some(theirs)
                }
                (ours, theirs) => ours.or(theirs),
            },
            gpus: self.gpus.or(rest.gpus),
            token_file: self.token_file.or(rest.token_file),
        }
    }
}

/// Settings that are complete and in order.
#[derive(Debug, Clone)]
pub struct Config {
    /// The data folder, absolute.
    pub dir: PathBuf,
    /// URLs of masters without a slash at their ends, at least one.
    pub masters: Vec<String>,
    /// Where the agent's own HTTP listens.
    pub listen: SocketAddr,
    /// The name people see.
    pub hostname: String,
    /// By which others reach this machine, if that was said.
    pub address: Option<IpAddr>,
    /// What is set instead of detected.
    pub resources: ResourceOverrides,
    /// What of it is reserved, revocable, or on other disks.
    pub special: Special,
    /// What frameworks may choose by.
    pub attributes: BTreeMap<String, String>,
    /// The folder of the executors' binaries.
    pub executors: PathBuf,
    /// How much of each output of a task is kept.
    pub output_limit: Bytes,
    /// What executors and their tasks may do.
    pub privileges: Privileges,
    /// Where tasks may listen in the machine's own network.
    pub task_ports: TaskPorts,
    /// How the sizes of volumes are kept.
    pub volume_sizes: Keeping,
    /// How the sizes of sandboxes are kept.
    pub sandbox_sizes: Keeping,
    /// Who makes containers.
    pub runtime: Runtime,
    /// What containers may have, and where their images come from.
    pub containers: ContainersConfig,
    /// What is done with GPUs.
    pub gpus: GpuConfig,
    /// What proves to masters on other machines that this agent may speak to them.
    pub token: Option<String>,
}

/// Loopback, any free port.
const DEFAULT_LISTEN: &str = "127.0.0.1:0";

impl Config {
    /// Checks settings and fills in what they leave out.
    pub fn new(settings: Settings) -> Result<Self, AgentError> {
        let missing =
            |what: &str| AgentError::Config(format!("no {what} is set: name one with --{what}"));
        let dir = settings.dir.ok_or_else(|| missing("dir"))?;
        let dir =
            std::path::absolute(&dir).map_err(|source| FolderError::io("find", &dir, source))?;
        if dir.to_str().is_none() {
            return Err(AgentError::Config(format!(
                "--dir {} is not UTF-8, and executors are told paths as text: choose another",
                dir.display()
            )));
        }
        let masters = settings.masters.unwrap_or_default();
        if masters.is_empty() {
            return Err(missing("master"));
        }
        let masters = masters.iter().map(|master| check_master(master));
        let masters = masters.collect::<Result<Vec<_>, _>>()?;
        let listen = match settings.listen {
            Some(listen) => listen,
            // invariant: the constant is an address.
            None => DEFAULT_LISTEN.parse().expect("an address"),
        };
        if !listen.ip().is_loopback() {
            return Err(AgentError::Config(format!(
                "--listen {listen} is not a loopback address: the agent's own HTTP is for its \
                 machine only; use 127.0.0.1:0"
            )));
        }
        let hostname = match settings.hostname {
            Some(hostname) => hostname,
            None => detect_hostname()?,
        };
        let resources = settings.resources.as_deref().unwrap_or("");
        let resources = resources
            .parse::<ResourceOverrides>()
            .map_err(|error| AgentError::Config(format!("--resources: {error}")))?;
        let special = Special::new(
            settings.reserve.unwrap_or_default(),
            settings.revocable,
            settings.slack,
            settings.disks.unwrap_or_default(),
        )?;
        let executors = match settings.executors {
            Some(folder) => folder,
            None => folder_of_this_program()?,
        };
        let output_limit = match settings.output_limit {
            Some(text) => check_output_limit(&text)?,
            None => DEFAULT_LIMIT,
        };
        let privileges = settings.task_privileges.as_deref().map(str::parse);
        let privileges = privileges
            .transpose()
            .map_err(|error| AgentError::Config(format!("--task-privileges: {error}")))?;
        let containers = settings.containers.unwrap_or_default();
        let (runtime, containers) = containers.check(settings.fetch.unwrap_or_default())?;
        let attributes = settings.attributes.unwrap_or_default();
        Ok(Self {
            dir,
            masters,
            listen,
            hostname,
            address: settings.address,
            resources,
            special,
            attributes,
            executors,
            output_limit,
            privileges: privileges.unwrap_or_default(),
            task_ports: settings.task_ports.unwrap_or_default(),
            volume_sizes: settings.volume_sizes.unwrap_or_default(),
            sandbox_sizes: settings.sandbox_sizes.unwrap_or_default(),
            runtime,
            containers,
            gpus: settings.gpus.unwrap_or_default(),
            token: settings.token_file.as_deref().map(read_token).transpose()?,
        })
    }
}

/// `k=v,k=v` as a map.
pub fn parse_attributes(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut attributes = BTreeMap::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return Err(format!("`{pair}` is not an attribute: write KEY=VALUE"));
        };
        if attributes
            .insert(key.to_owned(), value.to_owned())
            .is_some()
        {
            return Err(format!("attribute `{key}` is given twice"));
        }
    }
    Ok(attributes)
}

fn check_master(text: &str) -> Result<String, AgentError> {
    let bad = |why: &str| {
        AgentError::Config(format!(
            "`{text}` is not a master's URL ({why}): write one such as http://127.0.0.1:5050"
        ))
    };
    let url = reqwest::Url::parse(text).map_err(|error| bad(&error.to_string()))?;
    if url.scheme() != "http" {
        return Err(bad("only http is spoken here"));
    }
    if url.host().is_none() || url.path() != "/" || url.query().is_some() {
        return Err(bad("a host and a port are all it has"));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn check_output_limit(text: &str) -> Result<Bytes, AgentError> {
    let limit = parse_bytes("output-limit", text);
    let limit = limit.map_err(|error| AgentError::Config(format!("--{error}")))?;
    if limit == Bytes(0) {
        let message = "--output-limit 0 would keep nothing of any task: write a size such as 64MiB";
        return Err(AgentError::Config(message.into()));
    }
    Ok(limit)
}

/// A token as a header takes it: 32 hexadecimal digits.
fn read_token(path: &Path) -> Result<String, AgentError> {
    let text = std::fs::read_to_string(path).map_err(|source| AgentError::ReadConfig {
        path: path.to_owned(),
        source,
    })?;
    let token = text.trim();
    if token.len() != 32 || !token.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(AgentError::Config(format!(
            "{} holds no token, which has 32 hexadecimal digits: name the file that the masters \
             were given with --token-file",
            path.display()
        )));
    }
    Ok(token.to_owned())
}

fn detect_hostname() -> Result<String, AgentError> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_err(|source| AgentError::System("read the machine's name", source))?;
    let name = name.trim();
    Ok(if name.is_empty() { "localhost" } else { name }.to_owned())
}

fn folder_of_this_program() -> Result<PathBuf, AgentError> {
    let program = std::env::current_exe()
        .map_err(|source| AgentError::System("find the agent's own program", source))?;
    Ok(program.parent().map(Path::to_owned).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            dir: Some("/tmp/agent".into()),
            masters: Some(vec!["http://127.0.0.1:5050/".into()]),
            ..Settings::default()
        }
    }

    #[test]
    fn example_file_is_valid_and_names_every_key() {
        // Tests run in their package's folder.
        let settings = Settings::read(Path::new("examples/agent.toml")).unwrap();
        let Settings {
            dir,
            masters,
            listen,
            hostname,
            address,
            resources,
            reserve,
            revocable,
            slack,
            disks,
            attributes,
            executors,
            output_limit,
            task_privileges,
            task_ports,
            volume_sizes,
            sandbox_sizes,
            containers,
            fetch,
            gpus,
            token_file,
        } = settings.clone();
        let ContainerSettings {
            host_paths,
            runtime,
            network_configs,
            network_plugins,
            network_timeout_seconds,
            images,
            secrets,
            userns_range,
        } = containers.unwrap();
        assert!(address.is_some() && fetch.is_some() && gpus.is_some() && secrets.is_some());
        assert!(host_paths.is_some() && runtime.is_some() && images.is_some());
        assert!(network_configs.is_some() && network_plugins.is_some());
        assert_eq!(network_timeout_seconds, Some(30));
        assert!(userns_range.is_some());
        assert!(reserve.is_some() && revocable.is_some() && slack.is_some() && disks.is_some());
        assert!(dir.is_some() && masters.is_some() && listen.is_some() && hostname.is_some());
        assert!(resources.is_some() && attributes.is_some() && executors.is_some());
        // The example's file is on no machine that runs this.
        assert!(output_limit.is_some() && task_privileges.is_some() && token_file.is_none());
        assert_eq!(task_ports, Some(TaskPorts::default()), "as the file says");
        assert_eq!(volume_sizes, Some(Keeping::default()), "as the file says");
        assert_eq!(sandbox_sizes, Some(Keeping::default()));
        let config = Config::new(settings).unwrap();
        assert_eq!(config.output_limit, DEFAULT_LIMIT, "as the file says of it");
        assert_eq!(config.masters, ["http://127.0.0.1:5050"]);
    }

    #[test]
    fn a_token_is_32_hexadecimal_digits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let with = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let token_file = Some(path.clone());
            Config::new(Settings {
                token_file,
                ..settings()
            })
        };
        let token = "0123456789abcdef0123456789abcdef";
        let config = with(&format!("{token}\n")).unwrap();
        assert_eq!(config.token.as_deref(), Some(token));
        let error = with("secret").unwrap_err().to_string();
        assert!(error.contains("--token-file"), "{error}");
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        std::fs::write(&path, "maste = [\"http://127.0.0.1:5050\"]\n").unwrap();
        let error = format!(
            "{:#}",
            anyhow::Error::from(Settings::read(&path).unwrap_err())
        );
        assert!(
            error.contains("maste") && error.contains("agent.toml"),
            "{error}"
        );
    }

    #[test]
    fn flags_override_the_file() {
        let file = Settings {
            hostname: Some("file".into()),
            ..settings()
        };
        let flags = Settings {
            hostname: Some("flag".into()),
            ..Settings::default()
        };
        let merged = flags.or(file);
        assert_eq!(merged.hostname.as_deref(), Some("flag"));
        assert_eq!(merged.dir, settings().dir);
    }

    #[test]
    fn bad_values_are_refused_with_their_fix() {
        let refused = |settings| Config::new(settings).unwrap_err().to_string();
        let none = refused(Settings {
            dir: None,
            ..settings()
        });
        assert!(none.contains("--dir"), "{none}");
        for master in [
            "127.0.0.1:5050",
            "https://a:1",
            "http://a:1/path",
            "ftp://x",
        ] {
            let error = refused(Settings {
                masters: Some(vec![master.into()]),
                ..settings()
            });
            assert!(error.contains("http://127.0.0.1:5050"), "{error}");
        }
        let listen = refused(Settings {
            listen: "0.0.0.0:1".parse().ok(),
            ..settings()
        });
        assert!(listen.contains("loopback"), "{listen}");
        let resources = refused(Settings {
            resources: Some("cpus=x".into()),
            ..settings()
        });
        assert!(resources.contains("cpus"), "{resources}");
        for limit in ["0", "much"] {
            let error = refused(Settings {
                output_limit: Some(limit.into()),
                ..settings()
            });
            assert!(error.contains("--output-limit"), "{error}");
            assert!(error.contains("MiB"), "{error}");
        }
    }

    #[test]
    fn attributes_parse() {
        let parsed = parse_attributes("zone=a,arch=x86").unwrap();
        assert_eq!(parsed["zone"], "a");
        assert!(parse_attributes("zone").unwrap_err().contains("KEY=VALUE"));
        assert!(parse_attributes("a=1,a=2").unwrap_err().contains("twice"));
    }
}
