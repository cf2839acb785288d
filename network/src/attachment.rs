//! What is asked of a network, and what came of it.
//!
//! [`Attachment`] is what a container's start needs: the namespace to enter, and the files about
//! names that belong into its root. It is stored, and told to masters as part of a status.

use std::collections::BTreeSet;
use std::fmt;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cidr::Cidr;
use crate::dns::Dns;
use crate::id::AttachmentId;

/// "Attach this to that network."
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// The id that it is detached by.
    pub id: AttachmentId,
    /// The network's name.
    pub network: String,
    /// Ports of the machine that lead to ports in the namespace.
    #[serde(default)]
    pub port_mappings: Vec<PortMapping>,
    /// What the caller wants of DNS; the network fills in what is not said.
    #[serde(default)]
    pub dns: Dns,
}

/// A port of the machine that leads to one in the namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortMapping {
    /// On the machine.
    pub host_port: u16,
    /// In the namespace.
    pub container_port: u16,
    /// Of which kind.
    #[serde(default)]
    pub protocol: Protocol,
    /// The machine's address; all of them if there is none.
    #[serde(default)]
    pub host_ip: Option<IpAddr>,
}

/// What runs over a port.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// A namespace on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The file that the namespace is entered by.
    pub netns: PathBuf,
    /// What the plugins made in the namespace; `lo`, which is always up, is not among it.
    pub interfaces: Vec<Interface>,
    /// What was asked, and what the network says where nothing was.
    pub dns: Dns,
    /// As they were asked for.
    pub port_mappings: Vec<PortMapping>,
}

/// A network interface in the namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// As `eth0`.
    pub name: String,
    /// Its hardware address, if it has one.
    pub mac: Option<String>,
    /// Its addresses, in the plugins' order.
    pub addresses: Vec<Cidr>,
    /// The first gateway that was named with its addresses.
    pub gateway: Option<IpAddr>,
}

impl Attach {
    /// The most port mappings: each is several rules of the machine's firewall.
    pub const MAX_PORT_MAPPINGS: usize = 64;

    /// What is wrong with it in itself.
    pub fn validate(&self) -> Result<(), String> {
        if self.port_mappings.len() > Self::MAX_PORT_MAPPINGS {
            return Err(format!(
                "{} port mappings, and {} are the most: map fewer",
                self.port_mappings.len(),
                Self::MAX_PORT_MAPPINGS
            ));
        }
        let mut taken = BTreeSet::new();
        for mapping in &self.port_mappings {
            if mapping.host_port == 0 || mapping.container_port == 0 {
                return Err(format!("{mapping}: a port is from 1 to 65535"));
            }
            if !taken.insert((mapping.host_ip, mapping.host_port, mapping.protocol)) {
                return Err(format!(
                    "{mapping}: that port of the machine is mapped twice; map it once"
                ));
            }
        }
        self.dns.validate()
    }
}

impl Attachment {
    /// Its addresses, without their prefixes.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let addresses = self.interfaces.iter().flat_map(|one| &one.addresses);
        addresses.map(|cidr| cidr.address())
    }

    /// The container's `/etc/resolv.conf`; none if neither caller nor network named a server.
    pub fn resolv_conf(&self) -> Option<String> {
        self.dns.resolv_conf()
    }

    /// The container's `/etc/hosts`. The name is one that [`is_hostname`] takes.
    pub fn hosts(&self, hostname: &str) -> String {
        let mut text = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n".to_owned();
        for address in self.addresses() {
            writeln!(text, "{address} {hostname}").ok();
        }
        text
    }

    /// The container's `/etc/hostname`.
    pub fn hostname(&self, hostname: &str) -> String {
        format!("{hostname}\n")
    }
}

/// Whether it can name a host: labels of letters, digits and hyphens, 64 bytes at most, as the
/// kernel keeps it.
pub fn is_hostname(text: &str) -> bool {
    let is_label = |label: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        !label.is_empty()
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 64 && text.split('.').all(is_label)
}

impl Protocol {
    /// As plugins and people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = self.host_ip {
            write!(f, "{address} ")?;
        }
        let Self {
            host_port,
            container_port,
            protocol,
            ..
        } = self;
        write!(f, "{host_port}:{container_port}/{protocol}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(host_port: u16, container_port: u16) -> PortMapping {
        PortMapping {
            host_port,
            container_port,
            protocol: Protocol::Tcp,
            host_ip: None,
        }
    }

    #[test]
    fn a_port_of_the_machine_is_mapped_once() {
        let mut attach = Attach {
            id: "a".parse().unwrap(),
            network: "n".into(),
            port_mappings: vec![mapping(80, 8080), mapping(81, 8080)],
            dns: Dns::default(),
        };
        assert_eq!(attach.validate(), Ok(()));
        let udp = PortMapping {
            protocol: Protocol::Udp,
            ..mapping(80, 8080)
        };
        attach.port_mappings.push(udp);
        assert_eq!(attach.validate(), Ok(()));
        attach.port_mappings.push(mapping(80, 9));
        assert!(attach.validate().unwrap_err().contains("80:9/tcp"));
        attach.port_mappings = vec![mapping(0, 1)];
        assert!(attach.validate().is_err());
        attach.port_mappings = vec![mapping(1, 1); Attach::MAX_PORT_MAPPINGS + 1];
        assert!(attach.validate().unwrap_err().contains("fewer"));
    }

    #[test]
    fn hosts_names_every_address() {
        let attachment = Attachment {
            netns: "/n".into(),
            interfaces: vec![Interface {
                name: "eth0".into(),
                mac: None,
                addresses: vec![
                    "10.1.0.5/16".parse().unwrap(),
                    "fd00::5/64".parse().unwrap(),
                ],
                gateway: None,
            }],
            dns: Dns::default(),
            port_mappings: Vec::new(),
        };
        let hosts = attachment.hosts("web-0");
        assert!(hosts.starts_with("127.0.0.1 localhost\n"));
        assert!(hosts.ends_with("\n10.1.0.5 web-0\nfd00::5 web-0\n"));
        assert_eq!(attachment.hostname("web-0"), "web-0\n");
        assert_eq!(attachment.resolv_conf(), None);
    }

    #[test]
    fn names_of_hosts_have_no_room_for_tricks() {
        for good in ["a", "web-0", "web-0.batch", &"a".repeat(64)] {
            assert!(is_hostname(good), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "a..b",
            "a b",
            "a\n1.1.1.1 b",
            "a_b",
            &"a".repeat(65),
        ] {
            assert!(!is_hostname(bad), "{bad}");
        }
    }
}
