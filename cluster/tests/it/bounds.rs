//! What may wait in the state for a framework that does not come to see it.

use std::sync::Arc;

use tepui_cluster::state::limits::{FRAMEWORK_TASKS, NOTICES, TURN_OPERATIONS};
use tepui_cluster::{Command, Rejection};
use tepui_types::operation::{Kill, Operation};
use tepui_types::*;

use crate::support::*;

/// A kill of a task that nobody has launched.
fn stray_kill(number: usize) -> Operation {
    Operation::Kill(Kill {
        task: format!("f1.stray.{number}").parse().unwrap(),
        grace_ms: None,
    })
}

#[test]
fn notices_that_nobody_sees_are_bounded() {
    let mut log = Log::new();
    let framework = log.framework("a", "*");
    let mut number = 0;
    let mut kill = |log: &Log, kills: usize| {
        let mut turn = log.next_turn(framework);
        turn.operations.extend((0..kills).map(|_| {
            number += 1;
            stray_kill(number)
        }));
        log.envelope(Command::Turn(turn))
    };
    let waiting = |log: &Log| log.state.framework(framework).unwrap().notices.len();
    // The invariants take as long as the state is large; they are checked where it is full.
    while waiting(&log) < NOTICES - 1 {
        let kills = TURN_OPERATIONS.min(NOTICES - 1 - waiting(&log));
        let envelope = kill(&log, kills);
        let applied = log.state.apply(log.state.index + 1, &envelope);
        applied.outcome.unwrap();
    }
    let too_many = kill(&log, 2);
    let outcome = log.apply_envelope(&too_many).outcome;
    assert!(matches!(&outcome, Err(Rejection::Limit(why)) if why.contains("handle its events")));
    let last = kill(&log, 1);
    log.apply_envelope(&last).outcome.unwrap();
    assert_eq!(waiting(&log), NOTICES);

    // What it has seen makes room; what is no kill never wanted any.
    let mut turn = log.next_turn(framework);
    turn.notices_seen = (0..10).collect();
    turn.operations.push(launch(AgentId(1), "x", amounts(1, 1)));
    log.accept(Command::Turn(turn));
    let more = kill(&log, 10);
    log.apply_envelope(&more).outcome.unwrap();
    assert_eq!(waiting(&log), NOTICES);
}

#[test]
fn tasks_whose_end_nobody_sees_are_bounded_and_every_end_is_still_recorded() {
    let mut log = Log::new();
    let (agent, framework) = (log.agent(4, 4), log.framework("a", "*"));
    let (first, second) = (
        log.launch(framework, agent, "first"),
        log.launch(framework, agent, "second"),
    );
    // As if so many had ended: two million tasks take a test too long.
    let unseen = FRAMEWORK_TASKS - 3;
    let record = log.state.frameworks.get_mut(&framework).unwrap();
    Arc::make_mut(record).unseen_ends += unseen;
    let launches = |log: &Log, names: &[&str]| {
        let mut turn = log.next_turn(framework);
        let tasks = names.iter().map(|name| launch(agent, name, amounts(1, 1)));
        turn.operations = tasks.collect();
        log.envelope(Command::Turn(turn))
    };
    let apply = |log: &mut Log, envelope| log.state.apply(log.state.index + 1, &envelope).outcome;

    let two = launches(&log, &["third", "fourth"]);
    let outcome = apply(&mut log, two);
    assert!(matches!(&outcome, Err(Rejection::Limit(why)) if why.contains("whose end")));
    let one = launches(&log, &["third"]);
    apply(&mut log, one).unwrap();
    for task in [&first, &second] {
        let reports = vec![report(task, TaskState::Finished)];
        let report = log.envelope(Command::ReportTasks { agent, reports });
        apply(&mut log, report).unwrap();
        assert_eq!(log.task_state(task), TaskState::Finished);
    }
    let held = |log: &Log| log.state.framework(framework).unwrap().held_tasks();
    assert_eq!(
        held(&log),
        FRAMEWORK_TASKS,
        "an end takes no more room than the task"
    );

    let mut turn = log.next_turn(framework);
    turn.acknowledged = vec![(first, 1), (second, 1)];
    let seen = log.envelope(Command::Turn(turn));
    apply(&mut log, seen).unwrap();
    assert_eq!(held(&log), FRAMEWORK_TASKS - 2);
    let two = launches(&log, &["fourth", "fifth"]);
    apply(&mut log, two).unwrap();

    let record = log.state.frameworks.get_mut(&framework).unwrap();
    Arc::make_mut(record).unseen_ends -= unseen;
    log.state.check_invariants().unwrap();
}
