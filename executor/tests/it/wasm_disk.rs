//! WebAssembly tasks whose sandbox has a limit.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::thread;

use tepui_types::{Bytes, TaskState};

use crate::env::{Builder, DEADLINE, Executor, check};
use crate::programs;
use crate::services::free_port;

const LIMIT: Bytes = Bytes(256 * 1024);
/// More pages than the limit, and fewer.
const MANY: u32 = 128;
const FEW: u32 = 32;
/// `nospc` of preview 1.
const NOSPC: i32 = 51;
/// Folders of preview 1: the sandbox, and the first volume.
const SANDBOX: u32 = 3;
const VOLUME: u32 = 5;

/// What the files of preview 1 need, and functions that give error numbers.
const FILES: &str = r#"
    (import "wasi_snapshot_preview1" "path_open"
        (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_unlink_file"
        (func $unlink (param i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_create_directory"
        (func $make (param i32 i32 i32) (result i32)))
    (data (i32.const 64) "fileelse")
    (func $open (param $folder i32) (param $name i32) (param $how i32) (result i32)
        (call $path_open (local.get $folder) (i32.const 0) (local.get $name) (i32.const 4)
            (local.get $how) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 32)))
    (func $fill (param $file i32) (param $pages i32) (result i32)
        (local $error i32)
        (loop $again
            (i32.store (i32.const 0) (i32.const 4096))
            (i32.store (i32.const 4) (i32.const 4096))
            (local.set $error
                (call $fd_write (local.get $file) (i32.const 0) (i32.const 1) (i32.const 8)))
            (local.set $pages (i32.sub (local.get $pages) (i32.const 1)))
            (br_if $again (i32.and (i32.ne (local.get $pages) (i32.const 0)) (i32.eqz (local.get $error)))))
        (local.get $error))
    (func $expect (param $found i32) (param $expected i32) (param $place i32)
        (if (i32.ne (local.get $found) (local.get $expected))
            (then (call $proc_exit (local.get $place)))))"#;

/// Writes so many pages into `file` of that folder, and exits with the error number.
fn fills(folder: u32, pages: u32) -> Vec<u8> {
    let body = format!(
        "(call $expect (call $open (i32.const {folder}) (i32.const 64) (i32.const 1)) (i32.const 0)
             (i32.const 100))
         (call $proc_exit (call $fill (i32.load (i32.const 32)) (i32.const {pages})))"
    );
    programs::module(FILES, &body)
}

fn file_len(executor: &Executor, name: &str) -> u64 {
    let path = executor.task_dir(name).join("sandbox/file");
    fs::metadata(path).unwrap().len()
}

/// Nearly all of the limit, and no more than it.
#[track_caller]
fn is_full(len: u64) {
    assert!((LIMIT.0 / 2..=LIMIT.0).contains(&len), "{len}");
}

#[test]
fn a_module_that_fills_its_disk_is_told_so_and_its_neighbours_are_not() {
    let mut executor = Executor::wasm();
    executor.launch(Builder::wasm("many", fills(SANDBOX, MANY)).disk(LIMIT));
    check(
        &executor.end("many"),
        "failed",
        "exit-code",
        Some(NOSPC),
        "",
    );
    is_full(file_len(&executor, "many"));
    executor.launch(Builder::wasm("few", fills(SANDBOX, FEW)).disk(LIMIT));
    check(&executor.end("few"), "finished", "", Some(0), "");
    executor.launch(Builder::wasm("unlimited", fills(SANDBOX, MANY)));
    check(&executor.end("unlimited"), "finished", "", Some(0), "");
}

#[test]
fn a_component_that_fills_its_disk_is_told_so_whichever_way_it_writes() {
    let mut executor = Executor::wasm();
    for (name, by_stream) in [("write", false), ("stream", true)] {
        let program = programs::component_that_fills_its_disk(by_stream);
        executor.launch(Builder::wasm(name, program.clone()).disk(LIMIT));
        check(&executor.end(name), "finished", "", Some(0), "");
        is_full(file_len(&executor, name));
        // Without a limit it is not told, and says so.
        let unlimited = format!("{name}-unlimited");
        executor.launch(Builder::wasm(&unlimited, program));
        check(
            &executor.end(&unlimited),
            "failed",
            "exit-code",
            Some(1),
            "",
        );
    }
}

#[test]
fn what_a_program_removes_is_free_again_when_it_is_closed() {
    let body = format!(
        "(local $file i32)
         (call $expect (call $open (i32.const 3) (i32.const 64) (i32.const 1)) (i32.const 0)
             (i32.const 101))
         (local.set $file (i32.load (i32.const 32)))
         (call $expect (call $fill (local.get $file) (i32.const {MANY})) (i32.const {NOSPC})
             (i32.const 102))
         ;; Up to the last block.
         (drop (call $make (i32.const 3) (i32.const 65) (i32.const 3)))
         (drop (call $make (i32.const 3) (i32.const 66) (i32.const 2)))
         (drop (call $make (i32.const 3) (i32.const 67) (i32.const 1)))
         ;; No other file, and the one that is there for all its space.
         (call $expect (call $open (i32.const 3) (i32.const 68) (i32.const 1)) (i32.const {NOSPC})
             (i32.const 103))
         (call $expect (call $make (i32.const 3) (i32.const 68) (i32.const 4)) (i32.const {NOSPC})
             (i32.const 104))
         (call $expect (call $open (i32.const 3) (i32.const 64) (i32.const 1)) (i32.const 0)
             (i32.const 105))
         (call $expect (call $close (i32.load (i32.const 32))) (i32.const 0) (i32.const 106))
         ;; It has no name, and is there all the same.
         (call $expect (call $unlink (i32.const 3) (i32.const 64) (i32.const 4)) (i32.const 0)
             (i32.const 107))
         (call $expect (call $open (i32.const 3) (i32.const 68) (i32.const 1)) (i32.const {NOSPC})
             (i32.const 108))
         (call $expect (call $close (local.get $file)) (i32.const 0) (i32.const 109))
         (call $expect (call $open (i32.const 3) (i32.const 68) (i32.const 1)) (i32.const 0)
             (i32.const 110))
         (call $expect (call $fill (i32.load (i32.const 32)) (i32.const {FEW})) (i32.const 0)
             (i32.const 111))"
    );
    let mut executor = Executor::wasm();
    let program = programs::module(FILES, &body);
    executor.launch(Builder::wasm("t", program).disk(LIMIT));
    check(&executor.end("t"), "finished", "", Some(0), "");
}

#[test]
fn volumes_are_no_part_of_the_sandbox() {
    let mut executor = Executor::wasm();
    let folder = executor.dir().join("volume");
    let builder = Builder::wasm("t", fills(VOLUME, MANY)).disk(LIMIT);
    executor.launch(builder.volume(&folder, "data"));
    check(&executor.end("t"), "finished", "", Some(0), "");
    let len = fs::metadata(folder.join("file")).unwrap().len();
    assert_eq!(len, u64::from(MANY) * 4096);
}

#[test]
fn what_a_module_says_takes_nothing_of_its_disk() {
    // All that it could say is more than its disk has.
    let body = format!(
        "(call $expect (call $fill (i32.const 1) (i32.const {MANY})) (i32.const 0) (i32.const 101))
         (call $expect (call $fill (i32.const 2) (i32.const {MANY})) (i32.const 0) (i32.const 102))
         (call $expect (call $open (i32.const 3) (i32.const 64) (i32.const 1)) (i32.const 0)
             (i32.const 103))
         (call $expect (call $fill (i32.load (i32.const 32)) (i32.const {FEW})) (i32.const 0)
             (i32.const 104))"
    );
    let mut executor = Executor::wasm();
    let program = programs::module(FILES, &body);
    executor.launch(Builder::wasm("t", program).disk(LIMIT));
    check(&executor.end("t"), "finished", "", Some(0), "");
    assert_eq!(
        executor.output("t", "stdout").len() as u64,
        u64::from(MANY) * 4096
    );
    assert_eq!(file_len(&executor, "t"), u64::from(FEW) * 4096);
}

/// What gives files other names.
const NAMES: &str = r#"
    (import "wasi_snapshot_preview1" "path_rename"
        (func $path_rename (param i32 i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_link"
        (func $path_link (param i32 i32 i32 i32 i32 i32 i32) (result i32)))"#;

/// `file` of folder `from` becomes `else` of folder `to`.
const RENAMES: &str = r#"
    (func $rename (param $from i32) (param $to i32) (result i32)
        (call $path_rename (local.get $from) (i32.const 64) (i32.const 4)
            (local.get $to) (i32.const 68) (i32.const 4)))
    (func $link (param $from i32) (param $to i32) (result i32)
        (call $path_link (local.get $from) (i32.const 0) (i32.const 64) (i32.const 4)
            (local.get $to) (i32.const 68) (i32.const 4)))"#;

/// `xdev` of preview 1.
const XDEV: i32 = 75;

#[test]
fn a_module_brings_no_file_from_a_volume_into_the_sandbox_or_back() {
    let make = |folder: u32| {
        format!(
            "(call $expect (call $open (i32.const {folder}) (i32.const 64) (i32.const 1)) (i32.const 0)
                 (i32.const {folder}))"
        )
    };
    let refused = |from: u32, to: u32| {
        let place = 100 + from * 10 + to;
        format!(
            "(call $expect (call $rename (i32.const {from}) (i32.const {to})) (i32.const {XDEV})
                 (i32.const {place}))
             (call $expect (call $link (i32.const {from}) (i32.const {to})) (i32.const {XDEV})
                 (i32.const {place}))"
        )
    };
    // By both of its names a folder is the same place.
    let within = |from: u32, to: u32| {
        let place = 200 + from;
        format!(
            "(call $expect (call $link (i32.const {from}) (i32.const {to})) (i32.const 0)
                 (i32.const {place}))
             (call $expect (call $rename (i32.const {from}) (i32.const {to})) (i32.const 0)
                 (i32.const {place}))"
        )
    };
    let body = [
        make(3),
        make(5),
        refused(5, 3),
        refused(6, 4),
        refused(3, 5),
        refused(5, 7),
        within(3, 4),
        within(5, 6),
    ]
    .concat();
    let program = programs::module(&[NAMES, FILES, RENAMES].concat(), &body);
    let mut executor = Executor::wasm();
    for (name, limit) in [("limited", LIMIT), ("unlimited", Bytes(0))] {
        let one = executor.dir().join(format!("{name}-one"));
        let two = executor.dir().join(format!("{name}-two"));
        let builder = Builder::wasm(name, program.clone()).disk(limit);
        executor.launch(builder.volume(&one, "one").volume(&two, "two"));
        check(&executor.end(name), "finished", "", Some(0), "");
        assert!(one.join("else").exists() && !two.join("else").exists());
        let sandbox = executor.task_dir(name).join("sandbox");
        assert!(sandbox.join("else").exists());
    }
}

#[test]
fn a_component_brings_no_file_from_a_volume_into_the_sandbox_or_back() {
    let mut executor = Executor::wasm();
    let folder = executor.dir().join("volume");
    let program = programs::component_that_moves_files();
    executor.launch(Builder::wasm("t", program).volume(&folder, "data"));
    check(&executor.end("t"), "finished", "", Some(0), "");
    assert!(folder.join("moved").exists() && !folder.join("file").exists());
    let sandbox = executor.task_dir("t").join("sandbox");
    assert!(!sandbox.join("moved").exists() && !sandbox.join("file").exists());
}

#[test]
fn requests_that_write_at_once_do_not_pass_the_limit_together() {
    const REQUESTS: usize = 16;
    let port = free_port();
    let mut executor = Executor::wasm();
    let builder = Builder::wasm("web", programs::filling_service()).disk(LIMIT);
    executor.launch(builder.port(port).options("{}"));
    assert_eq!(executor.update().state, TaskState::Running);
    let ask = || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let head = b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";
        stream.write_all(head).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("returned without an answer"), "{answer}");
    };
    thread::scope(|scope| {
        for _ in 0..REQUESTS {
            scope.spawn(ask);
        }
    });
    let sandbox = executor.task_dir("web").join("sandbox");
    let entries = fs::read_dir(sandbox).unwrap();
    let blocks = entries.map(|entry| entry.unwrap().metadata().unwrap().blocks());
    let used: u64 = blocks.map(|blocks| blocks * 512).sum();
    is_full(used);
}
