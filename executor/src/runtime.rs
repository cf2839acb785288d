//! Who makes containers out of their specifications.

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A runtime of OCI containers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Runtime {
    /// The executor itself, by libcontainer.
    #[default]
    BuiltIn,
    /// A program with runc's command line (`create`, `start`).
    Program(PathBuf),
}

/// Its name in flags and files.
const BUILT_IN: &str = "builtin";

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str(BUILT_IN),
            Self::Program(path) => path.display().fmt(f),
        }
    }
}

impl FromStr for Runtime {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            BUILT_IN => Self::BuiltIn,
            path => Self::Program(path.into()),
        })
    }
}
