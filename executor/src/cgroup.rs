//! One cgroup, whichever hierarchies the machine has.
//!
//! Executors make one for themselves and one for their native tasks; agents end
//! and remove those that a dead executor left. Creation and limits go through
//! cgroups-rs, on v1 controllers as on v2; what it lacks is done here: counters
//! of refusals, weights converted for v2, and the v2 mount beside v1
//! controllers (a "hybrid" machine), where `cgroup.kill` works.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::hierarchies::UNIFIED_MOUNTPOINT;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::{Cgroup, MaxValue};
use tepui_types::Bytes;

pub use counters::{Counters, Counts};
pub use limits::Limits;
pub use usage::Usage;

mod counters;
pub mod devices;
mod disk;
mod ending;
mod hierarchy;
pub mod limits;
mod processors;
mod rates;
mod usage;

const CGROUP_PROCS: &str = "cgroup.procs";
const CGROUP_EVENTS: &str = "cgroup.events";
const CGROUP_KILL: &str = "cgroup.kill";

/// What a task's limits and figures need, as v1 and v2 name it.
const V1_CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];
/// What counting its time and ending it need besides, where no v2 hierarchy does it. Each hierarchy
/// more costs every task a cgroup more.
const V1_ALONE: [&str; 2] = ["cpuacct", "freezer"];
const V2_CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// What only some tasks need, as v1 and v2 name it.
const V2_MORE: [(&str, &str); 2] = [("cpuset", "cpuset"), ("blkio", "io")];

/// What could not be done with a cgroup.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The machine lacks controllers.
    #[error(
        "this machine has no cgroup controller `{0}` below /sys/fs/cgroup: mount it, or start the \
         agent where it is, or run without cgroups"
    )]
    MissingController(String),
    /// The path leads out of the hierarchy, or cannot be a folder in it.
    #[error(
        "`{0}` is not a cgroup path: names joined by `/`, none of them `tasks` or `cgroup.…`, \
         which are the kernel's"
    )]
    Path(String),
    /// Processors were asked for that are not there.
    #[error(
        "`cpuset` asks for the processors {asked}, and tasks of this machine run on {there}: list some \
         of those"
    )]
    Processors {
        /// Those.
        asked: String,
        /// All.
        there: String,
    },
    /// No disk is under a folder.
    #[error(
        "`io` asks for rates, and {folder} lies on no disk of this machine: leave them out, or give the \
         agent a folder on a disk"
    )]
    NoDisk {
        /// Which.
        folder: String,
    },
    /// No v2 hierarchy is mounted.
    #[error(
        "this machine mounts no cgroup v2 hierarchy, which keeps tasks from devices: mount it, beside v1 \
         controllers by `mount -t cgroup2 none /sys/fs/cgroup/unified`"
    )]
    NoDevicePolicies,
    /// More devices than a program has room for.
    #[error(
        "{0} devices are to be kept apart, and the most is {MAX_RULES}", MAX_RULES = devices::MAX_RULES
    )]
    DeviceRules(usize),
    /// The kernel refused.
    #[error("failed to {step} of the cgroup {path}: {message}")]
    Refused {
        /// What.
        step: &'static str,
        /// Of which cgroup.
        path: String,
        /// The kernel's words.
        message: String,
    },
}

/// In which hierarchies a cgroup is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// In those that limit and count.
    Needed,
    /// In all of the machine's, as container runtimes have it: some count in those alone. One that is
    /// only read may be there in fewer.
    All,
}

/// A cgroup of one path, in every hierarchy that counts.
#[derive(Debug)]
pub struct Group {
    path: String,
    cgroup: Cgroup,
    /// Its folder in each hierarchy, the v2 one last.
    dirs: Vec<PathBuf>,
    /// Its folder in the v2 hierarchy, if the machine has one.
    unified: Option<PathBuf>,
}

/// Whether this process can make cgroups with all that tasks need.
///
/// # Errors
/// Names what is in the way.
pub fn available() -> Result<(), CgroupError> {
    let root = Group::open("tepui", Reach::Needed)?;
    for dir in &root.dirs {
        let mount = dir.parent().unwrap_or(dir);
        if let Err(errno) = nix::unistd::access(mount, nix::unistd::AccessFlags::W_OK) {
            return Err(CgroupError::Refused {
                step: "write to the parent",
                path: dir.display().to_string(),
                message: errno.desc().to_owned(),
            });
        }
    }
    Ok(())
}

impl Group {
    /// Makes the cgroup, and its parents; one that is there already is taken.
    ///
    /// # Errors
    /// When the machine lacks a controller or refuses.
    pub fn create(path: &str) -> Result<Self, CgroupError> {
        Self::create_in(path, Reach::Needed)
    }

    /// The same, in these hierarchies.
    ///
    /// # Errors
    /// Those of [`Group::create`].
    pub fn create_in(path: &str, reach: Reach) -> Result<Self, CgroupError> {
        let group = Self::open(path, reach)?;
        let made = group
            .cgroup
            .create()
            .map_err(|error| group.refused("make a folder", error));
        let made = made.and_then(|()| {
            let unified = group.unified.as_deref().map_or(Ok(()), fs::create_dir_all);
            unified.map_err(|error| group.refused("make a folder", error))
        });
        if let Err(error) = made {
            // What was made in other hierarchies is of no use alone.
            let _ = group.remove();
            return Err(error);
        }
        Ok(group)
    }

    /// The cgroup of that path, whether or not it is there.
    ///
    /// # Errors
    /// When the machine lacks a controller, or `path` is none.
    pub fn open(path: &str, reach: Reach) -> Result<Self, CgroupError> {
        let is_name = |part: Component<'_>| match part {
            Component::Normal(name) => {
                name != "tasks" && !name.as_encoded_bytes().starts_with(b"cgroup.")
            }
            _ => false,
        };
        if path.is_empty() || !Path::new(path).components().all(is_name) {
            return Err(CgroupError::Path(path.to_owned()));
        }
        let hierarchy = hierarchy::of_controllers();
        let v2 = hierarchy.v2();
        let mut controllers = match v2 {
            true => V2_CONTROLLERS.to_vec(),
            false => V1_CONTROLLERS.to_vec(),
        };
        if !v2 && !hierarchy::is_hybrid() {
            controllers.extend(V1_ALONE);
        }
        let present: Vec<_> = hierarchy
            .subsystems()
            .iter()
            .map(|found| found.controller_name())
            .collect();
        if let Some(missing) = controllers
            .iter()
            .find(|name| !present.iter().any(|p| p == **name))
        {
            return Err(CgroupError::MissingController((*missing).to_owned()));
        }
        let names = match reach {
            Reach::All if !v2 => present,
            Reach::All => {
                let more = V2_MORE
                    .iter()
                    .filter(|(v1, _)| present.iter().any(|p| p == v1));
                controllers.extend(more.map(|(_, v2)| *v2));
                controllers.iter().map(|name| (*name).to_owned()).collect()
            }
            Reach::Needed => controllers.iter().map(|name| (*name).to_owned()).collect(),
        };
        let cgroup = Cgroup::load_with_specified_controllers(hierarchy, path, names);
        let mut dirs: Vec<PathBuf> = Vec::new();
        for subsystem in cgroup.subsystems() {
            let dir = subsystem.to_controller().path().to_owned();
            // On v2, and where v1 controllers are mounted together, they share a folder.
            let dir = if v2 {
                Path::new(UNIFIED_MOUNTPOINT).join(path)
            } else {
                dir
            };
            if !dirs.contains(&dir) {
                dirs.push(dir);
            }
        }
        let unified = if v2 {
            dirs.first().cloned()
        } else {
            hierarchy::hybrid_mount().map(|m| m.join(path))
        };
        if !v2 {
            dirs.extend(unified.clone());
        }
        Ok(Self {
            path: path.to_owned(),
            cgroup,
            dirs,
            unified,
        })
    }

    /// Its path below the hierarchies' roots.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Sets the limits.
    ///
    /// # Errors
    /// When the kernel refuses one of them.
    pub fn limit(&self, limits: &Limits) -> Result<(), CgroupError> {
        self.limit_memory(limits.mem)?;
        if let Some(pids) = self.cgroup.controller_of::<PidController>() {
            let most = MaxValue::Value(i64::from(limits.pids));
            pids.set_pid_max(most)
                .map_err(|e| self.refused("set the process limit", e))?;
        }
        if let Some(cpu) = self.cgroup.controller_of::<CpuController>() {
            let share = if self.cgroup.v2() {
                limits.cpu_weight()
            } else {
                limits.cpu_shares()
            };
            cpu.set_shares(share)
                .and_then(|()| {
                    cpu.set_cfs_quota_and_period(
                        Some(limits.cpu_quota_micros()),
                        Some(limits::CPU_PERIOD_MICROS),
                    )
                })
                .map_err(|e| self.refused("set the cpu limit", e))?;
        }
        Ok(())
    }

    /// Sets the limit of memory alone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn limit_memory(&self, mem: Bytes) -> Result<(), CgroupError> {
        let v2 = self.cgroup.v2();
        if let Some(memory) = self.cgroup.controller_of::<MemController>() {
            let bytes = i64::try_from(mem.0).unwrap_or(i64::MAX);
            if !v2 {
                // What memory and swap are limited to together, perhaps from before, must not be
                // below what memory alone is.
                let _ = memory.set_memswap_limit(-1);
            }
            memory
                .set_limit(bytes)
                .map_err(|e| self.refused("set the memory limit", e))?;
            // v1 counts memory and swap together. Kernels without swap
            // accounting lack the file, and then there is nothing to bound.
            let _ = memory.set_memswap_limit(if v2 { 0 } else { bytes });
        }
        Ok(())
    }

    /// Holds it to so many microseconds of processor time in each period, whatever its limits say, and
    /// gives it the period's time at once.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn limit_cpu(&self, quota_micros: i64) -> Result<(), CgroupError> {
        let cpu = self.cgroup.controller_of::<CpuController>();
        let limited = cpu.map_or(Ok(()), |cpu| cpu.set_cfs_quota(quota_micros));
        limited.map_err(|error| self.refused("set the cpu limit", error))
    }

    /// Its `cgroup.procs` files, open for writing: a new process that writes
    /// `0` into each is in the cgroup before it executes anything.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub fn entrances(&self) -> Result<Vec<File>, CgroupError> {
        let open = |dir: &PathBuf| OpenOptions::new().write(true).open(dir.join(CGROUP_PROCS));
        let opened: io::Result<Vec<File>> = self.dirs.iter().map(open).collect();
        opened.map_err(|error| self.refused("open the process list", error))
    }

    /// Moves the calling process in.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn join(&self) -> Result<(), CgroupError> {
        for mut entrance in self.entrances()? {
            entrance
                .write_all(b"0")
                .map_err(|error| self.refused("join the process list", error))?;
        }
        Ok(())
    }

    /// Opens what it counts.
    pub fn counters(&self) -> Counters {
        Counters::open(self)
    }

    /// Its folder in the hierarchy of a controller.
    fn dir_of(&self, controller: &str) -> Option<&Path> {
        match &self.unified {
            Some(dir) if self.cgroup.v2() => Some(dir),
            _ => {
                let mut subsystems = self.cgroup.subsystems().iter();
                let found = subsystems.find(|found| found.controller_name() == controller)?;
                Some(found.to_controller().path())
            }
        }
    }

    fn refused(&self, step: &'static str, error: impl std::error::Error) -> CgroupError {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        CgroupError::Refused {
            step,
            path: self.path.clone(),
            message,
        }
    }
}

/// Ends whatever runs in the cgroup of that path, waits for it and removes the
/// cgroup with all below it: what an agent does after an executor died. One
/// that is not there is no error. Blocks up to `patience`.
///
/// # Errors
/// When processes remain, or the kernel refuses.
#[expect(clippy::disallowed_methods, reason = "it says that it blocks")]
pub fn destroy(path: &str, patience: Duration) -> Result<(), CgroupError> {
    let group = Group::open(path, Reach::All)?;
    let deadline = Instant::now() + patience;
    let mut pause = Duration::from_millis(1);
    loop {
        group.kill();
        if group.is_empty() {
            match group.remove() {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => {}
            }
        } else if Instant::now() >= deadline {
            return Err(group.refused(
                "end all processes",
                io::Error::from(io::ErrorKind::TimedOut),
            ));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
