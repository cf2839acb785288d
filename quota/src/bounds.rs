//! The bounded folders of one disk: made, opened again, grown, removed, and mended after a kill.
//!
//! A folder has a name, a place and a size. Its record is on disk before anything else of it
//! (see [`record`](crate::record)), so each step here may be the last one of a process. All calls may
//! be made again. Each effect is told at debug level under the target `tepui_quota::step`, just before
//! it is done.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tepui_types::Bytes;

use crate::busy::{Busy, Hold};
use crate::error::BoundsError;
use crate::health::Mounts;
use crate::image::{self, BLOCK, LEAST};
use crate::measure::{STAT_BLOCK, Usage};
use crate::places::{self, Places};
use crate::project::{self, Projects};
use crate::record::{self, Entry, How, Record, Stage};
use crate::wanted::{Bounded, Enforce, Room, Settings, Support, Wanted, Way};

mod images;
mod projects;

use images::{can_make_images, device_at, grows_online};

/// What is kept of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// What it takes of the disk; nothing where it is measured by others.
    pub bytes: Bytes,
    /// When something in it was last changed, or it was shown; as far as that is known.
    pub changed: Option<SystemTime>,
}

/// The bounded folders of one disk. One process has them at a time.
#[derive(Debug)]
pub struct Bounds {
    settings: Settings,
    places: Places,
    busy: Busy,
}

impl Bounds {
    /// Those of this disk; its folders are made if they are not there.
    ///
    /// # Errors
    /// Those of the system.
    pub fn new(settings: Settings) -> Result<Self, BoundsError> {
        let store = &settings.store;
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(store);
        made.map_err(|source| BoundsError::io("make", store, source))?;
        Ok(Self {
            places: Places::new(&settings.places)?,
            settings,
            busy: Busy::default(),
        })
    }

    /// Finds out what there is, and makes ready for it: call this before processes are started that
    /// have mounts of their own, for they see no mount below a place that was shared later.
    ///
    /// # Errors
    /// What is wrong beside there being no such thing on this machine.
    pub fn prepare(&self) -> Result<Support, BoundsError> {
        let Some(place) = self.places.first() else {
            return Ok(Support::Image);
        };
        if Projects::of(place)?.is_some() {
            return Ok(Support::Project);
        }
        let ready = can_make_images(place).and_then(|()| self.places.share_all());
        match ready {
            Ok(()) => Ok(Support::Image),
            Err(error) if error.cannot_enforce() => Ok(Support::Measured(error)),
            Err(error) => Err(error),
        }
    }

    /// Makes a folder, or opens it where it is made already. It then has the size that is asked for,
    /// or more where it had more. One that is there stays in the way it is kept.
    ///
    /// # Errors
    /// After any, a folder that was not there is not there.
    pub fn make(&self, wanted: &Wanted<'_>) -> Result<Bounded, BoundsError> {
        let (name, bytes) = (wanted.name, wanted.bytes);
        let (entry, _hold) = self.entry(name)?;
        let at = self.places.resolve(wanted.at)?;
        match entry.read()? {
            Some(mut record) if record.stage == Stage::Ready => {
                if record.at != at {
                    let there = record.at;
                    let name = name.to_owned();
                    return Err(BoundsError::Taken { name, there });
                }
                self.ensure(name, &entry, &mut record)?;
                if bytes > record.bytes {
                    self.grow_to(name, &entry, &mut record, bytes)?;
                }
                return Ok(bounded(record));
            }
            // What a killed one has left of it.
            Some(record) => self.clear(name, &entry, record)?,
            None => entry.remove()?,
        }
        let begun = self.begin(wanted, &entry, at);
        let mut record = begun.inspect_err(|_| {
            // A disk that is full may have taken a folder and no record.
            let _ = entry.remove();
        })?;
        let made = self.build(name, &entry, &mut record);
        if let Err(error) = made.and_then(|()| self.ensure(name, &entry, &mut record)) {
            if let Err(left) = self.clear(name, &entry, record) {
                tracing::warn!(folder = name, error = %left, "what was made of a folder stays for now");
            }
            return Err(error);
        }
        Ok(bounded(record))
    }

    /// Opens a folder again: finds it, or, after the machine's restart, mends and mounts it.
    ///
    /// # Errors
    /// [`BoundsError::Unknown`] where it was not made, [`BoundsError::Damaged`] where it cannot be
    /// mended without people.
    pub fn open(&self, name: &str) -> Result<Bounded, BoundsError> {
        let (entry, _hold) = self.entry(name)?;
        let mut record = ready(name, &entry)?;
        self.ensure(name, &entry, &mut record)?;
        Ok(bounded(record))
    }

    /// Gives a folder more; tasks may be using it.
    ///
    /// # Errors
    /// After any, it has what it had.
    pub fn grow(&self, name: &str, bytes: Bytes) -> Result<Bounded, BoundsError> {
        let (entry, _hold) = self.entry(name)?;
        let mut record = ready(name, &entry)?;
        self.ensure(name, &entry, &mut record)?;
        self.grow_to(name, &entry, &mut record, bytes)?;
        Ok(bounded(record))
    }

    /// What is in a folder, where the kernel counts; none where it is measured.
    ///
    /// # Errors
    /// [`BoundsError::Unknown`] where it is not there.
    pub fn usage(&self, name: &str) -> Result<Option<Room>, BoundsError> {
        let (entry, _hold) = self.entry(name)?;
        let record = ready(name, &entry)?;
        match record.how {
            How::Measured => return Ok(None),
            How::Project(_) => {}
            // Without its mount, it would be the disk that is counted.
            How::Image => drop(device_at(&entry, &record.at)?.ok_or_else(|| unknown(name))?),
        }
        room_at(&record.at).map(Some)
    }

    /// Lets what is in a folder be read that nobody uses any more, until it is laid to rest again: one
    /// with a file system of its own is mounted, read only, and no room is set aside for it.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn show(&self, name: &str) -> Result<Bounded, BoundsError> {
        let (entry, _hold) = self.entry(name)?;
        let mut record = ready(name, &entry)?;
        if record.how == How::Image && device_at(&entry, &record.at)?.is_none() {
            self.mount_to_read(name, &entry, &mut record)?;
        }
        Ok(bounded(record))
    }

    /// Lays a folder to rest that nobody uses any more: one with a file system of its own gives back what
    /// is free in it, its mount and its device, and keeps what is in it. It can be
    /// [shown](Self::show), and opened again.
    ///
    /// # Errors
    /// [`BoundsError::InUse`] where somebody has something of it open; then it stays mounted, and what
    /// was free in it may have been given back already.
    pub fn rest(&self, name: &str) -> Result<(), BoundsError> {
        let (entry, _hold) = self.entry(name)?;
        let record = ready(name, &entry)?;
        if record.how != How::Image || device_at(&entry, &record.at)?.is_none() {
            return Ok(());
        }
        self.trim(name, &record.at);
        step(name, "unmount it");
        places::unmount_unused(&record.at)
    }

    /// What each whole folder takes of the disk; in the order of their names.
    ///
    /// # Errors
    /// Where the store cannot be listed; what cannot be read is left out.
    pub fn kept(&self) -> Result<Vec<Kept>, BoundsError> {
        let mut kept = Vec::new();
        for name in record::names(&self.settings.store)? {
            let entry = Entry::of(&self.settings.store, &name);
            let record = entry.read().ok().flatten();
            let Some(record) = record.filter(|record| record.stage == Stage::Ready) else {
                continue;
            };
            kept.push(kept_of(name, &entry, record));
        }
        Ok(kept)
    }

    /// Sees that a folder can be written to, as of that look.
    ///
    /// # Errors
    /// [`BoundsError::Stopped`] or [`BoundsError::ReadOnly`] where it cannot, and
    /// [`BoundsError::Unknown`] where it is not there.
    pub fn check_writes(&self, name: &str, mounts: &Mounts) -> Result<(), BoundsError> {
        let (entry, _hold) = self.entry(name)?;
        let record = ready(name, &entry)?;
        check_writes(&entry, &record, mounts)
    }

    /// Removes a folder with all that is in it; what is not there has been removed. A task that still
    /// has a file of it open keeps that file until it ends.
    ///
    /// # Errors
    /// Those of the system; nobody gets the folder again, and this can be tried again.
    pub fn remove(&self, name: &str) -> Result<(), BoundsError> {
        let (entry, _hold) = self.entry(name)?;
        let Some(mut record) = entry.read()? else {
            return entry.remove();
        };
        if record.stage == Stage::Ready {
            step(name, "record its removal");
            entry.doom()?;
            record.stage = Stage::Removing;
        }
        self.clear(name, &entry, record)
    }

    /// Ends what killed processes have begun: what was half made goes, and what was half removed.
    /// Answers the names of all that are whole, of which the caller removes what it does not know.
    ///
    /// # Errors
    /// Where the store cannot be listed; what is wrong with one folder is logged.
    pub fn sweep(&self) -> Result<Vec<String>, BoundsError> {
        let mut whole = Vec::new();
        for name in record::names(&self.settings.store)? {
            let (entry, _hold) = self.entry(&name)?;
            let cleared = match entry.read() {
                Ok(Some(record)) if record.stage == Stage::Ready => {
                    whole.push(name);
                    continue;
                }
                Ok(Some(record)) => self.clear(&name, &entry, record),
                Ok(None) => entry.remove(),
                Err(error) => Err(error),
            };
            if let Err(error) = cleared {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(folder = name, %error, cause, "what is left of a folder stays");
            }
        }
        Ok(whole)
    }

    /// Takes away the mounts that places were made, where nothing is mounted or open below them: for
    /// who will not be there again.
    ///
    /// # Errors
    /// Those of umount(2), beside that it is in use.
    pub fn release(&self) -> Result<(), BoundsError> {
        self.places.release()
    }

    fn entry(&self, name: &str) -> Result<(Entry, Hold<'_>), BoundsError> {
        if !record::is_name(name) {
            return Err(BoundsError::Name(name.to_owned()));
        }
        let hold = self.busy.hold(name);
        Ok((Entry::of(&self.settings.store, name), hold))
    }

    /// Decides how a new folder is kept, sees that it can be, and records it.
    fn begin(
        &self,
        wanted: &Wanted<'_>,
        entry: &Entry,
        at: PathBuf,
    ) -> Result<Record, BoundsError> {
        let (name, life) = (wanted.name, wanted.life);
        let bytes = Bytes(wanted.bytes.0 / BLOCK * BLOCK);
        let record = |how| Record::new(at.clone(), bytes, life, how);
        if wanted.enforce == Enforce::Measured {
            // Whatever is there belongs to it from now on, and is never thrown away as half made.
            let mut record = record(How::Measured);
            record.bytes = wanted.bytes;
            record.stage = Stage::Ready;
            step(name, "record it");
            entry.write(&record)?;
            return Ok(record);
        }
        if places::mounted(&at)?.is_some() || !is_empty(&at)? {
            return Err(BoundsError::Occupied(at));
        }
        let parent = at.parent().unwrap_or(Path::new("/"));
        if let Some(projects) = Projects::of(parent)? {
            return self.claim_project(name, entry, &projects, |id| record(How::Project(id)));
        }
        if bytes < LEAST {
            let (bytes, least) = (wanted.bytes, LEAST);
            return Err(BoundsError::TooSmall { bytes, least });
        }
        can_make_images(&at)?;
        self.places.share_of(&at)?;
        // It is looked at again when it is set aside: until then, others may take it.
        self.check_room(bytes)?;
        step(name, "record it");
        let record = record(How::Image);
        entry.write(&record)?;
        Ok(record)
    }

    fn check_room(&self, wanted: Bytes) -> Result<(), BoundsError> {
        let Settings {
            store, headroom, ..
        } = &self.settings;
        let free = image::free_beside(store)?;
        if wanted.0.saturating_add(headroom.0) <= free.0 {
            return Ok(());
        }
        Err(BoundsError::Full {
            path: store.clone(),
            wanted,
            free,
            headroom: *headroom,
        })
    }

    /// Makes what was recorded.
    fn build(&self, name: &str, entry: &Entry, record: &mut Record) -> Result<(), BoundsError> {
        match record.how {
            How::Measured => return Ok(()),
            How::Project(id) => self.keep_project(name, record, id)?,
            How::Image => self.build_image(name, entry, record)?,
        }
        record.stage = Stage::Ready;
        step(name, "record that it is whole");
        entry.write(record)
    }

    /// Sees that a whole folder is there.
    fn ensure(&self, name: &str, entry: &Entry, record: &mut Record) -> Result<(), BoundsError> {
        match record.how {
            How::Measured => make_folder(&record.at),
            How::Project(id) => {
                let taken =
                    Mounts::look()?.take_writes(record.at.parent().unwrap_or(&record.at))?;
                match taken {
                    true => self.keep_project(name, record, id),
                    false => Err(BoundsError::ReadOnly(record.at.clone())),
                }
            }
            How::Image => {
                let device = match device_at(entry, &record.at)? {
                    Some(device) => device,
                    None => self.mount(name, entry, record)?,
                };
                check_writes(entry, record, &Mounts::look()?)?;
                if let Err(error) = self.fill_up(entry) {
                    tracing::warn!(folder = name, %error, "not all of its room is set aside");
                }
                if record.growing
                    && let Err(error) = self.grow_mounted(name, entry, record, &device)
                {
                    tracing::warn!(folder = name, %error, "it stays as small as it was for now");
                }
                Ok(())
            }
        }
    }

    fn grow_to(
        &self,
        name: &str,
        entry: &Entry,
        record: &mut Record,
        bytes: Bytes,
    ) -> Result<(), BoundsError> {
        let how = record.how;
        let wanted = match how {
            How::Measured => bytes,
            _ => Bytes(bytes.0 / BLOCK * BLOCK),
        };
        let had = record.bytes;
        if how != How::Measured && wanted < had {
            let name = name.to_owned();
            return Err(BoundsError::Shrinks { name, had, wanted });
        }
        if how != How::Measured {
            self.check_room(Bytes(wanted.0 - had.0))?;
        }
        let online = how != How::Image || grows_online();
        if !online {
            self.unmount_unused(name, entry, record)?;
        }
        record.bytes = wanted;
        record.growing = how == How::Image;
        step(name, "record its growth");
        if let Err(error) = entry.write(record) {
            (record.bytes, record.growing) = (had, false);
            self.ensure(name, entry, record)?;
            return Err(error);
        }
        match how {
            How::Measured => Ok(()),
            How::Project(id) => {
                step(name, "set its project's limits");
                self.limit(&record.at, id, wanted)
            }
            How::Image if online => {
                let device = device_at(entry, &record.at)?.ok_or_else(|| unknown(name))?;
                self.grow_mounted(name, entry, record, &device)
            }
            How::Image => {
                let grown = self.grow_unmounted(name, entry, record);
                self.mount(name, entry, record)?;
                grown
            }
        }
    }

    /// Removes what there is of a folder, its record last.
    fn clear(&self, name: &str, entry: &Entry, record: Record) -> Result<(), BoundsError> {
        let at = &record.at;
        if record.how == How::Image {
            step(name, "unmount it");
            places::detach(at)?;
        }
        let had = match record.how {
            How::Project(id) => project::is_of(at, id)?,
            How::Image | How::Measured => false,
        };
        step(name, "remove its folder");
        match fs::remove_dir(at).or_else(record::absent) {
            // What is in one that nobody has had is not its own.
            Err(error) if record.stage == Stage::Making => {
                let path = at.display();
                tracing::warn!(%path, %error, "the place of a folder that was not made stays");
            }
            Err(_) => {
                let removed = (self.settings.remove_folder)(at).or_else(record::absent);
                removed.map_err(|source| BoundsError::io("remove", at, source))?;
            }
            Ok(()) => {}
        }
        if let How::Project(id) = record.how {
            self.release_project(name, &record, id, had)?;
        }
        step(name, "remove its record");
        entry.remove()
    }
}

fn bounded(record: Record) -> Bounded {
    Bounded {
        path: record.at,
        bytes: record.bytes,
        way: match record.how {
            How::Project(id) => Way::Project(id),
            How::Image => Way::Image,
            How::Measured => Way::Measured,
        },
    }
}

fn ready(name: &str, entry: &Entry) -> Result<Record, BoundsError> {
    let record = entry.read()?;
    let record = record.filter(|record| record.stage == Stage::Ready);
    record.ok_or_else(|| unknown(name))
}

fn kept_of(name: String, entry: &Entry, record: Record) -> Kept {
    let at = match record.how {
        How::Image => entry.image(),
        How::Project(_) | How::Measured => record.at.clone(),
    };
    let found = fs::metadata(at).ok();
    let bytes = match record.how {
        How::Image => Bytes(found.as_ref().map_or(0, |it| it.blocks() * STAT_BLOCK)),
        How::Project(_) => room_at(&record.at).map_or(Bytes(0), |room| room.used.bytes),
        How::Measured => Bytes(0),
    };
    Kept {
        name,
        path: record.at,
        bytes,
        changed: found.and_then(|it| it.modified().ok()),
    }
}

/// What the kernel says of a folder whose size it keeps.
fn room_at(at: &Path) -> Result<Room, BoundsError> {
    let counted = rustix::fs::statvfs(at);
    let counted = counted.map_err(|error| BoundsError::io("look into", at, error))?;
    let usage = |blocks: u64, inodes| Usage {
        bytes: Bytes(blocks.saturating_mul(counted.f_frsize)),
        inodes,
    };
    let blocks = counted.f_blocks.saturating_sub(counted.f_bfree);
    let files = counted.f_files.saturating_sub(counted.f_ffree);
    // What the file system keeps for itself is nobody's.
    let most = blocks.saturating_add(counted.f_bavail);
    Ok(Room {
        used: usage(blocks, files),
        size: usage(most, counted.f_files),
    })
}

fn check_writes(entry: &Entry, record: &Record, mounts: &Mounts) -> Result<(), BoundsError> {
    let at = record.at.clone();
    match record.how {
        How::Image if !mounts.image_takes_writes(&at)? => Err(BoundsError::Stopped {
            at,
            image: entry.image(),
        }),
        How::Image => Ok(()),
        How::Project(_) | How::Measured => mounts.check(at.parent().unwrap_or(&at)),
    }
}

fn unknown(name: &str) -> BoundsError {
    BoundsError::Unknown(name.to_owned())
}

fn make_folder(at: &Path) -> Result<(), BoundsError> {
    let mut builder = DirBuilder::new();
    let made = builder.recursive(true).mode(0o755).create(at);
    made.and_then(|()| record::sync_parent(at))
        .map_err(|source| BoundsError::io("make", at, source))
}

fn is_empty(at: &Path) -> Result<bool, BoundsError> {
    match fs::read_dir(at) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(source) => Err(BoundsError::io("look into", at, source)),
    }
}

/// Tells what is about to be done.
fn step(name: &str, step: &'static str) {
    tracing::debug!(target: "tepui_quota::step", folder = name, step);
}
