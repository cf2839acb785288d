//! Commands that are sent something while they run: by a pipe, or by a terminal.

use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tepui_executor::runtime::Runtime;
use tepui_types::TaskState;
use tepui_types::wire::executor::{FromExecutor, ImageConfig, ToExecutor};
use tepui_types::wire::stream::TerminalSize;

use crate::containers::{IMAGE, finished, image, runtimes};
use crate::env::{Builder, Executor, check, eventually, task};
use crate::userns::USERS;

const OPEN: &str = r#"{"stdin": "open"}"#;
const TERMINAL: &str = r#"{"stdin": "terminal"}"#;

/// Sends this to the task, as a caller of its own; nothing is the end.
fn send(executor: &mut Executor, name: &str, text: &str) {
    static CALLERS: AtomicU64 = AtomicU64::new(1_000);
    let caller = CALLERS.fetch_add(1, Ordering::Relaxed);
    executor.type_in(name, caller.into(), 0, text.as_bytes());
}

#[test]
fn a_command_reads_what_it_is_sent_until_the_end_is() {
    for mut executor in [Executor::native(), Executor::native_without_cgroups()] {
        let script = "read a; echo got $a; rest=$(cat | wc -c); echo rest $rest";
        executor.launch(Builder::script("t", script).life(OPEN));
        send(&mut executor, "t", "one\n");
        eventually("it has read", || {
            executor.output("t", "stdout") == "got one\n"
        });
        // The agent was restarted, and its executor has not let go of the input.
        let _before = executor.reattach();
        for _ in 0..10 {
            send(&mut executor, "t", &"x".repeat(20_000));
        }
        send(&mut executor, "t", "");
        check(&executor.end("t"), "finished", "", Some(0), "");
        assert_eq!(executor.output("t", "stdout"), "got one\nrest 200000\n");
    }
}

/// A piece as agents send them.
const PIECE: usize = 16 * 1024;

/// Sends such pieces, from this one on, until one is not taken before all else was answered; tells how
/// many were.
fn fill(executor: &mut Executor, caller: u128, mut number: u64) -> u64 {
    loop {
        let at = number * PIECE as u64;
        executor.type_in("t", caller, at, &[b'x'; PIECE]);
        executor.run_beside(number, "t", &["true"], 60_000);
        let mut is_taken = false;
        loop {
            match executor.frame() {
                FromExecutor::Took(told) => is_taken = told == caller,
                FromExecutor::Ran { id, result } if id == number => {
                    assert_eq!(result, Ok(0));
                    break;
                }
                _ => {}
            }
        }
        if !is_taken {
            return number;
        }
        number += 1;
    }
}

#[test]
fn who_does_not_read_holds_up_its_callers_and_nothing_else() {
    let mut executor = Executor::native();
    let script = "while ! test -e go; do sleep 0.01; done; wc -c; sleep 1000";
    executor.launch(Builder::script("t", script).life(OPEN));
    // Beside the task, commands run all the while.
    let taken = fill(&mut executor, 1, 0);
    let bytes = taken * PIECE as u64;
    assert!((256 * 1024..1024 * 1024).contains(&bytes), "{bytes}");
    // Another waits behind it, and a third one leaves.
    executor.type_in("t", 3, 0, b"unsaid");
    executor.send(&ToExecutor::CallerLeft(3));
    executor.type_in("t", 2, 0, b"second");
    std::fs::write(executor.task_dir("t").join("sandbox/go"), "").unwrap();
    assert!(executor.took(1));
    assert!(executor.took(2));
    executor.type_in("t", 1, bytes + PIECE as u64, b"");
    assert!(executor.took(1));
    let all = bytes + PIECE as u64 + "second".len() as u64;
    let all = format!("{all}\n");
    eventually("it has read", || executor.output("t", "stdout") == all);
    executor.kill("t", 0);
    assert_eq!(executor.end("t").state, TaskState::Killed);
}

#[test]
fn callers_of_a_task_that_ends_or_has_closed_its_input_do_not_wait() {
    let mut executor = Executor::native();
    let script = "while ! test -e go; do sleep 0.01; done; exec <&-; echo on; sleep 1000";
    executor.launch(Builder::script("t", script).life(OPEN));
    let taken = fill(&mut executor, 1, 0);
    std::fs::write(executor.task_dir("t").join("sandbox/go"), "").unwrap();
    // Nobody will read it.
    assert!(executor.took(1));
    executor.type_in("t", 1, (taken + 1) * PIECE as u64, b"more");
    assert!(executor.took(1));
    executor.kill("t", 0);
    assert_eq!(executor.end("t").state, TaskState::Killed);
    executor.type_in("t", 1, 0, b"late");
    assert!(!executor.took(1));

    executor.launch(Builder::script("u", "sleep 1000").life(OPEN));
    for caller in 0..40 {
        executor.type_in("u", caller, 0, &[b'x'; PIECE]);
    }
    executor.kill("u", 0);
    let mut told = 0;
    loop {
        match executor.frame() {
            FromExecutor::NotTook(_) => told += 1,
            FromExecutor::Update(update) if update.state.is_terminal() => break,
            _ => {}
        }
    }
    assert!(told > 0);
}

/// A process of the machine that is held between its end and its being waited for, by who traces it.
struct Held(Pid);

impl Held {
    fn hold(pid: Pid) -> Self {
        // SAFETY: the request has no address and no options, and touches no memory of ours.
        let done = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid.as_raw(), 0, 0) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
        Self(pid)
    }

    fn let_go(self) {
        waitpid(self.0, Some(WaitPidFlag::__WALL)).unwrap();
    }
}

#[test]
fn a_command_that_is_killed_has_not_closed_its_input() {
    let Some(mut executor) = Executor::container(Runtime::BuiltIn) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let builder = Builder::script("t", "sleep 1000 & echo on; wait").container(IMAGE);
    let image = image(dir.path(), ImageConfig::default());
    executor.launch(builder.life(OPEN).image(image));
    eventually("it runs", || executor.output("t", "stdout") == "on\n");
    let first = children_of(executor.identity.pid)
        .into_iter()
        .find(|pid| !children_of(*pid).is_empty())
        .unwrap();
    // The first process of a container closes its files, then waits for all others.
    let held = Held::hold(Pid::from_raw(children_of(first)[0]));
    let taken = fill(&mut executor, 1, 0);
    executor.kill("t", 0);
    eventually("its files are closed", || {
        std::fs::read_dir(format!("/proc/{first}/fd")).is_ok_and(|files| files.count() == 0)
    });
    // It has looked at its input when it has answered twice.
    for stranger in [8, 9] {
        executor.type_in("stranger", stranger, 0, b"x");
        assert!(!executor.took(stranger));
    }
    held.let_go();
    assert!(!executor.took(1), "{taken}");
    assert_eq!(executor.end("t").state, TaskState::Killed);
}

/// As far as they are there now.
fn children_of(pid: i32) -> Vec<i32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    children
        .split_ascii_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

#[test]
fn what_is_sent_again_by_the_next_agent_is_read_once() {
    let mut executor = Executor::native();
    let script = "while ! test -e go; do sleep 0.01; done; cat";
    executor.launch(Builder::script("t", script).life(OPEN));
    executor.type_in("t", 1, 0, b"one ");
    assert!(executor.took(1));
    // It was taken, and nobody was told.
    let _before = executor.reattach();
    executor.type_in("t", 1, 0, b"one two ");
    assert!(executor.took(1));
    executor.type_in("t", 1, 8, b"");
    assert!(executor.took(1));
    executor.type_in("t", 1, 4, b"two ");
    assert!(executor.took(1));
    std::fs::write(executor.task_dir("t").join("sandbox/go"), "").unwrap();
    check(&executor.end("t"), "finished", "", Some(0), "");
    assert_eq!(executor.output("t", "stdout"), "one two ");
}

#[test]
fn a_command_that_asks_for_nothing_is_sent_nothing() {
    let mut executor = Executor::native();
    executor.launch(Builder::script(
        "t",
        "cat; while ! test -e go; do sleep 0.01; done; cat",
    ));
    send(&mut executor, "t", "unheard\n");
    // The executor has heard of it when this is answered.
    executor.run_beside(1, "t", &["true"], 60_000);
    assert_eq!(executor.ran(1), Ok(0));
    std::fs::write(executor.task_dir("t").join("sandbox/go"), "").unwrap();
    check(&executor.end("t"), "finished", "", Some(0), "");
    assert_eq!(executor.output("t", "stdout"), "");
}

/// Looks at its terminal, waits for another size, for an interrupt, and for the end of its input.
const LOOKS: &str = "test -t 0 && test -t 1 && test -t 2 && echo all; (: < /dev/tty) && echo \
                     controlled; STTY size; trap 'STTY size; echo resized' WINCH; trap 'echo \
                     interrupted' INT; read a; echo got $a; while ! test -e $TEPUI_SANDBOX/go; do \
                     sleep 0.05; done; cat; echo end";

/// Goes through that with a task that runs.
#[track_caller]
fn use_terminal(executor: &mut Executor, name: &str) {
    let has = |executor: &Executor, text: &str| executor.output(name, "stdout").contains(text);
    eventually("it has begun", || has(executor, "24 80"));
    assert!(has(executor, "all\r\ncontrolled\r\n"), "no terminal");
    send(executor, name, "word\n");
    eventually("it has read", || has(executor, "got word"));
    let size = TerminalSize {
        columns: 132,
        rows: 50,
    };
    let task = task(name);
    executor.send(&ToExecutor::Resize { task, size });
    eventually("it is told of the size", || {
        has(executor, "50 132\r\nresized")
    });
    send(executor, name, "\x03");
    eventually("it is interrupted", || has(executor, "interrupted"));
    std::fs::write(executor.task_dir(name).join("sandbox/go"), "").unwrap();
    // Within a line, too, the end is the end.
    send(executor, name, "more");
    send(executor, name, "");
    let end = executor.end(name);
    finished(executor, &end);
    let out = executor.output(name, "stdout");
    assert!(out.ends_with("moremoreend\r\n"), "{out:?}");
    assert_eq!(executor.output(name, "stderr"), "");
}

#[test]
fn a_command_is_controlled_by_its_terminal() {
    for mut executor in [Executor::native(), Executor::native_without_cgroups()] {
        let script = LOOKS.replace("STTY", "stty");
        executor.launch(Builder::script("task", &script).life(TERMINAL));
        use_terminal(&mut executor, "task");
    }
}

#[test]
fn a_container_is_controlled_by_its_terminal() {
    for (userns, users) in [("host", None), ("private", Some(USERS))] {
        let Some(mut executor) = Executor::container(Runtime::BuiltIn) else {
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let script = LOOKS.replace("STTY", "busybox stty");
        let container = format!(r#"{{"image": "test", "user": "web", "userns": "{userns}"}}"#);
        let mut builder = Builder::script("task", &script).container(&container);
        builder.users = users;
        let image = image(dir.path(), ImageConfig::default());
        executor.launch(builder.life(TERMINAL).image(image));
        use_terminal(&mut executor, "task");
    }
}

#[test]
fn containers_are_sent_input_whoever_makes_them() {
    for runtime in runtimes() {
        for (options, expected) in [(OPEN, "one\n"), (TERMINAL, "one\r\none\r\n")] {
            let Some(mut executor) = Executor::container(runtime.clone()) else {
                return;
            };
            let dir = tempfile::tempdir().unwrap();
            let builder = Builder::command("task", &["cat"]).container(IMAGE);
            let image = image(dir.path(), ImageConfig::default());
            executor.launch(builder.life(options).image(image));
            send(&mut executor, "task", "one\n");
            send(&mut executor, "task", "");
            let end = executor.end("task");
            finished(&executor, &end);
            assert_eq!(executor.output("task", "stdout"), expected);
        }
    }
}

#[test]
fn input_and_terminals_are_the_same_for_each_run() {
    for stdin in ["open", "terminal"] {
        for mut executor in [Executor::native(), Executor::native_without_cgroups()] {
            let options =
                format!(r#"{{"stdin": "{stdin}", "restart": {{"most": 1, "backoff_ms": 1}}}}"#);
            let script =
                "read a; echo got $a; (: < /dev/tty) 2>/dev/null && echo controlled; exit 3";
            executor.launch(Builder::script("t", script).life(&options));
            send(&mut executor, "t", "one\n");
            eventually("it has read", || {
                executor.output("t", "stdout").contains("got one")
            });
            send(&mut executor, "t", "two\n");
            check(&executor.end("t"), "failed", "exit-code", Some(3), "");
            let out = executor.output("t", "stdout");
            assert!(out.contains("got two"), "{out}");
            let controlled = if stdin == "terminal" { 2 } else { 0 };
            assert_eq!(out.matches("controlled").count(), controlled, "{out}");
        }
    }
}

#[test]
fn another_user_opens_its_output_once_more() {
    for runtime in runtimes() {
        let Some(mut executor) = Executor::container(runtime) else {
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let container = r#"{"image": "test", "user": "web"}"#;
        let script = "echo out > /dev/stdout; echo err > /dev/stderr";
        let builder = Builder::script("task", script).container(container);
        executor.launch(builder.image(image(dir.path(), ImageConfig::default())));
        let end = executor.end("task");
        finished(&executor, &end);
        assert_eq!(executor.output("task", "stdout"), "out\n");
        assert_eq!(executor.output("task", "stderr"), "err\n");
    }
}
