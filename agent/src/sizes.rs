//! Whether tasks have more on the disk than they were given: those that do are ended.
//!
//! Measured are the sandboxes of native tasks and containers, with what these write over their images,
//! and volumes, as far as the kernel does not keep their sizes. Who was given no disk has no limit, what is kept of
//! outputs has one of its own, and WebAssembly tasks are held back by their executors. One thread looks
//! at all of it in turn.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tepui_pressure::RunningTask;
use tepui_quota::{Finding, Limit, Measured, Policy, Rounds, Verdict};
use tepui_types::{Bytes, Reason, TaskId, Workload, task::reason};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use crate::agent::Running;
use crate::event_loop::{Event, census};
use crate::sandbox::Layout;
use crate::task_disks::TaskDisks;
use crate::uptime;
use crate::volumes::Volumes;

/// How often it is asked who runs, and for how long at most is measured then.
const INTERVAL: Duration = Duration::from_secs(2);
/// The longest time between two measurements of one task: what it writes meanwhile is seen late. A disk
/// takes some gigabytes in that time, and a sandbox of a thousand files is looked through in a
/// millisecond.
const LATEST: Duration = Duration::from_secs(10);
/// A file that holds anything takes a block of 4 KiB, so it is those that hold nothing that are counted.
const BYTES_PER_INODE: u64 = 4_096;
/// What every task may have, however little disk it was given.
const LEAST_INODES: u64 = 128;
/// Volumes of which it is known what they had: more than agents have, and some megabytes.
const MOST_KNOWN: usize = 10_000;
/// For what is measured only to be known.
const NO_LIMIT: Limit = Limit {
    bytes: Bytes(u64::MAX),
    inodes: None,
};

/// How the sizes of sandboxes are kept, or those of volumes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keeping {
    /// By the kernel, where the machine can, of what is new from then on; the others are measured.
    Enforced,
    /// By ending the tasks of one that is over it.
    #[default]
    Measured,
    /// Not at all.
    Unlimited,
}

impl FromStr for Keeping {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "enforced" => Ok(Self::Enforced),
            "measured" => Ok(Self::Measured),
            "unlimited" => Ok(Self::Unlimited),
            _ => Err(format!(
                "`{text}` is not `enforced`, `measured` or `unlimited`"
            )),
        }
    }
}

/// What tasks have in their sandboxes, as far as it was measured; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct DiskUse(Arc<Use>);

#[derive(Debug, Default)]
struct Use {
    known: Mutex<BTreeMap<TaskId, Bytes>>,
    is_wanted: AtomicBool,
}

impl DiskUse {
    /// Whether it is to be known of tasks that may be ended, also where no size is kept: while the disk
    /// is nearly full, the one that has most must be found.
    pub fn want(&self, is_wanted: bool) {
        self.0.is_wanted.store(is_wanted, Ordering::Relaxed);
    }

    fn is_wanted(&self) -> bool {
        self.0.is_wanted.load(Ordering::Relaxed)
    }

    fn tell(&self, known: BTreeMap<TaskId, Bytes>) {
        *self.known() = known;
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<TaskId, Bytes>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a task has, if that was measured.
    pub fn of(&self, task: &TaskId) -> Option<Bytes> {
        self.known().get(task).copied()
    }

    /// Says it of those tasks whose use is known otherwise.
    pub fn fill_in(&self, tasks: &mut [RunningTask]) {
        let known = self.known();
        for task in tasks {
            if let (Some(used), Some(bytes)) = (&mut task.used, known.get(&task.id)) {
                used.disk = *bytes;
            }
        }
    }
}

/// What is known from the start.
#[derive(Debug)]
pub struct Sizes {
    /// Where sandboxes are.
    pub layout: Layout,
    /// Where volumes are.
    pub volumes: Arc<Volumes>,
    /// What is done with sandboxes.
    pub sandboxes: Keeping,
    /// Those whose sizes the kernel keeps.
    pub disks: Arc<TaskDisks>,
    /// Told what tasks have.
    pub disk_use: DiskUse,
    /// The loop.
    pub events: mpsc::Sender<Event>,
}

/// What has a limit.
#[derive(Debug)]
struct Subject {
    paths: Vec<PathBuf>,
    limit: Limit,
    /// Whose it is, or who uses it.
    tasks: Vec<TaskId>,
    /// Where those find it, if it is a volume.
    volume: Option<String>,
}

/// What is remembered between looks.
#[derive(Debug)]
struct Duty {
    sizes: Sizes,
    rounds: Rounds,
    subjects: BTreeMap<String, Subject>,
    /// What volumes had in bytes when they were last measured.
    known: BTreeMap<String, u64>,
    /// What those had that are in use before their tasks began, as far as that is known, or the least
    /// since: a task that takes no more may remove what is too much.
    had: BTreeMap<String, u64>,
}

impl Sizes {
    /// Looks at all tasks for as long as the event loop lives.
    pub async fn run(self) {
        let events = self.events.clone();
        let mut duty = Duty::new(self);
        let mut interval = interval(INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            if duty.is_idle() {
                if events.is_closed() {
                    return;
                }
                continue;
            }
            let Some(running) = census(&events).await else {
                return;
            };
            let looked = tokio::task::spawn_blocking(move || {
                let found = duty.look(&running);
                (duty, found)
            });
            let Ok((kept, found)) = looked.await else {
                return;
            };
            duty = kept;
            for (task, why) in found {
                // The loop is gone only when the agent ends.
                let _ = events.send(Event::Unwell(task, why)).await;
            }
        }
    }

    /// All that is to be measured, by names.
    fn subjects(&self, running: &[Running]) -> BTreeMap<String, Subject> {
        let mut subjects = BTreeMap::new();
        for one in running {
            let id = &one.launch.task;
            if !self.disks.keep(id)
                && let Some(subject) = self.sandbox(one)
            {
                subjects.insert(id.to_string(), subject);
            }
            for volume in &one.launch.volumes {
                let name = format!("volume {:?} {}", volume.disk, volume.made_by);
                if let Some(subject) = subjects.get_mut(&name) {
                    subject.tasks.push(id.clone());
                    continue;
                }
                if let Some((path, bytes)) = self.volumes.measured(volume).zip(volume.bytes) {
                    let subject = Subject {
                        paths: vec![path],
                        limit: limit(bytes),
                        tasks: vec![id.clone()],
                        volume: Some(volume.path.clone()),
                    };
                    subjects.insert(name, subject);
                }
            }
        }
        subjects
    }

    /// A task's sandbox, if it has a limit or is to be compared with others.
    fn sandbox(&self, running: &Running) -> Option<Subject> {
        let launch = &running.launch;
        let Workload::Command(command) = &launch.spec.workload else {
            return None;
        };
        let is_unlimited = self.sandboxes == Keeping::Unlimited;
        let is_compared =
            !launch.revocable.is_empty() && (!is_unlimited || self.disk_use.is_wanted());
        let limit = match launch.resources.disk {
            bytes if bytes > Bytes(0) && !is_unlimited => limit(bytes),
            _ if is_compared => NO_LIMIT,
            _ => return None,
        };
        let id = &launch.task;
        let mut paths = vec![self.layout.sandbox(id)];
        if command.container.is_some() {
            paths.push(self.layout.container(id));
            let companions = command.companions().iter();
            paths.extend(companions.map(|it| self.layout.companion_container(id, &it.name)));
        }
        Some(Subject {
            paths,
            limit,
            tasks: vec![id.clone()],
            volume: None,
        })
    }
}

impl Duty {
    fn new(sizes: Sizes) -> Self {
        let policy = Policy {
            latest: LATEST,
            ..Policy::default()
        };
        Self {
            sizes,
            rounds: Rounds::new(policy),
            subjects: BTreeMap::new(),
            known: BTreeMap::new(),
            had: BTreeMap::new(),
        }
    }

    /// Whether there is nothing to measure, and nothing that was measured to be forgotten.
    fn is_idle(&self) -> bool {
        let Sizes {
            sandboxes,
            volumes,
            disk_use,
            ..
        } = &self.sizes;
        *sandboxes == Keeping::Unlimited
            && volumes.are_unlimited()
            && !disk_use.is_wanted()
            && self.subjects.is_empty()
    }

    /// Measures what is due; who is to end, and why. Blocks.
    fn look(&mut self, running: &[Running]) -> Vec<(TaskId, Reason)> {
        let clock = || Duration::from_millis(uptime::now_ms());
        let begun = clock();
        let before = std::mem::replace(&mut self.subjects, self.sizes.subjects(running));
        for (name, earlier) in &before {
            let now = self.subjects.get(name);
            if now.is_none() {
                self.rounds.remove(name);
            }
            let is_same = |task: &TaskId| now.is_some_and(|now| now.tasks.contains(task));
            if !earlier.tasks.iter().any(is_same) {
                self.had.remove(name);
            }
        }
        for (name, subject) in &self.subjects {
            let Subject { paths, limit, .. } = subject;
            self.rounds.set(name, paths.clone(), *limit, begun);
        }
        let mut found = Vec::new();
        while self.rounds.next().is_some_and(|due| due <= clock()) {
            if let Some(finding) = self.rounds.turn(clock) {
                found.extend(self.judged(&finding));
            }
            if clock() >= begun + INTERVAL {
                break;
            }
        }
        self.tell_use(running);
        found
    }

    fn judged(&mut self, finding: &Finding) -> Vec<(TaskId, Reason)> {
        let Some(subject) = self.subjects.get(&finding.name) else {
            return Vec::new();
        };
        if subject.volume.is_some() {
            let bytes = finding.measured.usage.bytes.0;
            let name = &finding.name;
            let known = self.known.get(name).copied().unwrap_or(0);
            let had = self.had.entry(name.clone()).or_insert(known);
            let is_more = bytes > *had;
            *had = (*had).min(bytes);
            if self.known.len() >= MOST_KNOWN {
                self.known.clear();
            }
            self.known.insert(name.clone(), bytes);
            if !is_more {
                return Vec::new();
            }
        }
        if finding.verdict != Verdict::Exceeded {
            return Vec::new();
        }
        let why = told(subject, &finding.measured);
        let tasks = subject.tasks.iter();
        tasks.map(|task| (task.clone(), why.clone())).collect()
    }

    fn tell_use(&self, running: &[Running]) {
        let compared = running
            .iter()
            .filter(|one| !one.launch.revocable.is_empty());
        let kept = compared.filter_map(|one| {
            let id = &one.launch.task;
            Some((id.clone(), self.sizes.disks.used(id)?))
        });
        let own = self.subjects.iter().filter(|(_, it)| it.volume.is_none());
        let last = own.flat_map(|(name, subject)| {
            let bytes = self.rounds.last(name)?.usage.bytes;
            Some((subject.tasks.first()?.clone(), bytes))
        });
        self.sizes.disk_use.tell(last.chain(kept).collect());
    }
}

fn limit(bytes: Bytes) -> Limit {
    Limit {
        bytes,
        inodes: Some((bytes.0 / BYTES_PER_INODE).max(LEAST_INODES)),
    }
}

/// Why a task is ended.
fn told(subject: &Subject, measured: &Measured) -> Reason {
    let Subject { limit, volume, .. } = subject;
    let (used, bytes) = (measured.usage, limit.bytes);
    let has = match (measured.too_deep, used.bytes > bytes) {
        (_, true) => format!("has {} in it", used.bytes),
        (true, false) => "has more folders in each other than are looked through".to_owned(),
        (false, false) => format!("has {} files and folders in it", used.inodes),
    };
    let message = match volume {
        None => format!(
            "its sandbox {has}, and it was given {bytes} of the disk: ask for more (`--disk`), or have \
             it remove what it does not need"
        ),
        Some(path) => format!(
            "the volume at `{path}` {has}, and its size is {bytes}: enlarge it (`tepui volume grow`) \
             before the next task, or have that remove what is not needed"
        ),
    };
    Reason::new(reason::DISK_LIMIT, message)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fs;
    use std::path::Path;

    use tepui_pressure::Used;
    use tepui_types::task::{CommandWorkload, TaskSpec};
    use tepui_types::wire::agent::{TaskLaunch, TaskVolume};
    use tepui_types::{OperationId, Resources, Role};

    use super::*;
    use crate::agent::{ExecutorId, Place};

    fn launch(name: &str, disk: Bytes) -> TaskLaunch {
        let command = CommandWorkload::new(vec!["true".into()]);
        let made_by = OperationId {
            index: 1,
            ordinal: 0,
        };
        TaskLaunch {
            operation: made_by,
            task: format!("f1.{name}.0").parse().unwrap(),
            framework_name: "batch".into(),
            role: Role::default(),
            spec: Arc::new(TaskSpec::new(Workload::Command(command))),
            resources: Resources {
                disk,
                ..Resources::default()
            },
            revocable: Resources::default(),
            volumes: Vec::new(),
            array_index: None,
            after: None,
        }
    }

    fn running(launch: TaskLaunch) -> Running {
        Running {
            launch: Arc::new(launch),
            executor: ExecutorId(0),
            place: Place::Alone(Some("somewhere".into())),
            has_own_network: false,
        }
    }

    fn duty(dir: &Path, sandboxes: Keeping, sizes: Keeping) -> Duty {
        let layout = Layout::new(dir.to_owned());
        let volumes = Volumes::open(&layout, sizes).unwrap();
        let disks = TaskDisks::open(&layout, sandboxes, &HashSet::new()).unwrap();
        Duty::new(Sizes {
            layout,
            volumes,
            sandboxes,
            disks,
            disk_use: DiskUse::default(),
            events: mpsc::channel(1).0,
        })
    }

    #[test]
    fn who_has_too_much_is_told_what_and_the_others_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut duty = duty(dir.path(), Keeping::Measured, Keeping::Measured);
        let mut on_volume = launch("on-volume", Bytes(0));
        on_volume.volumes.push(TaskVolume {
            made_by: on_volume.operation,
            disk: None,
            path: "data".into(),
            bytes: Some(Bytes::mib(1)),
        });
        let revocable = TaskLaunch {
            revocable: Resources {
                mem: Bytes(1),
                ..Resources::default()
            },
            ..launch("revocable", Bytes(0))
        };
        let all = [
            launch("over", Bytes::mib(1)),
            launch("within", Bytes::mib(8)),
            launch("free", Bytes(0)),
            on_volume,
            revocable,
        ];
        let all = all.map(running);
        let layout = Layout::new(dir.path().to_owned());
        let sandboxes = all.iter().map(|one| layout.sandbox(&one.launch.task));
        let volume = layout.volume(&all[3].launch.volumes[0]);
        for path in sandboxes.chain([volume]) {
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("file"), vec![1; 4 << 20]).unwrap();
        }
        let found = duty.look(&all);
        let [(over, why), (user, whose)] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!(over, &all[0].launch.task);
        assert_eq!(why.code, reason::DISK_LIMIT);
        assert!(
            why.message.contains("1 MiB") && why.message.contains("--disk"),
            "{why}"
        );
        assert_eq!(user, &all[3].launch.task);
        assert!(whose.message.contains("`data`"), "{whose}");

        // Those on what may be taken back are known even without a limit.
        let mut tasks = all.map(|one| RunningTask {
            id: one.launch.task.clone(),
            started: Duration::ZERO,
            holding: Default::default(),
            used: Some(Used::default()),
        });
        duty.sizes.disk_use.fill_in(&mut tasks);
        let known = tasks.map(|task| task.used.unwrap().disk >= Bytes::mib(4));
        assert_eq!(known, [true, true, false, false, true]);
        // Whoever has ended is forgotten.
        duty.look(&[]);
        assert!(duty.sizes.disk_use.known().is_empty());
    }

    #[test]
    fn where_no_size_is_kept_who_may_be_ended_is_measured_while_the_disk_is_short() {
        let dir = tempfile::tempdir().unwrap();
        let unlimited = (Keeping::Unlimited, Keeping::Unlimited);
        let mut duty = duty(dir.path(), unlimited.0, unlimited.1);
        let revocable = TaskLaunch {
            revocable: Resources {
                mem: Bytes(1),
                ..Resources::default()
            },
            ..launch("revocable", Bytes(1))
        };
        let all = [revocable, launch("firm", Bytes(1))].map(running);
        let layout = Layout::new(dir.path().to_owned());
        for one in &all {
            let sandbox = layout.sandbox(&one.launch.task);
            fs::create_dir_all(&sandbox).unwrap();
            fs::write(sandbox.join("file"), vec![1; 4 << 20]).unwrap();
        }
        assert!(duty.is_idle());
        duty.sizes.disk_use.want(true);
        assert!(!duty.is_idle());
        assert_eq!(duty.look(&all), [], "nobody is over a limit");
        let known = duty.sizes.disk_use.known().clone();
        assert!(known[&all[0].launch.task] >= Bytes::mib(4));
        assert_eq!(known.len(), 1, "what is firm is not ended");
        duty.sizes.disk_use.want(false);
        assert!(!duty.is_idle());
        duty.look(&all);
        assert!(duty.is_idle() && duty.sizes.disk_use.known().is_empty());
    }

    #[test]
    fn nothing_is_measured_where_the_operator_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let unlimited = (Keeping::Unlimited, Keeping::Unlimited);
        let duty = duty(dir.path(), unlimited.0, unlimited.1);
        let mut launch = launch("a", Bytes(1));
        launch.volumes.push(TaskVolume {
            made_by: launch.operation,
            disk: None,
            path: "data".into(),
            bytes: Some(Bytes(1)),
        });
        assert!(duty.sizes.subjects(&[running(launch)]).is_empty());
    }

    #[test]
    fn a_setting_is_named_by_a_word() {
        assert_eq!("measured".parse(), Ok(Keeping::Measured));
        assert_eq!("enforced".parse(), Ok(Keeping::Enforced));
        let error = "hard".parse::<Keeping>().unwrap_err();
        assert!(error.contains("`unlimited`"), "{error}");
    }
}
