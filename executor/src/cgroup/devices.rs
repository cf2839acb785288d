//! Which devices the processes of a cgroup may use.
//!
//! Of v2 no controller says so, but programs in the kernel (BPF, of type `CGROUP_DEVICE`) that are asked
//! at each open(2) and mknod(2) of a node: those of the process's cgroup and of the cgroups above it, and
//! one that refuses is enough. Machines with v1 controllers have them as well, in the v2 hierarchy beside
//! those. Whoever sets a policy must be allowed to call bpf(2), which confined executors are not: agents
//! set those of native tasks, executors those of the containers that they make.
//! <https://docs.kernel.org/admin-guide/cgroup-v2.html#device-controller>

use std::fs;
use std::io;
use std::ops::BitOr;
use std::path::{Path, PathBuf};

use cgroups_rs::fs::hierarchies::{UNIFIED_MOUNTPOINT, is_cgroup2_unified_mode};

use super::{CgroupError, hierarchy};

mod bpf;
mod program;

/// The most rules of a policy: kernels before 5.2 take 4,096 instructions, and a rule has eight at most.
pub const MAX_RULES: usize = 500;

/// Of which kind a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceKind {
    /// Of blocks.
    Block,
    /// Of characters.
    Char,
}

/// Some of what can be done with a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceAccess(u8);

impl DeviceAccess {
    /// To make nodes of it.
    pub const MKNOD: Self = Self(1);
    /// To open it for reading.
    pub const READ: Self = Self(2);
    /// To open it for writing.
    pub const WRITE: Self = Self(4);
    /// All of that.
    pub const ALL: Self = Self(7);

    /// As the kernel numbers them.
    fn bits(self) -> i32 {
        i32::from(self.0)
    }
}

impl BitOr for DeviceAccess {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What may be done, or may not, with a device, or with all of a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceRule {
    /// Whether it may.
    pub allow: bool,
    /// Of which kind.
    pub kind: DeviceKind,
    /// The driver's number.
    pub major: u32,
    /// The device's number; all of the driver's when absent.
    pub minor: Option<u32>,
    /// What.
    pub access: DeviceAccess,
}

/// Rules, of which a later one counts before an earlier one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DevicePolicy {
    /// Whether that is allowed of which no rule speaks.
    pub allow_others: bool,
    /// The rules, [`MAX_RULES`] at most.
    pub rules: Vec<DeviceRule>,
}

/// Whether v2 is the only hierarchy, and no controller keeps anything from devices.
pub fn is_without_controller() -> bool {
    is_cgroup2_unified_mode()
}

/// Whether this process can set policies.
///
/// # Errors
/// Names what is in the way.
pub fn available() -> Result<(), CgroupError> {
    let root = folder("")?;
    let anything = DevicePolicy {
        allow_others: true,
        ..DevicePolicy::default()
    };
    let loaded = bpf::load(&program::of(&anything));
    loaded
        .map(drop)
        .map_err(|error| refused("load a program for devices", &root, &error))
}

/// Holds all that runs in the cgroup of that path, and in those below it, to this policy, and to no
/// earlier one. The cgroup's folder in the v2 hierarchy is made where it is not there.
///
/// # Errors
/// Where the machine has no v2 hierarchy, the kernel refuses, or there are too many rules. An earlier
/// policy may hold as well then.
pub fn restrict(path: &str, policy: &DevicePolicy) -> Result<(), CgroupError> {
    if policy.rules.len() > MAX_RULES {
        return Err(CgroupError::DeviceRules(policy.rules.len()));
    }
    let dir = folder(path)?;
    let step = |step| {
        let dir = &dir;
        move |error: io::Error| refused(step, dir, &error)
    };
    fs::create_dir_all(&dir).map_err(step("make the folder"))?;
    let program = bpf::load(&program::of(policy)).map_err(step("load a program for devices"))?;
    let cgroup = fs::File::open(&dir).map_err(step("open the folder"))?;
    bpf::replace(&cgroup, &program).map_err(step("set which devices may be used"))
}

/// The folder of that path in the v2 hierarchy.
fn folder(path: &str) -> Result<PathBuf, CgroupError> {
    let mount = match is_without_controller() {
        true => Some(PathBuf::from(UNIFIED_MOUNTPOINT)),
        false => hierarchy::hybrid_mount(),
    };
    let mount = mount.ok_or(CgroupError::NoDevicePolicies)?;
    Ok(mount.join(path))
}

fn refused(step: &'static str, dir: &Path, error: &io::Error) -> CgroupError {
    CgroupError::Refused {
        step,
        path: dir.display().to_string(),
        message: error.to_string(),
    }
}
