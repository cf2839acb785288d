//! GPUs of an agent's machine.
//!
//! Data flows one way: what a driver says ([`NvidiaLibrary`], sysfs) becomes an [`Inventory`], which
//! tells what to lend ([`Inventory::resources`], [`Inventory::attributes`]). What a container needs
//! for a device becomes [`ContainerEdits`], from a vendor's description ([`cdi`]).
//! A machine without a driver has an empty inventory, which is an ordinary case.
//! The agent calls this crate; nothing in here knows of masters, and nothing changes the machine.

pub mod cdi;

mod detect;
mod edits;
mod gpu;
mod lend;
mod nodes;
mod nvidia;
mod nvml;
mod rules;

pub use detect::{MAX_GPUS, detect_nvidia};
pub use edits::{Access, ContainerEdits, DeviceNode, EditMount, Hook, HookPoint, NodeKind};
pub use gpu::{
    ComputeCapability, DriverVersions, FaultyGpu, Gpu, GpuVendor, Inventory, MigInstance,
};
pub use nodes::{MachineNodes, Node, Nodes};
pub use nvidia::{DeviceReading, MigReading, NvidiaFault, NvidiaLibrary};
pub use nvml::Nvml;
pub use rules::DeviceRule;
