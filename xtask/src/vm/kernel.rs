//! Debian's kernel for virtual machines, unpacked into the target folder.
//!
//! It is downloaded once, and not installed: the host keeps its own. Its NVMe and ext4 drivers are
//! built in, so it boots from a disk without an initial RAM file system.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{process, say, setup};

/// The package that depends on the newest kernel.
const PACKAGE: &str = "linux-image-cloud-amd64";
/// Modules that the tests need, below a kernel's folder of modules, each after those that it needs: the
/// file system of containers, the disk scheduler that knows shares, disks in files, ext4's quotas, and
/// xfs.
const MODULES: [&str; 7] = [
    "kernel/fs/overlayfs/overlay.ko",
    "kernel/block/bfq.ko",
    "kernel/drivers/block/loop.ko",
    "kernel/fs/quota/quota_tree.ko",
    "kernel/fs/quota/quota_v2.ko",
    "kernel/lib/libcrc32c.ko",
    "kernel/fs/xfs/xfs.ko",
];

/// A kernel and those of its modules that the tests need.
#[derive(Debug)]
pub struct Kernel {
    /// What QEMU boots.
    pub image: PathBuf,
    /// In the order in which they are loaded.
    pub modules: Vec<PathBuf>,
}

/// Finds the kernel in that folder, or downloads it.
pub fn ensure(folder: &Path) -> Result<Kernel> {
    if let Ok(kernel) = find(folder) {
        return Ok(kernel);
    }
    say::step("downloading a kernel for the virtual machine", || {
        // Half a package from before would be in the way.
        if folder.exists() {
            std::fs::remove_dir_all(folder)
                .with_context(|| format!("failed to remove {}", folder.display()))?;
        }
        std::fs::create_dir_all(folder)
            .with_context(|| format!("failed to create {}", folder.display()))?;
        let package = newest().or_else(|_| {
            process::run(setup::apt_get().args(["-qq", "update"]))?;
            newest()
        })?;
        let mut download = setup::apt_get();
        // As root, apt would else hand over to a user of its own who may not write here.
        download.args(["-qq", "-o", "APT::Sandbox::User=root", "download", &package]);
        process::run(download.current_dir(folder))?;
        let archive = file_named(folder, |name| name.ends_with(".deb"))?;
        process::run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(folder))?;
        std::fs::remove_file(&archive)
            .with_context(|| format!("failed to remove {}", archive.display()))
    })?;
    find(folder)
}

/// The name of the newest kernel's package.
fn newest() -> Result<String> {
    let depends = process::output(Command::new("apt-cache").args(["depends", PACKAGE]))?;
    let package = depends.lines().find_map(|line| {
        let package = line.trim().strip_prefix("Depends: ")?;
        package
            .starts_with("linux-image-")
            .then(|| package.to_owned())
    });
    package.with_context(|| {
        format!("apt knows no package that {PACKAGE} stands for; does `apt-cache policy {PACKAGE}` name one?")
    })
}

fn find(folder: &Path) -> Result<Kernel> {
    let image = file_named(&folder.join("boot"), |name| name.starts_with("vmlinuz-"))?;
    let release = file_named(&folder.join("lib/modules"), |_| true)?;
    let modules: Vec<PathBuf> = MODULES.iter().map(|path| release.join(path)).collect();
    if let Some(missing) = modules.iter().find(|module| !module.exists()) {
        bail!(
            "the kernel in {} has no {}: remove the folder, and it is downloaded again",
            folder.display(),
            missing.display()
        );
    }
    Ok(Kernel { image, modules })
}

fn file_named(folder: &Path, is_it: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("failed to list {}", folder.display()))?;
    let mut names = entries.flatten().map(|entry| entry.path());
    names
        .find(|path| {
            let name = path.file_name().unwrap_or_default();
            is_it(&name.to_string_lossy())
        })
        .with_context(|| format!("{} lacks a file of the kernel's package", folder.display()))
}
