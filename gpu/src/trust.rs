//! Whether what lies at a path is as its machine's operator wants it: programs that a description names
//! run with the agent's rights.
//!
//! Of a file, where links lead, and of every folder above it, nobody but root, or whoever the agent runs
//! as, may be the owner or may write there. The links themselves may be anybody's, so what was looked at is
//! used by its real path, never by the one that has led there.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A group or others may write. Who is in a group changes without a trace on the file.
const WRITABLE: u32 = 0o022;
/// In such a folder nobody takes away what is another's.
const STICKY: u32 = 0o1000;

/// Why something is not to be trusted.
#[derive(Debug, thiserror::Error)]
pub enum Distrust {
    /// It could not be looked at.
    #[error("{path} cannot be looked at")]
    Look {
        /// Which.
        path: PathBuf,
        /// What happened.
        #[source]
        source: std::io::Error,
    },
    /// It is no file.
    #[error("{0} is not a file")]
    NoFile(PathBuf),
    /// Somebody else's.
    #[error("{path} belongs to user {uid}: `chown root` it")]
    Owner {
        /// Which, or a folder above it.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
    },
    /// Somebody else may change it.
    #[error("others than its owner may write {0}: `chmod go-w` it")]
    Writable(PathBuf),
}

/// Looks at a file and at all folders above it. The answer is its real path: nobody else can have that lead
/// elsewhere.
///
/// # Errors
/// Says what is wrong, and with which part.
pub fn check_trust(path: &Path) -> Result<PathBuf, Distrust> {
    let look = |source| Distrust::Look {
        path: path.to_owned(),
        source,
    };
    let real = path.canonicalize().map_err(look)?;
    let own = rustix::process::geteuid().as_raw();
    for (number, part) in real.ancestors().enumerate() {
        let found = part.symlink_metadata().map_err(look)?;
        if number == 0 && !found.is_file() {
            return Err(Distrust::NoFile(path.to_owned()));
        }
        if found.uid() != 0 && found.uid() != own {
            return Err(Distrust::Owner {
                path: part.to_owned(),
                uid: found.uid(),
            });
        }
        let is_shared = found.is_dir() && found.mode() & STICKY != 0;
        if found.mode() & WRITABLE != 0 && !is_shared {
            return Err(Distrust::Writable(part.to_owned()));
        }
    }
    Ok(real)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn who_may_change_a_file_must_be_its_machines_operator() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("bin");
        fs::create_dir(&folder).unwrap();
        let file = folder.join("hook");
        fs::write(&file, "").unwrap();
        for path in [&folder, &file] {
            set(path, 0o755);
        }
        let link = place.path().join("link");
        symlink(&file, &link).unwrap();
        let told = |path: &Path| check_trust(path).map_err(|error| error.to_string());
        let real = file.canonicalize().unwrap();
        assert_eq!(
            (told(&file), told(&link)),
            (Ok(real.clone()), Ok(real.clone()))
        );
        for mode in [0o757, 0o775] {
            set(&file, mode);
            assert!(told(&link).unwrap_err().contains("may write"), "{mode:o}");
        }
        set(&file, 0o755);
        set(&folder, 0o777);
        assert!(told(&file).unwrap_err().contains("bin: `chmod go-w`"));
        set(&folder, 0o1777);
        assert_eq!(told(&file), Ok(real), "as in /tmp");
        assert!(told(&folder).unwrap_err().contains("is not a file"));
        let gone = told(&folder.join("gone")).unwrap_err();
        assert!(gone.contains("cannot be looked at"), "{gone}");
        // Only root gives files away.
        if chown(&file, Some(4711), Some(0)).is_ok() {
            assert!(told(&file).unwrap_err().contains("belongs to user 4711"));
        }
    }
}
