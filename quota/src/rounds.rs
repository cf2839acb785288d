//! The rounds of who measures: many folders, one thread.
//!
//! A turn is one step of one measurement, so that a folder of ten million files holds up nobody else's:
//! those that are due take turns, a few at a time. Its caller lends it a thread that may block and a
//! clock, and sleeps between turns until [`Rounds::next`].

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::limit::{Limit, Policy, Verdict, Watch};
use crate::measure::{Measured, Measurement, Progress};

/// Entries that are looked at in a turn: some milliseconds.
const ENTRIES: usize = 2_000;
/// Measurements that are under way together, with some thirty descriptors and a megabyte each.
const MOST_UNDER_WAY: usize = 8;

/// Folders that are measured in turn.
#[derive(Debug)]
pub struct Rounds {
    policy: Policy,
    folders: BTreeMap<String, Folder>,
    /// Those whose measurement is under way, the next one in front.
    under_way: VecDeque<String>,
}

/// What has one limit: mostly one folder.
#[derive(Debug)]
struct Folder {
    paths: Vec<PathBuf>,
    watch: Watch,
    /// When its next measurement begins.
    due: Duration,
    /// Of one path, the first of those that are left.
    measurement: Option<Measurement>,
    /// How many paths are done.
    done: usize,
    /// What was in those that are there.
    found: Option<Measured>,
    /// How long that has worked.
    took: Duration,
    last: Option<Measured>,
}

/// What a measurement has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Of which folder.
    pub name: String,
    /// What is in it.
    pub measured: Measured,
    /// What is to be thought of that.
    pub verdict: Verdict,
}

impl Rounds {
    /// No folders yet.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            folders: BTreeMap::new(),
            under_way: VecDeque::new(),
        }
    }

    /// Measures a folder from now on, at once for the first time; or gives it another limit. Several have
    /// a limit together. They need not be there yet.
    pub fn set(&mut self, name: &str, paths: Vec<PathBuf>, limit: Limit, now: Duration) {
        if let Some(folder) = self.folders.get_mut(name).filter(|it| it.paths == paths) {
            folder.watch.set_limit(limit);
            return;
        }
        self.remove(name);
        let folder = Folder {
            paths,
            watch: Watch::new(limit, self.policy),
            due: now,
            measurement: None,
            done: 0,
            found: None,
            took: Duration::ZERO,
            last: None,
        };
        self.folders.insert(name.to_owned(), folder);
    }

    /// Measures it no more.
    pub fn remove(&mut self, name: &str) {
        self.folders.remove(name);
        self.under_way.retain(|other| other != name);
    }

    /// What was found last in a folder.
    pub fn last(&self, name: &str) -> Option<Measured> {
        self.folders.get(name)?.last
    }

    /// When the next turn is due: in the past where something is under way, never where there is
    /// nothing to measure.
    pub fn next(&self) -> Option<Duration> {
        match self.under_way.is_empty() {
            false => Some(Duration::ZERO),
            true => self.folders.values().map(|folder| folder.due).min(),
        }
    }

    /// Takes a turn; by `clock`, which never goes back. Blocks for some milliseconds.
    pub fn turn(&mut self, clock: impl Fn() -> Duration) -> Option<Finding> {
        let now = clock();
        self.admit(now);
        let name = self.under_way.pop_front()?;
        let folder = self.folders.get_mut(&name)?;
        let progress = folder.step();
        let after = clock();
        folder.took += after.saturating_sub(now);
        match progress {
            Ok(Progress::More) => {
                self.under_way.push_back(name);
                None
            }
            Ok(Progress::Done(measured)) => {
                let (verdict, next) = folder.watch.on_measured(&measured, folder.took, after);
                folder.rest(next);
                folder.last = Some(measured);
                Some(Finding {
                    name,
                    measured,
                    verdict,
                })
            }
            Err(error) => {
                // Sandboxes are not there until something is written.
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(folder = name, %error, "a folder cannot be measured");
                }
                folder.rest(after.saturating_add(self.policy.latest));
                None
            }
        }
    }

    /// Lets those that are due begin, as many as may; who has waited longest comes first.
    fn admit(&mut self, now: Duration) {
        let room = MOST_UNDER_WAY.saturating_sub(self.under_way.len());
        if room == 0 {
            return;
        }
        let waiting = self.folders.iter();
        let waiting = waiting.filter(|(name, it)| it.due <= now && !self.under_way.contains(name));
        let mut due: Vec<_> = waiting.map(|(name, it)| (it.due, name.clone())).collect();
        due.sort_unstable();
        let due = due.into_iter().take(room).map(|(_, name)| name);
        self.under_way.extend(due);
    }
}

impl Folder {
    fn step(&mut self) -> io::Result<Progress> {
        match self.step_one() {
            Ok(Progress::More) => return Ok(Progress::More),
            Ok(Progress::Done(measured)) => {
                let found = self.found.map_or(measured, |found| found.and(measured));
                self.found = Some(found);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.measurement = None;
        self.done += 1;
        if self.done < self.paths.len() {
            return Ok(Progress::More);
        }
        let found = self.found.ok_or(io::ErrorKind::NotFound)?;
        Ok(Progress::Done(found))
    }

    fn step_one(&mut self) -> io::Result<Progress> {
        let measurement = match &mut self.measurement {
            Some(measurement) => measurement,
            none => {
                let path = self.paths.get(self.done);
                none.insert(Measurement::begin(path.ok_or(io::ErrorKind::NotFound)?)?)
            }
        };
        measurement.step(ENTRIES)
    }

    /// Until its next measurement.
    fn rest(&mut self, due: Duration) {
        self.measurement = None;
        (self.done, self.found) = (0, None);
        self.took = Duration::ZERO;
        self.due = due;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tepui_types::Bytes;

    use super::*;

    const LIMIT: Limit = Limit {
        bytes: Bytes::gib(1),
        inodes: Some(1_000),
    };

    fn names(findings: &[Finding]) -> Vec<&str> {
        findings.iter().map(|it| it.name.as_str()).collect()
    }

    #[test]
    fn a_large_folder_holds_up_no_small_one() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..3 * ENTRIES {
            let path = dir.path().join("large");
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join(number.to_string()), "").unwrap();
        }
        let mut rounds = Rounds::new(Policy::default());
        let start = Duration::from_secs(1);
        for name in ["a", "b", "large", "none"] {
            let path = dir.path().join(name);
            if name.len() == 1 {
                fs::create_dir(&path).unwrap();
            }
            rounds.set(name, vec![path], LIMIT, start);
        }
        let mut findings = Vec::new();
        assert_eq!(rounds.turn(|| Duration::ZERO), None);
        while rounds.next().unwrap() <= start {
            findings.extend(rounds.turn(|| start));
        }
        assert_eq!(names(&findings), ["a", "b", "large"]);
        assert_eq!(findings[2].verdict, Verdict::Exceeded);
        assert_eq!(rounds.last("large"), Some(findings[2].measured));
        assert_eq!(rounds.last("none"), None);
    }

    #[test]
    fn several_folders_have_one_limit_and_need_not_all_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["a", "none", "b"].map(|name| dir.path().join(name));
        for path in [&paths[0], &paths[2]] {
            fs::create_dir(path).unwrap();
            fs::write(path.join("file"), "").unwrap();
        }
        let mut rounds = Rounds::new(Policy::default());
        let limit = Limit {
            inodes: Some(3),
            ..LIMIT
        };
        rounds.set("all", paths.to_vec(), limit, Duration::ZERO);
        let mut findings = Vec::new();
        while rounds.next() == Some(Duration::ZERO) {
            findings.extend(rounds.turn(|| Duration::ZERO));
        }
        assert_eq!(names(&findings), ["all"]);
        assert_eq!(findings[0].measured.usage.inodes, 4);
        assert_eq!(findings[0].verdict, Verdict::Exceeded);
    }

    #[test]
    fn folders_come_and_go_while_they_are_measured() {
        let dir = tempfile::tempdir().unwrap();
        let mut rounds = Rounds::new(Policy::default());
        assert_eq!(rounds.next(), None);
        let many: Vec<String> = (0..2 * MOST_UNDER_WAY)
            .map(|it| format!("{it:02}"))
            .collect();
        for name in &many {
            fs::create_dir(dir.path().join(name)).unwrap();
            rounds.set(name, vec![dir.path().join(name)], LIMIT, Duration::ZERO);
        }
        let now = Duration::ZERO;
        // The first turn lets as many begin as may, and takes the first of them to its end.
        let mut findings = Vec::new();
        findings.extend(rounds.turn(|| now));
        assert_eq!(rounds.under_way.len() + findings.len(), MOST_UNDER_WAY);
        rounds.remove("01");
        rounds.remove("15");
        for _ in 0..100 {
            findings.extend(rounds.turn(|| now));
        }
        let mut found = names(&findings);
        found.sort_unstable();
        let gone = ["01", "15"];
        let left = many.iter().map(String::as_str);
        let left: Vec<&str> = left.filter(|name| !gone.contains(name)).collect();
        assert_eq!(found, left);
        // A folder that a limit is taken from is watched by the new one.
        let none = Limit {
            inodes: Some(0),
            ..LIMIT
        };
        rounds.set("00", vec![dir.path().join("00")], none, now);
        let later = rounds.next().unwrap();
        let mut findings = Vec::new();
        for _ in 0..100 {
            findings.extend(rounds.turn(|| later));
        }
        let verdict = findings
            .iter()
            .find(|it| it.name == "00")
            .map(|it| it.verdict);
        assert_eq!(verdict, Some(Verdict::Exceeded));
    }
}
