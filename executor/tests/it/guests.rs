//! The guests of `examples/tasks`, as compilers make them. They lie beside the
//! binaries once `cargo xtask guests` has built them; a test that finds none
//! says so and passes.

use std::fs;
use std::path::Path;

use tepui_types::{Bytes, TaskState};

use crate::env::{Builder, Executor, check};

/// The guest of that name, as a component or, with `-p1`, as a core module.
pub fn guest(name: &str) -> Option<Vec<u8>> {
    let binary = Path::new(env!("CARGO_BIN_EXE_tepui-executor-wasm"));
    let path = binary
        .with_file_name("tasks")
        .join(name)
        .with_extension("wasm");
    let bytes = fs::read(&path);
    if bytes.is_err() {
        eprintln!(
            "skipped: {} is not built; run `cargo xtask guests`",
            path.display()
        );
    }
    bytes.ok()
}

#[test]
fn hello_from_each_compiler_is_finished_with_output() {
    for name in ["hello", "hello-p1", "hello-c"] {
        let Some(bytes) = guest(name) else { continue };
        let mut executor = Executor::wasm();
        executor.launch(Builder::wasm(name, bytes));
        check(&executor.end(name), "finished", "", Some(0), "");
        let output = executor.output(name, "stdout").to_lowercase();
        assert!(output.contains("hello"), "{output}");
    }
}

#[test]
fn an_allocation_beyond_the_limit_is_reported_as_such() {
    for name in ["eat-memory", "eat-memory-p1"] {
        let Some(bytes) = guest(name) else { continue };
        let mut executor = Executor::wasm();
        executor.launch(Builder::wasm(name, bytes).mem(Bytes::mib(16)));
        check(
            &executor.end(name),
            "failed",
            "memory-limit",
            None,
            "its limit is 16 MiB",
        );
    }
}

#[test]
fn a_trap_inside_std_is_told_in_short() {
    for name in ["trap", "trap-p1"] {
        let Some(bytes) = guest(name) else { continue };
        let mut executor = Executor::wasm();
        executor.launch(Builder::wasm(name, bytes));
        let end = executor.end(name);
        check(&end, "failed", "wasm-trap", None, "wasm trap");
        assert!(end.reason.unwrap().message.len() < 600);
    }
}

#[test]
fn an_exit_code_of_std_is_told() {
    // WASI 0.2's stable `exit` knows good and bad alone, and std for components uses it: any
    // other code than 0 arrives as 1.
    for (name, code) in [("exit-code", 1), ("exit-code-p1", 7)] {
        let Some(bytes) = guest(name) else { continue };
        let mut executor = Executor::wasm();
        executor.launch(Builder::wasm(name, bytes).args(&["7"]));
        check(
            &executor.end(name),
            "failed",
            "exit-code",
            Some(code),
            &format!("code {code}"),
        );
    }
}

#[test]
fn a_guest_that_spins_is_killed() {
    for name in ["spin", "spin-p1"] {
        let Some(bytes) = guest(name) else { continue };
        let mut executor = Executor::wasm();
        executor.launch(Builder::wasm(name, bytes));
        assert_eq!(executor.update().state, TaskState::Running);
        executor.kill(name, 0);
        check(&executor.end(name), "killed", "kill-requested", None, "");
    }
}

#[test]
fn standard_input_reaches_std() {
    for name in ["cat", "cat-p1"] {
        let Some(bytes) = guest(name) else { continue };
        let mut executor = Executor::wasm();
        executor.launch(Builder::wasm(name, bytes).options(r#"{"stdin": {"text": "words"}}"#));
        check(&executor.end(name), "finished", "", Some(0), "");
        assert_eq!(executor.output(name, "stdout"), "words");
    }
}
