//! One at a time on one file system: whoever chooses a project's id, or sees that there is room and sets
//! it aside, has the turn until that can be seen by others.
//!
//! Several stores may be on one file system: those of volumes and sandboxes, and those of two agents of
//! one machine. The turn is a lock of the kernel's on a file in `/run`, one for each device: only root
//! may open it, so no task can hold it, and it goes with its process. Ranges of ids that belong to one
//! store each would need somebody to hand them out, and would keep no room.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::BoundsError;

/// Where the files are. What is there does not outlive the machine's boot, and neither does a turn.
const FOLDER: &str = "/run/tepui-disks";
/// How long is waited for one: setting a terabyte aside takes seconds at most.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// The turn on a file system; it ends with this.
#[derive(Debug)]
pub(crate) struct Turn {
    /// None where this process may not have such a file: it is alone then, as far as it can tell.
    _locked: Option<File>,
}

impl Turn {
    /// Waits for the turn on the file system of a folder.
    pub fn of(folder: &Path) -> Result<Self, BoundsError> {
        Self::within(Path::new(FOLDER), folder, PATIENCE)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the kernel tells nobody; this thread may block"
    )]
    fn within(files: &Path, folder: &Path, patience: Duration) -> Result<Self, BoundsError> {
        let device = std::fs::metadata(folder)
            .map_err(|source| BoundsError::io("look at", folder, source))?
            .dev();
        let path = files.join(format!("{}:{}", libc::major(device), libc::minor(device)));
        let file = match open(files, &path) {
            Ok(file) => file,
            Err(error) => {
                let path = path.display();
                tracing::warn!(%path, %error, "other agents of this machine are not waited for");
                return Ok(Self { _locked: None });
            }
        };
        let deadline = Instant::now() + patience;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    return Ok(Self {
                        _locked: Some(file),
                    });
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => {
                    std::thread::sleep(PAUSE);
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) => return Err(BoundsError::Busy(path)),
                Err(error) => return Err(BoundsError::io("lock", &path, error)),
            }
        }
    }
}

fn open(files: &Path, path: &PathBuf) -> io::Result<File> {
    match DirBuilder::new().mode(0o700).create(files) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let mut options = File::options();
    let options = options.write(true).create(true).truncate(false);
    options.mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn one_at_a_time_has_the_turn_and_who_waits_too_long_is_told_for_what() {
        let dir = tempfile::tempdir().unwrap();
        let files = dir.path().join("turns");
        let take = |patience| Turn::within(&files, dir.path(), patience);
        let first = take(LONG).unwrap();
        let error = take(Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("turns/"), "{error}");
        drop(first);
        take(Duration::ZERO).unwrap();

        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let _turn = take(LONG).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
    }

    #[test]
    fn who_may_have_no_such_file_goes_on_alone() {
        let dir = tempfile::tempdir().unwrap();
        let files = dir.path().join("none/turns");
        let turns = [(); 2].map(|()| Turn::within(&files, dir.path(), LONG).unwrap());
        assert!(turns.iter().all(|turn| turn._locked.is_none()));
    }
}
