//! Packs: the outputs of tasks that soon ended and said little, many in one file.
//!
//! A folder and a file for each of them would take a file system longer than the task itself took, and
//! a block of the disk for a line. So what an executor has not written to files when a task ends, and
//! is at most [`MOST`] bytes, becomes a [record](crate::records) in the executor's pack. A pack is
//! written by one process, in one stretch of time, and is never changed afterwards; so one that was
//! last changed more than [`SETTLED`] ago may be removed by anybody.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use tepui_types::TaskId;
use tepui_types::wire::stream::Output;

use crate::records;

/// Bytes of both outputs of a task together: more is worth a file.
pub const MOST: usize = 4 * 1024;
/// Since its last change no process writes to a pack any more.
pub const SETTLED: Duration = Duration::from_secs(40);
/// Bytes after which another pack is begun: what is read in a millisecond to find one task.
const PACK_BYTES: u64 = 1024 * 1024;
/// How long one pack is written to: well below [`SETTLED`].
const STRETCH: Duration = Duration::from_secs(10);
/// What names of packs end with.
const SUFFIX: &str = "pack";

/// What one task wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packed {
    /// Which task.
    pub task: TaskId,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Packed {
    /// One of the outputs.
    pub fn output(&self, output: Output) -> &[u8] {
        match output {
            Output::Stdout => &self.stdout,
            Output::Stderr => &self.stderr,
        }
    }
}

/// What an executor packs into.
#[derive(Debug)]
pub struct Packer {
    folder: PathBuf,
    /// No other executor's of the folder.
    prefix: String,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    /// The number of the next pack.
    next: u64,
    pack: Option<Pack>,
}

#[derive(Debug)]
struct Pack {
    file: File,
    len: u64,
    begun: Instant,
}

impl Packer {
    /// Packs go into `folder`, which it makes when there is one; `prefix` is this process's alone.
    pub fn new(folder: PathBuf, prefix: String) -> Self {
        Self {
            folder,
            prefix,
            open: Mutex::default(),
        }
    }

    /// Appends one, in one write: it survives this process, but not its machine.
    ///
    /// # Errors
    /// When it is not in a pack, and so is to be kept in another way.
    pub fn add(&self, packed: &Packed) -> io::Result<()> {
        let record = records::encode(packed).map_err(io::Error::other)?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pack = match open.pack.take().filter(Pack::takes_more) {
            Some(pack) => pack,
            None => self.begin(&mut open.next)?,
        };
        let written = pack.append(&record);
        open.pack = Some(pack);
        written
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "how long a file is written to, which no test waits for"
    )]
    fn begin(&self, next: &mut u64) -> io::Result<Pack> {
        fs::create_dir_all(&self.folder)?;
        let mut options = OpenOptions::new();
        options.append(true).create_new(true).mode(0o600);
        loop {
            let name = format!("{}-{next}.{SUFFIX}", self.prefix);
            *next += 1;
            match options.open(self.folder.join(name)) {
                // Of a process that had the same number once.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                opened => {
                    return Ok(Pack {
                        file: opened?,
                        len: 0,
                        begun: Instant::now(),
                    });
                }
            }
        }
    }
}

impl Pack {
    /// One that was taken away is none, as when a clock was set forward.
    fn takes_more(&self) -> bool {
        let is_there = || self.file.metadata().is_ok_and(|file| file.nlink() > 0);
        self.len < PACK_BYTES && self.begun.elapsed() < STRETCH && is_there()
    }

    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        let appended = records::append(&mut self.file, &mut self.len, record);
        appended.map_err(|(error, is_whole)| {
            if !is_whole {
                // Another pack comes after what is left of it.
                self.len = PACK_BYTES;
            }
            error
        })
    }
}

/// A pack as it lies in the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Where.
    pub path: PathBuf,
    /// How large it is.
    pub bytes: u64,
    /// When it was last written to.
    pub changed: SystemTime,
}

/// The packs in `folder`, the newest first; none where there is no folder.
pub fn list(folder: &Path) -> Vec<Listed> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let listed = |entry: fs::DirEntry| {
        let path = entry.path();
        let is_pack = path.extension().is_some_and(|suffix| suffix == SUFFIX);
        let metadata = entry.metadata().ok().filter(|_| is_pack)?;
        Some(Listed {
            bytes: metadata.len(),
            changed: metadata.modified().ok()?,
            path,
        })
    };
    let mut packs: Vec<_> = entries.filter_map(listed).collect();
    packs.sort_by_key(|pack| std::cmp::Reverse(pack.changed));
    packs
}

/// All that is in the pack at `path`.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path) -> io::Result<Vec<Packed>> {
    Ok(records::decode(&fs::read(path)?).collect())
}

/// What `task` wrote, if it is in a pack of `folder`.
///
/// # Errors
/// When it was not found, and a pack cannot be read that is there.
pub fn find(folder: &Path, task: &TaskId) -> io::Result<Option<Packed>> {
    // A record begins with its task.
    let begins = postcard::to_stdvec(task).map_err(io::Error::other)?;
    let mut unread = None;
    for pack in list(folder) {
        match fs::read(&pack.path) {
            Ok(bytes) => {
                let found = records::find(&bytes, &begins);
                if found.is_some() {
                    return Ok(found);
                }
            }
            // Removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => unread = Some(error),
        }
    }
    unread.map_or(Ok(None), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(number: usize, text: &str) -> Packed {
        Packed {
            task: format!("f1.t.{number}").parse().unwrap(),
            stdout: text.into(),
            stderr: Vec::new(),
        }
    }

    #[test]
    fn what_is_packed_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("packs");
        let wanted = packed(7, "seven");
        assert_eq!(find(&folder, &wanted.task).unwrap(), None);
        // Two of one number, as after a restart of the machine.
        for numbers in [0..5, 5..10] {
            let packer = Packer::new(folder.clone(), "e1".into());
            for number in numbers {
                packer
                    .add(&packed(number, ["seven", "no"][usize::from(number != 7)]))
                    .unwrap();
            }
        }
        assert_eq!(list(&folder).len(), 2);
        assert_eq!(find(&folder, &wanted.task).unwrap(), Some(wanted));
        assert_eq!(find(&folder, &packed(10, "").task).unwrap(), None);
    }

    #[test]
    fn a_full_pack_is_followed_by_another() {
        let dir = tempfile::tempdir().unwrap();
        let packer = Packer::new(dir.path().into(), "e1".into());
        let text = "x".repeat(MOST);
        let fit = PACK_BYTES as usize / MOST;
        for number in 0..fit + 1 {
            packer.add(&packed(number, &text)).unwrap();
        }
        let packs = list(dir.path());
        assert_eq!(packs.len(), 2);
        let all: usize = packs
            .iter()
            .map(|pack| read(&pack.path).unwrap().len())
            .sum();
        assert_eq!(all, fit + 1);
        assert!(
            packs
                .iter()
                .all(|pack| pack.bytes < PACK_BYTES + 2 * MOST as u64)
        );
    }

    #[test]
    fn a_pack_that_was_taken_away_is_written_to_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let packer = Packer::new(dir.path().into(), "e1".into());
        packer.add(&packed(1, "one")).unwrap();
        fs::remove_file(&list(dir.path())[0].path).unwrap();
        packer.add(&packed(2, "two")).unwrap();
        assert!(find(dir.path(), &packed(2, "").task).unwrap().is_some());
    }

    #[test]
    fn what_a_full_disk_refuses_leaves_neither_half_a_record_nor_another_pack() {
        let dir = tempfile::tempdir().unwrap();
        let packer = Packer::new(dir.path().into(), "e1".into());
        packer.add(&packed(1, "one")).unwrap();
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let whole = {
            let mut open = packer.open.lock().unwrap();
            let pack = open.pack.as_mut().unwrap();
            std::mem::replace(&mut pack.file, full)
        };
        // The device cannot be cut either: there is another pack.
        packer.add(&packed(2, "two")).unwrap_err();
        drop(whole);
        packer.add(&packed(3, "three")).unwrap();
        let is_there = |number| {
            find(dir.path(), &packed(number, "").task)
                .unwrap()
                .is_some()
        };
        assert_eq!([1, 2, 3].map(is_there), [true, false, true]);
    }

    #[test]
    fn a_torn_end_hides_nothing_that_was_packed_before_or_after() {
        let dir = tempfile::tempdir().unwrap();
        let packer = Packer::new(dir.path().into(), "e1".into());
        packer.add(&packed(1, "one")).unwrap();
        packer.add(&packed(2, "two")).unwrap();
        let path = list(dir.path()).remove(0).path;
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(file.metadata().unwrap().len() - 1).unwrap();
        let packer = Packer::new(dir.path().into(), "e1".into());
        packer.add(&packed(3, "three")).unwrap();
        let is_there = |number| {
            find(dir.path(), &packed(number, "").task)
                .unwrap()
                .is_some()
        };
        assert_eq!([1, 2, 3].map(is_there), [true, false, true]);
    }
}
