//! Native tasks, one after another in the processes of their domain.

use super::*;

#[test]
fn native_tasks_of_a_domain_have_a_process_one_after_another() {
    let mut bench = Bench::new();
    bench.launch(native("a"));
    bench.attach(0, vec![]);
    let out = bench.launch(native("b"));
    assert!(
        matches!(out[..], [Action::Start(ExecutorId(1), _)]),
        "a has the first: {out:?}"
    );
    bench.attach(1, vec![]);
    // The log need not have heard of the end.
    bench.update(0, "a", TaskState::Finished);
    let out = bench.launch(native("c"));
    assert!(
        is_launch_of(&out[0], "c"),
        "it takes the place of a: {out:?}"
    );
    bench.recorded("a", TaskState::Finished);
    let mut bobs = native("d");
    Arc::make_mut(&mut bobs.spec).user = "bob".into();
    bench.update(1, "b", TaskState::Finished);
    let out = bench.launch(bobs);
    assert!(
        matches!(out[..], [Action::Start(ExecutorId(2), _)]),
        "another domain: {out:?}"
    );
    bench.on(|agent, _| agent.on_detached(ExecutorId(1)));
    let out = bench.launch(native("e"));
    assert!(
        matches!(out[..], [Action::Start(ExecutorId(3), _)]),
        "out of reach: {out:?}"
    );
    // It never took it, and left in order: the task goes elsewhere.
    let out = bench.lost(0, vec![], true);
    assert!(
        matches!(
            out[..],
            [
                Action::Clear(ExecutorId(0)),
                Action::Start(ExecutorId(4), _)
            ]
        ),
        "{out:?}"
    );
}

#[test]
fn only_a_few_native_processes_wait_for_a_task() {
    let mut bench = Bench::new();
    let names: Vec<_> = (0..=executors::MAX_SPARE)
        .map(|number| format!("t{number}"))
        .collect();
    for (number, name) in names.iter().enumerate() {
        bench.launch(native(name));
        bench.attach(number as u64, vec![]);
    }
    let mut retired = 0;
    for (number, name) in names.iter().enumerate() {
        bench.update(number as u64, name, TaskState::Finished);
        let out = bench.recorded(name, TaskState::Finished);
        retired += usize::from(
            out.iter()
                .any(|action| matches!(action, Action::Send(_, ToExecutor::Retire))),
        );
    }
    assert_eq!(retired, 1);
    bench.on(|agent, out| agent.on_tick(out, 0));
    let out = bench.on(|agent, out| agent.on_tick(out, executors::IDLE_MS));
    assert_eq!(
        out.len(),
        executors::MAX_SPARE,
        "the others when they have long waited: {out:?}"
    );
    let out = bench.launch(native("late"));
    assert!(matches!(out[..], [Action::Start(..)]), "{out:?}");
}

#[test]
fn without_cgroups_each_native_task_has_a_process_of_its_own() {
    let mut bench = Bench::new();
    bench.agent = Agent::new(Layout::new("/agent".into()));
    bench.launch(native("a"));
    bench.attach(0, vec![]);
    bench.update(0, "a", TaskState::Finished);
    let out = bench.recorded("a", TaskState::Finished);
    assert_eq!(
        out.last(),
        Some(&Action::Send(ExecutorId(0), ToExecutor::Retire))
    );
}

#[test]
fn what_tasks_had_used_is_told_when_their_executor_is_lost() {
    let mut bench = Bench::new();
    for name in ["ended", "a", "b"] {
        bench.launch(wasm(name));
    }
    bench.on(|agent, out| agent.on_fetched(out, Digest::of(b"program"), Ok(())));
    bench.attach(0, vec![]);
    for name in ["a", "b"] {
        bench.update(0, name, TaskState::Running);
    }
    bench.take_statuses();
    let usage = |cpu_micros| TaskUsage {
        cpu_micros,
        mem_peak_bytes: 1,
        instances: None,
    };
    let ended = TaskUpdate {
        usage: Some(usage(9)),
        ..update("ended", TaskState::Finished)
    };
    let death = Death {
        exits: vec![ended],
        // Its end is known better than what was noted before it.
        used: [(id("ended"), usage(8)), (id("a"), usage(7))].into(),
        ..Death::default()
    };
    bench.on(|agent, out| agent.on_executor_lost(out, ExecutorId(0), death));
    let told = bench.take_statuses().into_iter();
    let told: BTreeMap<_, _> = told.map(|report| (report.task, report.usage)).collect();
    let expected = [
        (id("ended"), Some(usage(9))),
        (id("a"), Some(usage(7))),
        (id("b"), None),
    ];
    assert_eq!(told, expected.into());
}
