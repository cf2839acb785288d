//! Project quotas (ext4 and xfs): a folder's files belong to a project, whose limits the file system
//! enforces.
//!
//! The limits are hard ones: a write beyond them fails at once (EDQUOT, or ENOSPC), and nobody else's
//! does. Files get their project from the folder that they are made in. They set no room aside: a disk
//! that is full fails those, too, that are within theirs. A project's id is from a range of ours, and
//! is free when the file system counts nothing under it.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use tepui_types::Bytes;

use crate::error::BoundsError;
use crate::image::BYTES_PER_INODE;
use crate::mounts::{self, Mount};

/// The first project id of ours: far from those that people and other systems number from 1.
const FIRST: u32 = 1_417_000_000;
/// How many are tried: more folders than an agent has tasks, and a second's work at most.
const COUNT: u32 = 100_000;
const LAST: u32 = FIRST + COUNT - 1;

// include/uapi/linux/quota.h: a command is shifted, and with it goes the kind of quota.
const PRJQUOTA: libc::c_int = 2;
const Q_GETQUOTA: libc::c_int = 0x80_0007;
const Q_SETQUOTA: libc::c_int = 0x80_0008;
/// However small it is, a folder may hold some files.
const LEAST_INODES: u64 = 128;
/// Blocks of limits, whatever the file system's are.
const QUOTA_BLOCK: u64 = 1024;

// include/uapi/linux/fs.h
const FS_IOC_FSGETXATTR: libc::Ioctl = 0x801c_581f;
const FS_IOC_FSSETXATTR: libc::Ioctl = 0x401c_5820;
const FS_XFLAG_PROJINHERIT: u32 = 0x200;

/// `struct fsxattr`.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    pad: [u8; 8],
}

/// `struct if_dqblk`.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct Limits {
    block_hard: u64,
    block_soft: u64,
    space: u64,
    inode_hard: u64,
    inode_soft: u64,
    inodes: u64,
    block_time: u64,
    inode_time: u64,
    valid: u32,
}

/// The project quotas of one file system.
#[derive(Debug)]
pub(crate) struct Projects {
    /// A folder of it.
    folder: PathBuf,
    /// The device that it is on, for kernels that want it named.
    device: PathBuf,
}

impl Projects {
    /// Those of the file system with this folder, if it enforces any.
    pub fn of(folder: &Path) -> Result<Option<Self>, BoundsError> {
        let mounts = mounts::all()?;
        let Some(mount) = mounts::containing(&mounts, folder).filter(|it| enforces(it)) else {
            return Ok(None);
        };
        let projects = Self {
            folder: folder.to_owned(),
            device: mount.source.clone(),
        };
        // What the options say and what the kernel does are two things: it is asked.
        match projects.limits(FIRST) {
            Ok(_) => Ok(Some(projects)),
            Err(error) => {
                let path = folder.display();
                tracing::warn!(%path, %error, "project quotas are on and do not answer");
                Ok(None)
            }
        }
    }

    /// An id that nobody has, and that none of the `taken` is. Others find it free until a folder is
    /// given to it or it has limits.
    pub fn free(&self, taken: impl Fn(u32) -> bool) -> Result<u32, BoundsError> {
        let found = first_free(taken, |id| self.limits(id));
        let found = found.map_err(|error| self.failed("ask for the limits of", error))?;
        found.ok_or_else(|| BoundsError::NoProject {
            path: self.folder.clone(),
            first: FIRST,
            last: LAST,
        })
    }

    /// Whether nothing is counted under an id; limits it may have.
    pub fn is_empty(&self, id: u32) -> Result<bool, BoundsError> {
        let limits = self.limits(id);
        let limits = limits.map_err(|error| self.failed("ask for the limits of", error))?;
        Ok((limits.space, limits.inodes) == (0, 0))
    }

    /// Lets a project have that much, and not more; nothing is no limit.
    pub fn limit(&self, id: u32, bytes: Option<Bytes>) -> Result<(), BoundsError> {
        let mut limits = hard_limits(bytes);
        let done = self.quotactl(Q_SETQUOTA, id, &mut limits);
        done.map_err(|error| self.failed("set the limits of a project of", error))
    }

    /// What is counted under a project, and its limits.
    fn limits(&self, id: u32) -> io::Result<Limits> {
        let mut limits = Limits::default();
        match self.quotactl(Q_GETQUOTA, id, &mut limits) {
            // xfs: nothing was ever counted under it.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Limits::default()),
            done => done.map(|()| limits),
        }
    }

    fn quotactl(&self, command: libc::c_int, id: u32, limits: &mut Limits) -> io::Result<()> {
        let command = (command << 8) | PRJQUOTA;
        let folder = File::open(&self.folder)?;
        // SAFETY: the kernel reads or fills a structure of its own layout, which outlives the call.
        let done = unsafe {
            let descriptor = folder.as_raw_fd();
            libc::syscall(
                libc::SYS_quotactl_fd,
                descriptor,
                command,
                id,
                &raw mut *limits,
            )
        };
        if done == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ENOSYS) {
            return Err(error);
        }
        // Linux before 5.14.
        let device = CString::new(self.device.as_os_str().as_bytes())?;
        let limits = (&raw mut *limits).cast();
        // SAFETY: as above, and a NUL-terminated path.
        let done = unsafe { libc::quotactl(command, device.as_ptr(), id.cast_signed(), limits) };
        match done {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn failed(&self, step: &'static str, error: io::Error) -> BoundsError {
        let path = self.folder.clone();
        match error.kind() {
            io::ErrorKind::PermissionDenied => BoundsError::NotPermitted {
                path,
                source: error,
            },
            _ => BoundsError::io(step, &path, error),
        }
    }
}

/// The first id of ours that is not taken and of which the file system knows nothing.
fn first_free(
    taken: impl Fn(u32) -> bool,
    limits: impl Fn(u32) -> io::Result<Limits>,
) -> io::Result<Option<u32>> {
    for id in (FIRST..=LAST).filter(|id| !taken(*id)) {
        let known = limits(id)?;
        let known = [
            known.block_hard,
            known.space,
            known.inode_hard,
            known.inodes,
        ];
        if known == [0; 4] {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

/// Whether a mount's file system counts projects and holds them to their limits.
fn enforces(mount: &Mount) -> bool {
    match mount.kind.as_str() {
        "ext4" => mount.has_option("prjquota"),
        "xfs" => mount.has_option("prjquota") || mount.has_option("pquota"),
        _ => false,
    }
}

/// As many inodes as an image of that size has. Zero would be no limit.
fn hard_limits(bytes: Option<Bytes>) -> Limits {
    Limits {
        block_hard: bytes.map_or(0, |bytes| (bytes.0 / QUOTA_BLOCK).max(1)),
        inode_hard: bytes.map_or(0, |bytes| (bytes.0 / BYTES_PER_INODE).max(LEAST_INODES)),
        valid: libc::QIF_LIMITS,
        ..Limits::default()
    }
}

/// Gives an empty folder to a project, with all that will be made in it.
pub(crate) fn assign(folder: &Path, id: u32) -> Result<(), BoundsError> {
    let io = |source| BoundsError::io("give to a project", folder, source);
    let (file, mut attributes) = attributes(folder).map_err(io)?;
    attributes.project = id;
    attributes.flags |= FS_XFLAG_PROJINHERIT;
    // SAFETY: the kernel reads a structure of its own layout, which outlives the call.
    match unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSSETXATTR, &attributes) } {
        0 => Ok(()),
        _ => Err(io(io::Error::last_os_error())),
    }
}

/// Whether a folder is there and this project's.
pub(crate) fn is_of(folder: &Path, id: u32) -> Result<bool, BoundsError> {
    match attributes(folder) {
        Ok((_, attributes)) => Ok(attributes.project == id),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(BoundsError::io("ask for the project of", folder, error)),
    }
}

fn attributes(folder: &Path) -> io::Result<(File, Attributes)> {
    let file = File::open(folder)?;
    let mut attributes = Attributes::default();
    // SAFETY: the kernel fills a structure of its own layout, which outlives the call.
    match unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSGETXATTR, &mut attributes) } {
        0 => Ok((file, attributes)),
        _ => Err(io::Error::last_os_error()),
    }
}

const _: () = assert!(size_of::<Attributes>() == 28 && size_of::<Limits>() == 72);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_file_systems_that_enforce_projects_are_taken_at_their_word() {
        let mount = |kind: &str, options: &str| Mount {
            root: "/".into(),
            at: "/".into(),
            shared: false,
            kind: kind.into(),
            options: options.into(),
            source: "/dev/vda".into(),
        };
        assert!(enforces(&mount("ext4", "rw,prjquota")));
        assert!(enforces(&mount("xfs", "rw,attr2,prjquota,noalign")));
        for (kind, options) in [
            ("xfs", "rw,pqnoenforce"),
            ("xfs", "rw,noquota"),
            ("ext4", "rw,usrquota"),
            ("btrfs", "rw,prjquota"),
        ] {
            assert!(!enforces(&mount(kind, options)), "{kind} {options}");
        }
    }

    #[test]
    fn an_id_is_free_when_no_store_has_it_and_the_file_system_knows_nothing_of_it() {
        let taken = |id| id == FIRST;
        // One has limits and holds nothing yet, one holds something and has no limits yet.
        let limits = |id| {
            Ok(match id - FIRST {
                1 => hard_limits(Some(Bytes::gib(1))),
                2 => Limits {
                    inodes: 1,
                    ..Limits::default()
                },
                _ => Limits::default(),
            })
        };
        assert_eq!(first_free(taken, limits).unwrap(), Some(FIRST + 3));
        assert_eq!(first_free(|_| true, limits).unwrap(), None);
        let broken = |_| Err(io::ErrorKind::PermissionDenied.into());
        assert!(first_free(taken, broken).is_err());
    }

    #[test]
    fn limits_are_hard_and_nothing_is_no_limit() {
        let limits = hard_limits(Some(Bytes::gib(1)));
        assert_eq!((limits.block_hard, limits.inode_hard), (1 << 20, 1 << 16));
        assert_eq!(
            (limits.block_soft, limits.inode_soft, limits.valid),
            (0, 0, 5)
        );
        let limits = hard_limits(Some(Bytes(1)));
        assert_eq!((limits.block_hard, limits.inode_hard), (1, LEAST_INODES));
        let limits = hard_limits(None);
        assert_eq!((limits.block_hard, limits.inode_hard), (0, 0));
    }
}
