//! Tasks whose checks say that they are to end.

use super::*;

/// A task that runs.
fn running() -> Bench {
    let mut bench = Bench::new();
    bench.launch(native("a"));
    bench.attach(0, vec![]);
    bench.update(0, "a", TaskState::Running);
    bench
}

/// Of its kill on behalf of its checks.
fn kill() -> Action {
    let (task, grace_ms) = (id("a"), 1);
    Action::Send(ExecutorId(0), ToExecutor::Kill { task, grace_ms })
}

/// How the only task ended, as the masters are told.
fn end(bench: &mut Bench) -> (TaskState, String) {
    let report = bench.take_statuses().pop().unwrap();
    (report.state, report.reason.unwrap().code)
}

#[test]
fn an_agent_that_starts_again_knows_why_it_killed_a_task() {
    let mut bench = running();
    assert_eq!(bench.unwell("a"), [kill()]);
    // The second restart reads what the first has compacted.
    for _ in 0..2 {
        bench.restart();
        let told = bench.attach(0, vec![update("a", TaskState::Running)]);
        assert_eq!(told, [kill()], "it may not have heard it");
    }
    bench.take_statuses();
    bench.update(0, "a", TaskState::Killed);
    let failed = (TaskState::Failed, reason::HEALTH_CHECK_FAILED.into());
    assert_eq!(end(&mut bench), failed);
    bench.restart();
    assert_eq!(end(&mut bench), failed);
    let is_verdict = |record: &Record| matches!(record, Record::Unwell { .. });
    assert!(!bench.journal.iter().any(is_verdict), "it is over");
}

#[test]
fn an_end_while_the_agent_was_away_has_its_verdict() {
    let mut bench = running();
    bench.unwell("a");
    bench.restart();
    bench.lost(0, vec![update("a", TaskState::Killed)], false);
    let failed = (TaskState::Failed, reason::HEALTH_CHECK_FAILED.into());
    assert_eq!(end(&mut bench), failed);
}

#[test]
fn a_kill_that_was_asked_for_first_is_no_verdict() {
    let mut bench = running();
    bench.kill("a");
    bench.unwell("a");
    bench.restart();
    bench.attach(0, vec![update("a", TaskState::Running)]);
    bench.take_statuses();
    bench.update(0, "a", TaskState::Killed);
    assert_eq!(bench.take_statuses()[0].state, TaskState::Killed);
}

#[test]
fn a_task_whose_machine_needed_what_it_had_has_not_failed() {
    let mut bench = running();
    let why = Reason::new(reason::UNDER_PRESSURE, "the machine is short of memory");
    bench.on(|agent, out| agent.on_unwell(out, id("a"), why));
    bench.restart();
    bench.attach(0, vec![update("a", TaskState::Running)]);
    bench.take_statuses();
    bench.update(0, "a", TaskState::Killed);
    let taken = (TaskState::Killed, reason::UNDER_PRESSURE.into());
    assert_eq!(end(&mut bench), taken);
}
