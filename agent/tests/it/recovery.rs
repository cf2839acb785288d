//! Agents and executors that are killed at any moment: no task is lost, none runs
//! twice, and no process stays behind.

use std::collections::BTreeMap;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tepui_agent::agent::{ExecutorId, ExecutorKind, TrustDomain};
use tepui_agent::checkpoint::{Journal, Record};
use tepui_executor::exits::ExitLog;
use tepui_types::task::reason;
use tepui_types::wire::agent::{AgentEffect, StatusReport, TaskLaunch};
use tepui_types::wire::executor::TaskUpdate;
use tepui_types::{TaskId, TaskState};

use crate::master::{FakeMaster, eventually, shell, wasm};
use crate::process::{AgentProcess, is_alive};

const WAIT_FOR_GO: &str = "echo $$ > ../pid; while ! test -e ../go; do sleep 0.01; done";

#[tokio::test]
async fn killed_agent_finds_its_running_tasks_again() {
    let mut master = FakeMaster::start().await;
    let mut agent = AgentProcess::start(&master);
    let digest = master.add_artifact(&crate::wasm::spin());
    let mut session = master.session().await;
    let native = shell("native", WAIT_FOR_GO);
    let guest = wasm("guest", digest);
    for task in [&native, &guest] {
        session.launch(task).await;
        session.until(&task.task, TaskState::Running).await;
    }
    let executors = agent.executors();
    agent.kill();
    agent.start_again(&master);
    let mut session = master.session().await;
    assert_eq!(session.hello.tasks.len(), 2);
    for task in [&native, &guest] {
        session.until(&task.task, TaskState::Running).await;
    }
    assert_eq!(agent.executors(), executors, "the same processes");
    std::fs::write(agent.layout().task(&native.task).join("go"), "").unwrap();
    session.until(&native.task, TaskState::Finished).await;
    session.kill(&guest.task, 0).await;
    session.until(&guest.task, TaskState::Killed).await;
}

#[tokio::test]
async fn ends_while_the_agent_was_away_are_told_once() {
    let mut master = FakeMaster::start().await;
    let mut agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let task = shell("a", &format!("{WAIT_FOR_GO}; echo ran >> ../count; exit 3"));
    session.launch(&task).await;
    session.until(&task.task, TaskState::Running).await;
    agent.kill();
    let folder = agent.layout().task(&task.task);
    std::fs::write(folder.join("go"), "").unwrap();
    eventually("it ran to its end", || folder.join("count").exists()).await;
    agent.start_again(&master);
    let mut session = master.session().await;
    let report = session.until(&task.task, TaskState::Failed).await;
    assert_eq!(report.exit_code, Some(3));
    assert_eq!(
        std::fs::read_to_string(folder.join("count")).unwrap(),
        "ran\n"
    );
}

#[tokio::test]
async fn an_executor_that_is_stopped_is_warned_about_once() {
    let mut master = FakeMaster::start().await;
    let mut agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let task = shell("a", WAIT_FOR_GO);
    session.launch(&task).await;
    session.until(&task.task, TaskState::Running).await;
    let pid = Pid::from_raw(agent.executors().remove(0).pid);
    kill(pid, Signal::SIGSTOP).unwrap();
    agent.kill();
    agent.start_again(&master);
    eventually("it was asked twice", || {
        agent.log().contains("the executor still does not answer")
    })
    .await;
    kill(pid, Signal::SIGCONT).unwrap();
    eventually("it answers", || agent.log().contains("answers again")).await;
    assert_eq!(agent.log().matches("executor does not answer").count(), 1);
}

#[tokio::test]
async fn exit_record_speaks_for_an_executor_that_died_too() {
    let mut master = FakeMaster::start().await;
    let mut agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let task = shell("a", &format!("{WAIT_FOR_GO}; exit 3"));
    session.launch(&task).await;
    session.until(&task.task, TaskState::Running).await;
    let executor = agent.executors().remove(0);
    agent.kill();
    let folder = agent.layout().task(&task.task);
    std::fs::write(folder.join("go"), "").unwrap();
    let exits = agent.layout().executors().join("e0");
    eventually("the end is written down", || {
        tepui_executor::exits::read(&exits).is_ok_and(|records| !records.is_empty())
    })
    .await;
    kill(Pid::from_raw(executor.pid), Signal::SIGKILL).unwrap();
    eventually("the executor is dead", || !is_alive(executor.pid)).await;
    agent.start_again(&master);
    let mut session = master.session().await;
    let report = session.until(&task.task, TaskState::Failed).await;
    assert_eq!(report.exit_code, Some(3));
}

#[tokio::test]
async fn what_was_ended_with_its_agent_is_told_as_killed() {
    let mut master = FakeMaster::start().await;
    let mut agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let task = shell("a", WAIT_FOR_GO);
    session.launch(&task).await;
    session.until(&task.task, TaskState::Running).await;
    let executor = agent.executors().remove(0);
    agent.kill();
    kill(Pid::from_raw(executor.pid), Signal::SIGKILL).unwrap();
    eventually("the executor is dead", || !is_alive(executor.pid)).await;
    std::fs::write(agent.layout().stopped(), "").unwrap();
    agent.start_again(&master);
    let mut session = master.session().await;
    let report = session.until(&task.task, TaskState::Killed).await;
    let why = report.reason.unwrap();
    assert!(why.message.contains("its agent was stopped"), "{why}");
    assert!(!agent.layout().stopped().exists(), "it is told once");
}

#[tokio::test]
async fn killed_executor_names_itself_and_leaves_no_process() {
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let task = shell("a", WAIT_FOR_GO);
    session.launch(&task).await;
    session.until(&task.task, TaskState::Running).await;
    let pid_file = agent.layout().task(&task.task).join("pid");
    let read_pid =
        || -> Option<i32> { std::fs::read_to_string(&pid_file).ok()?.trim().parse().ok() };
    eventually("the task runs", || read_pid().is_some()).await;
    let executor = agent.executors().remove(0);
    kill(Pid::from_raw(executor.pid), Signal::SIGKILL).unwrap();
    let report = session.until(&task.task, TaskState::Failed).await;
    assert_eq!(report.reason.unwrap().code, reason::EXECUTOR_TERMINATED);
    if tepui_executor::cgroup::available().is_ok() {
        // Its cgroup has counted what nobody is left to say.
        assert!(report.usage.unwrap().cpu_micros > 0);
    }
    assert!(
        !is_alive(read_pid().unwrap()),
        "its process ended before that was told"
    );
    eventually("its folder goes", || {
        std::fs::read_dir(agent.layout().executors())
            .unwrap()
            .next()
            .is_none()
    })
    .await;
}

#[tokio::test]
async fn killed_wasm_executor_is_replaced_for_the_next_task() {
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let spin = master.add_artifact(&crate::wasm::spin());
    let hello = master.add_artifact(&crate::wasm::hello());
    let mut session = master.session().await;
    let lost = wasm("lost", spin);
    session.launch(&lost).await;
    session.until(&lost.task, TaskState::Running).await;
    kill(Pid::from_raw(agent.executors()[0].pid), Signal::SIGKILL).unwrap();
    let report = session.until(&lost.task, TaskState::Failed).await;
    assert_eq!(report.reason.unwrap().code, reason::EXECUTOR_TERMINATED);
    let next = wasm("next", hello);
    session.launch(&next).await;
    session.until(&next.task, TaskState::Finished).await;
}

#[tokio::test]
async fn tasks_of_an_earlier_boot_are_gone() {
    let mut master = FakeMaster::start().await;
    let mut agent = AgentProcess::start(&master);
    let first = master.session().await;
    eventually("it is registered", || agent.layout().address().exists()).await;
    agent.kill();
    drop(first);
    let (gone, ended) = (shell("gone", "true"), shell("ended", "true"));
    let mut records = vec![Record::Opened {
        boot_id: "an earlier boot".into(),
        next_executor: 0,
    }];
    for (number, launch) in [&gone, &ended].into_iter().enumerate() {
        let (task, executor) = (launch.task.clone(), ExecutorId(number as u64));
        let kind = ExecutorKind::Native(TrustDomain::of(launch));
        records.push(Record::ExecutorStarting { executor, kind });
        records.push(Record::Launched(Box::new(launch.clone())));
        records.push(Record::Handed { task, executor });
    }
    let folder = agent.layout().executor(ExecutorId(1));
    std::fs::create_dir_all(&folder).unwrap();
    let update = TaskUpdate {
        task: ended.task.clone(),
        state: TaskState::Finished,
        reason: None,
        exit_code: Some(0),
        usage: None,
        members: Vec::new(),
    };
    ExitLog::open(&folder).unwrap().append([&update]).unwrap();
    Journal::create(&agent.layout().checkpoint(), &records).unwrap();
    agent.start_again(&master);
    let mut session = master.session().await;
    let report = session.until(&gone.task, TaskState::Gone).await;
    assert_eq!(report.reason.unwrap().code, reason::AGENT_REBOOTED);
    session.until(&ended.task, TaskState::Finished).await;
    eventually("nothing of it is left", || !folder.exists()).await;
}

#[tokio::test]
async fn lost_journal_leaves_no_process() {
    let mut master = FakeMaster::start().await;
    let mut agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let task = shell("a", WAIT_FOR_GO);
    session.launch(&task).await;
    session.until(&task.task, TaskState::Running).await;
    let pid_file = agent.layout().task(&task.task).join("pid");
    let read_pid =
        || -> Option<i32> { std::fs::read_to_string(&pid_file).ok()?.trim().parse().ok() };
    eventually("the task runs", || read_pid().is_some()).await;
    agent.kill();
    std::fs::remove_file(agent.layout().checkpoint()).unwrap();
    agent.start_again(&master);
    let session = master.session().await;
    assert!(session.hello.tasks.is_empty());
    assert!(!is_alive(read_pid().unwrap()) && agent.executors().is_empty());
}

/// Killed again and again while tasks flow: each runs exactly once.
#[tokio::test]
async fn agent_killed_at_any_moment_runs_each_task_once() {
    const TASKS: usize = 12;
    let mut master = FakeMaster::start().await;
    let mut agent = AgentProcess::start(&master);
    let tasks: Vec<_> = (0..TASKS)
        .map(|number| shell(&format!("t{number}"), "echo ran >> ../count"))
        .collect();
    let ended = run_through_kills(&mut master, &mut agent, &tasks).await;
    for task in &tasks {
        let report = &ended[&task.task];
        assert_eq!(report.state, TaskState::Finished, "{report:?}");
        let count = agent.layout().task(&task.task).join("count");
        let count = std::fs::read_to_string(count).unwrap();
        assert_eq!(count, "ran\n", "{}", task.task);
    }
}

/// Runs all of them to their ends, with an agent that is killed and started again, each time a little
/// later, until it has come through.
pub async fn run_through_kills(
    master: &mut FakeMaster,
    agent: &mut AgentProcess,
    tasks: &[TaskLaunch],
) -> BTreeMap<TaskId, StatusReport> {
    let launch = |task: &_| AgentEffect::Launch(Box::new(Clone::clone(task)));
    let owed: Vec<AgentEffect> = tasks.iter().map(launch).collect();
    let mut ended = BTreeMap::new();
    for round in 0u64.. {
        let mut session = master.session().await;
        // As a master does: what the log lacks is owed and sent again.
        let missing = |effect: &&AgentEffect| match effect {
            AgentEffect::Launch(launch) => !ended.contains_key(&launch.task),
            AgentEffect::Kill { .. } | AgentEffect::Volumes(_) => false,
        };
        let effects: Vec<_> = owed.iter().filter(missing).cloned().collect();
        session.effects(effects).await;
        let patience = std::time::Duration::from_millis(3 + 11 * round);
        let all_ended = session.until_all(|latest| {
            let now = latest.values().filter(|report| report.state.is_terminal());
            now.chain(ended.values())
                .map(|report| &report.task)
                .collect::<std::collections::BTreeSet<_>>()
                .len()
                == tasks.len()
        });
        let done = tokio::time::timeout(patience, all_ended).await.is_ok();
        for (task, report) in std::mem::take(&mut session.latest) {
            if report.state.is_terminal() {
                ended.insert(task, report);
            }
        }
        if done {
            break;
        }
        agent.kill();
        agent.start_again(master);
    }
    ended
}
