//! Shortages and cgroups that are real: a full disk, no process to be had, pressure that comes and goes.
//! These tests run as root.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tepui_pressure::{Gauges, Launches, Relief, Sources, Strain, Watch};
use tokio::time::timeout;

use crate::tasks::{amounts, revocable, secs};

const DEADLINE: Duration = Duration::from_secs(60);

/// A small disk, which goes with its test.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(options: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "none"]);
        assert!(mount.arg(dir.path()).status().unwrap().success());
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_disk_that_is_full_stops_launches_and_is_let_go_when_there_is_room() {
    let disk = SmallDisk::new("size=8m");
    let mut gauges = Gauges::new(&Sources::machine(disk.0.path()));
    let mut writer = revocable("writer", amounts(0, 0), amounts(0, 0));
    writer.used.as_mut().unwrap().disk.0 = 1;
    let (mut relief, mut faults) = (Relief::default(), Vec::new());
    let mut decide = |at, tasks: &[_]| {
        let mut readings = gauges.read(&mut faults);
        // How the rest of this machine is doing is nobody's concern here.
        (readings.mem, readings.memory_pressure, readings.pids) = (None, None, None);
        relief.decide(secs(at), &readings, tasks)
    };
    assert_eq!(decide(0, &[]).launches, Launches::All);
    let path = disk.0.path().join("file");
    let mut file = fs::File::create(&path).unwrap();
    while file.write_all(&[7; 4096]).is_ok() {}
    let full = decide(1, std::slice::from_ref(&writer));
    assert_eq!(full.launches, Launches::Nothing);
    assert_eq!(full.end.unwrap().task, writer.id);
    fs::remove_file(path).unwrap();
    drop(file);
    let free = decide(2, &[]);
    assert_eq!(free.launches, Launches::All);
}

#[test]
fn a_disk_that_holds_no_more_files_is_full() {
    let disk = SmallDisk::new("size=8m,nr_inodes=64");
    for number in 0.. {
        if fs::File::create(disk.0.path().join(format!("{number}"))).is_err() {
            break;
        }
    }
    let readings = Gauges::new(&Sources::machine(disk.0.path())).read(&mut Vec::new());
    assert_eq!(readings.disk.unwrap().available_inodes, 0);
    let decision = Relief::default().decide(secs(0), &readings, &[]);
    assert_eq!(decision.strains.disk, Strain::Critical);
}

/// A cgroup, which goes with its test.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(root: &Path, name: &str) -> Self {
        let cgroup = root.join(format!("tepui-{name}-test-{}", std::process::id()));
        fs::create_dir(&cgroup).unwrap();
        Self(cgroup)
    }

    /// One that can bound processes.
    fn of_pids() -> Self {
        let version1 = Path::new("/sys/fs/cgroup/pids");
        let root = if version1.is_dir() {
            version1
        } else {
            let root = Path::new("/sys/fs/cgroup");
            fs::write(root.join("cgroup.subtree_control"), "+pids").unwrap();
            root
        };
        Self::new(root, "pids")
    }

    /// One that tells its pressure.
    fn of_pressure() -> Self {
        let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
        let mut roots = roots.into_iter();
        let root = roots.find(|root| root.join("cgroup.controllers").exists());
        Self::new(root.unwrap(), "pressure")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        _ = fs::remove_dir(&self.0);
    }
}

/// In a process of its own, for nothing else can start there.
#[test]
fn the_machine_is_watched_when_no_process_can_be_started() {
    const NAME: &str = "shortage::the_machine_is_watched_when_no_process_can_be_started";
    const CGROUP: &str = "TEPUI_TEST_CGROUP";
    let Some(cgroup) = std::env::var_os(CGROUP) else {
        let cgroup = Cgroup::of_pids();
        let mut test = Command::new(std::env::current_exe().unwrap());
        let test = test.args(["--exact", NAME, "--nocapture"]);
        let output = test.env(CGROUP, &cgroup.0).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        return;
    };
    let cgroup = PathBuf::from(cgroup);
    let pid = std::process::id().to_string();
    fs::write(cgroup.join("cgroup.procs"), pid).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    runtime.block_on(async {
        let sources = Sources {
            bounds: Some(cgroup.clone()),
            ..Sources::machine("/")
        };
        let interval = Duration::from_millis(20);
        let (_watch, mut readings) = Watch::start(&sources, interval).unwrap();
        let first = timeout(DEADLINE, readings.changed());
        first.await.unwrap().unwrap();
        fs::write(cgroup.join("pids.max"), "1").unwrap();
        assert!(Command::new("true").spawn().is_err(), "none can be started");
        let full = readings.wait_for(|seen| seen.pids.is_some_and(|pids| pids.used >= pids.max));
        let full = *timeout(DEADLINE, full).await.unwrap().unwrap();
        let decision = Relief::default().decide(secs(0), &full, &[]);
        assert_eq!(decision.strains.pids, Strain::Critical);
        fs::write(cgroup.join("pids.max"), "max").unwrap();
    });
}

#[test]
fn a_cgroup_whose_pressure_comes_and_goes_makes_no_fault() {
    let cgroup = Cgroup::of_pressure();
    let path = cgroup.0.clone();
    let sources = Sources {
        firm: Some(path.clone()),
        ..Sources::machine("/")
    };
    let mut gauges = Gauges::new(&sources);
    let mut is_told = || {
        let mut faults = Vec::new();
        let readings = gauges.read(&mut faults);
        assert!(faults.is_empty(), "{faults:?}");
        let pressures = [
            readings.cpu_pressure,
            readings.memory_pressure,
            readings.io_pressure,
        ];
        pressures.map(|pressure| pressure.is_some())
    };
    assert_eq!(is_told(), [true; 3]);
    // People may tell the kernel not to account for it.
    fs::write(path.join("cgroup.pressure"), "0").unwrap();
    assert_eq!(is_told(), [false; 3]);
    fs::write(path.join("cgroup.pressure"), "1").unwrap();
    assert_eq!(is_told(), [true; 3]);
    drop(cgroup);
    assert_eq!(is_told(), [false; 3]);
    fs::create_dir(&path).unwrap();
    let cgroup = Cgroup(path);
    assert_eq!(is_told(), [true; 3], "another one has its name");
    drop(cgroup);
}
