//! Machine code of WebAssembly programs on disk, compiled apart and shared by executors.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tepui_types::Bytes;

use crate::env::{Builder, Executor, check};
use crate::programs;

/// The files of machine code below `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let below = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
    let engines = below(folder).map(|entry| entry.path());
    engines
        .flat_map(|engine| below(&engine).map(|entry| entry.path()).collect::<Vec<_>>())
        .collect()
}

#[test]
fn what_one_executor_had_compiled_another_runs_without_its_bytes() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("code");
    for (name, program) in [
        ("module", programs::hello()),
        ("component", programs::component(0)),
        ("service", programs::service()),
    ] {
        let mut first = Executor::wasm_with_code(&folder);
        let before = files(&folder).len();
        if name == "service" {
            // Without a port it has no more to do than to be compiled.
            first.launch(Builder::wasm(name, program.clone()));
            check(&first.end(name), "error", "port-missing", None, "");
        } else {
            first.launch(Builder::wasm(name, program.clone()));
            check(&first.end(name), "finished", "", Some(0), "");
            assert!(first.output(name, "stdout").starts_with("hello"));
        }
        assert_eq!(files(&folder).len(), before + 1);
        let mut second = Executor::wasm_with_code(&folder);
        second.launch_with_program(Builder::wasm(name, program), "/no/such/file");
        let end = second.end(name);
        let reason = end.reason.map(|reason| reason.code);
        assert!(
            matches!(reason.as_deref(), None | Some("port-missing")),
            "{reason:?}"
        );
        assert_eq!(files(&folder).len(), before + 1);
    }
    for file in files(&folder) {
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
}

#[test]
fn a_program_launched_many_times_at_once_is_compiled_once() {
    const COUNT: usize = 50;
    let root = tempfile::tempdir().unwrap();
    let mut executor = Executor::wasm_with_code(root.path());
    for place in 0..COUNT {
        let builder = Builder::wasm(&format!("t-{place}"), programs::hello());
        executor.launch(builder.mem(Bytes::mib(1)));
    }
    let mut ended = 0;
    while ended < COUNT {
        let update = executor.update();
        if update.state.is_terminal() {
            check(&update, "finished", "", Some(0), "");
            ended += 1;
        }
    }
    assert_eq!(files(root.path()).len(), 1);
}

#[test]
fn damaged_machine_code_is_made_anew_and_never_run() {
    let root = tempfile::tempdir().unwrap();
    let mut first = Executor::wasm_with_code(root.path());
    first.launch(Builder::wasm("t", programs::hello()));
    check(&first.end("t"), "finished", "", Some(0), "");
    let [file] = files(root.path()).try_into().unwrap();
    let good = fs::read(&file).unwrap();
    for damaged in [&good[..good.len() / 2], b"", &[&good[..], b"x"].concat()] {
        fs::write(&file, damaged).unwrap();
        let mut executor = Executor::wasm_with_code(root.path());
        executor.launch(Builder::wasm("t", programs::hello()));
        check(&executor.end("t"), "finished", "", Some(0), "");
        assert_eq!(executor.output("t", "stdout"), "hello\n");
        assert!(
            fs::read(&file).unwrap() == good,
            "compiling gives the same again"
        );
    }
}

#[test]
fn what_is_wrong_with_a_program_is_told_as_where_it_is_compiled_here() {
    let root = tempfile::tempdir().unwrap();
    let mut executor = Executor::wasm_with_code(root.path());
    let mut refused = |name: &str, bytes: &[u8], code: &str, words: &str| {
        executor.launch(Builder::wasm(name, bytes));
        check(&executor.end(name), "error", code, None, words);
    };
    refused(
        "text",
        b"#!/bin/sh",
        "wasm-invalid",
        "does not begin with the bytes",
    );
    let cut = &programs::hello()[..40];
    refused("cut", cut, "wasm-invalid", "the module does not validate");
    let library = programs::wat("(module)");
    refused("library", &library, "wasm-invalid", "exports no `_start`");
    let import = programs::wat(r#"(module (import "a" "b" (func)) (func (export "_start")))"#);
    refused(
        "import",
        &import,
        "wasm-import-missing",
        "it imports `b` from `a`",
    );
    let good = programs::exits(0);
    executor.launch_with_program(Builder::wasm("missing", good.clone()), "/no/such/file");
    let end = executor.end("missing");
    check(&end, "error", "artifact-unavailable", None, "/no/such/file");
    let other = executor.dir().join("other");
    fs::write(&other, b"other").unwrap();
    let other = other.to_str().unwrap();
    executor.launch_with_program(Builder::wasm("changed", good.clone()), other);
    let end = executor.end("changed");
    check(
        &end,
        "error",
        "artifact-unavailable",
        None,
        "another digest",
    );
    executor.launch(Builder::wasm("good", good));
    check(&executor.end("good"), "finished", "", Some(0), "");
}

#[test]
fn a_folder_that_cannot_be_written_to_is_named() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    let mut executor = Executor::wasm_with_code(&file.join("code"));
    executor.launch(Builder::wasm("t", programs::hello()));
    let end = executor.end("t");
    check(
        &end,
        "error",
        "executor-failed",
        None,
        "failed to keep the machine code",
    );
}
