//! How WebAssembly tasks share the processors: by what they were charged, not by how fast they were.

use std::time::{Duration, Instant};

use tepui_executor::usage;
use tepui_types::{MilliCpus, TaskState};

use crate::env::{Builder, Executor, check, eventually, task};
use crate::programs;

/// Turns that a program's loop takes in about a second.
const WORK: u32 = 1_500_000_000;

/// Asks for the time until so much of it is over.
fn asks_for(time: Duration) -> Vec<u8> {
    programs::module(
        r#"(import "wasi_snapshot_preview1" "clock_time_get"
               (func $now (param i32 i64 i32) (result i32)))"#,
        &format!(
            "(local $end i64)
             (drop (call $now (i32.const 1) (i64.const 1) (i32.const 16)))
             (local.set $end (i64.add (i64.load (i32.const 16)) (i64.const {})))
             (loop $again
                 (drop (call $now (i32.const 1) (i64.const 1) (i32.const 16)))
                 (br_if $again (i64.lt_u (i64.load (i32.const 16)) (local.get $end))))",
            time.as_nanos()
        ),
    )
}

#[test]
fn a_task_that_asked_for_no_cpus_stays_below_what_it_gets_even_in_host_calls() {
    let mut executor = Executor::wasm();
    let program = asks_for(Duration::from_secs(1));
    let started = Instant::now();
    executor.launch(Builder::wasm("few", program).cpus(MilliCpus(0)));
    let end = executor.end("few");
    check(&end, "finished", "", Some(0), "");
    let used = Duration::from_micros(end.usage.unwrap().cpu_micros);
    // A tenth of the time, what was saved up, and a turn that a busy machine made long.
    let most = started.elapsed() / 10 + Duration::from_millis(100);
    assert!(used < most, "{used:?} of {most:?}");
}

#[test]
fn tasks_beyond_their_guarantee_give_way_to_one_within() {
    const NEIGHBOURS: usize = 32;
    let mut executor = Executor::wasm();
    let name = |place: usize| format!("spin-{place}");
    for place in 0..NEIGHBOURS {
        let builder = Builder::wasm(&name(place), programs::spins());
        executor.launch(builder.cpus(MilliCpus(10)));
    }
    eventually("all spin", || {
        (0..NEIGHBOURS).all(|place| executor.output(&name(place), "stdout") == "spin\n")
    });
    executor.launch(Builder::wasm("within", programs::works(WORK)).cpus(MilliCpus(1000)));
    let end = executor.end("within");
    check(&end, "finished", "", Some(0), "");
    let within = end.usage.unwrap().cpu_micros;
    for place in 0..NEIGHBOURS {
        executor.kill(&name(place), 0);
    }
    let mut neighbours = Vec::new();
    while neighbours.len() < NEIGHBOURS {
        let update = executor.update();
        if update.state == TaskState::Killed {
            neighbours.push(update.usage.unwrap().cpu_micros);
        }
    }
    // By turns, each would have had as much as the one in its time.
    let most = neighbours.iter().max().unwrap();
    assert!(*most < within / 2, "{neighbours:?} beside {within}");
}

#[test]
fn what_programs_use_is_told_while_they_run_and_of_no_others() {
    let mut executor = Executor::wasm();
    for name in ["spin", "asked-for", "ended"] {
        let program = match name {
            "ended" => programs::hello(),
            _ => programs::spins(),
        };
        executor.launch(Builder::wasm(name, program));
    }
    executor.end("ended");
    let wanted = ["asked-for", "ended", "unknown"];
    eventually("it has used something", || {
        let told = executor.measure(&wanted);
        let is_told = told.iter().any(|it| it.usage.cpu_micros > 0);
        assert!(
            told.iter().all(|it| it.task == task("asked-for")),
            "{told:?}"
        );
        is_told
    });
    let told = executor.measure(&["asked-for"]).remove(0);
    assert_eq!(
        (told.mem_bytes, told.usage.mem_peak_bytes),
        (65_536, 65_536)
    );
    let later = executor.measure(&["asked-for"]).remove(0);
    assert!(later.usage.cpu_micros >= told.usage.cpu_micros);
    executor.kill("asked-for", 0);
    let end = executor.end("asked-for").usage.unwrap();
    assert!(end.cpu_micros >= later.usage.cpu_micros);
    assert_eq!(executor.measure(&["asked-for"]), []);
    executor.kill("spin", 0);
}

#[test]
fn what_programs_have_used_is_noted_at_short_intervals() {
    let mut executor = Executor::wasm();
    executor.launch(Builder::wasm("spin", programs::spins()));
    let dir = executor.dir();
    let noted = || {
        let known = usage::read(&dir).unwrap();
        known.used.get(&task("spin")).copied().unwrap_or_default()
    };
    eventually("it is noted", || noted().cpu_micros > 0);
    let first = noted();
    eventually("and again", || noted().cpu_micros > first.cpu_micros);
    assert_eq!(noted().mem_peak_bytes, 65_536);
    executor.kill("spin", 0);
    executor.end("spin");
}
