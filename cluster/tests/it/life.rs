//! A task's life: the states that it came to, in their order.

use tepui_cluster::Command;
use tepui_cluster::state::life::STEPS;
use tepui_types::operation::Kill;
use tepui_types::task::reason;
use tepui_types::{AgentId, TaskId, TaskState};

use crate::support::*;

fn states(log: &Log, task: &TaskId) -> Vec<TaskState> {
    let steps = log.state.task(task).unwrap().steps();
    assert!(
        steps.is_sorted_by_key(|step| step.time),
        "times go forward: {steps:?}"
    );
    steps.iter().map(|step| step.state).collect()
}

fn lost_and_found(log: &mut Log, agent: AgentId, task: &TaskId) {
    log.time += 1;
    log.accept(Command::MarkAgentUnreachable { agent });
    log.time += 1;
    let running = vec![report(task, TaskState::Running)];
    log.accept(register(1, Some(agent), machine(4, 8), running));
}

#[test]
fn every_state_is_told_in_its_order_with_its_reason() {
    use TaskState::{Finished, Killing, Running, Staging, Starting, Unreachable};
    let mut log = Log::new();
    let (agent, framework) = (log.agent(4, 8), log.framework("f", "*"));
    let plain = log.launch(framework, agent, "plain");
    assert_eq!(states(&log, &plain), [Staging]);
    log.report(agent, &plain, Running);
    assert_eq!(states(&log, &plain), [Staging, Running]);
    log.report(agent, &plain, Finished);
    assert_eq!(states(&log, &plain), [Staging, Running, Finished]);

    let short = log.launch(framework, agent, "short");
    log.report(agent, &short, Finished);
    assert_eq!(states(&log, &short), [Staging, Finished]);

    let long = log.launch(framework, agent, "long");
    log.report(agent, &long, Starting);
    log.report(agent, &long, Running);
    lost_and_found(&mut log, agent, &long);
    log.accept(Command::KillTask(Kill {
        task: long.clone(),
        grace_ms: None,
    }));
    log.report(agent, &long, TaskState::Killed);
    let told = [
        Staging,
        Starting,
        Running,
        Unreachable,
        Running,
        Killing,
        TaskState::Killed,
    ];
    assert_eq!(states(&log, &long), told);
    let steps = log.state.task(&long).unwrap().steps();
    let reasons = steps.iter().filter_map(|step| step.reason.as_ref());
    let codes: Vec<_> = reasons.map(|reason| reason.code.as_str()).collect();
    assert!(codes.contains(&reason::KILL_REQUESTED), "{codes:?}");

    let misfit = log.launch_with(framework, agent, "misfit", amounts(99, 1));
    assert_eq!(states(&log, &misfit), [TaskState::Dropped]);
}

#[test]
fn of_a_task_whose_agent_comes_and_goes_the_newest_steps_are_kept_and_the_others_counted() {
    let mut log = Log::new();
    let (agent, framework) = (log.agent(4, 8), log.framework("f", "*"));
    let task = log.launch(framework, agent, "t");
    log.report(agent, &task, TaskState::Running);
    for _ in 0..STEPS {
        lost_and_found(&mut log, agent, &task);
    }
    let record = log.state.task(&task).unwrap();
    let steps = record.steps();
    // Beside those that are kept: launch, first start, the latest.
    assert_eq!(steps.len(), STEPS + 3);
    let kept_or_forgotten = 2 * STEPS - 1;
    assert_eq!(record.life.forgotten() as usize, kept_or_forgotten - STEPS);
    assert_eq!(
        states(&log, &task)[..2],
        [TaskState::Staging, TaskState::Running]
    );
}

#[test]
fn attempts_of_a_name_are_found_in_their_order() {
    let mut log = Log::new();
    let (agent, framework) = (log.agent(4, 8), log.framework("f", "*"));
    let mut launched = Vec::new();
    for name in ["t", "other", "t", "t-1", "t"] {
        let task = log.launch(framework, agent, name);
        log.report(agent, &task, TaskState::Finished);
        log.acknowledge(&task);
        launched.push(task);
    }
    let name = "t".parse().unwrap();
    let attempts = log.state.attempts(framework, &name);
    let attempts: Vec<_> = attempts.map(|task| task.id.attempt).collect();
    assert_eq!(attempts, [0, 2, 4]);
}
