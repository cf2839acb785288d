//! GPUs of an agent's machine.
//!
//! Data flows one way: what a driver says ([`NvidiaLibrary`], sysfs) becomes an [`Inventory`], which
//! tells what to lend ([`Inventory::resources`], [`Inventory::attributes`]). What a container needs
//! for its devices becomes [`ContainerEdits`] by an [`Assigner`], from a vendor's description ([`cdi`])
//! or from what is built in.
//! A machine without a driver has an empty inventory, which is an ordinary case.
//! The agent calls this crate; nothing in here knows of masters, and nothing changes the machine.

pub mod cdi;

mod amd;
mod assign;
mod builtin;
mod detect;
mod driver_files;
mod edits;
mod error;
mod gpu;
mod lend;
mod libraries;
mod nodes;
mod nvidia;
mod nvml;
mod rules;
mod trust;

pub use amd::detect_amd;
pub use assign::{Assigner, NativeEdits};
pub use detect::{MAX_GPUS, detect, detect_nvidia};
pub use driver_files::{DriverFiles, mig_minors};
pub use edits::{Access, ContainerEdits, DeviceNode, EditMount, Hook, HookPoint, NodeKind};
pub use error::GpuError;
pub use gpu::{
    ComputeCapability, DriverVersions, FaultyGpu, Gpu, GpuVendor, Inventory, MigInstance,
};
pub use libraries::driver_libraries;
pub use nodes::{MachineNodes, Node, Nodes};
pub use nvidia::{DeviceReading, MigReading, NvidiaFault, NvidiaLibrary};
pub use nvml::Nvml;
pub use rules::DeviceRule;
pub use trust::{Distrust, check_trust};
