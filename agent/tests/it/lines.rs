//! Tasks that begin when another has ended, without a word from the master between the two.

use tepui_types::TaskState;
use tepui_types::wire::agent::TaskLaunch;

use crate::master::{FakeMaster, shell};
use crate::process::AgentProcess;
use crate::recovery::run_through_kills;

/// A task, and another that fails unless the first one has come to its end.
fn pair(agent: &AgentProcess, number: u32, script: &str) -> [TaskLaunch; 2] {
    let first = shell(&format!("a{number}"), &format!("{script}; touch ../end"));
    let end = agent.layout().task(&first.task).join("end");
    let script = format!("test -e {} && echo ran >> ../count", end.display());
    let second = TaskLaunch {
        after: Some(first.task.clone()),
        ..shell(&format!("b{number}"), &script)
    };
    [first, second]
}

#[tokio::test]
async fn a_task_begins_when_the_one_before_has_ended() {
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let wait = "while ! test -e ../go; do sleep 0.01; done";
    let [first, second] = pair(&agent, 0, wait);
    for task in [&first, &second] {
        session.launch(task).await;
    }
    session.until(&first.task, TaskState::Running).await;
    assert!(!agent.layout().sandbox(&second.task).exists());
    std::fs::write(agent.layout().task(&first.task).join("go"), "").unwrap();
    session.until(&second.task, TaskState::Finished).await;
}

#[tokio::test]
async fn lines_hold_however_often_the_agent_is_killed() {
    let mut master = FakeMaster::start().await;
    let mut agent = AgentProcess::start(&master);
    let pairs = (0..8).flat_map(|number| pair(&agent, number, "sleep 0.05"));
    let tasks: Vec<TaskLaunch> = pairs.collect();
    let ended = run_through_kills(&mut master, &mut agent, &tasks).await;
    for task in &tasks {
        let report = &ended[&task.task];
        assert_eq!(report.state, TaskState::Finished, "{report:?}");
    }
    for task in tasks.iter().filter(|task| task.after.is_some()) {
        let count = agent.layout().task(&task.task).join("count");
        let count = std::fs::read_to_string(count).unwrap();
        assert_eq!(count, "ran\n", "{}", task.task);
    }
}
