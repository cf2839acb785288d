//! Tasks that end when the masters say nothing for too long.

use tepui_types::task::PartitionPolicy;

use super::*;

/// A task that runs, and is to be stopped after 20 seconds; its grace is a millisecond.
fn running(policy: PartitionPolicy) -> Bench {
    let mut bench = Bench::new();
    let mut launch = native("a");
    Arc::make_mut(&mut launch.spec).partition = policy;
    bench.launch(launch);
    bench.attach(0, vec![]);
    bench.update(0, "a", TaskState::Running);
    bench.agent.on_contact(100_000);
    bench
}

fn tick(bench: &mut Bench, now_ms: u64) -> Vec<Action> {
    bench.on(|agent, out| agent.on_tick(out, now_ms))
}

fn kill(grace_ms: u64) -> Action {
    let task = id("a");
    Action::Send(ExecutorId(0), ToExecutor::Kill { task, grace_ms })
}

#[test]
fn a_task_is_stopped_while_a_quarter_of_its_time_is_left() {
    let mut bench = running(PartitionPolicy::StopAfter(20_000));
    assert_eq!(bench.agent.kept_contact(), Some(100_000));
    assert_eq!(tick(&mut bench, 114_998), []);
    assert_eq!(tick(&mut bench, 114_999), [kill(1)]);
    assert_eq!(tick(&mut bench, 115_249), [], "it is asked once");
    bench.take_statuses();
    bench.update(0, "a", TaskState::Killed);
    let reports = bench.take_statuses();
    let why = reports[0].reason.as_ref().unwrap();
    assert_eq!(why.code, reason::STOPPED_UNHEARD, "{why}");
    assert_eq!(bench.agent.kept_contact(), None);
}

#[test]
fn every_word_that_was_heard_gives_it_its_whole_time() {
    let mut bench = running(PartitionPolicy::StopAfter(20_000));
    bench.agent.on_contact(110_000);
    bench.agent.on_contact(105_000);
    assert_eq!(
        tick(&mut bench, 124_998),
        [],
        "an older one changes nothing"
    );
    assert_eq!(tick(&mut bench, 124_999), [kill(1)]);
}

#[test]
fn other_tasks_go_on_however_long_the_silence_is() {
    for policy in [PartitionPolicy::Wait, PartitionPolicy::ReplaceAfter(1_000)] {
        let mut bench = running(policy);
        assert_eq!(tick(&mut bench, 100_000_000), []);
        assert_eq!(bench.agent.kept_contact(), None);
    }
}

#[test]
fn an_end_that_was_asked_for_is_only_hurried() {
    let mut bench = running(PartitionPolicy::StopAfter(20_000));
    bench.kill("a");
    assert_eq!(tick(&mut bench, 114_999), [kill(1)]);
    assert_eq!(tick(&mut bench, 115_249), []);
    bench.take_statuses();
    bench.update(0, "a", TaskState::Killed);
    assert_eq!(bench.take_statuses()[0].reason, None);
}

#[test]
fn an_agent_that_starts_again_goes_on_counting() {
    let mut bench = running(PartitionPolicy::StopAfter(20_000));
    bench.restart();
    bench.agent.on_contact(100_000);
    assert_eq!(
        tick(&mut bench, 119_000),
        [],
        "its executor is not found yet"
    );
    assert!(
        bench
            .attach(0, vec![update("a", TaskState::Running)])
            .contains(&kill(1))
    );
}
