//! What a cgroup counts.
//!
//! The files stay open: a process that has many tasks reads them for each, and looking for a file
//! costs several times what reading it costs.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use tepui_types::task::TaskUsage;

use super::{CGROUP_EVENTS, Group};

/// The longest of these files, in bytes: `cpu.stat` on v2.
const MAX_FILE: usize = 4096;
const PIDS_EVENTS: &str = "pids.events";
/// v1's names.
const MEMORY_OOM_CONTROL: &str = "memory.oom_control";
const MEMORY_MAX_USAGE: &str = "memory.max_usage_in_bytes";
const CPUACCT_USAGE: &str = "cpuacct.usage";
/// v2's names.
const CPU_STAT: &str = "cpu.stat";
const MEMORY_EVENTS: &str = "memory.events";
const MEMORY_PEAK: &str = "memory.peak";

/// What its processes have used and run into.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Time and memory.
    pub usage: TaskUsage,
    /// How many of its processes were killed for memory.
    pub oom_kills: u64,
    /// How often it was refused another process.
    pub refused_pids: u64,
}

impl Counts {
    /// What has been added; the peak of memory is no sum and stays.
    pub fn since(self, before: Self) -> Self {
        Self {
            usage: TaskUsage {
                cpu_micros: self
                    .usage
                    .cpu_micros
                    .saturating_sub(before.usage.cpu_micros),
                ..self.usage
            },
            oom_kills: self.oom_kills.saturating_sub(before.oom_kills),
            refused_pids: self.refused_pids.saturating_sub(before.refused_pids),
        }
    }
}

/// The open files of one cgroup; those that a kernel lacks count nothing.
#[derive(Debug)]
pub struct Counters {
    cpu: Option<Cpu>,
    peak: Option<File>,
    /// v1's peak begins anew when it is written to.
    peak_can_restart: bool,
    oom: Option<File>,
    pids: Option<File>,
    events: Option<File>,
}

#[derive(Debug)]
enum Cpu {
    /// Microseconds on a line of its own.
    Stat(File),
    /// Nanoseconds and nothing else.
    Acct(File),
}

impl Counters {
    pub(super) fn open(group: &Group) -> Self {
        let file = |controller, name| open(&group.dir_of(controller)?.join(name), false);
        let unified = group.unified.as_ref();
        let stat = unified.and_then(|dir| open(&dir.join(CPU_STAT), false));
        let acct = || file("cpuacct", CPUACCT_USAGE).map(Cpu::Acct);
        let dir = group.dir_of("memory");
        let restartable = dir.and_then(|dir| open(&dir.join(MEMORY_MAX_USAGE), true));
        Self {
            // Container runtimes enter v1's hierarchies, and not all of them a v2 one beside those.
            cpu: acct().or_else(|| stat.map(Cpu::Stat)),
            peak_can_restart: restartable.is_some(),
            peak: restartable.or_else(|| file("memory", MEMORY_PEAK)),
            oom: file("memory", MEMORY_OOM_CONTROL).or_else(|| file("memory", MEMORY_EVENTS)),
            pids: file("pids", PIDS_EVENTS),
            events: unified.and_then(|dir| open(&dir.join(CGROUP_EVENTS), false)),
        }
    }

    /// What is counted now.
    pub fn read(&self) -> Counts {
        let cpu = self.cpu.as_ref().and_then(|cpu| match cpu {
            Cpu::Stat(file) => keyed(&text(file)?, "usage_usec"),
            Cpu::Acct(file) => Some(number(file)? / 1000),
        });
        let count = |file: &Option<File>, key| file.as_ref().and_then(|f| keyed(&text(f)?, key));
        Counts {
            usage: TaskUsage {
                cpu_micros: cpu.unwrap_or(0),
                mem_peak_bytes: self.peak.as_ref().and_then(number).unwrap_or(0),
                instances: None,
            },
            oom_kills: count(&self.oom, "oom_kill").unwrap_or(0),
            refused_pids: count(&self.pids, "max").unwrap_or(0),
        }
    }

    /// Whether it has processes, as far as the v2 hierarchy knows: v1 makes a list of them for who
    /// asks.
    pub fn is_populated(&self) -> Option<bool> {
        Some(keyed(&text(self.events.as_ref()?)?, "populated")? > 0)
    }

    /// Lets the peak of memory begin anew, and says what is charged now; none where it cannot.
    pub fn restart_peak(&self) -> Option<u64> {
        let peak = self.peak.as_ref().filter(|_| self.peak_can_restart)?;
        peak.write_at(b"0", 0).ok()?;
        number(peak)
    }

    /// Whether [`Counters::restart_peak`] may succeed.
    pub fn can_restart(&self) -> bool {
        self.peak_can_restart
    }
}

fn open(path: &Path, writable: bool) -> Option<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(writable).open(path).ok()
}

fn text(file: &File) -> Option<String> {
    let mut bytes = [0; MAX_FILE];
    let count = file.read_at(&mut bytes, 0).ok()?;
    std::str::from_utf8(&bytes[..count]).ok().map(str::to_owned)
}

fn number(file: &File) -> Option<u64> {
    text(file)?.trim().parse().ok()
}

/// The number on the line of `key`.
fn keyed(text: &str, key: &str) -> Option<u64> {
    let value = |line: &str| {
        let rest = line.strip_prefix(key)?.strip_prefix(' ')?;
        rest.trim().parse().ok()
    };
    text.lines().find_map(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_by_its_whole_key() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n";
        assert_eq!(keyed(text, "oom_kill"), Some(7));
        assert_eq!(keyed(text, "oom"), None);
    }

    #[test]
    fn what_was_counted_before_is_nobodys() {
        let counts = |cpu_micros, mem_peak_bytes, oom_kills| Counts {
            usage: TaskUsage {
                cpu_micros,
                mem_peak_bytes,
                instances: None,
            },
            oom_kills,
            refused_pids: 1,
        };
        let mut added = counts(5, 50, 1);
        added.refused_pids = 0;
        assert_eq!(counts(12, 50, 3).since(counts(7, 90, 2)), added);
    }
}
