//! What a task may have, in the units of the kernel's files.

use tepui_types::{Bytes, MilliCpus, Resources};

/// The period over which the cpu quota is measured: the kernel's default.
pub(super) const CPU_PERIOD_MICROS: u64 = 100_000;
/// What a task runs with that asked for no cpus: less, and even its start takes
/// whole periods.
const UNASKED_CPUS: MilliCpus = MilliCpus(100);
/// What a task runs with that asked for no memory.
pub const UNASKED_MEMORY: Bytes = Bytes::mib(32);

/// The limits of one cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Guaranteed against others, and the most it gets.
    pub cpus: MilliCpus,
    /// Memory and swap together.
    pub mem: Bytes,
    /// Processes and threads.
    pub pids: u32,
}

impl Limits {
    /// Processes and threads of a command that says nothing of them: enough
    /// for a build, too few for a fork bomb.
    pub const DEFAULT_PIDS: u32 = 1024;

    /// The limits of a task with these resources.
    pub fn of(resources: &Resources, pids: Option<u32>) -> Self {
        let cpus = if resources.cpus.0 == 0 {
            UNASKED_CPUS
        } else {
            resources.cpus
        };
        Self {
            cpus,
            mem: memory_of(resources),
            pids: pids.unwrap_or(Self::DEFAULT_PIDS),
        }
    }

    /// v1's `cpu.shares`: 1,024 for a cpu, from 2 to 262,144.
    pub(super) fn cpu_shares(&self) -> u64 {
        self.cpus
            .0
            .saturating_mul(1024)
            .div_euclid(1000)
            .clamp(2, 262_144)
    }

    /// v2's `cpu.weight`, from 1 to 10,000: the shares as runc converts them.
    pub(super) fn cpu_weight(&self) -> u64 {
        1 + (self.cpu_shares() - 2) * 9_999 / 262_142
    }

    /// Microseconds of processor time in each period; the kernel takes no less than 1,000.
    pub fn cpu_quota_micros(&self) -> i64 {
        let micros = self.cpus.0.saturating_mul(CPU_PERIOD_MICROS / 1000);
        i64::try_from(micros).unwrap_or(i64::MAX).max(1000)
    }
}

/// The memory that a task with these resources may have.
pub fn memory_of(resources: &Resources) -> Bytes {
    if resources.mem.0 == 0 {
        UNASKED_MEMORY
    } else {
        resources.mem
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_become_the_kernels_units() {
        let resources = Resources {
            cpus: MilliCpus(1500),
            mem: Bytes::mib(64),
            ..Default::default()
        };
        let limits = Limits::of(&resources, Some(8));
        assert_eq!(limits.cpu_shares(), 1536);
        assert_eq!(limits.cpu_weight(), 59);
        assert_eq!(limits.cpu_quota_micros(), 150_000);
        assert_eq!((limits.mem, limits.pids), (Bytes::mib(64), 8));
    }

    #[test]
    fn what_was_not_asked_for_is_small_and_not_endless() {
        let limits = Limits::of(&Resources::default(), None);
        assert_eq!(limits.mem, UNASKED_MEMORY);
        assert_eq!(limits.cpu_quota_micros(), 10_000);
        let huge = Limits {
            cpus: MilliCpus(u64::MAX),
            ..limits
        };
        assert_eq!(
            (huge.cpu_weight(), huge.cpu_quota_micros()),
            (10_000, i64::MAX)
        );
    }
}
