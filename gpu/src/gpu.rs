//! A GPU as the agent knows it, and all of a machine.
//!
//! What stands in [`Inventory::gpus`] can be used now; what cannot stands in [`Inventory::faulty`]
//! with its reason. Ids outlive restarts and are unique on a machine, so that they can name
//! resources. A device that is cut into instances is not one itself: its instances are.

use std::fmt;
use std::path::PathBuf;

use tepui_types::Bytes;

/// Whose driver a device needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GpuVendor {
    /// NVIDIA's, reached by NVML.
    Nvidia,
    /// AMD's, seen in sysfs.
    Amd,
}

/// What a device's code is compiled for, such as 9.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ComputeCapability {
    /// The generation.
    pub major: u32,
    /// The step in it.
    pub minor: u32,
}

impl fmt::Display for ComputeCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Where an instance is on the device that it is a part of (Multi-Instance GPU).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MigInstance {
    /// The whole device's UUID.
    pub parent: String,
    /// Counted on that device; instances that are not made leave gaps.
    pub index: u32,
    /// The GPU instance, which has memory of its own.
    pub gpu_instance: u32,
    /// The compute instance inside it.
    pub compute_instance: u32,
}

/// A device that tasks can have, whole or in thousandths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Names it among the agent's resources; the driver's own UUID where there is one.
    pub id: String,
    /// Whose it is.
    pub vendor: GpuVendor,
    /// The driver's number; of an instance, that of its whole device. Restarts may change it.
    pub index: u32,
    /// As its maker calls it.
    pub model: String,
    /// Its own memory.
    pub memory: Bytes,
    /// Such as `0000:3b:00.0`.
    pub pci_bus_id: String,
    /// Unknown for AMD's devices.
    pub compute_capability: Option<ComputeCapability>,
    /// The last number of its device node; of an instance, that of its whole device.
    pub minor: u32,
    /// The nodes in `/dev` that are its alone. An instance shares its whole device's.
    pub nodes: Vec<PathBuf>,
    /// Where it is, if it is an instance.
    pub mig: Option<MigInstance>,
}

/// A device that is there and cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultyGpu {
    /// Whose it is.
    pub vendor: GpuVendor,
    /// The driver's number.
    pub index: u32,
    /// What is wrong, and what helps.
    pub why: String,
}

impl fmt::Display for FaultyGpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vendor = match self.vendor {
            GpuVendor::Nvidia => "NVIDIA",
            GpuVendor::Amd => "AMD",
        };
        write!(f, "{vendor} gpu {}: {}", self.index, self.why)
    }
}

/// The releases of what drives the devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverVersions {
    /// The kernel's part, such as `550.90.07`.
    pub driver: String,
    /// The newest CUDA that it serves, as major and minor.
    pub cuda: Option<(u32, u32)>,
}

/// All of a machine's GPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// NVIDIA's driver, if one is loaded.
    pub nvidia: Option<DriverVersions>,
    /// What can be used, in the driver's order.
    pub gpus: Vec<Gpu>,
    /// What cannot, with its reason.
    pub faulty: Vec<FaultyGpu>,
}

impl Inventory {
    /// The device of that id.
    pub fn get(&self, id: &str) -> Option<&Gpu> {
        self.gpus.iter().find(|gpu| gpu.id == id)
    }
}
