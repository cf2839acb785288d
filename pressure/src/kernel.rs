//! Numbers out of the kernel's text files: memory, processor time, processes.
//!
//! Each function takes a file's text and is total: it parses what it knows, and says what is missing.
//! The forms are those of the kernel's `Documentation/filesystems/proc.rst` and
//! `Documentation/admin-guide/cgroup-v2.rst`.

use tepui_types::Bytes;

use crate::error::Malformed;
use crate::readings::Mem;

/// Processor time of the whole machine since its start, in the kernel's ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticks {
    /// Of all processors together.
    pub all: u64,
    /// Of those, what somebody had.
    pub busy: u64,
    /// How many processors there are.
    pub cpus: u64,
}

/// `MemTotal` and `MemAvailable` of `/proc/meminfo`.
pub fn meminfo(text: &str) -> Result<Mem, Malformed> {
    let field = |name: &'static str| {
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let value = value.ok_or(Malformed::Missing(name))?;
        let kib = value.trim().strip_suffix("kB").map(str::trim);
        let kib: Option<u64> = kib.and_then(|kib| kib.parse().ok());
        let bytes = kib.and_then(|kib| kib.checked_mul(1024));
        bytes.map(Bytes).ok_or(Malformed::Number(name))
    };
    let total = field("MemTotal")?;
    Ok(Mem {
        total,
        available: field("MemAvailable")?.min(total),
    })
}

/// The `cpu` lines of `/proc/stat`.
///
/// What a hypervisor took (`steal`) counts as busy: nobody here can have it. Time of guests is part of
/// `user` already. Waiting for disks (`iowait`) is idle.
pub fn stat(text: &str) -> Result<Ticks, Malformed> {
    let mut lines = text.lines();
    let sum = lines.next().and_then(|line| line.strip_prefix("cpu "));
    let mut fields = [0_u64; 8];
    let mut words = sum
        .ok_or(Malformed::Missing("cpu"))?
        .split_ascii_whitespace();
    for field in &mut fields {
        // Kernels before 2.6.11 have fewer fields; what is not there is nothing.
        let Some(word) = words.next() else { break };
        *field = word.parse().map_err(|_| Malformed::Number("cpu"))?;
    }
    let [user, nice, system, idle, iowait, irq, softirq, steal] = fields;
    let add = |sum: u64, field: &u64| sum.saturating_add(*field);
    let busy = [user, nice, system, irq, softirq, steal]
        .iter()
        .fold(0, add);
    Ok(Ticks {
        all: [busy, idle, iowait].iter().fold(0, add),
        busy,
        cpus: lines.take_while(|line| line.starts_with("cpu")).count() as u64,
    })
}

/// How many threads there are on the machine, of `/proc/loadavg`.
pub fn threads(loadavg: &str) -> Result<u64, Malformed> {
    let counts = loadavg.split_ascii_whitespace().nth(3);
    let all = counts.and_then(|counts| counts.split_once('/'));
    let (_, all) = all.ok_or(Malformed::Missing("count of threads"))?;
    all.parse()
        .map_err(|_| Malformed::Number("count of threads"))
}

/// A file that is one number.
pub fn number(text: &str) -> Result<u64, Malformed> {
    let number = text.trim().parse();
    number.map_err(|_| Malformed::Number("value"))
}

/// A limit of a cgroup: a number, or `max`, which is none.
pub fn limit(text: &str) -> Result<Option<u64>, Malformed> {
    match text.trim() {
        "max" => Ok(None),
        _ => number(text).map(Some),
    }
}

/// A field of a cgroup's `memory.stat`; nothing where the kernel does not tell it.
pub fn stat_field(text: &str, name: &'static str) -> Result<u64, Malformed> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
    match pairs.find(|(field, _)| *field == name) {
        Some((_, value)) => value.trim().parse().map_err(|_| Malformed::Number(name)),
        None => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        let text = "MemTotal:  4096 kB\nMemFree: 1 kB\nMemAvailable:    2048 kB\n";
        let mem = meminfo(text).unwrap();
        assert_eq!((mem.total, mem.available), (Bytes::mib(4), Bytes::mib(2)));
        for (text, wrong) in [
            ("MemTotal: 4 kB\n", Malformed::Missing("MemAvailable")),
            ("MemTotalX: 4 kB\n", Malformed::Missing("MemTotal")),
            ("MemTotal: 4 MB\n", Malformed::Number("MemTotal")),
            (
                "MemTotal: 18446744073709551615 kB\n",
                Malformed::Number("MemTotal"),
            ),
        ] {
            assert_eq!(meminfo(text), Err(wrong), "{text}");
        }
    }

    #[test]
    fn stolen_time_is_busy_and_waiting_for_disks_is_idle() {
        let text = "cpu  1 2 3 40 50 4 5 6 1 0\ncpu0 1 2\ncpu1 1 2\nintr 5 cpu\n";
        let ticks = Ticks {
            all: 111,
            busy: 21,
            cpus: 2,
        };
        assert_eq!(stat(text), Ok(ticks));
        assert_eq!(stat("cpu  1 2\n").map(|ticks| ticks.busy), Ok(3));
        assert_eq!(stat("cpu0 1 2\n"), Err(Malformed::Missing("cpu")));
        assert_eq!(stat("cpu  1 x\n"), Err(Malformed::Number("cpu")));
    }

    #[test]
    fn threads_and_limits_are_counted() {
        assert_eq!(threads("2.33 3.71 4.03 3/102 6521\n"), Ok(102));
        assert!(threads("2.33 3.71").is_err());
        assert_eq!((limit("max\n"), limit("12\n")), (Ok(None), Ok(Some(12))));
        assert!(limit("most").is_err());
        let text = "anon 5\ninactive_file 70\n";
        assert_eq!(stat_field(text, "inactive_file"), Ok(70));
        assert_eq!(stat_field(text, "file"), Ok(0));
    }

    proptest! {
        #[test]
        fn no_text_breaks_a_parser(text in "\\PC*|(cpu |MemTotal: ?|MemAvailable: ?)[0-9 kB\n]*") {
            _ = (meminfo(&text), stat(&text), threads(&text), limit(&text));
            _ = stat_field(&text, "anon");
        }
    }
}
