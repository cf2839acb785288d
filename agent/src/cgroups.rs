//! The agent's parent cgroup, and the bounds that the agent itself is under.
//!
//! Executors and native tasks get cgroups below the parent, named after the
//! data folder, so that several agents share a machine. They are made by the
//! executors and cleared away here when an executor is gone. Without root or
//! without controllers the agent runs tasks unbounded and says so once.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tepui_executor::cgroup;
use tepui_folder::FolderError;
use tepui_types::Bytes;
use tepui_types::resources::MILLI;
use tepui_types::task::TaskUsage;

use crate::identity::Identity;
use crate::sandbox::Layout;

/// How long the processes of a dead executor may take to die: they get SIGKILL,
/// but may be writing to a slow disk.
const PATIENCE: Duration = Duration::from_secs(10);
/// v1 says "no limit" with a number near the largest; anything above this is none.
const NO_LIMIT_ABOVE: u64 = 1 << 60;
/// The file of the data folder with the parent cgroup's name.
const NAME_FILE: &str = "cgroup";
/// Where cgroups are mounted.
const MOUNT: &str = "/sys/fs/cgroup";

/// The agent's parent cgroup below the hierarchies' roots; none, and a warning,
/// where there can be none. The folder's file `cgroup` has it for those who
/// clean up. A copy of a folder has another: the same number, but not the same inode.
pub fn parent(layout: &Layout, identity: &Identity) -> Result<Option<String>, FolderError> {
    let path = layout.dir().join(NAME_FILE);
    if let Err(error) = cgroup::available() {
        let _ = fs::remove_file(path);
        tracing::warn!(%error, "tasks run without cgroups: no limit of theirs is enforced");
        return Ok(None);
    }
    let dir = layout.dir();
    let inode = fs::metadata(dir).map_err(|source| FolderError::io("look at", dir, source))?;
    let parent = format!("tepui/{:016x}-{:x}", identity.nonce >> 64, inode.ino());
    tepui_folder::replace(&path, parent.as_bytes(), 0o644)
        .map_err(|source| FolderError::io("write", &path, source))?;
    Ok(Some(parent))
}

/// Ends whatever still runs in these cgroups and removes them; those that are
/// gone already are no matter. Blocks for as long as the processes take to die.
pub fn clear(cgroups: impl IntoIterator<Item = String>) {
    for path in cgroups {
        if let Err(error) = cgroup::destroy(&path, PATIENCE) {
            tracing::warn!(%error, "the cgroup of a dead executor stays");
        }
    }
}

/// What the processes of a cgroup have used since it had counted `before`; none where it is not there.
pub fn usage_since(path: &str, before: TaskUsage) -> Option<TaskUsage> {
    let group = cgroup::Group::open(path, cgroup::Reach::All).ok()?;
    let before = cgroup::Counts {
        usage: before,
        ..Default::default()
    };
    let counts = group.counters().read();
    (counts.usage != TaskUsage::default()).then(|| counts.since(before).usage)
}

/// The cpu quota of the agent's own cgroup and those above it, in thousandths.
pub fn own_cpu_quota_milli() -> Option<u64> {
    let v2 = own_folders("").into_iter().filter_map(|folder| {
        let text = fs::read_to_string(folder.join("cpu.max")).ok()?;
        let (quota, period) = text.trim().split_once(' ')?;
        quota_milli(quota.parse().ok()?, period.parse().ok()?)
    });
    let v1 = own_folders("cpu").into_iter().filter_map(|folder| {
        let number = |name| {
            fs::read_to_string(folder.join(name))
                .ok()?
                .trim()
                .parse::<u64>()
                .ok()
        };
        quota_milli(number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?)
    });
    v2.chain(v1).min()
}

/// The memory limit of the agent's own cgroup and those above it.
pub fn own_mem_limit() -> Option<Bytes> {
    let read = |folder: PathBuf, name: &str| -> Option<u64> {
        fs::read_to_string(folder.join(name))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    let v2 = own_folders("")
        .into_iter()
        .filter_map(|folder| read(folder, "memory.max"));
    let v1 = own_folders("memory")
        .into_iter()
        .filter_map(|folder| read(folder, "memory.limit_in_bytes"));
    v2.chain(v1)
        .filter(|limit| *limit < NO_LIMIT_ABOVE)
        .min()
        .map(Bytes)
}

fn quota_milli(quota_micros: u64, period_micros: u64) -> Option<u64> {
    let milli = quota_micros
        .checked_mul(MILLI)?
        .checked_div(period_micros)?;
    (milli > 0).then_some(milli)
}

/// The folders of this process's cgroup and its ancestors, in the hierarchy of
/// a v1 controller, or in the v2 hierarchy when `controller` is empty.
fn own_folders(controller: &str) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(path) = own_path(&text, controller) else {
        return Vec::new();
    };
    let root = Path::new(MOUNT).join(controller);
    let below = Path::new(path.trim_start_matches('/'));
    below
        .ancestors()
        .map(|ancestor| root.join(ancestor))
        .collect()
}

/// The path of a controller's line in `/proc/self/cgroup`: `id:controllers:path`.
fn own_path<'a>(text: &'a str, controller: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (names, path) = (parts.next()?, parts.next()?);
        names
            .split(',')
            .any(|name| name == controller)
            .then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_path_is_found_by_controller() {
        let text = "4:memory:/a/b\n2:cpu,cpuacct:/c\n0::/d:e\n";
        assert_eq!(own_path(text, "memory"), Some("/a/b"));
        assert_eq!(own_path(text, "cpu"), Some("/c"));
        assert_eq!(own_path(text, ""), Some("/d:e"));
        assert_eq!(own_path(text, "pids"), None);
    }

    #[test]
    fn quotas_become_thousandths() {
        assert_eq!(quota_milli(150_000, 100_000), Some(1500));
        assert_eq!(quota_milli(1, 0), None);
    }
}
