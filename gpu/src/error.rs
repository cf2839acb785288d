//! Why a task cannot have its devices.
//!
//! Every message says what helps.

use std::path::PathBuf;

use crate::cdi::CdiError;

/// Why a task cannot have the devices that it was given.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// The machine has no such device, or not any more.
    #[error(
        "gpu `{0}` is not on this machine, or is faulty: restart the agent to look for gpus anew"
    )]
    Unknown(String),
    /// Not an amount of a device.
    #[error("gpu `{id}` is to be had to {milli} thousandths: ask for 1 to 1000")]
    Amount {
        /// Which.
        id: String,
        /// How much of it.
        milli: u64,
    },
    /// A device node was not made.
    #[error(
        "the device node {0} is not there: load the driver, and run `nvidia-modprobe -u -c 0` for NVIDIA's"
    )]
    MissingNode(PathBuf),
    /// It is not known which nodes there are, or where they lead.
    #[error("{path} cannot be looked at")]
    Look {
        /// Which folder, node or list.
        path: PathBuf,
        /// What happened.
        #[source]
        source: std::io::Error,
    },
    /// The driver made no access file for an instance.
    #[error(
        "the driver knows no way into instance `{0}`: it may have been removed; restart the agent to look for gpus anew"
    )]
    MissingInstance(String),
    /// The driver's libraries are not on the machine.
    #[error(
        "{0} is not among the machine's libraries (`ldconfig -p`): install the driver's libraries, or describe the devices with `nvidia-ctk cdi generate`"
    )]
    MissingLibrary(&'static str),
    /// A vendor's description cannot be used.
    #[error("what the vendor says of the devices cannot be used")]
    Cdi(#[source] Box<CdiError>),
    /// A vendor's description is of another device.
    #[error(
        "what the vendor says of `{name}` is not about gpu `{id}`: the numbers of the devices have changed; write it anew with `nvidia-ctk cdi generate`"
    )]
    Renumbered {
        /// The name in the description.
        name: String,
        /// The device that has that number now.
        id: String,
    },
}

impl From<CdiError> for GpuError {
    fn from(error: CdiError) -> Self {
        Self::Cdi(Box::new(error))
    }
}
