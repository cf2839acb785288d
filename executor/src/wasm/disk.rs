//! The part of the machine's disk that a task's sandbox may take.
//!
//! What a guest is about to write is taken from what is known to be left, with all that it could
//! cost at the most. Only when that is not enough is the sandbox measured: what was overwritten or
//! removed meanwhile is there again. So no write passes the limit, and few look at the disk. What
//! cannot be measured counts as full.
//!
//! What others are writing at that moment may be seen by it or not, so all of it counts once more;
//! a write has its [`Room`] until it has ended. One that was cut off with its request may go on for a
//! moment, and counts from the next measuring on.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tepui_types::Bytes;

/// What a file or folder takes beside what is in it, or at its two ends: a block of usual file
/// systems. As many empty files as one likes are no way around a limit.
pub const BLOCK: u64 = 4096;
/// The unit of `st_blocks`.
const STAT_BLOCK: u64 = 512;
/// Where this process's files are.
const DESCRIPTORS: &str = "/proc/self/fd";
/// How the kernel ends the name of a file that has none any more.
const DELETED: &[u8] = b" (deleted)";

/// A sandbox with a limit.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
    limit: Bytes,
    books: Mutex<Books>,
    measuring: Mutex<()>,
}

#[derive(Debug, Default)]
struct Books {
    /// What is known to be left; none while it is measured.
    left: u64,
    /// What is being written.
    in_flight: u64,
}

/// Room that something has which is being written: to be held until that has ended.
#[derive(Debug, Default)]
#[must_use = "what is being written counts only as long as this lives"]
pub struct Room {
    taken: Option<(Arc<Disk>, u64)>,
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Some((disk, bytes)) = &self.taken {
            let mut books = disk.books();
            books.in_flight = books.in_flight.saturating_sub(*bytes);
        }
    }
}

impl Disk {
    /// Nothing is known of `folder` yet, which may have files in it.
    pub fn new(folder: &Path, limit: Bytes) -> Arc<Self> {
        Arc::new(Self {
            folder: folder.to_owned(),
            limit,
            books: Mutex::default(),
            measuring: Mutex::new(()),
        })
    }

    /// Room for so much in one file, if there is any.
    pub fn room_for(self: &Arc<Self>, bytes: u64) -> Option<Room> {
        match bytes {
            0 => Some(Room::default()),
            // It may lie across the borders of blocks.
            bytes => self.take(bytes.saturating_add(BLOCK)),
        }
    }

    /// Room for another file or folder, if there is any.
    pub fn room_for_entry(self: &Arc<Self>) -> Option<Room> {
        self.take(BLOCK)
    }

    fn take(self: &Arc<Self>, bytes: u64) -> Option<Room> {
        if let Some(room) = self.take_known(bytes) {
            return Some(room);
        }
        if bytes > self.limit.0 {
            return None;
        }
        let measured = || {
            let guard = self.measuring.lock();
            let _guard = guard.unwrap_or_else(PoisonError::into_inner);
            // Someone else may just have done it.
            if let Some(room) = self.take_known(bytes) {
                return Some(room);
            }
            self.measure();
            self.take_known(bytes)
        };
        // Other tasks of this thread go on elsewhere. The time is this one's.
        tokio::task::block_in_place(measured)
    }

    /// Finds out what is left. Who wants some meanwhile waits, so all that is written then began
    /// before.
    fn measure(&self) {
        let in_flight = {
            let mut books = self.books();
            books.left = 0;
            books.in_flight
        };
        // What cannot be measured leaves nothing.
        let used = measure(&self.folder, self.limit.0).unwrap_or(self.limit.0);
        self.books().left = self.limit.0.saturating_sub(used.saturating_add(in_flight));
    }

    fn take_known(self: &Arc<Self>, bytes: u64) -> Option<Room> {
        let mut books = self.books();
        books.left = books.left.checked_sub(bytes)?;
        books.in_flight = books.in_flight.saturating_add(bytes);
        Some(Room {
            taken: Some((self.clone(), bytes)),
        })
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is below `folder`, and what was removed from there and is still open. Stops at `most`: the
/// work is bounded, as each entry counts at least a block.
fn measure(folder: &Path, most: u64) -> io::Result<u64> {
    let folder = fs::canonicalize(folder)?;
    let mut seen = HashSet::new();
    let mut used: u64 = 0;
    let mut folders = vec![folder.clone()];
    while let Some(next) = folders.pop() {
        let entries = match fs::read_dir(&next) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if metadata.is_dir() {
                folders.push(entry.path());
            }
            let is_known = metadata.nlink() > 1
                && metadata.is_file()
                && !seen.insert((metadata.dev(), metadata.ino()));
            used += if is_known { BLOCK } else { size(&metadata) };
            if used >= most {
                return Ok(used);
            }
        }
    }
    for removed in removed_from(&folder)? {
        if seen.insert((removed.dev(), removed.ino())) {
            used += size(&removed);
        }
    }
    Ok(used)
}

fn size(metadata: &Metadata) -> u64 {
    metadata.blocks().saturating_mul(STAT_BLOCK).max(BLOCK)
}

/// Files without a name that this process has open, and that had one below `folder`.
fn removed_from(folder: &Path) -> io::Result<Vec<Metadata>> {
    let mut removed = Vec::new();
    for entry in fs::read_dir(DESCRIPTORS)? {
        let link = entry?.path();
        // Others open and close theirs meanwhile.
        let Ok(target) = fs::read_link(&link) else {
            continue;
        };
        let is_deleted = target.as_os_str().as_encoded_bytes().ends_with(DELETED);
        if !is_deleted || !target.starts_with(folder) {
            continue;
        }
        if let Ok(metadata) = fs::metadata(&link)
            && metadata.nlink() == 0
        {
            removed.push(metadata);
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::io::Write;

    use super::*;

    const KIB: u64 = 1024;

    fn disk(kib: u64) -> (tempfile::TempDir, Arc<Disk>) {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::new(folder.path(), Bytes(kib * KIB));
        (folder, disk)
    }

    fn has_room_for(disk: &Arc<Disk>, bytes: u64) -> bool {
        disk.room_for(bytes).is_some()
    }

    #[test]
    fn what_is_there_counts_and_what_is_removed_is_free_again() {
        let (folder, disk) = disk(256);
        let file = folder.path().join("file");
        fs::write(&file, vec![1; 200 * KIB as usize]).unwrap();
        assert!(!has_room_for(&disk, 100 * KIB));
        assert!(has_room_for(&disk, 40 * KIB));
        fs::remove_file(&file).unwrap();
        assert!(has_room_for(&disk, 200 * KIB));
    }

    #[test]
    fn a_file_that_is_open_counts_until_it_is_closed() {
        let (folder, disk) = disk(256);
        let path = folder.path().join("file");
        let mut file = File::create(&path).unwrap();
        file.write_all(&vec![1; 200 * KIB as usize]).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(!has_room_for(&disk, 100 * KIB));
        drop(file);
        assert!(has_room_for(&disk, 100 * KIB));
    }

    #[test]
    fn names_count_holes_and_second_names_of_a_file_do_not() {
        let (folder, disk) = disk(256);
        let path = folder.path().join("file");
        fs::write(&path, vec![1; 100 * KIB as usize]).unwrap();
        for place in 0..5 {
            fs::hard_link(&path, folder.path().join(place.to_string())).unwrap();
        }
        let sparse = File::create(folder.path().join("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        assert!(has_room_for(&disk, 100 * KIB));
        let nested = folder.path().join("nested");
        fs::create_dir(&nested).unwrap();
        for place in 0..64 {
            OpenOptions::new()
                .create_new(true)
                .write(true)
                .open(nested.join(place.to_string()))
                .unwrap();
        }
        assert!(!has_room_for(&disk, 40 * KIB));
    }

    #[test]
    fn more_than_the_limit_is_never_there_and_nothing_always() {
        let (folder, disk) = disk(4);
        assert!(!has_room_for(&disk, KIB) && !has_room_for(&disk, u64::MAX));
        assert!(has_room_for(&disk, 0) && disk.room_for_entry().is_some());
        drop(folder);
        assert!(disk.room_for_entry().is_none(), "it cannot be measured");
    }
    #[test]
    fn what_is_being_written_counts_whatever_is_measured_meanwhile() {
        let (_folder, disk) = disk(256);
        let first = disk.room_for(100 * KIB).unwrap();
        // Each of these measures, and finds an empty folder.
        assert!(!has_room_for(&disk, 200 * KIB));
        let second = disk.room_for(140 * KIB).unwrap();
        assert!(!has_room_for(&disk, 20 * KIB));
        drop(first);
        assert!(has_room_for(&disk, 100 * KIB) && !has_room_for(&disk, 150 * KIB));
        drop(second);
        assert!(has_room_for(&disk, 250 * KIB));
    }

    #[test]
    fn writers_at_once_do_not_pass_the_limit() {
        const WRITERS: usize = 8;
        let (folder, disk) = disk(256);
        let write = |mut file: File| {
            while let Some(_room) = disk.room_for(8 * KIB) {
                // As a blocking task that has not begun yet.
                std::thread::yield_now();
                file.write_all(&[1; 8 * KIB as usize]).unwrap();
            }
        };
        let create = |place: usize| File::create(folder.path().join(place.to_string())).unwrap();
        let files: Vec<File> = (0..WRITERS).map(create).collect();
        std::thread::scope(|scope| {
            for file in files {
                scope.spawn(|| write(file));
            }
        });
        let used = measure(folder.path(), u64::MAX).unwrap();
        assert!((128 * KIB..=256 * KIB).contains(&used), "{used}");
    }
}
