//! Commands that are started again where they are.

use std::fs;

use tepui_types::Bytes;
use tepui_types::command::MAIN;
use tepui_types::task::{MemberState, TaskState};
use tepui_types::wire::executor::TaskUpdate;

use crate::env::{Builder, Executor, cgroups, check};

/// Counts its runs in its sandbox: `$n` is the present one's number.
const COUNT: &str = "echo >> runs; n=$(wc -l < runs);";

/// One that may be made again, in milliseconds.
fn restart(options: &str) -> String {
    format!(r#"{{"restart": {{"backoff_ms": 10, "max_backoff_ms": 20{options}}}}}"#)
}

fn both() -> [Executor; 2] {
    [Executor::native(), Executor::native_without_cgroups()]
}

#[track_caller]
fn check_restarts(end: &TaskUpdate, restarts: u32, state: MemberState) {
    let [main] = end.members.as_slice() else {
        panic!("one member: {:?}", end.members);
    };
    assert_eq!(main.name, MAIN);
    assert_eq!((main.restarts, main.state), (restarts, state), "{main:?}");
}

#[test]
fn a_command_that_fails_is_started_again_in_its_sandbox_and_adds_to_its_output() {
    for mut executor in both() {
        let script = format!("{COUNT} echo run $n; [ $n = 3 ] || exit 4");
        executor.launch(Builder::script("t", &script).life(&restart("")));
        let end = executor.end("t");
        check(&end, "finished", "", Some(0), "");
        check_restarts(&end, 2, MemberState::Finished);
        assert!(end.usage.unwrap().cpu_micros > 0);
        assert_eq!(executor.output("t", "stdout"), "run 1\nrun 2\nrun 3\n");
        let line = |n| {
            format!("[tepui: started again, {n}. time, after: the command exited with code 4]\n")
        };
        assert_eq!(executor.output("t", "stderr"), line(1) + &line(2));
    }
}

#[test]
fn a_command_returns_so_often_at_most_then_its_end_is_the_tasks() {
    for mut executor in both() {
        let script = format!("{COUNT} exit $n");
        executor.launch(Builder::script("t", &script).life(&restart(r#", "most": 2"#)));
        let end = executor.end("t");
        check(&end, "failed", "exit-code", Some(3), "exited with code 3");
        check_restarts(&end, 2, MemberState::Failed);
    }
}

#[test]
fn success_is_the_end_unless_restarts_come_after_any() {
    let mut executor = Executor::native();
    let script = format!("{COUNT} echo $n");
    executor.launch(Builder::script("t", &script).life(&restart("")));
    let end = executor.end("t");
    check(&end, "finished", "", Some(0), "");
    assert_eq!(end.members, []);
    let mut executor = Executor::native();
    let always = restart(r#", "after": "any", "most": 3"#);
    executor.launch(Builder::script("t", &script).life(&always));
    let end = executor.end("t");
    check(&end, "finished", "", Some(0), "");
    check_restarts(&end, 3, MemberState::Finished);
    assert_eq!(executor.output("t", "stdout"), "1\n2\n3\n4\n");
}

#[test]
fn what_a_run_left_behind_is_gone_before_the_next() {
    for mut executor in both() {
        let script = format!(
            "{COUNT} for pid in $(cat pids 2>/dev/null); do kill -0 $pid && echo alive; done; \
             setsid sleep 1000 & echo $! >> pids; exit 1"
        );
        let builder = Builder::script("t", &script);
        executor.launch(builder.life(&restart(r#", "most": 2"#)));
        check(&executor.end("t"), "failed", "exit-code", Some(1), "");
        assert_eq!(executor.output("t", "stdout"), "");
        let pids = executor.task_dir("t").join("sandbox/pids");
        let pids = fs::read_to_string(pids).unwrap();
        assert_eq!(pids.lines().count(), 3);
        for pid in pids.lines() {
            assert!(!fs::exists(format!("/proc/{pid}")).unwrap(), "{pid}");
        }
    }
}

#[test]
fn one_that_was_killed_for_memory_is_started_again_and_the_reason_is_told() {
    if !cgroups() {
        return;
    }
    let mut executor = Executor::native();
    let script = format!("{COUNT} [ $n = 2 ] && exit 0; a=x; while true; do a=$a$a$a$a; done");
    let builder = Builder::script("t", &script).mem(Bytes::mib(32));
    executor.launch(builder.life(&restart("")));
    let end = executor.end("t");
    check(&end, "finished", "", Some(0), "");
    check_restarts(&end, 1, MemberState::Finished);
    let errors = executor.output("t", "stderr");
    assert!(errors.contains("memory limit of 32 MiB"), "{errors}");
    // The run before is not held against the next.
    let mut executor = Executor::native();
    let script = script.replace("exit 0", "exit 5");
    let builder = Builder::script("t", &script).mem(Bytes::mib(32));
    executor.launch(builder.life(&restart(r#", "most": 1"#)));
    check(&executor.end("t"), "failed", "exit-code", Some(5), "code 5");
}

#[test]
fn what_cannot_be_executed_at_all_is_not_tried_again() {
    let mut executor = Executor::native();
    let builder = Builder::command("t", &["no-such-program"]);
    executor.launch(builder.life(&restart("")));
    check(
        &executor.end("t"),
        "error",
        "command-failed",
        None,
        "no-such-program",
    );
}

#[test]
fn a_pause_is_told_and_a_kill_ends_it_at_once() {
    for mut executor in both() {
        let hour = r#"{"restart": {"backoff_ms": 3600000, "max_backoff_ms": 3600000}}"#;
        executor.launch(Builder::script("t", "exit 3").life(hour));
        let pausing = loop {
            let update = executor.update();
            assert_eq!(update.state, TaskState::Running);
            if let [main] = update.members.as_slice() {
                break main.clone();
            }
        };
        assert_eq!((pausing.state, pausing.restarts), (MemberState::Pausing, 0));
        assert_eq!(pausing.message, "the command exited with code 3");
        // Who comes back learns the same.
        let (_old, tasks) = executor.reattach();
        assert_eq!(tasks[0].members, [pausing]);
        executor.kill("t", 3_600_000);
        check(
            &executor.end("t"),
            "killed",
            "kill-requested",
            Some(3),
            "code 3",
        );
    }
}

#[test]
fn what_runs_beside_a_command_that_pauses_is_not_its_fault() {
    for mut executor in both() {
        let hour = r#"{"restart": {"backoff_ms": 3600000, "max_backoff_ms": 3600000}}"#;
        let script = "while ! test -e go; do sleep 0.01; done; exit 3";
        executor.launch(Builder::script("t", script).life(hour));
        assert_eq!(executor.update().state, TaskState::Running);
        executor.run_beside(1, "t", &["true"], 60_000);
        assert_eq!(executor.ran(1), Ok(0));
        // It is taken along when the command ends.
        let begun = executor.task_dir("t").join("sandbox/begun");
        let wait = "echo > $TEPUI_SANDBOX/begun; sleep 1000";
        executor.run_beside(2, "t", &["sh", "-c", wait], 60_000);
        crate::env::eventually("it has begun", || begun.exists());
        fs::write(executor.task_dir("t").join("sandbox/go"), "").unwrap();
        assert!(executor.is_not_now(2));
        executor.run_beside(3, "t", &["true"], 60_000);
        assert!(executor.is_not_now(3));
        executor.kill("t", 0);
        executor.end("t");
        executor.run_beside(4, "t", &["true"], 60_000);
        assert!(!executor.is_not_now(4));
    }
}

#[test]
fn what_is_sent_to_a_command_is_read_by_its_next_run() {
    for mut executor in both() {
        let life = restart("").replacen('{', r#"{"stdin": "open", "#, 1);
        let script = format!("{COUNT} [ $n = 1 ] && exit 1; read word; echo got $word");
        executor.launch(Builder::script("t", &script).life(&life));
        executor.type_in("t", 1, 0, b"it\n");
        check(&executor.end("t"), "finished", "", Some(0), "");
        assert_eq!(executor.output("t", "stdout"), "got it\n");
    }
}

#[test]
fn a_terminal_controls_each_run() {
    for mut executor in both() {
        let life = restart("").replacen('{', r#"{"stdin": "terminal", "#, 1);
        let script = format!("{COUNT} echo run $n > /dev/tty; [ $n = 3 ]");
        executor.launch(Builder::script("t", &script).life(&life));
        check(&executor.end("t"), "finished", "", Some(0), "");
        let out = executor.output("t", "stdout");
        for words in [
            "run 1",
            "again, 1. time",
            "run 2",
            "again, 2. time",
            "run 3",
        ] {
            assert!(out.contains(words), "{words} in {out}");
        }
    }
}

#[test]
fn the_bound_of_an_output_holds_for_all_runs_together() {
    for mut executor in Executor::native_keeping(Bytes(100)) {
        let script = format!("{COUNT} echo 0123456789012345678901234567890123456789; [ $n = 4 ]");
        executor.launch(Builder::script("t", &script).life(&restart("")));
        check(&executor.end("t"), "finished", "", Some(0), "");
        let out = executor.output("t", "stdout");
        assert!(
            out.contains("the first 100 B of this output are kept"),
            "{out}"
        );
        assert_eq!(out.find("\n[tepui: "), Some(100), "{out}");
    }
}
