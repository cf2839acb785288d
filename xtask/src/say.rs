//! Progress lines: what a step does before it starts, and how long it took.
//!
//! Every module that starts something longer than a moment calls this one. Lines go to stderr, so
//! that a command's own output stays clean; a `==>` in front tells them from cargo's.

use std::time::{Duration, Instant};

use anyhow::Result;

/// Says what is about to happen, does it, and says how long it took.
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("==> {what} …");
    let start = Instant::now();
    let result = work();
    let took = duration(start.elapsed());
    match &result {
        Ok(_) => eprintln!("==> {what}: done in {took}"),
        Err(_) => eprintln!("==> {what}: FAILED after {took}"),
    }
    result
}

/// Says one thing that the reader ought to know.
pub fn note(what: &str) {
    eprintln!("==> {what}");
}

/// Says why the command as a whole failed.
pub fn error(what: &str) {
    eprintln!("error: {what}");
}

/// A duration as people say it: `0.4 s`, `12 s`, `3 min 20 s`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        _ => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_say_them() {
        assert_eq!(duration(Duration::from_millis(420)), "0.4 s");
        assert_eq!(duration(Duration::from_secs(12)), "12 s");
        assert_eq!(duration(Duration::from_secs(200)), "3 min 20 s");
    }
}
