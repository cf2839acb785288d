//! Tasks as the agent would see them.

use std::time::Duration;

use tepui_pressure::{Amounts, Holding, RunningTask, Used};
use tepui_types::{Bytes, MilliCpus, TaskId};

pub const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub fn id(name: &str) -> TaskId {
    format!("f1.{name}.0").parse().unwrap()
}

/// Thousandths of processors, and MiB.
pub const fn amounts(cpus_milli: u64, mem_mib: u64) -> Amounts {
    Amounts {
        cpus: MilliCpus(cpus_milli),
        mem: Bytes::mib(mem_mib),
    }
}

pub const fn used(amounts: Amounts) -> Used {
    Used {
        cpus: amounts.cpus,
        mem: amounts.mem,
        disk: Bytes(0),
        pids: 1,
    }
}

/// Started with the machine, and known for long.
pub fn firm(name: &str, given: Amounts, uses: Amounts) -> RunningTask {
    RunningTask {
        id: id(name),
        started: secs(0),
        holding: Holding {
            firm: given,
            ..Holding::default()
        },
        used: Some(used(uses)),
    }
}

/// Has what is lent, and nothing else.
pub fn revocable(name: &str, lent: Amounts, uses: Amounts) -> RunningTask {
    RunningTask {
        holding: Holding {
            lent,
            revocable: true,
            ..Holding::default()
        },
        ..firm(name, Amounts::default(), uses)
    }
}
