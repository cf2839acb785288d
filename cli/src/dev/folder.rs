//! The folder of a local cluster: one `tepui dev` at a time, and a place each
//! for the parts' data, logs and process identities.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// An open folder. The lock goes with the process.
pub struct Folder {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Folder {
    /// Opens or makes the folder; the user's own state folder when none is named.
    pub fn open(dir: Option<PathBuf>) -> Result<Self> {
        let path = match dir {
            Some(dir) => std::path::absolute(&dir)
                .with_context(|| format!("{} cannot be a folder", dir.display()))?,
            None => default_dir()?,
        };
        for folder in [path.clone(), path.join("logs"), path.join("processes")] {
            let mut builder = DirBuilder::new();
            let made = builder.recursive(true).mode(0o700).create(&folder);
            made.with_context(|| {
                let folder = folder.display();
                format!("failed to create {folder}: name a folder that you may write to with --dir")
            })?;
        }
        let file = path.join("lock");
        let lock = File::options().create(true).append(true).open(&file);
        let lock = lock.with_context(|| {
            let file = file.display();
            format!("failed to open {file}: name a folder that you may write to with --dir")
        })?;
        match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { path, _lock: lock }),
            Err((_, Errno::EWOULDBLOCK)) => bail!(
                "another `tepui dev` uses {}: stop it first, or name another folder with --dir",
                path.display()
            ),
            Err((_, error)) => {
                Err(error).with_context(|| format!("failed to lock {}", file.display()))
            }
        }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the parts' logs are.
    pub fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// Where the identity of a part's process is kept.
    pub fn identity(&self, part: &str) -> PathBuf {
        self.path.join("processes").join(part)
    }
}

fn default_dir() -> Result<PathBuf> {
    let named = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let state = named("XDG_STATE_HOME")
        .or_else(|| named("HOME").map(|home| home.join(".local/state")))
        .context("neither XDG_STATE_HOME nor HOME names a folder: name one with --dir")?;
    Ok(state.join("tepui/dev"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_used_once_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let first = Folder::open(Some(path.clone())).unwrap();
        let error = Folder::open(Some(path.clone())).err().unwrap().to_string();
        assert!(error.contains("another `tepui dev` uses"), "{error}");
        drop(first);
        assert!(Folder::open(Some(path)).is_ok());
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("file");
        std::fs::write(&path, "").unwrap();
        let error = Folder::open(Some(path.clone())).err().unwrap().to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
        assert!(error.contains("--dir"), "{error}");
    }
}
