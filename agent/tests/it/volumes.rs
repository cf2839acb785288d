//! Persistent volumes whose sizes are kept, under tasks that would have more.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};
use tepui_agent::sandbox::Layout;
use tepui_agent::sizes::Keeping;
use tepui_agent::volumes::Volumes;
use tepui_quota::Support;
use tepui_types::task::reason;
use tepui_types::wire::agent::{AgentEffect, TaskLaunch, TaskVolume, VolumeList};
use tepui_types::{Bytes, OperationId, TaskState};

use crate::images::ImageLayout;
use crate::master::{FakeMaster, Session, contained, eventually, shell};
use crate::process::{AgentProcess, bounds, clear};

const ENFORCED: &[&str] = &["--volume-sizes", "enforced"];
/// Writes twice what a volume of 32 MiB has, and says how that went.
const TOO_MUCH: &str = "head -c 67108864 /dev/zero > data/big 2> said; echo $?; \
                        cat said; rm data/big";

/// Whether this machine enforces sizes; says so when not.
pub fn can_enforce() -> bool {
    let dir = tempfile::tempdir().unwrap();
    let bounds = bounds(&dir.path().join("place"), &dir.path().join("store"));
    let support = bounds.prepare().unwrap();
    bounds.release().unwrap();
    match support {
        Support::Measured(why) => {
            eprintln!("skipped: {why}");
            false
        }
        Support::Project | Support::Image => true,
    }
}

fn made_by(index: u64) -> OperationId {
    OperationId { index, ordinal: 0 }
}

fn with_volume(mut task: TaskLaunch, index: u64, bytes: Bytes) -> TaskLaunch {
    task.volumes.push(TaskVolume {
        made_by: made_by(index),
        disk: None,
        path: "data".into(),
        bytes: Some(bytes),
    });
    task
}

fn folder(agent: &AgentProcess, index: u64) -> PathBuf {
    agent.dir().join("volumes").join(made_by(index).to_string())
}

/// A folder whose volumes go before it does.
struct Place(tempfile::TempDir);

impl Place {
    fn layout(&self) -> Layout {
        Layout::new(self.0.path().join("agent"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for (_, folder, store) in self.layout().volume_disks() {
            clear(&folder, &store);
        }
    }
}

fn is_mounted(path: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut places = table.lines().filter_map(|line| line.split(' ').nth(4));
    places.any(|place| Path::new(place) == path)
}

async fn finished(agent: &AgentProcess, session: &mut Session, task: &TaskLaunch) -> String {
    session.launch(task).await;
    session.until(&task.task, TaskState::Finished).await;
    let output = agent.layout().task(&task.task).join("stdout");
    // There is none of one that says nothing.
    std::fs::read_to_string(output).unwrap_or_default()
}

#[tokio::test]
async fn a_volume_takes_no_more_than_its_size_and_keeps_its_data_through_kills_of_the_agent() {
    if !can_enforce() {
        return;
    }
    const SIZE: Bytes = Bytes::mib(32);
    let mut master = FakeMaster::start().await;
    let mut agent = AgentProcess::start_with(&master, ENFORCED);
    let mut session = master.session().await;
    let greedy = with_volume(shell("greedy", TOO_MUCH), 9, SIZE);
    let said = finished(&agent, &mut session, &greedy).await;
    assert!(
        said.starts_with("1\n") && said.contains("No space left"),
        "{said}"
    );

    // One that has it open meanwhile writes on.
    let script =
        "echo first > data/log; until test -e go; do sleep 0.01; done; echo last >> data/log";
    let writer = with_volume(shell("writer", script), 9, SIZE);
    session.launch(&writer).await;
    session.until(&writer.task, TaskState::Running).await;
    eventually("it has written", || folder(&agent, 9).join("log").exists()).await;
    agent.kill();
    // A volume that was made with a size of its own has it whatever is set later.
    agent.set_arguments(&[]);
    agent.start_again(&master);
    let mut session = master.session().await;
    std::fs::write(agent.layout().sandbox(&writer.task).join("go"), "").unwrap();
    session.until(&writer.task, TaskState::Finished).await;
    agent.kill();
    // As after the machine's restart: what was mounted is not.
    eventually("nobody has it", || {
        umount2(&folder(&agent, 9), MntFlags::empty()).is_ok()
    })
    .await;
    agent.start_again(&master);
    let mut session = master.session().await;
    let reader = format!("cat data/log; {TOO_MUCH}");
    let reader = with_volume(shell("reader", &reader), 9, SIZE);
    let said = finished(&agent, &mut session, &reader).await;
    assert!(said.starts_with("first\nlast\n1\n"), "{said}");
    assert!(said.contains("No space left"), "{said}");
}

#[tokio::test]
async fn a_container_has_no_more_of_a_volume_either_and_a_volume_that_was_grown_has_more() {
    if !can_enforce() || tepui_executor::cgroup::available().is_err() {
        return;
    }
    let image = ImageLayout::make();
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start_with(&master, ENFORCED);
    let mut session = master.session().await;
    let container = format!(r#"{{"image": "{}"}}"#, image.name());
    // One that was started before there was any volume is in nobody's way.
    let earlier = contained("earlier", &container, &["sleep", "1000"]);
    session.launch(&earlier).await;
    session.until(&earlier.task, TaskState::Running).await;
    for (name, mib, fits) in [("small", 32, false), ("grown", 128, true)] {
        let script = "cat /dev/zero | exec /bin/busybox head -c 67108864 > $TEPUI_SANDBOX/data/big; \
                      echo $?; exec /bin/busybox rm $TEPUI_SANDBOX/data/big";
        let task = contained(name, &container, &["sh", "-c", script]);
        let task = with_volume(task, 9, Bytes::mib(mib));
        let said = finished(&agent, &mut session, &task).await;
        assert_eq!(said.starts_with("0\n"), fits, "{name}: {said}");
    }
    // What is no volume any more is gone, with its mount and the room that was set aside.
    let list = VolumeList {
        kept: Vec::new(),
        from: 0,
        to: 20,
    };
    session.effects(vec![AgentEffect::Volumes(list)]).await;
    let path = folder(&agent, 9);
    let is_gone = || !path.exists() && !is_mounted(&path);
    let store = agent.dir().join("sizes");
    let is_empty = || std::fs::read_dir(&store).unwrap().next().is_none();
    let gone = eventually("it is removed", || is_gone() && is_empty());
    session.meanwhile(gone).await;
}

#[tokio::test]
async fn a_volume_that_is_there_stays_where_it_is_and_one_without_room_is_not_begun() {
    if !can_enforce() {
        return;
    }
    let mut master = FakeMaster::start().await;
    let mut agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let plain = with_volume(shell("plain", "echo kept > data/file"), 5, Bytes::mib(32));
    finished(&agent, &mut session, &plain).await;
    agent.kill();
    agent.set_arguments(ENFORCED);
    agent.start_again(&master);
    let mut session = master.session().await;
    let again = with_volume(shell("again", "cat data/file"), 5, Bytes::mib(32));
    assert_eq!(finished(&agent, &mut session, &again).await, "kept\n");
    assert!(!is_mounted(&folder(&agent, 5)));

    let large = with_volume(shell("large", "true"), 6, Bytes::gib(1 << 20));
    session.launch(&large).await;
    let report = session.until(&large.task, TaskState::Dropped).await;
    let why = report.reason.unwrap();
    assert_eq!(why.code, reason::VOLUME_UNAVAILABLE);
    assert!(
        why.message.contains("`data`") && why.message.contains("free"),
        "{why}"
    );
    assert!(!folder(&agent, 6).exists());
}

#[tokio::test]
async fn a_volume_that_takes_no_writes_is_told_of_and_given_to_nobody_until_it_is_mended() {
    if !can_enforce() {
        return;
    }
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start_with(&master, ENFORCED);
    let mut session = master.session().await;
    let with = |name, script| with_volume(shell(name, script), 9, Bytes::mib(32));
    let user = with("user", "echo kept > data/file; sync; exec sleep 1000");
    session.launch(&user).await;
    session.until(&user.task, TaskState::Running).await;
    let (path, file) = (folder(&agent, 9), folder(&agent, 9).join("file"));
    eventually("it has written", || file.exists()).await;
    rustix::fs::syncfs(std::fs::File::open(&path).unwrap()).unwrap();
    let device = std::fs::metadata(&path).unwrap().dev();
    let minor = nix::sys::stat::minor(device);
    let trigger = format!("/sys/fs/ext4/loop{minor}/trigger_fs_error");
    if let Err(error) = std::fs::write(&trigger, "an error of a test") {
        return eprintln!("skipped: {trigger}: {error}");
    }
    let said = eventually("it is told of", || {
        agent
            .log()
            .contains("tasks use a volume that takes no writes")
    });
    session.meanwhile(said).await;
    let next = with("next", "cat data/file");
    session.launch(&next).await;
    let report = session.until(&next.task, TaskState::Dropped).await;
    let why = report.reason.unwrap();
    assert_eq!(why.code, reason::VOLUME_UNAVAILABLE);
    assert!(why.message.contains("e2fsck -f"), "{why}");

    session.kill(&user.task, 0).await;
    session.until(&user.task, TaskState::Killed).await;
    eventually("nobody has it", || {
        umount2(&path, MntFlags::empty()).is_ok()
    })
    .await;
    let again = with("again", "cat data/file; echo more > data/more");
    // Its checker mends it before it is mounted.
    assert_eq!(finished(&agent, &mut session, &again).await, "kept\n");
}

#[tokio::test]
async fn tasks_of_a_volume_that_is_measured_are_ended_when_it_is_over_its_size() {
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let script = "head -c 67108864 /dev/zero > data/big; exec sleep 1000";
    let greedy = with_volume(shell("greedy", script), 9, Bytes::mib(32));
    session.launch(&greedy).await;
    let report = session.until(&greedy.task, TaskState::Failed).await;
    let why = report.reason.unwrap();
    assert_eq!(why.code, reason::DISK_LIMIT);
    let says = |word| why.message.contains(word);
    assert!(
        says("`data`") && says("32 MiB") && says("volume grow"),
        "{why}"
    );
    // What it has written is not taken away.
    assert!(folder(&agent, 9).join("big").exists());
}

#[test]
fn a_volume_whose_folder_was_moved_is_not_begun_anew() {
    if !can_enforce() {
        return;
    }
    let place = Place(tempfile::tempdir().unwrap());
    let layout = place.layout();
    let task = with_volume(shell("a", "true"), 9, Bytes::mib(32));
    let open = |layout: &Layout| Volumes::open(layout, Keeping::Enforced).unwrap();
    open(&layout).make_ready(&task.volumes).unwrap();
    let file = layout.volume(&task.volumes[0]).join("file");
    std::fs::write(&file, "kept").unwrap();

    let moved = place.0.path().join("moved");
    std::fs::rename(layout.dir(), &moved).unwrap();
    let why = open(&Layout::new(moved.clone())).make_ready(&task.volumes);
    let why = why.unwrap_err();
    assert_eq!(why.code, reason::VOLUME_UNAVAILABLE);
    assert!(why.message.contains("move the folder"), "{why}");
    std::fs::rename(&moved, layout.dir()).unwrap();
    open(&layout).make_ready(&task.volumes).unwrap();
    assert_eq!(std::fs::read_to_string(file).unwrap(), "kept");
}

#[test]
fn a_volume_on_another_disk_is_kept_there_with_its_room() {
    if !can_enforce() {
        return;
    }
    let place = Place(tempfile::tempdir().unwrap());
    let disk = place.0.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let disks = [("large".to_owned(), disk.clone())];
    let layout = place.layout().with_disks(disks.into(), 7);
    let mut task = with_volume(shell("a", "true"), 9, Bytes::mib(32));
    task.volumes[0].disk = Some("large".into());
    let volumes = Volumes::open(&layout, Keeping::Enforced).unwrap();
    let there: Vec<_> = layout.volume_disks().collect();
    let (_, folder, store) = &there[1];
    let made = volumes.make_ready(&task.volumes);
    let is_there = is_mounted(&layout.volume(&task.volumes[0]));
    let has_room = std::fs::read_dir(store).unwrap().count() > 0;
    clear(folder, store);
    made.unwrap();
    assert!(is_there && has_room && store.starts_with(&disk));
}

#[tokio::test]
async fn a_task_may_clear_a_measured_volume_that_is_over_its_size() {
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let make = "for i in 1 2 3 4; do head -c 25165824 /dev/zero > data/$i; done";
    let first = with_volume(shell("first", make), 9, Bytes::mib(128));
    session.launch(&first).await;
    session.until(&first.task, TaskState::Finished).await;
    // Its size is another now: who begins with three times of that is ended, once; whoever comes after
    // that takes no more, and may take its time to remove some.
    let sleeps = with_volume(shell("sleeps", "exec sleep 1000"), 9, Bytes::mib(32));
    session.launch(&sleeps).await;
    session.until(&sleeps.task, TaskState::Failed).await;
    let clear = "for i in 1 2 3 4; do sleep 3; rm data/$i; done";
    let second = with_volume(shell("second", clear), 9, Bytes::mib(32));
    session.launch(&second).await;
    session.until(&second.task, TaskState::Finished).await;
    assert!(folder(&agent, 9).read_dir().unwrap().next().is_none());
}
