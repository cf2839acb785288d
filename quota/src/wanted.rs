//! What is asked of a disk's bounded folders, and what is answered.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tepui_types::Bytes;

use crate::error::BoundsError;
use crate::measure::Usage;

/// Where a disk's bounded folders are, and how they are made.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Records and images; on the disk that the folders are to be on, and nobody else's.
    pub store: PathBuf,
    /// The folders below which bounded ones are asked for. Each becomes a mount of its own where
    /// images are used, so files are not renamed into or out of it.
    pub places: Vec<PathBuf>,
    /// What stays free of the disk whatever is asked for, so that its owner can go on.
    pub headroom: Bytes,
    /// Whether images take their room when they are made. Where they do not, the disk may be lent
    /// twice, and is then full for tasks that are within their sizes.
    pub whole_images: bool,
    /// Removes a folder that a task could fill as it liked.
    pub remove_folder: fn(&Path) -> io::Result<()>,
}

/// A folder that is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Its name among those of this disk.
    pub name: &'a str,
    /// Where it is to be, below one of the places.
    pub at: &'a Path,
    /// Its size. What a file system of its own needs for itself, a few percent, is part of that.
    pub bytes: Bytes,
    /// How its size is to be kept.
    pub enforce: Enforce,
    /// For how long.
    pub life: Life,
}

/// How a size is to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforce {
    /// By the kernel: no write goes beyond it. Where this machine cannot, it is an error that
    /// [says so](BoundsError::cannot_enforce).
    Enforced,
    /// By whoever measures it.
    Measured,
}

/// How long a folder is to last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Life {
    /// It survives tasks, agents and power cuts.
    Persistent,
    /// It is of no use after a power cut: a sandbox.
    Scratch,
}

/// What a folder's size is kept by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The hard limits of this project.
    Project(u32),
    /// A file system of its own.
    Image,
    /// Being measured; nothing else.
    Measured,
}

/// A folder that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounded {
    /// Where; without links.
    pub path: PathBuf,
    /// Its size.
    pub bytes: Bytes,
    /// What that is kept by.
    pub way: Way,
}

/// What the kernel says of a folder whose size it enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// What is in it.
    pub used: Usage,
    /// What may be.
    pub size: Usage,
}

/// What a machine can do for folders of this disk.
#[derive(Debug)]
pub enum Support {
    /// Project quotas.
    Project,
    /// A file system of its own for each.
    Image,
    /// Nothing but measure them; this is why.
    Measured(BoundsError),
}
