//! What DESIGN's rules say of the state, each by its name.

use tepui_cluster::{Accepted, Command, Effect, Rejection, TurnKind};
use tepui_types::operation::{Kill, Operation};
use tepui_types::wire::agent::AgentEffect;
use tepui_types::*;

use crate::support::*;

// Rule 1: nothing runs that the log does not know.

#[test]
fn a_launch_is_the_effect_of_a_committed_turn() {
    let mut log = Log::new();
    let (agent, framework) = (log.agent(4, 4), log.framework("a", "*"));
    let mut turn = log.next_turn(framework);
    turn.operations.push(launch(agent, "x", amounts(1, 1)));
    let applied = log.apply(Command::Turn(turn));
    let [AgentEffect::Launch(task)] = on_agents(&applied)[..] else {
        panic!("no launch")
    };
    assert_eq!(task.operation.index, log.state.index);
    assert_eq!(log.task_state(&task.task), TaskState::Staging);
}

#[test]
fn owed_effects_are_derived_from_the_state() {
    let mut log = Log::new();
    let (agent, framework) = (log.agent(4, 4), log.framework("a", "*"));
    let (one, two) = (
        log.launch(framework, agent, "one"),
        log.launch(framework, agent, "two"),
    );
    log.accept(Command::KillTask(Kill {
        task: two.clone(),
        grace_ms: None,
    }));
    let owed = log.state.owed_to(agent);
    assert!(matches!(&owed[0], AgentEffect::Launch(launch) if launch.task == one));
    assert!(matches!(&owed[2], AgentEffect::Kill { task, grace_ms: 5_000 } if *task == two));
}

#[test]
fn an_attempt_is_never_reused() {
    let mut log = Log::new();
    let (agent, framework) = (log.agent(4, 4), log.framework("a", "*"));
    let first = log.launch(framework, agent, "x");
    log.report(agent, &first, TaskState::Finished);
    log.acknowledge(&first);
    let second = log.launch(framework, agent, "x");
    assert!(second.attempt > first.attempt);
    // A report of the first, come late, does not touch the second.
    log.report(agent, &first, TaskState::Failed);
    assert_eq!(log.task_state(&second), TaskState::Staging);
    assert_eq!(log.task_state(&first), TaskState::Finished);
}

#[test]
fn a_task_that_the_log_does_not_know_is_killed() {
    let mut log = Log::new();
    let agent = log.agent(4, 4);
    let stranger: TaskId = "f9.x.0".parse().unwrap();
    let applied = log.report(agent, &stranger, TaskState::Running);
    assert!(matches!(
        on_agents(&applied)[..],
        [AgentEffect::Kill { grace_ms: 0, .. }]
    ));
    let applied = log.report(agent, &stranger, TaskState::Finished);
    assert!(
        on_agents(&applied).is_empty(),
        "what has ended needs no kill"
    );
    assert!(
        matches!(&applied.effects[..], [Effect::Recorded(..)]),
        "the agent may forget it"
    );
}

// Rule 2: a framework's turn is a transaction.

#[test]
fn an_operation_that_no_longer_fits_is_dropped_and_the_rest_stands() {
    let mut log = Log::new();
    let (agent, framework) = (log.agent(2, 2), log.framework("a", "*"));
    let mut turn = log.next_turn(framework);
    turn.writes.push(("key".into(), Some(b"value".to_vec())));
    turn.operations.push(launch(agent, "big", amounts(3, 1)));
    turn.operations.push(launch(agent, "small", amounts(1, 1)));
    turn.operations
        .push(launch(AgentId(99), "nowhere", amounts(1, 1)));
    turn.operations.push(launch(agent, "small", amounts(1, 1)));
    log.accept(Command::Turn(turn));
    let record = log.state.framework(framework).unwrap();
    assert_eq!(record.store.get("key").unwrap()[..], b"value"[..]);
    let of = |name: &str, attempt| {
        let task = TaskId {
            framework,
            name: name.parse().unwrap(),
            attempt,
        };
        let status = &log.state.task(&task).unwrap().status;
        (
            status.state,
            status.reason.as_ref().map(|reason| reason.code.clone()),
        )
    };
    assert_eq!(
        of("big", 0),
        (TaskState::Dropped, Some("resources-taken".into()))
    );
    assert_eq!(of("small", 1), (TaskState::Staging, None));
    assert_eq!(
        of("nowhere", 2),
        (TaskState::Dropped, Some("agent-unavailable".into()))
    );
    assert_eq!(
        of("small", 3),
        (TaskState::Dropped, Some("task-exists".into()))
    );
    assert_eq!(
        log.pending(framework),
        3,
        "each drop comes back as an update"
    );
}

#[test]
fn a_turn_past_a_bound_changes_nothing() {
    let mut log = Log::new();
    let framework = log.framework("a", "*");
    let mut turn = log.next_turn(framework);
    turn.writes.push(("good".into(), Some(vec![1])));
    turn.writes.push(("bad".into(), Some(vec![0; 300 * 1024])));
    let before = log.state.framework(framework).unwrap().clone();
    let outcome = log.apply(Command::Turn(turn)).outcome;
    assert!(matches!(outcome, Err(Rejection::Limit(_))));
    assert_eq!(*log.state.framework(framework).unwrap(), before);
}

#[test]
fn a_request_asked_again_with_its_key_gets_the_first_answer() {
    let mut log = Log::new();
    let framework = log.framework("a", "*");
    let mut turn = log.next_turn(framework);
    turn.kind = TurnKind::Request(answer("first"));
    turn.writes.push(("count".into(), Some(vec![1])));
    let mut envelope = log.envelope(Command::Turn(turn.clone()));
    envelope.idempotency_key = Some("key".into());
    let first = log.apply_envelope(&envelope).outcome;
    turn.number += 1;
    turn.kind = TurnKind::Request(answer("second"));
    turn.writes[0].1 = Some(vec![2]);
    envelope.body = Command::Turn(turn);
    assert_eq!(log.apply_envelope(&envelope).outcome, first);
    assert_eq!(
        log.state
            .framework(framework)
            .unwrap()
            .store
            .get("count")
            .unwrap()[..],
        [1]
    );
    log.time += 25 * 60 * 60 * 1000;
    envelope.time = Timestamp(log.time);
    assert_ne!(
        log.apply_envelope(&envelope).outcome,
        first,
        "a day later the key is free"
    );
}

#[test]
fn a_key_is_good_for_one_command() {
    let mut log = Log::new();
    let mut envelope = log.envelope(Command::RecordArtifact {
        digest: Digest::of(b"a"),
        size: 1,
    });
    envelope.idempotency_key = Some("key".into());
    let first = log.apply_envelope(&envelope).outcome;
    assert_eq!(log.apply_envelope(&envelope).outcome, first);
    envelope.body = Command::RecordArtifact {
        digest: Digest::of(b"b"),
        size: 1,
    };
    assert_eq!(
        log.apply_envelope(&envelope).outcome,
        Err(Rejection::KeyReused)
    );
}

// Rule 3: apply is a pure function; properties.rs shows it on random commands.

#[test]
fn the_clock_never_goes_back() {
    let mut log = Log::new();
    log.agent(1, 1);
    log.time = 10;
    log.agent(1, 1);
    assert_eq!(log.state.now, Timestamp(1_000));
}

// Rule 4: a leader's commands are fenced.

#[test]
fn a_command_of_an_older_term_is_refused() {
    let mut log = Log::new();
    log.term = 2;
    log.agent(1, 1);
    log.term = 1;
    let outcome = log
        .apply(register(9, None, machine(1, 1), Vec::new()))
        .outcome;
    assert!(matches!(outcome, Err(Rejection::Fenced(_))));
    assert_eq!(log.state.agents.len(), 1);
}

#[test]
fn a_turn_of_another_instance_or_out_of_order_is_refused() {
    let mut log = Log::new();
    let framework = log.framework("a", "*");
    let old = log.next_turn(framework);
    log.start(framework);
    assert!(matches!(
        log.apply(Command::Turn(old)).outcome,
        Err(Rejection::Fenced(_))
    ));
    let turn = log.next_turn(framework);
    log.accept(Command::Turn(turn.clone()));
    let twice = log.apply(Command::Turn(turn)).outcome;
    assert!(
        matches!(twice, Err(Rejection::Fenced(_))),
        "a turn commits once"
    );
}

#[test]
fn an_operator_s_restart_fences_the_running_instance() {
    let mut log = Log::new();
    let framework = log.framework("a", "*");
    let turn = log.next_turn(framework);
    log.accept(Command::RestartFramework { framework });
    assert!(matches!(
        log.apply(Command::Turn(turn)).outcome,
        Err(Rejection::Fenced(_))
    ));
    log.start(framework);
}

// Rule 6: updates are delivered by state, not by a queue.

#[test]
fn states_in_between_fold_and_the_end_is_delivered() {
    let mut log = Log::new();
    let (agent, framework) = (log.agent(4, 4), log.framework("a", "*"));
    let task = log.launch(framework, agent, "x");
    log.report(agent, &task, TaskState::Starting);
    log.report(agent, &task, TaskState::Running);
    log.report(agent, &task, TaskState::Finished);
    assert_eq!(log.pending(framework), 1);
    log.acknowledge(&task);
    assert_eq!(log.pending(framework), 0);
}

#[test]
fn an_acknowledgement_of_what_was_seen_leaves_what_was_not() {
    let mut log = Log::new();
    let (agent, framework) = (log.agent(4, 4), log.framework("a", "*"));
    let task = log.launch(framework, agent, "x");
    log.report(agent, &task, TaskState::Running);
    let seen = log.state.task(&task).unwrap().sequence;
    log.report(agent, &task, TaskState::Finished);
    let mut turn = log.next_turn(framework);
    turn.acknowledged.push((task.clone(), seen));
    log.accept(Command::Turn(turn));
    assert_eq!(
        log.pending(framework),
        1,
        "the end is still to be delivered"
    );
}

#[test]
fn an_end_happens_once() {
    let mut log = Log::new();
    let (agent, framework) = (log.agent(4, 4), log.framework("a", "*"));
    let task = log.launch(framework, agent, "x");
    log.report(agent, &task, TaskState::Finished);
    let applied = log.report(agent, &task, TaskState::Failed);
    assert_eq!(log.task_state(&task), TaskState::Finished);
    assert!(applied.events.is_empty());
    assert_eq!(log.state.ended_counts[&TaskState::Finished], 1);
    assert!(
        log.state.agent(agent).unwrap().used.is_empty(),
        "and gives back once"
    );
}

#[test]
fn ended_tasks_go_to_history_past_the_bound() {
    let mut log = Log::new();
    let (agent, framework) = (log.agent(4, 4), log.framework("a", "*"));
    let bound = tepui_cluster::state::limits::ENDED_TASKS;
    let mut archived = 0;
    for number in 0..bound + 10 {
        let mut turn = log.next_turn(framework);
        turn.operations
            .push(launch(agent, &format!("t{number}"), amounts(1, 1)));
        let task = TaskId {
            framework,
            name: format!("t{number}").parse().unwrap(),
            attempt: turn.first_attempt,
        };
        // The invariants take as long as the state is large; they are checked at the end.
        let mut step = |body| {
            let envelope = log.envelope(body);
            log.state.apply(log.state.index + 1, &envelope)
        };
        step(Command::Turn(turn)).outcome.unwrap();
        let reports = vec![report(&task, TaskState::Finished)];
        step(Command::ReportTasks { agent, reports })
            .outcome
            .unwrap();
        let mut turn = log.next_turn(framework);
        turn.acknowledged.push((task, 1));
        let envelope = log.envelope(Command::Turn(turn));
        let applied = log.state.apply(log.state.index + 1, &envelope);
        let is_archive = |effect: &&Effect| matches!(effect, Effect::Archive(_));
        archived += applied.effects.iter().filter(is_archive).count();
    }
    log.state.check_invariants().unwrap();
    assert_eq!((log.state.tasks.len(), archived), (bound, 10));
}

// Rule 7: agents outlive masters.

#[test]
fn an_agent_that_comes_back_keeps_its_tasks() {
    let mut log = Log::new();
    let (agent, framework) = (log.agent(4, 4), log.framework("a", "*"));
    let [run, stay, lose] = ["run", "stay", "lose"].map(|name| log.launch(framework, agent, name));
    log.report(agent, &run, TaskState::Running);
    log.report(agent, &lose, TaskState::Running);
    log.accept(Command::MarkAgentUnreachable { agent });
    assert_eq!(log.task_state(&run), TaskState::Unreachable);
    let back = vec![
        report(&run, TaskState::Running),
        report(&stay, TaskState::Running),
    ];
    let applied = log.apply(register(1, Some(agent), machine(4, 4), back));
    assert_eq!(applied.outcome, Ok(Accepted::Agent { agent }));
    assert_eq!(log.task_state(&run), TaskState::Running);
    assert_eq!(log.task_state(&stay), TaskState::Running);
    assert_eq!(log.task_state(&lose), TaskState::Gone);
}

#[test]
fn a_launch_to_a_machine_that_was_restarted_is_not_sent_again() {
    let mut log = Log::new();
    let (agent, framework) = (log.agent(4, 4), log.framework("batch", "eng"));
    let task = log.launch(framework, agent, "a");
    let Command::RegisterAgent {
        nonce,
        agent: _,
        info,
        tasks,
        ..
    } = register(1, Some(agent), machine(4, 4), Vec::new())
    else {
        panic!("a registration");
    };
    // Its journal went with its power: it may have run what it does not name.
    let applied = log.apply(Command::RegisterAgent {
        nonce,
        boot: 2,
        agent: Some(agent),
        info,
        tasks,
    });
    assert!(on_agents(&applied).is_empty());
    assert_eq!(log.task_state(&task), TaskState::Gone);
    let status = &log.state.task(&task).unwrap().status;
    assert_eq!(
        status.reason.clone().unwrap().code,
        task::reason::AGENT_REBOOTED
    );
}

#[test]
fn a_launch_that_did_not_arrive_is_sent_again() {
    let mut log = Log::new();
    let (agent, framework) = (log.agent(4, 4), log.framework("a", "*"));
    let task = log.launch(framework, agent, "x");
    let applied = log.apply(register(1, Some(agent), machine(4, 4), Vec::new()));
    assert!(matches!(on_agents(&applied)[..], [AgentEffect::Launch(_)]));
    assert_eq!(log.task_state(&task), TaskState::Staging);
}

#[test]
fn a_kill_asked_while_the_agent_was_away_reaches_it() {
    let mut log = Log::new();
    let (agent, framework) = (log.agent(4, 4), log.framework("a", "*"));
    let task = log.launch(framework, agent, "x");
    log.report(agent, &task, TaskState::Running);
    log.accept(Command::MarkAgentUnreachable { agent });
    log.accept(Command::KillTask(Kill {
        task: task.clone(),
        grace_ms: Some(10),
    }));
    assert_eq!(log.task_state(&task), TaskState::Unreachable);
    let back = vec![report(&task, TaskState::Running)];
    let applied = log.apply(register(1, Some(agent), machine(4, 4), back));
    assert!(matches!(
        on_agents(&applied)[..],
        [
            AgentEffect::Launch(_),
            AgentEffect::Kill { grace_ms: 10, .. }
        ]
    ));
    assert_eq!(log.task_state(&task), TaskState::Killing);
}

#[test]
fn a_registration_sent_twice_makes_one_agent_and_a_copied_folder_none() {
    let mut log = Log::new();
    let first = log.accept(register(1, None, machine(1, 1), Vec::new()));
    assert_eq!(
        log.accept(register(1, None, machine(1, 1), Vec::new())),
        first
    );
    log.accept(register(2, None, machine(1, 1), Vec::new()));
    for (nonce, claimed) in [(1, AgentId(2)), (3, AgentId(1)), (3, AgentId(9))] {
        let outcome = log
            .apply(register(nonce, Some(claimed), machine(1, 1), Vec::new()))
            .outcome;
        assert!(matches!(outcome, Err(Rejection::Foreign(_))));
    }
}

#[test]
fn changed_resources_are_taken_live() {
    let mut log = Log::new();
    let (agent, framework) = (log.agent(4, 4), log.framework("a", "*"));
    let task = log.launch_with(framework, agent, "x", amounts(3, 3));
    log.report(agent, &task, TaskState::Running);
    let back = vec![report(&task, TaskState::Running)];
    log.accept(register(1, Some(agent), machine(2, 8), back));
    let record = log.state.agent(agent).unwrap();
    assert_eq!(
        record.free().cpus,
        MilliCpus(0),
        "more is used than there is"
    );
    assert_eq!(record.free().mem, Bytes::gib(5));
    assert_eq!(log.task_state(&task), TaskState::Running);
}

// Rule 8: a framework's failures stay its own.

#[test]
fn a_loop_of_restarts_ends_in_failed_with_its_reason() {
    let mut log = Log::new();
    let framework = log.framework("a", "*");
    let mut waits = Vec::new();
    for _ in 0..7 {
        let incarnation = log.state.framework(framework).unwrap().incarnation;
        let reason = Reason::new("trap", "unreachable");
        log.accept(Command::StopFramework {
            framework,
            incarnation,
            reason,
        });
        let record = log.state.framework(framework).unwrap();
        waits.push(record.restart_at.millis_since(log.state.now));
        if record.phase == FrameworkPhase::Backoff {
            log.start(framework);
        }
    }
    assert_eq!(waits[..6], [500, 1_000, 2_000, 4_000, 8_000, 16_000]);
    let record = log.state.framework(framework).unwrap();
    assert_eq!(record.phase, FrameworkPhase::Failed);
    assert_eq!(record.reason.as_ref().unwrap().message, "unreachable");
    log.accept(Command::RestartFramework { framework });
    log.start(framework);
    assert_eq!(
        log.state.framework(framework).unwrap().phase,
        FrameworkPhase::Running
    );
}

#[test]
fn a_removed_framework_takes_its_tasks_along_and_frees_its_name() {
    let mut log = Log::new();
    let (agent, framework) = (log.agent(4, 4), log.framework("a", "*"));
    let (live, ended) = (
        log.launch(framework, agent, "x"),
        log.launch(framework, agent, "y"),
    );
    log.report(agent, &ended, TaskState::Finished);
    let applied = log.apply(Command::RemoveFramework { framework });
    assert!(matches!(
        on_agents(&applied)[..],
        [AgentEffect::Kill { .. }]
    ));
    assert!(
        log.state.framework(framework).is_some(),
        "a task of it still lives"
    );
    log.report(agent, &live, TaskState::Killed);
    assert!(log.state.framework(framework).is_none());
    assert!(log.state.agent(agent).unwrap().used.is_empty());
    let again = log.framework("a", "*");
    assert!(again > framework, "an id is never used again");
}

#[test]
fn a_kill_of_what_is_not_ours_is_dropped_with_its_reason() {
    let mut log = Log::new();
    let (agent, one, two) = (
        log.agent(4, 4),
        log.framework("a", "*"),
        log.framework("b", "*"),
    );
    let task = log.launch(one, agent, "x");
    let mut turn = log.next_turn(two);
    turn.operations.push(Operation::Kill(Kill {
        task: task.clone(),
        grace_ms: None,
    }));
    log.accept(Command::Turn(turn));
    assert_eq!(log.task_state(&task), TaskState::Staging);
    let notices = &log.state.framework(two).unwrap().notices;
    let (number, notice) = notices.get_min().unwrap();
    assert_eq!(
        (notice.operation.as_str(), &notice.subject),
        ("kill", &task.to_string())
    );
    let mut turn = log.next_turn(two);
    turn.notices_seen.push(*number);
    log.accept(Command::Turn(turn));
    assert!(log.state.framework(two).unwrap().notices.is_empty());
}

// Rule 10: everything is bounded and says so.

#[test]
fn revisions_guard_against_lost_changes() {
    let mut log = Log::new();
    let framework = log.framework("a", "*");
    let mut envelope = log.envelope(Command::RestartFramework { framework });
    envelope.expected_revision = Some(1);
    let outcome = log.apply_envelope(&envelope).outcome;
    assert!(refused(outcome).contains("read it again"));
    envelope.expected_revision = Some(log.state.framework(framework).unwrap().revision);
    assert!(log.apply_envelope(&envelope).outcome.is_ok());
}

#[test]
fn names_and_unknown_things_are_refused_clearly() {
    let mut log = Log::new();
    log.framework("a", "*");
    let info = FrameworkInfo {
        name: "a".into(),
        roles: Role::default().into(),
        artifact: Digest::of(b"component"),
        config: String::new(),
    };
    let taken = log.apply(Command::DeployFramework(info.clone())).outcome;
    assert!(refused(taken).contains("remove it first, or choose another name"));
    let unknown = FrameworkInfo {
        name: "b".into(),
        artifact: Digest::of(b"?"),
        ..info
    };
    let unknown = log.apply(Command::DeployFramework(unknown)).outcome;
    assert!(refused(unknown).contains("upload it first"));
    let nobody = Command::RemoveFramework {
        framework: FrameworkId(9),
    };
    assert!(matches!(
        log.apply(nobody).outcome,
        Err(Rejection::NotFound(_))
    ));
}
