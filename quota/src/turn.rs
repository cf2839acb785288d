//! One at a time on one file system: whoever chooses a project's id, or sees that there is room and sets
//! it aside, has the turn until that can be seen by others.
//!
//! Several stores may be on one file system: those of volumes and sandboxes, and those of two agents of
//! one machine. There is a file for each device. Ranges of ids that belong to one store each would need
//! somebody to hand them out, and would keep no room.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;
use std::time::Duration;

use tepui_folder::turn;

use crate::error::BoundsError;

/// Where the files are. What is there does not outlive the machine's boot, and neither does a turn.
const FOLDER: &str = "/run/tepui-disks";
/// How long is waited for one: setting a terabyte aside takes seconds at most.
const PATIENCE: Duration = Duration::from_secs(60);

/// The turn on a file system; it ends with this.
#[derive(Debug)]
pub(crate) struct Turn {
    /// None where this process may not have such a file: it is alone then, as far as it can tell.
    _locked: Option<turn::Turn>,
}

impl Turn {
    /// Waits for the turn on the file system of a folder.
    pub fn of(folder: &Path) -> Result<Self, BoundsError> {
        Self::within(Path::new(FOLDER), folder, PATIENCE)
    }

    fn within(files: &Path, folder: &Path, patience: Duration) -> Result<Self, BoundsError> {
        let device = std::fs::metadata(folder)
            .map_err(|source| BoundsError::io("look at", folder, source))?
            .dev();
        let path = files.join(format!("{}:{}", libc::major(device), libc::minor(device)));
        match create(files).and_then(|()| turn::Turn::wait(&path, patience)) {
            Ok(Some(locked)) => Ok(Self {
                _locked: Some(locked),
            }),
            Ok(None) => Err(BoundsError::Busy(path)),
            Err(error) => {
                let path = path.display();
                tracing::warn!(%path, %error, "other agents of this machine are not waited for");
                Ok(Self { _locked: None })
            }
        }
    }
}

fn create(files: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(files) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn who_waits_too_long_is_told_for_what() {
        let dir = tempfile::tempdir().unwrap();
        let files = dir.path().join("turns");
        let take = |patience| Turn::within(&files, dir.path(), patience);
        let _first = take(LONG).unwrap();
        let error = take(Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("turns/"), "{error}");
    }

    #[test]
    fn who_may_have_no_such_file_goes_on_alone() {
        let dir = tempfile::tempdir().unwrap();
        let files = dir.path().join("none/turns");
        let turns = [(); 2].map(|()| Turn::within(&files, dir.path(), LONG).unwrap());
        assert!(turns.iter().all(|turn| turn._locked.is_none()));
    }
}
