//! What this machine lends to the cluster: detected, or as the operator says.
//!
//! Detection respects the agent's own bounds (affinity and cgroup), leaves the
//! machine itself room to breathe, and never fails over what can be left out.
//! Gpus that the operator counts are names without devices behind them; those that are found have.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tepui_types::resources::{Items, MILLI, NumberRanges, PortRanges, Words};
use tepui_types::{Bytes, MilliCpus, Resources};

use crate::error::AgentError;
use crate::sandbox::{sizes_folder, task_disks_folder};

/// The ports that are lent when the operator names none, as Mesos has it.
const DEFAULT_PORTS: (u16, u16) = (31_000, 32_000);
/// Memory that the machine keeps for itself, unless that is more than half.
const MEM_HEADROOM: Bytes = Bytes::gib(1);
/// The most gpus that an operator can name; devices have names `gpu0`…
const MAX_GPUS: u64 = 1_024;

/// What the operator set; the rest is detected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourceOverrides {
    cpus: Option<MilliCpus>,
    mem: Option<Bytes>,
    disk: Option<Bytes>,
    ports: Option<PortRanges>,
    gpus: Option<u64>,
    custom: BTreeMap<String, u64>,
    items: BTreeMap<String, Items>,
}

impl ResourceOverrides {
    /// All that the agent lends. `dir` is on the disk whose room counts, without so much of it as
    /// `headroom`; `found` are the gpus that were found.
    pub fn complete(
        &self,
        dir: &Path,
        headroom: Bytes,
        found: BTreeMap<String, u64>,
    ) -> Result<Resources, AgentError> {
        let cpus = match self.cpus {
            Some(cpus) => cpus,
            None => detect_cpus().map_err(|source| AgentError::Detect("cpus", source))?,
        };
        let mem = match self.mem {
            Some(mem) => mem,
            None => detect_mem().map_err(|source| AgentError::Detect("mem", source))?,
        };
        let disk = match self.disk {
            Some(disk) => disk,
            None => disk_room(dir, &[sizes_folder(dir), task_disks_folder(dir)], headroom)
                .map_err(|source| AgentError::Detect("disk", source))?,
        };
        let default_ports = || PortRanges::from_range(DEFAULT_PORTS.0, DEFAULT_PORTS.1);
        let gpus = match self.gpus {
            Some(count) => (0..count)
                .map(|index| (format!("gpu{index}"), MILLI))
                .collect(),
            None => found,
        };
        Ok(Resources {
            cpus,
            mem,
            disk,
            ports: self.ports.clone().unwrap_or_else(default_ports),
            gpus,
            custom: self.custom.clone(),
            items: self.items.clone(),
            ..Resources::default()
        })
    }
}

impl FromStr for ResourceOverrides {
    type Err = String;

    /// Reads `cpus=2,mem=4GiB,ports=31000-31099,ports=31200-31300,NAME=1.5`; `NAME=10-20` are
    /// numbers, and may be given again; `NAME={a|b}` is a set of words.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut parsed = Self::default();
        let mut ports = Vec::new();
        let mut seen = Vec::new();
        for pair in text
            .split(',')
            .map(str::trim)
            .filter(|pair| !pair.is_empty())
        {
            let Some((name, value)) = pair.split_once('=') else {
                return Err(format!("`{pair}` is not a resource: write NAME=AMOUNT"));
            };
            let (name, value) = (name.trim(), value.trim());
            if name != "ports" && seen.contains(&name) && !parsed.items.contains_key(name) {
                return Err(format!("{name} is given twice"));
            }
            seen.push(name);
            match name {
                "cpus" => parsed.cpus = Some(MilliCpus(thousandths(name, value)?)),
                "mem" => parsed.mem = Some(parse_bytes(name, value)?),
                "disk" => parsed.disk = Some(parse_bytes(name, value)?),
                "ports" if value == "none" => {}
                "ports" => ports.push(port_range(value)?),
                "gpus" => parsed.gpus = Some(gpu_count(value)?),
                _ => {
                    if !tepui_types::ids::is_label(name) {
                        return Err(format!(
                            "`{name}` cannot name a resource: use a-z, 0-9 and `-`"
                        ));
                    }
                    if let Some(more) = items(name, value)? {
                        let all = match parsed.items.remove(name) {
                            Some(known) => known.disjoint_union(&more),
                            None => Some(more),
                        };
                        let all = all.ok_or_else(|| overlap(name))?;
                        parsed.items.insert(name.to_owned(), all);
                        continue;
                    }
                    if parsed.items.contains_key(name) {
                        return Err(format!(
                            "{name} is given twice, as numbers and as an amount"
                        ));
                    }
                    let amount = thousandths(name, value)?;
                    if amount > 0 {
                        parsed.custom.insert(name.to_owned(), amount);
                    }
                }
            }
        }
        if seen.contains(&"ports") {
            let named: u64 = ports
                .iter()
                .map(|(first, last)| u64::from(last - first) + 1)
                .sum();
            let ports = PortRanges::from_ranges(ports);
            if ports.size() != named {
                return Err(overlap("ports"));
            }
            parsed.ports = Some(ports);
        }
        Ok(parsed)
    }
}

fn overlap(name: &str) -> String {
    format!("{name} is given in parts that overlap: name each part once")
}

/// `10-20` or `{a|b}`; none if it is of neither form.
fn items(name: &str, value: &str) -> Result<Option<Items>, String> {
    let bad = || format!("{name}={value} is not a range such as 10-20, nor a set such as {{a|b}}");
    if let Some(words) = value.strip_prefix('{') {
        let words = words.strip_suffix('}').ok_or_else(bad)?;
        let words: Vec<_> = words
            .split('|')
            .map(|word| word.trim().to_owned())
            .collect();
        let set: std::collections::BTreeSet<_> = words.iter().cloned().collect();
        if set.len() != words.len() {
            return Err(overlap(name));
        }
        let is_bad = |word: &String| word.is_empty() || word.len() > Words::MAX_BYTES;
        if set.len() > Words::MAX || set.iter().any(is_bad) {
            return Err(bad());
        }
        return Ok(Some(Items::Set(Words(set))));
    }
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let range = value.split_once('-');
    let Some((first, last)) = range.filter(|(first, last)| digits(first) && digits(last)) else {
        return Ok(None);
    };
    let number = |text: &str| text.parse::<u64>().map_err(|_| bad());
    let ranges = NumberRanges::from_range(number(first)?, number(last)?);
    if ranges.is_empty() {
        return Err(format!("{} (up to 2^53, the lower number first)", bad()));
    }
    Ok(Some(Items::Ranges(ranges)))
}

/// A decimal with at most three places, in thousandths.
pub fn thousandths(name: &str, value: &str) -> Result<u64, String> {
    tepui_types::resources::thousandths(value).ok_or_else(|| {
        format!(
            "{name}={value} is not an amount: write a number such as 2 or 0.5 (at most 3 places)"
        )
    })
}

/// A size with its unit; `name` is what it is the size of.
pub fn parse_bytes(name: &str, value: &str) -> Result<Bytes, String> {
    let parsed = value.parse::<Bytes>();
    parsed.map_err(|_| {
        format!("{name}={value} is not a size with its unit: write one such as 512MiB or 4GiB")
    })
}

fn port_range(value: &str) -> Result<(u16, u16), String> {
    let bad = || format!("ports={value} is not a range: write 31000-32000, a single port, or none");
    let (first, last) = value.split_once('-').unwrap_or((value, value));
    let port = |text: &str| text.trim().parse::<u16>().map_err(|_| bad());
    let (first, last) = (port(first)?, port(last)?);
    if first > last || first == 0 {
        Err(bad())
    } else {
        Ok((first, last))
    }
}

fn gpu_count(value: &str) -> Result<u64, String> {
    value
        .parse()
        .ok()
        .filter(|count| *count <= MAX_GPUS)
        .ok_or_else(|| {
            format!(
                "gpus={value} is not a number of devices: write a whole number up to {MAX_GPUS}"
            )
        })
}

/// The processors this process may use: its affinity, cut by its cgroup's quota.
fn detect_cpus() -> io::Result<MilliCpus> {
    let affinity = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0))?;
    let count = (0..nix::sched::CpuSet::count())
        .filter(|cpu| affinity.is_set(*cpu).unwrap_or(false))
        .count();
    let milli = (count as u64).max(1) * MILLI;
    Ok(MilliCpus(
        crate::cgroups::own_cpu_quota_milli().map_or(milli, |quota| quota.min(milli)),
    ))
}

/// What the machine, or the agent's cgroup, can spare.
fn detect_mem() -> io::Result<Bytes> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let total = parse_mem_total(&text)
        .ok_or_else(|| io::Error::other("/proc/meminfo does not tell MemTotal"))?;
    let limit = crate::cgroups::own_mem_limit().map_or(total, |limit| limit.min(total));
    Ok(spare_mem(limit))
}

fn parse_mem_total(meminfo: &str) -> Option<Bytes> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(Bytes(kib * 1024))
}

/// The total without 1 GiB or a tenth of it, whichever is more, but at least half.
fn spare_mem(total: Bytes) -> Bytes {
    let headroom = MEM_HEADROOM.0.max(total.0 / 10);
    Bytes(total.0.saturating_sub(headroom).max(total.0 / 2))
}

/// What is free on the filesystem that holds `dir`, with what volumes and tasks' disks have set aside of
/// it in these stores, which is lent already or makes way, and without the headroom; in whole GiB if there are any, so that a restart does not change the amount
/// without need.
pub fn disk_room(dir: &Path, stores: &[PathBuf], headroom: Bytes) -> io::Result<Bytes> {
    let stat = nix::sys::statvfs::statvfs(dir)?;
    // The field types differ between platforms.
    #[allow(clippy::unnecessary_cast)]
    let free = (stat.blocks_available() as u64).saturating_mul(stat.fragment_size() as u64);
    let free = stores.iter().try_fold(free, |sum, store| {
        let set_aside = tepui_quota::set_aside(store)?;
        Ok::<_, io::Error>(sum.saturating_add(set_aside.0))
    })?;
    let free = free.saturating_sub(headroom.0);
    let gib = Bytes::gib(1).0;
    Ok(Bytes(if free > gib { free - free % gib } else { free }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_parse() {
        let parsed: ResourceOverrides =
            "cpus=1.5,mem=4GiB,disk=10GB,ports=31000-31009,ports=32000,gpus=2,licences=3"
                .parse()
                .unwrap();
        let all = parsed
            .complete(Path::new("/"), Bytes(0), BTreeMap::new())
            .unwrap();
        assert_eq!(all.cpus, MilliCpus(1500));
        assert_eq!(all.mem, Bytes::gib(4));
        assert_eq!(all.disk, Bytes::gib(10));
        assert_eq!(all.ports.count(), 11);
        assert_eq!(all.gpus.len(), 2);
        assert_eq!(all.custom["licences"], 3000);
    }

    #[test]
    fn things_that_are_counted_one_by_one_parse() {
        let parsed: ResourceOverrides = "vlan=10-19,vlan=30-30,licence={blue|red}".parse().unwrap();
        let all = parsed
            .complete(Path::new("/"), Bytes(0), BTreeMap::new())
            .unwrap();
        assert_eq!(all.items["vlan"].to_string(), "[10-19,30]");
        assert_eq!(all.items["licence"].to_string(), "{blue,red}");
        assert_eq!(all.validate(), Ok(()));
    }

    #[test]
    fn what_is_not_named_is_detected() {
        let all = ResourceOverrides::default()
            .complete(Path::new("/"), Bytes(0), BTreeMap::new())
            .unwrap();
        assert!(all.cpus.0 >= 1 && all.mem.0 > 0 && all.disk.0 > 0);
        assert_eq!(all.ports, PortRanges::from_range(31_000, 32_000));
        assert!(all.gpus.is_empty());
        let none: ResourceOverrides = "ports=none".parse().unwrap();
        assert!(
            none.complete(Path::new("/"), Bytes(0), BTreeMap::new())
                .unwrap()
                .ports
                .is_empty()
        );
    }

    #[test]
    fn bad_amounts_are_named_with_their_fix() {
        for (text, part) in [
            ("cpus", "NAME=AMOUNT"),
            ("cpus=-1", "such as 2"),
            ("cpus=1.2345", "3 places"),
            ("cpus=99999999999999999999", "such as 2"),
            ("mem=4GG", "4GiB"),
            ("mem=GiB", "4GiB"),
            ("mem=99999999999TiB", "4GiB"),
            ("ports=2-1", "31000-32000"),
            ("ports=0-5", "31000-32000"),
            ("ports=70000", "31000-32000"),
            ("gpus=half", "whole number"),
            ("Fast Disk=1", "a-z"),
            ("cpus=1,cpus=2", "twice"),
            ("ports=1-5,ports=5-9", "overlap"),
            ("vlan=1-5,vlan=5-9", "overlap"),
            ("vlan=1,vlan=5-9", "twice"),
            ("vlan=1-5,vlan=1", "twice"),
            ("vlan=5-1", "10-20"),
            ("vlan=1-99999999999999999", "2^53"),
            ("licence={a|a}", "overlap"),
            ("licence={a", "{a|b}"),
            ("licence={}", "{a|b}"),
        ] {
            let error = text.parse::<ResourceOverrides>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn memory_leaves_headroom_but_at_least_half() {
        assert_eq!(spare_mem(Bytes::gib(100)), Bytes::gib(90));
        assert_eq!(spare_mem(Bytes::gib(4)), Bytes::gib(3));
        assert_eq!(spare_mem(Bytes::gib(1)), Bytes::mib(512));
        assert_eq!(
            parse_mem_total("MemTotal:  2048 kB\nMemFree: 1 kB"),
            Some(Bytes::mib(2))
        );
        assert_eq!(parse_mem_total("MemFree: 1 kB"), None);
    }
}
