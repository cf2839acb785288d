//! The Container Device Interface: what vendors say that containers need for their devices.
//!
//! Files in JSON or YAML are read from folders ([`Registry::read`]); a device is named by vendor,
//! class and name ([`DeviceName`]), and names are resolved into [`ContainerEdits`] at the moment
//! when a container is made. Versions 0.3.0 to 1.0.0 of the specification, and of 1.1.0 what came
//! before it. `intelRdt` and network devices are refused, for nothing here could apply them.
//! <https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md>
//!
//! A file that is wrong is a problem of its own: the others count.
//!
//! [`ContainerEdits`]: crate::ContainerEdits

mod error;
mod file;
mod name;
mod registry;
mod resolve;
mod version;
mod wire;
mod yaml;

pub use error::CdiError;
pub use name::{DeviceName, ParseDeviceNameError};
pub use registry::{DEFAULT_FOLDERS, MAX_FILE, MAX_FILES, Registry};
