//! A cluster that begins again from a backup.

use tepui_cluster::{Accepted, Command, State, feasibility};
use tepui_types::wire::agent::{AgentEffect, StatusReport};
use tepui_types::*;

use crate::successors::{line_up, reason_of};
use crate::support::*;

/// A cluster with an agent, a framework and a running task; what is restored of it; and how it went
/// on before that: a second task and a second agent, of which the backup knows nothing.
struct Lost {
    log: Log,
    framework: FrameworkId,
    agent: AgentId,
    known: TaskId,
    unknown: TaskId,
    late: (AgentId, u128),
    before: State,
}

fn begin_again(log: &mut Log, backup: &[u8]) {
    let backup = State::decode(backup).unwrap();
    log.state = backup.restored(NodeId(9), "http://10.0.0.9:5050".into());
    log.state.check_invariants().unwrap();
    log.term = log.state.term + 1;
}

fn lost() -> Lost {
    let mut log = Log::new();
    let (agent, framework) = (log.agent(4, 4), log.framework("batch", "eng"));
    let known = log.launch(framework, agent, "known");
    log.report(agent, &known, TaskState::Running);
    let backup = log.state.encode();
    let unknown = log.launch(framework, agent, "unknown");
    log.report(agent, &unknown, TaskState::Running);
    let late = (log.agent(2, 2), 2);
    let before = log.state.clone();
    begin_again(&mut log, &backup);
    Lost {
        log,
        framework,
        agent,
        known,
        unknown,
        late,
        before,
    }
}

/// The agent comes back, and says that it runs these.
fn returns(lost: &mut Lost, tasks: &[&TaskId]) -> Vec<AgentEffect> {
    let reports = tasks.iter().map(|task| report(task, TaskState::Running));
    let command = register(1, Some(lost.agent), machine(4, 4), reports.collect());
    let applied = lost.log.apply(command);
    on_agents(&applied).into_iter().cloned().collect()
}

#[test]
fn a_restored_state_gives_out_nothing_twice() {
    let mut lost = lost();
    let (before, after) = (&lost.before, &lost.log.state);
    assert!(after.index > before.index && after.term > before.term);
    assert_eq!(after.restores.epoch, 1);
    let masters: Vec<_> = after.masters.keys().collect();
    assert_eq!(masters, [&NodeId(9)]);
    let task = lost.log.launch(lost.framework, lost.agent, "unknown");
    assert_ne!(task, lost.unknown, "the same name, another attempt");
    assert!(lost.log.agent(1, 1) > lost.late.0);
    let other = lost.log.framework("other", "eng");
    assert!(other.0 > lost.framework.0 + 1);
    let again = State::decode(&lost.log.state.encode()).unwrap();
    assert_eq!(again.hash(), lost.log.state.hash());
}

#[test]
fn a_task_of_a_lost_time_is_held_until_it_ends() {
    let mut lost = lost();
    let tasks = [lost.known.clone(), lost.unknown.clone()];
    let effects = returns(&mut lost, &[&tasks[0], &tasks[1]]);
    assert_eq!(effects, [], "nothing is ended");
    assert_eq!(lost.log.task_state(&lost.known), TaskState::Running);
    let held = &lost.log.state.agent(lost.agent).unwrap().held;
    assert!(held.tasks.contains_key(&lost.unknown) && held.tasks.len() == 1);
    let refused = feasibility::offerable(&lost.log.state, lost.agent).unwrap_err();
    assert!(refused.message.contains("backup"), "{refused}");

    lost.log
        .report(lost.agent, &lost.unknown, TaskState::Finished);
    assert!(feasibility::offerable(&lost.log.state, lost.agent).is_ok());
}

#[test]
fn what_waited_in_a_backup_may_have_run_since_and_is_not_run_there_again() {
    let mut log = Log::new();
    let (agent, framework) = (log.agent(4, 4), log.framework("batch", "*"));
    let launched = ["known", "forgotten"].map(|name| log.launch(framework, agent, name));
    let [known, forgotten] = launched;
    let [next, last] = ["next", "last"].map(|name| line_up(&mut log, agent, name, &known));
    let backup = log.state.encode();
    begin_again(&mut log, &backup);
    let new = log.launch(framework, agent, "new");
    // In the lost time the agent has begun what stood in line, and forgotten another task.
    let running = [&known, &next].map(|task| report(task, TaskState::Running));
    let back = register(1, Some(agent), machine(4, 4), running.to_vec());
    let applied = log.apply(back);
    let told: Vec<_> = on_agents(&applied);
    let [AgentEffect::Launch(launch)] = told[..] else {
        panic!("{told:?}: only what is new is launched, and nothing is ended");
    };
    assert_eq!(launch.task, new);
    assert_eq!(log.task_state(&known), TaskState::Running);
    assert_eq!(log.task_state(&forgotten), TaskState::Gone);
    for task in [&next, &last] {
        assert_eq!(log.task_state(task), TaskState::Dropped);
        assert_eq!(reason_of(&log, task), "agent-forgot");
    }
    let held = |log: &Log| {
        let tasks = &log.state.agent(agent).unwrap().held.tasks;
        tasks.keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(held(&log), std::slice::from_ref(&next));
    log.acknowledge(&next);
    log.report(agent, &next, TaskState::Finished);
    assert_eq!(held(&log), []);
}

#[test]
fn an_operator_may_end_what_is_held() {
    let mut lost = lost();
    let unknown = lost.unknown.clone();
    returns(&mut lost, &[&unknown]);
    let applied = lost.log.apply(Command::EndHeld { agent: lost.agent });
    let is_kill =
        |effect: &AgentEffect| matches!(effect, AgentEffect::Kill { task, .. } if *task == unknown);
    assert!(on_agents(&applied).into_iter().any(is_kill));
    // It is owed until it has happened, also to the next session.
    assert!(lost.log.state.owed_to(lost.agent).iter().any(is_kill));
    assert!(returns(&mut lost, &[&unknown]).iter().any(is_kill));
    lost.log.report(lost.agent, &unknown, TaskState::Killed);
    assert!(lost.log.state.owed_to(lost.agent).is_empty());
    let nothing = lost.log.apply(Command::EndHeld { agent: lost.agent });
    assert!(refused(nothing.outcome).contains("holds no task"));
    // A stranger of the new time is ended as ever.
    let stranger = TaskId {
        attempt: (1 << 32) + 77,
        ..unknown
    };
    let effects = returns(&mut lost, &[&stranger]);
    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, AgentEffect::Kill { .. }))
    );
}

#[test]
fn an_agent_of_a_lost_time_keeps_its_id() {
    let mut lost = lost();
    let (id, nonce) = lost.late;
    let tasks: Vec<StatusReport> = Vec::new();
    let command = register(nonce, Some(id), machine(2, 2), tasks);
    assert_eq!(lost.log.accept(command), Accepted::Agent { agent: id });
    let copy = register(77, Some(id), machine(2, 2), Vec::new());
    assert!(refused(lost.log.apply(copy).outcome).contains("copied"));
}
