//! Successors: a place goes from one task to the next in one command, unless anybody else wants it.

use std::sync::Arc;

use proptest::prelude::*;
use tepui_cluster::{Applied, Command, TurnKind};
use tepui_types::constraint::{Constraint, Constraints, Test};
use tepui_types::operation::{Kill, Operation};
use tepui_types::wire::agent::AgentEffect;
use tepui_types::*;

use crate::makers::{amounts, launch, request, spec};
use crate::support::*;

/// An agent of one place, with a task in it.
pub fn busy() -> (Log, AgentId, FrameworkId, TaskId) {
    let mut log = Log::new();
    let agent = log.agent(1, 8);
    let framework = log.framework("batch", "*");
    let first = log.launch_with(framework, agent, "first", amounts(1, 1));
    (log, agent, framework, first)
}

/// Launches a task after another.
pub fn line_up(log: &mut Log, agent: AgentId, name: &str, after: &TaskId) -> TaskId {
    line_up_with(log, agent, name, after, &spec())
}

/// Launches a task of this kind after another, with what that one has.
pub fn line_up_with(
    log: &mut Log,
    agent: AgentId,
    name: &str,
    after: &TaskId,
    spec: &Arc<TaskSpec>,
) -> TaskId {
    let mut turn = log.next_turn(after.framework);
    turn.specs = vec![spec.clone()];
    let attempt = turn.first_attempt;
    let resources = &log.state.task(after).expect("it is remembered").resources;
    let mut operation = launch(agent, name, resources.clone());
    if let Operation::Launch(launch) = &mut operation {
        launch.after = Some(after.clone());
    }
    turn.operations.push(operation);
    log.accept(Command::Turn(turn));
    TaskId {
        framework: after.framework,
        name: name.parse().unwrap(),
        attempt,
    }
}

pub fn demand(log: &mut Log, framework: FrameworkId, count: u32) {
    let mut turn = log.next_turn(framework);
    turn.kind = TurnKind::Handle;
    let demand = Demand::new(count, request(1, 1));
    turn.demands.push(("some".into(), demand));
    log.accept(Command::Turn(turn));
}

/// A task ends after more than the time for which its place would be promised ahead.
fn end_late(log: &mut Log, agent: AgentId, task: &TaskId, state: TaskState) -> Applied {
    log.time += 1_000;
    log.report(agent, task, state)
}

pub fn launched(applied: &Applied) -> Vec<&TaskId> {
    let effects = on_agents(applied).into_iter();
    let launches = effects.filter_map(|effect| match effect {
        AgentEffect::Launch(launch) => Some(&launch.task),
        _ => None,
    });
    launches.collect()
}

pub fn reason_of(log: &Log, task: &TaskId) -> String {
    let task = log.state.task(task).expect("it is remembered");
    task.status
        .reason
        .as_ref()
        .map_or_else(String::new, |why| why.code.clone())
}

#[test]
fn a_place_goes_on_in_the_command_that_ends_a_task() {
    let (mut log, agent, _, first) = busy();
    let second = line_up(&mut log, agent, "second", &first);
    let third = line_up(&mut log, agent, "third", &first);
    assert_eq!(log.task_state(&second), TaskState::Staging);
    assert!(log.state.owed_to(agent).len() == 1, "one has begun");
    let has_line = |log: &Log| {
        let task = log.state.task(&first).expect("it is remembered");
        log.state.has_line_behind(task.operation)
    };
    assert!(has_line(&log));
    let applied = end_late(&mut log, agent, &first, TaskState::Finished);
    assert_eq!(launched(&applied), [&second]);
    assert!(has_line(&log), "the third one waits behind the second");
    let applied = end_late(&mut log, agent, &second, TaskState::Failed);
    assert_eq!(launched(&applied), [&third]);
    assert!(!has_line(&log), "nobody waits behind the third");
    log.report(agent, &third, TaskState::Finished);
    assert!(!has_line(&log));
    assert_eq!(log.state.agent(agent).unwrap().free().cpus, MilliCpus(1000));
}

#[test]
fn who_names_a_task_that_has_ended_names_its_line() {
    let (mut log, agent, _, first) = busy();
    let second = line_up(&mut log, agent, "second", &first);
    log.report(agent, &first, TaskState::Finished);
    let third = line_up(&mut log, agent, "third", &first);
    assert_eq!(log.task_state(&third), TaskState::Staging);
    let applied = log.report(agent, &second, TaskState::Finished);
    assert_eq!(launched(&applied), [&third]);
    // All have ended: the place is free, and taken as by any launch.
    log.report(agent, &third, TaskState::Finished);
    let fourth = line_up(&mut log, agent, "fourth", &first);
    assert_eq!(log.state.owed_to(agent).len(), 1);
    let other = line_up(&mut log, agent, "other", &first);
    assert_eq!(log.task_state(&other), TaskState::Dropped);
    assert_eq!(reason_of(&log, &other), "resources-taken");
    assert_eq!(log.task_state(&fourth), TaskState::Staging);
}

#[test]
fn nobody_waits_in_line_while_others_want_something() {
    let (mut log, agent, framework, first) = busy();
    let second = line_up(&mut log, agent, "second", &first);
    let third = line_up(&mut log, agent, "third", &first);
    demand(&mut log, framework, 5);
    assert!(log.state.hands_on(framework, &Role::default(), agent));
    let other = log.framework("other", "*");
    demand(&mut log, other, 1);
    assert!(!log.state.hands_on(framework, &Role::default(), agent));
    let late = line_up(&mut log, agent, "late", &first);
    assert_eq!(reason_of(&log, &late), "place-wanted");
    let applied = log.report(agent, &first, TaskState::Finished);
    assert!(launched(&applied).is_empty());
    for task in [&second, &third] {
        assert_eq!(log.task_state(task), TaskState::Dropped);
        assert_eq!(reason_of(&log, task), "place-wanted");
    }
    assert_eq!(log.state.agent(agent).unwrap().free().cpus, MilliCpus(1000));
}

#[test]
fn who_wants_what_an_agent_has_not_keeps_nobody_from_its_lines() {
    let (mut log, agent, framework, first) = busy();
    let other = log.framework("other", "*");
    let hands_on = |log: &Log| log.state.hands_on(framework, &Role::default(), agent);
    let set = |log: &mut Log, wanted: Demand| {
        let mut turn = log.next_turn(other);
        turn.kind = TurnKind::Handle;
        turn.demands.push(("some".into(), wanted));
        log.accept(Command::Turn(turn));
    };
    set(&mut log, Demand::new(1, request(2, 1)));
    assert!(hands_on(&log), "it has one cpu only");
    let mut elsewhere = Demand::new(1, request(1, 1));
    elsewhere.constraints = Constraints(vec![vec![Constraint {
        attribute: "zone".into(),
        test: Test::Equals("far".into()),
    }]]);
    set(&mut log, elsewhere);
    assert!(hands_on(&log), "it is not there");
    let second = line_up(&mut log, agent, "second", &first);
    let applied = log.report(agent, &first, TaskState::Finished);
    assert_eq!(launched(&applied), [&second]);
    set(&mut log, Demand::new(1, request(1, 1)));
    assert!(!hands_on(&log));
}

#[test]
fn a_task_that_is_killed_in_line_leaves_it() {
    let (mut log, agent, _, first) = busy();
    let tasks = ["a", "b", "c"].map(|name| line_up(&mut log, agent, name, &first));
    let kill = Kill {
        task: tasks[1].clone(),
        grace_ms: None,
    };
    let applied = log.apply(Command::KillTask(kill));
    assert!(on_agents(&applied).is_empty(), "no agent knows of it");
    assert_eq!(log.task_state(&tasks[1]), TaskState::Killed);
    let killed = log.state.task(&tasks[1]).expect("it is remembered");
    assert_eq!(killed.held_ms(), Some(0), "it never had anything");
    assert_eq!(killed.waits_for(), None);
    let waits_for = log.state.task(&tasks[2]).and_then(|last| last.waits_for());
    let before = log.state.task(&tasks[0]).map(|before| before.operation);
    assert_eq!(waits_for, before, "it has moved up");
    end_late(&mut log, agent, &first, TaskState::Finished);
    let applied = end_late(&mut log, agent, &tasks[0], TaskState::Finished);
    assert_eq!(launched(&applied), [&tasks[2]]);
}

#[test]
fn a_line_has_an_end_whomever_one_names() {
    use tepui_cluster::state::limits::LINE;
    let (mut log, agent, _, first) = busy();
    let mut last = first.clone();
    for number in 0..LINE {
        last = line_up(&mut log, agent, &format!("t{number}"), &last);
        assert_eq!(log.task_state(&last), TaskState::Staging, "{number}");
    }
    for (name, after) in [("a", &last), ("b", &first)] {
        let late = line_up(&mut log, agent, name, after);
        assert_eq!(reason_of(&log, &late), "place-wanted");
    }
    log.report(agent, &first, TaskState::Finished);
    let next = line_up(&mut log, agent, "c", &last);
    assert_eq!(log.task_state(&next), TaskState::Staging);
}

#[test]
fn a_line_ends_with_its_agent() {
    type End = fn(AgentId) -> Command;
    let ends: [End; 4] = [
        |agent| Command::DeactivateAgent { agent },
        |agent| Command::MarkAgentUnreachable { agent },
        |agent| Command::MarkAgentGone { agent },
        |agent| Command::DrainAgent {
            agent,
            deadline_ms: None,
            grace_ms: None,
            mark_gone: true,
        },
    ];
    for end in ends {
        let (mut log, agent, framework, first) = busy();
        let tasks = ["a", "b"].map(|name| line_up(&mut log, agent, name, &first));
        log.accept(end(agent));
        assert!(!log.state.hands_on(framework, &Role::default(), agent));
        for task in &tasks {
            assert_eq!(log.task_state(task), TaskState::Dropped);
            assert_eq!(reason_of(&log, task), "agent-unavailable");
        }
        let living = log.state.framework(framework).unwrap().tasks.len();
        assert!(living <= 1, "{living} live");
    }
}

#[test]
fn only_the_same_may_take_a_place() {
    let (mut log, agent, framework, first) = busy();
    let mut turn = log.next_turn(framework);
    let mut operation = launch(agent, "large", amounts(1, 2));
    if let Operation::Launch(launch) = &mut operation {
        launch.after = Some(first.clone());
    }
    turn.operations.push(operation);
    let attempt = turn.first_attempt;
    log.accept(Command::Turn(turn));
    let large: TaskId = TaskId {
        framework,
        name: "large".parse().unwrap(),
        attempt,
    };
    assert_eq!(log.task_state(&large), TaskState::Dropped);
}

#[test]
fn a_removed_framework_leaves_no_line() {
    let (mut log, agent, framework, first) = busy();
    line_up(&mut log, agent, "second", &first);
    log.accept(Command::RemoveFramework { framework });
    let applied = log.report(agent, &first, TaskState::Killed);
    assert!(launched(&applied).is_empty());
    assert!(log.state.framework(framework).is_none());
}

#[test]
fn a_time_limit_begins_with_the_place() {
    let (mut log, agent, framework, first) = busy();
    let mut turn = log.next_turn(framework);
    turn.specs = vec![limited(1_000)];
    let mut operation = launch(agent, "brief", amounts(1, 1));
    if let Operation::Launch(launch) = &mut operation {
        launch.after = Some(first.clone());
    }
    turn.operations.push(operation);
    log.accept(Command::Turn(turn));
    assert_eq!(log.state.next_deadline(), None);
    log.report(agent, &first, TaskState::Finished);
    assert!(log.state.next_deadline().is_some());
}

/// An agent that was heard of is not, and one that was not comes back and has forgotten all.
fn come_and_go(log: &mut Log, agent: AgentId) {
    let record = log.state.agent(agent).unwrap();
    if record.status == AgentStatus::Unreachable {
        let info = (*record.info).clone();
        log.accept(register(record.nonce, Some(agent), info, Vec::new()));
    } else {
        log.accept(Command::MarkAgentUnreachable { agent });
    }
}

proptest! {
    /// Whatever happens to the tasks of lines, no place is given twice and nothing is lost; the log checks
    /// its invariants after each command.
    #[test]
    fn lines_hold_under_any_order(steps in proptest::collection::vec((0u8..9, any::<prop::sample::Index>()), 1..80)) {
        let mut log = Log::new();
        let agents = [log.agent(1, 8), log.agent(1, 8)];
        let framework = log.framework("batch", "*");
        let other = log.framework("other", "*");
        let mut tasks: Vec<(AgentId, TaskId)> = Vec::new();
        for (number, agent) in agents.into_iter().enumerate() {
            let name = format!("first-{number}");
            tasks.push((agent, log.launch_with(framework, agent, &name, amounts(1, 1))));
        }
        for (number, (step, at)) in steps.into_iter().enumerate() {
            let (agent, task) = tasks[at.index(tasks.len())].clone();
            log.time += [0, 30, 200][number % 3];
            match step {
                0..=2 => {
                    let name = format!("t{number}");
                    tasks.push((agent, line_up(&mut log, agent, &name, &task)));
                }
                3 | 4 => _ = log.report(agent, &task, TaskState::Finished),
                5 => _ = log.report(agent, &task, TaskState::Running),
                6 => come_and_go(&mut log, agent),
                7 => _ = log.apply(Command::KillTask(Kill { task, grace_ms: None })),
                _ => demand(&mut log, other, u32::from(number % 2 == 0)),
            }
            for agent in agents {
                let used = log.state.agent(agent).unwrap().used.cpus;
                prop_assert!(used <= MilliCpus(1000));
            }
        }
    }
}
