//! Dominant shares, as integers.
//!
//! A share is the largest part of the cluster that someone has of any one
//! resource, so that the same numbers come out on every machine.

use tepui_types::resources::ResourceRequest;

/// For people: millionths of the cluster. For the order of service: smaller
/// parts, divided by a weight.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(pub u64);

/// The dominant share of `used` in `total`, in millionths.
pub fn dominant_share(used: &ResourceRequest, total: &ResourceRequest) -> Share {
    scaled(used, total, 1_000_000, 1)
}

/// The dominant share in parts of 10^12, divided by a weight in thousandths.
pub(super) fn weighted_share(
    used: &ResourceRequest,
    total: &ResourceRequest,
    weight_milli: u32,
) -> Share {
    scaled(used, total, 1_000_000_000_000_000, weight_milli.max(1))
}

/// `scale` is at most 10^15, so that nothing overflows 128 bits.
fn scaled(used: &ResourceRequest, total: &ResourceRequest, scale: u128, divisor: u32) -> Share {
    let (used, total) = dominant_part(used, total);
    // An agent that shrank may leave more used than there is.
    let share = u128::from(used) * scale / (u128::from(total) * u128::from(divisor));
    Share(u64::try_from(share).unwrap_or(u64::MAX))
}

/// Used and total of the resource of which the part is largest, found without
/// a division.
fn dominant_part(used: &ResourceRequest, total: &ResourceRequest) -> (u64, u64) {
    let mut largest = (0, 1);
    let mut part = |used: u64, total: u64| {
        let is_larger =
            u128::from(used) * u128::from(largest.1) > u128::from(largest.0) * u128::from(total);
        if total > 0 && is_larger {
            largest = (used, total);
        }
    };
    part(used.cpus.0, total.cpus.0);
    part(used.mem.0, total.mem.0);
    part(used.disk.0, total.disk.0);
    part(used.ports, total.ports);
    part(used.gpus_milli, total.gpus_milli);
    for (name, milli) in &used.custom {
        part(*milli, total.custom.get(name).copied().unwrap_or(0));
    }
    largest
}
