//! The folders of persistent volumes: one for each operation that made a volume.
//!
//! A folder is made before the launch of the first task that uses it, and stays until the master says
//! which volumes there are and it is none of them. Where the operator asks for it, a new one is made so
//! that its size is enforced (`tepui-quota`); whatever is there stays what it is, and what was made with
//! a size of its own is opened as such under every setting. One that takes no writes is given to nobody.
//! All of this takes long, so callers are on threads that may block.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tepui_quota::{Bounds, BoundsError, Enforce, Life, Mounts, Settings, Support, Wanted};
use tepui_tree::remove_folder;
use tepui_types::task::reason;
use tepui_types::wire::agent::{TaskVolume, VolumeList};
use tepui_types::{Bytes, OperationId, Reason};

use crate::error::AgentError;
use crate::sandbox::Layout;
use crate::sizes::Keeping;

pub mod health;

/// What a folder is called that is being emptied.
const DOOMED: &str = "doomed-";
/// Sizes are counted in these.
const BLOCK: u64 = 4_096;
/// What stays free of a disk at least when room is set aside on it.
const HEADROOM: Bytes = Bytes::mib(512);
/// Below the lesser of these, a twentieth and an amount, an agent takes no more tasks
/// (`tepui-pressure`), and does so again when a quarter more is free: a volume must not bring that about.
const SHORT_PART: u64 = 20;
const SHORT: Bytes = Bytes::gib(2);

/// All volumes of this agent.
#[derive(Debug)]
pub struct Volumes {
    sizes: Keeping,
    /// By the disk's name; none is the one with the data folder.
    disks: BTreeMap<Option<String>, VolumeDisk>,
}

#[derive(Debug)]
struct VolumeDisk {
    /// What holds the volumes.
    folder: PathBuf,
    bounds: Bounds,
}

impl Volumes {
    /// Takes up what an earlier process of this agent left, and makes the disks ready; to be called
    /// before executors are started, which see mounts only below what was shared before. Blocks.
    ///
    /// # Errors
    /// Where a disk cannot be written to.
    pub fn open(layout: &Layout, sizes: Keeping) -> Result<Arc<Self>, AgentError> {
        let mut disks = BTreeMap::new();
        for (id, folder, store) in layout.volume_disks() {
            let disk = VolumeDisk::open(folder, store, sizes);
            disks.insert(id, disk.map_err(AgentError::Volumes)?);
        }
        let this = Arc::new(Self { sizes, disks });
        let sweeping = this.clone();
        // What is left of a large folder takes long to remove, and tasks wait for nothing of it.
        std::thread::spawn(move || {
            for disk in sweeping.disks.values() {
                disk.sweep();
            }
        });
        Ok(this)
    }

    /// Sees that a task's volumes are there and as large as they are to be. Blocks.
    ///
    /// # Errors
    /// With what keeps one from being used, for people.
    pub fn make_ready(&self, volumes: &[TaskVolume]) -> Result<(), Reason> {
        for volume in volumes {
            // Its executor says that there is no such disk.
            let Some(disk) = self.disks.get(&volume.disk) else {
                continue;
            };
            let ready = disk.make_ready(volume, self.sizes);
            ready.map_err(|error| unavailable(volume, error))?;
        }
        Ok(())
    }

    /// Where a volume lies whose size is to be kept by measuring it. Blocks.
    pub fn measured(&self, volume: &TaskVolume) -> Option<PathBuf> {
        let disk = self.disks.get(&volume.disk)?;
        volume.bytes.filter(|_| self.sizes != Keeping::Unlimited)?;
        let name = volume.made_by.to_string();
        let is_plain = matches!(disk.bounds.usage(&name), Err(BoundsError::Unknown(_)));
        is_plain.then(|| disk.folder.join(name))
    }

    /// Sees that a volume that is in use takes writes, as of that look. Blocks.
    ///
    /// # Errors
    /// Says how that is mended, where it does not.
    fn check_writes(&self, volume: &TaskVolume, mounts: &Mounts) -> Result<(), BoundsError> {
        match self.disks.get(&volume.disk) {
            Some(disk) => disk.check_writes(&volume.made_by.to_string(), mounts),
            None => Ok(()),
        }
    }

    /// Whether no size is kept.
    pub fn are_unlimited(&self) -> bool {
        self.sizes == Keeping::Unlimited
    }

    /// Removes what is stored in volumes that are not in the list, on a thread of its own.
    pub fn keep(self: &Arc<Self>, list: VolumeList) {
        let this = self.clone();
        std::thread::spawn(move || {
            for disk in this.disks.values() {
                disk.keep(&list);
            }
        });
    }
}

impl VolumeDisk {
    fn open(folder: PathBuf, store: PathBuf, sizes: Keeping) -> Result<Self, BoundsError> {
        let bounds = Bounds::new(Settings {
            store: store.clone(),
            places: vec![folder.clone()],
            headroom: headroom(&folder),
            whole_images: true,
            remove_folder,
        })?;
        let has_some = std::fs::read_dir(&store).is_ok_and(|mut it| it.next().is_some());
        if (sizes == Keeping::Enforced || has_some)
            && let Support::Measured(error) = bounds.prepare()?
        {
            let (path, error) = (folder.display(), anyhow::Error::from(error));
            tracing::warn!(%path, "sizes of new volumes are measured, not enforced: {error:#}");
        }
        // It was made just now, and mounts know no links.
        let folder = folder.canonicalize().unwrap_or(folder);
        Ok(Self { folder, bounds })
    }

    /// Ends what an earlier process has begun; those that are whole.
    fn sweep(&self) -> BTreeSet<String> {
        let swept = self.bounds.sweep();
        let swept = swept.inspect_err(|error| {
            let path = self.folder.display();
            tracing::warn!(%path, %error, "what is left of volumes stays");
        });
        swept.unwrap_or_default().into_iter().collect()
    }

    fn make_ready(&self, volume: &TaskVolume, sizes: Keeping) -> Result<(), BoundsError> {
        let name = volume.made_by.to_string();
        match (self.bounds.open(&name), volume.bytes) {
            // Its executor would make another one, and what is stored would seem to be lost.
            (Ok(is), _) if !is_at(&is.path, &self.folder.join(&name)) => {
                Err(BoundsError::Elsewhere(is.path))
            }
            (Ok(is), Some(bytes)) if is.bytes.0 / BLOCK < bytes.0 / BLOCK => {
                match self.bounds.grow(&name, bytes) {
                    Ok(_) => Ok(()),
                    // What it has is as good as before, if it is still there.
                    Err(error) => {
                        let error = anyhow::Error::from(error);
                        tracing::warn!(volume = name, "it stays at {}: {error:#}", is.bytes);
                        self.bounds.open(&name).map(drop)
                    }
                }
            }
            (Ok(_), _) => Ok(()),
            (Err(BoundsError::Unknown(_)), Some(bytes)) if sizes == Keeping::Enforced => {
                self.make(&name, bytes)
            }
            // A plain folder, which its executor makes.
            (Err(BoundsError::Unknown(_)), _) => Mounts::look()?.check(&self.folder),
            (Err(error), _) => Err(error),
        }
    }

    fn check_writes(&self, name: &str, mounts: &Mounts) -> Result<(), BoundsError> {
        match self.bounds.check_writes(name, mounts) {
            Err(BoundsError::Unknown(_)) => mounts.check(&self.folder),
            checked => checked,
        }
    }

    fn make(&self, name: &str, bytes: Bytes) -> Result<(), BoundsError> {
        let at = self.folder.join(name);
        // One that is there is in use, perhaps now, and keeps its place.
        if at.exists() {
            return Ok(());
        }
        let made = self.bounds.make(&Wanted {
            name,
            at: &at,
            bytes,
            enforce: Enforce::Enforced,
            life: Life::Persistent,
        });
        match made {
            Ok(made) => {
                tracing::info!(volume = name, way = ?made.way, bytes = %made.bytes, "a volume is made");
                Ok(())
            }
            Err(error) if error.cannot_enforce() => {
                let error = anyhow::Error::from(error);
                tracing::warn!(
                    volume = name,
                    "its size is measured, not enforced: {error:#}"
                );
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn keep(&self, list: &VolumeList) {
        let bounded = self.sweep();
        for name in bounded.iter().filter(|name| is_gone(name, list)) {
            if let Err(error) = self.bounds.remove(name) {
                let error = anyhow::Error::from(error);
                tracing::warn!(volume = name, "a volume could not be removed: {error:#}");
            }
        }
        for path in set_aside(&self.folder, list, &bounded) {
            if let Err(error) = remove_folder(&path) {
                tracing::warn!(path = %path.display(), %error, "a volume could not be removed");
            }
        }
    }
}

/// What stays free of the disk of a folder, which may not be there yet.
pub fn headroom(folder: &Path) -> Bytes {
    let there = folder.ancestors().find(|path| path.exists());
    let stat = there.and_then(|path| nix::sys::statvfs::statvfs(path).ok());
    let Some(stat) = stat else { return HEADROOM };
    // The field types differ between platforms.
    #[allow(clippy::unnecessary_cast)]
    let total = (stat.blocks() as u64).saturating_mul(stat.fragment_size() as u64);
    let short = SHORT.0.min(total / SHORT_PART);
    Bytes(short + short / 4)
}

/// Why a task is not begun.
fn unavailable(volume: &TaskVolume, error: BoundsError) -> Reason {
    let why = match error {
        BoundsError::Elsewhere(path) => format!(
            "it was made at {}: move the folder of the agent, or the disk, back there",
            path.display()
        ),
        error => format!("{:#}", anyhow::Error::from(error)),
    };
    let message = format!("the volume at `{}` cannot be used: {why}", volume.path);
    Reason::new(reason::VOLUME_UNAVAILABLE, message)
}

/// Whether a real path is that of a folder.
fn is_at(real: &Path, folder: &Path) -> bool {
    folder.canonicalize().is_ok_and(|path| path == real)
}

/// Whether the list knows that this volume is no more.
fn is_gone(name: &str, list: &VolumeList) -> bool {
    name.parse::<OperationId>().is_ok_and(|made_by| {
        !list.kept.contains(&made_by) && (list.from..=list.to).contains(&made_by.index)
    })
}

/// Renames the plain folders of volumes that are no more; answers them, and those that an earlier agent
/// did not come to empty.
fn set_aside(folder: &Path, list: &VolumeList, bounded: &BTreeSet<String>) -> Vec<PathBuf> {
    let mut doomed = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.starts_with(DOOMED) {
            doomed.push(entry.path());
            continue;
        }
        if bounded.contains(name) || !is_gone(name, list) {
            continue;
        }
        let aside = folder.join(format!("{DOOMED}{name}"));
        match std::fs::rename(entry.path(), &aside) {
            Ok(()) => doomed.push(aside),
            Err(error) => {
                tracing::warn!(path = %entry.path().display(), %error, "a volume could not be removed");
            }
        }
    }
    doomed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_list_knows_to_be_gone_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["3.0", "6.0", "7.0", "7.1", "12.0", "mine", "doomed-1.0"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let list = VolumeList {
            kept: vec![OperationId {
                index: 7,
                ordinal: 1,
            }],
            from: 5,
            to: 10,
        };
        // Those with a size of their own are removed by another way.
        let bounded = BTreeSet::from(["6.0".to_owned()]);
        let mut doomed = set_aside(dir.path(), &list, &bounded);
        doomed.sort();
        let names = ["doomed-1.0", "doomed-7.0"];
        assert_eq!(doomed, names.map(|name| dir.path().join(name)));
        for name in ["3.0", "6.0", "7.1", "12.0", "mine"] {
            assert!(dir.path().join(name).is_dir(), "{name}");
        }
        assert!(set_aside(&dir.path().join("none"), &list, &bounded).is_empty());
    }
}
