//! What could not be read of the machine.
//!
//! What is merely not there, such as pressure on a kernel without PSI, is no error.

use std::io;
use std::path::PathBuf;

/// A file of the kernel, or a disk, that did not tell what it should.
#[derive(Debug, thiserror::Error)]
pub enum PressureError {
    /// It cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It says something else than expected.
    #[error("failed to understand {path}")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Malformed,
    },
    /// The room of a disk is not told.
    #[error("failed to ask the disk of {path} for its room")]
    Disk {
        /// A folder on it.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A text that is not of the form that the kernel documents.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A value is not there.
    #[error("it has no {0}")]
    Missing(&'static str),
    /// A value is there twice.
    #[error("it has {0} twice")]
    Twice(&'static str),
    /// A value is no number, or one that is too large.
    #[error("its {0} is not a number that can be")]
    Number(&'static str),
    /// It is longer than any that is known.
    #[error("it has more than {0} bytes")]
    TooLong(usize),
}
