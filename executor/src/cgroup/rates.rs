//! How much of a disk a cgroup may use: `blkio` of v1, `io` of v2.
//!
//! A share is a wish: kernels and schedulers of disks that know none are passed over, and the log says
//! so. A rate is a promise to the others on the machine, and one that cannot be kept is an error.

use std::fs;
use std::path::Path;

use tepui_types::command::IoLimits;

use super::disk::Disk;
use super::{CgroupError, Group};
use crate::log;

/// v2's name for all rates of a disk.
const IO_MAX: &str = "io.max";
/// v1's, each in a file of its own.
const THROTTLE: [&str; 4] = [
    "blkio.throttle.read_bps_device",
    "blkio.throttle.write_bps_device",
    "blkio.throttle.read_iops_device",
    "blkio.throttle.write_iops_device",
];
/// v2's keys of the same.
const KEYS: [&str; 4] = ["rbps", "wbps", "riops", "wiops"];
/// Files of shares whose usual value is 100, as ours is: of the BFQ scheduler, then of v2's cost model.
const WEIGHTS: [&str; 3] = ["blkio.bfq.weight", "io.bfq.weight", "io.weight"];
/// That of the CFQ scheduler of old kernels: from 10 to 1,000, usually 500.
const CFQ_WEIGHT: &str = "blkio.weight";

impl Group {
    /// Holds it to these limits on the disk under `folder`. It is in all hierarchies.
    ///
    /// # Errors
    /// When there is a rate among them that cannot be had.
    pub fn limit_io(&self, limits: &IoLimits, folder: &Path) -> Result<(), CgroupError> {
        let dir = self.dir_of("blkio");
        if let Some(weight) = limits.weight
            && !dir.is_some_and(|dir| set_weight(dir, weight))
        {
            log::say("this machine's disks know no shares: `weight` of `io` is passed over");
        }
        let rates = rates(limits);
        if rates.iter().all(Option::is_none) {
            return Ok(());
        }
        let dir = dir.ok_or_else(|| CgroupError::MissingController("blkio".to_owned()))?;
        let disk = Disk::under(folder).ok_or_else(|| CgroupError::NoDisk {
            folder: folder.display().to_string(),
        })?;
        for (file, line) in rate_lines(disk, rates, self.cgroup.v2()) {
            let written = fs::write(dir.join(file), line);
            written.map_err(|error| self.refused("set the rates of disks", error))?;
        }
        Ok(())
    }
}

/// In the order of the names above.
fn rates(limits: &IoLimits) -> [Option<u64>; 4] {
    // The kernel counts operations in 32 bits.
    let operations = |rate: Option<u64>| rate.map(|rate| rate.min(u64::from(u32::MAX)));
    [
        limits.read_bytes,
        limits.write_bytes,
        operations(limits.reads),
        operations(limits.writes),
    ]
}

/// What is written to which files.
fn rate_lines(
    disk: Disk,
    rates: [Option<u64>; 4],
    is_v2: bool,
) -> impl Iterator<Item = (&'static str, String)> {
    let set = move |names: [&'static str; 4]| {
        let pairs = names.into_iter().zip(rates);
        pairs.filter_map(|(name, rate)| Some((name, rate?)))
    };
    let all = is_v2.then(|| {
        let keys = set(KEYS).map(|(key, rate)| format!(" {key}={rate}"));
        (IO_MAX, format!("{disk}{}", keys.collect::<String>()))
    });
    let each = set(THROTTLE).filter(move |_| !is_v2);
    let each = each.map(move |(file, rate)| (file, format!("{disk} {rate}")));
    all.into_iter().chain(each)
}

/// Whether a kernel's file took it.
fn set_weight(dir: &Path, weight: u16) -> bool {
    let write = |file: &str, weight: u16| {
        let path = dir.join(file);
        path.exists() && fs::write(path, weight.to_string()).is_ok()
    };
    // Each has its own, and which counts is the choice of a disk's scheduler.
    let set = WEIGHTS.map(|file| write(file, weight));
    let old = write(CFQ_WEIGHT, weight.saturating_mul(5).clamp(10, 1000));
    set.contains(&true) || old
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_become_the_kernels_lines() {
        let disk = Disk { major: 8, minor: 0 };
        let limits = IoLimits {
            read_bytes: Some(1000),
            writes: Some(u64::MAX),
            ..IoLimits::default()
        };
        let lines = |is_v2| rate_lines(disk, rates(&limits), is_v2).collect::<Vec<_>>();
        assert_eq!(
            lines(true),
            [("io.max", "8:0 rbps=1000 wiops=4294967295".to_owned())]
        );
        assert_eq!(
            lines(false),
            [
                ("blkio.throttle.read_bps_device", "8:0 1000".to_owned()),
                (
                    "blkio.throttle.write_iops_device",
                    "8:0 4294967295".to_owned()
                ),
            ]
        );
    }

    #[test]
    fn a_share_is_set_where_the_kernel_has_a_file_for_it() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!set_weight(dir.path(), 7));
        for (file, expected) in [("io.weight", "7"), ("blkio.weight", "35")] {
            fs::write(dir.path().join(file), "").unwrap();
            assert!(set_weight(dir.path(), 7));
            let written = fs::read_to_string(dir.path().join(file)).unwrap();
            assert_eq!(written, expected);
        }
    }
}
