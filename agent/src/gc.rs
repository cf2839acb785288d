//! Removes what tasks leave behind: the folders of those that ended long ago,
//! and artifacts and images that nobody needs when they take too much room.
//!
//! Of folders, what people may still want to read is kept: the newest thousand
//! within a bound of their output, and none longer than a week. What was packed
//! together goes together. Folders and packs of tasks that the agent still holds
//! stay whatever their age. Of artifacts, the core says which no task needs; here
//! is only counted.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tepui_executor::output::parts;
use tepui_executor::packs::{self, Listed, SETTLED};
use tepui_image::{Images, Retention};
use tepui_pressure::Strain;
use tepui_quota::BoundsError;
use tepui_tree::remove_folder;
use tepui_types::{Bytes, Digest, TaskId};
use tokio::sync::{mpsc, oneshot, watch};

use crate::event_loop::Event;
use crate::sandbox::Layout;
use crate::task_disks::TaskDisks;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
struct Keep {
    /// Folders of ended tasks.
    folders: usize,
    /// What their outputs may take together. What tasks put into their sandboxes is not counted.
    output: Bytes,
    /// What packs may take together.
    packs: Bytes,
    /// How long folders and packs are kept.
    age: Duration,
    /// What artifacts may take that wait for the next task that needs them.
    artifacts: Bytes,
    /// What images may take that no task has.
    images: Bytes,
    /// How long they are kept after their last use.
    image_age: Duration,
}

/// While there is room.
const USUAL: Keep = Keep {
    folders: 1_000,
    // The whole of 64 tasks that write without end.
    output: Bytes::gib(8),
    // A hundred thousand tasks of a line each; one is looked for among them in milliseconds.
    packs: Bytes::mib(16),
    age: Duration::from_secs(7 * 24 * 3600),
    // Ten of the largest that a master takes unless told otherwise.
    artifacts: Bytes::gib(10),
    // What common machines can spare.
    images: Bytes::gib(20),
    image_age: Duration::from_secs(30 * 24 * 3600),
};
/// While the disk is nearly full: what people look at first when something is wrong, and nothing that
/// can be fetched again.
const SHORT: Keep = Keep {
    folders: 50,
    output: Bytes::mib(256),
    packs: Bytes::mib(1),
    age: Duration::from_secs(3600),
    artifacts: Bytes(0),
    images: Bytes(0),
    image_age: Duration::from_secs(3600),
};
/// While the next thing to go would be a task that runs: nothing, the oldest first, for as long as that is
/// so.
const CRITICAL: Keep = Keep {
    folders: 0,
    output: Bytes(0),
    packs: Bytes(0),
    age: Duration::ZERO,
    ..SHORT
};
/// How often all is looked through.
const INTERVAL: Duration = Duration::from_secs(60);
/// How often at most, however full the disk is: before a second task is ended for it.
const PAUSE: Duration = Duration::from_secs(5);

impl Keep {
    fn on_disk(strain: Strain) -> Self {
        match strain {
            Strain::Calm => USUAL,
            Strain::Tight | Strain::Short => SHORT,
            Strain::Critical => CRITICAL,
        }
    }
}

/// Looks through everything for as long as the event loop lives, and more strictly whenever `strain` says
/// that the disk is nearly full.
pub async fn run(
    layout: Layout,
    images: Images,
    disks: Arc<TaskDisks>,
    mut strain: watch::Receiver<Strain>,
    events: mpsc::Sender<Event>,
) {
    while !events.is_closed() {
        let short = async {
            let seen = strain.wait_for(|strain| *strain > Strain::Calm).await;
            seen.map(|strain| *strain)
        };
        let seen = match tokio::time::timeout(INTERVAL, short).await {
            Ok(Ok(strain)) => strain,
            Ok(Err(_)) => {
                // sleep: nobody watches the disk on this machine.
                tokio::time::sleep(INTERVAL).await;
                Strain::Calm
            }
            Err(_) => Strain::Calm,
        };
        let keep = Keep::on_disk(seen);
        let (remove, now) = (disks.clone(), strain.clone());
        let remove = move |task: &TaskId| remove.remove(task);
        let is_enough = move || seen == Strain::Critical && *now.borrow() < seen;
        collect_outputs(&layout, keep, remove, is_enough, &events).await;
        collect_artifacts(layout.artifacts(), keep.artifacts, &events).await;
        collect_images(&images, keep).await;
        // sleep: the next look may be asked for at once.
        tokio::time::sleep(PAUSE).await;
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "images carry the time of day at which they were last used"
)]
async fn collect_images(images: &Images, keep: Keep) {
    let retention = Retention {
        max_age: Some(keep.image_age),
        most_bytes: Some(keep.images.0),
    };
    // What a task has is held by its lease.
    let others = HashSet::new();
    let collected = images.collect(&others, retention, SystemTime::now());
    if let Err(error) = collected.await {
        let error = anyhow::Error::from(error);
        tracing::warn!("old images stay: {error:#}");
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "folders carry the time of day, and nothing else compares with it"
)]
async fn collect_outputs(
    layout: &Layout,
    keep: Keep,
    remove_disk: impl Fn(&TaskId) -> Result<(), BoundsError> + Send + 'static,
    is_enough: impl Fn() -> bool + Send + 'static,
    events: &mpsc::Sender<Event>,
) {
    let (tasks, packs) = (layout.tasks(), layout.packs());
    // What lies there first: whatever is launched later is in neither list.
    let listed = tokio::task::spawn_blocking(move || (list(&tasks), packs::list(&packs)));
    let Ok((folders, packs)) = listed.await else {
        return;
    };
    let (sender, held) = oneshot::channel();
    if events.send(Event::HeldWanted(sender)).await.is_err() {
        return;
    }
    let Ok(held) = held.await else { return };
    let _ = tokio::task::spawn_blocking(move || {
        let now = SystemTime::now();
        for (task, path) in expired(folders, &held, keep, now) {
            if is_enough() {
                return;
            }
            // Its folder is not empty as long as that is there.
            if let Err(error) = remove_disk(&task) {
                let error = anyhow::Error::from(error);
                tracing::warn!(%task, "an old sandbox stays: {error:#}");
            } else if let Err(error) = remove_folder(&path) {
                tracing::warn!(path = %path.display(), %error, "an old sandbox stays");
            }
        }
        for path in expired_packs(packs, keep, now) {
            if !has_any(&path, &held)
                && let Err(error) = std::fs::remove_file(&path)
            {
                tracing::warn!(path = %path.display(), %error, "old outputs stay");
            }
        }
    })
    .await;
}

async fn collect_artifacts(folder: PathBuf, keep: Bytes, events: &mpsc::Sender<Event>) {
    let listed = tokio::task::spawn_blocking(move || list_artifacts(&folder)).await;
    let Ok(files) = listed else { return };
    let total: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    if total > keep.0 {
        // The loop is gone only when the agent ends.
        let _ = events.send(Event::Excess(files, total - keep.0)).await;
    }
}

/// Artifacts with their sizes, the one that was fetched first in front.
fn list_artifacts(folder: &Path) -> Vec<(Digest, u64)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let file = |entry: std::fs::DirEntry| {
        let digest = format!("sha256:{}", entry.file_name().to_str()?);
        let metadata = entry.metadata().ok()?;
        Some((
            metadata.modified().ok()?,
            (digest.parse().ok()?, metadata.len()),
        ))
    };
    let mut files: Vec<_> = entries.filter_map(file).collect();
    files.sort_unstable();
    files.into_iter().map(|(_, file)| file).collect()
}

#[derive(Debug, Clone)]
struct Folder {
    task: TaskId,
    path: PathBuf,
    /// Of its outputs.
    bytes: u64,
    changed: SystemTime,
}

fn list(tasks: &Path) -> Vec<Folder> {
    let entries = std::fs::read_dir(tasks).into_iter().flatten().flatten();
    let folder = |entry: std::fs::DirEntry| {
        let path = entry.path();
        let folder = path.metadata().ok()?;
        let outputs: Vec<_> = outputs(&path).flat_map(|path| path.metadata()).collect();
        let all = outputs.iter().chain([&folder]);
        Some(Folder {
            task: entry.file_name().to_str()?.parse().ok()?,
            bytes: outputs.iter().map(std::fs::Metadata::len).sum(),
            changed: all.flat_map(|it| it.modified()).max()?,
            path,
        })
    };
    entries.filter_map(folder).collect()
}

/// The files of the outputs of a task and of its companions, where there are any.
fn outputs(task: &Path) -> impl Iterator<Item = PathBuf> {
    let members = std::fs::read_dir(task.join("members"));
    let members = members.into_iter().flatten().flatten();
    let folders = std::iter::once(task.to_owned()).chain(members.map(|member| member.path()));
    let streams = folders.flat_map(|folder| ["stdout", "stderr"].map(|name| folder.join(name)));
    streams.flat_map(|stream| {
        let complete = parts::list(&stream).unwrap_or_default();
        let mut files: Vec<_> = complete
            .into_iter()
            .map(|begins| parts::complete(&stream, begins))
            .collect();
        files.push(stream);
        files
    })
}

/// The folders that go, the oldest first.
fn expired(
    mut folders: Vec<Folder>,
    held: &HashSet<TaskId>,
    keep: Keep,
    now: SystemTime,
) -> Vec<(TaskId, PathBuf)> {
    folders.retain(|folder| !held.contains(&folder.task));
    folders.sort_by_key(|folder| std::cmp::Reverse(folder.changed));
    let is_old = |folder: &Folder| {
        now.duration_since(folder.changed)
            .is_ok_and(|age| age > keep.age)
    };
    let mut bytes: u64 = 0;
    let goes = |(position, folder): (usize, Folder)| {
        bytes = bytes.saturating_add(folder.bytes);
        (position >= keep.folders || bytes > keep.output.0 || is_old(&folder))
            .then_some((folder.task, folder.path))
    };
    let mut gone: Vec<_> = folders.into_iter().enumerate().filter_map(goes).collect();
    gone.reverse();
    gone
}

/// The packs that go, unless they have something of a task that is held.
fn expired_packs(packs: Vec<Listed>, keep: Keep, now: SystemTime) -> Vec<PathBuf> {
    let age = |pack: &Listed| now.duration_since(pack.changed).unwrap_or_default();
    let mut bytes: u64 = 0;
    let goes = |(position, pack): (usize, Listed)| {
        bytes = bytes.saturating_add(pack.bytes);
        let has_no_room = position >= keep.folders || bytes > keep.packs.0;
        // Before that, somebody may still write to it.
        let is_settled = age(&pack) > SETTLED;
        let goes = is_settled && (has_no_room || age(&pack) > keep.age);
        goes.then_some(pack.path)
    };
    packs.into_iter().enumerate().filter_map(goes).collect()
}

/// One that cannot be read now stays until it is looked at again.
fn has_any(pack: &Path, held: &HashSet<TaskId>) -> bool {
    packs::read(pack).map_or(true, |packed| {
        packed.iter().any(|packed| held.contains(&packed.task))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn paths(expired: Vec<(TaskId, PathBuf)>) -> Vec<PathBuf> {
        expired.into_iter().map(|(_, path)| path).collect()
    }

    fn folder(number: u64, age_secs: u64, now: SystemTime) -> Folder {
        let task: TaskId = format!("f1.t.{number}").parse().unwrap();
        let path = PathBuf::from(task.to_string());
        Folder {
            task,
            path,
            bytes: 0,
            changed: now - Duration::from_secs(age_secs),
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any time will do")]
    fn newest_thousand_of_a_week_stay_and_so_do_held_ones() {
        let now = SystemTime::now();
        let week = USUAL.age.as_secs();
        let mut folders: Vec<_> = (0..1_002)
            .map(|number| folder(number, number, now))
            .collect();
        folders.push(folder(5_000, week + 5, now));
        let held = HashSet::from([folders[1_001].task.clone()]);
        let gone = paths(expired(folders.clone(), &held, USUAL, now));
        assert_eq!(
            gone,
            [PathBuf::from("f1.t.5000"), PathBuf::from("f1.t.1000")]
        );
        folders.truncate(3);
        folders.push(folder(7, week + 1, now));
        assert_eq!(
            paths(expired(folders, &HashSet::new(), USUAL, now)),
            [PathBuf::from("f1.t.7")]
        );
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any time will do")]
    fn less_is_kept_while_the_disk_is_nearly_full() {
        let now = SystemTime::now();
        let hour = SHORT.age.as_secs();
        let folders: Vec<_> = (0..60).map(|number| folder(number, number, now)).collect();
        let gone = expired(folders, &HashSet::new(), SHORT, now);
        assert_eq!(gone.len(), 10);
        let old = vec![folder(1, hour + 5, now)];
        assert_eq!(expired(old, &HashSet::new(), SHORT, now).len(), 1);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any time will do")]
    fn nothing_but_what_is_held_is_kept_before_a_task_that_runs_goes() {
        let now = SystemTime::now();
        let folders: Vec<_> = (0..3).map(|number| folder(number, number, now)).collect();
        let held = HashSet::from([folders[1].task.clone()]);
        let gone = expired(folders, &held, Keep::on_disk(Strain::Critical), now);
        let oldest_first = ["f1.t.2", "f1.t.0"].map(PathBuf::from);
        assert_eq!(paths(gone), oldest_first);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any time will do")]
    fn loud_folders_go_when_newer_ones_take_all_the_room() {
        let now = SystemTime::now();
        let mut folders: Vec<_> = (0..4).map(|number| folder(number, number, now)).collect();
        folders[0].bytes = USUAL.output.0 - 10;
        folders[1].bytes = 10;
        folders[3].bytes = 1;
        assert_eq!(
            paths(expired(folders, &HashSet::new(), USUAL, now)),
            [PathBuf::from("f1.t.3")]
        );
    }

    #[tokio::test]
    async fn artifacts_above_the_bound_are_told_oldest_first() {
        let dir = tempfile::tempdir().unwrap();
        let digests = [b"old", b"new"].map(|bytes| Digest::of(bytes));
        for (digest, age_secs) in digests.iter().zip([1_000, 10]) {
            let file = std::fs::File::create(dir.path().join(digest.hex())).unwrap();
            file.set_len(100).unwrap();
            let now = file.metadata().unwrap().modified().unwrap();
            file.set_modified(now - Duration::from_secs(age_secs))
                .unwrap();
        }
        let draft = dir.path().join(digests[0].hex()).with_extension("part");
        std::fs::write(draft, "on its way").unwrap();
        let (events, mut told) = mpsc::channel(2);
        collect_artifacts(dir.path().into(), Bytes(200), &events).await;
        collect_artifacts(dir.path().into(), Bytes(199), &events).await;
        drop(events);
        let Some(Event::Excess(files, 1)) = told.recv().await else {
            panic!("a byte too many")
        };
        assert_eq!(files, digests.map(|digest| (digest, 100)));
        assert!(told.recv().await.is_none(), "at the bound all stay");
    }

    #[tokio::test]
    async fn an_old_folder_goes_whatever_its_files_are_called() {
        use std::os::unix::ffi::OsStrExt as _;
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().into());
        layout.create().unwrap();
        let [old, held] = ["f1.old.0", "f1.held.0"].map(|name| layout.tasks().join(name));
        let names: [&[u8]; 4] = [b"two\nlines", b"no\xfftext", &[b'n'; 255], b"-rf *"];
        for folder in [&old, &held] {
            std::fs::create_dir(folder).unwrap();
            for name in names {
                std::fs::write(folder.join(std::ffi::OsStr::from_bytes(name)), "").unwrap();
            }
            let file = std::fs::File::open(folder).unwrap();
            let now = file.metadata().unwrap().modified().unwrap();
            file.set_modified(now - 2 * USUAL.age).unwrap();
        }
        let (events, mut asked) = mpsc::channel(1);
        let answer = async {
            let Some(Event::HeldWanted(sender)) = asked.recv().await else {
                panic!("it asks what is held")
            };
            sender
                .send(HashSet::from(["f1.held.0".parse().unwrap()]))
                .unwrap();
        };
        let removed = Arc::new(Mutex::new(Vec::new()));
        let told = removed.clone();
        let remove_disk = move |task: &TaskId| {
            told.lock().unwrap().push(task.to_string());
            Ok(())
        };
        let collected = collect_outputs(&layout, USUAL, remove_disk, || false, &events);
        tokio::join!(collected, answer);
        assert_eq!(*removed.lock().unwrap(), ["f1.old.0"]);
        assert!(!old.exists() && held.exists());
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any time will do")]
    fn packs_go_when_newer_ones_take_all_the_room_and_nobody_writes_to_them() {
        let now = SystemTime::now();
        let pack = |number: u64, age_secs: u64| Listed {
            path: PathBuf::from(format!("e1-{number}.pack")),
            bytes: USUAL.packs.0 / 2,
            changed: now - Duration::from_secs(age_secs),
        };
        let settled = SETTLED.as_secs() + 1;
        let packs = |ages: &[u64]| {
            let packs = ages.iter().enumerate();
            let packs = packs.map(|(number, age)| pack(number as u64, *age));
            packs.collect::<Vec<_>>()
        };
        let gone_of = |keep, ages: &[u64]| expired_packs(packs(ages), keep, now).len();
        assert_eq!(gone_of(USUAL, &[0, settled]), 0);
        assert_eq!(gone_of(USUAL, &[0, 1, settled, settled]), 2);
        assert_eq!(gone_of(USUAL, &[USUAL.age.as_secs() + 1]), 1);
        for keep in [USUAL, SHORT, CRITICAL] {
            let fresh = gone_of(keep, &[0, 1, 1, 1]);
            assert_eq!(fresh, 0, "somebody may still write to them");
        }
        assert_eq!(gone_of(CRITICAL, &[1, settled]), 1);
    }

    #[test]
    fn a_pack_with_a_held_task_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let packer = packs::Packer::new(dir.path().into(), "e1".into());
        let task: TaskId = "f1.t.0".parse().unwrap();
        let packed = packs::Packed {
            task: task.clone(),
            stdout: b"said".to_vec(),
            stderr: Vec::new(),
        };
        packer.add(&packed).unwrap();
        let pack = packs::list(dir.path()).remove(0);
        assert!(has_any(&pack.path, &HashSet::from([task])));
        assert!(!has_any(
            &pack.path,
            &HashSet::from(["f1.t.1".parse().unwrap()])
        ));
    }

    #[test]
    fn folders_are_listed_by_task() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("f1.a.0")).unwrap();
        std::fs::write(dir.path().join("f1.a.0/stdout"), "four").unwrap();
        // What was rotated, and what companions have said, takes room as well.
        let member = dir.path().join("f1.a.0/members/proxy");
        std::fs::create_dir_all(&member).unwrap();
        std::fs::write(member.join("stdout"), "thirty").unwrap();
        for (stream, bytes) in [
            (dir.path().join("f1.a.0/stderr"), 100),
            (member.join("stderr"), 1_000),
        ] {
            std::fs::write(parts::complete(&stream, 7), vec![b'x'; bytes]).unwrap();
        }
        std::fs::create_dir(dir.path().join("not a task")).unwrap();
        let listed = list(dir.path());
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].task, "f1.a.0".parse().unwrap());
        assert_eq!(listed[0].bytes, 4 + 6 + 100 + 1_000);
    }
}
