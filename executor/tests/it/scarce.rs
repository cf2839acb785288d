//! Tasks with too little memory to be started: they are told so, and nobody ends with them.

use tepui_types::wire::executor::{ImageConfig, RunBeside, RunIo, TaskUpdate, ToExecutor};
use tepui_types::{Bytes, TaskState};

use crate::containers::{IMAGE, image, runtimes};
use crate::env::{Builder, Executor, cgroups, eventually, task};

/// From none at all to what some programs can begin with.
const SIZES: [Bytes; 5] = [
    Bytes(1024),
    Bytes(64 << 10),
    Bytes(256 << 10),
    Bytes(512 << 10),
    Bytes::mib(1),
];

/// It has ended for its memory, or in spite of it.
#[track_caller]
fn check(end: &TaskUpdate, mem: Bytes) {
    let Some(reason) = &end.reason else {
        assert_eq!(end.state, TaskState::Finished, "{mem}");
        return;
    };
    assert_eq!(reason.code, "memory-limit", "{mem}: {reason}");
    let limit = format!("its memory limit of {mem}");
    assert!(reason.message.contains(&limit), "{reason}");
}

/// One that has not even enough for its start.
#[track_caller]
fn check_none(end: &TaskUpdate) {
    let reason = end.reason.as_ref().unwrap();
    assert_eq!(end.state, TaskState::Error, "{reason}");
    assert!(reason.message.contains("too small to start"), "{reason}");
}

#[test]
fn a_command_with_too_little_memory_is_told_so_and_its_executor_goes_on() {
    if !cgroups() {
        return;
    }
    let mut executor = Executor::native();
    for (number, mem) in SIZES.into_iter().enumerate() {
        // The cgroup of one that had more is there, and a process that waits in it.
        let before = format!("before-{number}");
        executor.launch(Builder::command(&before, &["true"]));
        assert_eq!(executor.end(&before).state, TaskState::Finished);
        let name = format!("scarce-{number}");
        executor.launch(Builder::command(&name, &["true"]).mem(mem));
        let end = executor.end(&name);
        check(&end, mem);
        if number == 0 {
            check_none(&end);
        }
    }
}

#[test]
fn a_container_with_too_little_memory_is_told_so() {
    for runtime in runtimes() {
        for (number, mem) in SIZES.into_iter().enumerate() {
            let Some(mut executor) = Executor::container(runtime.clone()) else {
                return;
            };
            let dir = tempfile::tempdir().unwrap();
            let image = image(dir.path(), ImageConfig::default());
            let builder = Builder::script("task", ":").container(IMAGE);
            executor.launch(builder.image(image).mem(mem));
            let end = executor.end("task");
            check(&end, mem);
            if number == 0 {
                check_none(&end);
            }
        }
    }
}

#[test]
fn a_command_that_a_task_has_no_memory_for_does_not_end_the_executor() {
    if !cgroups() {
        return;
    }
    let mut executor = Executor::native();
    let mem = Bytes::mib(2);
    executor.launch(Builder::script("task", "echo up; while true; do sleep 1000; done").mem(mem));
    eventually("it is up", || executor.output("task", "stdout") == "up\n");
    // Its arguments alone are more than is left.
    let mut argv = vec!["true".to_owned()];
    argv.resize(20, "x".repeat(100_000));
    executor.send(&ToExecutor::Run(RunBeside {
        id: 1,
        task: task("task"),
        member: None,
        argv,
        env: Vec::new(),
        timeout_ms: None,
        io: RunIo::Nothing,
    }));
    assert_ne!(executor.ran(1), Ok(0));
    // The kernel may choose the task for it.
    executor.kill("task", 0);
    let end = executor.end("task");
    assert!(
        matches!(end.state, TaskState::Killed | TaskState::Failed),
        "{end:?}"
    );
}
