//! An executor's own log: its standard error, which is a file in its folder.
//!
//! Executors may live for months beside an agent that cannot be talked to, so
//! the log begins anew when it has grown: its end is what people want, and what
//! the agent gives as an executor's last words.

use std::fmt::Display;
use std::io::{self, Stderr, Write};
use std::os::fd::AsFd;

use nix::sys::stat::fstat;
use nix::unistd::ftruncate;

/// Some ten thousand lines.
const MAX_BYTES: i64 = 1024 * 1024;

/// The log, with room for another line.
pub fn stderr() -> Stderr {
    let mut stderr = io::stderr();
    if trim(&stderr) {
        let _ = writeln!(
            stderr,
            "[tepui: the log had grown to {MAX_BYTES} bytes and begins anew]"
        );
    }
    stderr
}

/// Says something in it. Where that fails there is nobody to tell.
pub fn say(text: impl Display) {
    let _ = writeln!(stderr(), "{text}");
}

/// Empties a file that has grown; true if it did.
fn trim(file: impl AsFd) -> bool {
    let has_grown = fstat(&file).is_ok_and(|stat| stat.st_size > MAX_BYTES);
    has_grown && ftruncate(file, 0).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_has_grown_begins_anew() {
        let mut log = tempfile::tempfile().unwrap();
        log.write_all(&vec![b'x'; MAX_BYTES as usize]).unwrap();
        assert!(!trim(&log));
        log.write_all(b"x").unwrap();
        assert!(trim(&log));
        assert_eq!(log.metadata().unwrap().len(), 0);
        // Anything but a file is left alone.
        assert!(!trim(io::pipe().unwrap().1));
    }
}
