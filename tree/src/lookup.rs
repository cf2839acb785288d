//! Paths looked up below a folder, by the kernel and with nothing in between (openat2(2)).

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Lookups that a rename elsewhere on the machine has disturbed are tried anew, this often.
const LOOKUPS: u32 = 1000;

/// Through no link at all.
pub const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);
/// As a process would find it that has the folder as its root: links lead where they lead there.
pub const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// What a folder is opened with, to be read or changed itself.
pub const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
/// What a folder is opened with as a place for others.
pub const HANDLE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Opens what is at a path below `root`; the empty path is `root` itself.
///
/// # Errors
/// The kernel's word: `LOOP` where a link may not be followed, `XDEV` where the path leads out.
pub fn open(
    root: impl AsFd,
    path: &Path,
    flags: OFlags,
    how: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let path = match path.as_os_str().is_empty() {
        true => Path::new("."),
        false => path,
    };
    for _ in 0..LOOKUPS {
        match rustix::fs::openat2(&root, path, flags, Mode::empty(), how) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            found => return found,
        }
    }
    Err(Errno::AGAIN)
}

/// Opens the folder of this name, which is no link.
///
/// # Errors
/// The kernel's word.
pub fn open_folder(parent: impl AsFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(parent, name, FOLDER, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_refused_or_stay_in_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(path("root/inner")).unwrap();
        std::fs::create_dir(path("inner")).unwrap();
        symlink("/inner", path("root/absolute")).unwrap();
        symlink("../../inner", path("root/climbing")).unwrap();
        let root = std::fs::File::open(path("root")).unwrap();
        let at = |name: &str, how| open(&root, Path::new(name), HANDLE, how);
        for name in ["", "inner", "inner/../inner"] {
            assert!(at(name, BENEATH).is_ok() && at(name, IN_ROOT).is_ok());
        }
        let inner = rustix::fs::stat(path("root/inner")).unwrap().st_ino;
        for name in ["absolute", "climbing"] {
            assert_eq!(at(name, BENEATH).unwrap_err(), Errno::LOOP);
            let found = at(name, IN_ROOT).unwrap();
            assert_eq!(rustix::fs::fstat(found).unwrap().st_ino, inner);
        }
        assert_eq!(at("../inner", BENEATH).unwrap_err(), Errno::XDEV);
        assert!(open_folder(&root, OsStr::new("inner")).is_ok());
        assert!(open_folder(&root, OsStr::new("absolute")).is_err());
    }
}
