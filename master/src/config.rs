//! The master's configuration: a TOML file, and flags that override it.
//!
//! Checked once, here, and passed on as an argument. Unknown keys are refused, so that a misspelt
//! one is not taken for a default. `examples/master.toml` names every key.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tepui_discovery::{DnsConfig, Upstreams, Zone};

use crate::backup::restore::Restore;
use crate::frameworks::compiler::process::Compilation;
use crate::masters::address;
use crate::masters::founding::Way;

/// Where a master listens when nothing is said.
const DEFAULT_LISTEN: &str = "127.0.0.1:5050";
/// The largest artifact when nothing is said: 1 GiB, a large image's layer.
const DEFAULT_MAX_ARTIFACT_BYTES: u64 = 1024 * 1024 * 1024;
/// Entries after which a snapshot is taken: replaying so many takes about a second.
const DEFAULT_SNAPSHOT_ENTRIES: u64 = 50_000;
/// Fewer would make a busy master write images all the time.
const MIN_SNAPSHOT_ENTRIES: u64 = 100;
/// Silence after which an agent is unreachable, when nothing is said.
const DEFAULT_AGENT_TIMEOUT_MS: u64 = 15_000;
/// Between heartbeats, when nothing is said.
const DEFAULT_HEARTBEAT_MS: u64 = 1_000;
/// Agents that are marked unreachable in a minute, when nothing is said: a rack of forty in twenty
/// seconds.
const DEFAULT_REMOVALS_PER_MINUTE: u64 = 120;
/// Percent of the agents that may fall silent at once, when nothing is said.
const DEFAULT_SILENT_SHARE: u64 = 50;
/// The domain of tasks' and services' names when nothing is said.
const DEFAULT_DOMAIN: &str = "tepui";
/// Seconds that an answer to a DNS question counts when nothing is said.
const DEFAULT_TTL_S: u32 = 5;
/// Lost heartbeats that an agent's connection must survive.
const MIN_HEARTBEATS: u64 = 3;

/// `tepui-master`'s flags.
#[derive(Debug, Clone, clap::Parser)]
#[command(
    name = "tepui-master",
    version,
    about = "The master of a Tepui cluster",
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
pub struct Args {
    /// The data folder; made if there is none.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The address to listen on [default: 127.0.0.1:5050]; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// Listen on an address that others can reach, though nothing is encrypted and everyone who
    /// reaches it may do everything.
    #[arg(long)]
    pub insecure_listen: bool,
    /// Where other masters, agents and people reach this one [default: where it listens].
    #[arg(long, value_name = "URL")]
    pub advertise: Option<String>,
    /// The masters that found a cluster together, this one among them; counts only while all their
    /// folders are empty.
    #[arg(
        long,
        value_name = "URL",
        value_delimiter = ',',
        conflicts_with = "join"
    )]
    pub peers: Vec<String>,
    /// A master of the cluster that this one joins; counts only while its folder is empty.
    #[arg(long, value_name = "URL")]
    pub join: Option<String>,
    /// If the database is damaged, keep it aside, take everything anew from the other masters (of
    /// --peers or --join), and come back under a new id. Does nothing while it is whole.
    #[arg(long)]
    pub rejoin: bool,
    /// Wait until `tepui master add` invites this one into a cluster; counts only while its folder is
    /// empty.
    #[arg(long, conflicts_with_all = ["peers", "join"])]
    pub await_invitation: bool,
    /// A file with the token that all masters share; each draws its own if it is not given.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// A TOML file; flags override what it says.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The most bytes of one artifact.
    #[arg(long, value_name = "BYTES")]
    pub max_artifact_bytes: Option<u64>,
    /// Entries of the log after which an image of the state is taken in their place.
    #[arg(long, value_name = "N")]
    pub snapshot_entries: Option<u64>,
    /// Milliseconds of silence after which an agent is unreachable.
    #[arg(long, value_name = "MS")]
    pub agent_timeout_ms: Option<u64>,
    /// Milliseconds between heartbeats with agents.
    #[arg(long, value_name = "MS")]
    pub heartbeat_ms: Option<u64>,
    /// The most agents that are marked unreachable, or whose tasks are replaced, in a minute.
    #[arg(long, value_name = "N")]
    pub agent_removals_per_minute: Option<u64>,
    /// Percent of the agents that may fall silent at once; while three or more, and a larger share,
    /// are, none is marked unreachable.
    #[arg(long, value_name = "PERCENT")]
    pub agent_silent_share: Option<u64>,
    /// Answer DNS questions for tasks and services there, as ADDRESS:PORT; may be given more than
    /// once.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub dns: Vec<SocketAddr>,
    /// The domain of their names [default: tepui].
    #[arg(long, value_name = "NAME")]
    pub dns_domain: Option<String>,
    /// A name server that is asked for all other names, as ADDRESS:PORT, for who asks from a private
    /// network; may be given more than once.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub dns_upstream: Vec<SocketAddr>,
    /// Drop a framework's memory after one turn in so many, at random, so that
    /// its author learns at once what must be in its store.
    #[arg(long, value_name = "N")]
    pub discard_instances: Option<u32>,
    /// Something else than a master.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What a master starts its own program for.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Make an empty folder a master's, from a backup.
    Restore(Restore),
    /// Compile the component on standard input.
    #[command(hide = true)]
    CompileComponent(Compilation),
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("failed to read the configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{path} is not a master's configuration (examples/master.toml names every key)")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what.
        #[source]
        source: toml::de::Error,
    },
    /// No data folder.
    #[error("no data folder is named: give --dir DIR, or `dir` in the configuration")]
    NoFolder,
    /// An address that is none.
    #[error(
        "`{0}` is not an address to listen on: write it like 127.0.0.1:5050 or [::1]:5050, with \
         port 0 for a free one"
    )]
    Address(String),
    /// A master's address that is none.
    #[error("{0}")]
    Url(String),
    /// Nobody can be reached at an address that stands for all.
    #[error(
        "others cannot reach this master at {0}: say with --advertise (advertise = \"…\") where \
         they do"
    )]
    Unadvertised(SocketAddr),
    /// A list that would count one master for two.
    #[error("{0} is listed twice in peers: name every master once")]
    Twice(String),
    /// Two ways into a cluster at once.
    #[error(
        "peers are for a new cluster, join is for one that is there, and await_invitation for one \
         that invites this master: leave all but one out"
    )]
    TwoWays,
    /// Others could reach the master.
    #[error(
        "{0} can be reached by others, and nothing is encrypted or asked for a password: listen \
         on 127.0.0.1, or say --insecure-listen (insecure_listen = true) to do it all the same"
    )]
    Insecure(SocketAddr),
    /// A domain that is none.
    #[error("the names of tasks: {0}")]
    Dns(String),
    /// A number that makes no sense.
    #[error("{name} = {value} cannot be: {why}")]
    Value {
        /// The key.
        name: &'static str,
        /// What it is.
        value: u64,
        /// What it should be.
        why: &'static str,
    },
}

/// What stands in the file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    dir: Option<PathBuf>,
    listen: Option<String>,
    insecure_listen: bool,
    advertise: Option<String>,
    peers: Vec<String>,
    join: Option<String>,
    rejoin: bool,
    await_invitation: bool,
    token_file: Option<PathBuf>,
    limits: Limits,
    log: Log,
    agents: Agents,
    frameworks: Frameworks,
    dns: Dns,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Dns {
    listen: Vec<SocketAddr>,
    domain: Option<String>,
    ttl_s: Option<u32>,
    upstreams: Vec<SocketAddr>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Log {
    snapshot_entries: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Limits {
    max_artifact_bytes: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Frameworks {
    discard_instances: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Agents {
    timeout_ms: Option<u64>,
    heartbeat_ms: Option<u64>,
    removals_per_minute: Option<u64>,
    silent_share: Option<u64>,
}

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The data folder.
    pub dir: PathBuf,
    /// The address to listen on.
    pub listen: SocketAddr,
    /// Whether others may reach it.
    pub insecure_listen: bool,
    /// Where others reach it, if that is not where it listens.
    pub advertise: Option<String>,
    /// What an empty folder is for.
    pub way: Way,
    /// Whether a damaged database is replaced by what other masters have.
    pub rejoin: bool,
    /// The file with the token that all masters share.
    pub token_file: Option<PathBuf>,
    /// The most bytes of one artifact.
    pub max_artifact_bytes: u64,
    /// Entries of the log after which an image of the state is taken in their place.
    pub snapshot_entries: u64,
    /// Milliseconds of silence after which an agent is unreachable.
    pub agent_timeout_ms: u64,
    /// Milliseconds between heartbeats with agents.
    pub heartbeat_ms: u64,
    /// The most agents that are marked unreachable, or whose tasks are replaced, in a minute.
    pub agent_removals_per_minute: u64,
    /// Percent of the agents that may fall silent at once.
    pub agent_silent_share: u64,
    /// Drop a framework's memory after one turn in so many, at random.
    pub discard_instances: Option<u32>,
    /// Where DNS questions are answered; nowhere when empty.
    pub dns_listen: Vec<SocketAddr>,
    /// The names of tasks and services.
    pub zone: Zone,
    /// Who is asked for other names.
    pub dns_upstreams: Vec<SocketAddr>,
}

impl Config {
    /// How DNS questions are answered, if they are.
    pub fn dns(&self) -> Option<DnsConfig> {
        if self.dns_listen.is_empty() {
            return None;
        }
        let upstreams = self.dns_upstreams.clone();
        Some(DnsConfig {
            zone: self.zone.clone(),
            upstreams: (!upstreams.is_empty()).then(|| Upstreams::new(upstreams)),
            ..DnsConfig::new(self.dns_listen.clone())
        })
    }

    /// Where others reach a master that is bound to `address`.
    pub fn url(&self, address: SocketAddr) -> Result<String, ConfigError> {
        match &self.advertise {
            Some(url) => Ok(url.clone()),
            // Alone, nobody has to reach it from elsewhere but those who know where it is.
            None if address.ip().is_unspecified() && self.way != Way::Alone => {
                Err(ConfigError::Unadvertised(address))
            }
            None => Ok(format!("http://{address}")),
        }
    }

    /// What flags and file together say.
    pub fn load(args: &Args) -> Result<Self, ConfigError> {
        let file = match &args.config {
            Some(path) => read(path)?,
            None => File::default(),
        };
        Self::merge(args, file)
    }

    fn merge(args: &Args, file: File) -> Result<Self, ConfigError> {
        let dir = args.dir.clone().or(file.dir).ok_or(ConfigError::NoFolder)?;
        let listen = args.listen.clone().or(file.listen);
        let advertise = args.advertise.clone().or(file.advertise);
        let peers = match args.peers.is_empty() {
            true => file.peers,
            false => args.peers.clone(),
        };
        let domain = args.dns_domain.clone().or(file.dns.domain);
        let zone = Zone::new(
            domain.as_deref().unwrap_or(DEFAULT_DOMAIN),
            file.dns.ttl_s.unwrap_or(DEFAULT_TTL_S),
        );
        let or = |flags: &Vec<SocketAddr>, file: Vec<SocketAddr>| match flags.is_empty() {
            true => file,
            false => flags.clone(),
        };
        let config = Self {
            dns_listen: or(&args.dns, file.dns.listen),
            zone: zone.map_err(|error| ConfigError::Dns(error.to_string()))?,
            dns_upstreams: or(&args.dns_upstream, file.dns.upstreams),
            dir,
            advertise: advertise.as_deref().map(parse_url).transpose()?,
            way: parse_way(
                &peers,
                args.join.clone().or(file.join).as_deref(),
                args.await_invitation || file.await_invitation,
            )?,
            rejoin: args.rejoin || file.rejoin,
            token_file: args.token_file.clone().or(file.token_file),
            listen: parse_listen(listen.as_deref().unwrap_or(DEFAULT_LISTEN))?,
            insecure_listen: args.insecure_listen || file.insecure_listen,
            max_artifact_bytes: args
                .max_artifact_bytes
                .or(file.limits.max_artifact_bytes)
                .unwrap_or(DEFAULT_MAX_ARTIFACT_BYTES),
            snapshot_entries: args
                .snapshot_entries
                .or(file.log.snapshot_entries)
                .unwrap_or(DEFAULT_SNAPSHOT_ENTRIES),
            agent_timeout_ms: args
                .agent_timeout_ms
                .or(file.agents.timeout_ms)
                .unwrap_or(DEFAULT_AGENT_TIMEOUT_MS),
            heartbeat_ms: args
                .heartbeat_ms
                .or(file.agents.heartbeat_ms)
                .unwrap_or(DEFAULT_HEARTBEAT_MS),
            agent_removals_per_minute: args
                .agent_removals_per_minute
                .or(file.agents.removals_per_minute)
                .unwrap_or(DEFAULT_REMOVALS_PER_MINUTE),
            agent_silent_share: args
                .agent_silent_share
                .or(file.agents.silent_share)
                .unwrap_or(DEFAULT_SILENT_SHARE),
            discard_instances: args.discard_instances.or(file.frameworks.discard_instances),
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        if !self.listen.ip().is_loopback() && !self.insecure_listen {
            return Err(ConfigError::Insecure(self.listen));
        }
        let value = |name, value, why| Err(ConfigError::Value { name, value, why });
        if self.max_artifact_bytes == 0 {
            return value("max_artifact_bytes", 0, "nothing could be uploaded");
        }
        if self.snapshot_entries < MIN_SNAPSHOT_ENTRIES {
            let why = "100 is the least";
            return value("snapshot_entries", self.snapshot_entries, why);
        }
        if self.discard_instances == Some(0) {
            return value("discard_instances", 0, "leave it out to keep instances");
        }
        if self.heartbeat_ms < 10 {
            return value("heartbeat_ms", self.heartbeat_ms, "10 is the least");
        }
        if self.agent_timeout_ms < self.heartbeat_ms.saturating_mul(MIN_HEARTBEATS) {
            let why = "it must be three heartbeats at least, or one lost packet ends a session";
            return value("agent timeout_ms", self.agent_timeout_ms, why);
        }
        if self.agent_removals_per_minute == 0 {
            let why = "no agent would ever be unreachable";
            return value("agent removals_per_minute", 0, why);
        }
        if self.agent_silent_share > 100 {
            let why = "it is a share in percent; 100 sets no bound";
            return value("agent silent_share", self.agent_silent_share, why);
        }
        Ok(())
    }
}

fn parse_way(
    peers: &[String],
    join: Option<&str>,
    await_invitation: bool,
) -> Result<Way, ConfigError> {
    match (peers, join, await_invitation) {
        ([], None, false) => Ok(Way::Alone),
        ([], None, true) => Ok(Way::Invited),
        (peers, None, false) => {
            let peers = peers.iter().map(|peer| parse_url(peer));
            let peers = peers.collect::<Result<Vec<_>, _>>()?;
            let mut seen = BTreeSet::new();
            if let Some(twice) = peers.iter().find(|peer| !seen.insert(*peer)) {
                return Err(ConfigError::Twice(twice.clone()));
            }
            Ok(Way::Together(peers))
        }
        ([], Some(url), false) => Ok(Way::Join(parse_url(url)?)),
        (_, Some(_), _) | (_, None, true) => Err(ConfigError::TwoWays),
    }
}

fn parse_url(text: &str) -> Result<String, ConfigError> {
    address::parse(text).map_err(ConfigError::Url)
}

fn read(path: &Path) -> Result<File, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    toml::from_str(&text).map_err(|source| ConfigError::Parse {
        path: path.to_owned(),
        source,
    })
}

fn parse_listen(text: &str) -> Result<SocketAddr, ConfigError> {
    // The one name whose addresses nobody has to look up.
    let numeric = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    numeric
        .parse()
        .map_err(|_| ConfigError::Address(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn args(flags: &[&str]) -> Args {
        Args::parse_from(["tepui-master"].iter().chain(flags))
    }

    fn load(text: &str, flags: &[&str]) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.toml");
        std::fs::write(&path, text).unwrap();
        let config = path.to_string_lossy();
        Config::load(&args(&[&["--config", &config], flags].concat()))
    }

    #[test]
    fn the_example_parses_and_says_the_defaults() {
        let example = load(include_str!("../examples/master.toml"), &[]).unwrap();
        let dir = example.dir.to_string_lossy();
        let dns = ["--dir", &dir, "--dns", "127.0.0.1:5353"];
        assert_eq!(example, Config::load(&args(&dns)).unwrap());
    }

    #[test]
    fn flags_override_the_file() {
        let text = "dir = '/a'\nlisten = '127.0.0.1:1'\n[agents]\ntimeout_ms = 9000\n";
        let config = load(text, &["--listen", "localhost:0", "--heartbeat-ms", "50"]).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:0");
        assert_eq!((config.agent_timeout_ms, config.heartbeat_ms), (9000, 50));
        assert_eq!(config.dir, Path::new("/a"));
    }

    #[test]
    fn peers_are_addresses_of_masters() {
        let config = load("dir = '/a'", &["--peers", "a:1,b:2"]).unwrap();
        let peers = vec!["http://a:1".to_owned(), "http://b:2".to_owned()];
        assert_eq!(config.way, Way::Together(peers));
        let everywhere = "0.0.0.0:5050".parse().unwrap();
        assert!(
            config
                .url(everywhere)
                .unwrap_err()
                .to_string()
                .contains("--advertise")
        );
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_would_do() {
        let cases = [
            ("", "--dir DIR"),
            ("dir = '/a'\nlisten = 'here'", "127.0.0.1:5050"),
            ("dir = '/a'\nlisten = '0.0.0.0:5050'", "--insecure-listen"),
            (
                "dir = '/a'\n[agents]\ntimeout_ms = 2000",
                "three heartbeats",
            ),
            ("dir = '/a'\n[agents]\nheartbeat_ms = 1", "10 is the least"),
            (
                "dir = '/a'\n[agents]\nremovals_per_minute = 0",
                "no agent would ever be unreachable",
            ),
            ("dir = '/a'\n[agents]\nsilent_share = 101", "in percent"),
            (
                "dir = '/a'\n[limits]\nmax_artifact_bytes = 0",
                "nothing could be uploaded",
            ),
            (
                "dir = '/a'\n[frameworks]\ndiscard_instances = 0",
                "leave it out",
            ),
            (
                "dir = '/a'\n[log]\nsnapshot_entries = 9",
                "100 is the least",
            ),
            ("dir = '/a'\npeers = ['there']", "http://10.0.0.1:5050"),
            (
                "dir = '/a'\nadvertise = 'https://a:1'",
                "http://10.0.0.1:5050",
            ),
            ("dir = '/a'\npeers = ['a:1']\njoin = 'b:1'", "all but one"),
            (
                "dir = '/a'\njoin = 'b:1'\nawait_invitation = true",
                "all but one",
            ),
            (
                "dir = '/a'\npeers = ['a:1']\nawait_invitation = true",
                "all but one",
            ),
        ];
        for (text, wanted) in cases {
            let error = load(text, &[]).unwrap_err().to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
        let unknown = load("dir = '/a'\nlisten_on = 'x'", &[]).unwrap_err();
        let cause = std::error::Error::source(&unknown).unwrap().to_string();
        assert!(cause.contains("listen_on"), "{cause}");
        assert!(
            load(
                "dir = '/a'\nlisten = '0.0.0.0:5050'\ninsecure_listen = true",
                &[]
            )
            .is_ok()
        );
        let missing = Config::load(&args(&["--config", "/nowhere/master.toml"])).unwrap_err();
        assert!(missing.to_string().contains("/nowhere/master.toml"));
    }
}
