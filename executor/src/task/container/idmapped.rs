//! Mounts that show files to the users of a namespace as if they were theirs (mount_setattr(2),
//! `MOUNT_ATTR_IDMAP`): what root owns on disk belongs to the namespace's root, and what that one makes
//! is root's on disk. Nothing on disk is changed for it, so that a volume may be another namespace's next.
//!
//! Linux 5.12, and a file system that can: ext4, xfs, btrfs and, with newer kernels, tmpfs and others.

use std::ffi::{CStr, CString};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use nix::mount::{MntFlags, umount2};

use crate::userns::UserNamespace;

/// Mounts what lies at that path at a place that is made for it, with all that is mounted below, without
/// devices and set-user-id programs and, if it says so, so that nothing can be written to it. What was
/// mounted there before is gone.
///
/// # Errors
/// When the kernel refuses; [`ErrorKind::Unsupported`], in words, where the file system cannot.
pub fn mount_path(
    users: &UserNamespace,
    path: &Path,
    place: &Path,
    read_only: bool,
) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let found = options.read(true).custom_flags(libc::O_PATH).open(path)?;
    mount_open(users, &found.into(), place, read_only)
}

/// The same, of something that is open.
///
/// # Errors
/// As of [`mount_path`].
pub fn mount_open(
    users: &UserNamespace,
    found: &OwnedFd,
    place: &Path,
    read_only: bool,
) -> io::Result<()> {
    make_place(found, place)?;
    let tree = open_tree(found)?;
    let mut attributes = libc::MOUNT_ATTR_IDMAP | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID;
    if read_only {
        attributes |= libc::MOUNT_ATTR_RDONLY;
    }
    map(&tree, users, attributes).map_err(in_words)?;
    move_mount(&tree, place)
}

/// A folder or an empty file, as what is mounted on it.
fn make_place(found: &OwnedFd, place: &Path) -> io::Result<()> {
    while umount2(place, MntFlags::MNT_DETACH).is_ok() {}
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o755);
    let is_folder = File::from(found.try_clone()?).metadata()?.is_dir();
    if is_folder {
        return builder.create(place);
    }
    builder.create(place.parent().unwrap_or(place))?;
    OpenOptions::new().append(true).create(true).open(place)?;
    Ok(())
}

const NOTHING: &CStr = c"";

fn open_tree(found: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE
        | libc::OPEN_TREE_CLOEXEC
        | (libc::AT_EMPTY_PATH | libc::AT_RECURSIVE) as libc::c_uint;
    // SAFETY: a descriptor, a NUL-terminated path and flags; what it gives is nobody else's.
    unsafe {
        let tree = libc::syscall(
            libc::SYS_open_tree,
            found.as_raw_fd(),
            NOTHING.as_ptr(),
            flags,
        );
        match libc::c_int::try_from(tree) {
            Ok(tree @ 0..) => Ok(OwnedFd::from_raw_fd(tree)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn map(tree: &OwnedFd, users: &UserNamespace, attributes: u64) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: attributes,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: users.file().as_raw_fd().unsigned_abs().into(),
    };
    // SAFETY: a NUL-terminated path, and a structure whose size is given; both outlive the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            NOTHING.as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn move_mount(tree: &OwnedFd, place: &Path) -> io::Result<()> {
    let place = CString::new(place.as_os_str().as_encoded_bytes())?;
    // SAFETY: descriptors, NUL-terminated paths and flags.
    let done = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            NOTHING.as_ptr(),
            libc::AT_FDCWD,
            place.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What the kernel says of file systems that cannot, and of itself where it is too old.
pub fn in_words(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP) => io::Error::new(
            ErrorKind::Unsupported,
            "its file system cannot be shown to other users (idmapped mounts): keep it on ext4, xfs or \
             btrfs, with Linux 5.19 or newer, or leave out `userns`",
        ),
        _ => error,
    }
}
