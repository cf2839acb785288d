//! The signals that images name to end their processes, and whether a process would act on one.

use std::fs;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// The first and the last real-time signal that programs may use: the C library has those below
/// (signal(7)), and images mean its numbers.
const REAL_TIME: (i32, i32) = (34, 64);

/// How often is looked whether a signal would be heard: a process that is on its way into a call, or out
/// of it, may slip through one look.
const LOOKS: usize = 3;

/// What asks a process to end: any signal, real-time ones as well, as systemd wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopSignal(i32);

impl StopSignal {
    /// What images mean that say nothing.
    pub const TERM: Self = Self(Signal::SIGTERM as i32);

    /// The signal of a name, with or without `SIG`, or of a number.
    pub fn named(text: &str) -> Result<Self, String> {
        let (first, last) = REAL_TIME;
        let name = text.to_ascii_uppercase();
        let name = name.strip_prefix("SIG").unwrap_or(&name);
        let of_name = |signal: &Signal| signal.as_str().strip_prefix("SIG") == Some(name);
        let number = match Signal::iterator().find(of_name) {
            Some(signal) => Some(signal as i32),
            None => real_time(name).or_else(|| name.parse().ok()),
        };
        let is_signal =
            |number: &i32| Signal::try_from(*number).is_ok() || (first..=last).contains(number);
        let number = number.filter(is_signal);
        number
            .map(Self)
            .ok_or_else(|| format!("`{text}` is no signal"))
    }

    /// Sends it to a process, or to the group of the number below zero. They may have ended.
    pub fn send(self, to: Pid) {
        // SAFETY: it touches no memory of this process.
        let _ = unsafe { libc::kill(to.as_raw(), self.0) };
    }

    /// Whether a process handles it, or keeps it until it asks for it, as tini does: the first of a PID
    /// namespace has no default actions (pid_namespaces(7)), so of others it never hears.
    pub fn is_heard_by(self, pid: Pid) -> bool {
        // What waits for a signal has it blocked but for the time of that call: one of two looks that
        // follow each other sees one or the other.
        (0..LOOKS).any(|_| self.is_in_masks(pid) || is_waiting(pid))
    }

    fn is_in_masks(self, pid: Pid) -> bool {
        let status = fs::read_to_string(format!("/proc/{pid}/status"));
        // One that is gone needs nothing more.
        status.is_ok_and(|status| {
            let masks = ["SigCgt:", "SigBlk:"];
            masks.iter().any(|mask| is_in(&status, mask, self))
        })
    }
}

/// Whether a process waits for signals now: for which the kernel does not say.
fn is_waiting(pid: Pid) -> bool {
    let call = fs::read_to_string(format!("/proc/{pid}/syscall"));
    let call = call.unwrap_or_default();
    let number = call
        .split(' ')
        .next()
        .and_then(|number| number.parse().ok());
    number == Some(libc::SYS_rt_sigtimedwait)
}

/// `RTMIN`, `RTMIN+3`, `RTMAX-1`, `RTMAX`.
fn real_time(name: &str) -> Option<i32> {
    let (first, last) = REAL_TIME;
    let (from, sign, rest) = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => (first, '+', rest),
        (None, Some(rest)) => (last, '-', rest),
        (None, None) => return None,
    };
    if rest.is_empty() {
        return Some(from);
    }
    let far: i32 = rest.strip_prefix(sign)?.parse().ok()?;
    let there = match sign {
        '+' => from.checked_add(far),
        _ => from.checked_sub(far),
    };
    there.filter(|there| far >= 0 && (first..=last).contains(there))
}

/// Whether a signal is in one of the masks of proc_pid_status(5).
fn is_in(status: &str, mask: &str, signal: StopSignal) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix(mask));
    let bits = line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    bits.is_some_and(|bits| bits >> (signal.0 - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        let named = StopSignal::named;
        for text in ["SIGQUIT", "quit", "3"] {
            assert_eq!(named(text), Ok(StopSignal(3)));
        }
        for (text, number) in [
            ("SIGRTMIN", 34),
            ("rtmin+3", 37),
            ("37", 37),
            ("SIGRTMAX-1", 63),
            ("SIGRTMAX", 64),
        ] {
            assert_eq!(named(text), Ok(StopSignal(number)));
        }
        for text in [
            "",
            "SIG",
            "SIGNOTHING",
            "0",
            "-9",
            "32",
            "65",
            "RTMIN-1",
            "RTMIN+31",
            "RTMAX+0",
            "RTMIN+-1",
            "RTMIN+",
        ] {
            assert!(named(text).is_err(), "{text}");
        }
    }

    #[test]
    fn masks_are_read_from_the_lowest_bit() {
        let status = "Name:\tx\nSigIgn:\t0000000000001000\nSigCgt:\t0000000000004002\n";
        assert!(is_in(status, "SigCgt:", StopSignal(Signal::SIGTERM as i32)));
        assert!(is_in(status, "SigCgt:", StopSignal(Signal::SIGINT as i32)));
        assert!(!is_in(status, "SigCgt:", StopSignal(Signal::SIGHUP as i32)));
        assert!(!is_in(
            status,
            "SigBlk:",
            StopSignal(Signal::SIGTERM as i32)
        ));
    }
}
