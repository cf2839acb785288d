//! The folder of a task that left nothing in it, for the next task of this process.
//!
//! To make two folders costs some file systems as much as to start a small command (ext4 without a
//! journal passes over all inodes that were removed in the last minute). So one that is as it was when it
//! was made is kept among this process's files, and is renamed for the next: an empty sandbox goes with its
//! task.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dir, Mode, OFlags, RenameFlags, Stat};
use tepui_executor::startup::Startup;

/// The permissions of a folder that this process makes.
pub const MODE: u32 = 0o755;
/// The kept folder, among this process's files.
const SPARE: &str = "folder";
/// Where a task's folder has its sandbox.
const SANDBOX: &CStr = c"sandbox";
/// Names of extended attributes that a task has not given: what confines the machine's files.
const OF_MACHINE: &[u8] = b"security.";

/// The folder; removed when dropped.
pub struct SpareFolder {
    path: PathBuf,
    is_given: bool,
}

impl SpareFolder {
    /// Takes the folder of this sandbox, whose task has ended and left no process, if nothing is left in it
    /// either.
    pub fn of(sandbox: &Path, startup: &Startup) -> Option<Self> {
        let beside = sandbox.parent()?;
        if !is_as_made(beside).unwrap_or(false) {
            return None;
        }
        let path = startup.dir.join(SPARE);
        fs::rename(beside, &path).ok()?;
        Some(Self::at(path))
    }

    fn at(path: PathBuf) -> Self {
        let is_given = false;
        Self { path, is_given }
    }

    /// Makes it the folder of another task, which has none; false where that cannot be.
    pub fn give(mut self, beside: &Path) -> bool {
        let flags = RenameFlags::NOREPLACE;
        let renamed = rustix::fs::renameat_with(CWD, &self.path, CWD, beside, flags);
        self.is_given = renamed.is_ok();
        self.is_given
    }
}

impl Drop for SpareFolder {
    fn drop(&mut self) {
        if !self.is_given {
            // What cannot be removed goes with this process's files.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Whether a task's folder has a sandbox and nothing more, in which there is nothing, and both are as when
/// they were made. No link is followed.
fn is_as_made(beside: &Path) -> io::Result<bool> {
    let beside = open(CWD, beside)?;
    if names(&beside)?.as_slice() != [SANDBOX.to_owned()] {
        return Ok(false);
    }
    let sandbox = open(&beside, SANDBOX)?;
    let (outer, inner) = (rustix::fs::fstat(&beside)?, rustix::fs::fstat(&sandbox)?);
    // Nothing is mounted there.
    let is_one_disk = outer.st_dev == inner.st_dev;
    Ok(is_one_disk
        && is_plain(&outer)
        && is_plain(&inner)
        && names(&sandbox)?.is_empty()
        && is_bare(&beside)?
        && is_bare(&sandbox)?)
}

fn open(at: impl AsFd, path: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, path, flags, Mode::empty())?)
}

/// The first two names in it: more are not looked at.
fn names(folder: &OwnedFd) -> io::Result<Vec<std::ffi::CString>> {
    let entries = Dir::read_from(folder)?;
    let names = entries.map(|entry| Ok::<_, io::Error>(entry?.file_name().to_owned()));
    let is_own = |name: &CStr| ![c".", c".."].contains(&name);
    let names = names.filter(|name| name.as_ref().map_or(true, |name| is_own(name)));
    names.take(2).collect()
}

fn is_plain(folder: &Stat) -> bool {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let permissions = Mode::from_raw_mode(folder.st_mode).as_raw_mode();
    permissions == MODE && (folder.st_uid, folder.st_gid) == (uid.as_raw(), gid.as_raw())
}

/// Whether it has no attributes that a task has given: an access list would be the next one's as well.
fn is_bare(folder: &OwnedFd) -> io::Result<bool> {
    let mut list = [0; 256];
    let length = match rustix::fs::flistxattr(folder, &mut list) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(errno) => return Err(errno.into()),
    };
    let mut attributes = list[..length].split(|byte| *byte == 0);
    Ok(attributes.all(|name| name.is_empty() || name.starts_with(OF_MACHINE)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};

    use super::*;

    fn made() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let beside = dir.path().join("task");
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(MODE);
        builder.create(beside.join("sandbox")).unwrap();
        (dir, beside)
    }

    #[test]
    fn a_folder_that_anything_was_done_to_is_not_taken_for_a_new_one() {
        let (_dir, beside) = made();
        assert!(is_as_made(&beside).unwrap());
        let sandbox = beside.join("sandbox");
        type Change = fn(&Path);
        let changes: [(&str, Change); 5] = [
            ("a file beside", |beside| {
                fs::write(beside.join("stdout"), "").unwrap();
            }),
            ("a hidden file", |beside| {
                fs::write(beside.join("sandbox/.x"), "").unwrap();
            }),
            ("permissions", |beside| {
                let mode = fs::Permissions::from_mode(0o1755);
                fs::set_permissions(beside.join("sandbox"), mode).unwrap();
            }),
            ("no sandbox", |beside| {
                fs::remove_dir(beside.join("sandbox")).unwrap();
            }),
            ("a link", |beside| {
                fs::rename(beside.join("sandbox"), beside.with_extension("x")).unwrap();
                symlink(beside.with_extension("x"), beside.join("sandbox")).unwrap();
            }),
        ];
        for (what, change) in changes {
            let (_dir, beside) = made();
            change(&beside);
            assert!(!is_as_made(&beside).unwrap_or(false), "{what}");
        }
        let value = rustix::fs::setxattr(&sandbox, "user.x", b"1", rustix::fs::XattrFlags::empty());
        if value.is_ok() {
            assert!(!is_as_made(&beside).unwrap(), "an attribute");
        }
    }

    #[test]
    fn a_folder_is_given_to_who_has_none() {
        let (dir, beside) = made();
        let next = dir.path().join("next");
        assert!(SpareFolder::at(beside).give(&next));
        assert!(is_as_made(&next).unwrap());
        let (other, beside) = made();
        fs::write(next.join("file"), "kept").unwrap();
        assert!(!SpareFolder::at(beside.clone()).give(&next));
        assert_eq!(fs::read_to_string(next.join("file")).unwrap(), "kept");
        assert!(!beside.exists());
        drop(other);
    }
}
