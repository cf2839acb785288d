//! The virtual machine's disk: an ext4 file system with busybox, the tests and what they run.
//!
//! Everything lies where it lies on the host, for tests find the executors by the path that
//! they were compiled with. It is a disk, and no file system in memory, so that rates of disks can be
//! set. It is made anew each time.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::console;
use super::kernel::Kernel;
use super::suite::Chosen;
use crate::process;

/// What is free on it for the tests, in MiB; the file has holes there.
const FREE_MIB: u64 = 1024;
/// Folders that are mounted over, or that tests expect.
const FOLDERS: [&str; 11] = [
    "bin",
    "dev",
    "etc",
    "proc",
    "sys",
    "tmp",
    "root",
    "run",
    "usr/bin",
    "var/tmp",
    "usr/share/common-licenses",
];
const FILES: [(&str, &str); 3] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    ),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost\n"),
];
/// Programs of the host that tests start: file systems are made, checked and grown with them, and
/// busybox's `mount` knows too little.
const PROGRAMS: [&str; 7] = [
    "mkfs.ext4",
    "mkfs.xfs",
    "e2fsck",
    "resize2fs",
    "mount",
    "unshare",
    "du",
];
/// A second container runtime, which the tests use where they find it.
const RUNC: &str = "/usr/sbin/runc";

/// Makes it in that folder, with a first program that runs the tests. Those start the `programs`.
pub fn make(
    folder: &Path,
    kernel: &Kernel,
    programs: &[PathBuf],
    tests: &[Chosen<'_>],
) -> Result<PathBuf> {
    let root = folder.join("root");
    remove(&root)?;
    for name in FOLDERS {
        create_folder(&root.join(name))?;
    }
    for (name, text) in FILES {
        write(&root.join(name), text)?;
    }
    copy(&host_program("busybox")?, &root.join("bin/busybox"))?;
    let mut programs = programs.to_vec();
    for name in PROGRAMS {
        programs.push(host_program(name)?);
    }
    programs.extend(Path::new(RUNC).exists().then(|| PathBuf::from(RUNC)));
    programs.extend(tests.iter().map(|tests| tests.program.to_owned()));
    let libraries = libraries(&programs)?;
    for file in programs.into_iter().chain(libraries) {
        copy(&file, &within(&root, &file))?;
    }
    for module in &kernel.modules {
        copy(module, &within(&root, module))?;
    }
    for tests in tests {
        create_folder(&within(&root, tests.at))?;
    }
    let init = root.join("init");
    write(&init, &init_script(&kernel.modules, tests))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("failed to make {} executable", init.display()))?;
    let image = folder.join("disk.img");
    pack(&root, &image)?;
    remove(&root)?;
    Ok(image)
}

/// The first program: mounts what a machine has and runs the tests. It enables no controller for the
/// cgroups below the root: on a machine that was just started nobody has, and executors must.
fn init_script(modules: &[PathBuf], tests: &[Chosen<'_>]) -> String {
    let quoted = |module: &PathBuf| format!("'{}'", module.display());
    let modules: Vec<String> = modules.iter().map(quoted).collect();
    let tests: Vec<String> = tests.iter().map(test_lines).collect();
    format!(
        r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
ln -s /bin/env /usr/bin/env
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o ptmxmode=0666 none /dev/pts
mount -t tmpfs none /dev/shm
mount -t tmpfs none /run
mount -t cgroup2 none /sys/fs/cgroup
mount --make-rshared /
for module in {modules}; do insmod "$module"; done
echo bfq > /sys/block/nvme0n1/queue/scheduler
ip link set lo up
ulimit -n 4096
chmod 1777 /tmp /var/tmp /dev/shm
echo "controllers: $(cat /sys/fs/cgroup/cgroup.controllers)"
export RUST_TEST_THREADS=2 TEPUI_TEST_CGROUPS=needed TEPUI_TEST_DISKS=needed
{tests}sync
poweroff -f
"#,
        modules = modules.join(" "),
        tests = tests.concat(),
    )
}

/// What of the script runs one suite, and says how that ended.
fn test_lines(tests: &Chosen<'_>) -> String {
    format!(
        "cd '{}'\n'{}' {}\necho \"{}$?\"\n",
        tests.at.display(),
        tests.program.display(),
        tests.filters.join(" "),
        console::EXIT,
    )
}

/// Finds a program of the host.
fn host_program(name: &str) -> Result<PathBuf> {
    let mut find = Command::new("sh");
    find.args(["-c", &format!("command -v {name}")]);
    let found = process::output(with_sbin(&mut find));
    let found = found.with_context(|| format!("this machine has no {name}"))?;
    Ok(PathBuf::from(found))
}

/// Debian keeps programs of administrators where only root's PATH leads.
fn with_sbin(command: &mut Command) -> &mut Command {
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"))
}

/// The shared libraries of these programs, their loader among them.
fn libraries(programs: &[PathBuf]) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for program in programs {
        // One that is linked statically is a failure to `ldd`, and has none.
        let listed = process::output(Command::new("ldd").arg(program)).unwrap_or_default();
        found.extend(listed.lines().filter_map(library));
    }
    Ok(found)
}

/// The file in a line of `ldd`.
fn library(line: &str) -> Option<PathBuf> {
    let mut words = line.split_whitespace();
    words.find(|word| word.starts_with('/')).map(PathBuf::from)
}

/// A sparse file with an ext4 file system of what is in `root`.
fn pack(root: &Path, image: &Path) -> Result<()> {
    let used = process::output(
        Command::new("du")
            .args(["-sm", "--apparent-size"])
            .arg(root),
    )?;
    let used: u64 = used
        .split_whitespace()
        .next()
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("`du` said `{used}`"))?;
    if image.exists() {
        fs::remove_file(image).with_context(|| format!("failed to remove {}", image.display()))?;
    }
    let mut mke2fs = Command::new("mke2fs");
    with_sbin(&mut mke2fs)
        .args(["-q", "-t", "ext4", "-E", "root_owner=0:0", "-d"])
        .arg(root)
        .arg(image);
    process::run(mke2fs.arg(format!("{}M", used + FREE_MIB)))
}

/// The place of the host's file in the virtual machine's root.
fn within(root: &Path, file: &Path) -> PathBuf {
    root.join(file.strip_prefix("/").unwrap_or(file))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        create_folder(parent)?;
    }
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("failed to copy {} to {}", from.display(), to.display()))
}

fn create_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))
}

fn remove(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    fs::remove_dir_all(folder).with_context(|| format!("failed to remove {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_what_ldd_names_by_path() {
        let found = |line| library(line).map(|path| path.display().to_string());
        let c = "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)";
        assert_eq!(found(c).as_deref(), Some("/lib/x86_64-linux-gnu/libc.so.6"));
        let loader = "\t/lib64/ld-linux-x86-64.so.2 (0x00007f)";
        assert_eq!(
            found(loader).as_deref(),
            Some("/lib64/ld-linux-x86-64.so.2")
        );
        assert_eq!(found("\tlinux-vdso.so.1 (0x00007ffe)"), None);
    }

    #[test]
    fn a_file_keeps_its_path() {
        let place = within(Path::new("/vm/root"), Path::new("/lib64/ld.so"));
        assert_eq!(place, Path::new("/vm/root/lib64/ld.so"));
    }
}
