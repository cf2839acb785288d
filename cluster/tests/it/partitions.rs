//! Tasks of agents that are not heard of, and their policies.

use tepui_cluster::Command;
use tepui_types::task::reason;
use tepui_types::wire::agent::AgentEffect;
use tepui_types::*;

use crate::support::*;

/// Launches a task with this policy.
fn launched(
    log: &mut Log,
    framework: FrameworkId,
    agent: AgentId,
    name: &str,
    policy: PartitionPolicy,
) -> TaskId {
    let mut turn = log.next_turn(framework);
    let attempt = turn.first_attempt;
    turn.specs = vec![impatient(policy)];
    turn.operations.push(launch(agent, name, amounts(1, 1)));
    log.accept(Command::Turn(turn));
    TaskId {
        framework,
        name: name.parse().unwrap(),
        attempt,
    }
}

/// An unreachable agent with a task of each policy, and one that never arrived.
fn cut_off() -> (Log, AgentId, [TaskId; 4]) {
    use PartitionPolicy::{ReplaceAfter, StopAfter, Wait};
    let mut log = Log::new();
    let (agent, framework) = (log.agent(8, 8), log.framework("batch", "eng"));
    let policies = [
        ("waits", Wait),
        ("replaced", ReplaceAfter(10_000)),
        ("stopped", StopAfter(20_000)),
        ("staging", ReplaceAfter(10_000)),
    ];
    let tasks = policies.map(|(name, policy)| launched(&mut log, framework, agent, name, policy));
    for task in &tasks[..3] {
        log.report(agent, task, TaskState::Running);
    }
    log.accept(Command::MarkAgentUnreachable { agent });
    (log, agent, tasks)
}

fn replace(agent: AgentId, unreachable_ms: u64) -> Command {
    Command::ReplaceTasks {
        agent,
        unreachable_ms,
    }
}

fn states(log: &Log, tasks: &[TaskId; 4]) -> [TaskState; 4] {
    [0, 1, 2, 3].map(|index| log.task_state(&tasks[index]))
}

#[test]
fn each_task_is_gone_after_its_own_time_and_no_sooner() {
    use TaskState::{Gone, Unreachable};
    let (mut log, agent, tasks) = cut_off();
    let record = log.state.agent(agent).unwrap();
    assert_eq!(log.state.replacement_times(record), [10_000, 20_000]);
    log.time += 10_000;
    log.accept(replace(agent, 9_999));
    assert_eq!(states(&log, &tasks), [Unreachable; 4]);
    log.accept(replace(agent, 10_000));
    assert_eq!(
        states(&log, &tasks),
        [Unreachable, Gone, Unreachable, Gone],
        "a launch that may not have arrived goes by its policy, too"
    );
    let why = log.state.task(&tasks[1]).unwrap().status.reason.clone();
    assert_eq!(why.unwrap().code, reason::REPLACED);
    log.time += 10_000;
    log.accept(replace(agent, 20_000));
    assert_eq!(states(&log, &tasks), [Unreachable, Gone, Gone, Gone]);
    let record = log.state.agent(agent).unwrap();
    assert!(log.state.replacement_times(record).is_empty());
}

#[test]
fn a_task_is_replaced_only_when_both_clocks_say_so() {
    let (mut log, agent, tasks) = cut_off();
    // The leader has waited, and the state's time stands where it was.
    log.accept(replace(agent, 60_000));
    assert_eq!(states(&log, &tasks), [TaskState::Unreachable; 4]);
    // The state's time has jumped, and the leader is new.
    log.time += 3_600_000;
    log.accept(replace(agent, 5));
    assert_eq!(states(&log, &tasks), [TaskState::Unreachable; 4]);
}

#[test]
fn an_agent_that_came_back_in_time_keeps_its_tasks() {
    let (mut log, agent, tasks) = cut_off();
    log.time += 60_000;
    let held = tasks.iter().map(|task| report(task, TaskState::Running));
    log.accept(register(1, Some(agent), machine(8, 8), held.collect()));
    log.accept(replace(agent, 60_000));
    assert_eq!(states(&log, &tasks), [TaskState::Running; 4]);
}

#[test]
fn a_copy_that_comes_back_too_late_is_ended() {
    let (mut log, agent, tasks) = cut_off();
    log.time += 10_000;
    log.accept(replace(agent, 10_000));
    let held = tasks.iter().map(|task| report(task, TaskState::Running));
    let back = log.apply(register(1, Some(agent), machine(8, 8), held.collect()));
    let killed: Vec<_> = on_agents(&back)
        .into_iter()
        .filter_map(|effect| match effect {
            AgentEffect::Kill { task, .. } => Some(task.clone()),
            AgentEffect::Launch(_) | AgentEffect::Volumes(_) => None,
        })
        .collect();
    assert_eq!(killed, [tasks[1].clone(), tasks[3].clone()]);
    assert_eq!(log.task_state(&tasks[1]), TaskState::Gone);
    assert_eq!(log.task_state(&tasks[0]), TaskState::Running);
}

#[test]
fn a_task_that_its_agent_stopped_in_time_is_lost_without_blame() {
    let (mut log, agent, tasks) = cut_off();
    let mut stopped = report(&tasks[2], TaskState::Killed);
    stopped.reason = Some(Reason::new(reason::STOPPED_UNHEARD, "no word"));
    let reports = vec![stopped];
    log.accept(Command::ReportTasks { agent, reports });
    let status = &log.state.task(&tasks[2]).unwrap().status;
    assert!(status.is_lost(), "{status:?}");
}
