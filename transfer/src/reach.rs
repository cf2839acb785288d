//! Who is asked for what strangers name.
//!
//! Whoever writes a job chooses the URL or the registry, servers choose where they redirect to, and the
//! agent asks with its own place in the network. So it asks nobody on its own machine, and nobody where
//! clouds tell machines their secrets, unless its operator allows that address or names that server:
//! public and private networks are what remains. What counts is the address that is connected to,
//! whatever name led to it. Pure.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use reqwest::Url;
use serde::{Deserialize, Deserializer, de::Error as _};

/// Where clouds tell machines of themselves besides link-local addresses: AWS (all of its services on
/// a machine), Google, Azure, Alibaba, Oracle.
const METADATA: [&str; 5] = [
    "fd00:ec2::/32",
    "fd20:ce::254",
    "168.63.129.16",
    "100.100.100.200",
    "192.0.0.192",
];

/// Addresses that an operator allows: `127.0.0.0/8`, or a single one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(IpNet);

/// Text that is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no network: write an address, or a network as 127.0.0.0/8")]
pub struct ParseNetworkError {
    text: String,
}

/// Why an address is not asked. Its text follows the address in messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// The agent's own machine.
    Loopback,
    /// Machines of the same link, and the metadata of clouds.
    LinkLocal,
    /// Metadata of clouds elsewhere.
    Metadata,
    /// Nobody or many.
    Nowhere,
}

/// An address that is not asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{address} is {closed}")]
pub struct Unreachable {
    /// Which.
    pub address: IpAddr,
    /// Why.
    pub closed: Closed,
}

/// What may be asked.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    allowed: Vec<Network>,
    /// Origins, as RFC 6454 writes them.
    servers: BTreeSet<String>,
}

impl Reach {
    /// Beside what everybody may ask, these addresses, whoever names them.
    pub fn new(allowed: Vec<Network>) -> Self {
        Self {
            allowed,
            servers: BTreeSet::new(),
        }
    }

    /// And these servers, wherever they are. A server is a scheme, a host and a port.
    pub fn with_servers(mut self, servers: impl IntoIterator<Item = Url>) -> Self {
        let origins = servers.into_iter().map(|url| origin(&url));
        self.servers.extend(origins);
        self
    }

    /// Whether an operator named the server of a URL.
    pub fn names(&self, url: &Url) -> bool {
        self.servers.contains(&origin(url))
    }

    /// Whether an address may be asked.
    pub fn check(&self, address: IpAddr) -> Result<(), Unreachable> {
        let address = address.to_canonical();
        let closed = closed(address).or_else(|| closed(inner(address)?.into()));
        match closed {
            Some(closed)
                if !self
                    .allowed
                    .iter()
                    .any(|network| network.0.contains(&address)) =>
            {
                Err(Unreachable { address, closed })
            }
            _ => Ok(()),
        }
    }

    /// Whether a URL's host may be asked, as far as it says: a name does not say where it leads.
    pub fn check_host(&self, host: &str) -> Result<(), Unreachable> {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host.parse().map_or(Ok(()), |address| self.check(address))
    }

    /// The same where a proxy looks names up. One name is always that of the machine that looks it up
    /// (RFC 6761), and many proxies run on the agent's own.
    pub fn check_proxied(&self, host: &str) -> Result<(), Unreachable> {
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        match name == "localhost" || name.ends_with(".localhost") {
            true => self.check(Ipv4Addr::LOCALHOST.into()),
            false => self.check_host(host),
        }
    }
}

fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

fn closed(address: IpAddr) -> Option<Closed> {
    let is_metadata = || {
        let mut known = METADATA.iter().filter_map(|text| text.parse().ok());
        known.any(|network: Network| network.0.contains(&address))
    };
    let (is_loopback, is_link_local, is_many) = match address {
        // All of 0.0.0.0/8 is this machine, by RFC 1122; Linux takes 0.0.0.0 for it.
        IpAddr::V4(v4) => (
            v4.is_loopback() || v4.octets()[0] == 0,
            v4.is_link_local(),
            v4.is_broadcast(),
        ),
        IpAddr::V6(v6) => (
            v6.is_loopback() || v6.is_unspecified(),
            v6.is_unicast_link_local(),
            false,
        ),
    };
    if is_loopback {
        Some(Closed::Loopback)
    } else if is_link_local {
        Some(Closed::LinkLocal)
    } else if is_metadata() {
        Some(Closed::Metadata)
    } else {
        (is_many || address.is_multicast()).then_some(Closed::Nowhere)
    }
}

/// The address that gateways take out of another: NAT64 (RFC 6052), 6to4 (RFC 3056), and the
/// compatible addresses of long ago.
fn inner(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else {
        return None;
    };
    let at = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(at(high, low)),
        // Networks' own translators (RFC 8215).
        [0x64, 0xff9b, 1, _, _, _, high, low] => Some(at(high, low)),
        [0x2002, high, low, ..] => Some(at(high, low)),
        [0, 0, 0, 0, 0, 0, high, low] if address != Ipv6Addr::LOCALHOST => Some(at(high, low)),
        _ => None,
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "the agent's own machine",
            Self::LinkLocal => "link-local, where clouds tell machines their secrets",
            Self::Metadata => "where a cloud tells machines their secrets",
            Self::Nowhere => "no single machine",
        })
    }
}

impl FromStr for Network {
    type Err = ParseNetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address = text.parse::<IpAddr>().map(IpNet::from);
        let network = address.or_else(|_| text.parse::<IpNet>());
        // Error messages echo little of what they were given.
        let error = |_| ParseNetworkError {
            text: text.chars().take(80).collect(),
        };
        network.map(|network| Self(network.trunc())).map_err(error)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed_to(allowed: &[&str], address: &str) -> Option<Closed> {
        let allowed = allowed.iter().map(|text| text.parse().unwrap());
        let reach = Reach::new(allowed.collect());
        reach.check_host(address).err().map(|error| error.closed)
    }

    #[test]
    fn public_and_private_networks_are_open() {
        for address in [
            "192.0.2.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "2001:db8::1",
            "fd12::1",
            "[2001:db8::1]",
            "64:ff9b::c000:201",
        ] {
            assert_eq!(closed_to(&[], address), None, "{address}");
        }
    }

    #[test]
    fn the_machine_itself_and_metadata_are_closed_however_they_are_written() {
        for (address, closed) in [
            ("127.0.0.1", Closed::Loopback),
            ("127.8.8.8", Closed::Loopback),
            ("0.0.0.0", Closed::Loopback),
            ("[::1]", Closed::Loopback),
            ("::", Closed::Loopback),
            ("::ffff:127.0.0.1", Closed::Loopback),
            ("::127.0.0.1", Closed::Loopback),
            ("64:ff9b::7f00:1", Closed::Loopback),
            ("2002:7f00:1::", Closed::Loopback),
            ("169.254.169.254", Closed::LinkLocal),
            ("fe80::1", Closed::LinkLocal),
            ("febf::1", Closed::LinkLocal),
            ("::ffff:169.254.169.254", Closed::LinkLocal),
            ("64:ff9b::a9fe:a9fe", Closed::LinkLocal),
            ("fd00:ec2::254", Closed::Metadata),
            ("168.63.129.16", Closed::Metadata),
            ("224.0.0.1", Closed::Nowhere),
            ("ff02::1", Closed::Nowhere),
            ("255.255.255.255", Closed::Nowhere),
        ] {
            assert_eq!(closed_to(&[], address), Some(closed), "{address}");
        }
        let all: Vec<Network> = METADATA.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(all.len(), METADATA.len());
    }

    #[test]
    fn what_is_allowed_is_open_and_nothing_beside_it() {
        let allowed = ["127.0.0.0/8", "169.254.169.254", "fe80::/10"];
        for (address, is_open) in [
            ("127.1.2.3", true),
            ("::ffff:127.0.0.1", true),
            ("169.254.169.254", true),
            ("169.254.169.253", false),
            ("fe80::7", true),
            ("::1", false),
        ] {
            assert_eq!(closed_to(&allowed, address).is_none(), is_open, "{address}");
        }
        for text in ["", "localhost", "127.0.0.1/33", "127.0.0.1:80"] {
            let error = text.parse::<Network>().unwrap_err();
            assert!(error.to_string().contains("127.0.0.0/8"), "{error}");
        }
    }

    #[test]
    fn names_say_nothing() {
        assert_eq!(closed_to(&[], "localhost"), None);
    }

    #[test]
    fn behind_a_proxy_addresses_and_the_name_of_the_machine_itself_are_judged() {
        for (host, is_open) in [
            ("example.org", true),
            ("10.0.0.1", true),
            ("notlocalhost", true),
            ("localhost", false),
            ("LOCALHOST.", false),
            ("a.localhost", false),
            ("[::1]", false),
            ("169.254.169.254", false),
        ] {
            let checked = Reach::default().check_proxied(host);
            assert_eq!(checked.is_ok(), is_open, "{host}");
        }
        let reach = Reach::new(vec!["127.0.0.1".parse().unwrap()]);
        assert_eq!(reach.check_proxied("localhost"), Ok(()));
    }

    #[test]
    fn a_server_is_named_with_its_scheme_and_port() {
        let url = |text: &str| text.parse::<Url>().unwrap();
        let servers = [url("http://localhost:5000/v2/"), url("https://a.example")];
        let reach = Reach::default().with_servers(servers);
        for (text, is_named) in [
            ("http://localhost:5000/token", true),
            ("http://LOCALHOST:5000", true),
            ("https://a.example:443/x", true),
            ("https://localhost:5000", false),
            ("http://localhost:5001", false),
            ("http://localhost", false),
            ("http://a.example", false),
            ("https://b.a.example", false),
        ] {
            assert_eq!(reach.names(&url(text)), is_named, "{text}");
        }
    }
}
