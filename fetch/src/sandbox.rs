//! The sandbox being filled: a tree that nothing gets out of.
//!
//! Paths come clean, and every one is resolved by the kernel below the sandbox and through
//! no link (`openat2` with `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS`). What is made is made anew
//! (`O_EXCL`), so nothing is written through a link or into another name of a file. Links are made
//! only where they stay inside. A [`Sandbox`] that is dropped before it is kept takes away what it
//! has made. Blocks.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use tepui_tree::{BENEATH, HANDLE, Time, is_folder, open_folder, stays_inside, timestamps};

use crate::error::FetchError;
use crate::item::Owner;

/// Files and folders of one sandbox: more than the largest archives of programs have, and few
/// enough for any disk's inodes.
const MAX_ENTRIES: u64 = 1_000_000;
/// Bytes of their paths, which are in memory until all is in place: a hundred for each. Paths may
/// have four thousand, and an archive that is made to hurt has them.
const MAX_PATH_BYTES: usize = 128 * 1024 * 1024;
/// What remains of modes: set-user-id, set-group-id and sticky bits go, and so does what would let
/// everyone write.
const MODE: u32 = 0o755;

/// A sandbox being filled.
#[derive(Debug)]
pub(crate) struct Sandbox {
    path: PathBuf,
    root: OwnedFd,
    owner: Option<Owner>,
    limit: u64,
    bytes: u64,
    entries: u64,
    path_bytes: usize,
    /// The folder that was last looked up: members come folder by folder.
    last: Option<(PathBuf, Arc<OwnedFd>)>,
    /// What was made, in this order, and whether it is a folder.
    made: Vec<(PathBuf, bool)>,
    /// What folders are to have as modes and times once nothing is made in them any more.
    folders: Vec<(PathBuf, u32, Option<Time>)>,
    is_kept: bool,
}

/// Why something was not put into a sandbox. Who does it knows what it belongs to.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The archive is not right.
    Invalid(String),
    /// It leads out.
    Outside(String),
    /// Something else is in its place.
    Conflict(String),
    /// It is more than there may be.
    TooLarge(u64),
    /// The disk did not take it.
    Write(PathBuf, io::Error),
    /// Nobody wants it any longer.
    Cancelled,
}

impl Trouble {
    /// Says what it belongs to.
    pub fn of(self, what: &str) -> FetchError {
        let what = what.to_owned();
        match self {
            Self::Invalid(why) => FetchError::ArchiveInvalid { what, why },
            Self::Outside(why) => FetchError::Outside { what, why },
            Self::Conflict(why) => FetchError::Conflict { what, why },
            Self::TooLarge(limit) => FetchError::TooLarge {
                what,
                limit,
                fix: "ask for more disk for the task",
            },
            Self::Write(path, source) => FetchError::disk("write", &path, source),
            Self::Cancelled => FetchError::Interrupted { what },
        }
    }
}

impl Sandbox {
    /// Takes a folder.
    pub fn open(path: &Path, owner: Option<Owner>, limit: u64) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            root: rustix::fs::openat(CWD, path, flags, Mode::empty())?,
            path: path.to_owned(),
            owner,
            limit,
            bytes: 0,
            entries: 0,
            path_bytes: 0,
            last: None,
            made: Vec::new(),
            folders: Vec::new(),
            is_kept: false,
        })
    }

    /// Bytes that may still be put in.
    pub fn room(&self) -> u64 {
        self.limit - self.bytes
    }

    /// The most there may be.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes that were put in.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes so many bytes of the room that there is.
    pub fn charge(&mut self, bytes: u64) -> Result<(), Trouble> {
        if bytes > self.room() {
            return Err(Trouble::TooLarge(self.limit));
        }
        self.bytes += bytes;
        Ok(())
    }

    /// A new file, to be written and then dressed.
    pub fn file(&mut self, path: &Path) -> Result<File, Trouble> {
        let (parent, name) = self.place(path)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&parent, name, flags, Mode::RUSR | Mode::WUSR);
        let file = file.map_err(|error| self.at(path, error))?;
        self.made.push((path.to_owned(), false));
        Ok(file.into())
    }

    /// A file of ours, moved in if that can be.
    pub fn take(&mut self, from: &Path, path: &Path) -> Result<bool, Trouble> {
        let (parent, name) = self.place(path)?;
        match rustix::fs::renameat(CWD, from, &parent, name) {
            Ok(()) => {
                self.made.push((path.to_owned(), false));
                Ok(true)
            }
            Err(Errno::XDEV) => Ok(false),
            Err(error) => Err(self.at(path, error)),
        }
    }

    /// Gives a file its owner, mode and time.
    pub fn dress(
        &self,
        file: impl AsFd,
        path: &Path,
        mode: u32,
        time: Option<Time>,
    ) -> Result<(), Trouble> {
        let dressed = self.own(&file).and_then(|()| {
            // Owners read and write what is theirs, whatever an archive says.
            rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & MODE | 0o600))?;
            time.map_or(Ok(()), |time| {
                rustix::fs::futimens(&file, &timestamps(time))
            })
        });
        dressed.map_err(|error| self.at(path, error))
    }

    /// A folder, new or with what it has.
    pub fn folder(&mut self, path: &Path, mode: u32, time: Option<Time>) -> Result<(), Trouble> {
        let (parent, name) = (self.parent(path)?, path.file_name());
        // The sandbox itself is as its agent made it.
        let Some(name) = name else { return Ok(()) };
        self.ensure_folder(&parent, name, path)?;
        // Also one that is there: an archive may name it over and over.
        self.count(path)?;
        self.folders.push((path.to_owned(), mode, time));
        Ok(())
    }

    /// A symbolic link, whose path has `depth` names above the place that it may not leave.
    pub fn symlink(
        &mut self,
        path: &Path,
        target: &[u8],
        depth: usize,
        time: Option<Time>,
    ) -> Result<(), Trouble> {
        stays_inside(target, depth).map_err(|why| Trouble::Outside(said(path, why)))?;
        let (parent, name) = self.place(path)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let made = rustix::fs::symlinkat(OsStr::from_bytes(target), &parent, name);
        made.map_err(|error| self.at(path, error))?;
        self.made.push((path.to_owned(), false));
        let owner = self.owner.map(ids).unwrap_or_default();
        let dressed = rustix::fs::chownat(&parent, name, owner.0, owner.1, flags).and_then(|()| {
            time.map_or(Ok(()), |time| {
                rustix::fs::utimensat(&parent, name, &timestamps(time), flags)
            })
        });
        dressed.map_err(|error| self.at(path, error))
    }

    /// Another name for the file at `target`. A link's other name is a link of its own: it would
    /// lead elsewhere from another folder.
    pub fn hard_link(&mut self, path: &Path, target: &Path, depth: usize) -> Result<(), Trouble> {
        let missing = || Trouble::Invalid(said(path, "it is another name of what is not there"));
        let target_name = target.file_name().ok_or_else(missing)?;
        let above = target.parent().unwrap_or(Path::new(""));
        let folder = self.lookup(above).map_err(|_| missing())?;
        let stat = rustix::fs::statat(&folder, target_name, AtFlags::SYMLINK_NOFOLLOW);
        let stat = stat.map_err(|_| missing())?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile if path == target => return Ok(()),
            FileType::RegularFile => {}
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(&folder, target_name, Vec::new());
                let link = link.map_err(|error| self.at(target, error))?;
                return self.symlink(path, link.as_bytes(), depth, None);
            }
            _ => return Err(missing()),
        }
        let (parent, name) = self.place(path)?;
        let linked = rustix::fs::linkat(&folder, target_name, &parent, name, AtFlags::empty());
        linked.map_err(|error| self.at(path, error))?;
        self.made.push((path.to_owned(), false));
        Ok(())
    }

    /// Sets modes and times of folders, in which nothing is made any more.
    pub fn finish(&mut self) -> Result<(), Trouble> {
        for (path, mode, time) in std::mem::take(&mut self.folders) {
            let folder = self.lookup(&path).map_err(|error| self.at(&path, error))?;
            // The handle that looks up cannot set modes.
            let dressed = open_folder(&folder, OsStr::new(".")).and_then(|folder| {
                rustix::fs::fchmod(&folder, Mode::from_raw_mode(mode & MODE | 0o700))?;
                time.map_or(Ok(()), |time| {
                    rustix::fs::futimens(&folder, &timestamps(time))
                })
            });
            dressed.map_err(|error| self.at(&path, error))?;
        }
        Ok(())
    }

    /// Lets what was made stay.
    pub fn keep(mut self) {
        self.is_kept = true;
    }

    /// What a failed write means.
    pub fn failed(&self, path: &Path, error: io::Error) -> Trouble {
        Trouble::Write(self.path.join(path), error)
    }

    fn own(&self, made: impl AsFd) -> rustix::io::Result<()> {
        let Some(owner) = self.owner else {
            return Ok(());
        };
        let (uid, gid) = ids(owner);
        rustix::fs::fchown(made, uid, gid)
    }

    /// Where something is to be made: its folder, with nothing of its name in it.
    fn place<'p>(&mut self, path: &'p Path) -> Result<(Arc<OwnedFd>, &'p OsStr), Trouble> {
        let Some(name) = path.file_name() else {
            return Err(Trouble::Conflict(
                "it would be in place of the sandbox itself".into(),
            ));
        };
        let parent = self.parent(path)?;
        self.count(path)?;
        match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            Err(error) => return Err(self.at(path, error)),
            Ok(stat) if is_folder(&stat) => {
                let why = "a folder has its name: choose another destination";
                return Err(Trouble::Conflict(said(path, why)));
            }
            Ok(_) => {
                let removed = rustix::fs::unlinkat(&parent, name, AtFlags::empty());
                removed.map_err(|error| self.at(path, error))?;
            }
        }
        Ok((parent, name))
    }

    fn count(&mut self, path: &Path) -> Result<(), Trouble> {
        self.entries += 1;
        self.path_bytes += path.as_os_str().len();
        if self.entries > MAX_ENTRIES {
            return Err(Trouble::Invalid(format!(
                "there are more than {MAX_ENTRIES} files and folders: pack fewer"
            )));
        }
        if self.path_bytes > MAX_PATH_BYTES {
            return Err(Trouble::Invalid(format!(
                "their paths have more than {MAX_PATH_BYTES} bytes: pack fewer, or with shorter names"
            )));
        }
        Ok(())
    }

    fn parent(&mut self, path: &Path) -> Result<Arc<OwnedFd>, Trouble> {
        let path = path.parent().unwrap_or(Path::new(""));
        if let Some((last, folder)) = &self.last
            && last == path
        {
            return Ok(folder.clone());
        }
        let found = match self.lookup(path) {
            Err(Errno::NOENT) => self.make_folders(path)?,
            found => Arc::new(found.map_err(|error| self.at(path, error))?),
        };
        self.last = Some((path.to_owned(), found.clone()));
        Ok(found)
    }

    fn make_folders(&mut self, path: &Path) -> Result<Arc<OwnedFd>, Trouble> {
        let mut so_far = PathBuf::new();
        let found = self.lookup(&so_far);
        let mut folder = Arc::new(found.map_err(|error| self.at(path, error))?);
        for name in path {
            so_far.push(name);
            self.ensure_folder(&folder, name, &so_far)?;
            let found = self.lookup(&so_far);
            folder = Arc::new(found.map_err(|error| self.at(&so_far, error))?);
        }
        Ok(folder)
    }

    /// A folder of this name: the one that is there, or a new one.
    fn ensure_folder(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
    ) -> Result<(), Trouble> {
        match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if is_folder(&stat) => return Ok(()),
            Ok(_) => {
                let why = "something that is no folder is in its place";
                return Err(Trouble::Conflict(said(path, why)));
            }
            Err(Errno::NOENT) => {}
            Err(error) => return Err(self.at(path, error)),
        }
        self.count(path)?;
        let mode = Mode::from_raw_mode(0o755);
        let made = rustix::fs::mkdirat(parent, name, mode);
        made.map_err(|error| self.at(path, error))?;
        self.made.push((path.to_owned(), true));
        let dressed = open_folder(parent, name).and_then(|folder| {
            // Whatever the agent's umask is.
            rustix::fs::fchmod(&folder, mode)?;
            self.own(&folder)
        });
        dressed.map_err(|error| self.at(path, error))
    }

    /// A handle of the folder at `path`, to which no link leads.
    fn lookup(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        // A volume in the sandbox is not to be written into by the way.
        let how = BENEATH | ResolveFlags::NO_XDEV;
        tepui_tree::open(&self.root, path, HANDLE, how)
    }

    /// What a failed call at a path means: most is the disk's, some the path's own doing.
    fn at(&self, path: &Path, error: Errno) -> Trouble {
        match error {
            Errno::LOOP => Trouble::Outside(said(path, "a link is in its way")),
            Errno::XDEV => Trouble::Outside(said(path, "a volume is in its way")),
            Errno::NOTDIR | Errno::EXIST | Errno::ISDIR | Errno::NOTEMPTY => {
                Trouble::Conflict(said(path, "something else is in its place"))
            }
            Errno::NAMETOOLONG => Trouble::Invalid(said(path, "its path is too long")),
            error => Trouble::Write(self.path.join(path), error.into()),
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        for (path, is_folder) in std::mem::take(&mut self.made).iter().rev() {
            let flags = match is_folder {
                true => AtFlags::REMOVEDIR,
                false => AtFlags::empty(),
            };
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                continue;
            };
            let removed = self
                .lookup(parent)
                .and_then(|parent| rustix::fs::unlinkat(&parent, name, flags));
            // What was replaced is listed twice.
            if let Err(error) = removed
                && error != Errno::NOENT
            {
                tracing::warn!(path = %self.path.join(path).display(), %error, "left in a sandbox");
            }
        }
    }
}

fn ids(owner: Owner) -> (Option<Uid>, Option<Gid>) {
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    (Some(uid), Some(gid))
}

/// A path and what is wrong with it. Names may hold anything; messages are one line.
pub(crate) fn said(path: &Path, why: &str) -> String {
    format!("{path:?}: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_whatever_is_named_how_often() {
        let folder = tempfile::tempdir().unwrap();
        let mut sandbox = Sandbox::open(folder.path(), None, u64::MAX).unwrap();
        let long: PathBuf = (0..15).map(|_| "x".repeat(250)).collect();
        let named = (0..).find_map(|at| Some((at, sandbox.folder(&long, 0o755, None).err()?)));
        let (at, trouble) = named.unwrap();
        assert!(matches!(trouble, Trouble::Invalid(_)), "{trouble:?}");
        assert!((at as usize) < MAX_PATH_BYTES / long.as_os_str().len() + 1);
        drop(sandbox);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
