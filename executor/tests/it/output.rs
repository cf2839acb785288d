//! What tasks write: all of it up to the limit, and then one line that says so.

use std::fs;
use std::os::unix::fs::symlink;

use tepui_executor::identity;
use tepui_types::{Bytes, TaskState};

use crate::env::{Builder, Executor, check, eventually};
use crate::programs;

/// Not a multiple of what is read or written at once.
const LIMIT: Bytes = Bytes(100_001);

/// The end of an output of which LIMIT is kept and `dropped` is not.
fn notice(dropped: usize) -> String {
    format!(
        "[tepui: the first 97.6 KiB of this output are kept, the rest is dropped: {dropped} bytes]\n"
    )
}

#[test]
fn output_up_to_the_limit_is_kept_as_it_was_written() {
    let limit = LIMIT.0 as usize;
    for count in [limit - 1, limit] {
        for mut executor in Executor::native_keeping(LIMIT) {
            executor.launch(Builder::script("t", &format!("yes | head -c {count}")));
            check(&executor.end("t"), "finished", "", Some(0), "");
            let expected = "y\n".repeat(limit);
            assert_eq!(executor.output("t", "stdout"), expected[..count]);
        }
    }
}

#[test]
fn past_the_limit_output_is_dropped_and_counted_and_the_task_goes_on() {
    let limit = LIMIT.0 as usize;
    for count in [limit + 1, 30_000_000] {
        for mut executor in Executor::native_keeping(LIMIT) {
            let script = format!("yes | head -c {count}; echo the end is here >&2; exit 3");
            executor.launch(Builder::script("t", &script));
            check(&executor.end("t"), "failed", "exit-code", Some(3), "");
            let expected = "y\n".repeat(limit);
            let notice = notice(count - limit);
            let output = executor.output("t", "stdout");
            // The last line that is kept is cut in two.
            assert_eq!(output, format!("{}\n{notice}", &expected[..limit]));
            assert_eq!(executor.output("t", "stderr"), "the end is here\n");
        }
    }
}

#[test]
fn each_stream_has_a_limit_of_its_own() {
    let limit = LIMIT.0 as usize;
    for mut executor in Executor::native_keeping(LIMIT) {
        let script = "yes o | head -c 200002 & yes e | head -c 300003 >&2; wait";
        executor.launch(Builder::script("t", script));
        check(&executor.end("t"), "finished", "", Some(0), "");
        for (stream, line, written) in [("stdout", "o\n", 200_002), ("stderr", "e\n", 300_003)] {
            let kept = &line.repeat(limit)[..limit];
            let notice = notice(written - limit);
            assert_eq!(executor.output("t", stream), format!("{kept}\n{notice}"));
        }
    }
}

#[test]
fn a_task_past_its_limit_says_so_while_it_runs_and_can_be_killed() {
    for mut executor in Executor::native_keeping(LIMIT) {
        executor.launch(Builder::command("t", &["yes"]));
        assert_eq!(executor.update().state, TaskState::Running);
        let end = || executor.output("t", "stdout")[LIMIT.0 as usize..].to_owned();
        eventually("the notice is begun", || {
            executor
                .output("t", "stdout")
                .ends_with("the rest is dropped")
        });
        assert_eq!(
            end().lines().count(),
            2,
            "the cut line's end and the notice"
        );
        executor.kill("t", 3_600_000);
        check(
            &executor.end("t"),
            "killed",
            "kill-requested",
            None,
            "SIGTERM",
        );
        let output = executor.output("t", "stdout");
        let (_, dropped) = output.rsplit_once("the rest is dropped: ").unwrap();
        let dropped: u64 = dropped.strip_suffix(" bytes]\n").unwrap().parse().unwrap();
        assert!(dropped > 0);
    }
}

#[test]
fn a_fast_writer_loses_nothing_at_its_end_and_keeps_its_order() {
    let expected: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    for mut executor in [Executor::native(), Executor::native_without_cgroups()] {
        // The last words come right before the end.
        let script = "seq 1 200000 >&2 & wait; exec seq 1 200000";
        executor.launch(Builder::script("t", script));
        check(&executor.end("t"), "finished", "", Some(0), "");
        // No `assert_eq`: it would print them.
        assert!(executor.output("t", "stdout") == expected);
        assert!(executor.output("t", "stderr") == expected);
    }
}

#[test]
fn what_a_child_left_behind_wrote_is_kept_and_its_end_is_the_outputs() {
    for mut executor in [Executor::native(), Executor::native_without_cgroups()] {
        let script = "setsid sh -c 'trap \"\" TERM; echo $$ > daemon; seq 1 5000; touch all; \
                      while :; do sleep 0.01; done' & \
                      while ! test -e all; do sleep 0.01; done; echo parent >&2";
        executor.launch(Builder::script("t", script));
        check(&executor.end("t"), "finished", "", Some(0), "");
        let expected: String = (1..=5_000).map(|number| format!("{number}\n")).collect();
        assert_eq!(executor.output("t", "stdout"), expected);
        assert_eq!(executor.output("t", "stderr"), "parent\n");
        let daemon = fs::read_to_string(executor.task_dir("t").join("sandbox/daemon")).unwrap();
        let daemon: i32 = daemon.trim().parse().unwrap();
        assert_eq!(identity::of(daemon).unwrap(), None);
    }
}

#[test]
fn a_command_that_closes_its_output_runs_on() {
    for mut executor in Executor::native_keeping(LIMIT) {
        let script = "echo out; echo err >&2; exec >&- 2>&-; touch closed; \
                      while ! test -e go; do sleep 0.01; done; exit 3";
        executor.launch(Builder::script("t", script));
        assert_eq!(executor.update().state, TaskState::Running);
        let sandbox = executor.task_dir("t").join("sandbox");
        eventually("its output is closed", || sandbox.join("closed").exists());
        fs::write(sandbox.join("go"), "").unwrap();
        check(&executor.end("t"), "failed", "exit-code", Some(3), "");
        assert_eq!(executor.output("t", "stdout"), "out\n");
        assert_eq!(executor.output("t", "stderr"), "err\n");
    }
}

#[test]
fn a_full_disk_takes_the_output_and_not_the_task() {
    for mut executor in Executor::native_keeping(LIMIT) {
        fs::create_dir_all(executor.task_dir("t")).unwrap();
        symlink("/dev/full", executor.task_dir("t").join("stdout")).unwrap();
        executor.launch(Builder::script("t", "seq 1 200000; echo well >&2"));
        check(&executor.end("t"), "finished", "", Some(0), "");
        assert_eq!(executor.output("t", "stderr"), "well\n");
        let log = fs::read_to_string(executor.dir().join("log")).unwrap();
        let told = log.matches("output is lost: No space left on device");
        assert_eq!(told.count(), 1, "{log}");
    }
}

#[test]
fn wasm_programs_have_the_same_limit() {
    let mut executor = Executor::wasm_keeping(LIMIT);
    executor.launch(Builder::wasm("small", programs::writes_pages(24)));
    executor.launch(Builder::wasm("large", programs::writes_pages(1_000)));
    let mut left = vec!["small", "large"];
    while !left.is_empty() {
        let update = executor.update();
        if update.state.is_terminal() {
            check(&update, "finished", "", Some(0), "");
            left.retain(|name| *name != update.task.name.as_str());
        }
    }
    assert_eq!(executor.output("small", "stdout"), "x".repeat(24 * 4096));
    let (kept, notice) = (
        "x".repeat(LIMIT.0 as usize),
        notice(1_000 * 4096 - LIMIT.0 as usize),
    );
    let output = executor.output("large", "stdout");
    assert_eq!(output, format!("{kept}\n{notice}"));
    assert_eq!(executor.output("large", "stderr"), "end");
}
