//! A small disk, to be filled up: a tmpfs in a cluster's folder.
//!
//! It wants root. Dropping it unmounts it, also after a failure; the cluster's watchdog unmounts it
//! after a test that was killed.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Room for a master and some thousands of entries, in MiB.
pub const FOR_A_MASTER_MIB: u64 = 192;
/// The file that takes all room.
const FILLER: &str = "filler";
/// What it grows by: a page of memory, which a tmpfs counts in.
const PAGE: usize = 4096;

/// A mounted disk.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts a disk of so many MiB on a folder, which is made.
    pub fn mount(path: &Path, mib: u64) -> Result<Self> {
        std::fs::create_dir_all(path)?;
        let size = format!("size={mib}m,mode=0755");
        mount(
            Some("tepui-test"),
            path,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(size.as_str()),
        )
        .with_context(|| format!("failed to mount a tmpfs on {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Takes all the room that is left, but for so many bytes.
    pub fn fill(&self, left: u64) -> Result<()> {
        let path = self.path.join(FILLER);
        let mut filler = File::options().create(true).append(true).open(&path)?;
        loop {
            match filler.write_all(&[0; PAGE]) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => bail!("failed to fill {}: {error}", path.display()),
            }
        }
        let len = filler.metadata()?.len();
        filler.set_len(len.saturating_sub(left))?;
        Ok(())
    }

    /// Gives the room back.
    pub fn free(&self) -> Result<()> {
        std::fs::remove_file(self.path.join(FILLER)).context("the disk was not filled")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A process may still hold a file of it open; then it goes with that.
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
    }
}
