//! The smallest WebAssembly programs that do one thing each.

use std::sync::LazyLock;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// Compiles the text format.
pub fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

/// A core module whose `_start` is `body`; `declarations` come before it.
pub fn module(declarations: &str, body: &str) -> Vec<u8> {
    wat(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write"
                (func $fd_write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
            {declarations}
            (memory (export "memory") 1)
            (func $say (param $fd i32) (param $at i32) (param $len i32)
                (i32.store (i32.const 0) (local.get $at))
                (i32.store (i32.const 4) (local.get $len))
                (drop (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
            (func $main (export "_start") {body}))"#
    ))
}

/// Says `hello` to both streams.
pub fn hello() -> Vec<u8> {
    module(
        r#"(data (i32.const 16) "hello\n")"#,
        "(call $say (i32.const 1) (i32.const 16) (i32.const 6))
         (call $say (i32.const 2) (i32.const 16) (i32.const 5))",
    )
}

/// Exits with `code`.
pub fn exits(code: i32) -> Vec<u8> {
    module("", &format!("(call $proc_exit (i32.const {code}))"))
}

/// Writes `times` pages of `x` to its standard output, then `end` to its error.
pub fn writes_pages(times: u32) -> Vec<u8> {
    let body = format!(
        "(local $left i32)
         (local.set $left (i32.const {times}))
         (memory.fill (i32.const 4096) (i32.const 120) (i32.const 4096))
         (loop $again
             (call $say (i32.const 1) (i32.const 4096) (i32.const 4096))
             (br_if $again
                 (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
         (call $say (i32.const 2) (i32.const 16) (i32.const 3))"
    );
    module(r#"(data (i32.const 16) "end")"#, &body)
}

/// Says so, then never ends.
pub fn spins() -> Vec<u8> {
    module(
        r#"(data (i32.const 16) "spin\n")"#,
        "(call $say (i32.const 1) (i32.const 16) (i32.const 5)) (loop $again (br $again))",
    )
}

/// Loops so often.
pub fn works(turns: u32) -> Vec<u8> {
    module(
        "",
        &format!(
            "(local $left i32)
             (local.set $left (i32.const {turns}))
             (loop $again
                 (br_if $again
                     (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))"
        ),
    )
}

/// Says so, then waits for an hour.
pub fn sleeps() -> Vec<u8> {
    waits("(call $say (i32.const 1) (i32.const 16) (i32.const 6))")
}

/// Waits for an hour.
pub fn sleeps_silently() -> Vec<u8> {
    waits("")
}

/// Waits for an hour after `before`.
fn waits(before: &str) -> Vec<u8> {
    // One subscription to the monotonic clock: tag 0, clock 1, nanoseconds.
    let declarations = r#"
        (import "wasi_snapshot_preview1" "poll_oneoff"
            (func $poll (param i32 i32 i32 i32) (result i32)))
        (data (i32.const 16) "sleep\n")"#;
    let wait = "
        (i32.store (i32.const 80) (i32.const 1))
        (i64.store (i32.const 88) (i64.const 3600000000000))
        (drop (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 256)))";
    module(declarations, &format!("{before} {wait}"))
}

/// A `wasi:cli/command` component that says `hello from p2` and answers
/// `result`: 0 for good, 1 for bad.
pub fn component(result: u32) -> Vec<u8> {
    component_saying("hello from p2\\n", 14, result)
}

/// One that says `text`, of so many bytes.
pub fn component_saying(text: &str, len: u32, result: u32) -> Vec<u8> {
    wat(&format!(
        r#"(component $C
            (import "wasi:io/error@0.2.0" (instance $errors (export "error" (type (sub resource)))))
            (alias export $errors "error" (type $error))
            (import "wasi:io/streams@0.2.0" (instance $streams
                (export "output-stream" (type $stream (sub resource)))
                (alias outer $C $error (type $outer-error))
                (export "error" (type $e (eq $outer-error)))
                (type $own-error (own $e))
                (type $failure (variant (case "last-operation-failed" $own-error) (case "closed")))
                (export "stream-error" (type $stream-error (eq $failure)))
                (type $self (borrow $stream))
                (type $bytes (list u8))
                (type $written (result (error $stream-error)))
                (export "[method]output-stream.blocking-write-and-flush"
                    (func (param "self" $self) (param "contents" $bytes) (result $written)))))
            (alias export $streams "output-stream" (type $output-stream))
            (import "wasi:cli/stdout@0.2.0" (instance $stdout
                (alias outer $C $output-stream (type $outer-stream))
                (export "output-stream" (type $stream (eq $outer-stream)))
                (export "get-stdout" (func (result (own $stream))))))
            (core module $memory (memory (export "memory") 1))
            (core instance $memory (instantiate $memory))
            (alias core export $memory "memory" (core memory $shared))
            (core func $get (canon lower (func $stdout "get-stdout")))
            (core func $write (canon lower
                (func $streams "[method]output-stream.blocking-write-and-flush")
                (memory $shared)))
            (core module $main
                (import "host" "get" (func $get (result i32)))
                (import "host" "write" (func $write (param i32 i32 i32 i32)))
                (import "memory" "memory" (memory 1))
                (data (i32.const 64) "{text}")
                (func (export "run") (result i32)
                    (call $write (call $get) (i32.const 64) (i32.const {len}) (i32.const 0))
                    (i32.const {result})))
            (core instance $main (instantiate $main
                (with "host" (instance
                    (export "get" (func $get)) (export "write" (func $write))))
                (with "memory" (instance $memory))))
            (func $run (result (result)) (canon lift (core func $main "run")))
            (instance $run (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $run)))"#
    ))
}

/// The `wasi:http` service of `guests/service.wat`.
pub fn service() -> Vec<u8> {
    static SERVICE: LazyLock<Vec<u8>> =
        LazyLock::new(|| componentize(&wat(include_str!("guests/service.wat")), "service"));
    SERVICE.clone()
}

/// A `wasi:cli/command` component that waits for an hour.
pub fn component_that_sleeps() -> Vec<u8> {
    let module = r#"(module
        (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration"
            (func $after (param i64) (result i32)))
        (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
        (memory (export "memory") 1)
        (func (export "wasi:cli/run@0.2.0#run") (result i32)
            (call $block (call $after (i64.const 3600000000000)))
            (i32.const 0)))"#;
    componentize(&wat(module), "sleeper")
}

/// A `wasi:cli/command` component that writes pages into a file of its first folder, with a stream
/// or without. It succeeds when it is told before a mebibyte that there is no space.
pub fn component_that_fills_its_disk(by_stream: bool) -> Vec<u8> {
    let text = include_str!("guests/filler.wat");
    let way = if by_stream { "$by-stream" } else { "$by-write" };
    componentize(&wat(&text.replace("$way", way)), "filler")
}

/// A `wasi:cli/command` component that finds that no file goes from its volume into its sandbox; then
/// `file` of the volume is `moved` there.
pub fn component_that_moves_files() -> Vec<u8> {
    componentize(&wat(include_str!("guests/mover.wat")), "filler")
}

/// A service whose requests each write into a file of their own for as long as there is room.
pub fn filling_service() -> Vec<u8> {
    componentize(
        &wat(include_str!("guests/filling-service.wat")),
        "filling-service",
    )
}

/// Makes a component of a module that is made for this world of `guests/worlds.wit`.
fn componentize(module: &[u8], world: &str) -> Vec<u8> {
    let mut module = module.to_vec();
    let mut resolve = Resolve::default();
    let package = resolve.push_str("worlds.wit", include_str!("guests/worlds.wit"));
    let world = resolve.select_world(&[package.unwrap()], Some(world));
    embed_component_metadata(&mut module, &resolve, world.unwrap(), StringEncoding::UTF8).unwrap();
    let encoder = ComponentEncoder::default().validate(true);
    encoder.module(&module).unwrap().encode().unwrap()
}
