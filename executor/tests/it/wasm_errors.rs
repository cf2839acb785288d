//! WebAssembly tasks that fail, and programs that are none.

use tepui_types::Bytes;

use crate::env::{Builder, Executor, check};
use crate::programs::{self, module, wat};

#[test]
fn a_trap_is_told_in_short_with_where_it_was() {
    let mut executor = Executor::wasm();
    executor.launch(Builder::wasm("t", module("", "unreachable")));
    let end = executor.end("t");
    check(
        &end,
        "failed",
        "wasm-trap",
        None,
        "wasm `unreachable` instruction executed, in main",
    );
    assert!(end.reason.unwrap().message.len() < 200);
    executor.launch(Builder::wasm("deep", module("", "(call $main)")));
    check(
        &executor.end("deep"),
        "failed",
        "wasm-trap",
        None,
        "call stack exhausted",
    );
    // What traps does not disturb what comes after it.
    executor.launch(Builder::wasm("next", programs::hello()));
    check(&executor.end("next"), "finished", "", Some(0), "");
}

/// Grows page by page until it is refused, then does `after`.
fn grows(after: &str) -> Vec<u8> {
    let body = format!(
        "(loop $again (br_if $again (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) {after}"
    );
    module("", &body)
}

#[test]
fn memory_is_bounded_and_the_bound_is_named() {
    let mut executor = Executor::wasm();
    executor.launch(Builder::wasm("aborts", grows("unreachable")).mem(Bytes::mib(8)));
    let end = executor.end("aborts");
    check(&end, "failed", "memory-limit", None, "its limit is 8 MiB");
    assert_eq!(end.usage.unwrap().mem_peak_bytes, Bytes::mib(8).0);
    executor.launch(Builder::wasm("copes", grows("")).mem(Bytes::mib(8)));
    check(&executor.end("copes"), "finished", "", Some(0), "");
    executor.launch(
        Builder::wasm("exits", grows("(call $proc_exit (i32.const 5))")).mem(Bytes::mib(8)),
    );
    check(
        &executor.end("exits"),
        "failed",
        "exit-code",
        Some(5),
        "its limit is 8 MiB",
    );
    let large = wat(r#"(module (memory (export "memory") 256) (func (export "_start")))"#);
    executor.launch(Builder::wasm("large", large).mem(Bytes::mib(8)));
    check(
        &executor.end("large"),
        "failed",
        "memory-limit",
        None,
        "it wanted 16 MiB",
    );
}

#[test]
fn bytes_that_are_no_program_are_refused_with_what_is_wrong() {
    let mut executor = Executor::wasm();
    let mut refused = |name: &str, bytes: &[u8], words: &str| {
        executor.launch(Builder::wasm(name, bytes));
        check(&executor.end(name), "error", "wasm-invalid", None, words);
    };
    refused("empty", b"", "not WebAssembly");
    refused("text", b"#!/bin/sh\necho", "does not begin with the bytes");
    refused("version", b"\0asm\x07\0\0\0", "an unknown version");
    refused(
        "cut",
        &programs::hello()[..40],
        "the module does not validate",
    );
    refused(
        "component",
        &programs::component(0)[..400],
        "the component does not validate",
    );
    refused(
        "types",
        b"\0asm\x01\0\0\0\x01\x04\x01\x60\0",
        "the module does not validate",
    );
    refused("library", &wat("(module)"), "exports no `_start`");
    refused(
        "no-command",
        &wat("(component)"),
        "neither a command nor a service",
    );
}

#[test]
fn a_missing_import_is_named() {
    let mut executor = Executor::wasm();
    let core = wat(r#"(module (import "env" "launch_missiles" (func)) (func (export "_start")))"#);
    executor.launch(Builder::wasm("core", core));
    check(
        &executor.end("core"),
        "error",
        "wasm-import-missing",
        None,
        "it imports `launch_missiles` from `env`",
    );
    let component =
        wat(r#"(component (import "acme:rockets/launch@1.0.0" (instance (export "go" (func)))))"#);
    executor.launch(Builder::wasm("component", component));
    check(
        &executor.end("component"),
        "error",
        "wasm-import-missing",
        None,
        "acme:rockets/launch@1.0.0",
    );
}

#[test]
fn an_artifact_that_is_missing_or_changed_is_told() {
    let mut executor = Executor::wasm();
    let good = programs::hello();
    executor.launch_with_program(Builder::wasm("missing", good.clone()), "/no/such/file");
    let end = executor.end("missing");
    check(&end, "error", "artifact-unavailable", None, "/no/such/file");
    let other = executor.dir().join("other");
    std::fs::write(&other, programs::exits(0)).unwrap();
    executor.launch_with_program(
        Builder::wasm("changed", good.clone()),
        other.to_str().unwrap(),
    );
    check(
        &executor.end("changed"),
        "error",
        "artifact-unavailable",
        None,
        "another digest",
    );
    // Neither is remembered of the digest.
    executor.launch(Builder::wasm("good", good));
    check(&executor.end("good"), "finished", "", Some(0), "");
}

#[test]
fn a_native_command_is_refused() {
    let mut executor = Executor::wasm();
    executor.launch(Builder::script("t", "true"));
    check(
        &executor.end("t"),
        "error",
        "executor-failed",
        None,
        "WebAssembly alone",
    );
}
