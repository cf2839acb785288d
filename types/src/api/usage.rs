//! `GET /v1/tasks/{id}/usage` and `GET /v1/agents/{id}/usage`: what running tasks use.
//!
//! It is measured when somebody asks, and told as totals with the time at which they were read: who
//! wants to know how much of the processors a task takes asks twice. What a task used by its end stands
//! in its status.

use serde::{Deserialize, Serialize};

use crate::ids::TaskId;
use crate::resources::{MilliCpus, ResourceRequest};

/// What a running task uses, beside what it was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UsageView {
    /// Which.
    pub id: TaskId,
    /// Its framework's name.
    pub framework_name: String,
    /// What it was given.
    pub given: ResourceRequest,
    /// What it uses; none where nobody can tell now: its executor does not answer, or its agent runs
    /// commands without control groups.
    pub used: Option<Used>,
}

/// What a task has used since it began, and has now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Used {
    /// When it was read, in milliseconds since the agent's machine was started: nobody sets that clock.
    pub at_ms: u64,
    /// Processor time, in microseconds.
    pub cpu_micros: u64,
    /// Memory, in bytes; of a command without the files' cache that lies idle.
    pub mem_bytes: u64,
    /// The most memory that it had at once, in bytes; of a command with the files' cache.
    pub mem_peak_bytes: u64,
    /// What it has on the disk, in bytes, where that is measured: up to ten seconds ago.
    pub disk_bytes: Option<u64>,
    /// Its processes and threads, where it has some of its own.
    pub pids: Option<u64>,
    /// How often its program was instantiated, if that is WebAssembly: a service's once for each request.
    pub instances: Option<u32>,
}

impl Used {
    /// How much of the processors it took since an earlier look; none where the two cannot be compared,
    /// as where its machine was restarted in between.
    pub fn cpus_since(&self, earlier: &Self) -> Option<MilliCpus> {
        let micros = self.cpu_micros.checked_sub(earlier.cpu_micros)?;
        // Thousandths of a processor are microseconds in a millisecond.
        let milli = micros.checked_div(self.at_ms.checked_sub(earlier.at_ms)?)?;
        Some(MilliCpus(milli))
    }
}

/// What an agent tells on one request: a piece of its running tasks, by their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageList {
    /// At most as many as were asked for.
    pub tasks: Vec<UsageView>,
    /// Whether there are others after these.
    pub more: bool,
    /// How many run in all.
    pub total: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_looks_tell_how_much_of_the_processors_a_task_takes() {
        let look = |at_ms, cpu_micros| Used {
            at_ms,
            cpu_micros,
            mem_bytes: 0,
            mem_peak_bytes: 0,
            disk_bytes: None,
            pids: None,
            instances: None,
        };
        let first = look(5_000, 1_000_000);
        assert_eq!(
            look(7_000, 4_000_000).cpus_since(&first),
            Some(MilliCpus(1_500))
        );
        assert_eq!(
            look(7_000, 1_000_000).cpus_since(&first),
            Some(MilliCpus(0))
        );
        assert_eq!(look(5_000, 2_000_000).cpus_since(&first), None, "no time");
        assert_eq!(look(900, 1).cpus_since(&first), None, "another boot");
        assert_eq!(look(7_000, 1).cpus_since(&first), None, "another count");
    }
}
