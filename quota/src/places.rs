//! The folders below which bounded ones are mounted, and the mounts themselves.
//!
//! Executors of containers have their own mounts, into which those of the machine come, and from
//! which they go, only where they are made below a shared mount. A place that is on none is mounted
//! on itself and shared, before anything is mounted in it.

use std::fs::{DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::error::BoundsError;
use crate::mounts::{self, Mount};

const NONE: Option<&str> = None;
/// How many mounts at one place are taken off before it is somebody else's to explain.
const MOST_STACKED: usize = 16;

/// Where bounded folders may be.
#[derive(Debug)]
pub(crate) struct Places {
    places: Vec<PathBuf>,
    /// Held while mounts are looked at and one is added.
    sharing: Mutex<()>,
}

impl Places {
    /// These, which are made if they are not there.
    pub fn new(places: &[PathBuf]) -> Result<Self, BoundsError> {
        let real = |place: &PathBuf| {
            std::fs::create_dir_all(place)
                .and_then(|()| place.canonicalize())
                .map_err(|source| BoundsError::io("make", place, source))
        };
        Ok(Self {
            places: places.iter().map(real).collect::<Result<_, _>>()?,
            sharing: Mutex::new(()),
        })
    }

    /// The real path of a folder below one of them; the folders above it are made.
    pub fn resolve(&self, at: &Path) -> Result<PathBuf, BoundsError> {
        let elsewhere = || BoundsError::Elsewhere(at.to_owned());
        let (parent, name) = at.parent().zip(at.file_name()).ok_or_else(elsewhere)?;
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o755);
        let parent = builder.create(parent).and_then(|()| parent.canonicalize());
        let parent = parent.map_err(|source| BoundsError::io("make", at, source))?;
        let path = parent.join(name);
        self.of(&path).ok_or_else(elsewhere)?;
        Ok(path)
    }

    /// One of them.
    pub fn first(&self) -> Option<&Path> {
        self.places.first().map(PathBuf::as_path)
    }

    fn of(&self, path: &Path) -> Option<&PathBuf> {
        let below = |place: &&PathBuf| path != place.as_path() && path.starts_with(place);
        self.places.iter().find(below)
    }

    /// Makes all of them shared.
    pub fn share_all(&self) -> Result<(), BoundsError> {
        self.places.iter().try_for_each(|place| self.share(place))
    }

    /// Makes the one with this folder shared.
    pub fn share_of(&self, at: &Path) -> Result<(), BoundsError> {
        let place = self.of(at);
        let place = place.ok_or_else(|| BoundsError::Elsewhere(at.to_owned()))?;
        self.share(place)
    }

    fn share(&self, place: &Path) -> Result<(), BoundsError> {
        let _sharing = self.sharing.lock();
        let mounts = mounts::all()?;
        let Some(mount_of) = mounts::containing(&mounts, place) else {
            return Ok(());
        };
        if mount_of.shared {
            return Ok(());
        }
        if mount_of.at != place {
            // With what is mounted below already, which would be hidden otherwise.
            let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(place), place, NONE, flags, NONE).map_err(|error| failed(place, error))?;
        }
        mount(NONE, place, NONE, MsFlags::MS_SHARED, NONE).map_err(|error| failed(place, error))
    }

    /// Takes the places' own mounts away, where nothing is mounted or open below them.
    pub fn release(&self) -> Result<(), BoundsError> {
        let _sharing = self.sharing.lock();
        for place in &self.places {
            let mounts = mounts::all()?;
            if is_on_itself(&mounts, place) {
                match umount2(place, MntFlags::empty()) {
                    Ok(()) | Err(Errno::EBUSY) => {}
                    Err(error) => return Err(failed(place, error)),
                }
            }
        }
        Ok(())
    }
}

/// Whether a folder is mounted on itself: what this made, and all that may be undone.
fn is_on_itself(mounts: &[Mount], place: &Path) -> bool {
    let Some((mine, below)) = mounts::containing(mounts, place)
        .filter(|mount| mount.at == place)
        .zip(place.parent().and_then(|it| mounts::containing(mounts, it)))
    else {
        return false;
    };
    let inside = place.strip_prefix(&below.at).unwrap_or(place);
    mine.source == below.source && mine.root == below.root.join(inside)
}

/// What may be done with a file system that is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everything; what it frees goes back to the disk, or is kept.
    Write {
        /// Whether it goes back.
        give_back: bool,
    },
    /// Its files are read, and not even its tables change.
    Read,
}

/// Mounts a device's file system. Nobody gets rights or devices by what is in it, and no tables are
/// written that a fresh image does not need.
pub(crate) fn mount_image(device: &Path, at: &Path, access: Access) -> Result<(), BoundsError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let (flags, options) = match access {
        Access::Write { give_back: true } => (flags, "errors=remount-ro,noinit_itable,discard"),
        Access::Write { give_back: false } => (flags, "errors=remount-ro,noinit_itable,nodiscard"),
        Access::Read => (flags | MsFlags::MS_RDONLY, "errors=remount-ro"),
    };
    match mount(Some(device), at, Some("ext4"), flags, Some(options)) {
        // It is mounted elsewhere, to be written: a file system is in one state.
        Err(Errno::EBUSY) if access == Access::Read => {
            let give_back = Access::Write { give_back: false };
            mount_image(device, at, give_back)
        }
        mounted => mounted.map_err(|error| failed(at, error)),
    }
}

/// Takes whatever is mounted there off, even where somebody still has something of it open: they
/// keep what they have, and the file system ends with them.
pub(crate) fn detach(at: &Path) -> Result<(), BoundsError> {
    for _ in 0..MOST_STACKED {
        if mounted(at)?.is_none() {
            return Ok(());
        }
        let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
        umount2(at, flags).map_err(|error| failed(at, error))?;
    }
    Err(BoundsError::io(
        "unmount",
        at,
        io::Error::from(Errno::EBUSY),
    ))
}

/// Takes a file system off that nobody uses; otherwise it stays.
pub(crate) fn unmount_unused(at: &Path) -> Result<(), BoundsError> {
    match umount2(at, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::EBUSY) => Err(BoundsError::InUse(at.to_owned())),
        Err(error) => Err(failed(at, error)),
    }
}

/// What is at a folder if it has a file system of its own.
pub(crate) fn mounted(at: &Path) -> Result<Option<Metadata>, BoundsError> {
    let metadata = |path: &Path| match std::fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(BoundsError::io("look at", path, error)),
    };
    let parent = at.parent().unwrap_or(Path::new("/"));
    let Some((here, above)) = metadata(at)?.zip(metadata(parent)?) else {
        return Ok(None);
    };
    Ok((here.dev() != above.dev()).then_some(here))
}

fn failed(at: &Path, error: Errno) -> BoundsError {
    match error {
        Errno::EPERM | Errno::EACCES => BoundsError::NotPermitted {
            path: at.to_owned(),
            source: error.into(),
        },
        error => BoundsError::io("mount or unmount", at, error),
    }
}
