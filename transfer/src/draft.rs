//! What is unfinished, and gets its name when it is whole.
//!
//! Whatever is kept by digest begins as a draft, is synced, and gets its name by a rename: after a
//! power cut there is a draft or the whole, and never half of something under its digest. Blocks.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tepui_tree::remove_folder;

/// The folder of one store's drafts. One process has it.
#[derive(Debug)]
pub struct Drafts {
    dir: PathBuf,
    next: AtomicU64,
}

/// A place for a file or a folder that is unfinished, which is removed when this is dropped.
#[derive(Debug)]
pub struct Draft(PathBuf);

impl Drafts {
    /// Makes the folder where it is missing, and removes what an earlier process left in it.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        match remove_folder(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir_all(&dir)?;
        // Nobody has any business in what is unfinished.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
        Ok(Self {
            dir,
            next: AtomicU64::new(0),
        })
    }

    /// A place where nothing is.
    pub fn draft(&self) -> Draft {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Draft(self.dir.join(number.to_string()))
    }
}

impl Draft {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Sees to it that all of a file is on disk.
    ///
    /// # Errors
    /// The disk's.
    pub fn sync(&self) -> io::Result<()> {
        sync(&self.0)
    }

    /// Gives what is whole its name, which is on disk when this returns.
    ///
    /// # Errors
    /// The disk's.
    pub fn keep(&self, to: &Path) -> io::Result<()> {
        rename(&self.0, to)
    }

    /// Takes away the name of what was kept: it goes when this draft does.
    ///
    /// # Errors
    /// The disk's.
    pub fn take(&self, from: &Path) -> io::Result<()> {
        fs::rename(from, &self.0)?;
        sync(from.parent().unwrap_or(from))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // What was kept is no longer here; whatever stays goes when its folder is next opened.
        let _ = fs::remove_file(&self.0).or_else(|_| remove_folder(&self.0));
    }
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync(to.parent().unwrap_or(to))
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_empty(dir: &Path) -> bool {
        fs::read_dir(dir).unwrap().next().is_none()
    }

    #[test]
    fn what_is_not_kept_goes_at_once_or_with_the_next_process() {
        let dir = tempfile::tempdir().unwrap();
        let (place, kept) = (dir.path().join("drafts"), dir.path().join("kept"));
        let drafts = Drafts::open(place.clone()).unwrap();
        let (file, folder, left) = (drafts.draft(), drafts.draft(), drafts.draft());
        fs::write(file.path(), "file").unwrap();
        for folder in [&folder, &left] {
            fs::create_dir_all(folder.path().join("in/it")).unwrap();
        }
        file.sync().unwrap();
        file.keep(&kept).unwrap();
        drop((file, folder));
        assert_eq!(fs::read(&kept).unwrap(), b"file");
        assert_eq!(fs::read_dir(&place).unwrap().count(), 1);
        // As a process that is killed leaves it.
        std::mem::forget(left);
        let drafts = Drafts::open(place.clone()).unwrap();
        assert!(is_empty(&place));
        drafts.draft().take(&kept).unwrap();
        assert!(is_empty(&place) && !kept.exists());
    }
}
