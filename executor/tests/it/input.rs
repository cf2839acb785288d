//! Commands that are sent something while they run: by a pipe, or by a terminal.

use tepui_executor::runtime::Runtime;
use tepui_types::TaskState;
use tepui_types::wire::executor::{ImageConfig, ToExecutor};
use tepui_types::wire::stream::TerminalSize;

use crate::containers::{IMAGE, finished, image, runtimes};
use crate::env::{Builder, Executor, check, eventually, task};

const OPEN: &str = r#"{"stdin": "open"}"#;
const TERMINAL: &str = r#"{"stdin": "terminal"}"#;

/// Sends this to the task; nothing is the end.
fn send(executor: &mut Executor, name: &str, text: &str) {
    executor.send(&ToExecutor::Input {
        task: task(name),
        bytes: text.as_bytes().to_vec(),
    });
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

#[test]
fn who_does_not_read_is_not_waited_for() {
    let mut executor = Executor::native();
    let script = "while ! test -e go; do sleep 0.01; done; exec <&-; echo on; sleep 1000";
    executor.launch(Builder::script("t", script).life(OPEN));
    for _ in 0..100 {
        send(&mut executor, "t", &"x".repeat(20_000));
    }
    // All of it has been taken in when this is answered.
    executor.run_beside(1, "t", &["touch", "go"], 60_000);
    assert_eq!(executor.ran(1), Ok(0));
    let log = std::fs::read_to_string(executor.dir().join("log")).unwrap();
    assert_eq!(log.matches("input is lost").count(), 1, "{log}");
    eventually("it goes on", || executor.output("t", "stdout") == "on\n");
    executor.kill("t", 0);
    assert_eq!(executor.end("t").state, TaskState::Killed);
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
    let Some(mut executor) = Executor::container(Runtime::BuiltIn) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let script = LOOKS.replace("STTY", "busybox stty");
    let container = r#"{"image": "test", "user": "web"}"#;
    let builder = Builder::script("task", &script).container(container);
    let image = image(dir.path(), ImageConfig::default());
    executor.launch(builder.life(TERMINAL).image(image));
    use_terminal(&mut executor, "task");
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
