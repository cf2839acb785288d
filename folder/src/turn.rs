//! Turns that processes of one machine take.
//!
//! A turn is a lock of the kernel's on a file (flock(2)): agents that know nothing of each other wait
//! for it by its path, and it goes with its process. A file in `/run` that only root may open is held by
//! no task, and does not outlive the machine's boot; nor does what the turn is about.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks: flock(2) knows no time limit.
const PAUSE: Duration = Duration::from_millis(5);

/// The turn at a file; it ends with this.
#[derive(Debug)]
pub struct Turn {
    _locked: File,
}

impl Turn {
    /// Waits for it, making the file if there is none; none if others had it for all of `patience`.
    /// Blocks.
    ///
    /// # Errors
    /// Those of the system: this process may have no such file, or no lock on it.
    pub fn wait(path: &Path, patience: Duration) -> io::Result<Option<Self>> {
        let mut options = File::options();
        let options = options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path)?;
        let is_ours = lock(&file, patience)?;
        Ok(is_ours.then_some(Self { _locked: file }))
    }
}

/// Waits for the lock of an open file; false if others had it for all of `patience`. Blocks.
///
/// # Errors
/// Those of the system.
#[expect(
    clippy::disallowed_methods,
    reason = "the kernel tells nobody; this thread may block"
)]
pub fn lock(file: &File, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn one_at_a_time_has_the_turn_and_nobody_waits_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("turn");
        let take = |patience| Turn::wait(&path, patience).unwrap();
        let first = take(LONG).unwrap();
        assert!(take(Duration::ZERO).is_none());
        drop(first);
        assert!(take(Duration::ZERO).is_some());

        let inside = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let _turn = take(LONG).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
    }

    #[test]
    fn who_may_have_no_such_file_is_told() {
        let error = Turn::wait(Path::new("/none/turn"), LONG).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
