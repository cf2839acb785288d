//! WebAssembly tasks that do what they should.

use std::collections::HashMap;
use std::fs;

use tepui_executor::exits;
use tepui_types::wire::executor::ToExecutor;
use tepui_types::{Bytes, Digest, TaskState};

use crate::env::{Builder, Executor, check, eventually, task};
use crate::programs;

#[test]
fn a_core_module_runs_to_its_end_with_output_and_usage() {
    let mut executor = Executor::wasm();
    executor.launch(Builder::wasm("t", programs::hello()));
    let end = executor.end("t");
    check(&end, "finished", "", Some(0), "");
    assert_eq!(executor.output("t", "stdout"), "hello\n");
    assert_eq!(executor.output("t", "stderr"), "hello");
    let usage = end.usage.unwrap();
    assert!(
        usage.cpu_micros > 0 && usage.mem_peak_bytes >= 65_536,
        "{usage:?}"
    );
    assert_eq!(usage.instances, Some(1));
}

#[test]
fn a_component_runs_to_its_end_with_output() {
    let mut executor = Executor::wasm();
    executor.launch(Builder::wasm("good", programs::component(0)));
    check(&executor.end("good"), "finished", "", Some(0), "");
    assert_eq!(executor.output("good", "stdout"), "hello from p2\n");
    executor.launch(Builder::wasm("bad", programs::component(1)));
    check(
        &executor.end("bad"),
        "failed",
        "exit-code",
        Some(1),
        "exited with code 1",
    );
}

#[test]
fn exit_codes_are_told() {
    let mut executor = Executor::wasm();
    executor.launch(Builder::wasm("zero", programs::exits(0)));
    check(&executor.end("zero"), "finished", "", Some(0), "");
    executor.launch(Builder::wasm("three", programs::exits(3)));
    check(
        &executor.end("three"),
        "failed",
        "exit-code",
        Some(3),
        "exited with code 3",
    );
}

/// Writes what `get` and `sizes` of WASI give, NUL after each, to stdout.
fn lists(what: &str) -> Vec<u8> {
    programs::module(
        &format!(
            r#"(import "wasi_snapshot_preview1" "{what}_get"
                   (func $get (param i32 i32) (result i32)))
               (import "wasi_snapshot_preview1" "{what}_sizes_get"
                   (func $sizes (param i32 i32) (result i32)))"#
        ),
        "(drop (call $sizes (i32.const 16) (i32.const 20)))
         (drop (call $get (i32.const 1024) (i32.const 4096)))
         (call $say (i32.const 1) (i32.const 4096) (i32.load (i32.const 20)))",
    )
}

#[test]
fn a_program_gets_its_name_arguments_and_environment_and_nothing_else() {
    let mut executor = Executor::wasm();
    executor.launch(Builder::wasm("args", lists("args")).args(&["one", "two words"]));
    check(&executor.end("args"), "finished", "", Some(0), "");
    assert_eq!(executor.output("args", "stdout"), "args\0one\0two words\0");
    executor.launch(
        Builder::wasm("env", lists("environ"))
            .env("COLOR", "red")
            .index(4),
    );
    check(&executor.end("env"), "finished", "", Some(0), "");
    let expected = "COLOR=red\0TEPUI_AGENT_ID=a3\0TEPUI_ARRAY_INDEX=4\0TEPUI_FRAMEWORK=batch\0\
                    TEPUI_SANDBOX=/sandbox\0TEPUI_TASK_ID=f1.env.0\0TEPUI_TASK_NAME=env\0";
    assert_eq!(executor.output("env", "stdout"), expected);
}

/// Gives what it reads back, to the end.
fn copies() -> Vec<u8> {
    programs::module(
        r#"(import "wasi_snapshot_preview1" "fd_read"
               (func $read (param i32 i32 i32 i32) (result i32)))"#,
        "(loop $again
             (i32.store (i32.const 16) (i32.const 4096))
             (i32.store (i32.const 20) (i32.const 1000))
             (drop (call $read (i32.const 0) (i32.const 16) (i32.const 1) (i32.const 24)))
             (call $say (i32.const 1) (i32.const 4096) (i32.load (i32.const 24)))
             (br_if $again (i32.load (i32.const 24))))",
    )
}

#[test]
fn standard_input_is_a_text_or_an_artifact_and_else_empty() {
    let mut executor = Executor::wasm();
    let file = executor.dir().join("input");
    let long = "a line\n".repeat(10_000);
    fs::write(&file, &long).unwrap();
    let artifact = Digest::of(long.as_bytes());
    let from_artifact = format!(r#"{{"stdin": {{"artifact": "{artifact}"}}}}"#);
    executor.launch(Builder::wasm("empty", copies()));
    executor.launch(Builder::wasm("text", copies()).options(r#"{"stdin": {"text": "words"}}"#));
    let builder = |name| Builder::wasm(name, copies()).options(&from_artifact);
    executor.launch(builder("artifact").stdin(&file));
    for (name, input) in [("empty", ""), ("text", "words"), ("artifact", &long)] {
        let (_, tasks) = executor.reattach();
        let known = tasks.into_iter().find(|update| update.task == task(name));
        let end = known.filter(|update| update.state.is_terminal());
        let end = end.unwrap_or_else(|| executor.end(name));
        check(&end, "finished", "", Some(0), "");
        assert!(executor.output(name, "stdout") == input, "{name}");
    }
    executor.launch(builder("gone").stdin(&file.with_file_name("gone")));
    let end = executor.end("gone");
    check(
        &end,
        "error",
        "artifact-unavailable",
        None,
        "the standard input cannot be had",
    );
    executor.launch(builder("unnamed"));
    let end = executor.end("unnamed");
    check(
        &end,
        "error",
        "executor-failed",
        None,
        "no file for the standard input",
    );
}

/// Makes `name` below the preopened folder 3 and exits with the error number.
fn makes_folder(name: &str) -> Vec<u8> {
    programs::module(
        &format!(
            r#"(import "wasi_snapshot_preview1" "path_create_directory"
                   (func $make (param i32 i32 i32) (result i32)))
               (data (i32.const 16) "{name}")"#
        ),
        &format!(
            "(call $proc_exit (call $make (i32.const 3) (i32.const 16) (i32.const {})))",
            name.len()
        ),
    )
}

#[test]
fn files_are_in_the_sandbox_and_nowhere_else() {
    let mut executor = Executor::wasm();
    executor.launch(Builder::wasm("inside", makes_folder("made")));
    check(&executor.end("inside"), "finished", "", Some(0), "");
    assert!(executor.task_dir("inside").join("sandbox/made").is_dir());
    executor.launch(Builder::wasm("outside", makes_folder("../made")));
    assert_eq!(executor.end("outside").state, TaskState::Failed);
    assert!(!executor.task_dir("outside").join("made").exists());
    // One that leaves no files has no folder, whether it could have made some or not.
    executor.launch(Builder::wasm("none", programs::exits(0)));
    executor.end("none");
    executor.launch(Builder::wasm("failed", makes_folder("missing/made")));
    assert_eq!(executor.end("failed").state, TaskState::Failed);
    for name in ["none", "failed"] {
        assert!(!executor.task_dir(name).exists());
    }
}

#[test]
fn small_outputs_are_packed_and_large_ones_are_files() {
    let mut executor = Executor::wasm();
    let mut is_packed = |name: &str, program: &[u8]| {
        executor.launch(Builder::wasm(name, program.to_vec()));
        check(&executor.end(name), "finished", "", Some(0), "");
        let is_packed = executor.packed(name, "stderr").is_ok();
        assert_eq!(executor.task_dir(name).exists(), !is_packed, "{name}");
        is_packed
    };
    // One that takes long between two writes has a file: a busy machine may make any of them take long.
    let small = programs::component(0);
    assert!((0..50).any(|attempt| is_packed(&format!("small-{attempt}"), &small)));
    assert!(!is_packed("large", &programs::writes_pages(2)));
}

#[test]
fn what_cannot_be_packed_is_in_a_file() {
    let mut executor = Executor::wasm();
    fs::write(executor.packs(), "no folder").unwrap();
    executor.launch(Builder::wasm("t", programs::component(0)));
    check(&executor.end("t"), "finished", "", Some(0), "");
    let stdout = fs::read_to_string(executor.task_dir("t").join("stdout"));
    assert_eq!(stdout.unwrap(), "hello from p2\n");
}

#[test]
fn output_is_visible_while_the_program_runs_and_a_kill_ends_it() {
    let mut executor = Executor::wasm();
    let silent = programs::component_that_sleeps();
    executor.launch(Builder::wasm("silent", silent));
    assert_eq!(executor.update().state, TaskState::Running);
    executor.kill("silent", 3_600_000);
    check(
        &executor.end("silent"),
        "killed",
        "kill-requested",
        None,
        "",
    );
    for (name, program) in [("spin", programs::spins()), ("sleep", programs::sleeps())] {
        executor.launch(Builder::wasm(name, program));
        let line = format!("{name}\n");
        eventually("the program has spoken", || {
            executor.output(name, "stdout") == line
        });
        executor.kill(name, 3_600_000);
        check(
            &executor.end(name),
            "killed",
            "kill-requested",
            None,
            "its end was asked for",
        );
    }
}

#[test]
fn spinning_programs_hold_up_no_other() {
    let mut executor = Executor::wasm();
    for place in 0..8 {
        executor.launch(Builder::wasm(&format!("spin-{place}"), programs::spins()));
    }
    eventually("all spin", || {
        (0..8).all(|place| executor.output(&format!("spin-{place}"), "stdout") == "spin\n")
    });
    executor.launch(Builder::wasm("short", programs::hello()));
    check(&executor.end("short"), "finished", "", Some(0), "");
    for place in 0..8 {
        executor.kill(&format!("spin-{place}"), 0);
    }
    for place in 0..8 {
        let name = format!("spin-{place}");
        let (_, tasks) = executor.reattach();
        let known = tasks.into_iter().find(|update| update.task == task(&name));
        let end = known.filter(|update| update.state.is_terminal());
        let end = end.unwrap_or_else(|| executor.end(&name));
        check(&end, "killed", "kill-requested", None, "");
        assert!(end.usage.unwrap().cpu_micros > 0);
    }
}

#[test]
fn more_tasks_than_places_wait_for_one() {
    /// What one process runs at once.
    const PLACES: usize = 2_000;
    let mut executor = Executor::wasm();
    let sleeper = programs::sleeps_silently();
    let name = |place: usize| format!("t-{place}");
    let next = |executor: &mut Executor, state: TaskState| {
        let update = executor.update();
        assert_eq!(update.state, state, "{:?}", update.reason);
        update.task
    };
    for place in 0..PLACES {
        executor.launch(Builder::wasm(&name(place), sleeper.clone()).mem(Bytes::mib(1)));
    }
    for _ in 0..PLACES {
        next(&mut executor, TaskState::Running);
    }
    executor.launch(Builder::wasm("late", programs::exits(0)));
    executor.kill(&name(7), 0);
    assert_eq!(next(&mut executor, TaskState::Killed).name.as_str(), "t-7");
    check(&executor.end("late"), "finished", "", Some(0), "");
    for place in (0..PLACES).filter(|place| *place != 7) {
        executor.kill(&name(place), 0);
    }
    for _ in 1..PLACES {
        next(&mut executor, TaskState::Killed);
    }
}

#[test]
fn a_thousand_tasks_end_once_each() {
    const COUNT: usize = 1_000;
    let mut executor = Executor::wasm();
    let program = programs::hello();
    let started = std::time::Instant::now();
    for place in 0..COUNT {
        let builder = Builder::wasm(&format!("t-{place}"), program.clone());
        executor.launch(builder.mem(Bytes::mib(1)));
    }
    let mut ends = HashMap::new();
    while ends.len() < COUNT {
        let update = executor.update();
        if update.state.is_terminal() {
            check(&update, "finished", "", Some(0), "");
            assert!(
                ends.insert(update.task.clone(), update).is_none(),
                "told once"
            );
        }
    }
    println!("{COUNT} tasks: {:?}", started.elapsed());
    let records = exits::read(&executor.dir()).unwrap();
    assert_eq!(records.len(), COUNT);
    for record in &records {
        assert_eq!(ends.get(&record.task), Some(record));
        assert_eq!(
            executor.output(record.task.name.as_str(), "stdout"),
            "hello\n"
        );
    }
    let descriptors = fs::read_dir(format!("/proc/{}/fd", executor.identity.pid))
        .unwrap()
        .count();
    assert!(descriptors < 100, "{descriptors} descriptors are open");
}

#[test]
fn exit_records_of_forgotten_tasks_do_not_stay() {
    /// About 600 KiB of records.
    const COUNT: usize = 6_000;
    let mut executor = Executor::wasm();
    let program = programs::exits(3);
    executor.launch(Builder::wasm("kept", program.clone()));
    let kept = executor.end("kept");
    for place in 0..COUNT {
        let name = format!("t-{place}");
        executor.launch(Builder::wasm(&name, program.clone()).mem(Bytes::mib(1)));
        executor.end(&name);
        executor.send(&ToExecutor::Forget(task(&name)));
    }
    let records = exits::read(&executor.dir()).unwrap();
    assert!(records.len() < COUNT, "{} records", records.len());
    assert!(records.contains(&kept), "it is not forgotten");
}
