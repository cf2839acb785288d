//! The files that are read again and again, and the disk.
//!
//! Files stay open between looks, so that the machine is still seen when no descriptor is left; one
//! that is gone, as a cgroup's, is opened anew at the next look. A look reads a dozen small files and
//! waits for nothing, except for a disk that does not answer: the watch therefore looks
//! in a thread of its own.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use tepui_types::{Bytes, MilliCpus};

use crate::error::{Malformed, PressureError};
use crate::kernel::{self, Ticks};
use crate::psi::Pressure;
use crate::readings::{CpuUse, Disk, Mem, Pids, Readings};

/// The most that is read of a file: `/proc/stat` begins with 100 bytes a processor, and this is enough
/// for 2,000 of them. What comes after that is not looked at.
const MAX_TEXT: usize = 256 * 1024;
/// Read at a time: most files are shorter.
const CHUNK: usize = 4 * 1024;

/// Where readings come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// The kernel's folder, `/proc`.
    pub proc: PathBuf,
    /// The cgroup that bounds all tasks together: its memory and pids count where they are scarcer
    /// than the machine's. A folder of version 2, or of version 1's `pids`.
    pub bounds: Option<PathBuf>,
    /// The cgroup of version 2 that holds the firm tasks: its pressure counts instead of the
    /// machine's, which does not tell who waits.
    pub firm: Option<PathBuf>,
    /// A folder on the disk that must not become full.
    pub disk: PathBuf,
}

impl Sources {
    /// The machine as a whole, and the disk of that folder.
    pub fn machine(disk: impl Into<PathBuf>) -> Self {
        Self {
            proc: "/proc".into(),
            bounds: None,
            firm: None,
            disk: disk.into(),
        }
    }
}

/// All that is looked at.
#[derive(Debug)]
pub struct Gauges {
    pressures: [Gauge; 3],
    stat: Gauge,
    meminfo: Gauge,
    loadavg: Gauge,
    maxima: [Gauge; 2],
    bounds: Option<Bounds>,
    disk: PathBuf,
    folder: Option<File>,
    last: Option<Ticks>,
}

/// A cgroup's files.
#[derive(Debug)]
struct Bounds {
    mem_max: Gauge,
    mem_current: Gauge,
    mem_stat: Gauge,
    pids_max: Gauge,
    pids_current: Gauge,
}

/// One file.
#[derive(Debug)]
struct Gauge {
    path: PathBuf,
    file: Option<File>,
}

impl Gauges {
    /// Opens what there is.
    pub fn new(sources: &Sources) -> Self {
        let proc = |name: &str| Gauge::new(sources.proc.join(name));
        let pressure = |name: &str| match &sources.firm {
            Some(cgroup) => Gauge::new(cgroup.join(format!("{name}.pressure"))),
            None => proc(&format!("pressure/{name}")),
        };
        Self {
            pressures: ["cpu", "memory", "io"].map(pressure),
            stat: proc("stat"),
            meminfo: proc("meminfo"),
            loadavg: proc("loadavg"),
            maxima: ["sys/kernel/pid_max", "sys/kernel/threads-max"].map(proc),
            bounds: sources.bounds.as_deref().map(Bounds::new),
            disk: sources.disk.clone(),
            folder: File::open(&sources.disk).ok(),
            last: None,
        }
    }

    /// Looks at all of it. What cannot be read is missing, and said in `faults`.
    pub fn read(&mut self, faults: &mut Vec<PressureError>) -> Readings {
        let [cpu, memory, io] = &mut self.pressures;
        Readings {
            cpu_pressure: cpu.read(Pressure::parse, faults),
            memory_pressure: memory.read(Pressure::parse, faults),
            io_pressure: io.read(Pressure::parse, faults),
            cpu: self.cpu(faults),
            mem: self.mem(faults),
            pids: self.pids(faults),
            disk: self.disk(faults),
        }
    }

    fn cpu(&mut self, faults: &mut Vec<PressureError>) -> Option<CpuUse> {
        let now = self.stat.read(kernel::stat, faults)?;
        let before = self.last.replace(now)?;
        let all_ticks = now.all.saturating_sub(before.all);
        // The kernel's counts of idle time may go back a little.
        let busy_ticks = now.busy.saturating_sub(before.busy).min(all_ticks);
        let all = now.cpus.saturating_mul(1_000);
        let busy = u128::from(all) * u128::from(busy_ticks);
        let busy = busy.checked_div(u128::from(all_ticks))?;
        Some(CpuUse {
            all: MilliCpus(all),
            busy: MilliCpus(u64::try_from(busy).unwrap_or(all)),
        })
    }

    fn mem(&mut self, faults: &mut Vec<PressureError>) -> Option<Mem> {
        let machine = self.meminfo.read(kernel::meminfo, faults);
        let bounds = self.bounds.as_mut();
        let bounds = bounds.and_then(|bounds| bounds.mem(faults));
        let both = machine.into_iter().chain(bounds);
        both.min_by_key(|mem| mem.available)
    }

    fn pids(&mut self, faults: &mut Vec<PressureError>) -> Option<Pids> {
        let used = self.loadavg.read(kernel::threads, faults);
        let maxima = self.maxima.iter_mut();
        let maxima = maxima.filter_map(|max| max.read(kernel::number, faults));
        let max = maxima.min();
        let machine = used.zip(max).map(|(used, max)| Pids { used, max });
        let bounds = self.bounds.as_mut();
        let bounds = bounds.and_then(|bounds| bounds.pids(faults));
        let both = machine.into_iter().chain(bounds);
        both.min_by_key(|pids| pids.max.saturating_sub(pids.used))
    }

    fn disk(&mut self, faults: &mut Vec<PressureError>) -> Option<Disk> {
        let told = disk(&mut self.folder, &self.disk);
        let fault = |source| PressureError::Disk {
            path: self.disk.clone(),
            source,
        };
        told.map_err(|source| faults.push(fault(source))).ok()
    }
}

/// Asks by the open folder, which needs no descriptor.
fn disk(folder: &mut Option<File>, path: &Path) -> io::Result<Disk> {
    let file = match folder {
        Some(file) => file,
        None => folder.insert(File::open(path)?),
    };
    let room = rustix::fs::fstatvfs(file)?;
    let bytes = |blocks: u64| Bytes(blocks.saturating_mul(room.f_frsize));
    Ok(Disk {
        size: bytes(room.f_blocks),
        available: bytes(room.f_bavail),
        inodes: room.f_files,
        available_inodes: room.f_favail,
    })
}

impl Bounds {
    fn new(cgroup: &Path) -> Self {
        let file = |name: &str| Gauge::new(cgroup.join(name));
        Self {
            mem_max: file("memory.max"),
            mem_current: file("memory.current"),
            mem_stat: file("memory.stat"),
            pids_max: file("pids.max"),
            pids_current: file("pids.current"),
        }
    }

    /// None where there is no limit.
    fn mem(&mut self, faults: &mut Vec<PressureError>) -> Option<Mem> {
        let total = self.mem_max.read(kernel::limit, faults)??;
        let current = self.mem_current.read(kernel::number, faults)?;
        // The kernel takes back files' cache that lies idle before it ends anybody.
        let idle_cache = |text: &str| kernel::stat_field(text, "inactive_file");
        let idle_cache = self.mem_stat.read(idle_cache, faults).unwrap_or(0);
        let used = current.saturating_sub(idle_cache);
        Some(Mem {
            total: Bytes(total),
            available: Bytes(total.saturating_sub(used)),
        })
    }

    /// None where there is no limit.
    fn pids(&mut self, faults: &mut Vec<PressureError>) -> Option<Pids> {
        let max = self.pids_max.read(kernel::limit, faults)??;
        let used = self.pids_current.read(kernel::number, faults)?;
        Some(Pids { used, max })
    }
}

impl Gauge {
    fn new(path: PathBuf) -> Self {
        let file = File::open(&path).ok();
        Self { path, file }
    }

    /// None where it is not there, or else with a fault.
    fn read<T>(
        &mut self,
        parse: impl FnOnce(&str) -> Result<T, Malformed>,
        faults: &mut Vec<PressureError>,
    ) -> Option<T> {
        let fault = match self.text() {
            Ok(text) => match parse(&text) {
                Ok(value) => return Some(value),
                Err(source) => PressureError::Parse {
                    path: self.path.clone(),
                    source,
                },
            },
            Err(error) => {
                self.file = None;
                if is_missing(&error) {
                    return None;
                }
                PressureError::Read {
                    path: self.path.clone(),
                    source: error,
                }
            }
        };
        faults.push(fault);
        None
    }

    fn text(&mut self) -> io::Result<String> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(File::open(&self.path)?),
        };
        let mut bytes = Vec::new();
        while bytes.len() < MAX_TEXT {
            let start = bytes.len();
            bytes.resize(start + CHUNK, 0);
            let read = match file.read_at(&mut bytes[start..], start as u64) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                read => {
                    let read = read?;
                    if read == 0 {
                        bytes.truncate(start);
                        break;
                    }
                    read
                }
            };
            bytes.truncate(start + read);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The file is not there, its cgroup has gone since it was opened, or the kernel has PSI and was told
/// to do without.
fn is_missing(error: &io::Error) -> bool {
    let gone = [Errno::NOENT, Errno::NODEV, Errno::OPNOTSUPP];
    let code = error.raw_os_error();
    gone.iter().any(|gone| code == Some(gone.raw_os_error()))
}
