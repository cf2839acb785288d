//! The signals that images name, and whether a process would act on one.

use std::fs;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// The signal of a name, with or without `SIG`, or of a number.
pub fn named(text: &str) -> Result<Signal, String> {
    if let Ok(number) = text.parse::<i32>() {
        return Signal::try_from(number).map_err(|_| format!("{number} is no signal"));
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let found = Signal::iterator().find(|signal| signal.as_str().strip_prefix("SIG") == Some(name));
    found.ok_or_else(|| format!("`{text}` is no signal"))
}

/// Whether a process handles this signal, or keeps it until it asks for it, as tini does: the first of a
/// PID namespace has no default actions (pid_namespaces(7)), so of others it never hears.
pub fn is_handled(pid: Pid, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status"));
    // One that is gone needs nothing more.
    status.is_ok_and(|status| {
        let masks = ["SigCgt:", "SigBlk:"];
        masks.iter().any(|mask| is_in(&status, mask, signal))
    })
}

/// Whether a signal is in one of the masks of proc_pid_status(5).
fn is_in(status: &str, mask: &str, signal: Signal) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix(mask));
    let bits = line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    bits.is_some_and(|bits| bits >> (signal as i32 - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for text in ["SIGQUIT", "quit", "3"] {
            assert_eq!(named(text), Ok(Signal::SIGQUIT));
        }
        for text in ["", "SIG", "SIGNOTHING", "0", "-9", "65"] {
            assert!(named(text).is_err(), "{text}");
        }
    }

    #[test]
    fn masks_are_read_from_the_lowest_bit() {
        let status = "Name:\tx\nSigIgn:\t0000000000001000\nSigCgt:\t0000000000004002\n";
        assert!(is_in(status, "SigCgt:", Signal::SIGTERM));
        assert!(is_in(status, "SigCgt:", Signal::SIGINT));
        assert!(!is_in(status, "SigCgt:", Signal::SIGHUP));
        assert!(!is_in(status, "SigBlk:", Signal::SIGTERM));
    }
}
