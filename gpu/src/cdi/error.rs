//! Why a device has no description.
//!
//! Every message names the file and what helps.

use std::io;
use std::path::PathBuf;

use super::name::DeviceName;
use crate::trust::Distrust;

/// Why a file, or a device in it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CdiError {
    /// A file or folder could not be read.
    #[error("failed to read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what the specification says.
    #[error("{path} is not a description of devices (CDI): {why}")]
    Invalid {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A file names programs to be run, and others than the machine's operator could have written it.
    #[error("{path} names hooks, which run with the agent's rights")]
    Hooks {
        /// Which.
        path: PathBuf,
        /// Who could have written it.
        #[source]
        why: Distrust,
    },
    /// No file describes the device.
    #[error(
        "no file in {folders} describes {name}{known}: write one with the vendor's tool, such as `nvidia-ctk cdi generate`"
    )]
    Unknown {
        /// What was asked for.
        name: DeviceName,
        /// Where was looked.
        folders: String,
        /// What there is instead, of the same kind.
        known: String,
    },
    /// Two files of one folder describe the device.
    #[error("both {first} and {second} describe {name}: remove one of them")]
    Conflict {
        /// Which device.
        name: DeviceName,
        /// One.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A node is not on the machine.
    #[error(
        "{file} names the device node {node}, which is not there: load the driver, or write the file anew with the vendor's tool"
    )]
    Node {
        /// Whose node it is.
        file: PathBuf,
        /// Which.
        node: PathBuf,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// A node is another one than the file says.
    #[error(
        "{file} says that {node} is `{said}`, and it is `{found}`: write the file anew with the vendor's tool"
    )]
    Stale {
        /// Whose node it is.
        file: PathBuf,
        /// Which.
        node: PathBuf,
        /// What the file says.
        said: String,
        /// What the machine has.
        found: String,
    },
}
