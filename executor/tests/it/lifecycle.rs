//! Executors and agents: attaching, coming back, and the end of either.

use std::io::Write;

use nix::sys::signal::Signal;
use tepui_executor::{exits, identity, protocol, spawn};
use tepui_types::TaskState;
use tepui_types::wire::executor::ToExecutor;

use crate::env::{Builder, Executor, check, eventually, is_hung_up, task};
use crate::programs;

fn both() -> [Executor; 2] {
    [Executor::native(), Executor::wasm()]
}

#[test]
fn an_executor_is_nobodys_child_and_a_session_of_its_own() {
    for executor in both() {
        let stat = format!("/proc/{}/stat", executor.identity.pid);
        let stat = std::fs::read_to_string(stat).unwrap();
        let fields: Vec<_> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .collect();
        assert_ne!(fields[1], std::process::id().to_string(), "its parent");
        assert_eq!(fields[3], executor.identity.pid.to_string(), "its session");
        let written = identity::read(&executor.dir()).unwrap().unwrap();
        assert_eq!(written, executor.identity);
    }
}

#[test]
fn a_wrong_token_or_foreign_bytes_are_hung_up_on_and_disturb_nobody() {
    for mut executor in both() {
        let mut wrong = executor.stranger();
        protocol::write_frame(&mut wrong, &ToExecutor::Attach { token: 1 }).unwrap();
        assert!(is_hung_up(wrong));
        let mut foreign = executor.stranger();
        foreign.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert!(is_hung_up(foreign));
        let mut hasty = executor.stranger();
        protocol::write_frame(&mut hasty, &ToExecutor::Retire).unwrap();
        assert!(is_hung_up(hasty));
        let (_, tasks) = executor.reattach();
        assert_eq!(tasks, []);
    }
}

#[test]
fn the_newest_connection_wins() {
    for mut executor in both() {
        let (older, _) = executor.reattach();
        assert!(is_hung_up(older));
        let (_older, tasks) = executor.reattach();
        assert_eq!(tasks, []);
    }
}

#[test]
fn a_task_goes_on_while_its_agent_is_away() {
    let mut executor = Executor::native();
    executor.launch(Builder::script("t", "echo ready; sleep 1000"));
    assert_eq!(executor.update().state, TaskState::Running);
    executor.detach();
    let (_, tasks) = executor.reattach();
    assert_eq!(tasks.len(), 1);
    assert_eq!(tasks[0].state, TaskState::Running);
    executor.kill("t", 0);
    check(&executor.end("t"), "killed", "kill-requested", None, "");
}

#[test]
fn an_end_that_nobody_heard_is_told_to_the_next_agent_until_it_is_forgotten() {
    for (mut executor, builder) in [
        (Executor::native(), Builder::script("t", "exit 3")),
        (Executor::wasm(), Builder::wasm("t", programs::exits(3))),
    ] {
        executor.launch(builder);
        executor.detach();
        let dir = executor.dir();
        eventually("the end is recorded", || {
            !exits::read(&dir).unwrap().is_empty()
        });
        for _ in 0..2 {
            let (_, tasks) = executor.reattach();
            assert_eq!(tasks, exits::read(&dir).unwrap());
            check(&tasks[0], "failed", "exit-code", Some(3), "");
        }
        executor.send(&ToExecutor::Retire);
        executor.send(&ToExecutor::Forget(task("t")));
        executor.gone();
    }
}

#[test]
fn exit_records_outlive_kill_9_of_the_executor() {
    for (mut executor, builder) in [
        (Executor::native(), Builder::script("t", "exit 3")),
        (Executor::wasm(), Builder::wasm("t", programs::exits(3))),
    ] {
        executor.launch(builder);
        let end = executor.end("t");
        executor.kill_process(Signal::SIGKILL);
        executor.gone();
        // Its other threads may close the socket a moment later.
        eventually("nobody listens", || {
            spawn::connect(&executor.dir()).is_err()
        });
        assert_eq!(exits::read(&executor.dir()).unwrap(), [end]);
    }
}

#[test]
fn retire_ends_an_empty_executor_at_once_and_a_busy_one_when_it_is_empty() {
    for mut executor in both() {
        executor.send(&ToExecutor::Retire);
        executor.gone();
    }
    let mut executor = Executor::wasm();
    executor.launch(Builder::wasm("t", programs::spins()));
    executor.send(&ToExecutor::Retire);
    executor.launch(Builder::wasm("late", programs::exits(0)));
    check(
        &executor.end("late"),
        "error",
        "executor-failed",
        None,
        "ending",
    );
    executor.kill("t", 0);
    executor.end("t");
    executor.send(&ToExecutor::Forget(task("late")));
    executor.send(&ToExecutor::Forget(task("t")));
    executor.gone();
}

#[test]
fn sigterm_ends_the_tasks_then_the_executor() {
    for (mut executor, builder) in [
        (
            Executor::native(),
            Builder::script("t", "echo ready; sleep 1000"),
        ),
        (Executor::wasm(), Builder::wasm("t", programs::spins())),
    ] {
        executor.launch(builder);
        assert_eq!(executor.update().state, TaskState::Running);
        executor.kill_process(Signal::SIGTERM);
        check(
            &executor.end("t"),
            "killed",
            "executor-terminated",
            None,
            "",
        );
        executor.gone();
        let records = exits::read(&executor.dir()).unwrap();
        check(&records[0], "killed", "executor-terminated", None, "");
    }
}
