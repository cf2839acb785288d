//! Tasks that wait for the end of another, whose place they get.

use super::*;

fn after(name: &str, before: &str) -> TaskLaunch {
    TaskLaunch {
        after: Some(id(before)),
        ..native(name)
    }
}

/// An agent that runs `a`, behind which `b` waits.
fn lined_up() -> Bench {
    let mut bench = Bench::new();
    bench.launch(native("a"));
    bench.attach(0, vec![]);
    assert_eq!(bench.launch(after("b", "a")), []);
    bench
}

#[test]
fn a_task_begins_in_the_round_in_which_the_one_before_ends() {
    let mut bench = lined_up();
    bench.update(0, "a", TaskState::Running);
    let out = bench.update(0, "a", TaskState::Finished);
    assert!(is_launch_of(&out[0], "b"), "in the same process: {out:?}");
    let records = &bench.journal[bench.journal.len() - 2..];
    assert!(matches!(
        records,
        [Record::Ended { .. }, Record::Handed { .. }]
    ));
    bench.update(0, "b", TaskState::Finished);
    let ends = ["a", "b"].map(|name| (name.to_owned(), TaskState::Finished));
    assert_eq!(bench.statuses(), ends, "in their order");
}

#[test]
fn it_begins_whatever_the_end_was() {
    for state in [TaskState::Failed, TaskState::Killed] {
        let mut bench = lined_up();
        let out = bench.update(0, "a", state);
        assert!(is_launch_of(&out[0], "b"), "{state}: {out:?}");
    }
    let mut bench = lined_up();
    let out = bench.lost(0, vec![], false);
    let begins = out
        .iter()
        .any(|it| matches!(it, Action::Start(ExecutorId(1), _)));
    assert!(begins, "{out:?}");
}

#[test]
fn one_that_is_killed_in_line_never_begins() {
    let mut bench = lined_up();
    assert_eq!(bench.kill("b"), [Action::Ended(id("b"), TaskState::Killed)]);
    let out = bench.update(0, "a", TaskState::Finished);
    assert!(!out.iter().any(|it| is_launch_of(it, "b")), "{out:?}");
}

/// `a` runs; `b`, `c` and `d` wait, each for the one before.
fn three_in_line() -> Bench {
    let mut bench = lined_up();
    for (name, before) in [("c", "b"), ("d", "c")] {
        assert_eq!(bench.launch(after(name, before)), []);
    }
    bench
}

#[test]
fn several_begin_one_after_another() {
    let mut bench = three_in_line();
    for (ended, next) in [("a", "b"), ("b", "c"), ("c", "d")] {
        let out = bench.update(0, ended, TaskState::Finished);
        assert!(is_launch_of(&out[0], next), "{out:?}");
        let begun = out.iter().filter(|it| matches!(it, Action::Send(..)));
        assert_eq!(begun.count(), 1, "{out:?}");
    }
}

#[test]
fn who_waits_for_one_that_is_killed_in_line_waits_for_the_one_before_it() {
    // Before or after it was known.
    for is_known in [true, false] {
        let mut bench = lined_up();
        bench.launch(after("c", "b"));
        if is_known {
            bench.launch(after("d", "c"));
        }
        for name in ["c", "b"] {
            let killed = [Action::Ended(id(name), TaskState::Killed)];
            assert_eq!(bench.kill(name), killed);
        }
        if !is_known {
            // Where the journal says no more of who ended in line.
            bench.journal = bench.agent.records("boot");
            assert_eq!(bench.launch(after("d", "c")), []);
        }
        // Also where the journal is all that is known of it, long or short.
        let mut again = bench.clone();
        for name in ["c", "b"] {
            again.recorded(name, TaskState::Killed);
        }
        for _ in 0..2 {
            again.restart();
            assert_eq!(again.agent.tasks.waits_for(&id("d")), Some(&id("a")));
        }
        let out = bench.update(0, "a", TaskState::Finished);
        assert!(is_launch_of(&out[0], "d"), "{out:?}");
    }
}

#[test]
fn whoever_comes_after_one_that_was_refused_is_refused() {
    let mut bench = lined_up();
    bench.on(|agent, _| agent.on_may_launch(Launches::Nothing));
    bench.launch(after("c", "b"));
    bench.on(|agent, _| agent.on_may_launch(Launches::All));
    let out = bench.launch(after("d", "c"));
    assert!(!out.iter().any(|it| is_launch_of(it, "d")), "{out:?}");
    let states: BTreeMap<_, _> = bench.statuses().into_iter().collect();
    for name in ["c", "d"] {
        assert_eq!(states[name], TaskState::Dropped);
    }
}

#[test]
fn an_agent_that_starts_anew_knows_all_of_a_line() {
    let mut bench = three_in_line();
    bench.restart();
    bench.attach(0, vec![update("a", TaskState::Running)]);
    bench.update(0, "a", TaskState::Finished);
    bench.attach(1, vec![]);
    for (ended, next) in [("b", "c"), ("c", "d")] {
        let out = bench.update(1, ended, TaskState::Finished);
        assert!(is_launch_of(&out[0], next), "{out:?}");
    }
}

#[test]
fn ends_are_urgent_once_few_are_in_line_behind_them() {
    let mut bench = three_in_line();
    bench.launch(after("e", "d"));
    bench.statuses();
    let ends = [("a", false), ("b", false), ("c", false), ("d", true)];
    for (name, is_urgent) in ends {
        bench.update(0, name, TaskState::Finished);
        assert!(bench.agent.has_statuses(Urgency::End));
        assert_eq!(bench.agent.has_urgent_statuses(), is_urgent, "{name}");
    }
    let ends = ["a", "b", "c", "d"].map(|name| (name.to_owned(), TaskState::Finished));
    assert_eq!(bench.statuses()[..4], ends, "together, in their order");
    assert!(!bench.agent.has_urgent_statuses());
    bench.on(|agent, out| agent.on_registered(out, 1).unwrap());
    assert!(bench.agent.has_urgent_statuses(), "the log may lack them");
}

#[test]
fn one_whose_turn_has_come_already_begins_at_once() {
    let mut bench = Bench::new();
    bench.launch(native("a"));
    bench.attach(0, vec![]);
    bench.update(0, "a", TaskState::Finished);
    let out = bench.launch(after("b", "a"));
    assert!(is_launch_of(&out[0], "b"), "{out:?}");
    bench.update(0, "b", TaskState::Finished);
    let out = bench.launch(after("c", "nobody"));
    assert!(is_launch_of(&out[0], "c"), "{out:?}");
}

#[test]
fn one_for_which_the_machine_has_no_room_by_then_is_dropped() {
    let mut bench = lined_up();
    bench.on(|agent, _| agent.on_may_launch(Launches::Nothing));
    let out = bench.update(0, "a", TaskState::Finished);
    assert!(!out.iter().any(|it| is_launch_of(it, "b")), "{out:?}");
    let ends = bench.take_statuses();
    let why = ends[1].reason.as_ref().map(|why| why.code.as_str());
    assert_eq!(
        (ends[1].state, why),
        (TaskState::Dropped, Some(reason::AGENT_FULL))
    );
}

#[test]
fn an_agent_that_starts_anew_knows_who_waits() {
    let mut bench = lined_up();
    bench.restart();
    let hello: Vec<_> = bench.agent.hello_tasks();
    assert!(hello.iter().any(|report| report.task == id("b")));
    let attached = bench.attach(0, vec![update("a", TaskState::Running)]);
    assert!(!attached.iter().any(|it| is_launch_of(it, "b")));
    // A process of an earlier agent gets nothing new.
    let out = bench.update(0, "a", TaskState::Finished);
    let begins = out
        .iter()
        .any(|it| matches!(it, Action::Start(ExecutorId(1), _)));
    assert!(begins, "{out:?}");
}

#[test]
fn after_a_reboot_nothing_of_a_line_begins() {
    let mut bench = lined_up();
    let (agent, _) = Agent::restore(layout(), bench.journal.clone());
    bench.agent = agent;
    let ends = vec![(ExecutorId(0), vec![update("a", TaskState::Finished)])];
    let out = bench.on(|agent, out| agent.on_reboot(out, ends));
    let begins = out.iter().any(|it| matches!(it, Action::Start(..)));
    assert!(!begins, "{out:?}");
    let states: BTreeMap<_, _> = bench.statuses().into_iter().collect();
    assert_eq!(states["b"], TaskState::Gone);
}
