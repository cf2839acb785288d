//! The folder that a layer becomes.
//!
//! Paths in a layer are its author's word. Every one is resolved by the kernel with the folder as its
//! root (`openat2` with `RESOLVE_IN_ROOT`), so links lead where they would lead in a container and
//! never out; what is made is made anew (`O_EXCL`), so nothing is written through a link. Owners,
//! then attributes, then modes: the first would take the others back.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid, XattrFlags};
use rustix::io::Errno;
use tepui_tarball::Member;
use tepui_tree::{HANDLE, IN_ROOT, is_folder, open_folder, remove_folder, timestamps};

use super::UnpackError;

/// What overlayfs knows an opaque folder by.
const OPAQUE: &str = "trusted.overlay.opaque";

/// A folder being filled.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    /// The folder that was last looked up: members come folder by folder.
    last: Option<(PathBuf, Rc<OwnedFd>)>,
    /// What folders are to have as times once nothing is made in them any more.
    times: Vec<(PathBuf, (i64, u32))>,
}

/// Whether an attribute is one that images may bring. Those of overlayfs would tell it to look for
/// files in other places.
pub fn is_kept(xattr: &[u8]) -> bool {
    match xattr {
        b"security.capability" => true,
        b"system.posix_acl_access" | b"system.posix_acl_default" => true,
        _ => xattr.starts_with(b"user.") && !xattr.starts_with(b"user.overlay."),
    }
}

impl Tree {
    /// Takes an empty folder.
    pub fn open(root: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            root: rustix::fs::openat(CWD, root, flags, Mode::empty())?,
            last: None,
            times: Vec::new(),
        })
    }

    /// A new file, to be written and then dressed.
    pub fn file(&mut self, path: &Path) -> Result<File, UnpackError> {
        let (parent, name) = self.place(path)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&parent, name, flags, Mode::RUSR | Mode::WUSR);
        file.map(File::from).map_err(at(path))
    }

    /// A folder, new or with what it has.
    pub fn folder(&mut self, path: &Path, member: &Member) -> Result<(), UnpackError> {
        let folder = match path.file_name() {
            None => self.root.try_clone().map_err(|source| UnpackError::Write {
                path: path.to_owned(),
                source,
            })?,
            Some(name) => {
                let parent = self.parent(path)?;
                self.ensure_folder(&parent, name, path)?;
                open_folder(&parent, name).map_err(at(path))?
            }
        };
        self.times.push((path.to_owned(), member.mtime));
        self.dress(&folder, path, member)
    }

    /// A symbolic link; where it leads is nobody's business before it is followed.
    pub fn symlink(&mut self, path: &Path, member: &Member) -> Result<(), UnpackError> {
        if member.link.is_empty() || member.link.contains(&0) {
            return Err(UnpackError::invalid(path, "is a link to nowhere"));
        }
        let (parent, name) = self.place(path)?;
        let link = OsStr::from_bytes(&member.link);
        rustix::fs::symlinkat(link, &parent, name).map_err(at(path))?;
        self.dress_link(&parent, name, member).map_err(at(path))
    }

    /// Another name for what is at `target`.
    pub fn hard_link(&mut self, path: &Path, target: &Path) -> Result<(), UnpackError> {
        let missing = || UnpackError::invalid(path, "is another name of what is not in its layer");
        let target_name = target.file_name().ok_or_else(missing)?;
        let folder = target.parent().unwrap_or(Path::new(""));
        let folder = self.lookup(folder).map_err(|_| missing())?;
        let stat = rustix::fs::statat(&folder, target_name, AtFlags::SYMLINK_NOFOLLOW);
        match stat {
            Ok(stat) if is_folder(&stat) || is_whiteout(&stat) => return Err(missing()),
            Ok(_) => {}
            Err(_) => return Err(missing()),
        }
        if path == target {
            return Ok(());
        }
        let (parent, name) = self.place(path)?;
        let linked = rustix::fs::linkat(&folder, target_name, &parent, name, AtFlags::empty());
        match linked {
            // What was in its place was the way to the target.
            Err(Errno::NOENT) => Err(missing()),
            linked => linked.map_err(at(path)),
        }
    }

    /// A named pipe.
    pub fn fifo(&mut self, path: &Path, member: &Member) -> Result<(), UnpackError> {
        let (parent, name) = self.place(path)?;
        let mode = Mode::from_raw_mode(member.mode);
        let made = rustix::fs::mknodat(&parent, name, FileType::Fifo, Mode::empty(), 0)
            .and_then(|()| self.dress_link(&parent, name, member))
            .and_then(|()| rustix::fs::chmodat(&parent, name, mode, AtFlags::empty()));
        made.map_err(at(path))
    }

    /// Hides what layers below have at `path`. What this layer has there itself stays; a folder of
    /// its own no longer shows through.
    pub fn whiteout(&mut self, path: &Path) -> Result<(), UnpackError> {
        let parent = self.parent(path)?;
        let name = path.file_name().unwrap_or_default();
        match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if is_folder(&stat) => self.opaque(path),
            Ok(_) => Ok(()),
            Err(Errno::NOENT) => {
                let kind = FileType::CharacterDevice;
                rustix::fs::mknodat(&parent, name, kind, Mode::empty(), 0).map_err(at(path))
            }
            Err(error) => Err(at(path)(error)),
        }
    }

    /// Hides all that layers below have in the folder.
    pub fn opaque(&mut self, path: &Path) -> Result<(), UnpackError> {
        let folder = self.folder_at(path)?;
        // The handle that looks up cannot set attributes.
        let folder = open_folder(&folder, OsStr::new(".")).map_err(at(path))?;
        set_opaque(&folder).map_err(at(path))
    }

    /// Gives what was made its owner, attributes, mode and time.
    pub fn dress(&self, made: impl AsFd, path: &Path, member: &Member) -> Result<(), UnpackError> {
        let (uid, gid) = (Uid::from_raw(member.uid), Gid::from_raw(member.gid));
        let dressed = rustix::fs::fchown(&made, Some(uid), Some(gid)).and_then(|()| {
            for (name, value) in member.xattrs.iter().filter(|(name, _)| is_kept(name)) {
                let name = OsStr::from_bytes(name);
                rustix::fs::fsetxattr(&made, name, value, XattrFlags::empty())?;
            }
            rustix::fs::fchmod(&made, Mode::from_raw_mode(member.mode))?;
            rustix::fs::futimens(&made, &timestamps(member.mtime))
        });
        dressed.map_err(at(path))
    }

    /// Sets the times of folders, which nothing changes any more.
    pub fn finish(&mut self) -> Result<(), UnpackError> {
        for (path, mtime) in std::mem::take(&mut self.times) {
            let Ok(folder) = self.lookup(&path) else {
                // Something else took its place.
                continue;
            };
            let folder = open_folder(&folder, OsStr::new(".")).map_err(at(&path))?;
            rustix::fs::futimens(&folder, &timestamps(mtime)).map_err(at(&path))?;
        }
        Ok(())
    }

    /// What is not opened: links and pipes.
    fn dress_link(
        &self,
        parent: &OwnedFd,
        name: &OsStr,
        member: &Member,
    ) -> rustix::io::Result<()> {
        let (uid, gid) = (Uid::from_raw(member.uid), Gid::from_raw(member.gid));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), flags)?;
        rustix::fs::utimensat(parent, name, &timestamps(member.mtime), flags)
    }

    /// Where something is to be made: its folder, with nothing of its name in it.
    fn place<'p>(&mut self, path: &'p Path) -> Result<(Rc<OwnedFd>, &'p OsStr), UnpackError> {
        let parent = self.parent(path)?;
        let name = path.file_name().unwrap_or_default();
        match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok((parent, name)),
            Err(error) => return Err(at(path)(error)),
            Ok(stat) if is_folder(&stat) => {
                self.last = None;
                let full = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd()));
                let removed = remove_folder(&full.join(name));
                removed.map_err(|source| UnpackError::Write {
                    path: path.to_owned(),
                    source,
                })?;
            }
            Ok(_) => {
                self.last = None;
                rustix::fs::unlinkat(&parent, name, AtFlags::empty()).map_err(at(path))?;
            }
        }
        Ok((parent, name))
    }

    fn parent(&mut self, path: &Path) -> Result<Rc<OwnedFd>, UnpackError> {
        self.folder_at(path.parent().unwrap_or(Path::new("")))
    }

    /// The folder at `path`, made where the layer has none.
    fn folder_at(&mut self, path: &Path) -> Result<Rc<OwnedFd>, UnpackError> {
        if let Some((last, folder)) = &self.last
            && last == path
        {
            return Ok(folder.clone());
        }
        let found = match self.lookup(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => self.make_folders(path)?,
            found => Rc::new(found.map_err(at(path))?),
        };
        self.last = Some((path.to_owned(), found.clone()));
        Ok(found)
    }

    fn make_folders(&mut self, path: &Path) -> Result<Rc<OwnedFd>, UnpackError> {
        let mut so_far = PathBuf::new();
        let mut folder = Rc::new(self.lookup(&so_far).map_err(at(path))?);
        for name in path {
            so_far.push(name);
            folder = match self.lookup(&so_far) {
                Ok(found) => Rc::new(found),
                Err(Errno::NOENT | Errno::NOTDIR) => {
                    let stat = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW);
                    if stat.is_ok_and(|stat| !is_whiteout(&stat)) {
                        let why = "is no folder, and the layer has something in it";
                        return Err(UnpackError::invalid(&so_far, why));
                    }
                    self.ensure_folder(&folder, name, &so_far)?;
                    Rc::new(self.lookup(&so_far).map_err(at(&so_far))?)
                }
                Err(error) => return Err(at(&so_far)(error)),
            };
        }
        Ok(folder)
    }

    /// A folder of this name: the one that is there, or one in place of what is.
    fn ensure_folder(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
    ) -> Result<(), UnpackError> {
        let mode = Mode::from_raw_mode(0o755);
        let hidden = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if is_folder(&stat) => return Ok(()),
            Ok(stat) => {
                self.last = None;
                rustix::fs::unlinkat(parent, name, AtFlags::empty()).map_err(at(path))?;
                is_whiteout(&stat)
            }
            Err(Errno::NOENT) => false,
            Err(error) => return Err(at(path)(error)),
        };
        rustix::fs::mkdirat(parent, name, mode).map_err(at(path))?;
        let folder = open_folder(parent, name).map_err(at(path))?;
        // Whatever the agent's umask is.
        rustix::fs::fchmod(&folder, mode).map_err(at(path))?;
        if hidden {
            set_opaque(&folder).map_err(at(path))?;
        }
        Ok(())
    }

    /// A handle of the folder at `path`, as a process would find it that has the tree as its root.
    fn lookup(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let how = IN_ROOT | ResolveFlags::NO_XDEV;
        tepui_tree::open(&self.root, path, HANDLE, how)
    }
}

fn set_opaque(folder: &OwnedFd) -> rustix::io::Result<()> {
    rustix::fs::fsetxattr(folder, OPAQUE, b"y", XattrFlags::empty())
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// What a failed call at a member means: most is the disk's, some the archive's own doing.
fn at(path: &Path) -> impl Fn(Errno) -> UnpackError {
    move |error| match error {
        Errno::LOOP | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::XDEV => {
            UnpackError::invalid(path, "lies where nothing can lie")
        }
        error => UnpackError::Write {
            path: path.to_owned(),
            source: error.into(),
        },
    }
}
