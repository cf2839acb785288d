//! Resources: what fits where, and which ports and devices a task gets.
//!
//! The arithmetic is the cluster's own ([`Resources::pick`],
//! [`Resources::checked_sub`]), so that what is picked here is what the host
//! accepts.

pub use tepui_types::resources::{PortRanges, ResourceError, ResourceRequest};
pub use tepui_types::{Bytes, MilliCpus, Resources};

/// A request for these and nothing else.
pub fn request(cpus: MilliCpus, mem: Bytes) -> ResourceRequest {
    ResourceRequest {
        cpus,
        mem,
        ..ResourceRequest::default()
    }
}

/// Takes up to `count` tasks' worth of `request` out of `free`, each with its
/// own ports and devices.
///
/// ```
/// use tepui_sdk::resources::{self, Bytes, MilliCpus, ResourceRequest, Resources};
///
/// let mut free = Resources { cpus: MilliCpus(250), mem: Bytes::gib(1), ..Resources::default() };
/// let request = ResourceRequest { cpus: MilliCpus(100), ..ResourceRequest::default() };
/// let picked = resources::take(&mut free, &request, 10);
/// assert_eq!(picked.len(), 2);
/// assert_eq!(free.cpus, MilliCpus(50));
/// ```
pub fn take(free: &mut Resources, request: &ResourceRequest, count: u32) -> Vec<Resources> {
    let mut taken = Vec::new();
    for _ in 0..count {
        let Ok(picked) = free.pick(request) else {
            break;
        };
        let Ok(rest) = free.checked_sub(&picked) else {
            break;
        };
        *free = rest;
        taken.push(picked);
    }
    taken
}

/// Whether `request` fits into `free` now.
pub fn fits(free: &Resources, request: &ResourceRequest) -> bool {
    free.pick(request).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_and_no_device_is_given_twice() {
        let mut free = Resources {
            cpus: MilliCpus(4000),
            ports: PortRanges::from_range(31000, 31004),
            gpus: [("gpu0".into(), 1000), ("gpu1".into(), 1000)].into(),
            ..Resources::default()
        };
        let all = free.clone();
        let request = ResourceRequest {
            cpus: MilliCpus(100),
            ports: 2,
            gpus_milli: 500,
            ..ResourceRequest::default()
        };
        let picked = take(&mut free, &request, 10);
        assert_eq!(picked.len(), 2, "five ports are enough for two tasks");
        let sum = picked
            .iter()
            .fold(free, |sum, task| sum.checked_add(task).unwrap());
        assert_eq!(sum, all);
    }
}
