//! The disk under a folder, as cgroups limit it: a whole one, whatever part of it the file system has.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::sys::stat::{major, makedev, minor};

/// A block device by its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) major: u64,
    pub(super) minor: u64,
}

impl std::fmt::Display for Disk {
    /// As the kernel's files name it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl Disk {
    fn of(device: u64) -> Self {
        Self {
            major: major(device),
            minor: minor(device),
        }
    }

    /// The one under a folder, which need not be there yet; none under file systems in memory or of
    /// other machines.
    pub(super) fn under(folder: &Path) -> Option<Self> {
        let found = folder
            .ancestors()
            .find_map(|path| fs::metadata(path).ok())?;
        let device = Self::of(found.dev());
        if let Some(disk) = device.whole(Path::new("/sys")) {
            return Some(disk);
        }
        // Some file systems (btrfs) have numbers of their own; their mounts tell the device.
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let source = fs::metadata(source_of(&mounts, device)?).ok()?;
        let is_block = source.file_type().is_block_device();
        let device = is_block.then(|| Self::of(source.rdev()))?;
        device.whole(Path::new("/sys"))
    }

    /// The disk that it is a partition of, or it itself; none when it is no block device.
    fn whole(self, sys: &Path) -> Option<Self> {
        let folder = sys.join("dev/block").join(self.to_string());
        let folder = fs::canonicalize(folder).ok()?;
        if !folder.join("partition").exists() {
            return Some(self);
        }
        let numbers = fs::read_to_string(folder.parent()?.join("dev")).ok()?;
        let (major, minor) = numbers.trim().split_once(':')?;
        let device = makedev(major.parse().ok()?, minor.parse().ok()?);
        Some(Self::of(device))
    }
}

/// What is mounted under those numbers (proc_pid_mountinfo(5)).
fn source_of(mounts: &str, device: Disk) -> Option<&str> {
    let device = device.to_string();
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let numbers = mount.split(' ').nth(2)?;
        kind.split(' ').nth(1).filter(|_| numbers == device)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn disk(major: u64, minor: u64) -> Disk {
        Disk { major, minor }
    }

    #[test]
    fn partitions_are_limited_as_their_disk() {
        let sys = tempfile::tempdir().unwrap();
        let devices = sys.path().join("devices");
        for (name, numbers) in [("sda", "8:0"), ("sda/sda2", "8:2"), ("dm-0", "252:0")] {
            let folder = devices.join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("dev"), format!("{numbers}\n")).unwrap();
            let known = sys.path().join("dev/block");
            fs::create_dir_all(&known).unwrap();
            symlink(&folder, known.join(numbers)).unwrap();
        }
        fs::write(devices.join("sda/sda2/partition"), "2\n").unwrap();
        assert_eq!(disk(8, 2).whole(sys.path()), Some(disk(8, 0)));
        assert_eq!(disk(8, 0).whole(sys.path()), Some(disk(8, 0)));
        assert_eq!(disk(252, 0).whole(sys.path()), Some(disk(252, 0)));
        assert_eq!(disk(0, 40).whole(sys.path()), None);
    }

    #[test]
    fn mounts_tell_the_device_of_their_file_system() {
        let mounts = "27 1 254:0 / / rw shared:1 - ext4 /dev/vda rw\n\
                      61 27 0:40 /sub /data rw,relatime - btrfs /dev/sdb2 rw,subvol=/sub\n";
        assert_eq!(source_of(mounts, disk(0, 40)), Some("/dev/sdb2"));
        assert_eq!(source_of(mounts, disk(0, 41)), None);
    }
}
