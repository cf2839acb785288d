//! What was read of the machine at one time.
//!
//! Every part may be missing, because a kernel does not tell it or a file could not be read; what is
//! missing presses nobody.

use serde::{Deserialize, Serialize};
use tepui_types::{Bytes, MilliCpus};

use crate::psi::Pressure;

/// One look at the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readings {
    /// Who waited for processors; none on a kernel without PSI.
    pub cpu_pressure: Option<Pressure>,
    /// Who waited for memory; none on a kernel without PSI.
    pub memory_pressure: Option<Pressure>,
    /// Who waited for disks; none on a kernel without PSI.
    pub io_pressure: Option<Pressure>,
    /// How the processors were used since the look before; none at the first.
    pub cpu: Option<CpuUse>,
    /// Memory.
    pub mem: Option<Mem>,
    /// Processes and threads.
    pub pids: Option<Pids>,
    /// The disk of the agent's folder.
    pub disk: Option<Disk>,
}

/// Use of processors over a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuUse {
    /// All that there are.
    #[serde(rename = "all_milli")]
    pub all: MilliCpus,
    /// What somebody had of them, on average.
    #[serde(rename = "busy_milli")]
    pub busy: MilliCpus,
}

impl CpuUse {
    /// What nobody had.
    pub fn idle(&self) -> MilliCpus {
        MilliCpus(self.all.0.saturating_sub(self.busy.0))
    }
}

/// Memory, of the machine or of the cgroup that bounds the agent's tasks, whichever has less left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mem {
    /// All that there is.
    #[serde(rename = "total_bytes")]
    pub total: Bytes,
    /// What can be had without taking it from anybody: what is free, and most of the files' cache.
    #[serde(rename = "available_bytes")]
    pub available: Bytes,
}

/// Processes and their threads: to the kernel they are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pids {
    /// How many there are.
    pub used: u64,
    /// How many there may be.
    pub max: u64,
}

/// A disk's room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// All that it has.
    #[serde(rename = "size_bytes")]
    pub size: Bytes,
    /// What the agent's user may still write.
    #[serde(rename = "available_bytes")]
    pub available: Bytes,
    /// How many files it can hold; 0 where they are not counted.
    pub inodes: u64,
    /// How many more it can hold.
    pub available_inodes: u64,
}
