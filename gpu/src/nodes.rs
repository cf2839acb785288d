//! Device nodes of a machine: which numbers a path has.
//!
//! Behind a trait, so that a recorded machine can stand in. A link is no node: where it leads can
//! change after it was looked at.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::edits::NodeKind;

/// What a node leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// Of which kind.
    pub kind: NodeKind,
    /// The driver's number; 0 of a pipe.
    pub major: u32,
    /// The device's number; 0 of a pipe.
    pub minor: u32,
}

/// Who knows a machine's nodes.
pub trait Nodes {
    /// The node at that path.
    fn node(&self, path: &Path) -> io::Result<Node>;
}

/// The nodes of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct MachineNodes;

impl Nodes for MachineNodes {
    fn node(&self, path: &Path) -> io::Result<Node> {
        let found = std::fs::symlink_metadata(path)?;
        let kind = match found.file_type() {
            kind if kind.is_char_device() => NodeKind::Char,
            kind if kind.is_block_device() => NodeKind::Block,
            kind if kind.is_fifo() => NodeKind::Fifo,
            _ => return Err(io::Error::other("it is not a device")),
        };
        if kind == NodeKind::Fifo {
            let (major, minor) = (0, 0);
            return Ok(Node { kind, major, minor });
        }
        Ok(Node {
            kind,
            major: rustix::fs::major(found.rdev()),
            minor: rustix::fs::minor(found.rdev()),
        })
    }
}

impl Nodes for BTreeMap<PathBuf, Node> {
    fn node(&self, path: &Path) -> io::Result<Node> {
        let found = self.get(path).copied();
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}
