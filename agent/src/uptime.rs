//! The machine's uptime: the agent's monotonic clock.
//!
//! It goes on while the machine sleeps and while no agent runs, and nobody sets it. What is counted
//! by it is good until the machine is restarted, which another boot id tells.

use std::sync::atomic::{AtomicU64, Ordering};

/// Where the kernel tells it.
const FILE: &str = "/proc/uptime";

/// The last time that was seen: shown again should the file ever not be readable.
static LAST: AtomicU64 = AtomicU64::new(0);

/// Milliseconds since the machine was started.
pub fn now_ms() -> u64 {
    let text = std::fs::read_to_string(FILE).unwrap_or_default();
    let now = parse(&text).unwrap_or(0);
    LAST.fetch_max(now, Ordering::Relaxed).max(now)
}

/// The first number, which has two decimals of a second.
fn parse(text: &str) -> Option<u64> {
    let (seconds, rest) = text.split_once('.')?;
    let hundredths = rest.get(..2)?;
    let seconds: u64 = seconds.parse().ok()?;
    let hundredths: u64 = hundredths.parse().ok()?;
    Some(seconds * 1_000 + hundredths * 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_file_is_read() {
        assert_eq!(parse("12345.67 98765.43\n"), Some(12_345_670));
        assert_eq!(parse("0.05 0.00\n"), Some(50));
        assert_eq!(parse(""), None);
        let first = now_ms();
        assert!(first > 0 && now_ms() >= first);
    }
}
