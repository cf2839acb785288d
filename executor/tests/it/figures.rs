//! Figures for people: run with `--ignored --nocapture figures`. Nothing here
//! is asserted, since machines differ.

use std::fs;
use std::time::{Duration, Instant};

use tepui_types::wire::executor::ToExecutor;
use tepui_types::{Bytes, TaskState};

use crate::env::{Builder, Executor, task};
use crate::programs;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Proportional set size of a process, in KiB.
fn pss_kib(pid: i32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
#[ignore = "prints figures"]
fn figures_of_wasm() {
    let started = Instant::now();
    let mut executor = Executor::wasm();
    println!("start of the executor: {:?}", started.elapsed());
    println!("idle executor: {} KiB PSS", pss_kib(executor.identity.pid));
    for (kind, program) in [
        ("module, silent", programs::exits(0)),
        ("module, two outputs", programs::hello()),
        ("component, one output", programs::component(0)),
    ] {
        let kind_name = kind.split([',', ' ']).collect::<String>();
        let times = (0..300).map(|round| {
            let name = format!("{kind_name}-{round}");
            let started = Instant::now();
            executor.launch(Builder::wasm(&name, program.clone()));
            executor.end(&name);
            let time = started.elapsed();
            executor.send(&ToExecutor::Forget(task(&name)));
            time
        });
        println!("one warm {kind}: {:?}", median(times.skip(20).collect()));
        const COUNT: usize = 2_000;
        let started = Instant::now();
        for round in 0..COUNT {
            let name = format!("{kind_name}-many-{round}");
            executor.launch(Builder::wasm(&name, program.clone()).mem(Bytes::mib(1)));
        }
        let mut ended = 0;
        while ended < COUNT {
            let update = executor.update();
            if update.state.is_terminal() {
                ended += 1;
                executor.send(&ToExecutor::Forget(update.task));
            }
        }
        println!("{COUNT} of {kind}: {:?}", started.elapsed());
    }
    println!("after all: {} KiB PSS", pss_kib(executor.identity.pid));
}

#[test]
#[ignore = "prints figures"]
fn figures_of_native() {
    let mut times = Vec::new();
    for _ in 0..50 {
        let started = Instant::now();
        let mut executor = Executor::native();
        executor.launch(Builder::command("t", &["true"]));
        executor.end("t");
        times.push(started.elapsed());
    }
    println!("one native command with its executor: {:?}", median(times));
    let mut executor = Executor::native();
    executor.launch(Builder::command("t", &["sleep", "1000"]));
    assert_eq!(executor.update().state, TaskState::Running);
    println!("its executor: {} KiB PSS", pss_kib(executor.identity.pid));
    executor.kill("t", 0);
    executor.end("t");
}
