//! The processors that a cgroup's processes may run on: `cpuset` of v1 and v2.

use std::collections::BTreeSet;
use std::fs;

use super::{CgroupError, Group};

/// v1's list is what the cgroup has, from its parent on; v2's is empty until somebody writes to it.
const CPUSET_CPUS: &str = "cpuset.cpus";
/// v2's name for what it has.
const CPUSET_EFFECTIVE: &str = "cpuset.cpus.effective";
/// More than any machine's; whoever writes a longer range means no processors.
const MOST: u32 = 65_536;

impl Group {
    /// Holds it to these processors, as cpuset(7) lists them. It is in all hierarchies.
    ///
    /// # Errors
    /// When they are not there, or the kernel refuses.
    pub fn limit_processors(&self, asked: &str) -> Result<(), CgroupError> {
        let missing = || CgroupError::MissingController("cpuset".to_owned());
        let dir = self.dir_of("cpuset").ok_or_else(missing)?;
        let read = |name| fs::read_to_string(dir.join(name)).ok();
        let there = read(CPUSET_EFFECTIVE).or_else(|| read(CPUSET_CPUS));
        let there = there.ok_or_else(missing)?;
        if !has_all(&there, asked) {
            return Err(CgroupError::Processors {
                asked: asked.to_owned(),
                there: there.trim().to_owned(),
            });
        }
        let written = fs::write(dir.join(CPUSET_CPUS), asked);
        written.map_err(|error| self.refused("set the processors", error))
    }
}

/// Whether all of the second list are in the first.
fn has_all(there: &str, asked: &str) -> bool {
    match (list(there), list(asked)) {
        (Some(there), Some(asked)) => asked.is_subset(&there),
        _ => false,
    }
}

/// None when it is no list.
fn list(text: &str) -> Option<BTreeSet<u32>> {
    let mut all = BTreeSet::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if last >= MOST {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_compared_as_sets() {
        for (there, asked) in [("0-3\n", "0,2-3"), ("0-1,4-7\n", "5,0"), ("0", "0")] {
            assert!(has_all(there, asked), "{there} {asked}");
        }
        for (there, asked) in [
            ("0-3\n", "4"),
            ("0,2", "0-2"),
            ("", "0"),
            ("0-3", "0-65536"),
        ] {
            assert!(!has_all(there, asked), "{there} {asked}");
        }
    }
}
