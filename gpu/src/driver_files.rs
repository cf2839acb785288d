//! What drivers have put on a machine: nodes, libraries, programs.
//!
//! [`DriverFiles::read`] is the only part that looks at the machine; everything that follows from
//! it is pure. Nodes come and go with drivers, so it is read when a container is made, not kept.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::edits::NodeKind;
use crate::error::GpuError;
use crate::libraries::driver_libraries;
use crate::nodes::{MachineNodes, Node, Nodes};

/// The most that is read of the linker's cache: thousands of libraries take 1 MB.
const MAX_CACHE: u64 = 8 * 1024 * 1024;
/// The most that is read of a list of the kernel's: 32 devices of 49 instances take 100 KB.
const MAX_LIST: u64 = 1024 * 1024;
/// Programs that people expect beside NVIDIA's devices.
const PROGRAMS: [&str; 2] = ["/usr/bin/nvidia-smi", "/usr/bin/nvidia-debugdump"];
/// What tells how instances are entered.
const MIG_MINORS: &str = "/proc/driver/nvidia-caps/mig-minors";

/// A description of what is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DriverFiles {
    /// The nodes of GPUs.
    pub nodes: BTreeMap<PathBuf, Node>,
    /// NVIDIA's libraries by name.
    pub libraries: BTreeMap<String, PathBuf>,
    /// NVIDIA's programs.
    pub programs: Vec<PathBuf>,
    /// The number in `/dev/nvidia-caps/nvidia-capN` by what it opens, such as `gpu0/gi1/access`.
    pub mig_minors: BTreeMap<String, u32>,
}

impl DriverFiles {
    /// Looks at this machine. What is not there is left out, as without a driver.
    ///
    /// # Errors
    /// As [`DriverFiles::read_nodes`].
    pub fn read() -> Result<Self, GpuError> {
        let found = Self::read_nodes()?;
        if found.nodes.is_empty() {
            return Ok(found);
        }
        let cache = linker_cache().unwrap_or_else(|error| {
            tracing::warn!(%error, "`ldconfig -p` does not tell the machine's libraries");
            String::new()
        });
        let programs = PROGRAMS.iter().map(PathBuf::from);
        Ok(Self {
            libraries: driver_libraries(&cache),
            programs: programs.filter(|path| path.is_file()).collect(),
            ..found
        })
    }

    /// The nodes and what leads into instances, without asking where libraries are: native tasks have
    /// the machine's.
    ///
    /// # Errors
    /// Names what is there and cannot be looked at: who keeps tasks from the others' nodes must know of all.
    pub fn read_nodes() -> Result<Self, GpuError> {
        let nodes = nodes(Path::new("/dev"))?;
        if nodes.is_empty() {
            return Ok(Self::default());
        }
        let minors = present(Path::new(MIG_MINORS), read_list(Path::new(MIG_MINORS)))?;
        Ok(Self {
            nodes,
            mig_minors: mig_minors(&minors.unwrap_or_default()),
            ..Self::default()
        })
    }
}

/// The nodes of GPUs below `/dev`, or below a folder like it. The paths are those in `/dev`.
pub(crate) fn nodes(dev: &Path) -> Result<BTreeMap<PathBuf, Node>, GpuError> {
    let mut found = BTreeMap::new();
    for folder in ["", "nvidia-caps", "dri"] {
        let place = dev.join(folder);
        let entries = present(&place, std::fs::read_dir(&place))?;
        for entry in entries.into_iter().flatten() {
            let Some(entry) = present(&place, entry)? else {
                continue;
            };
            let (path, name) = (entry.path(), entry.file_name());
            if !name.to_str().is_some_and(|name| is_gpu(folder, name)) {
                continue;
            }
            let node = match MachineNodes.node(&path) {
                // It is no device.
                Err(error) if error.kind() == ErrorKind::Other => None,
                node => present(&path, node)?,
            };
            if let Some(node) = node.filter(|node| node.kind == NodeKind::Char) {
                found.insert(Path::new("/dev").join(folder).join(name), node);
            }
        }
    }
    Ok(found)
}

/// What is not there, or not any more, is an ordinary case.
fn present<T>(path: &Path, looked: io::Result<T>) -> Result<Option<T>, GpuError> {
    match looked {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(GpuError::Look {
            path: path.to_owned(),
            source,
        }),
    }
}

fn is_gpu(folder: &str, name: &str) -> bool {
    match folder {
        "" => {
            numbered(name, "nvidia")
                || ["kfd", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"].contains(&name)
        }
        "nvidia-caps" => numbered(name, "nvidia-cap"),
        _ => numbered(name, "card") || numbered(name, "renderD"),
    }
}

/// Whether it is `stem` and a number.
pub(crate) fn numbered(name: &str, stem: &str) -> bool {
    let number = name.strip_prefix(stem).unwrap_or("");
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// Lines such as `gpu0/gi1/ci0/access 13`.
pub fn mig_minors(text: &str) -> BTreeMap<String, u32> {
    let line = |line: &str| {
        let (name, number) = line.trim().split_once(' ')?;
        Some((name.to_owned(), number.trim().parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

fn read_list(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?
        .take(MAX_LIST)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// What `ldconfig -p` prints.
fn linker_cache() -> io::Result<String> {
    let places = ["/sbin/ldconfig", "/usr/sbin/ldconfig"].map(Path::new);
    let place = places.iter().find(|path| path.is_file());
    let place = place.ok_or(io::ErrorKind::NotFound)?;
    let mut child = Command::new(place)
        .arg("-p")
        .env_clear()
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut bytes = Vec::new();
    let read = match child.stdout.take() {
        Some(stdout) => stdout.take(MAX_CACHE).read_to_end(&mut bytes),
        None => Ok(0),
    };
    // Its output is closed by now, so that it ends even if it had more to say.
    child.wait()?;
    read?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

    use super::*;

    #[test]
    fn nodes_of_gpus_are_found_and_no_others() {
        let dev = tempfile::tempdir().unwrap();
        std::fs::create_dir(dev.path().join("nvidia-caps")).unwrap();
        let make = |name: &str, major, minor| {
            let (kind, mode) = (FileType::CharacterDevice, Mode::from_raw_mode(0o600));
            mknodat(
                CWD,
                dev.path().join(name),
                kind,
                mode,
                makedev(major, minor),
            )
            .unwrap();
        };
        for (name, major, minor) in [
            ("nvidia0", 195, 0),
            ("nvidia12", 195, 12),
            ("nvidiactl", 195, 255),
            ("nvidia-uvm", 507, 0),
            ("nvidia-caps/nvidia-cap21", 510, 21),
            ("nvidia-modeset", 195, 254),
            ("nvidiax", 195, 7),
            ("null", 1, 3),
        ] {
            make(name, major, minor);
        }
        std::fs::write(dev.path().join("nvidia3"), "no node").unwrap();
        std::os::unix::fs::symlink("nvidia0", dev.path().join("nvidia4")).unwrap();
        let found = nodes(dev.path()).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|(path, node)| (path.to_str().unwrap(), node.major, node.minor))
            .collect();
        assert_eq!(
            found,
            [
                ("/dev/nvidia-caps/nvidia-cap21", 510, 21),
                ("/dev/nvidia-uvm", 507, 0),
                ("/dev/nvidia0", 195, 0),
                ("/dev/nvidia12", 195, 12),
                ("/dev/nvidiactl", 195, 255),
            ]
        );
    }

    #[test]
    fn nodes_that_cannot_be_listed_are_not_taken_for_none() {
        let dev = tempfile::tempdir().unwrap();
        assert_eq!(nodes(dev.path()).unwrap(), BTreeMap::new());
        std::fs::write(dev.path().join("dri"), "no folder").unwrap();
        let error = nodes(dev.path()).unwrap_err().to_string();
        assert!(error.contains("dri cannot be looked at"), "{error}");
    }

    #[test]
    fn the_linkers_cache_can_be_asked() {
        assert!(linker_cache().unwrap().contains("libc.so.6"));
    }

    #[test]
    fn ways_into_instances_are_read() {
        let text =
            "config 1\nmonitor 2\ngpu0/gi0/access 3\ngpu0/gi0/ci0/access 4\n\nbroken\nbad x\n";
        let minors = mig_minors(text);
        assert_eq!(minors.len(), 4);
        assert_eq!(minors["gpu0/gi0/ci0/access"], 4);
    }
}
