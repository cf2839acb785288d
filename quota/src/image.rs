//! A file that holds a file system (ext4): made, checked, grown.
//!
//! Room is set aside for all of it when it is made: a disk that is promised twice fails tasks that
//! are within their sizes, or loses what they wrote. Nothing gives that room back while
//! it is used: blocks are not discarded, and what is free goes when it is laid to rest. A persistent one has a journal, so that it is whole after a power cut; a sandbox,
//! whose task does not survive one, has none, and is mended as well as can be.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, IFlags, Timespec, Timestamps, UTIME_NOW, fallocate,
    ioctl_getflags, ioctl_setflags, utimensat,
};
use tepui_types::Bytes;

use crate::error::BoundsError;
use crate::program::run;
use crate::wanted::Life;

/// Of the file system, and of the device below it: what disks and pages have.
pub(crate) const BLOCK: u64 = 4096;
/// Below this, journal and tables would be a good part of it.
pub(crate) const LEAST: Bytes = Bytes::mib(16);
/// A table entry for each so many bytes, as is ext4's habit. Project quotas count by it, too.
pub(crate) const BYTES_PER_INODE: u64 = 16 * 1024;
/// Tables are left to be written when they are needed; terabytes take seconds.
const FORMAT_LIMIT: Duration = Duration::from_secs(120);
/// A journal is replayed in seconds; what is checked in full reads all tables of a large disk.
const CHECK_LIMIT: Duration = Duration::from_secs(3600);
/// Growing writes tables and moves little: seconds.
const RESIZE_LIMIT: Duration = Duration::from_secs(600);
/// `e2fsck`: all was well, or is again. What is above has not been mended.
const MENDED: i32 = 2;

/// Makes an empty image and answers it; one that is there is made anew.
pub(crate) fn create(path: &Path, bytes: Bytes, whole: bool) -> Result<File, BoundsError> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(true);
    let file = options.mode(0o600).open(path);
    let file = file.map_err(|source| BoundsError::io("make", path, source))?;
    write_in_place(&file);
    extend(&file, path, bytes, whole)?;
    Ok(file)
}

/// On btrfs, room that is set aside serves one write only where files are not copied on each; other
/// file systems know no such flag.
fn write_in_place(file: &File) {
    if let Ok(flags) = ioctl_getflags(file) {
        let _ = ioctl_setflags(file, flags | IFlags::NOCOW);
    }
}

/// Gives an image that many bytes; it has fewer, or as many. After an error it has what it had.
pub(crate) fn extend(
    file: &File,
    path: &Path,
    bytes: Bytes,
    whole: bool,
) -> Result<(), BoundsError> {
    let io = |source| BoundsError::io("measure", path, source);
    let before = file.metadata().map_err(io)?.len();
    let extended = match whole {
        true => allocate(file, bytes.0),
        false => file.set_len(bytes.0),
    };
    let Err(source) = extended else {
        return Ok(());
    };
    file.set_len(before).map_err(io)?;
    match source.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::ENOSYS) => Err(BoundsError::NoAllocation {
            path: path.to_owned(),
            source,
        }),
        Some(libc::ENOSPC | libc::EDQUOT) => Err(BoundsError::Full {
            path: path.to_owned(),
            wanted: Bytes(bytes.0.saturating_sub(before)),
            free: free_beside(path)?,
            headroom: Bytes(0),
        }),
        _ => Err(BoundsError::io("set room aside for", path, source)),
    }
}

/// What is free on the disk of a file.
pub(crate) fn free_beside(path: &Path) -> Result<Bytes, BoundsError> {
    let counted = rustix::fs::statvfs(path);
    let counted = counted.map_err(|error| BoundsError::io("look into", path, error))?;
    Ok(Bytes(counted.f_bavail.saturating_mul(counted.f_frsize)))
}

fn allocate(file: &File, len: u64) -> io::Result<()> {
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, len) {
            Err(rustix::io::Errno::INTR) => {}
            done => return Ok(done?),
        }
    }
}

/// `struct fstrim_range`: all of the file system.
#[repr(C)]
struct TrimRange {
    start: u64,
    len: u64,
    least: u64,
}

// include/uapi/linux/fs.h
const FITRIM: libc::Ioctl = 0xc018_5879;
const _: () = assert!(size_of::<TrimRange>() == 24);

/// Gives back the room of all blocks that are free in the file system that is mounted there. What was
/// written and has no blocks yet gets them first: their room would be gone, and with it what was written.
pub(crate) fn trim(at: &Path) -> io::Result<()> {
    let folder = File::open(at)?;
    rustix::fs::syncfs(&folder)?;
    let mut range = TrimRange {
        start: 0,
        len: u64::MAX,
        least: 0,
    };
    // SAFETY: the kernel reads and fills a structure of its own layout, which outlives the call.
    match unsafe { libc::ioctl(folder.as_raw_fd(), FITRIM, &mut range) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets an image be as new as one that was written to now.
pub(crate) fn touch(path: &Path) -> io::Result<()> {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    };
    let times = Timestamps {
        last_access: now,
        last_modification: now,
    };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Makes a file system of the whole image.
pub(crate) fn format(path: &Path, bytes: Bytes, life: Life) -> Result<(), BoundsError> {
    let journal = format!("size={}", journal_mib(bytes));
    let per_inode = BYTES_PER_INODE.to_string();
    // A fresh file reads as zeros: neither tables nor journal need to be written, and nothing is
    // discarded, which would give the room back.
    let fresh = "nodiscard,lazy_itable_init=1,lazy_journal_init=1";
    let mut arguments = vec!["-q", "-F", "-b", "4096", "-m", "0", "-e", "remount-ro"];
    arguments.extend(["-i", &per_inode, "-E", fresh]);
    match life {
        Life::Persistent => arguments.extend(["-J", &journal]),
        Life::Scratch => arguments.extend(["-O", "^has_journal"]),
    }
    let ended = run("mkfs.ext4", &arguments, path, FORMAT_LIMIT)?;
    match ended.status.success() {
        true => Ok(()),
        false => Err(ended.error("mkfs.ext4", path)),
    }
}

/// One part in 64, within what ext4 takes and what helps it.
fn journal_mib(bytes: Bytes) -> u64 {
    (bytes.0 >> 26).clamp(4, 128)
}

/// Mends what a power cut has left.
pub(crate) fn check(path: &Path, life: Life) -> Result<(), BoundsError> {
    check_with(path, life, &[])
}

/// Makes the file system of an image that is not mounted as large as the image.
pub(crate) fn resize(path: &Path, life: Life) -> Result<(), BoundsError> {
    // All of it is looked at: what is moved must be where it is said to be.
    check_with(path, life, &["-f"])?;
    let ended = run("resize2fs", &[], path, RESIZE_LIMIT)?;
    match ended.status.success() {
        true => Ok(()),
        false => Err(ended.error("resize2fs", path)),
    }
}

fn check_with(path: &Path, life: Life, more: &[&str]) -> Result<(), BoundsError> {
    let how = match life {
        // Only what loses nothing; the rest is for people to decide.
        Life::Persistent => "-p",
        // Nobody will be asked about a sandbox.
        Life::Scratch => "-y",
    };
    let arguments: Vec<&str> = more.iter().copied().chain([how]).collect();
    let ended = run("e2fsck", &arguments, path, CHECK_LIMIT)?;
    match ended.status.code() {
        Some(code) if code <= MENDED => Ok(()),
        Some(_) => Err(BoundsError::Damaged {
            image: path.to_owned(),
            said: ended.said,
        }),
        None => Err(ended.error("e2fsck", path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journals_stay_between_what_ext4_takes_and_what_helps() {
        let sizes = [LEAST, Bytes::gib(1), Bytes::gib(4), Bytes::gib(1 << 20)];
        assert_eq!(sizes.map(journal_mib), [4, 16, 64, 128]);
    }

    #[test]
    fn an_image_that_does_not_fit_stays_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let file = create(&path, LEAST, true).unwrap();
        // More than any file may have.
        let error = extend(&file, &path, Bytes(1 << 62), true).unwrap_err();
        assert!(error.to_string().contains("set room aside"), "{error}");
        assert_eq!(file.metadata().unwrap().len(), LEAST.0);
    }

    #[test]
    fn what_no_checker_mends_is_named_with_its_mending() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, [0; 65536]).unwrap();
        let error = check(&path, Life::Persistent).unwrap_err().to_string();
        assert!(error.contains("e2fsck -f"), "{error}");
    }
}
