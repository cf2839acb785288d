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
    let executors = agent.executors();
    let is_executor = |pid: &i32| executors.iter().any(|executor| executor.pid == *pid);
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
