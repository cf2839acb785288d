//! Sandboxes whose sizes the kernel keeps: under tasks that would have more, after their ends, and
//! through kills of the agent.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::mount::{MntFlags, umount2};
use tepui_agent::sandbox::Layout;
use tepui_agent::sizes::Keeping;
use tepui_agent::task_disks::TaskDisks;
use tepui_agent::volumes::headroom;
use tepui_quota::Enforce;
use tepui_types::task::reason;
use tepui_types::wire::agent::TaskLaunch;
use tepui_types::wire::stream::{FileForm, FileRequest, StreamRequest};
use tepui_types::{Bytes, Fetch, TaskId, TaskState, Workload};
use tokio_util::sync::CancellationToken;

use crate::images::ImageLayout;
use crate::master::{DEADLINE, FakeMaster, Session, contained, eventually, shell};
use crate::process::{AgentProcess, bounds, clear};
use crate::recovery::run_through_kills;
use crate::volumes::can_enforce;

const ENFORCED: &[&str] = &["--sandbox-sizes", "enforced"];
const SIZE: Bytes = Bytes::mib(32);
/// Twice what there is.
const TOO_MUCH: &str = "head -c 67108864 /dev/zero > big";

fn with_disk(mut task: TaskLaunch) -> TaskLaunch {
    task.resources.disk = SIZE;
    task
}

/// What is mounted below a folder.
fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let places = table.lines().filter_map(|line| line.split(' ').nth(4));
    let below = |path: &PathBuf| path.starts_with(folder) && path != folder;
    places.map(PathBuf::from).filter(below).collect()
}

fn real(folder: PathBuf) -> PathBuf {
    folder.canonicalize().unwrap()
}

/// An agent that ends in order leaves no disk mounted, but for one that another test's process has for a
/// moment; the next agent lays that to rest.
async fn stopped_without_mounts(master: &mut FakeMaster, agent: &mut AgentProcess) {
    let tasks = real(agent.layout().tasks());
    for _ in 0..10 {
        assert!(agent.stop().await);
        if mounts_below(&tasks).is_empty() {
            return;
        }
        agent.start_again(master);
        master.session().await;
    }
    panic!("it leaves {:?} mounted", mounts_below(&tasks));
}

async fn read(master: &mut FakeMaster, session: &mut Session, of: (u128, &TaskId, &str)) -> String {
    let (id, task, path) = of;
    let request = StreamRequest::Files(FileRequest {
        task: task.clone(),
        path: path.into(),
        form: FileForm::Bytes {
            offset: 0,
            limit: Some(64),
        },
    });
    session.open(id, request).await;
    let stream = session.meanwhile(master.stream(id)).await;
    let (text, ended) = stream.all().await;
    match ended {
        Ok(()) => text,
        Err(why) => why.to_string(),
    }
}

#[tokio::test]
async fn a_task_that_fills_its_sandbox_is_refused_more_and_told_so_and_others_go_on() {
    if !can_enforce() {
        return;
    }
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start_with(&master, ENFORCED);
    let mut session = master.session().await;
    // One that is measured is ended; this one ends itself, for its writes fail.
    let full = format!("echo kept > file; {TOO_MUCH} || exit 3");
    let full = with_disk(shell("full", &full));
    let within = "head -c 25165824 /dev/zero > big && grep fetched fetched";
    let mut within = with_disk(shell("within", within));
    let artifact = master.add_artifact(b"fetched");
    let fetch = Fetch {
        path: Some("fetched".into()),
        ..Fetch::new(artifact.to_string())
    };
    Arc::make_mut(&mut within.spec).fetch = vec![fetch];
    let free = shell("free", TOO_MUCH);
    for task in [&full, &within, &free] {
        session.launch(task).await;
    }
    for task in [&within, &free] {
        session.until(&task.task, TaskState::Finished).await;
    }
    let report = session.until(&full.task, TaskState::Failed).await;
    assert_eq!(report.exit_code, Some(3));
    let why = report.reason.unwrap();
    assert_eq!(why.code, reason::DISK_LIMIT);
    let says = |word| why.message.contains(word);
    assert!(says("32 MiB") && says("--disk") && says("code 3"), "{why}");
    let output = agent.layout().task(&full.task).join("stderr");
    let said = std::fs::read_to_string(output).unwrap();
    assert!(said.contains("No space left"), "{said}");

    // It takes what is in it, and no mount; what is in it is there to be read.
    let tasks = real(agent.layout().tasks());
    let rested = eventually("nothing is mounted", || mounts_below(&tasks).is_empty());
    session.meanwhile(rested).await;
    let image = |task: &TaskLaunch| agent.dir().join(format!("task-disks/{}/image", task.task));
    if image(&within).exists() {
        let taken = std::fs::metadata(image(&within)).unwrap().blocks() * 512;
        assert!((24 << 20..30 << 20).contains(&taken), "{taken}");
        assert!(!image(&free).exists());
    }
    let kept = read(&mut master, &mut session, (1, &full.task, "file")).await;
    assert_eq!(kept, "kept\n");
    let free = read(&mut master, &mut session, (2, &free.task, "none")).await;
    assert!(free.contains("file-missing"), "{free}");
}

#[tokio::test]
async fn a_container_has_no_more_of_its_sandbox_and_over_its_image_than_it_was_given() {
    if !can_enforce() || tepui_executor::cgroup::available().is_err() {
        return;
    }
    let image = ImageLayout::make();
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start_with(&master, ENFORCED);
    let mut session = master.session().await;
    let container = format!(r#"{{"image": "{}"}}"#, image.name());
    // Half of it in one, and what is too much in the other.
    let script = "b=/bin/busybox; $b head -c 16777216 /dev/zero > $TEPUI_SANDBOX/half || exit 4; \
                  $b head -c 33554432 /dev/zero > /above && exit 5; \
                  $b rm /above; echo kept > $TEPUI_SANDBOX/file; $b head -c 33554432 /dev/zero > /above";
    let task = with_disk(contained("above", &container, &["sh", "-c", script]));
    session.launch(&task).await;
    let report = session.until(&task.task, TaskState::Failed).await;
    let why = report.reason.unwrap();
    assert_eq!(why.code, reason::DISK_LIMIT, "{why}");
    // What it wrote over its image is gone with it, and its sandbox is not.
    let tasks = real(agent.layout().tasks());
    let rested = eventually("nothing is mounted", || mounts_below(&tasks).is_empty());
    session.meanwhile(rested).await;
    let kept = read(&mut master, &mut session, (1, &task.task, "file")).await;
    assert_eq!(kept, "kept\n");
    let disk = agent.layout().task_disk(&task.task);
    assert!(!disk.join("layers").exists() && disk.join("sandbox").exists());
}

#[tokio::test]
async fn companions_share_the_disk_of_their_task_and_a_container_without_an_image_has_one() {
    if !can_enforce() || tepui_executor::cgroup::available().is_err() {
        return;
    }
    let image = ImageLayout::make();
    let mut master = FakeMaster::start().await;
    let mut agent = AgentProcess::start_with(&master, ENFORCED);
    let mut session = master.session().await;
    let container = serde_json::json!({"image": image.name()});
    let fill = "b=/bin/busybox; $b head -c 20971520 /dev/zero";
    let options = serde_json::json!({"companions": [{
        "name": "first", "role": "init", "container": container,
        "argv": ["sh", "-c", format!("{fill} > /above && echo kept > $TEPUI_SANDBOX/file")],
    }]});
    let script = format!("{fill} > $TEPUI_SANDBOX/big");
    let mut group = contained("group", &container.to_string(), &["sh", "-c", &script]);
    let Workload::Command(command) = &mut Arc::make_mut(&mut group.spec).workload else {
        panic!("{group:?}");
    };
    command.options = Some(serde_json::from_value(options).unwrap());
    // Rates are those of the disk under the sandbox, which is its own now.
    let mut rated = with_disk(shell("rated", "echo kept > file"));
    let Workload::Command(command) = &mut Arc::make_mut(&mut rated.spec).workload else {
        panic!("{rated:?}");
    };
    let options = serde_json::json!({"io": {"write_bytes": 100_000_000}});
    command.options = Some(serde_json::from_value(options).unwrap());
    session.launch(&rated).await;
    session.until(&rated.task, TaskState::Finished).await;
    let script = format!("cd $TEPUI_SANDBOX && echo kept > file && {TOO_MUCH}");
    let machine = contained("machine", "{}", &["/bin/sh", "-c", &script]);
    for (number, task) in [group, machine].into_iter().enumerate() {
        let task = with_disk(task);
        session.launch(&task).await;
        let report = session.until(&task.task, TaskState::Failed).await;
        let why = report.reason.unwrap();
        assert_eq!(why.code, reason::DISK_LIMIT, "{why}");
        let of = (number as u128, &task.task, "file");
        assert_eq!(read(&mut master, &mut session, of).await, "kept\n");
    }
    stopped_without_mounts(&mut master, &mut agent).await;
}

#[tokio::test]
async fn kills_of_the_agent_and_a_restart_of_the_machine_lose_nothing_and_leave_no_mount() {
    if !can_enforce() {
        return;
    }
    let mut master = FakeMaster::start().await;
    let mut agent = AgentProcess::start_with(&master, ENFORCED);
    let mut session = master.session().await;
    let script = format!(
        "echo begun > file; until test -e go; do sleep 0.01; done; echo more >> file; {TOO_MUCH}"
    );
    let task = with_disk(shell("a", &script));
    session.launch(&task).await;
    session.until(&task.task, TaskState::Running).await;
    let sandbox = agent.layout().sandbox(&task.task);
    eventually("it has written", || sandbox.join("file").exists()).await;
    agent.kill();
    // One that began with a disk has it whatever is set later.
    agent.set_arguments(&[]);
    agent.start_again(&master);
    let mut session = master.session().await;
    session.until(&task.task, TaskState::Running).await;
    std::fs::write(sandbox.join("go"), "").unwrap();
    let report = session.until(&task.task, TaskState::Failed).await;
    assert_eq!(report.reason.unwrap().code, reason::DISK_LIMIT);
    // Killed while it is read.
    assert_eq!(
        read(&mut master, &mut session, (1, &task.task, "file")).await,
        "begun\nmore\n"
    );
    agent.kill();
    let tasks = real(agent.layout().tasks());
    agent.start_again(&master);
    let mut session = master.session().await;
    let rested = eventually("nothing is mounted", || mounts_below(&tasks).is_empty());
    session.meanwhile(rested).await;
    agent.kill();
    // As after the machine's restart: no mounts at all.
    let _ = umount2(&tasks, MntFlags::MNT_DETACH);
    agent.start_again(&master);
    let mut session = master.session().await;
    assert_eq!(
        read(&mut master, &mut session, (2, &task.task, "file")).await,
        "begun\nmore\n"
    );
    // One that ends in order leaves none either.
    stopped_without_mounts(&mut master, &mut agent).await;
}

#[tokio::test]
async fn an_agent_killed_at_any_moment_runs_each_task_once_and_leaves_no_disk_mounted() {
    if !can_enforce() {
        return;
    }
    const TASKS: usize = 4;
    let counts = tempfile::tempdir().unwrap();
    let count = |number: usize| counts.path().join(number.to_string());
    let task = |number| {
        let script = format!("echo kept > file; echo ran >> {}", count(number).display());
        with_disk(shell(&format!("t{number}"), &script))
    };
    let tasks: Vec<TaskLaunch> = (0..TASKS).map(task).collect();
    let mut master = FakeMaster::start().await;
    let mut agent = AgentProcess::start_with(&master, ENFORCED);
    let ended = run_through_kills(&mut master, &mut agent, &tasks).await;
    for (number, task) in tasks.iter().enumerate() {
        let report = &ended[&task.task];
        assert_eq!(report.state, TaskState::Finished, "{report:?}");
        assert_eq!(std::fs::read_to_string(count(number)).unwrap(), "ran\n");
    }
    // All have what they wrote.
    agent.kill();
    agent.start_again(&master);
    let mut session = master.session().await;
    for (number, task) in tasks.iter().enumerate() {
        let of = (number as u128, &task.task, "file");
        assert_eq!(read(&mut master, &mut session, of).await, "kept\n");
    }
    stopped_without_mounts(&mut master, &mut agent).await;
    let disks = std::fs::read_dir(agent.layout().task_disks()).unwrap();
    assert_eq!(disks.count(), TASKS);
}

#[tokio::test]
async fn a_size_that_cannot_be_enforced_is_measured_and_one_without_room_is_not_begun() {
    if !can_enforce() {
        return;
    }
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start_with(&master, ENFORCED);
    let mut session = master.session().await;
    let mut small = shell("small", "head -c 33554432 /dev/zero > big; exec sleep 1000");
    small.resources.disk = Bytes::mib(8);
    session.launch(&small).await;
    let report = session.until(&small.task, TaskState::Failed).await;
    let why = report.reason.unwrap();
    assert!(
        why.code == reason::DISK_LIMIT && why.message.contains("8 MiB"),
        "{why}"
    );
    assert!(agent.layout().sandbox(&small.task).join("big").exists());

    let mut large = shell("large", "true");
    large.resources.disk = Bytes::gib(1 << 20);
    session.launch(&large).await;
    let report = session.until(&large.task, TaskState::Dropped).await;
    let why = report.reason.unwrap();
    assert!(
        why.code == reason::AGENT_FULL && why.message.contains("free"),
        "{why}"
    );
    assert!(!agent.layout().sandbox(&large.task).exists());
}

/// An agent's folder on a small disk of its own, all of which goes at the end.
pub struct Small {
    place: tempfile::TempDir,
}

impl Small {
    pub fn new(bytes: Bytes) -> Self {
        let place = tempfile::tempdir().unwrap();
        let this = Self { place };
        let bounds = bounds(&this.folder(), &this.store());
        let at = this.folder().join("disk");
        let made = bounds.make(&tepui_quota::Wanted {
            name: "disk",
            at: &at,
            bytes,
            enforce: Enforce::Enforced,
            life: tepui_quota::Life::Scratch,
        });
        made.unwrap();
        this
    }

    fn folder(&self) -> PathBuf {
        self.place.path().join("disks")
    }

    fn store(&self) -> PathBuf {
        self.place.path().join("store")
    }

    pub fn layout(&self) -> Layout {
        Layout::new(self.folder().join("disk/agent"))
    }

    fn disks(&self, living: &[&TaskLaunch]) -> Arc<TaskDisks> {
        self.layout().create().unwrap();
        let living: HashSet<TaskId> = living.iter().map(|it| it.task.clone()).collect();
        TaskDisks::open(&self.layout(), Keeping::Enforced, &living).unwrap()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        clear(&self.layout().tasks(), &self.layout().task_disks());
        clear(&self.folder(), &self.store());
    }
}

fn write(layout: &Layout, task: &TaskLaunch, bytes: usize) {
    std::fs::write(layout.sandbox(&task.task).join("file"), vec![1; bytes]).unwrap();
}

fn free(layout: &Layout) -> Bytes {
    let stat = nix::sys::statvfs::statvfs(layout.dir()).unwrap();
    Bytes(stat.blocks_available() * stat.fragment_size())
}

/// Waits until only so many are mounted: a process that another test starts may have a mount for a moment.
fn rested(disks: &TaskDisks, layout: &Layout, left: usize) {
    let below = real(layout.tasks());
    wait("disks rest", || {
        disks.close();
        mounts_below(&below).len() == left
    });
}

#[expect(clippy::disallowed_methods, reason = "a real kernel, in real time")]
fn wait(what: &str, mut probe: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + DEADLINE;
    while !probe() {
        assert!(std::time::Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

fn make(disks: &TaskDisks, task: &TaskLaunch) -> Result<(), tepui_types::Reason> {
    disks.make(task, &CancellationToken::new())
}

#[test]
fn what_ended_tasks_have_left_makes_way_and_what_was_looked_at_goes_last() {
    if !can_enforce() {
        return;
    }
    let small = Small::new(Bytes::mib(144));
    let layout = small.layout();
    let disks = small.disks(&[]);
    let tasks = ["a", "b", "c", "d", "e", "f"].map(|name| with_disk(shell(name, "true")));
    let [a, b, c, d, e, f] = &tasks;
    for task in [a, b, c] {
        make(&disks, task).unwrap();
        write(&layout, task, 24 << 20);
        disks.end(&task.task);
        rested(&disks, &layout, 0);
    }
    // They have what is in them: there is room for one more, then one has to go, and that is not the
    // one that somebody wanted to see.
    make(&disks, d).unwrap();
    assert!(disks.show(&a.task).is_ok());
    rested(&disks, &layout, 1);
    make(&disks, e).unwrap();
    let left = [a, b, c].map(|task| disks.show(&task.task).is_ok());
    assert_eq!(left, [true, false, true], "{} is free", free(&layout));
    rested(&disks, &layout, 2);
    // What tasks have that have not ended goes for nobody, and neither does anything in vain.
    let mut large = f.clone();
    large.resources.disk = Bytes::mib(150);
    let why = make(&disks, &large).unwrap_err();
    assert_eq!(why.code, reason::AGENT_FULL);
    assert!(disks.show(&a.task).is_ok() && disks.show(&c.task).is_ok());
    assert!(layout.sandbox(&d.task).is_dir() && layout.sandbox(&e.task).is_dir());
    assert!(disks.used(&d.task).is_some() && disks.used(&a.task).is_none());
}

#[test]
fn what_a_task_has_left_that_has_just_ended_makes_way_too() {
    if !can_enforce() {
        return;
    }
    let small = Small::new(Bytes::mib(144));
    let layout = small.layout();
    let disks = small.disks(&[]);
    let [mut a, mut b] = ["a", "b"].map(|name| with_disk(shell(name, "true")));
    // There is room for one of them, and not for what the other leaves.
    let room = free(&layout).0 - headroom(layout.dir()).0;
    for task in [&mut a, &mut b] {
        task.resources.disk = Bytes(room - (8 << 20));
    }
    make(&disks, &a).unwrap();
    write(&layout, &a, 24 << 20);
    // It ends while no agent looks, so it has all of its room still.
    drop(disks);
    let disks = small.disks(&[]);
    let below = real(layout.tasks());
    assert_eq!(mounts_below(&below).len(), 1);
    wait("the other is made", || match make(&disks, &b) {
        Ok(()) => true,
        // Another test's process may have its mount for a moment.
        Err(why) => {
            assert_eq!(mounts_below(&below).len(), 1, "{why}");
            false
        }
    });
    assert!(disks.show(&a.task).is_err());
}

#[test]
fn no_more_than_some_are_mounted_to_be_read_and_those_that_nobody_reads_make_way() {
    if !can_enforce() {
        return;
    }
    const MOST: usize = 16;
    let place = tempfile::tempdir().unwrap();
    let layout = Layout::new(place.path().join("agent"));
    layout.create().unwrap();
    let disks = TaskDisks::open(&layout, Keeping::Enforced, &HashSet::new()).unwrap();
    let tasks = (0..=MOST).map(|number| with_disk(shell(&format!("t{number}"), "true")));
    let tasks: Vec<TaskLaunch> = tasks.collect();
    let checked = std::panic::catch_unwind(|| {
        for task in &tasks {
            make(&disks, task).unwrap();
            write(&layout, task, 1);
            disks.end(&task.task);
        }
        let below = real(layout.tasks());
        rested(&disks, &layout, 0);
        let mut shown: Vec<_> = tasks[..MOST]
            .iter()
            .map(|task| disks.show(&task.task).unwrap())
            .collect();
        assert!(shown[0].path().join("file").exists());
        assert_eq!(mounts_below(&below).len(), MOST);
        let why = disks.show(&tasks[MOST].task).unwrap_err();
        assert!(why.message.contains("try again"), "{why}");
        // Another who reads one that is read is no more.
        let again = disks.show(&tasks[3].task).unwrap();
        drop(shown.remove(3));
        assert!(disks.show(&tasks[MOST].task).is_err());
        drop(again);
        // Another test's process may have a mount for a moment.
        wait("one makes way", || disks.show(&tasks[MOST].task).is_ok());
        assert_eq!(mounts_below(&below).len(), MOST);
        drop(shown);
        rested(&disks, &layout, 0);
        // They go with their folders.
        disks.remove(&tasks[0].task).unwrap();
        assert!(disks.show(&tasks[0].task).is_err());
        assert_eq!(
            std::fs::read_dir(layout.task_disks()).unwrap().count(),
            MOST
        );
        // Or when somebody has removed those.
        std::fs::remove_file(layout.sandbox(&tasks[1].task)).unwrap();
        let again = TaskDisks::open(&layout, Keeping::Measured, &HashSet::new());
        wait("the disk is removed", || {
            !layout.task_disk(&tasks[1].task).exists()
        });
        drop(again);
    });
    clear(&layout.tasks(), &layout.task_disks());
    checked.unwrap();
}

#[test]
fn what_containers_wrote_over_their_images_goes_also_when_the_agent_was_killed_at_their_end() {
    if !can_enforce() {
        return;
    }
    let small = Small::new(Bytes::mib(96));
    let layout = small.layout();
    let task = with_disk(shell("a", "true"));
    let disks = small.disks(&[]);
    make(&disks, &task).unwrap();
    write(&layout, &task, 1);
    let layers = layout.task_disk(&task.task).join("layers");
    std::fs::create_dir_all(layers.join("main/upper/folder")).unwrap();
    drop(disks);

    let again = small.disks(&[]);
    rested(&again, &layout, 0);
    let shown = again.show(&task.task).unwrap();
    assert!(shown.path().join("file").exists() && !layers.exists());
    drop(shown);
    rested(&again, &layout, 0);
}

#[test]
fn a_task_that_was_released_while_its_disk_was_made_leaves_nothing_mounted() {
    if !can_enforce() {
        return;
    }
    let small = Small::new(Bytes::mib(160));
    let layout = small.layout();
    // Who takes up the disks removes those that nothing leads to, as what is made here is. That is over
    // once it has removed one of before.
    layout.create().unwrap();
    let orphan = shell("orphan", "true").task;
    std::fs::create_dir_all(layout.task(&orphan)).unwrap();
    let made = bounds(&layout.tasks(), &layout.task_disks()).make(&tepui_quota::Wanted {
        name: &orphan.to_string(),
        at: &layout.task_disk(&orphan),
        bytes: Bytes::mib(16),
        enforce: Enforce::Enforced,
        life: tepui_quota::Life::Scratch,
    });
    made.unwrap();
    let disks = small.disks(&[]);
    wait("what nothing leads to goes", || {
        !layout.task_disk(&orphan).exists()
    });
    let released = CancellationToken::new();
    // Its end comes before its disk is begun, or while that is made.
    for name in ["a", "b", "c", "d"] {
        let task = with_disk(shell(name, "true"));
        let released = CancellationToken::new();
        std::thread::scope(|scope| {
            let making = scope.spawn(|| disks.make(&task, &released));
            wait("it is being made", || disks.keep(&task.task));
            released.cancel();
            disks.end(&task.task);
            making.join().unwrap().unwrap();
        });
        rested(&disks, &layout, 0);
        assert!(layout.task_disk(&task.task).exists(), "it was made");
    }
    released.cancel();
    let other = with_disk(shell("e", "true"));
    disks.make(&other, &released).unwrap();
    rested(&disks, &layout, 0);
    assert!(!layout.task_disk(&other.task).exists());
}
