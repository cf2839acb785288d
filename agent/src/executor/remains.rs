//! What a dead executor process left: its tasks' processes, what it had written down, its log's end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use tepui_executor::{exits, spawn, usage};
use tepui_types::TaskId;
use tepui_types::task::TaskUsage;
use tepui_types::wire::executor::TaskUpdate;

use crate::agent::{Death, ExecutorId};
use crate::cgroups;

/// How much of a dead process's log stands in its tasks' reason, in bytes.
const LAST_WORDS: u64 = 512;

/// Ends what the process left running in its cgroups, its tasks' first, so that what its tasks had is
/// free when their end is told; and tells what it wrote down. What its tasks use is counted in the cgroup
/// `of_tasks`, which is one of those or below it. Blocks.
pub(super) fn clear(
    id: ExecutorId,
    dir: &Path,
    of_tasks: Option<&str>,
    cgroups: Vec<String>,
) -> Death {
    // What they use until they are killed is not told.
    let used = used(id, dir, of_tasks);
    cgroups::clear(cgroups);
    Death {
        exits: read_exits(dir, id),
        left: false,
        last_words: last_words(dir),
        used,
    }
}

/// The exit records of a process; none, and a warning, if they cannot be read.
pub fn read_exits(dir: &Path, id: ExecutorId) -> Vec<TaskUpdate> {
    exits::read(dir).unwrap_or_else(|error| {
        tracing::warn!(executor = %id, %error, "exit records cannot be read");
        Vec::new()
    })
}

/// What its tasks had used, as far as it noted that or the cgroup has counted it.
fn used(id: ExecutorId, dir: &Path, cgroup: Option<&str>) -> BTreeMap<TaskId, TaskUsage> {
    let known = usage::read(dir).unwrap_or_else(|error| {
        tracing::warn!(executor = %id, %error, "what tasks have used cannot be read");
        usage::Known::default()
    });
    let mut used = known.used;
    if let Some((task, before)) = known.before
        && let Some(counted) = cgroup.and_then(|path| cgroups::usage_since(path, before))
    {
        used.insert(task, counted);
    }
    used
}

/// The end of a process's log, as far as it can be read.
fn last_words(dir: &Path) -> String {
    let tail = |mut log: File| -> io::Result<Vec<u8>> {
        let start = log.metadata()?.len().saturating_sub(LAST_WORDS);
        log.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        log.take(LAST_WORDS).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = File::open(dir.join(spawn::LOG_FILE))
        .and_then(tail)
        .unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim().to_owned()
}
