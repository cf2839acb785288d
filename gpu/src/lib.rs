//! GPUs of an agent's machine.
//!
//! Data flows one way: what a driver says ([`NvidiaLibrary`], sysfs) becomes an [`Inventory`], which
//! tells what to lend ([`Inventory::resources`], [`Inventory::attributes`]).
//! A machine without a driver has an empty inventory, which is an ordinary case.
//! The agent calls this crate; nothing in here knows of masters, and nothing changes the machine.

mod detect;
mod gpu;
mod lend;
mod nvidia;
mod nvml;

pub use detect::{MAX_GPUS, detect_nvidia};
pub use gpu::{
    ComputeCapability, DriverVersions, FaultyGpu, Gpu, GpuVendor, Inventory, MigInstance,
};
pub use nvidia::{DeviceReading, MigReading, NvidiaFault, NvidiaLibrary};
pub use nvml::Nvml;
