//! Dominant shares, as integers.
//!
//! A share is the largest part of the cluster that someone has of any one
//! resource, in millionths, so that the same numbers come out on every machine.

use tepui_types::resources::ResourceRequest;

/// Millionths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(pub u64);

/// The dominant share of `used` in `total`.
pub fn dominant_share(used: &ResourceRequest, total: &ResourceRequest) -> Share {
    let mut share = part(used.cpus.0, total.cpus.0)
        .max(part(used.mem.0, total.mem.0))
        .max(part(used.disk.0, total.disk.0))
        .max(part(u64::from(used.ports), u64::from(total.ports)))
        .max(part(used.gpus_milli, total.gpus_milli));
    for (name, milli) in &used.custom {
        share = share.max(part(*milli, total.custom.get(name).copied().unwrap_or(0)));
    }
    share
}

fn part(used: u64, total: u64) -> Share {
    if total == 0 {
        return Share(0);
    }
    // An agent that shrank may leave more used than there is.
    let millionths = u128::from(used) * 1_000_000 / u128::from(total);
    Share(u64::try_from(millionths).unwrap_or(u64::MAX))
}
