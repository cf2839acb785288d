//! What each agent of a local cluster may lend: an equal part of the machine.

use std::path::Path;

use anyhow::{Context, Result};

/// The first port of the first agent.
const FIRST_PORT: u16 = 31_000;
/// How many ports each agent has.
const PORTS: u16 = 1_000;
/// Below this an agent could not run a task that asks for one processor, which
/// is more surprising on a small machine than a processor that is shared.
const LEAST_MILLI_CPUS: u64 = 1_000;

/// One agent's share.
#[derive(Debug, PartialEq)]
pub struct Share {
    /// The machine's name with the agent's number.
    pub hostname: String,
    /// The value of `--resources`.
    pub resources: String,
}

/// The machine in `count` parts; tasks' files go to `dir`.
pub fn shares(count: usize, dir: &Path) -> Result<Vec<Share>> {
    let cpus = std::thread::available_parallelism().context("failed to count the processors")?;
    let meminfo =
        std::fs::read_to_string("/proc/meminfo").context("failed to read /proc/meminfo")?;
    let disk = nix::sys::statvfs::statvfs(dir)
        .with_context(|| format!("failed to measure the disk of {}", dir.display()))?;
    let host = nix::unistd::gethostname().context("failed to read the machine's name")?;
    Ok(divide(
        count,
        &host.to_string_lossy(),
        cpus.get() as u64 * 1000,
        mem_total_kib(&meminfo).context("/proc/meminfo names no MemTotal")? / 1024,
        disk.blocks_available() * disk.fragment_size() / (1024 * 1024),
    ))
}

fn divide(count: usize, host: &str, milli_cpus: u64, mem_mib: u64, disk_mib: u64) -> Vec<Share> {
    let parts = count.max(1) as u64;
    let milli = (milli_cpus / parts).max(LEAST_MILLI_CPUS);
    let share = |number: usize| {
        let first = FIRST_PORT + PORTS * number as u16;
        Share {
            hostname: format!("{host}-{}", number + 1),
            resources: format!(
                "cpus={}.{:03},mem={}MiB,disk={}MiB,ports={first}-{}",
                milli / 1000,
                milli % 1000,
                mem_mib / parts,
                disk_mib / parts,
                first + PORTS - 1,
            ),
        }
    };
    (0..count).map(share).collect()
}

fn mem_total_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_share_equally_and_have_ports_of_their_own() {
        let shares = divide(3, "host", 16_000, 30_000, 90_000);
        let expected = [
            "cpus=5.333,mem=10000MiB,disk=30000MiB,ports=31000-31999",
            "cpus=5.333,mem=10000MiB,disk=30000MiB,ports=32000-32999",
            "cpus=5.333,mem=10000MiB,disk=30000MiB,ports=33000-33999",
        ];
        assert!(shares.iter().map(|share| &share.resources).eq(expected));
        assert_eq!(shares[1].hostname, "host-2");
    }

    #[test]
    fn a_small_machine_still_runs_a_task_of_one_processor() {
        let shares = divide(3, "host", 2_000, 300, 300);
        assert!(shares[0].resources.starts_with("cpus=1.000,"));
    }

    #[test]
    fn memory_is_read_from_the_kernels_list() {
        assert_eq!(
            mem_total_kib("MemFree: 1 kB\nMemTotal:       2048 kB\n"),
            Some(2048)
        );
        assert_eq!(mem_total_kib("nothing"), None);
    }
}
