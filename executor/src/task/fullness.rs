//! Whether a task's sandbox is full, where the kernel keeps its size: then that is why its command failed.
//!
//! Such a sandbox has a file system of its own, or one that answers with the limits of its project: in
//! both cases statvfs(3) knows no more than what the task was given.

use std::path::Path;

use nix::sys::statvfs::statvfs;
use tepui_types::Bytes;

/// A sandbox is full with less than this part of it left: a program that is refused a large write leaves
/// what would have taken a part.
const PART: u64 = 64;
/// And with less than this left, however large it is.
const LEAST: u64 = 1 << 20;

/// What is counted of a file system.
#[derive(Debug, Clone, Copy)]
struct Counted {
    bytes: u64,
    bytes_left: u64,
    files: u64,
    files_left: u64,
}

/// What a task was given of the disk, if its sandbox cannot have more and is full.
pub fn given_if_full(sandbox: &Path, given: Bytes) -> Option<Bytes> {
    let stat = statvfs(sandbox).ok()?;
    // The field types differ between platforms.
    #[allow(clippy::unnecessary_cast)]
    let counted = {
        let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size() as u64);
        Counted {
            bytes: bytes(stat.blocks() as u64),
            bytes_left: bytes(stat.blocks_available() as u64),
            files: stat.files() as u64,
            files_left: stat.files_free() as u64,
        }
    };
    is_full(counted, given).then_some(given)
}

fn is_full(counted: Counted, given: Bytes) -> bool {
    let is_bounded = counted.bytes > 0 && counted.bytes <= given.0;
    let few = (counted.bytes / PART).min(LEAST);
    let no_bytes = counted.bytes_left < few;
    let no_files = counted.files > 0 && counted.files_left == 0;
    is_bounded && (no_bytes || no_files)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: Bytes = Bytes::mib(32);
    const FULL: Counted = Counted {
        bytes: 31 << 20,
        bytes_left: 4096,
        files: 2_048,
        files_left: 2_000,
    };

    #[test]
    fn only_what_is_bounded_and_has_nothing_left_is_full() {
        let large = Counted {
            bytes: 1 << 40,
            bytes_left: 2 << 20,
            ..FULL
        };
        let no_files = Counted {
            bytes_left: 16 << 20,
            files_left: 0,
            ..FULL
        };
        let with_room = Counted {
            bytes_left: 1 << 20,
            ..FULL
        };
        let in_memory = Counted { bytes: 0, ..FULL };
        for (counted, given, full) in [
            (FULL, GIVEN, true),
            (no_files, GIVEN, true),
            (with_room, GIVEN, false),
            // The machine's disk is full, which is larger than what it was given.
            (FULL, Bytes::mib(16), false),
            (FULL, Bytes(0), false),
            // What is little of a terabyte is much.
            (large, Bytes(1 << 40), false),
            (in_memory, GIVEN, false),
        ] {
            assert_eq!(is_full(counted, given), full, "{counted:?} {given}");
        }
    }

    #[test]
    fn a_folder_of_the_machines_disk_is_never_full_for_a_task() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(given_if_full(dir.path(), Bytes(1)), None);
        assert_eq!(given_if_full(&dir.path().join("none"), GIVEN), None);
    }
}
