//! Bounded folders that have a file system of their own: made, mounted, grown.
//!
//! One image has one loop device, whoever has it mounted: two would write over each other.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::thread::CapabilitySet;
use tepui_types::Bytes;

use super::{Bounds, is_empty, make_folder, step};
use crate::error::BoundsError;
use crate::image::{self, BLOCK};
use crate::loop_device::{self, LoopDevice};
use crate::measure::STAT_BLOCK;
use crate::places::{self, Access};
use crate::program;
use crate::record::{Entry, Record};
use crate::turn::Turn;

/// How often, and how long after one another, is looked whether a device is given back: a second, much
/// longer than udev or another thread looks at one.
const LOOKS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(10);

impl Bounds {
    /// Makes an image that was recorded.
    pub(super) fn build_image(
        &self,
        name: &str,
        entry: &Entry,
        record: &Record,
    ) -> Result<(), BoundsError> {
        let path = entry.image();
        step(name, "set room aside");
        let file = {
            // Whoever comes next sees what is left.
            let _turn = Turn::of(&self.settings.store)?;
            self.check_room(record.bytes)?;
            image::create(&path, record.bytes, self.settings.whole_images)?
        };
        step(name, "make its file system");
        image::format(&path, record.bytes, record.life)?;
        // Where a disk below cannot write zeros, that has made holes.
        image::extend(&file, &path, record.bytes, self.settings.whole_images)?;
        step(name, "sync its image");
        let synced = file.sync_all();
        synced.map_err(|source| BoundsError::io("sync", &path, source))
    }

    /// Sees that all of an image's room is set aside still: `fstrim` gives back what is free in it.
    pub(super) fn fill_up(&self, entry: &Entry) -> Result<(), BoundsError> {
        let path = entry.image();
        let is = look_at(&path)?;
        if !self.settings.whole_images || is.blocks().saturating_mul(STAT_BLOCK) >= is.len() {
            return Ok(());
        }
        image::extend(&open_image(&path)?, &path, Bytes(is.len()), true)
    }

    /// Mends and mounts an image that is not mounted here, and lets it grow where it was about to.
    pub(super) fn mount(
        &self,
        name: &str,
        entry: &Entry,
        record: &mut Record,
    ) -> Result<LoopDevice, BoundsError> {
        let access = Access::Write {
            give_back: !self.settings.whole_images,
        };
        self.mount_with(name, entry, record, access)
    }

    /// The same for who reads what is in it: nothing is set aside for it.
    pub(super) fn mount_to_read(
        &self,
        name: &str,
        entry: &Entry,
        record: &mut Record,
    ) -> Result<LoopDevice, BoundsError> {
        let device = self.mount_with(name, entry, record, Access::Read)?;
        // Who clears up sees that somebody wanted it. Nothing depends on that.
        let _ = image::touch(&entry.image());
        Ok(device)
    }

    fn mount_with(
        &self,
        name: &str,
        entry: &Entry,
        record: &mut Record,
        access: Access,
    ) -> Result<LoopDevice, BoundsError> {
        let (path, at) = (entry.image(), record.at.clone());
        self.places.share_of(&at)?;
        step(name, "make its mount point");
        make_folder(&at)?;
        if !is_empty(&at)? {
            return Err(BoundsError::Occupied(at));
        }
        let device = match LoopDevice::of_image(&path, &look_at(&path)?)? {
            // It is mounted elsewhere, and one file system in two places.
            Some(device) => device,
            None => {
                step(name, "check its file system");
                if record.growing
                    && access != Access::Read
                    && let Err(error) = self.grow_unmounted(name, entry, record)
                {
                    tracing::warn!(folder = name, %error, "it stays as small as it was for now");
                }
                image::check(&path, record.life)?;
                LoopDevice::attach(&open_image(&path)?)?
            }
        };
        step(name, "mount it");
        places::mount_image(&device.path, &at, access)?;
        // Programs such as databases want an empty folder; the checker makes it when it needs one.
        let _ = fs::remove_dir(at.join("lost+found"));
        Ok(device)
    }

    /// Gives back what is free in an image that is mounted: to who lends the disk, it is free again.
    pub(super) fn trim(&self, name: &str, at: &Path) {
        step(name, "give back what is free in it");
        match image::trim(at) {
            // What is read only was trimmed before; a disk below that knows no holes keeps all.
            Err(error) if !matches!(error.raw_os_error(), Some(libc::EROFS | libc::EOPNOTSUPP)) => {
                tracing::warn!(folder = name, %error, "what is free in it stays set aside");
            }
            _ => {}
        }
    }

    /// Makes image, device and file system as large as is recorded, under whoever uses them.
    pub(super) fn grow_mounted(
        &self,
        name: &str,
        entry: &Entry,
        record: &mut Record,
        device: &LoopDevice,
    ) -> Result<(), BoundsError> {
        let at = record.at.clone();
        if !grows_online() {
            return Err(BoundsError::InUse(at));
        }
        let extended = self.extend(name, entry, record);
        if extended.is_ok() {
            step(name, "grow its file system");
            device.grow()?;
            let blocks = record.bytes.0 / BLOCK;
            let folder = File::open(&at);
            let folder = folder.map_err(|source| BoundsError::io("open", &at, source))?;
            rustix::fs::ext4_ioc_resize_fs(&folder, blocks)
                .map_err(|error| BoundsError::io("grow the file system at", &at, error))?;
        }
        record.growing = false;
        step(name, "record that it has grown");
        entry.write(record)?;
        extended
    }

    /// The same for an image that nobody has.
    pub(super) fn grow_unmounted(
        &self,
        name: &str,
        entry: &Entry,
        record: &mut Record,
    ) -> Result<(), BoundsError> {
        let extended = self.extend(name, entry, record);
        if extended.is_ok() {
            step(name, "grow its file system");
            image::resize(&entry.image(), record.life)?;
        }
        record.growing = false;
        step(name, "record that it has grown");
        entry.write(record)?;
        extended
    }

    /// Makes an image as large as is recorded. Where there is no room for that, what it has is its
    /// size from now on.
    fn extend(&self, name: &str, entry: &Entry, record: &mut Record) -> Result<(), BoundsError> {
        let path = entry.image();
        let file = open_image(&path)?;
        let had = look_at(&path)?.len();
        step(name, "set more room aside");
        let _turn = Turn::of(&self.settings.store)?;
        let room = self.check_room(Bytes(record.bytes.0.saturating_sub(had)));
        let whole = self.settings.whole_images;
        let extended = room.and_then(|()| image::extend(&file, &path, record.bytes, whole));
        if extended.is_err() {
            record.bytes = Bytes(look_at(&path)?.len());
        }
        extended
    }

    /// Takes an image off that nobody uses, here or elsewhere; otherwise it stays.
    pub(super) fn unmount_unused(
        &self,
        name: &str,
        entry: &Entry,
        record: &mut Record,
    ) -> Result<(), BoundsError> {
        step(name, "unmount it for a while");
        places::unmount_unused(&record.at)?;
        match is_given_back(&entry.image())? {
            true => Ok(()),
            false => {
                self.mount(name, entry, record)?;
                Err(BoundsError::InUse(record.at.clone()))
            }
        }
    }
}

/// The device that is mounted there, if it is that of the image.
pub(super) fn device_at(entry: &Entry, at: &Path) -> Result<Option<LoopDevice>, BoundsError> {
    let Some(mounted) = places::mounted(at)? else {
        return Ok(None);
    };
    let image = look_at(&entry.image())?;
    let device = LoopDevice::find(mounted.dev(), &image)?;
    let device = device.ok_or_else(|| BoundsError::Occupied(at.to_owned()))?;
    Ok(Some(device))
}

/// Waits a little until an image has no device any more: others look at devices now and then, and
/// then the last look ends one.
#[expect(
    clippy::disallowed_methods,
    reason = "the kernel tells nobody; this thread may block"
)]
fn is_given_back(path: &Path) -> Result<bool, BoundsError> {
    for _ in 0..LOOKS {
        if LoopDevice::of_image(path, &look_at(path)?)?.is_none() {
            return Ok(true);
        }
        std::thread::sleep(PAUSE);
    }
    Ok(false)
}

/// Whether a file system may be made larger under its users.
pub(super) fn grows_online() -> bool {
    is_capable_of(CapabilitySet::SYS_RESOURCE)
}

fn is_capable_of(capability: CapabilitySet) -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(capability))
}

fn look_at(path: &Path) -> Result<Metadata, BoundsError> {
    fs::metadata(path).map_err(|source| BoundsError::io("look at", path, source))
}

fn open_image(path: &Path) -> Result<File, BoundsError> {
    let file = File::options().read(true).write(true).open(path);
    file.map_err(|source| BoundsError::io("open", path, source))
}

/// Sees that this machine has all that images in a place take. Nothing has to be mounted for a place
/// that is shared already, so whether that may be done is asked.
pub(super) fn can_make_images(place: &Path) -> Result<(), BoundsError> {
    if !is_capable_of(CapabilitySet::SYS_ADMIN) {
        return Err(BoundsError::NotPermitted {
            path: place.to_owned(),
            source: io::ErrorKind::PermissionDenied.into(),
        });
    }
    program::find("mkfs.ext4")?;
    program::find("e2fsck")?;
    program::find("resize2fs")?;
    loop_device::are_there()
}
