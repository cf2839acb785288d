//! Why a folder with a size is not to be had, and what to do about it.
//!
//! [`BoundsError::cannot_enforce`] is the one place that says which of these a caller may answer by
//! having the folder measured instead.

use std::io;
use std::path::{Path, PathBuf};

use tepui_types::Bytes;

/// Why something with a bounded folder was not done.
#[derive(Debug, thiserror::Error)]
pub enum BoundsError {
    /// A step failed in a way that has no better name.
    #[error("failed to {step} {path}")]
    Io {
        /// Which step.
        step: &'static str,
        /// Of what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A name that cannot be that of a folder.
    #[error(
        "`{0}` cannot be a folder's name: use one of 1 to 200 bytes that has no `/` and does not begin with `.`"
    )]
    Name(String),
    /// A place that is not below any of the folders that were named at the start.
    #[error(
        "{0} is below none of the folders that hold bounded ones: name its parent in the settings"
    )]
    Elsewhere(PathBuf),
    /// The kernel lets this process mount nothing.
    #[error(
        "enforcing the size of {path} takes a mount, which this process may not make: run the agent as root (with CAP_SYS_ADMIN), or have sizes measured"
    )]
    NotPermitted {
        /// Of what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There are no loop devices.
    #[error(
        "no loop device is to be had through {path}: load the kernel's module (`modprobe loop`, Linux 5.8 or later), bring /dev/loop-control and /dev/loop* into the agent's container, or have sizes measured"
    )]
    NoLoop {
        /// The device that was asked.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A helper program is missing.
    #[error(
        "{0} was not found in PATH, /usr/sbin or /sbin: install e2fsprogs, or have sizes measured"
    )]
    NoProgram(&'static str),
    /// A helper program has failed.
    #[error("{program} failed on {path} ({status}): {said}")]
    Program {
        /// Which.
        program: &'static str,
        /// On what.
        path: PathBuf,
        /// How it ended.
        status: String,
        /// The end of what it said.
        said: String,
    },
    /// A file system of its own does not fit into that.
    #[error(
        "{bytes} is too little for a file system of its own: ask for {least} or more, or have the size measured"
    )]
    TooSmall {
        /// What was asked for.
        bytes: Bytes,
        /// The least that is possible.
        least: Bytes,
    },
    /// The disk has no room.
    #[error(
        "{path} has {free} free and needs {wanted}, with {headroom} left over: remove something from this disk, or lend less of it (`--resources disk=…`)"
    )]
    Full {
        /// On which disk.
        path: PathBuf,
        /// What was asked for.
        wanted: Bytes,
        /// What is free.
        free: Bytes,
        /// What has to stay free.
        headroom: Bytes,
    },
    /// The file system below cannot set room aside.
    #[error(
        "the file system of {path} cannot set room aside: keep it on ext4, xfs or btrfs, or let images take room as they are written"
    )]
    NoAllocation {
        /// The image.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process has the turn on a disk, and keeps it.
    #[error(
        "another agent of this machine keeps {0} locked for a minute: see which (`lslocks`), and end it if it hangs"
    )]
    Busy(PathBuf),
    /// Something is there already.
    #[error("{0} holds something already that is not bounded: empty it, or have its size measured")]
    Occupied(PathBuf),
    /// It cannot grow while somebody has it.
    #[error(
        "{0} is in use, and growing it meanwhile takes CAP_SYS_RESOURCE: give that to the agent, or end the tasks that use it first"
    )]
    InUse(PathBuf),
    /// Less than before.
    #[error("{name} has {had}, and {wanted} is less: a folder whose size is enforced only grows")]
    Shrinks {
        /// Which folder.
        name: String,
        /// What it has.
        had: Bytes,
        /// What was asked for.
        wanted: Bytes,
    },
    /// The name is another folder's.
    #[error("{name} is the folder at {there}: remove that one first, or take another name")]
    Taken {
        /// Which.
        name: String,
        /// Where it is.
        there: PathBuf,
    },
    /// There is no such folder.
    #[error("there is no bounded folder {0}: make it first")]
    Unknown(String),
    /// A file system that its checker does not mend by itself.
    #[error(
        "the file system in {image} is damaged: mend it with `e2fsck -f {image}`, then start its task again; the checker said: {said}"
    )]
    Damaged {
        /// Its image.
        image: PathBuf,
        /// What the checker said.
        said: String,
    },
    /// A file system of its own that takes no writes since an error.
    #[error(
        "the file system at {at} takes no writes since an error of the disk below it (the kernel's log says which): end the tasks that use it, then `umount {at} && e2fsck -f {image}`; the next task has it mounted again"
    )]
    Stopped {
        /// Where it is mounted.
        at: PathBuf,
        /// Its image.
        image: PathBuf,
    },
    /// The whole disk takes no writes.
    #[error(
        "the disk with {0} takes no writes (the kernel's log says why): mend it, and mount it so that it can be written to"
    )]
    ReadOnly(PathBuf),
    /// A record that this release does not read.
    #[error(
        "{path} is not a record that this release reads: {what}; move {path} and what lies beside it away, or install the release that wrote it"
    )]
    Record {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// What has limited a folder is off now.
    #[error(
        "{0} is limited by a project quota, and its file system does not enforce those any more: mount it with `prjquota` again"
    )]
    QuotasOff(PathBuf),
    /// Every project id of ours is in use.
    #[error(
        "no project id from {first} to {last} is free on the file system of {path}: remove limits that nobody needs (`repquota -P`)"
    )]
    NoProject {
        /// Where.
        path: PathBuf,
        /// The first that was tried.
        first: u32,
        /// The last.
        last: u32,
    },
}

impl BoundsError {
    /// True where this machine, or this size, has no enforcement; the folder could still be had
    /// measured. False where something is wrong that would be wrong in either way.
    pub fn cannot_enforce(&self) -> bool {
        match self {
            Self::NotPermitted { .. }
            | Self::NoLoop { .. }
            | Self::NoProgram(_)
            | Self::TooSmall { .. }
            | Self::NoAllocation { .. }
            | Self::Occupied(_)
            | Self::NoProject { .. } => true,
            Self::Io { .. }
            | Self::Name(_)
            | Self::Elsewhere(_)
            | Self::Program { .. }
            | Self::Full { .. }
            | Self::Busy(_)
            | Self::InUse(_)
            | Self::Shrinks { .. }
            | Self::Taken { .. }
            | Self::Unknown(_)
            | Self::QuotasOff(_)
            | Self::Damaged { .. }
            | Self::Stopped { .. }
            | Self::ReadOnly(_)
            | Self::Record { .. } => false,
        }
    }

    /// What the system says of a step.
    pub(crate) fn io(step: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io {
            step,
            path: path.to_owned(),
            source: source.into(),
        }
    }
}
