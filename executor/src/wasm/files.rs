//! Where the open files of an instance are: in its sandbox, whose disk has a limit, in a volume, or
//! nowhere, as streams.
//!
//! A volume is as a file system of its own: nothing of it takes from the sandbox, and no file goes
//! from one into the other by a name alone. A handle becomes alive only where its parent is known, so
//! what is said here of those that are alive is always true; of others nothing is asked.

use std::collections::HashMap;
use std::sync::Arc;

use crate::disk::{Disk, Move, Room};

/// Folders that are open from the start for the sandbox and for each volume: by its name, and from
/// the working directory.
pub const NAMES: u32 = 2;

/// A place beside the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Elsewhere {
    /// This volume, as they are opened, from 1 on.
    Volume(u32),
    /// What a guest reads and writes without any file.
    Stream,
}

/// The files of one instance, by their handles.
#[derive(Debug, Default)]
pub struct Files {
    disk: Option<Arc<Disk>>,
    /// Handles that are not of the sandbox.
    elsewhere: HashMap<u32, Elsewhere>,
}

impl Files {
    /// No handle is known yet.
    pub fn new(disk: Option<Arc<Disk>>) -> Self {
        Self {
            disk,
            elsewhere: HashMap::new(),
        }
    }

    /// The standard streams, where they are handles as files are.
    pub fn streams(&mut self, handles: impl Iterator<Item = u32>) {
        for handle in handles {
            self.set(handle, Some(Elsewhere::Stream));
        }
    }

    /// The folders that are open from the start, in their order.
    pub fn preopened(&mut self, handles: impl Iterator<Item = u32>) {
        for (place, handle) in (0..).zip(handles) {
            let volume: u32 = place / NAMES;
            self.set(handle, (volume > 0).then_some(Elsewhere::Volume(volume)));
        }
    }

    /// Another handle is alive, of what is below that of `parent`.
    pub fn opened(&mut self, handle: u32, parent: u32) {
        self.set(handle, self.elsewhere.get(&parent).copied());
    }

    /// Whether what has a name in one of these folders can have none in the other, as on another
    /// file system.
    pub fn are_apart(&self, one: u32, other: u32) -> bool {
        self.elsewhere.get(&one) != self.elsewhere.get(&other)
    }

    /// The disk that what is written to this handle takes from.
    pub fn disk_of(&self, handle: u32) -> Option<&Arc<Disk>> {
        let disk = self.disk.as_ref()?;
        (!self.elsewhere.contains_key(&handle)).then_some(disk)
    }

    /// Room for so much that is written to it, if there is any.
    pub fn room_for(&self, handle: u32, bytes: u64) -> Option<Room> {
        match self.disk_of(handle) {
            Some(disk) => disk.room_for(bytes),
            None => Some(Room::default()),
        }
    }

    /// Room for another file or folder in this one, if there is any.
    pub fn room_for_entry(&self, handle: u32) -> Option<Room> {
        match self.disk_of(handle) {
            Some(disk) => disk.room_for_entry(),
            None => Some(Room::default()),
        }
    }

    /// Waits until something in this folder may get another name there, or in one that is not apart.
    pub async fn begin_move(&self, folder: u32) -> Move {
        match self.disk_of(folder) {
            Some(disk) => disk.begin_move().await,
            None => Move::default(),
        }
    }

    fn set(&mut self, handle: u32, elsewhere: Option<Elsewhere>) {
        match elsewhere {
            Some(place) => self.elsewhere.insert(handle, place),
            None => self.elsewhere.remove(&handle),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tepui_types::Bytes;

    use super::*;

    /// Three streams, the sandbox, and two volumes.
    fn files(disk: Option<Arc<Disk>>) -> Files {
        let mut files = Files::new(disk);
        files.streams(0..3);
        files.preopened(3..9);
        files
    }

    #[test]
    fn what_is_opened_below_a_volume_takes_nothing_from_the_sandbox() {
        let mut files = files(Some(Disk::new(Path::new("/nowhere"), Bytes(0))));
        files.opened(9, 5);
        files.opened(10, 4);
        let limited = (0..=10).filter(|handle| files.disk_of(*handle).is_some());
        assert_eq!(limited.collect::<Vec<_>>(), [3, 4, 10]);
        assert!(files.room_for(9, 1).is_some() && files.room_for(10, 1).is_none());
        // Numbers that are used again.
        files.opened(9, 3);
        files.opened(1, 3);
        assert!(files.room_for_entry(9).is_none() && files.room_for(1, 1).is_none());
    }

    #[test]
    fn a_file_stays_in_its_volume_or_in_the_sandbox_with_or_without_a_limit() {
        for disk in [None, Some(Disk::new(Path::new("/nowhere"), Bytes(0)))] {
            let mut files = files(disk);
            files.opened(9, 5);
            files.opened(10, 4);
            assert!(!files.are_apart(3, 4) && !files.are_apart(5, 6) && !files.are_apart(3, 10));
            assert!(files.are_apart(3, 5) && files.are_apart(5, 7) && files.are_apart(9, 10));
        }
    }

    #[test]
    fn without_a_limit_there_is_always_room() {
        let files = files(None);
        assert!(files.room_for(3, u64::MAX).is_some() && files.room_for_entry(4).is_some());
    }
}
