//! The most of some resources that someone may have.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Bytes, MilliCpus, ResourceRequest};

/// What is not named has no limit; a limit of nothing is one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ResourceLimit {
    /// Processors, in thousandths.
    #[serde(rename = "cpus_milli", default)]
    pub cpus: Option<MilliCpus>,
    /// Memory, in bytes.
    #[serde(rename = "mem_bytes", default)]
    pub mem: Option<Bytes>,
    /// Disk, in bytes.
    #[serde(rename = "disk_bytes", default)]
    pub disk: Option<Bytes>,
    /// How many host ports.
    #[serde(default)]
    pub ports: Option<u32>,
    /// Thousandths of gpu.
    #[serde(default)]
    pub gpus_milli: Option<u64>,
    /// Thousandths of any other named scalar.
    #[serde(rename = "custom_milli", default)]
    pub custom: BTreeMap<String, u64>,
}

impl ResourceLimit {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is limited, by its name in errors, and to how much.
    pub fn entries(&self) -> impl Iterator<Item = (&str, u64)> {
        let named = [
            ("cpus", self.cpus.map(|cpus| cpus.0)),
            ("mem", self.mem.map(|mem| mem.0)),
            ("disk", self.disk.map(|disk| disk.0)),
            ("ports", self.ports.map(u64::from)),
            ("gpus", self.gpus_milli),
        ];
        let named = named
            .into_iter()
            .filter_map(|(name, most)| Some((name, most?)));
        named.chain(
            self.custom
                .iter()
                .map(|(name, most)| (name.as_str(), *most)),
        )
    }

    /// The limit of one resource.
    pub fn of(&self, name: &str) -> Option<u64> {
        self.entries()
            .find(|(limited, _)| *limited == name)
            .map(|(_, most)| most)
    }

    /// The first resource of which `amounts` is more than this.
    pub fn passed_by(&self, amounts: &ResourceRequest) -> Option<(&str, u64)> {
        self.entries()
            .find(|(name, most)| amounts.amount(name) > *most)
    }
}
