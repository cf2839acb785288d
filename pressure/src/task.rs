//! A running task as it is seen here: what it was given, and what it uses.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tepui_types::{Bytes, MilliCpus, Resources, TaskId};

/// An amount of what is lent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Amounts {
    /// Processors.
    #[serde(rename = "cpus_milli")]
    pub cpus: MilliCpus,
    /// Memory.
    #[serde(rename = "mem_bytes")]
    pub mem: Bytes,
}

/// What a task was given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// What is its own until it ends.
    pub firm: Amounts,
    /// What may be taken back.
    pub lent: Amounts,
    /// Whether anything of it may be taken back: then the task may be throttled and ended.
    pub revocable: bool,
}

impl Holding {
    /// Of all that it was given, as one sum, and what of that may be taken back.
    pub fn new(all: &Resources, revocable: &Resources) -> Self {
        let lent = Amounts {
            cpus: revocable.cpus.min(all.cpus),
            mem: revocable.mem.min(all.mem),
        };
        Self {
            firm: Amounts {
                cpus: MilliCpus(all.cpus.0 - lent.cpus.0),
                mem: Bytes(all.mem.0 - lent.mem.0),
            },
            lent,
            revocable: !revocable.is_empty(),
        }
    }
}

/// What a task uses now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// Processors, on average since the sample before.
    #[serde(rename = "cpus_milli")]
    pub cpus: MilliCpus,
    /// Memory that the kernel cannot take back without hurting it: without cache that lies idle.
    #[serde(rename = "mem_bytes")]
    pub mem: Bytes,
    /// What it has on the agent's disk; 0 where that is not measured.
    #[serde(rename = "disk_bytes")]
    pub disk: Bytes,
    /// Its processes and threads; 0 where they are not counted.
    pub pids: u64,
}

/// A task that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningTask {
    /// Which.
    pub id: TaskId,
    /// When it started, by the clock of the samples.
    pub started: Duration,
    /// What it was given.
    pub holding: Holding,
    /// What it uses; none as long as nothing was measured.
    pub used: Option<Used>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_firm_is_what_may_not_be_taken_back() {
        let of = |cpus, mib| Resources {
            cpus: MilliCpus(cpus),
            mem: Bytes::mib(mib),
            ..Resources::default()
        };
        let firm = Holding::new(&of(500, 64), &Resources::default());
        assert!(!firm.revocable && firm.lent == Amounts::default());
        let mixed = Holding::new(&of(1_500, 128), &of(500, 64));
        assert!(mixed.revocable);
        assert_eq!(mixed.firm.cpus, MilliCpus(1_000));
        assert_eq!(mixed.lent.mem, Bytes::mib(64));
        // No more may be taken back than there is.
        assert_eq!(Holding::new(&of(1, 1), &of(9, 9)).firm, Amounts::default());
    }
}
