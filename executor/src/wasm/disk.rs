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
//!
//! What gets another name while the sandbox is measured could be where it is not looked any more, and
//! not count at all. So a [`Move`] does not begin while it is measured; of those that had begun, each
//! happens in one moment, and the sandbox is measured once more than there are. The largest result is
//! then one that nothing was hidden from.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tepui_types::Bytes;
use tokio::sync::Notify;

/// What a file or folder takes beside what is in it, or at its two ends: a block of usual file
/// systems. As many empty files as one likes are no way around a limit.
pub const BLOCK: u64 = 4096;
/// How many files and folders of a sandbox get another name at the same time; others wait. Each may
/// cost one more measuring.
const MOVES: u32 = 4;
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
    /// Told when something may be moved that could not before.
    movable: Notify,
}

#[derive(Debug, Default)]
struct Books {
    /// What is known to be left; none while it is measured.
    left: u64,
    /// What is being written.
    in_flight: u64,
    /// How many moves have begun and not ended.
    moves: u32,
    is_measured: bool,
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

/// Something that gets another name: to be held until that has happened.
#[derive(Debug, Default)]
#[must_use = "what is moved is hidden from no measuring only as long as this lives"]
pub struct Move {
    disk: Option<Arc<Disk>>,
}

impl Drop for Move {
    fn drop(&mut self) {
        if let Some(disk) = &self.disk {
            disk.books().moves -= 1;
            disk.movable.notify_waiters();
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
            movable: Notify::new(),
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

    /// Waits until something may get another name.
    pub async fn begin_move(self: &Arc<Self>) -> Move {
        loop {
            let mut movable = pin!(self.movable.notified());
            // From here on nothing that is told is missed.
            movable.as_mut().enable();
            if let Some(begun) = self.try_move() {
                return begun;
            }
            movable.await;
        }
    }

    fn try_move(self: &Arc<Self>) -> Option<Move> {
        let mut books = self.books();
        if books.is_measured || books.moves >= MOVES {
            return None;
        }
        books.moves += 1;
        Some(Move {
            disk: Some(self.clone()),
        })
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
        let (in_flight, moves) = {
            let mut books = self.books();
            (books.left, books.is_measured) = (0, true);
            (books.in_flight, books.moves)
        };
        let mut used = 0;
        for _ in 0..=moves {
            let is_sure = self.books().moves == 0;
            // What cannot be measured leaves nothing.
            let found = measure(&self.folder, self.limit.0).unwrap_or(self.limit.0);
            used = found.max(used);
            if is_sure || used >= self.limit.0 {
                break;
            }
        }
        let mut books = self.books();
        books.left = self.limit.0.saturating_sub(used.saturating_add(in_flight));
        books.is_measured = false;
        self.movable.notify_waiters();
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
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures::FutureExt;

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

    /// A folder of many, through which a full one is moved to and fro.
    #[test]
    fn what_is_moved_while_it_is_measured_is_not_missed() {
        let (folder, disk) = disk(1024);
        let places: Vec<PathBuf> = (0..64)
            .map(|place: u32| folder.path().join(place.to_string()))
            .collect();
        for place in &places {
            fs::create_dir(place).unwrap();
        }
        let full = |place: usize| places[place].join("full");
        fs::create_dir(full(0)).unwrap();
        fs::write(full(0).join("file"), vec![1; 600 * KIB as usize]).unwrap();
        let is_over = AtomicBool::new(false);
        let runtime = || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.build().unwrap()
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let moves = async {
                    let mut at = 0;
                    while !is_over.load(Ordering::Relaxed) {
                        let next = (at + 37) % places.len();
                        let _moving = disk.begin_move().await;
                        fs::rename(full(at), full(next)).unwrap();
                        at = next;
                    }
                };
                runtime().block_on(moves);
            });
            // Each of these measures: it is more than is left.
            let missed = (0..600).filter(|_| has_room_for(&disk, 500 * KIB)).count();
            is_over.store(true, Ordering::Relaxed);
            assert_eq!(missed, 0);
        });
        assert!(has_room_for(&disk, 100 * KIB));
    }

    #[test]
    fn moves_wait_while_there_are_many_or_it_is_measured() {
        let (_folder, disk) = disk(64);
        let mut moves: Vec<Move> = (0..MOVES).map(|_| disk.try_move().unwrap()).collect();
        assert!(disk.begin_move().now_or_never().is_none());
        moves.pop();
        moves.push(disk.begin_move().now_or_never().unwrap());
        // Measured all the same, once more than there are moves.
        assert!(has_room_for(&disk, 8 * KIB) && !has_room_for(&disk, 100 * KIB));
        disk.books().is_measured = true;
        moves.clear();
        assert!(disk.begin_move().now_or_never().is_none());
        disk.books().is_measured = false;
        assert!(disk.begin_move().now_or_never().is_some());
    }
}
