//! WebAssembly programs, and what they are given beyond their arguments: whom they may connect to,
//! where they listen, what they read.
//!
//! Nothing of it is the default: such a program reaches no socket and reads an empty input. What is
//! allowed is written as a list of [`Destination`]s, which executors ask at every connection.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::Digest;

/// A WebAssembly program.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WasmWorkload {
    /// The program's bytes.
    pub artifact: Digest,
    /// Arguments after the program's name.
    #[serde(default)]
    pub args: Vec<String>,
    /// Its whole environment, beside the `TEPUI_…` names that every task has.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// What else it is given; nothing when absent.
    #[serde(default)]
    pub options: Option<Box<WasmOptions>>,
}

impl WasmWorkload {
    /// A program without arguments, environment and options.
    pub fn new(artifact: Digest) -> Self {
        Self {
            artifact,
            args: Vec::new(),
            env: BTreeMap::new(),
            options: None,
        }
    }

    /// What is wrong with it in itself.
    pub(crate) fn validate(&self) -> Result<(), String> {
        match &self.options {
            Some(options) => options.validate().map_err(|why| format!("options: {why}")),
            None => Ok(()),
        }
    }
}

/// What a WebAssembly program is given beyond its arguments.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WasmOptions {
    /// Whom it may connect to, by sockets and by HTTP; nobody when empty.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub connect: Vec<Destination>,
    /// Whether it may listen, on the task's own ports. A `wasi:http` service needs none of it: its
    /// host listens.
    #[serde(default)]
    pub listen: bool,
    /// Where a `wasi:http` service is reached; on every address of its machine (`0.0.0.0`) when
    /// absent.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub address: Option<IpAddr>,
    /// Requests of a service that run at once, beyond which they wait; 64 when absent.
    #[serde(default)]
    pub concurrency: Option<u32>,
    /// Milliseconds that a request to a service may take, its answer's last byte included; 30,000
    /// when absent.
    #[serde(default)]
    pub request_timeout_ms: Option<u64>,
    /// What it reads; nothing when absent.
    #[serde(default)]
    pub stdin: Option<Stdin>,
}

/// A standard input.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Stdin {
    /// These words.
    Text(String),
    /// The bytes of an artifact.
    Artifact(Digest),
}

impl WasmWorkload {
    /// All artifacts that it needs: its program, and what it reads.
    pub fn artifacts(&self) -> impl Iterator<Item = Digest> {
        let options = self.options.as_ref();
        let stdin = options.and_then(|options| options.stdin_artifact());
        std::iter::once(self.artifact).chain(stdin)
    }
}

impl WasmOptions {
    /// The most destinations: each is looked at for every connection.
    pub const MAX_DESTINATIONS: usize = 64;
    /// Requests at once where nobody says: a page's worth of memory each, of a usual task.
    pub const DEFAULT_CONCURRENCY: u32 = 64;
    /// The most requests at once: what one executor process has places for.
    pub const MAX_CONCURRENCY: u32 = 1_000;
    /// How long a request may take where nobody says.
    pub const DEFAULT_REQUEST_TIMEOUT_MS: u64 = 30_000;
    /// The longest that a request may take: a day, for streams that never end by themselves.
    pub const MAX_REQUEST_TIMEOUT_MS: u64 = 24 * 3_600_000;
    /// The longest text as standard input, in bytes.
    pub const MAX_STDIN_TEXT: usize = 16 * 1024;

    /// Where a service is reached.
    pub fn address(&self) -> IpAddr {
        self.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    /// Requests of a service that run at once.
    pub fn concurrency(&self) -> u32 {
        self.concurrency.unwrap_or(Self::DEFAULT_CONCURRENCY)
    }

    /// Milliseconds that a request to a service may take.
    pub fn request_timeout_ms(&self) -> u64 {
        let millis = self.request_timeout_ms;
        millis.unwrap_or(Self::DEFAULT_REQUEST_TIMEOUT_MS)
    }

    /// The artifact that is its standard input.
    pub fn stdin_artifact(&self) -> Option<Digest> {
        match self.stdin {
            Some(Stdin::Artifact(digest)) => Some(digest),
            Some(Stdin::Text(_)) | None => None,
        }
    }

    /// What is wrong with it in itself.
    ///
    /// # Errors
    /// With what is out of its bounds, and the bounds.
    pub fn validate(&self) -> Result<(), String> {
        if self.connect.len() > Self::MAX_DESTINATIONS {
            let most = Self::MAX_DESTINATIONS;
            return Err(format!(
                "connect names {} destinations, and {most} is the most: write networks such as \
                 `10.0.0.0/8:5432`",
                self.connect.len()
            ));
        }
        within("concurrency", self.concurrency, Self::MAX_CONCURRENCY)?;
        let most = Self::MAX_REQUEST_TIMEOUT_MS;
        within("request_timeout_ms", self.request_timeout_ms, most)?;
        match &self.stdin {
            Some(Stdin::Text(text)) if text.len() > Self::MAX_STDIN_TEXT => Err(format!(
                "stdin has {} bytes of text, and {} is the most: put it into an artifact",
                text.len(),
                Self::MAX_STDIN_TEXT
            )),
            _ => Ok(()),
        }
    }
}

fn within<T: Into<u64> + Copy>(name: &str, value: Option<T>, most: T) -> Result<(), String> {
    let most = most.into();
    match value.map(Into::into) {
        Some(value) if value == 0 || value > most => {
            Err(format!("{name} is {value}: it goes from 1 to {most}"))
        }
        _ => Ok(()),
    }
}

/// Whom a program may connect to: `HOST:PORT`. The host is an address (`10.1.2.3`, `[fd00::1]`), a
/// network (`10.0.0.0/8`, `[fd00::/8]`), a name, or `*`; the port a number or `*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Destination {
    /// Which machines.
    pub host: Host,
    /// Which port; any when absent.
    pub port: Option<u16>,
}

/// Machines of a [`Destination`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// All, the agent's own among them.
    Any,
    /// Those whose address begins with so many bits of this one.
    Network(IpAddr, u8),
    /// Those that the agent's machine finds under this name, in lower case.
    Name(String),
}

impl Host {
    /// The longest name that the domain name system has.
    const MAX_NAME: usize = 253;

    /// Whether this address is among them. Names are for who can look them up.
    pub fn holds(&self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Network(network, bits) => in_network(*network, *bits, address.to_canonical()),
            Self::Name(_) => false,
        }
    }
}

fn in_network(network: IpAddr, bits: u8, address: IpAddr) -> bool {
    let bits = u32::from(bits);
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let differing = network.to_bits() ^ address.to_bits();
            differing.leading_zeros() >= bits
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let differing = network.to_bits() ^ address.to_bits();
            differing.leading_zeros() >= bits
        }
        _ => false,
    }
}

impl Destination {
    /// Whether this port is one of them.
    pub fn holds_port(&self, port: u16) -> bool {
        self.port.is_none_or(|own| own == port)
    }

    /// Whether it holds this address without anything being looked up.
    pub fn holds(&self, address: SocketAddr) -> bool {
        self.holds_port(address.port()) && self.host.holds(address.ip())
    }
}

/// A text that is no destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a destination: {fix}")]
pub struct ParseDestinationError {
    text: String,
    fix: &'static str,
}

impl FromStr for Destination {
    type Err = ParseDestinationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map_err(|fix| ParseDestinationError {
            // An error message never echoes more of a caller's input than helps.
            text: text.chars().take(80).collect(),
            fix,
        })
    }
}

/// The destination, or what to write instead.
fn parse(text: &str) -> Result<Destination, &'static str> {
    const FORM: &str = "write HOST:PORT, such as `db.example:5432`, `10.0.0.0/8:*` or `*:443`";
    let (host, port) = text.rsplit_once(':').ok_or(FORM)?;
    let port = match port {
        "*" => None,
        digits => Some(digits.parse().ok().filter(|port| *port != 0).ok_or(FORM)?),
    };
    let host = match host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(inner) => parse_network(inner)?.filter(is_v6),
        None if host.contains(':') => {
            return Err("write an IPv6 address in brackets: `[fd00::1]:443`");
        }
        None if host == "*" => Some(Host::Any),
        None => match parse_network(host)? {
            Some(network) => Some(network),
            None => Some(parse_name(host)?),
        },
    };
    let host = host.ok_or("brackets hold an IPv6 address or network: `[fd00::/8]:443`")?;
    Ok(Destination { host, port })
}

fn is_v6(host: &Host) -> bool {
    matches!(host, Host::Network(IpAddr::V6(_), _))
}

/// None where it is no address at all.
fn parse_network(text: &str) -> Result<Option<Host>, &'static str> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return match bits {
            Some(_) => Err("a network begins with an address: `10.0.0.0/8:5432`"),
            None => Ok(None),
        };
    };
    let most = match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    };
    let bits = bits.map_or(Some(most), |bits| bits.parse().ok());
    let bits = bits.filter(|bits| *bits <= most);
    let bits = bits.ok_or("a network ends with its number of bits: `10.0.0.0/8:5432`")?;
    Ok(Some(Host::Network(address, bits)))
}

fn parse_name(text: &str) -> Result<Host, &'static str> {
    let is_label = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !label.is_empty() && label.bytes().all(plain)
    };
    let fits = text.len() <= Host::MAX_NAME && text.split('.').all(is_label);
    // Four numbers that are no address are a slip of the pen, and no name.
    let is_number = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    match fits && !is_number {
        true => Ok(Host::Name(text.to_ascii_lowercase())),
        false => Err("the host is an address, a network, `*` or a name such as `db.example`"),
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Any => f.write_str("*")?,
            Host::Name(name) => f.write_str(name)?,
            Host::Network(IpAddr::V4(address), 32) => write!(f, "{address}")?,
            Host::Network(IpAddr::V6(address), 128) => write!(f, "[{address}]")?,
            Host::Network(IpAddr::V4(address), bits) => write!(f, "{address}/{bits}")?,
            Host::Network(IpAddr::V6(address), bits) => write!(f, "[{address}/{bits}]")?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => f.write_str(":*"),
        }
    }
}

impl Serialize for Destination {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Destination {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(text: &str) -> Destination {
        text.parse().unwrap()
    }

    #[test]
    fn destinations_are_written_as_they_are_read() {
        for text in [
            "*:443",
            "*:*",
            "10.0.0.0/8:5432",
            "10.1.2.3:1",
            "[fd00::/8]:443",
            "[::1]:*",
            "db.example:5432",
            "localhost:80",
        ] {
            assert_eq!(destination(text).to_string(), text);
            let json = serde_json::to_string(&destination(text)).unwrap();
            assert_eq!(
                serde_json::from_str::<Destination>(&json).unwrap(),
                destination(text)
            );
            let bytes = postcard::to_stdvec(&destination(text)).unwrap();
            assert_eq!(
                postcard::from_bytes::<Destination>(&bytes).unwrap(),
                destination(text)
            );
        }
        assert_eq!(destination("DB.example:1"), destination("db.example:1"));
    }

    #[test]
    fn what_is_no_destination_is_refused_with_what_to_write() {
        for (text, words) in [
            ("", "HOST:PORT"),
            ("db.example", "HOST:PORT"),
            ("db.example:", "HOST:PORT"),
            ("db.example:0", "HOST:PORT"),
            ("db.example:65536", "HOST:PORT"),
            ("fd00::1:443", "in brackets"),
            ("[10.0.0.1]:443", "brackets hold an IPv6"),
            ("[db]:443", "brackets hold an IPv6"),
            ("10.0.0.0/33:1", "number of bits"),
            ("10.0.0/8:1", "begins with an address"),
            ("10.0.0:1", "the host is an address"),
            ("a..b:1", "the host is an address"),
            ("a b:1", "the host is an address"),
            ("*.example:1", "the host is an address"),
        ] {
            let error = text.parse::<Destination>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn a_network_holds_its_addresses_at_its_port_and_no_others() {
        let holds = |rule: &str, address: &str| destination(rule).holds(address.parse().unwrap());
        assert!(holds("10.0.0.0/8:5432", "10.255.0.1:5432"));
        assert!(!holds("10.0.0.0/8:5432", "10.255.0.1:5433"));
        assert!(!holds("10.0.0.0/8:5432", "11.0.0.1:5432"));
        assert!(holds("10.0.0.0/0:*", "203.0.113.9:1"));
        assert!(!holds("0.0.0.0/0:*", "[::1]:1"));
        assert!(holds("[fd00::/8]:443", "[fdff::1]:443"));
        assert!(!holds("[fd00::/8]:443", "[fe80::1]:443"));
        assert!(holds("127.0.0.1:1", "[::ffff:127.0.0.1]:1"));
        assert!(holds("*:1", "[::1]:1"));
        // A name holds nothing until it is looked up.
        assert!(!holds("localhost:1", "127.0.0.1:1"));
    }

    #[test]
    fn options_are_bounded() {
        let from = |json: &str| serde_json::from_str::<WasmOptions>(json).unwrap();
        let good = r#"{"connect": ["*:443"], "listen": true, "address": "127.0.0.1",
            "concurrency": 1, "request_timeout_ms": 1, "stdin": {"text": "words"}}"#;
        assert_eq!(from(good).validate(), Ok(()));
        assert_eq!(from("{}"), WasmOptions::default());
        assert_eq!(from("{}").validate(), Ok(()));
        let many = WasmOptions {
            connect: vec![destination("*:1"); WasmOptions::MAX_DESTINATIONS + 1],
            ..WasmOptions::default()
        };
        let long = WasmOptions {
            stdin: Some(Stdin::Text("x".repeat(WasmOptions::MAX_STDIN_TEXT + 1))),
            ..WasmOptions::default()
        };
        for (options, words) in [
            (from(r#"{"concurrency": 0}"#), "from 1 to 1000"),
            (from(r#"{"concurrency": 1001}"#), "from 1 to 1000"),
            (from(r#"{"request_timeout_ms": 0}"#), "from 1 to 86400000"),
            (many, "64 is the most"),
            (long, "into an artifact"),
        ] {
            let error = options.validate().unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        assert!(serde_json::from_str::<WasmOptions>(r#"{"wrong": 1}"#).is_err());
    }
}
