//! What a folder takes, measured by looking at every file in it.
//!
//! Counted is what is allocated, of files and folders, as often as it is there: a file with several
//! names once, a sparse one by what it has. Nothing outside counts: links are not followed, and what
//! is mounted inside is left out. A measurement goes on by steps of a bounded number of entries, and
//! holds a bounded number of descriptors and a bounded amount of memory, whatever a task has made.
//!
//! What is moved meanwhile, from where was not looked yet to where was, is not counted, and what is moved
//! the other way is counted twice: a measurement is wrong by that much at the most, and the next one is
//! not. Nobody stops a task to measure it, so one that never rests can hide what it has. It harms no
//! other folder that the kernel bounds; and a limit that is measured is passed for a while by anybody.
//! Whoever must not pass it is given another kind ([`Bounds`](crate::Bounds)).

use std::collections::HashSet;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Statx, StatxAttributes, StatxFlags,
    openat, openat2, statx,
};
use rustix::io::Errno;
use tepui_types::Bytes;

/// Folders in each other that are open at a time, a descriptor and a buffer of 32 KiB each.
const MOST_OPEN: usize = 32;
/// How deep it is looked; a few megabytes of memory. Deeper than any program has a use for.
const MOST_LEVELS: usize = 65_536;
/// Files with several names that are remembered, in some tens of megabytes. Of more, each name
/// counts for its part.
const MOST_LINKED: usize = 1 << 20;
/// The unit of `st_blocks`, whatever the file system's is.
pub(crate) const STAT_BLOCK: u64 = 512;

/// Bytes and inodes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// What is allocated.
    pub bytes: Bytes,
    /// Files, folders, links and whatever else has a name.
    pub inodes: u64,
}

/// What a measurement has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// The folder's own inode is in it.
    pub usage: Usage,
    /// False where some was not seen: a folder was too deep, may not be read, or was moved while it
    /// was looked through. Then there is at least this much.
    pub complete: bool,
    /// Whether there are folders in each other beyond what is looked through. Who makes those hides
    /// something.
    pub too_deep: bool,
}

impl Measured {
    /// Both together.
    pub(crate) fn and(self, other: Self) -> Self {
        let (one, two) = (self.usage, other.usage);
        Self {
            usage: Usage {
                bytes: Bytes(one.bytes.0.saturating_add(two.bytes.0)),
                inodes: one.inodes.saturating_add(two.inodes),
            },
            complete: self.complete && other.complete,
            too_deep: self.too_deep || other.too_deep,
        }
    }
}

/// How far a measurement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// There is more: take another step.
    More,
    /// It has ended.
    Done(Measured),
}

/// A measurement that is under way.
#[derive(Debug)]
pub struct Measurement {
    levels: Vec<Level>,
    /// Files with several names that were seen.
    linked: HashSet<Inode>,
    usage: Usage,
    complete: bool,
    too_deep: bool,
}

/// A device's numbers, and one on it: what is mounted once may be several devices (btrfs).
type Inode = (u32, u32, u64);

/// A folder on the way down.
#[derive(Debug)]
struct Level {
    /// None while it is too far up to be kept open.
    entries: Option<Dir>,
    /// Where the entry after the last one is.
    offset: i64,
    inode: Inode,
}

impl Measurement {
    /// Begins with a folder.
    ///
    /// # Errors
    /// Those of the system, where it cannot be opened.
    pub fn begin(folder: &Path) -> io::Result<Self> {
        let folder = openat(CWD, folder, FOLDER, Mode::empty())?;
        let itself = look(folder.as_fd(), c"", AtFlags::EMPTY_PATH)?;
        let mut measurement = Self {
            levels: vec![Level::new(folder, inode(&itself))?],
            linked: HashSet::new(),
            usage: Usage::default(),
            complete: true,
            too_deep: false,
        };
        measurement.count(&itself);
        Ok(measurement)
    }

    /// Looks at so many more entries. Blocks for some microseconds each.
    ///
    /// # Errors
    /// Those of the system that are no fault of one entry.
    pub fn step(&mut self, entries: usize) -> io::Result<Progress> {
        for _ in 0..entries.max(1) {
            let Some(level) = self.levels.last_mut() else {
                return Ok(Progress::Done(Measured {
                    usage: self.usage,
                    complete: self.complete,
                    too_deep: self.too_deep,
                }));
            };
            let Some(folder) = level.entries.as_mut() else {
                // What is on top is open, or was lost.
                self.give_up();
                continue;
            };
            match folder.read() {
                None => self.climb()?,
                Some(Err(error)) => {
                    tracing::debug!(%error, "a folder could not be read to its end");
                    self.complete = false;
                    self.climb()?;
                }
                Some(Ok(entry)) => {
                    level.offset = entry.offset();
                    if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                        self.visit(entry.file_name())?;
                    }
                }
            }
        }
        Ok(Progress::More)
    }

    /// How many folders it is below where it began, itself included.
    pub fn depth(&self) -> usize {
        self.levels.len()
    }

    fn visit(&mut self, name: &CStr) -> io::Result<()> {
        let Some(folder) = self.levels.last().and_then(|level| level.entries.as_ref()) else {
            return Ok(());
        };
        let folder = folder.fd()?;
        let found = match look(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Ok(()),
            Err(_) => {
                self.complete = false;
                return Ok(());
            }
        };
        // It is counted by whoever has mounted it.
        if found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            return Ok(());
        }
        if FileType::from_raw_mode(found.stx_mode.into()) != FileType::Directory {
            self.count(&found);
            return Ok(());
        }
        match open_folder(folder, name) {
            // What is gone, or was mounted just now.
            Err(Errno::XDEV | Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => return Err(Errno::MFILE.into()),
            Err(_) => self.complete = false,
            Ok(_) if self.levels.len() >= MOST_LEVELS => {
                (self.complete, self.too_deep) = (false, true);
            }
            Ok(inner) => {
                let inner = Level::new(inner, inode(&found))?;
                self.levels.push(inner);
                if let Some(far) = self.levels.len().checked_sub(MOST_OPEN + 1) {
                    self.levels[far].entries = None;
                }
            }
        }
        self.count(&found);
        Ok(())
    }

    fn count(&mut self, found: &Statx) {
        let bytes = found.stx_blocks.saturating_mul(STAT_BLOCK);
        let names = u64::from(found.stx_nlink.max(1));
        let is_folder = FileType::from_raw_mode(found.stx_mode.into()) == FileType::Directory;
        if names > 1 && !is_folder {
            if self.linked.contains(&inode(found)) {
                return;
            }
            if self.linked.len() >= MOST_LINKED {
                self.usage.bytes.0 = self.usage.bytes.0.saturating_add(bytes / names);
                return;
            }
            self.linked.insert(inode(found));
        }
        self.usage.bytes.0 = self.usage.bytes.0.saturating_add(bytes);
        self.usage.inodes += 1;
    }

    /// Goes on in the folder above, which is opened again if it is not open.
    fn climb(&mut self) -> io::Result<()> {
        let Some((done, above)) = self.levels.pop().zip(self.levels.last_mut()) else {
            return Ok(());
        };
        if above.entries.is_some() {
            return Ok(());
        }
        let Some(folder) = done.entries else {
            return Ok(());
        };
        let reopened = open_folder(folder.fd()?, c"..");
        let same = reopened.ok().filter(|folder| {
            // Somebody may have moved what we are in.
            look(folder.as_fd(), c"", AtFlags::EMPTY_PATH)
                .is_ok_and(|found| inode(&found) == above.inode)
        });
        if let Some(folder) = same {
            let mut entries = Dir::new(folder)?;
            entries.seek(above.offset)?;
            above.entries = Some(entries);
        }
        Ok(())
    }

    /// Ends where the way back is lost.
    fn give_up(&mut self) {
        self.levels.clear();
        self.complete = false;
    }
}

impl Level {
    fn new(folder: OwnedFd, inode: Inode) -> io::Result<Self> {
        Ok(Self {
            entries: Some(Dir::new(folder)?),
            offset: 0,
            inode,
        })
    }
}

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

fn open_folder(folder: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let within = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    openat2(folder, name, FOLDER, Mode::empty(), within)
}

fn look(folder: BorrowedFd<'_>, name: &CStr, how: AtFlags) -> rustix::io::Result<Statx> {
    let what = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::NLINK | StatxFlags::BLOCKS;
    statx(folder, name, how | AtFlags::NO_AUTOMOUNT, what)
}

fn inode(found: &Statx) -> Inode {
    (found.stx_dev_major, found.stx_dev_minor, found.stx_ino)
}
