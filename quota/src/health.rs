//! Whether file systems still take writes: after an error of the disk below, ext4 takes none any more
//! (`errors=remount-ro`), and stays mounted.
//!
//! The kernel says it in more than one way. Until Linux 6.11 such a file system is read-only as any
//! other; since 6.12 only the options of its mount tell (`emergency_ro`, or `shutdown`), and in between
//! those were not shown, so that only ext4's own count of errors does: it counts for images alone, which
//! are known to stop at their first one.

use std::io;
use std::path::Path;

use rustix::fs::{StatVfsMountFlags, statvfs};

use crate::error::BoundsError;
use crate::mounts::{self, Mount};

/// Options of mounts that say so.
const STOPPED: [&str; 2] = ["emergency_ro", "shutdown"];

/// What is mounted, as of one look: for many questions.
#[derive(Debug)]
pub struct Mounts(Vec<Mount>);

impl Mounts {
    /// Looks.
    ///
    /// # Errors
    /// Those of the system, where the kernel's table cannot be read.
    pub fn look() -> Result<Self, BoundsError> {
        mounts::all().map(Self)
    }

    /// Whether the file system of a folder takes writes; the path is one without links.
    ///
    /// # Errors
    /// Those of the system, where the folder cannot be looked at.
    pub fn take_writes(&self, folder: &Path) -> Result<bool, BoundsError> {
        let counted = statvfs(folder);
        let counted = counted.map_err(|error| BoundsError::io("look into", folder, error))?;
        let is_stopped = self.of(folder).is_some_and(is_stopped);
        Ok(!is_stopped && !counted.f_flag.contains(StatVfsMountFlags::RDONLY))
    }

    /// Sees that it does.
    ///
    /// # Errors
    /// [`BoundsError::ReadOnly`] where it does not.
    pub fn check(&self, folder: &Path) -> Result<(), BoundsError> {
        match self.take_writes(folder)? {
            true => Ok(()),
            false => Err(BoundsError::ReadOnly(folder.to_owned())),
        }
    }

    /// Whether a folder with a file system of its own that was made here takes writes.
    pub(crate) fn image_takes_writes(&self, at: &Path) -> Result<bool, BoundsError> {
        Ok(self.take_writes(at)? && self.of(at).is_none_or(|mount| errors_of(mount) == 0))
    }

    fn of(&self, folder: &Path) -> Option<&Mount> {
        mounts::containing(&self.0, folder)
    }
}

fn is_stopped(mount: &Mount) -> bool {
    STOPPED.iter().any(|option| mount.has_option(option))
}

/// How many errors ext4 has counted since a checker has mended the last one; none where it does not say.
fn errors_of(mount: &Mount) -> u64 {
    let Some(device) = mount.source.file_name().filter(|_| mount.kind == "ext4") else {
        return 0;
    };
    let count = Path::new("/sys/fs/ext4").join(device).join("errors_count");
    let read: io::Result<String> = std::fs::read_to_string(count);
    read.ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_options_of_a_mount_say_counts_and_what_is_unknown_is_well() {
        let mount = |options: &str| Mount {
            root: "/".into(),
            at: "/".into(),
            shared: false,
            kind: "ext4".into(),
            options: options.into(),
            source: "/dev/none".into(),
        };
        assert!(is_stopped(&mount("rw,emergency_ro")) && is_stopped(&mount("shutdown,rw")));
        assert!(!is_stopped(&mount("rw,errors=remount-ro")));
        assert_eq!(errors_of(&mount("rw")), 0);
        let dir = tempfile::tempdir().unwrap();
        assert!(Mounts::look().unwrap().take_writes(dir.path()).unwrap());
    }
}
