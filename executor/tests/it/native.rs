//! Native commands: their ends, their environment, and ending them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use tepui_executor::identity;
use tepui_types::TaskState;
use tepui_types::wire::executor::ToExecutor;

use crate::env::{Builder, Executor, check, eventually, task};

#[test]
fn a_command_that_succeeds_is_finished_with_its_output_and_usage() {
    let mut executor = Executor::native();
    executor.launch(Builder::script("t", "echo out; echo err >&2; pwd"));
    let end = executor.end("t");
    check(&end, "finished", "", Some(0), "");
    let sandbox = executor.task_dir("t").join("sandbox");
    assert_eq!(
        executor.output("t", "stdout"),
        format!("out\n{}\n", sandbox.display())
    );
    assert_eq!(executor.output("t", "stderr"), "err\n");
    let usage = end.usage.unwrap();
    assert!(
        usage.cpu_micros > 0 && usage.mem_peak_bytes > 0,
        "{usage:?}"
    );
}

#[test]
fn a_command_that_lives_is_said_to_run() {
    let mut executor = Executor::native();
    executor.launch(Builder::command("t", &["sleep", "1000"]));
    assert_eq!(executor.update().state, TaskState::Running);
    executor.kill("t", 0);
    assert_eq!(executor.update().state, TaskState::Killed);
}

#[test]
fn an_exit_code_and_a_signal_are_told_apart() {
    let mut executor = Executor::native();
    executor.launch(Builder::script("t", "exit 7"));
    check(
        &executor.end("t"),
        "failed",
        "exit-code",
        Some(7),
        "exited with code 7",
    );
    let mut executor = Executor::native();
    executor.launch(Builder::script("t", "kill -SEGV $$"));
    check(&executor.end("t"), "failed", "signal", None, "SIGSEGV");
}

#[test]
fn a_command_gets_its_environment_and_nothing_else() {
    let mut executor = Executor::native();
    executor.launch(
        Builder::command("t", &["/usr/bin/env"])
            .env("COLOR", "red")
            .index(4),
    );
    check(&executor.end("t"), "finished", "", Some(0), "");
    let output = executor.output("t", "stdout");
    let found: BTreeMap<_, _> = output
        .lines()
        .map(|line| line.split_once('=').unwrap())
        .collect();
    let sandbox = executor.task_dir("t").join("sandbox");
    let sandbox = sandbox.to_str().unwrap();
    let expected = BTreeMap::from([
        ("COLOR", "red"),
        ("HOME", sandbox),
        (
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ),
        ("TEPUI_AGENT_ID", "a3"),
        ("TEPUI_ARRAY_INDEX", "4"),
        ("TEPUI_FRAMEWORK", "batch"),
        ("TEPUI_SANDBOX", sandbox),
        ("TEPUI_TASK_ID", "f1.t.0"),
        ("TEPUI_TASK_NAME", "t"),
    ]);
    assert_eq!(found, expected);
}

#[test]
fn a_command_inherits_no_descriptors_signals_or_privileges() {
    let mut executor = Executor::native();
    let script = "ls /proc/self/fd | wc -l; cat /proc/self/oom_score_adj; \
                  grep -oE '^(SigBlk|NoNewPrivs).*' /proc/self/status; \
                  test $(cut -d' ' -f6 /proc/$$/stat) = $$ && echo leads; read x || echo empty; \
                  grep SigIgn /proc/self/status; true";
    // `true` comes last, for busybox's shell ignores SIGQUIT where it becomes its last command.
    executor.launch(Builder::script("t", script));
    check(&executor.end("t"), "finished", "", Some(0), "");
    let output = executor.output("t", "stdout");
    let (output, ignored) = output.split_once("SigIgn:").unwrap();
    // 0, 1, 2 and the one that `ls` reads the folder with.
    let expected = "4\n0\nSigBlk:\t0000000000000000\nNoNewPrivs:\t1\nleads\nempty\n";
    assert_eq!(output, expected);
    // 32 and 33 belong to the C library, which lets nobody set them back.
    let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
    assert_eq!(ignored & !(0b11 << 31), 0);
}

#[test]
fn a_command_that_cannot_be_executed_is_an_error_that_names_it() {
    let run = |argv: &[&str], prepare: &dyn Fn(&Executor)| {
        let mut executor = Executor::native();
        prepare(&executor);
        executor.launch(Builder::command("t", argv));
        executor.end("t")
    };
    let end = run(&["no-such-program"], &|_| {});
    check(
        &end,
        "error",
        "command-failed",
        None,
        "`no-such-program` was not found in PATH",
    );
    let end = run(&["/no/such/program"], &|_| {});
    check(
        &end,
        "error",
        "command-failed",
        None,
        "No such file or directory (os error 2)",
    );
    let end = run(&["/etc/passwd"], &|_| {});
    check(
        &end,
        "error",
        "command-failed",
        None,
        "Permission denied (os error 13)",
    );
    let script = |text: &'static str| {
        move |executor: &Executor| {
            let sandbox = executor.task_dir("t").join("sandbox");
            fs::create_dir_all(&sandbox).unwrap();
            fs::write(sandbox.join("script"), text).unwrap();
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(sandbox.join("script"), mode).unwrap();
        }
    };
    let end = run(&["./script"], &script("#!/no/such/shell\n"));
    check(
        &end,
        "error",
        "command-failed",
        None,
        "the interpreter it names is not",
    );
    let end = run(&["./script"], &script("#!/bin/sh\nexit 3\n"));
    check(&end, "failed", "exit-code", Some(3), "");
}

#[test]
fn a_sandbox_that_cannot_be_made_is_an_error_that_names_it() {
    let mut executor = Executor::native();
    let folder = executor.task_dir("t");
    fs::create_dir_all(folder.parent().unwrap()).unwrap();
    fs::write(&folder, "a file").unwrap();
    executor.launch(Builder::script("t", "true"));
    check(
        &executor.end("t"),
        "error",
        "executor-failed",
        None,
        "the sandbox",
    );
}

#[test]
fn a_kill_is_polite_first() {
    let mut executor = Executor::native();
    executor.launch(Builder::script(
        "t",
        "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done",
    ));
    eventually("the command is ready", || {
        executor.output("t", "stdout") == "ready\n"
    });
    executor.kill("t", 3_600_000);
    check(
        &executor.end("t"),
        "killed",
        "kill-requested",
        Some(0),
        "its end was asked for",
    );
    assert_eq!(executor.output("t", "stdout"), "ready\nbye\n");
}

#[test]
fn a_command_that_ignores_sigterm_is_forced_after_the_grace() {
    for mut executor in [Executor::native(), Executor::native_without_cgroups()] {
        executor.launch(Builder::script(
            "t",
            "trap '' TERM; echo ready; while :; do sleep 0.05; done",
        ));
        eventually("the command is ready", || {
            executor.output("t", "stdout") == "ready\n"
        });
        executor.kill("t", 3_600_000);
        // Asked again, the earlier end counts.
        executor.kill("t", 50);
        check(
            &executor.end("t"),
            "killed",
            "kill-requested",
            None,
            "SIGKILL",
        );
    }
}

#[test]
fn what_a_command_leaves_behind_ends_with_it() {
    for mut executor in [Executor::native(), Executor::native_without_cgroups()] {
        let script = "setsid sh -c 'trap \"\" TERM; echo $$ > daemon; sleep 1000; sleep 1000' & \
                      while ! test -s daemon; do sleep 0.01; done";
        executor.launch(Builder::script("t", script));
        check(&executor.end("t"), "finished", "", Some(0), "");
        let daemon = executor.task_dir("t").join("sandbox/daemon");
        let daemon: i32 = fs::read_to_string(daemon).unwrap().trim().parse().unwrap();
        assert_eq!(identity::of(daemon).unwrap(), None);
    }
}

#[test]
fn a_launch_that_comes_twice_runs_once() {
    let mut executor = Executor::native();
    let builder = || Builder::script("t", "echo once; sleep 0.2");
    executor.launch(builder());
    executor.launch(builder());
    executor.launch(Builder::script("other", "true"));
    check(
        &executor.end("other"),
        "error",
        "executor-failed",
        None,
        "a task already",
    );
    check(&executor.end("t"), "finished", "", Some(0), "");
    executor.launch(builder());
    check(&executor.end("t"), "finished", "", Some(0), "");
    assert_eq!(executor.output("t", "stdout"), "once\n");
}

#[test]
fn an_executor_runs_one_task_after_another_and_keeps_their_ends() {
    let mut executor = Executor::native();
    executor.launch(Builder::script("first", "exit 3"));
    check(&executor.end("first"), "failed", "exit-code", Some(3), "");
    executor.launch(Builder::script("second", "echo two"));
    check(&executor.end("second"), "finished", "", Some(0), "");
    assert_eq!(executor.output("second", "stdout"), "two\n");
    // Both are told again until they are forgotten.
    executor.launch(Builder::script("first", "exit 3"));
    check(&executor.end("first"), "failed", "exit-code", Some(3), "");
    executor.send(&ToExecutor::Forget(task("first")));
    executor.send(&ToExecutor::Forget(task("second")));
    executor.launch(Builder::script("third", "true"));
    check(&executor.end("third"), "finished", "", Some(0), "");
    executor.send(&ToExecutor::Retire);
    executor.send(&ToExecutor::Forget(task("third")));
    executor.gone();
}

#[test]
fn a_task_that_leaves_nothing_gives_its_folder_to_the_next_one() {
    let mut executor = Executor::native();
    let kept = executor.dir().join("folder");
    let mut run = |name: &str, script: &str| {
        executor.launch(Builder::script(name, script));
        check(&executor.end(name), "finished", "", Some(0), "");
        executor.task_dir(name)
    };
    assert!(!run("silent", "true").exists());
    assert!(kept.join("sandbox").exists());
    let look = "[ $(stat -c %a .) = 755 ] && [ -z \"$(ls -A . )\" ] && [ $(ls -A ..) = sandbox ]";
    let loud = run("loud", &format!("{look} && echo > file"));
    assert!(!kept.exists());
    assert_eq!(fs::read(loud.join("sandbox/file")).unwrap(), b"\n");
    // What was done to these is for nobody else.
    for (name, script) in [
        ("closed", "chmod 700 ."),
        ("beside", "touch ../file"),
        ("gone", "rmdir $PWD"),
    ] {
        assert!(run(name, script).exists(), "{name}");
        assert!(!kept.exists(), "{name}");
    }
    run("last", look);
    assert!(kept.exists());
    executor.send(&ToExecutor::Retire);
    for name in ["silent", "loud", "closed", "beside", "gone", "last"] {
        executor.send(&ToExecutor::Forget(task(name)));
    }
    executor.gone();
    assert!(!kept.exists());
}

#[test]
fn commands_beside_a_task_share_its_sandbox_and_end_with_it() {
    let mut executor = Executor::native();
    let script = "echo here > mark; while true; do sleep 0.05; done";
    executor.launch(Builder::script("a", script));
    assert_eq!(executor.update().state, TaskState::Running);
    let mark = executor.task_dir("a").join("sandbox/mark");
    eventually("the task has begun", || mark.exists());
    let mut run = |id: u64, script: &str, timeout_ms: u64| {
        executor.run_beside(id, "a", &["sh", "-c", script], timeout_ms);
        executor.ran(id)
    };
    assert_eq!(run(1, "test -e mark", 60_000), Ok(0));
    assert_eq!(run(2, "exit 3", 60_000), Ok(3));
    let error = run(3, "sleep 1000", 200).unwrap_err();
    assert!(error.contains("more than 200 ms"), "{error}");
    executor.run_beside(4, "a", &["sleep", "1000"], 3_600_000);
    executor.kill("a", 100);
    assert!(executor.ran(4).unwrap_err().contains("SIGKILL"));
    assert_eq!(executor.end("a").state, TaskState::Killed);
    executor.run_beside(5, "a", &["true"], 1_000);
    assert!(executor.ran(5).unwrap_err().contains("does not run"));
}
