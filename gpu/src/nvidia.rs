//! What is asked of NVIDIA's library.
//!
//! The trait is as small as detection needs it, so that a recorded machine can stand in for the
//! library. A fault of one device says nothing of the others.

use tepui_types::Bytes;

use crate::gpu::{ComputeCapability, DriverVersions};

/// The library of NVIDIA's driver, or a record of what it said.
pub trait NvidiaLibrary {
    /// The releases of driver and CUDA.
    fn versions(&self) -> Result<DriverVersions, NvidiaFault>;
    /// How many devices there are, the faulty ones among them.
    fn device_count(&self) -> Result<u32, NvidiaFault>;
    /// What the device of that number is.
    fn device(&self, index: u32) -> Result<DeviceReading, NvidiaFault>;
}

/// What the library says of a whole device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceReading {
    /// Such as `GPU-4cf8db2d-06c0-7d70-1a51-e59b25b2c16c`.
    pub uuid: String,
    /// Such as `NVIDIA H100 80GB HBM3`.
    pub model: String,
    /// All of its memory.
    pub memory: Bytes,
    /// With a domain of four or eight digits.
    pub pci_bus_id: String,
    /// None where the device has none.
    pub compute_capability: Option<ComputeCapability>,
    /// Of `/dev/nvidiaN`.
    pub minor: u32,
    /// Its instances if it is cut into such (maybe none yet); `None` if it is whole.
    pub instances: Option<Vec<MigReading>>,
}

/// What the library says of an instance of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigReading {
    /// Such as `MIG-1c5d2a6e-…`.
    pub uuid: String,
    /// Such as `NVIDIA A100-SXM4-40GB MIG 3g.20gb`.
    pub model: String,
    /// Its own memory.
    pub memory: Bytes,
    /// Counted on its device.
    pub index: u32,
    /// The GPU instance.
    pub gpu_instance: u32,
    /// The compute instance inside it.
    pub compute_instance: u32,
}

/// Why the library does not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NvidiaFault {
    /// The device fell off its bus.
    #[error("it fell off the bus: see `dmesg` for Xid 79, then restart the machine")]
    Lost,
    /// The device wants to be reset.
    #[error("it needs a reset before it can be used again: `nvidia-smi --gpu-reset`")]
    ResetRequired,
    /// Driver and library are of different releases.
    #[error(
        "the driver and its library are of different releases, as after an upgrade: reload the driver or restart the machine"
    )]
    VersionMismatch,
    /// The agent may not ask.
    #[error("this user may not ask the driver: check who may open /dev/nvidia*")]
    NoPermission,
    /// Something else, in the library's words.
    #[error("the driver's library says: {0}")]
    Other(String),
}
