//! Readings of this machine, and of one whose files are written here.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use tepui_pressure::{BasisPoints, Disk, Gauges, Pids, PressureError, Readings, Sources};
use tepui_types::{Bytes, MilliCpus};

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A machine of four processors at its start, without PSI.
fn machine(dir: &Path) -> Sources {
    let proc = dir.join("proc");
    write(
        &proc.join("stat"),
        "cpu  0 0 0 0 0\ncpu0 0\ncpu1 0\ncpu2 0\ncpu3 0\nintr 0\n",
    );
    write(
        &proc.join("meminfo"),
        "MemTotal: 4096 kB\nMemAvailable: 3072 kB\n",
    );
    write(&proc.join("loadavg"), "0.0 0.0 0.0 1/100 7\n");
    write(&proc.join("sys/kernel/pid_max"), "32768\n");
    write(&proc.join("sys/kernel/threads-max"), "1000\n");
    Sources {
        proc,
        ..Sources::machine(dir)
    }
}

fn read(gauges: &mut Gauges) -> (Readings, Vec<PressureError>) {
    let mut faults = Vec::new();
    (gauges.read(&mut faults), faults)
}

fn faultless(gauges: &mut Gauges) -> Readings {
    let (readings, faults) = read(gauges);
    assert!(faults.is_empty(), "{faults:?}");
    readings
}

#[test]
fn this_machine_tells_all_that_its_kernel_knows() {
    let mut gauges = Gauges::new(&Sources::machine("/"));
    let readings = faultless(&mut gauges);
    assert_eq!(readings.cpu, None, "one look tells of no time");
    let has_psi = File::open("/proc/pressure/memory").is_ok();
    assert_eq!(readings.memory_pressure.is_some(), has_psi);
    let mem = readings.mem.unwrap();
    assert!(Bytes(0) < mem.available && mem.available <= mem.total);
    let pids = readings.pids.unwrap();
    assert!(0 < pids.used && pids.used < pids.max, "{pids:?}");
    let disk = readings.disk.unwrap();
    assert!(disk.available <= disk.size && disk.available_inodes <= disk.inodes);
}

#[test]
fn a_machine_without_psi_is_read_without_faults() {
    let dir = tempfile::tempdir().unwrap();
    let mut gauges = Gauges::new(&machine(dir.path()));
    let readings = faultless(&mut gauges);
    assert_eq!(readings.cpu_pressure, None);
    assert_eq!(
        readings.pids,
        Some(Pids {
            used: 100,
            max: 1_000
        })
    );
}

#[test]
fn processors_are_read_between_two_looks() {
    let dir = tempfile::tempdir().unwrap();
    let sources = machine(dir.path());
    let mut gauges = Gauges::new(&sources);
    let stat = sources.proc.join("stat");
    faultless(&mut gauges);
    assert_eq!(faultless(&mut gauges).cpu, None, "no tick has passed");
    let text = fs::read_to_string(&stat).unwrap();
    write(&stat, &text.replace("cpu  0 0 0 0 0", "cpu  30 0 0 60 10"));
    let cpu = faultless(&mut gauges).cpu.unwrap();
    assert_eq!((cpu.all, cpu.busy), (MilliCpus(4_000), MilliCpus(1_200)));
    assert_eq!(cpu.idle(), MilliCpus(2_800));
}

#[test]
fn a_cgroup_counts_where_it_is_scarcer_than_the_machine() {
    let dir = tempfile::tempdir().unwrap();
    let cgroup = dir.path().join("tasks");
    let sources = Sources {
        bounds: Some(cgroup.clone()),
        firm: Some(cgroup.join("firm")),
        ..machine(dir.path())
    };
    let mut gauges = Gauges::new(&sources);
    let alone = faultless(&mut gauges);
    assert_eq!(
        alone.mem.unwrap().available,
        Bytes::mib(3),
        "it is not there yet"
    );
    for (file, text) in [
        ("memory.max", "2097152\n"),
        ("memory.current", "1572864\n"),
        ("memory.stat", "anon 1\ninactive_file 524288\n"),
        ("pids.max", "80\n"),
        ("pids.current", "60\n"),
        (
            "firm/cpu.pressure",
            "some avg10=12.34 avg60=0.00 avg300=0.00 total=5\n",
        ),
    ] {
        write(&cgroup.join(file), text);
    }
    let bound = faultless(&mut gauges);
    assert_eq!(bound.mem.unwrap().available, Bytes::mib(1));
    assert_eq!(bound.pids, Some(Pids { used: 60, max: 80 }));
    let firm = bound.cpu_pressure.unwrap();
    assert_eq!(firm.some.avg10, BasisPoints(1_234));
    assert_eq!(bound.io_pressure, None);
    write(&cgroup.join("memory.max"), "max\n");
    write(&cgroup.join("pids.max"), "max\n");
    let unbound = faultless(&mut gauges);
    assert_eq!((unbound.mem, unbound.pids), (alone.mem, alone.pids));
}

#[test]
fn a_file_that_makes_no_sense_is_named_and_the_rest_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let sources = machine(dir.path());
    write(&sources.proc.join("meminfo"), "MemTotal: lots\n");
    write(&sources.proc.join("pressure/io"), "full of it\n");
    let mut gauges = Gauges::new(&sources);
    let (readings, faults) = read(&mut gauges);
    assert_eq!((readings.mem, readings.io_pressure), (None, None));
    assert!(readings.pids.is_some() && readings.disk.is_some());
    let said: Vec<_> = faults.iter().map(ToString::to_string).collect();
    assert!(
        said[0].contains("pressure/io") && said[1].contains("meminfo"),
        "{said:?}"
    );
}

#[test]
fn a_disk_that_comes_later_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    let mut sources = machine(dir.path());
    sources.disk = disk.clone();
    let mut gauges = Gauges::new(&sources);
    let (readings, faults) = read(&mut gauges);
    assert_eq!((readings.disk, faults.len()), (None, 1));
    fs::create_dir(disk).unwrap();
    let Disk { size, .. } = faultless(&mut gauges).disk.unwrap();
    assert!(size > Bytes(0));
}

/// In a process of its own, for it takes every descriptor that there is.
#[test]
fn the_machine_is_read_when_no_descriptor_is_left() {
    const NAME: &str = "machine::the_machine_is_read_when_no_descriptor_is_left";
    const ALONE: &str = "TEPUI_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let mut test = Command::new(std::env::current_exe().unwrap());
        let output = test.args(["--exact", NAME, "--nocapture"]).env(ALONE, "1");
        let output = output.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        return;
    }
    let mut gauges = Gauges::new(&Sources::machine("/"));
    let mut first = faultless(&mut gauges);
    let mut files = Vec::new();
    while files.len() < 1_000_000 {
        match File::open("/dev/null") {
            Ok(file) => files.push(file),
            Err(_) => break,
        }
    }
    assert!(File::open("/proc/stat").is_err(), "all are taken");
    let mut last = faultless(&mut gauges);
    (first.cpu, last.cpu) = (None, None);
    let seen = |readings: &Readings| {
        let pressure = readings.memory_pressure.is_some();
        (
            pressure,
            readings.mem.is_some(),
            readings.pids.is_some(),
            readings.disk.is_some(),
        )
    };
    assert_eq!(seen(&last), seen(&first));
}
