//! The hierarchies of this machine, looked up once: a process that starts many
//! tasks need not read its mounts for each.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use cgroups_rs::fs::Hierarchy;
use cgroups_rs::fs::hierarchies::{V1, V2, is_cgroup2_unified_mode};

enum Mounted {
    V1(V1),
    V2(V2),
}

/// Where the controllers are.
pub(super) fn of_controllers() -> Box<dyn Hierarchy> {
    static MOUNTED: OnceLock<Mounted> = OnceLock::new();
    let find = || match is_cgroup2_unified_mode() {
        true => Mounted::V2(V2::new()),
        false => Mounted::V1(V1::new()),
    };
    match MOUNTED.get_or_init(find) {
        Mounted::V1(hierarchy) => Box::new(hierarchy.clone()),
        Mounted::V2(hierarchy) => Box::new(hierarchy.clone()),
    }
}

/// Where a machine with v1 controllers mounts the v2 hierarchy, if it does.
pub(super) fn hybrid_mount() -> Option<PathBuf> {
    static MOUNT: OnceLock<Option<PathBuf>> = OnceLock::new();
    MOUNT.get_or_init(find_hybrid_mount).clone()
}

/// Whether there is a v2 hierarchy beside v1 controllers that counts the time of a cgroup and ends
/// all its processes when asked: `cgroup.kill`, since Linux 5.14.
pub(super) fn is_hybrid() -> bool {
    static IS_HYBRID: OnceLock<bool> = OnceLock::new();
    let release = || {
        let name = nix::sys::utsname::uname().ok()?;
        let mut parts = name.release().to_str()?.split(['.', '-']);
        let mut number = || parts.next()?.parse::<u32>().ok();
        Some((number()?, number()?))
    };
    *IS_HYBRID.get_or_init(|| hybrid_mount().is_some() && release() >= Some((5, 14)))
}

fn find_hybrid_mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let cgroup2 = |line: &str| {
        let (mount, kind) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        (kind.split(' ').next() == Some("cgroup2")).then(|| PathBuf::from(point))
    };
    mounts.lines().find_map(cgroup2)
}
