//! Native commands in executors of their own: ends, kills, launches that come twice.

use tepui_types::TaskState;
use tepui_types::task::reason;

use crate::master::{FakeMaster, eventually, shell};
use crate::process::AgentProcess;

#[tokio::test]
async fn command_runs_to_its_end_and_leaves_nothing() {
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let good = shell("good", "echo $TEPUI_AGENT_ID $TEPUI_TASK_ID");
    let bad = shell("bad", "exit 3");
    session.launch(&good).await;
    session.launch(&bad).await;
    let report = session.until(&good.task, TaskState::Finished).await;
    assert_eq!(report.exit_code, Some(0));
    assert!(report.usage.is_some());
    let report = session.until(&bad.task, TaskState::Failed).await;
    assert_eq!(report.exit_code, Some(3));
    assert_eq!(report.reason.unwrap().code, reason::EXIT_CODE);
    let stdout = std::fs::read_to_string(agent.layout().task(&good.task).join("stdout")).unwrap();
    assert_eq!(stdout, "a1 f1.good.0\n");
    // Executors, and what waits in them for the next task.
    let is_executor = |pid: &i32| {
        let program = std::fs::read_link(format!("/proc/{pid}/exe"));
        program.is_ok_and(|program| program.ends_with("tepui-executor-task"))
    };
    let mut left = agent.processes_in_cgroups();
    left.retain(|pid| !is_executor(pid));
    assert!(left.is_empty(), "left of the tasks: {left:?}");
    let last = shell("last", "true");
    session.launch(&last).await;
    session.until(&last.task, TaskState::Finished).await;
    // Its executor was one of the first two; where there are no cgroups, those end.
    eventually("no third executor is there", || {
        agent.executors().len() <= 2
    })
    .await;
}

#[tokio::test]
async fn what_an_earlier_task_left_and_would_not_end_keeps_no_later_one() {
    let Some(frozen) = Frozen::new() else {
        return;
    };
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    // Whoever is frozen does not even die.
    let script = format!(
        "sleep 1000 & echo $! > {0}/cgroup.procs && echo FROZEN > {0}/freezer.state",
        frozen.0.display()
    );
    let first = shell("first", &script);
    session.launch(&first).await;
    session.until(&first.task, TaskState::Finished).await;
    let [worn] = &agent.executors()[..] else {
        panic!("one executor");
    };
    assert!(frozen.has_processes());

    let second = shell("second", "true");
    session.launch(&second).await;
    session.until(&second.task, TaskState::Finished).await;
    assert!(frozen.has_processes());
    let executors = agent.executors();
    assert!(!executors.contains(worn), "{executors:?}");
}

/// A cgroup of v1's freezer; thawed and removed at the end.
struct Frozen(std::path::PathBuf);

impl Frozen {
    /// None, saying so, where the machine has no such hierarchy.
    fn new() -> Option<Self> {
        let name = format!("tepui-test-{}", std::process::id());
        let dir = std::path::Path::new("/sys/fs/cgroup/freezer").join(name);
        match std::fs::create_dir(&dir) {
            Ok(()) => Some(Self(dir)),
            Err(error) => {
                eprintln!("without v1's freezer: {error}");
                None
            }
        }
    }

    fn has_processes(&self) -> bool {
        let list = std::fs::read_to_string(self.0.join("cgroup.procs"));
        list.is_ok_and(|list| !list.is_empty())
    }
}

impl Drop for Frozen {
    #[expect(clippy::disallowed_methods, reason = "a real process, in real time")]
    fn drop(&mut self) {
        let _ = std::fs::write(self.0.join("freezer.state"), "THAWED");
        // SIGKILL has waited for it; the folder can go once it is gone.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while self.has_processes() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[tokio::test]
async fn an_agent_that_stops_leaves_no_executor_that_waits() {
    let mut master = FakeMaster::start().await;
    let mut agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let [first, second] =
        ["first", "second"].map(|name| shell(name, "until test -e ../../go; do :; done"));
    for task in [&first, &second] {
        session.launch(task).await;
        session.until(&task.task, TaskState::Running).await;
    }
    let tasks = agent.layout().task(&first.task);
    std::fs::write(tasks.parent().unwrap().join("go"), "").unwrap();
    for task in [&first, &second] {
        session.until(&task.task, TaskState::Finished).await;
    }
    // When this one runs, the agent knows that the log has those ends.
    let long = shell("long", "sleep 1000");
    session.launch(&long).await;
    session.until(&long.task, TaskState::Running).await;
    assert!(agent.stop().await);
    eventually("the task's executor alone is left", || {
        agent.executors().len() == 1
    })
    .await;
}

#[tokio::test]
async fn launch_that_comes_twice_runs_once() {
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let task = shell("a", "echo ran >> ../count");
    session.launch(&task).await;
    session.launch(&task).await;
    session.until(&task.task, TaskState::Finished).await;
    session.launch(&task).await;
    let after = shell("b", "true");
    session.launch(&after).await;
    session.until(&after.task, TaskState::Finished).await;
    let count = std::fs::read_to_string(agent.layout().task(&task.task).join("count")).unwrap();
    assert_eq!(count, "ran\n");
}

#[tokio::test]
async fn kill_gives_grace_and_then_none() {
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let polite = shell(
        "polite",
        "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done",
    );
    let deaf = shell(
        "deaf",
        "trap '' TERM; echo up; while :; do sleep 0.01; done",
    );
    for task in [&polite, &deaf] {
        session.launch(task).await;
        session.until(&task.task, TaskState::Running).await;
        let stdout = agent.layout().task(&task.task).join("stdout");
        eventually("the trap is set", || {
            std::fs::read(&stdout).is_ok_and(|text| !text.is_empty())
        })
        .await;
    }
    session.kill(&polite.task, 20_000).await;
    session.until(&polite.task, TaskState::Killed).await;
    let stdout = agent.layout().task(&polite.task).join("stdout");
    assert_eq!(std::fs::read_to_string(stdout).unwrap(), "up\nbye\n");
    session.kill(&deaf.task, 50).await;
    let report = session.until(&deaf.task, TaskState::Killed).await;
    assert_eq!(report.reason.unwrap().code, reason::KILL_REQUESTED);
}

#[tokio::test]
async fn lost_master_changes_nothing_for_tasks() {
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let task = shell("a", "while ! test -e ../go; do sleep 0.01; done");
    session.launch(&task).await;
    session.until(&task.task, TaskState::Running).await;
    drop(session);
    std::fs::write(agent.layout().task(&task.task).join("go"), "").unwrap();
    let mut session = master.session().await;
    session.until(&task.task, TaskState::Finished).await;
}
