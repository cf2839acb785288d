//! Where things are: the checkout, the target folder, and cargo itself.
//!
//! Every module takes a `&Workspace`. Paths in it are absolute, whatever folder the command was
//! called from. All builds share one target folder and one package selection, so that RocksDB and
//! wasmtime are compiled once for `up`, `test` and `bench`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// The packages that are built for the host. The same words in every command: another selection
/// would enable other features in shared dependencies, and compile them a second time.
pub const HOST_PACKAGES: [&str; 1] = ["--workspace"];

/// The checkout and its target folder.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// The checkout's root.
    pub root: PathBuf,
    /// Where cargo builds: `$CARGO_TARGET_DIR`, or `target` in the checkout.
    pub target: PathBuf,
}

impl Workspace {
    /// Finds the checkout that this command was called for.
    pub fn find() -> Result<Self> {
        // Cargo says at run time which checkout it is; several may share one target folder, and
        // with it this very binary.
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest
            .parent()
            .context("the xtask folder has no parent")?
            .to_path_buf();
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(target) => std::path::absolute(target)?,
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// `cargo` in the checkout's root, building into the target folder.
    pub fn cargo(&self) -> Command {
        self.cargo_at(&self.root, &self.target)
    }

    /// `cargo` for a package outside the main workspace, with a target folder of its own.
    pub fn cargo_at(&self, folder: &Path, target: &Path) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        // What `cargo run` set for this binary describes xtask and would only confuse the child.
        for name in ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH"] {
            command.env_remove(name);
        }
        command.current_dir(folder).env("CARGO_TARGET_DIR", target);
        command
    }

    /// Where the host binaries are.
    pub fn release(&self) -> PathBuf {
        self.target.join("release")
    }

    /// Where the built example tasks are: `<name>.wasm`.
    pub fn tasks(&self) -> PathBuf {
        self.release().join("tasks")
    }

    /// Where tools and other by-products of this crate are kept.
    pub fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }
}

/// Copies a file unless the copy already has the same bytes, so that its time of change stays and
/// nothing downstream is built again. Returns whether it copied.
pub fn copy_if_changed(from: &Path, to: &Path) -> Result<bool> {
    let bytes =
        std::fs::read(from).with_context(|| format!("failed to read {}", from.display()))?;
    write_if_changed(to, &bytes)
}

/// Writes a file unless it already holds these bytes. Returns whether it wrote.
pub fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<bool> {
    if std::fs::read(path).is_ok_and(|present| present == bytes) {
        return Ok(false);
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("failed to create {}", folder.display()))?;
    }
    // Written beside and renamed: a process that reads the old file is not disturbed.
    let beside = path.with_extension("new");
    std::fs::write(&beside, bytes)
        .with_context(|| format!("failed to write {}", beside.display()))?;
    std::fs::rename(&beside, path)
        .with_context(|| format!("failed to move {} into place", path.display()))?;
    Ok(true)
}
