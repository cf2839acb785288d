//! NamedAmounts of what machines have, and their arithmetic.
//!
//! Everything is an integer: cpus and custom scalars in thousandths, memory and
//! disk in bytes, ports as ranges, gpus as named devices of 1,000 thousandths
//! each (half of two devices is not one), other things one by one. What is
//! reserved or special otherwise stands apart, in pools. Arithmetic is checked:
//! an amount that would go below nothing or past its type is refused, never
//! wrapped.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use amounts::{Amounts, thousandths};
pub use conversion::{Conversion, ConversionError, Exchange};
pub use items::{Items, Words};
pub use limit::ResourceLimit;
pub use pool::{Disk, Pool, PoolKind, Pools, Reservation, Volume};
pub use ranges::{NumberRanges, PortRanges};
pub use request::ResourceRequest;

mod amounts;
mod conversion;
mod flat;
mod items;
mod limit;
mod pool;
mod ranges;
mod request;

/// Thousandths of a processor.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MilliCpus(pub u64);

impl fmt::Display for MilliCpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_thousandths(f, self.0)
    }
}

/// Bytes of memory or disk. Faces show MiB and GiB.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Bytes(pub u64);

impl Bytes {
    /// `count` MiB.
    pub const fn mib(count: u64) -> Self {
        Self(count * 1024 * 1024)
    }

    /// `count` GiB.
    pub const fn gib(count: u64) -> Self {
        Self::mib(count * 1024)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        for (unit, shift) in UNITS {
            if self.0 >> shift > 0 {
                let tenths = (u128::from(self.0) * 10) >> shift;
                return match tenths % 10 {
                    0 => write!(f, "{} {unit}", tenths / 10),
                    tenth => write!(f, "{}.{tenth} {unit}", tenths / 10),
                };
            }
        }
        write!(f, "{} B", self.0)
    }
}

/// Concrete resources: what an agent has, an offer holds or a task uses.
///
/// Zero entries never stand in the maps, so that equal amounts are equal values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Resources {
    /// Processors, in thousandths.
    #[serde(rename = "cpus_milli", default)]
    pub cpus: MilliCpus,
    /// Memory, in bytes.
    #[serde(rename = "mem_bytes", default)]
    pub mem: Bytes,
    /// Disk, in bytes.
    #[serde(rename = "disk_bytes", default)]
    pub disk: Bytes,
    /// TCP and UDP ports of the host.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<(u16, u16)>))]
    pub ports: PortRanges,
    /// Thousandths (1 to 1,000) of each named device.
    #[serde(rename = "gpus_milli", default)]
    pub gpus: BTreeMap<String, u64>,
    /// Thousandths of any other named scalar.
    #[serde(rename = "custom_milli", default)]
    pub custom: BTreeMap<String, u64>,
    /// Named things that are counted one by one. No name is also a custom scalar's.
    #[serde(default)]
    pub items: BTreeMap<String, Items>,
    /// What is reserved or special in another way, and not in the fields above.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<Pool>))]
    pub pools: Pools,
}

/// Why two amounts cannot be added or subtracted: names the resource.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    /// The sum does not fit its type, or a port or device would be had twice.
    #[error("too much {0}")]
    Overflow(String),
    /// There is less than what is taken away.
    #[error("not enough {0}")]
    Insufficient(String),
}

impl Resources {
    /// Whether there is nothing at all.
    pub fn is_empty(&self) -> bool {
        let Self {
            cpus,
            mem,
            disk,
            ports,
            gpus,
            custom,
            items,
            pools,
        } = self;
        (cpus.0, mem.0, disk.0) == (0, 0, 0)
            && ports.is_empty()
            && gpus.is_empty()
            && custom.is_empty()
            && items.is_empty()
            && pools.is_empty()
    }

    /// What is wrong with all that a machine has: a device that is more than one, a name with
    /// two meanings, a part that stands in two pools, a volume that nobody created.
    pub fn validate(&self) -> Result<(), String> {
        let mut all = self.plain();
        for pool in self.pools.iter() {
            pool.validate()?;
            all = all.checked_add(&pool.amounts).map_err(|error| {
                format!("{pool} is beside {all}, and together they are {error}: name a part once")
            })?;
            if pool.kind != pool.kind.declared() {
                return Err(format!(
                    "an agent does not declare {pool}: operations make it"
                ));
            }
        }
        let disk_id = |pool: &Pool| match &pool.kind.disk {
            Some(Disk::Mount(id)) => Some(id.clone()),
            _ => None,
        };
        let mut mounts: Vec<_> = self.pools.iter().filter_map(disk_id).collect();
        mounts.sort();
        if let Some(pair) = mounts.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("the whole disk `{}` is declared twice", pair[0]));
        }
        if let Some((name, milli)) = all.gpus.iter().find(|(_, milli)| **milli > MILLI) {
            return Err(format!(
                "gpu `{name}` has {milli} thousandths; a device has {MILLI}"
            ));
        }
        match all.items.keys().find(|name| all.custom.contains_key(*name)) {
            Some(name) => Err(format!(
                "`{name}` is an amount and a set at a time: give one of them another name"
            )),
            None => Ok(()),
        }
    }

    /// `self + other`; ports and devices must not be had twice.
    pub fn checked_add(&self, other: &Self) -> Result<Self, ResourceError> {
        Ok(Self {
            cpus: MilliCpus(add("cpus", self.cpus.0, other.cpus.0)?),
            mem: Bytes(add("mem", self.mem.0, other.mem.0)?),
            disk: Bytes(add("disk", self.disk.0, other.disk.0)?),
            ports: self
                .ports
                .disjoint_union(&other.ports)
                .ok_or_else(|| ResourceError::Overflow("ports".into()))?,
            gpus: add_maps(&self.gpus, &other.gpus, MILLI)?,
            custom: add_maps(&self.custom, &other.custom, u64::MAX)?,
            items: add_items(&self.items, &other.items)?,
            pools: self.pools.checked_add(&other.pools)?,
        })
    }

    /// `self - other`; `other` must be contained.
    pub fn checked_sub(&self, other: &Self) -> Result<Self, ResourceError> {
        Ok(Self {
            cpus: MilliCpus(sub("cpus", self.cpus.0, other.cpus.0)?),
            mem: Bytes(sub("mem", self.mem.0, other.mem.0)?),
            disk: Bytes(sub("disk", self.disk.0, other.disk.0)?),
            ports: self
                .ports
                .difference(&other.ports)
                .ok_or_else(|| ResourceError::Insufficient("ports".into()))?,
            gpus: sub_maps(&self.gpus, &other.gpus)?,
            custom: sub_maps(&self.custom, &other.custom)?,
            items: sub_items(&self.items, &other.items)?,
            pools: self.pools.checked_sub(&other.pools)?,
        })
    }

    /// Whether `other` can be taken out of `self`.
    pub fn contains(&self, other: &Self) -> bool {
        self.checked_sub(other).is_ok()
    }

    /// What is left when `other` is taken away as far as it is there: for
    /// machines that shrank under their tasks.
    pub fn saturating_sub(&self, other: &Self) -> Self {
        Self {
            cpus: MilliCpus(self.cpus.0.saturating_sub(other.cpus.0)),
            mem: Bytes(self.mem.0.saturating_sub(other.mem.0)),
            disk: Bytes(self.disk.0.saturating_sub(other.disk.0)),
            ports: self.ports.without(&other.ports),
            gpus: saturating_sub_maps(&self.gpus, &other.gpus),
            custom: saturating_sub_maps(&self.custom, &other.custom),
            items: saturating_sub_items(&self.items, &other.items),
            pools: self.pools.saturating_sub(&other.pools),
        }
    }

    /// Takes what `request` asks for: the lowest ports, whole devices in the
    /// order of their names, a share of the fullest device that still has it. What
    /// is reserved goes first; volumes, other disks and what is revocable are not
    /// touched. `Err` names what is short.
    pub fn pick(&self, request: &ResourceRequest) -> Result<Self, Vec<String>> {
        request.pick_from(self)
    }

    /// [`pick`](Self::pick) that may take what is revocable as well, before what is
    /// everybody's.
    pub fn pick_revocable(&self, request: &ResourceRequest) -> Result<Self, Vec<String>> {
        let picked = request.pick_from(&self.flat(true))?;
        // invariant: it was picked out of the sum of what it is taken from.
        Ok(self.carve(&picked, true).expect("the parts have their sum"))
    }

    /// How many times `request` can be taken one after another, at most `limit`,
    /// and the sum of what is left then. Takes time in proportion to the ports or devices
    /// that are named, not to the number.
    pub fn pick_many(&self, request: &ResourceRequest, limit: u32) -> (u32, Self) {
        request.pick_many_from(self, limit)
    }

    /// All gpu thousandths together.
    pub fn gpu_milli(&self) -> u64 {
        self.gpus.values().sum()
    }
}

/// One of anything that is counted in thousandths.
pub const MILLI: u64 = 1000;

fn add(name: &str, a: u64, b: u64) -> Result<u64, ResourceError> {
    a.checked_add(b)
        .ok_or_else(|| ResourceError::Overflow(name.into()))
}

fn sub(name: &str, a: u64, b: u64) -> Result<u64, ResourceError> {
    a.checked_sub(b)
        .ok_or_else(|| ResourceError::Insufficient(name.into()))
}

type NamedAmounts = BTreeMap<String, u64>;

fn add_maps(a: &NamedAmounts, b: &NamedAmounts, most: u64) -> Result<NamedAmounts, ResourceError> {
    let mut sum = a.clone();
    for (name, amount) in b {
        let entry = sum.entry(name.clone()).or_default();
        *entry = add(name, *entry, *amount)?;
        if *entry > most {
            return Err(ResourceError::Overflow(name.clone()));
        }
    }
    sum.retain(|_, amount| *amount > 0);
    Ok(sum)
}

fn sub_maps(a: &NamedAmounts, b: &NamedAmounts) -> Result<NamedAmounts, ResourceError> {
    let mut rest = a.clone();
    for (name, amount) in b {
        let have = rest.get(name).copied().unwrap_or(0);
        rest.insert(name.clone(), sub(name, have, *amount)?);
    }
    rest.retain(|_, amount| *amount > 0);
    Ok(rest)
}

fn saturating_sub_maps(a: &NamedAmounts, b: &NamedAmounts) -> NamedAmounts {
    if a.is_empty() {
        return NamedAmounts::new();
    }
    a.iter()
        .map(|(name, amount)| {
            (
                name.clone(),
                amount.saturating_sub(b.get(name).copied().unwrap_or(0)),
            )
        })
        .filter(|(_, amount)| *amount > 0)
        .collect()
}

type ItemMap = BTreeMap<String, Items>;

fn add_items(a: &ItemMap, b: &ItemMap) -> Result<ItemMap, ResourceError> {
    let mut sum = a.clone();
    for (name, items) in b {
        let union = match sum.get(name) {
            Some(known) => known.disjoint_union(items),
            None => Some(items.clone()),
        };
        let union = union.ok_or_else(|| ResourceError::Overflow(name.clone()))?;
        sum.insert(name.clone(), union);
    }
    Ok(sum)
}

fn sub_items(a: &ItemMap, b: &ItemMap) -> Result<ItemMap, ResourceError> {
    let mut rest = a.clone();
    for (name, items) in b {
        let left = rest.get(name).and_then(|known| known.difference(items));
        let left = left.ok_or_else(|| ResourceError::Insufficient(name.clone()))?;
        rest.insert(name.clone(), left);
    }
    rest.retain(|_, items| !items.is_empty());
    Ok(rest)
}

fn saturating_sub_items(a: &ItemMap, b: &ItemMap) -> ItemMap {
    if a.is_empty() {
        return ItemMap::new();
    }
    let rest = a.iter().map(|(name, items)| {
        let rest = b
            .get(name)
            .map_or_else(|| items.clone(), |less| items.without(less));
        (name.clone(), rest)
    });
    rest.filter(|(_, items)| !items.is_empty()).collect()
}

fn write_thousandths(f: &mut fmt::Formatter<'_>, milli: u64) -> fmt::Result {
    let (whole, rest) = (milli / MILLI, milli % MILLI);
    if rest == 0 {
        return write!(f, "{whole}");
    }
    let digits = format!("{rest:03}");
    write!(f, "{whole}.{}", digits.trim_end_matches('0'))
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        let mut item = |f: &mut fmt::Formatter<'_>, text: fmt::Arguments<'_>| {
            write!(f, "{separator}{text}")?;
            separator = ", ";
            Ok(())
        };
        if self.is_empty() {
            return f.write_str("nothing");
        }
        if self.cpus.0 > 0 {
            item(f, format_args!("{} cpus", self.cpus))?;
        }
        if self.mem.0 > 0 {
            item(f, format_args!("{} mem", self.mem))?;
        }
        if self.disk.0 > 0 {
            item(f, format_args!("{} disk", self.disk))?;
        }
        if !self.ports.is_empty() {
            item(f, format_args!("ports {}", self.ports))?;
        }
        for (name, milli) in self.gpus.iter().chain(&self.custom) {
            item(f, format_args!("{name} {}", MilliCpus(*milli)))?;
        }
        for (name, items) in &self.items {
            item(f, format_args!("{name} {items}"))?;
        }
        for pool in self.pools.iter() {
            item(f, format_args!("{pool}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
