//! Which of an instance's open files are in its sandbox, whose disk has a limit.
//!
//! Volumes are no part of it. A handle becomes alive only where its parent is known, so what is
//! said here of those that are alive is always true; of others nothing is asked.

use std::collections::HashSet;
use std::sync::Arc;

use crate::disk::Disk;

/// Folders that are open from the start and are the sandbox: by its name, and as `.`.
const SANDBOX_FOLDERS: usize = 2;

/// The files of one instance, by their handles.
#[derive(Debug, Default)]
pub struct Files {
    disk: Option<Arc<Disk>>,
    volumes: HashSet<u32>,
}

impl Files {
    /// No handle is known yet.
    pub fn new(disk: Option<Arc<Disk>>) -> Self {
        Self {
            disk,
            volumes: HashSet::new(),
        }
    }

    /// The folders that are open from the start, in their order.
    pub fn preopened(&mut self, handles: impl Iterator<Item = u32>) {
        for (place, handle) in handles.enumerate() {
            self.set(handle, place >= SANDBOX_FOLDERS);
        }
    }

    /// Another handle is alive, of what is below that of `parent`.
    pub fn opened(&mut self, handle: u32, parent: u32) {
        self.set(handle, self.volumes.contains(&parent));
    }

    /// The disk that what is written to this handle takes from.
    pub fn disk_of(&self, handle: u32) -> Option<&Arc<Disk>> {
        let disk = self.disk.as_ref()?;
        (!self.volumes.contains(&handle)).then_some(disk)
    }

    /// Whether so much may be written to it.
    pub fn has_room_for(&self, handle: u32, bytes: u64) -> bool {
        self.disk_of(handle)
            .is_none_or(|disk| disk.has_room_for(bytes))
    }

    /// Whether there may be another file or folder in this one.
    pub fn has_room_for_entry(&self, handle: u32) -> bool {
        self.disk_of(handle)
            .is_none_or(|disk| disk.has_room_for_entry())
    }

    fn set(&mut self, handle: u32, is_in_volume: bool) {
        match is_in_volume && self.disk.is_some() {
            true => self.volumes.insert(handle),
            false => self.volumes.remove(&handle),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tepui_types::Bytes;

    use super::*;

    #[test]
    fn what_is_opened_below_a_volume_takes_nothing_from_the_sandbox() {
        let mut files = Files::new(Some(Disk::new(Path::new("/nowhere"), Bytes(0))));
        files.preopened(3..7);
        files.opened(7, 5);
        files.opened(8, 4);
        let limited = (3..=8).filter(|handle| files.disk_of(*handle).is_some());
        assert_eq!(limited.collect::<Vec<_>>(), [3, 4, 8]);
        assert!(files.has_room_for(7, 1) && !files.has_room_for(8, 1));
        // A number that is used again.
        files.opened(7, 3);
        assert!(!files.has_room_for_entry(7));
    }

    #[test]
    fn without_a_limit_there_is_always_room() {
        let mut files = Files::new(None);
        files.preopened(3..5);
        assert!(files.has_room_for(3, u64::MAX) && files.has_room_for_entry(4));
    }
}
