//! The zone: the domain that names stand under, and how long answers may be kept.
//!
//! Made once from the configuration, and checked there: every name that the directory can give is
//! a name of DNS under it. What the tree looks like stands in [`crate::question`].

use hickory_proto::rr::rdata::{A, AAAA, NS, PTR, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record};
use std::net::IpAddr;

use crate::directory::Instance;
use crate::entry::Agent;
use crate::error::DiscoveryError;

/// Under it stand the agents.
pub(crate) const AGENT: &str = "agent";
/// The master that leads.
pub(crate) const LEADER: &str = "leader";
/// All masters.
pub(crate) const MASTER: &str = "master";
/// What the zone's SOA says of secondaries, which it has none of, in seconds.
const SECONDARY_S: i32 = 60;

/// The domain and its lifetime. See the module's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    domain: Name,
    ttl_s: u32,
}

impl Zone {
    /// The longest domain, in bytes of text, so that every name below has room in 255.
    pub const MAX_DOMAIN: usize = 60;
    /// The domain unless another is configured.
    pub const DOMAIN: &str = "tepui.";
    /// How long an answer may be kept, in seconds, unless configured: tasks move, and a caller that
    /// goes on with an old address for 5 s is better off than one that asks each time.
    pub const TTL_S: u32 = 5;
    /// The longest lifetime that can be configured, in seconds: a day.
    pub const MAX_TTL_S: u32 = 86_400;

    /// Takes a domain such as `tepui.` and a lifetime of answers.
    pub fn new(domain: &str, ttl_s: u32) -> Result<Self, DiscoveryError> {
        let text = domain.trim_end_matches('.').to_ascii_lowercase();
        let labels: Vec<&str> = text.split('.').collect();
        if text.len() > Self::MAX_DOMAIN || !labels.iter().all(|l| tepui_types::ids::is_label(l)) {
            let domain = domain.chars().take(80).collect();
            return Err(DiscoveryError::Domain { domain });
        }
        if ttl_s > Self::MAX_TTL_S {
            return Err(DiscoveryError::Ttl { ttl_s });
        }
        Ok(Self {
            domain: name(labels.iter().copied()),
            ttl_s,
        })
    }

    /// The domain, with its dot at the end.
    pub fn domain(&self) -> String {
        self.domain.to_ascii()
    }

    /// The labels of a name below the domain, the domain's neighbour first, in lower case; none
    /// where it stands elsewhere. A label that nobody can have is empty.
    pub(crate) fn below(&self, asked: &Name) -> Option<Vec<String>> {
        if !self.domain.zone_of(asked) {
            return None;
        }
        let own = usize::from(self.domain.num_labels());
        let labels = asked.iter().rev().skip(own);
        Some(labels.map(plain).collect())
    }

    /// A name below the domain, its labels in the order of text.
    pub(crate) fn name<'a>(&'a self, labels: impl Iterator<Item = &'a str>) -> Name {
        // invariant: labels come from `label`, and lengths are bounded by it and by `MAX_DOMAIN`.
        name(labels).append_domain(&self.domain).unwrap()
    }

    /// The name of a task.
    pub(crate) fn task(&self, instance: &Instance) -> Name {
        let labels = instance.name.split('.').rev();
        self.name(labels.chain([&*instance.framework]))
    }

    /// The name of a service.
    pub(crate) fn service(&self, framework: &str, tree_name: &str) -> String {
        let labels = tree_name.split('.').rev().chain([framework]);
        self.name(labels).to_ascii()
    }

    /// The name of an agent's machine.
    pub(crate) fn agent(&self, agent: &Agent) -> Name {
        let tree_name = crate::directory::tree_name(&agent.hostname);
        self.name(tree_name.split('.').rev().chain([AGENT]))
    }

    /// The record of an address.
    pub(crate) fn address(&self, name: &Name, address: IpAddr) -> Record {
        let data = match address {
            IpAddr::V4(v4) => RData::A(A(v4)),
            IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
        };
        self.record(name, data)
    }

    /// The record of a port. All have one weight: the order is shuffled.
    pub(crate) fn port(&self, name: &Name, port: u16, target: Name) -> Record {
        self.record(name, RData::SRV(SRV::new(0, 1, port, target)))
    }

    /// The record of whose an address is.
    pub(crate) fn pointer(&self, name: &Name, target: Name) -> Record {
        self.record(name, RData::PTR(PTR(target)))
    }

    /// Who serves the zone.
    pub(crate) fn servers(&self) -> Record {
        self.record(&self.domain, RData::NS(NS(self.masters())))
    }

    /// The name of all masters.
    pub(crate) fn masters(&self) -> Name {
        self.name([MASTER].into_iter())
    }

    /// The zone's own record; with an answer that has none it says how long that may be kept.
    pub(crate) fn authority(&self, serial: u32) -> Record {
        let contact = self.name(["hostmaster"].into_iter());
        let (refresh, retry, expire) = (SECONDARY_S, SECONDARY_S, SECONDARY_S);
        let soa = SOA::new(
            self.masters(),
            contact,
            serial,
            refresh,
            retry,
            expire,
            self.ttl_s,
        );
        self.record(&self.domain, RData::SOA(soa))
    }

    /// A record with the zone's lifetime.
    pub(crate) fn record(&self, name: &Name, data: RData) -> Record {
        Record::from_rdata(name.clone(), self.ttl_s, data)
    }
}

impl Default for Zone {
    fn default() -> Self {
        // invariant: the constants are within their bounds; a test makes it.
        Self::new(Self::DOMAIN, Self::TTL_S).unwrap()
    }
}

fn name<'a>(labels: impl Iterator<Item = &'a str>) -> Name {
    // invariant: labels are checked where the zone is made, or come from `label`.
    Name::from_labels(labels.map(str::as_bytes)).unwrap()
}

/// A label in lower case; empty where it has a character that no name of ours has.
fn plain(label: &[u8]) -> String {
    let known = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !label.iter().all(known) {
        return String::new();
    }
    String::from_utf8_lossy(label).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_checked() {
        assert_eq!(Zone::default().domain(), "tepui.");
        assert_eq!(Zone::new("Eu.Tepui", 1).unwrap().domain(), "eu.tepui.");
        for bad in ["", ".", "a..b", "_x", "a b", &"a.".repeat(31)] {
            assert!(Zone::new(bad, 5).is_err(), "{bad}");
        }
        assert!(Zone::new("tepui", Zone::MAX_TTL_S + 1).is_err());
    }

    #[test]
    fn labels_that_nobody_has_are_empty() {
        let zone = Zone::default();
        let asked = |text: &str| zone.below(&Name::from_ascii(text).unwrap());
        assert_eq!(
            asked("Web.Batch.TEPUI."),
            Some(vec!["batch".into(), "web".into()])
        );
        assert_eq!(asked("a\\.b.tepui."), Some(vec![String::new()]));
        assert_eq!(asked("tepui.example."), None);
    }
}
