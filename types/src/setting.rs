//! Settings: what operators decide for the whole cluster.
//!
//! They stand in the state, so that all masters decide by the same; a command
//! changes them, whole. What is decided for a role is in [`crate::role`].

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::constraint::Constraints;
use crate::resources::{Bytes, MilliCpus, ResourceRequest};

/// All of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Settings {
    /// Who is offered agents with gpus.
    #[serde(default)]
    pub gpu_agents: GpuAgents,
    /// Resources that count in nobody's share, by name.
    #[serde(default)]
    pub unshared: BTreeSet<String>,
    /// An offer has one of these at least; without any, an offer may be as small
    /// as what is wanted. Frameworks may set their own.
    #[serde(default = "default_minimum")]
    pub minimum_offer: Vec<ResourceRequest>,
    /// Milliseconds for which an offer is held before it is taken back.
    #[serde(default = "default_timeout")]
    pub offer_timeout_ms: u64,
    /// Patterns of the hostnames that are offered; all if this is absent.
    #[serde(default)]
    pub allowed_hosts: Option<Vec<String>>,
    /// The most tasks that are ended in a minute for roles below their guarantee.
    #[serde(default = "default_preemptions")]
    pub preemptions_per_minute: u32,
}

/// Who is offered agents that have gpus.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum GpuAgents {
    /// Who asks for gpus.
    #[default]
    ForGpus,
    /// Everybody; who asks for no gpus meets them last.
    ForAll,
}

impl Settings {
    /// Far above the longest turn, so that only a framework that ignores offers
    /// loses them.
    pub const DEFAULT_OFFER_TIMEOUT_MS: u64 = 30_000;
    /// The least and the most: a turn may take ten seconds by the wall clock,
    /// and nobody needs longer than a day.
    pub const OFFER_TIMEOUTS_MS: std::ops::RangeInclusive<u64> = 1_000..=86_400_000;
    /// The most least offers, for the cluster or a framework.
    pub const MAX_MINIMUMS: usize = 8;
    /// The most patterns of hostnames, and names of resources.
    pub const MAX_NAMES: usize = 1_000;

    /// Whether an agent of this name is offered at all.
    pub fn allows(&self, hostname: &str) -> bool {
        let allowed = self.allowed_hosts.as_ref();
        allowed.is_none_or(|allowed| {
            let mut patterns = allowed.iter();
            patterns.any(|pattern| crate::constraint::covers(pattern, hostname))
        })
    }

    /// What is wrong with them in themselves.
    pub fn validate(&self) -> Result<(), String> {
        if !Self::OFFER_TIMEOUTS_MS.contains(&self.offer_timeout_ms) {
            return Err(format!(
                "offers are held for {} ms: choose from {} to {}",
                self.offer_timeout_ms,
                Self::OFFER_TIMEOUTS_MS.start(),
                Self::OFFER_TIMEOUTS_MS.end()
            ));
        }
        Self::validate_minimum(&self.minimum_offer)?;
        let hosts = self.allowed_hosts.iter().flatten();
        let is_bad = |text: &String| text.is_empty() || text.len() > Constraints::MAX_TEXT;
        let patterns = self.allowed_hosts.as_ref().map_or(0, Vec::len);
        if hosts.chain(&self.unshared).any(is_bad)
            || patterns.max(self.unshared.len()) > Self::MAX_NAMES
        {
            return Err(format!(
                "at most {} hostnames or resources can be named, each with 1 to {} bytes",
                Self::MAX_NAMES,
                Constraints::MAX_TEXT
            ));
        }
        Ok(())
    }

    /// What is wrong with least offers.
    pub fn validate_minimum(minimum: &[ResourceRequest]) -> Result<(), String> {
        if minimum.len() > Self::MAX_MINIMUMS {
            return Err(format!(
                "at most {} least offers can be named",
                Self::MAX_MINIMUMS
            ));
        }
        let is_large = |amounts: &ResourceRequest| {
            let long = |name: &String| name.len() > ResourceRequest::MAX_CUSTOM_NAME;
            amounts.custom.len() > ResourceRequest::MAX_CUSTOM || amounts.custom.keys().any(long)
        };
        match minimum.iter().any(is_large) {
            true => Err("a least offer names too many resources".into()),
            false => Ok(()),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            gpu_agents: GpuAgents::default(),
            unshared: BTreeSet::new(),
            minimum_offer: default_minimum(),
            offer_timeout_ms: Self::DEFAULT_OFFER_TIMEOUT_MS,
            allowed_hosts: None,
            preemptions_per_minute: default_preemptions(),
        }
    }
}

/// A hundredth of a processor or 32 MiB, as in Mesos.
fn default_minimum() -> Vec<ResourceRequest> {
    let cpus = ResourceRequest {
        cpus: MilliCpus(10),
        ..ResourceRequest::default()
    };
    let mem = ResourceRequest {
        mem: Bytes::mib(32),
        ..ResourceRequest::default()
    };
    vec![cpus, mem]
}

/// One a second: a mistake in a guarantee is noticed before it has ended much.
fn default_preemptions() -> u32 {
    60
}

fn default_timeout() -> u64 {
    Settings::DEFAULT_OFFER_TIMEOUT_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_as_usual() {
        let settings: Settings = serde_json::from_str("{}").unwrap();
        assert_eq!(settings, Settings::default());
        assert_eq!(settings.validate(), Ok(()));
        assert!(settings.allows("any"));
        let named = r#"{"allowed_hosts": ["a-*"], "offer_timeout_ms": 5}"#;
        let settings: Settings = serde_json::from_str(named).unwrap();
        assert!(settings.allows("a-1") && !settings.allows("b-1"));
        assert!(settings.validate().unwrap_err().contains("from 1000"));
        assert!(serde_json::from_str::<Settings>(r#"{"gpu": true}"#).is_err());
    }

    #[test]
    fn settings_are_bounded() {
        let many = Settings {
            minimum_offer: vec![ResourceRequest::default(); Settings::MAX_MINIMUMS + 1],
            ..Settings::default()
        };
        assert!(many.validate().is_err());
        let long = Settings {
            allowed_hosts: Some(vec!["x".repeat(Constraints::MAX_TEXT + 1)]),
            ..Settings::default()
        };
        assert!(long.validate().is_err());
    }
}
