//! Polled assertions with a deadline: how tests wait.

use std::time::Duration;

use tokio::time::Instant;

/// How long anything may take. Far above what it takes, for loaded machines:
/// no test passes or fails by speed.
pub const DEADLINE: Duration = Duration::from_secs(90);
/// The pauses between two looks.
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Waits until `check` gives a value; panics with what it last said instead.
pub async fn eventually<T, E: std::fmt::Display>(
    what: &str,
    mut check: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let deadline = Instant::now() + DEADLINE;
    let mut pause = SHORTEST_PAUSE;
    loop {
        match check().await {
            Ok(value) => return value,
            Err(error) if Instant::now() > deadline => {
                panic!(
                    "{what}: not within {} s; the last look gave: {error}",
                    DEADLINE.as_secs()
                )
            }
            Err(_) => tokio::time::sleep(pause).await,
        }
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

/// The same for code that cannot wait asynchronously.
#[expect(
    clippy::disallowed_methods,
    reason = "a `drop` has no other way to wait"
)]
pub fn eventually_blocking<T, E: std::fmt::Display>(
    what: &str,
    mut check: impl FnMut() -> Result<T, E>,
) -> T {
    let deadline = std::time::Instant::now() + DEADLINE;
    loop {
        match check() {
            Ok(value) => return value,
            Err(error) if std::time::Instant::now() > deadline => {
                panic!(
                    "{what}: not within {} s; the last look gave: {error}",
                    DEADLINE.as_secs()
                )
            }
            Err(_) => std::thread::sleep(SHORTEST_PAUSE),
        }
    }
}
