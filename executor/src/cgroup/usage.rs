//! What a cgroup's processes use now: for who watches over the machine, and who asks.

use std::fs;
use std::path::Path;

use super::Group;

/// v1's name of the memory that is charged, and v2's.
const MEMORY_NOW: [&str; 2] = ["memory.usage_in_bytes", "memory.current"];
const MEMORY_STAT: &str = "memory.stat";
/// v1's name of the files' cache that was not used lately, in it and below it; and v2's.
const IDLE_CACHE: [&str; 2] = ["total_inactive_file", "inactive_file"];
const PIDS_NOW: &str = "pids.current";

/// What is used now. What a kernel does not count is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time since the cgroup was made, in microseconds.
    pub cpu_micros: u64,
    /// Memory without files' cache that lies idle, in bytes.
    pub mem_bytes: u64,
    /// The most memory at once, files' cache included, in bytes.
    pub mem_peak_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
}

impl Group {
    /// What its processes use now; nothing if it is not there.
    pub fn usage(&self) -> Usage {
        let number = |controller, names: &[&str]| {
            let dir = self.dir_of(controller)?;
            names.iter().find_map(|name| read_number(&dir.join(name)))
        };
        let charged = number("memory", &MEMORY_NOW).unwrap_or(0);
        let stat = self.dir_of("memory").map(|dir| dir.join(MEMORY_STAT));
        let idle = stat.and_then(|path| idle_cache(&fs::read_to_string(path).ok()?));
        let counted = self.counters().read().usage;
        Usage {
            cpu_micros: counted.cpu_micros,
            mem_bytes: charged.saturating_sub(idle.unwrap_or(0)),
            mem_peak_bytes: counted.mem_peak_bytes,
            pids: number("pids", &[PIDS_NOW]).unwrap_or(0),
        }
    }
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn idle_cache(stat: &str) -> Option<u64> {
    // v1 says both; what is below it counts, too.
    IDLE_CACHE.iter().find_map(|name| {
        let mut lines = stat.lines();
        lines.find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_cache_is_read_in_both_forms() {
        let v1 = "cache 5\ninactive_file 1\ntotal_cache 9\ntotal_inactive_file 7\n";
        assert_eq!(idle_cache(v1), Some(7));
        assert_eq!(idle_cache("anon 5\ninactive_file 3\n"), Some(3));
        assert_eq!(idle_cache("anon 5\n"), None);
    }
}
