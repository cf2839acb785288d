//! What a task asks for, before anyone knows which ports and devices it gets.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Bytes, Items, MILLI, MilliCpus, Pools, PortRanges, Resources, saturating_sub_maps};

/// Amounts without names: `ports` and `gpus` say how many, not which.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ResourceRequest {
    /// Processors, in thousandths.
    #[serde(rename = "cpus_milli", default)]
    pub cpus: MilliCpus,
    /// Memory, in bytes.
    #[serde(rename = "mem_bytes", default)]
    pub mem: Bytes,
    /// Disk, in bytes.
    #[serde(rename = "disk_bytes", default)]
    pub disk: Bytes,
    /// How many host ports.
    #[serde(default)]
    pub ports: u64,
    /// Thousandths of gpu: below 1,000 a share of one device, else whole
    /// devices, a multiple of 1,000.
    #[serde(default)]
    pub gpus_milli: u64,
    /// Thousandths of any other named resource; of what is counted one by one, a
    /// multiple of 1,000.
    #[serde(rename = "custom_milli", default)]
    pub custom: BTreeMap<String, u64>,
}

impl ResourceRequest {
    /// The ports that there are.
    pub const MAX_PORTS: u64 = u16::MAX as u64;
    /// The most custom scalars that one request names.
    pub const MAX_CUSTOM: usize = 32;
    /// Bytes of a custom scalar's name.
    pub const MAX_CUSTOM_NAME: usize = 64;

    /// What is wrong with it in itself, whatever the cluster has.
    pub fn validate(&self) -> Result<(), String> {
        if self.gpus_milli > MILLI && !self.gpus_milli.is_multiple_of(MILLI) {
            return Err(format!(
                "gpus_milli is {}: ask for a share of one device (1 to 999) or for whole devices \
                 (a multiple of 1000)",
                self.gpus_milli
            ));
        }
        if self.ports > Self::MAX_PORTS {
            return Err(format!(
                "ports is {}: a machine has {} at most",
                self.ports,
                Self::MAX_PORTS
            ));
        }
        if self.cpus.0 == 0 && self.mem.0 == 0 {
            return Err("a task needs some cpus_milli or mem_bytes".into());
        }
        let is_long = |name: &String| name.len() > Self::MAX_CUSTOM_NAME;
        if self.custom.len() > Self::MAX_CUSTOM || self.custom.keys().any(is_long) {
            return Err(format!(
                "a task asks for at most {} custom resources, with names of at most {} bytes",
                Self::MAX_CUSTOM,
                Self::MAX_CUSTOM_NAME
            ));
        }
        Ok(())
    }

    /// Adds concrete resources to a total; amounts stop at the end of their type.
    pub fn include(&mut self, resources: &Resources) {
        self.add(&Self::from(resources));
    }

    /// Adds another total.
    pub fn add(&mut self, other: &Self) {
        self.cpus.0 = self.cpus.0.saturating_add(other.cpus.0);
        self.mem.0 = self.mem.0.saturating_add(other.mem.0);
        self.disk.0 = self.disk.0.saturating_add(other.disk.0);
        self.ports = self.ports.saturating_add(other.ports);
        self.gpus_milli = self.gpus_milli.saturating_add(other.gpus_milli);
        for (name, milli) in &other.custom {
            let total = self.custom.entry(name.clone()).or_default();
            *total = total.saturating_add(*milli);
        }
    }

    /// Raises each amount to at least that of these concrete resources.
    pub fn raise_to(&mut self, resources: &Resources) {
        let other = Self::from(resources);
        self.cpus = self.cpus.max(other.cpus);
        self.mem = self.mem.max(other.mem);
        self.disk = self.disk.max(other.disk);
        self.ports = self.ports.max(other.ports);
        self.gpus_milli = self.gpus_milli.max(other.gpus_milli);
        for (name, milli) in other.custom {
            let most = self.custom.entry(name).or_default();
            *most = milli.max(*most);
        }
    }

    /// The amount of one resource, by its name in errors, as people write it.
    pub fn show(&self, name: &str) -> String {
        Self::show_amount(name, self.amount(name))
    }

    /// So much of one resource, as people write it.
    pub fn show_amount(name: &str, amount: u64) -> String {
        match name {
            "mem" | "disk" => Bytes(amount).to_string(),
            "ports" => amount.to_string(),
            // Cpus, gpus and custom scalars are in thousandths.
            _ => MilliCpus(amount).to_string(),
        }
    }

    /// The amount of one resource, by its name in errors, in its smallest unit.
    pub fn amount(&self, name: &str) -> u64 {
        match name {
            "cpus" => self.cpus.0,
            "mem" => self.mem.0,
            "disk" => self.disk.0,
            "ports" => self.ports,
            "gpus" => self.gpus_milli,
            name => self.custom.get(name).copied().unwrap_or(0),
        }
    }

    /// Leaves nothing of one resource, by its name in errors.
    pub fn clear(&mut self, name: &str) {
        match name {
            "cpus" => self.cpus = MilliCpus(0),
            "mem" => self.mem = Bytes(0),
            "disk" => self.disk = Bytes(0),
            "ports" => self.ports = 0,
            "gpus" => self.gpus_milli = 0,
            name => _ = self.custom.remove(name),
        }
    }

    /// What there is more than nothing of, by its name in errors.
    pub fn entries(&self) -> impl Iterator<Item = (&str, u64)> {
        let named = [
            ("cpus", self.cpus.0),
            ("mem", self.mem.0),
            ("disk", self.disk.0),
            ("ports", self.ports),
            ("gpus", self.gpus_milli),
        ];
        let custom = self.custom.iter();
        let custom = custom.map(|(name, amount)| (name.as_str(), *amount));
        named
            .into_iter()
            .chain(custom)
            .filter(|(_, amount)| *amount > 0)
    }

    /// Lowers the amount of one resource, by its name in errors, to at most this.
    pub fn lower(&mut self, name: &str, most: u64) {
        match name {
            "cpus" => self.cpus.0 = self.cpus.0.min(most),
            "mem" => self.mem.0 = self.mem.0.min(most),
            "disk" => self.disk.0 = self.disk.0.min(most),
            "ports" => self.ports = self.ports.min(most),
            "gpus" => self.gpus_milli = self.gpus_milli.min(most),
            name => {
                if let Some(amount) = self.custom.get_mut(name) {
                    *amount = most.min(*amount);
                }
                self.custom.retain(|_, amount| *amount > 0);
            }
        }
    }

    /// So many of it; amounts stop at the end of their type.
    pub fn times(&self, count: u32) -> Self {
        let times = |amount: u64| amount.saturating_mul(u64::from(count));
        let custom = self.custom.iter();
        Self {
            cpus: MilliCpus(times(self.cpus.0)),
            mem: Bytes(times(self.mem.0)),
            disk: Bytes(times(self.disk.0)),
            ports: times(self.ports),
            gpus_milli: times(self.gpus_milli),
            custom: custom
                .map(|(name, amount)| (name.clone(), times(*amount)))
                .collect(),
        }
    }

    /// The sum, if every amount of it fits its type; the name of what does not.
    pub fn checked_add(&self, other: &Self) -> Result<Self, String> {
        let mut sum = self.clone();
        sum.add(other);
        let is_exact = |name: &str| {
            let exact = u128::from(self.amount(name)) + u128::from(other.amount(name));
            exact == u128::from(sum.amount(name))
        };
        let wrong = sum.entries().find(|(name, _)| !is_exact(name));
        match wrong.map(|(name, _)| name.to_owned()) {
            Some(name) => Err(name),
            None => Ok(sum),
        }
    }

    /// Whether there is nothing at all.
    pub fn is_empty(&self) -> bool {
        self.cpus.0 == 0
            && self.mem.0 == 0
            && self.disk.0 == 0
            && self.ports == 0
            && self.gpus_milli == 0
            && self.custom.is_empty()
    }

    /// Whether there is at most as much of everything as in `free`.
    pub fn fits_in(&self, free: &Self) -> bool {
        self.cpus <= free.cpus
            && self.mem <= free.mem
            && self.disk <= free.disk
            && self.ports <= free.ports
            && self.gpus_milli <= free.gpus_milli
            && self
                .custom
                .iter()
                .all(|(name, amount)| *amount <= free.custom.get(name).copied().unwrap_or(0))
    }

    /// What is left when `other` is taken away as far as it is there.
    pub fn saturating_sub(&self, other: &Self) -> Self {
        Self {
            cpus: MilliCpus(self.cpus.0.saturating_sub(other.cpus.0)),
            mem: Bytes(self.mem.0.saturating_sub(other.mem.0)),
            disk: Bytes(self.disk.0.saturating_sub(other.disk.0)),
            ports: self.ports.saturating_sub(other.ports),
            gpus_milli: self.gpus_milli.saturating_sub(other.gpus_milli),
            custom: saturating_sub_maps(&self.custom, &other.custom),
        }
    }

    /// The greater of each amount.
    pub fn or_more(&self, other: &Self) -> Self {
        let mut most = self.clone();
        most.cpus = most.cpus.max(other.cpus);
        most.mem = most.mem.max(other.mem);
        most.disk = most.disk.max(other.disk);
        most.ports = most.ports.max(other.ports);
        most.gpus_milli = most.gpus_milli.max(other.gpus_milli);
        for (name, amount) in &other.custom {
            let entry = most.custom.entry(name.clone()).or_default();
            *entry = (*entry).max(*amount);
        }
        most
    }

    /// The first resource of which there is more than in `most`.
    pub fn exceeds(&self, most: &Self) -> Option<&str> {
        self.entries()
            .find(|(name, amount)| *amount > most.amount(name))
            .map(|(name, _)| name)
    }

    /// Takes concrete resources out of a total that includes them.
    pub fn exclude(&mut self, resources: &Resources) {
        *self = self.saturating_sub(&Self::from(resources));
    }

    pub(super) fn pick_from(&self, from: &Resources) -> Result<Resources, Vec<String>> {
        if !from.pools.is_empty() {
            let picked = self.pick_from(&from.flat(false))?;
            // invariant: it was picked out of the sum of what it is taken from.
            return Ok(from
                .carve(&picked, false)
                .expect("the parts have their sum"));
        }
        let mut short = Vec::new();
        let mut need = |name: &str, enough: bool| {
            if !enough {
                short.push(name.to_owned());
            }
        };
        need("cpus", from.cpus >= self.cpus);
        need("mem", from.mem >= self.mem);
        need("disk", from.disk >= self.disk);
        let ports = from.ports.lowest(self.ports);
        need("ports", ports.is_some());
        let gpus = self.pick_gpus(from);
        need("gpus", gpus.is_some());
        let mut items = BTreeMap::new();
        for (name, amount) in &self.custom {
            match from.items.get(name) {
                Some(known) => {
                    let lowest = known.lowest(*amount);
                    need(name, lowest.is_some());
                    items.extend(lowest.map(|lowest| (name.clone(), lowest)));
                }
                None => need(name, from.custom.get(name).copied().unwrap_or(0) >= *amount),
            }
        }
        items.retain(|_, items| !items.is_empty());
        match (ports, gpus) {
            (Some(ports), Some(gpus)) if short.is_empty() => {
                Ok(self.concrete(from, ports, gpus, items))
            }
            _ => Err(short),
        }
    }

    pub(super) fn pick_many_from(&self, from: &Resources, limit: u32) -> (u32, Resources) {
        let mut left = from.flat(false).into_owned();
        let takes_items = self.custom.keys().any(|name| from.items.contains_key(name));
        if self.ports > 0 || self.gpus_milli > 0 || takes_items {
            // Each round takes a port, an item or a part of a device, so they are few.
            for taken in 0..limit {
                match self.pick_from(&left) {
                    Ok(picked) => left = left.saturating_sub(&picked),
                    Err(_) => return (taken, left),
                }
            }
            return (limit, left);
        }
        let custom = self
            .custom
            .iter()
            .map(|(name, each)| (left.custom.get(name).copied().unwrap_or(0), *each));
        let scalars = [
            (left.cpus.0, self.cpus.0),
            (left.mem.0, self.mem.0),
            (left.disk.0, self.disk.0),
        ];
        let fits = scalars
            .into_iter()
            .chain(custom)
            .filter(|(_, each)| *each > 0);
        let times = fits
            .map(|(have, each)| have / each)
            .min()
            .unwrap_or(u64::MAX);
        let times = times.min(u64::from(limit));
        // `times` of each fits, so nothing overflows.
        left.cpus.0 -= self.cpus.0 * times;
        left.mem.0 -= self.mem.0 * times;
        left.disk.0 -= self.disk.0 * times;
        for (name, each) in &self.custom {
            if let Some(have) = left.custom.get_mut(name) {
                *have -= each * times;
            }
        }
        left.custom.retain(|_, have| *have > 0);
        (times as u32, left)
    }

    fn concrete(
        &self,
        from: &Resources,
        ports: PortRanges,
        gpus: BTreeMap<String, u64>,
        items: BTreeMap<String, Items>,
    ) -> Resources {
        let custom = self.custom.iter();
        let custom =
            custom.filter(|(name, amount)| **amount > 0 && !from.items.contains_key(*name));
        Resources {
            items,
            pools: Pools::default(),
            cpus: self.cpus,
            mem: self.mem,
            disk: self.disk,
            ports,
            gpus,
            custom: custom
                .map(|(name, amount)| (name.clone(), *amount))
                .collect(),
        }
    }

    fn pick_gpus(&self, from: &Resources) -> Option<BTreeMap<String, u64>> {
        if self.gpus_milli == 0 {
            return Some(BTreeMap::new());
        }
        if self.gpus_milli < MILLI {
            let fits = from
                .gpus
                .iter()
                .filter(|(_, free)| **free >= self.gpus_milli);
            // The fullest device first keeps whole devices whole.
            let (name, _) = fits.min_by_key(|(name, free)| (**free, (*name).clone()))?;
            return Some(BTreeMap::from([(name.clone(), self.gpus_milli)]));
        }
        let count = usize::try_from(self.gpus_milli / MILLI).ok()?;
        let whole = from
            .gpus
            .iter()
            .filter(|(_, free)| **free == MILLI)
            .take(count);
        let picked: BTreeMap<_, _> = whole.map(|(name, _)| (name.clone(), MILLI)).collect();
        (picked.len() == count).then_some(picked)
    }
}

impl ResourceRequest {
    /// What is plain of these resources: neither reserved nor special otherwise.
    pub fn plain(resources: &Resources) -> Self {
        let mut custom = resources.custom.clone();
        let items = resources.items.iter();
        custom.extend(items.map(|(name, items)| (name.clone(), items.milli())));
        Self {
            cpus: resources.cpus,
            mem: resources.mem,
            disk: resources.disk,
            ports: resources.ports.size(),
            gpus_milli: resources.gpu_milli(),
            custom,
        }
    }
}

/// All of it but what is revocable, which is never charged.
impl From<&Resources> for ResourceRequest {
    fn from(resources: &Resources) -> Self {
        let mut sum = Self::plain(resources);
        let firm = resources.pools.iter().filter(|pool| !pool.kind.revocable);
        firm.for_each(|pool| sum.add(&Self::plain(&pool.amounts)));
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_few_custom_resources() {
        let request = |names: usize, bytes: usize| ResourceRequest {
            cpus: MilliCpus(1),
            custom: (0..names)
                .map(|name| (format!("{name:0bytes$}"), 1))
                .collect(),
            ..ResourceRequest::default()
        };
        let (names, bytes) = (
            ResourceRequest::MAX_CUSTOM,
            ResourceRequest::MAX_CUSTOM_NAME,
        );
        assert_eq!(request(names, bytes).validate(), Ok(()));
        assert!(request(names + 1, 1).validate().is_err());
        assert!(request(1, bytes + 1).validate().is_err());
    }
}
