//! A machine that is short of processors, or of room on its disk: what its tasks give back, and what it lends.

use std::process::{Child, Command};

use tepui_types::task::reason;
use tepui_types::wire::agent::TaskLaunch;
use tepui_types::{AgentInfo, Bytes, MilliCpus, Resources, TaskState};

use crate::master::{FakeMaster, eventually, shell};
use crate::process::AgentProcess;
use crate::task_disks::Small;
use crate::volumes::can_enforce;

/// Processes that keep every processor busy, and are no hindrance to others that want one.
struct Spinners(Vec<Child>);

impl Spinners {
    fn start() -> Self {
        let processors = std::thread::available_parallelism().unwrap().get();
        let spin = || {
            let mut command = Command::new("nice");
            command.args(["-n", "19", "/bin/sh", "-c", "while :; do :; done"]);
            command.spawn().unwrap()
        };
        // Twice as many, so that someone always waits.
        Self((0..2 * processors).map(|_| spin()).collect())
    }
}

impl Drop for Spinners {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

fn revocable(name: &str) -> TaskLaunch {
    let mut launch = shell(name, "exec sleep 1000");
    launch.revocable = Resources {
        cpus: launch.resources.cpus,
        ..Resources::default()
    };
    launch
}

/// What may be taken back of that machine.
fn lent(machine: &AgentInfo) -> MilliCpus {
    let pools = machine.resources.pools.iter();
    MilliCpus(pools.map(|pool| pool.amounts.cpus.0).sum())
}

/// The quotas of all cgroups of the agent's tasks, in microseconds of each 100 ms.
fn quotas(agent: &AgentProcess) -> Vec<i64> {
    let name = std::fs::read_to_string(agent.layout().dir().join("cgroup")).unwrap();
    let quota = |dir: &std::path::Path| {
        let v1 = std::fs::read_to_string(dir.join("cpu.cfs_quota_us"));
        let text = v1
            .or_else(|_| std::fs::read_to_string(dir.join("cpu.max")))
            .ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    let roots = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup"];
    let parents = roots
        .iter()
        .map(|root| std::path::Path::new(root).join(&name));
    let children = parents.flat_map(|parent| std::fs::read_dir(parent).into_iter().flatten());
    let tasks = children.flatten().map(|entry| entry.path());
    let tasks = tasks.filter(|path| path.to_str().is_some_and(|path| path.ends_with("-task")));
    tasks.filter_map(|path| quota(&path)).collect()
}

#[tokio::test]
async fn on_a_full_disk_the_task_with_most_of_it_is_ended_also_where_no_size_is_kept() {
    if tepui_executor::cgroup::available().is_err() || !can_enforce() {
        eprintln!("skipped: it needs cgroups and a disk of its own");
        return;
    }
    let small = Small::new(Bytes::mib(256));
    let mut master = FakeMaster::start().await;
    let arguments = &["--revocable", "cpus=3", "--sandbox-sizes", "unlimited"];
    let dir = small.layout().dir().to_owned();
    let agent = AgentProcess::start_in(&master, Some(dir), arguments);
    let mut session = master.session().await;
    let little = "head -c 4194304 /dev/zero > little; touch written; exec sleep 1000";
    let fill = "until test -e go; do sleep 0.01; done; cat /dev/zero > all; exec sleep 1000";
    let firm = shell("firm", little);
    let less = TaskLaunch {
        spec: shell("less", little).spec,
        ..revocable("less")
    };
    let most = TaskLaunch {
        spec: shell("most", fill).spec,
        ..revocable("most")
    };
    for launch in [&firm, &less, &most] {
        session.launch(launch).await;
        session.until(&launch.task, TaskState::Running).await;
    }
    for launch in [&firm, &less] {
        let written = agent.layout().sandbox(&launch.task).join("written");
        eventually("it has written", || written.exists()).await;
    }
    std::fs::write(agent.layout().sandbox(&most.task).join("go"), "").unwrap();
    let report = session.until(&most.task, TaskState::Killed).await;
    assert_eq!(report.reason.unwrap().code, reason::UNDER_PRESSURE);
    // Nothing was offered of it. What the ended one had is given back, so that no other has to end.
    let is_told = |machine: &AgentInfo| machine.full.is_some();
    assert!(session.machine.as_ref().is_some_and(is_told));
    session
        .until_machine(|machine| machine.full.is_none())
        .await;
    for launch in [&firm, &less] {
        assert_eq!(session.latest[&launch.task].state, TaskState::Running);
    }
}

#[tokio::test]
async fn tasks_on_what_may_be_taken_back_make_way_for_others() {
    if tepui_executor::cgroup::available().is_err()
        || !std::path::Path::new("/proc/pressure").exists()
    {
        eprintln!("skipped: it needs cgroups and PSI");
        return;
    }
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start_with(&master, &["--revocable", "cpus=3"]);
    let mut session = master.session().await;
    let (firm, cheap) = (shell("firm", "exec sleep 1000"), revocable("cheap"));
    for launch in [&firm, &cheap] {
        session.launch(launch).await;
        session.until(&launch.task, TaskState::Running).await;
    }
    let spinners = Spinners::start();
    let throttled = eventually("the one on what is lent has less than it was given", || {
        quotas(&agent)
            .iter()
            .any(|quota| (1..100_000).contains(quota))
    });
    session.meanwhile(throttled).await;
    let whole = quotas(&agent)
        .iter()
        .filter(|quota| **quota == 100_000)
        .count();
    assert!(whole >= 1, "what is firm stays: {:?}", quotas(&agent));

    // No more is lent than is out; what is firm is taken on.
    let out = cheap.revocable.cpus;
    session.until_machine(|machine| lent(machine) == out).await;
    let more = shell("more", "true");
    session.launch(&more).await;
    session.until(&more.task, TaskState::Finished).await;
    drop(spinners);
}
