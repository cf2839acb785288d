//! A disk for one test: a folder with a store and a place, which unmounts all that is below it when
//! the test ends, however it ends.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use tempfile::TempDir;
use tepui_quota::{Bounds, BoundsError, Enforce, Life, Settings, Support, Wanted};
use tepui_types::Bytes;

/// How long is waited for the kernel to be done with a device: much longer than it takes.
pub const DEADLINE: Duration = Duration::from_secs(60);

pub struct TestDisk {
    dir: TempDir,
    /// What is the disk.
    root: PathBuf,
}

impl TestDisk {
    /// One for images; none where nothing can be mounted.
    pub fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        let disk = Self { dir, root };
        match disk.bounds().prepare().unwrap() {
            Support::Measured(why) => none(&why.to_string()),
            Support::Image => Some(disk),
            // All of these are about images.
            Support::Project => none("this disk has project quotas"),
        }
    }

    /// One with project quotas, of this kind; none where there are none.
    pub fn with_projects(kind: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("disk");
        fs::create_dir(&root).unwrap();
        let image = dir.path().join("disk.img");
        // As small as xfs can be.
        File::create(&image).unwrap().set_len(320 << 20).unwrap();
        let disk = Self { dir, root };
        let quota: &[&str] = match kind {
            "ext4" => &[
                "-q",
                "-F",
                "-O",
                "quota,project",
                "-E",
                "quotatype=prjquota",
            ],
            _ => &["-q", "-f"],
        };
        let mount = ["-t", kind, "-o", "loop,prjquota"];
        let made = Command::new(format!("mkfs.{kind}"))
            .args(quota)
            .arg(&image)
            .output();
        let files = [&image, &disk.root];
        let mounted = Command::new("mount").args(mount).args(files).output();
        for step in [made, mounted] {
            let why = match step {
                Ok(output) if output.status.success() => continue,
                Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
                Err(error) => error.to_string(),
            };
            return none(&format!("no {kind} with project quotas can be had: {why}"));
        }
        assert!(matches!(disk.bounds().prepare().unwrap(), Support::Project));
        Some(disk)
    }

    pub fn path(&self) -> &Path {
        &self.root
    }

    pub fn place(&self) -> PathBuf {
        self.path().join("volumes")
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.place().join(name)
    }

    pub fn store(&self) -> PathBuf {
        self.path().join("store")
    }

    pub fn bounds(&self) -> Bounds {
        bounds_in(self.path(), Bytes(0))
    }

    /// What is mounted below, the outermost first.
    pub fn mounts(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let paths = table.lines().filter_map(|line| line.split(' ').nth(4));
        let paths = paths.map(PathBuf::from);
        let below = paths.filter(|path| path.starts_with(self.path()));
        // Its own mounts are there from the beginning.
        let own = [self.place(), self.root.clone()];
        below.filter(|path| !own.contains(path)).collect()
    }

    /// What of this disk loop devices have.
    fn devices(&self) -> Vec<String> {
        let devices = fs::read_dir("/sys/block").unwrap().flatten();
        let files = devices.map(|device| device.path().join("loop/backing_file"));
        let files = files.filter_map(|file| fs::read_to_string(file).ok());
        let ours = self.path().to_str().unwrap();
        files.filter(|file| file.starts_with(ours)).collect()
    }

    /// Waits until so many devices have something of this disk: the last user of one gives it back, beside
    /// whoever unmounted it.
    #[expect(clippy::disallowed_methods, reason = "a real kernel, in real time")]
    pub fn has_devices(&self, count: usize) {
        let deadline = Instant::now() + DEADLINE;
        while self.devices().len() != count {
            assert!(Instant::now() < deadline, "{:?}", self.devices());
            std::thread::yield_now();
        }
    }

    /// Sees that nothing is left of any folder, nor a device.
    pub fn is_bare(&self) {
        self.is_bare_of_folders();
        self.has_devices(0);
    }

    /// The same for a disk that is on a device itself.
    pub fn is_bare_of_folders(&self) {
        assert_eq!(self.mounts(), [""; 0].map(PathBuf::from));
        for folder in [self.place(), self.store()] {
            let left: Vec<_> = fs::read_dir(folder).unwrap().flatten().collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }
}

impl Drop for TestDisk {
    fn drop(&mut self) {
        let mounts = self.mounts();
        let mounts = mounts.iter().rev().cloned().chain([self.place()]);
        for path in mounts {
            let _ = umount2(&path, MntFlags::MNT_DETACH);
        }
        if self.root != self.dir.path() {
            let _ = umount2(&self.root, MntFlags::MNT_DETACH);
        }
    }
}

/// No disk, and this is why; it is said aloud. Where `TEPUI_TEST_DISKS` is `needed`, it fails the test.
fn none(why: &str) -> Option<TestDisk> {
    let needed = std::env::var_os("TEPUI_TEST_DISKS").is_some_and(|v| v == "needed");
    assert!(!needed, "no disk: {why}");
    eprintln!("skipped: {why}");
    None
}

pub fn bounds_in(dir: &Path, headroom: Bytes) -> Bounds {
    Bounds::new(settings_in(dir, headroom)).unwrap()
}

pub fn settings_in(dir: &Path, headroom: Bytes) -> Settings {
    Settings {
        store: dir.join("store"),
        places: vec![dir.join("volumes")],
        headroom,
        whole_images: true,
        remove_folder: |path| fs::remove_dir_all(path),
    }
}

/// Unmounts what this test uses no more; a process that another one starts may have it for a moment.
#[expect(clippy::disallowed_methods, reason = "a real kernel, in real time")]
pub fn unmount(at: &Path) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match umount2(at, MntFlags::empty()) {
            Err(Errno::EBUSY) if Instant::now() < deadline => std::thread::yield_now(),
            done => return done.unwrap(),
        }
    }
}

/// A persistent folder whose size is enforced.
pub fn wanted<'a>(name: &'a str, at: &'a Path, bytes: Bytes) -> Wanted<'a> {
    Wanted {
        name,
        at,
        bytes,
        enforce: Enforce::Enforced,
        life: Life::Persistent,
    }
}

/// Writes until no more goes in; how much did, and why no more.
pub fn fill(path: &Path) -> (u64, io::Error) {
    let mut file = File::create(path).unwrap();
    let chunk = vec![7; 1 << 20];
    let mut written = 0;
    loop {
        // What was delayed is tried for, too.
        match file.write_all(&chunk).and_then(|()| file.sync_data()) {
            Ok(()) => written += chunk.len() as u64,
            Err(error) => return (written, error),
        }
    }
}

/// Lays a folder to rest, once nobody has anything of it open: a killed process has until the kernel closes
/// it, and a program that another test starts until it is executed.
#[expect(clippy::disallowed_methods, reason = "a real kernel, in real time")]
pub fn rest_when_free(bounds: &Bounds, name: &str) {
    let deadline = Instant::now() + DEADLINE;
    while let Err(error) = bounds.rest(name) {
        assert!(matches!(error, BoundsError::InUse(_)), "{error}");
        assert!(Instant::now() < deadline, "{error}");
        std::thread::yield_now();
    }
}
