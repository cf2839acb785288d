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

impl From<&Resources> for Holding {
    fn from(resources: &Resources) -> Self {
        let mut holding = Self::default();
        holding.firm.add(resources.cpus, resources.mem);
        for pool in resources.pools.iter() {
            let amounts = if pool.kind.revocable {
                holding.revocable = true;
                &mut holding.lent
            } else {
                &mut holding.firm
            };
            amounts.add(pool.amounts.cpus, pool.amounts.mem);
        }
        holding
    }
}

impl Amounts {
    fn add(&mut self, cpus: MilliCpus, mem: Bytes) {
        self.cpus = MilliCpus(self.cpus.0.saturating_add(cpus.0));
        self.mem = Bytes(self.mem.0.saturating_add(mem.0));
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
    use tepui_types::resources::{Pool, PoolKind, Pools};

    use super::*;

    #[test]
    fn what_is_revocable_is_known_from_a_task_s_pools() {
        let amounts = Resources {
            cpus: MilliCpus(500),
            mem: Bytes::mib(64),
            ..Resources::default()
        };
        assert!(!Holding::from(&amounts).revocable);
        let pool = |revocable| Pool {
            kind: PoolKind {
                revocable,
                ..PoolKind::reserved("eng".parse().unwrap())
            },
            amounts: amounts.clone(),
        };
        let mut lent = pool(true);
        lent.kind.reservations.clear();
        let mut mixed = amounts.clone();
        mixed.pools = Pools::try_from(vec![pool(false), lent]).unwrap();
        let holding = Holding::from(&mixed);
        assert!(holding.revocable);
        assert_eq!(holding.firm.cpus, MilliCpus(1_000));
        assert_eq!(holding.lent.mem, Bytes::mib(64));
    }
}
