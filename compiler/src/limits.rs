//! What one compilation may use.

use std::io;

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use tepui_types::Bytes;

/// The most that the process may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: u64,
    /// Seconds of processor time, of all threads together.
    pub cpu_s: u64,
    /// Bytes of machine code.
    pub code: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // An interpreter of 18 MiB takes 0.4 GiB; the largest that is taken, three times that.
            memory: Bytes::gib(2).0,
            // Four threads busy for two minutes: it ends those that nobody waits for any more.
            cpu_s: 480,
            // Eight times the largest component; they become two to four times as large.
            code: Bytes::mib(512).0,
        }
    }
}

impl Limits {
    /// How the process is told, by its last arguments.
    pub(crate) fn arguments(&self) -> [String; 3] {
        [self.memory, self.cpu_s, self.code].map(|number| number.to_string())
    }

    /// The same, on the other side.
    pub fn parse(arguments: [&str; 3]) -> Option<Self> {
        let [memory, cpu_s, code] = arguments.map(|text| text.parse().ok());
        Some(Self {
            memory: memory?,
            cpu_s: cpu_s?,
            code: code?,
        })
    }

    /// From here on this process has no more.
    ///
    /// # Errors
    /// Names the limit that cannot be set.
    pub fn impose(&self) -> io::Result<()> {
        // A name of its own in lists of processes, and the first to go where memory is short.
        nix::sys::prctl::set_name(c"tepui-compiler").ok();
        std::fs::write("/proc/self/oom_score_adj", "1000").ok();
        for (resource, soft, hard) in [
            // What is written to, not what is reserved: threads reserve much and use little.
            (Resource::RLIMIT_DATA, self.memory, self.memory),
            // The softer one ends it with a signal that says why.
            (
                Resource::RLIMIT_CPU,
                self.cpu_s,
                self.cpu_s.saturating_add(1),
            ),
            (Resource::RLIMIT_FSIZE, self.code, self.code),
            (Resource::RLIMIT_CORE, 0, 0),
        ] {
            limit(resource, soft, hard).map_err(|error| {
                io::Error::other(format!("failed to set {resource:?}: {error}"))
            })?;
        }
        Ok(())
    }
}

/// Never above what an operator has set.
fn limit(resource: Resource, soft: rlim_t, hard: rlim_t) -> nix::Result<()> {
    let (_, most) = getrlimit(resource)?;
    setrlimit(resource, soft.min(most), hard.min(most))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// What the process below is told, in a process of its own.
    const TOLD: &str = "TEPUI_COMPILER_TEST_LIMITS";

    #[test]
    fn limits_are_the_same_on_the_other_side() {
        let limits = Limits {
            memory: 1,
            cpu_s: 2,
            code: 3,
        };
        let arguments = limits.arguments();
        let [memory, cpu_s, code] = arguments.each_ref().map(String::as_str);
        assert_eq!(Limits::parse([memory, cpu_s, code]), Some(limits));
        assert_eq!(Limits::parse(["1", "x", "3"]), None);
    }

    /// No test by itself: what `a_process_has_no_more_than_its_limits` runs.
    #[test]
    fn process_with_limits() {
        if std::env::var_os(TOLD).is_none() {
            return;
        }
        let limits = Limits {
            memory: 1 << 30,
            ..Limits::default()
        };
        limits.impose().unwrap();
        println!("{}", std::fs::read_to_string("/proc/self/limits").unwrap());
    }

    #[test]
    fn a_process_has_no_more_than_its_limits() {
        let ran = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "limits::tests::process_with_limits"])
            .arg("--nocapture")
            .env(TOLD, "")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stdout);
        let of = |name: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(name));
            let words = line.unwrap_or_default().split_whitespace();
            words.take(2).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(of("Max data size"), ["1073741824", "1073741824"]);
        assert_eq!(of("Max cpu time"), ["480", "481"]);
        assert_eq!(of("Max file size"), ["536870912", "536870912"]);
        assert_eq!(of("Max core file size"), ["0", "0"]);
    }
}
