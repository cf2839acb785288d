//! Removes a folder that a stranger could fill as they liked, however deep it is.
//!
//! The standard library goes down by recursion and holds a descriptor for each level: a task that
//! leaves ten thousand folders in each other would keep its sandbox for ever, or end the agent by
//! its stack. Here a few levels are gone down at a time; what lies deeper is moved up to the outermost
//! folder first. Links are removed and never followed.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, openat, renameat, unlinkat};
use rustix::io::Errno;

use crate::lookup::FOLDER;

/// Levels that are open at a time, with two descriptors each.
const MOST_LEVELS: usize = 64;

/// Removes a folder with all that is in it. Blocks.
///
/// # Errors
/// Those of the system; what is left then stays.
pub fn remove_folder(path: &Path) -> io::Result<()> {
    let root = openat(rustix::fs::CWD, path, FOLDER, Mode::empty())?;
    let mut moved = 0;
    loop {
        let before = moved;
        empty(&root, &mut moved)?;
        match std::fs::remove_dir(path) {
            // What was moved up may have been missed by the pass that moved it.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && moved > before => {}
            done => return done,
        }
    }
}

/// A folder on the way down.
struct Level {
    folder: OwnedFd,
    entries: Dir,
    /// Its name in the one above.
    name: CString,
}

impl Level {
    fn open(parent: &OwnedFd, name: &CStr) -> rustix::io::Result<Self> {
        let folder = openat(parent, name, FOLDER, Mode::empty())?;
        Ok(Self {
            entries: Dir::read_from(&folder)?,
            folder,
            name: name.to_owned(),
        })
    }
}

/// Removes what is in the folder, as deep as a few levels; what is deeper is moved up into it.
fn empty(root: &OwnedFd, moved: &mut u64) -> rustix::io::Result<()> {
    let mut levels = vec![Level::open(root, c".")?];
    loop {
        let depth = levels.len();
        let Some(level) = levels.last_mut() else {
            return Ok(());
        };
        let Some(entry) = level.entries.next() else {
            let done = levels.pop();
            if let Some((done, above)) = done.zip(levels.last()) {
                is_full_folder(&above.folder, &done.name)?;
            }
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if is_itself(name) || !is_full_folder(&level.folder, name)? {
            continue;
        }
        if depth < MOST_LEVELS {
            let inner = Level::open(&level.folder, name)?;
            levels.push(inner);
        } else {
            move_up(&level.folder, name, root, moved)?;
        }
    }
}

fn is_itself(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

/// Removes it, unless it is a folder with something in it: then this is true.
fn is_full_folder(parent: &OwnedFd, name: &CStr) -> rustix::io::Result<bool> {
    match unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(false),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(true),
        Err(Errno::NOTDIR) => unlinkat(parent, name, AtFlags::empty()).map(|()| false),
        Err(error) => Err(error),
    }
}

fn move_up(from: &OwnedFd, name: &CStr, root: &OwnedFd, moved: &mut u64) -> rustix::io::Result<()> {
    loop {
        *moved += 1;
        match renameat(from, name, root, format!("moved-{moved}")) {
            // The task had the same idea.
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_goes_however_deep_it_is() {
        // More than a thread's stack holds.
        const DEPTH: usize = 20_000;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sandbox");
        std::fs::create_dir(&path).unwrap();
        let mut folder = openat(rustix::fs::CWD, &path, FOLDER, Mode::empty()).unwrap();
        for _ in 0..DEPTH {
            rustix::fs::mkdirat(&folder, "inner", Mode::RWXU).unwrap();
            folder = openat(&folder, "inner", FOLDER, Mode::empty()).unwrap();
        }
        remove_folder(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn wide_folders_go_with_links_and_with_names_that_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "").unwrap();
        let path = dir.path().join("sandbox");
        for one in ["a", "b", "moved-1", "moved-3"] {
            for two in ["c", "moved-2", "d/e/f"] {
                let inner = path.join(one).join(two);
                std::fs::create_dir_all(&inner).unwrap();
                std::fs::write(inner.join("file"), "").unwrap();
                std::os::unix::fs::symlink(&outside, inner.join("link")).unwrap();
            }
        }
        std::fs::write(path.join("moved-2"), "").unwrap();
        remove_folder(&path).unwrap();
        assert!(!path.exists() && outside.join("kept").exists());
        let missing = remove_folder(&path).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&outside, &link).unwrap();
        assert!(remove_folder(&link).is_err() && outside.join("kept").exists());
    }
}
