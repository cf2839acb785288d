//! How soon WebAssembly tasks start, how many end in a second, how little they take while they wait.
//!
//! `cargo bench -p tepui-executor --bench wasm [-- ROW…]` prints a line `name value unit` a number.
//! The bench is the agent of real executors, as the tests are, and keeps machine code on disk for
//! them.

#![allow(
    clippy::disallowed_methods,
    dead_code,
    reason = "it measures real processes, with parts of the tests"
)]

#[path = "../tests/it/env.rs"]
mod env;
#[path = "../tests/it/programs.rs"]
mod programs;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::time::{Duration, Instant, SystemTime};

use env::{Builder, Executor};
use tepui_executor::protocol::{FrameBuffer, encode};
use tepui_types::wire::executor::{FromExecutor, TaskUpdate, ToExecutor};
use tepui_types::{Bytes, MilliCpus, TaskState};

/// Launches of which the time to the first instruction is taken.
const STARTS: usize = 3_000;
/// Tasks whose number a second is taken: some seconds of work.
const SHORT_TASKS: usize = 40_000;
/// Tasks at once: less than one process has places for.
const WINDOW: usize = 1_000;
/// Launches in one write, as an agent under load sends them.
const BATCH: usize = 64;
/// Tasks that wait, and processes that they are in.
const WAITING: usize = 10_000;
const PROCESSES: usize = 5;

/// Rounds of runs with neighbours and without, and what each does: about a second.
const ROUNDS: usize = 9;
const TURNS: u32 = 1_500_000_000;

/// A row of the table: name and measurement.
type Row = (&'static str, fn());

const ROWS: [Row; 6] = [
    ("wasm_first_instruction", first_instruction),
    ("executor_wasm_tasks", module_tasks),
    ("executor_wasm_component_tasks", component_tasks),
    ("idle_10k", idle),
    ("service_requests", service_requests),
    ("neighbour_loss", neighbour_loss),
];

fn main() {
    let arguments = std::env::args().skip(1);
    let chosen: BTreeSet<String> = arguments.filter(|word| !word.starts_with("--")).collect();
    for (name, measure) in ROWS {
        if chosen.is_empty() || chosen.contains(name) {
            measure();
        }
    }
}

fn row(name: &str, value: f64, unit: &str) {
    println!("{name} {value:.2} {unit}");
}

fn executor() -> (tempfile::TempDir, Executor) {
    let code = tempfile::tempdir().unwrap();
    let executor = Executor::wasm_with_code(code.path());
    (code, executor)
}

/// Median and 99th percentile.
fn percentiles(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[values.len() * 99 / 100])
}

/// Writes the time of day, in nanoseconds, before all else.
fn tells_the_time() -> Vec<u8> {
    programs::module(
        r#"(import "wasi_snapshot_preview1" "clock_time_get"
               (func $now (param i32 i64 i32) (result i32)))"#,
        "(drop (call $now (i32.const 0) (i64.const 1) (i32.const 16)))
         (call $say (i32.const 1) (i32.const 16) (i32.const 8))",
    )
}

fn first_instruction() {
    let (_code, mut executor) = executor();
    let program = tells_the_time();
    let mut micros = Vec::new();
    for place in 0..=STARTS {
        let name = format!("t-{place}");
        let builder = Builder::wasm(&name, program.clone()).mem(Bytes::mib(1));
        let launch = ToExecutor::Launch(executor.prepare(builder));
        let frame = encode(&launch).unwrap();
        let mut connection = executor.connection();
        let sent = SystemTime::now();
        connection.write_all(&frame).unwrap();
        let end = executor.end(&name);
        assert_eq!(end.state, TaskState::Finished, "{:?}", end.reason);
        let stdout = executor.written(&name, "stdout").unwrap();
        let began = u64::from_le_bytes(stdout.try_into().unwrap());
        let sent = sent.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let took = Duration::from_nanos(began).saturating_sub(sent);
        // The first one is compiled.
        if place > 0 {
            micros.push(took.as_secs_f64() * 1e6);
        }
        executor.send(&ToExecutor::Forget(env::task(&name)));
    }
    let (median, p99) = percentiles(micros);
    row("wasm_first_instruction_us", median, "us");
    row("wasm_first_instruction_p99_us", p99, "us");
}

fn module_tasks() {
    let text = "x".repeat(99);
    let program = programs::module(
        &format!(r#"(data (i32.const 16) "{text}\n")"#),
        "(call $say (i32.const 1) (i32.const 16) (i32.const 100))",
    );
    row("executor_wasm_tasks_per_s", tasks_a_second(&program), "1/s");
}

fn component_tasks() {
    let text = format!("{}\\n", "x".repeat(99));
    let program = programs::component_saying(&text, 100, 0);
    let rate = tasks_a_second(&program);
    row("executor_wasm_component_tasks_per_s", rate, "1/s");
}

/// Launches a window of tasks, and another for each that ends.
fn tasks_a_second(program: &[u8]) -> f64 {
    let (_code, mut executor) = executor();
    executor.launch(Builder::wasm("warm", program.to_vec()));
    assert_eq!(executor.end("warm").state, TaskState::Finished);
    let template = executor.prepare(Builder::wasm("t-0", program.to_vec()).mem(Bytes::mib(1)));
    let frame = |place: usize| {
        let mut launch = template.clone();
        let name = format!("t-{place}");
        launch.launch.task = env::task(&name);
        let sandbox = executor.task_dir(&name).join("sandbox");
        launch.sandbox = sandbox.to_str().unwrap().to_owned();
        encode(&ToExecutor::Launch(launch)).unwrap()
    };
    let mut connection = executor.connection();
    let (mut launched, mut ended, mut due) = (0, 0, WINDOW);
    let (mut buffer, mut outgoing) = (FrameBuffer::default(), Vec::new());
    let mut bytes = vec![0; 64 * 1024];
    let started = Instant::now();
    while ended < SHORT_TASKS {
        if due >= BATCH || ended + BATCH >= launched {
            let more = due.min(SHORT_TASKS - launched);
            for place in launched..launched + more {
                outgoing.extend(frame(place));
            }
            (launched, due) = (launched + more, 0);
            connection.write_all(&outgoing).unwrap();
            outgoing.clear();
        }
        let count = connection.read(&mut bytes).unwrap();
        assert!(count > 0, "the executor hung up");
        buffer.extend(&bytes[..count]);
        while let Some(FromExecutor::Update(update)) = buffer.next_frame().unwrap() {
            if update.state.is_terminal() {
                assert_eq!(update.state, TaskState::Finished, "{:?}", update.reason);
                outgoing.extend(encode(&ToExecutor::Forget(update.task)).unwrap());
                (ended, due) = (ended + 1, due + 1);
            }
        }
    }
    SHORT_TASKS as f64 / started.elapsed().as_secs_f64()
}

fn idle() {
    let code = tempfile::tempdir().unwrap();
    let program = programs::component_that_sleeps();
    let mut executors = Vec::new();
    for process in 0..PROCESSES {
        let mut executor = Executor::wasm_with_code(code.path());
        let tasks = WAITING / PROCESSES;
        for place in 0..tasks {
            let name = format!("t-{process}-{place}");
            executor.launch(Builder::wasm(&name, program.clone()).mem(Bytes::mib(1)));
        }
        let mut running = 0;
        while running < tasks {
            let TaskUpdate { state, reason, .. } = executor.update();
            assert_eq!(state, TaskState::Running, "{reason:?}");
            running += 1;
        }
        executors.push(executor);
    }
    // All that will be touched is touched when they have become quiet.
    let mut before = u64::MAX;
    loop {
        let total = executors.iter().map(pss_kib).sum();
        if total == before {
            break;
        }
        before = total;
        // sleep: between two looks at how much it is.
        std::thread::sleep(Duration::from_secs(1));
    }
    row("idle_10k_mib", before as f64 / 1024.0, "MiB");
}

/// Kibibytes of memory that are the executor's alone, and its share of what is shared.
fn pss_kib(executor: &Executor) -> u64 {
    let path = format!("/proc/{}/smaps_rollup", executor.identity.pid);
    let text = fs::read_to_string(path).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let value = line.and_then(|line| line.split_whitespace().next());
    value.unwrap().parse().unwrap()
}

fn service_requests() {
    const REQUESTS: usize = 20_000;
    const CLIENTS: usize = 4;
    let (_code, mut executor) = executor();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    executor.launch(Builder::wasm("web", programs::service()).port(port));
    assert_eq!(executor.update().state, TaskState::Running);
    let started = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| std::thread::spawn(move || ask(port, REQUESTS / CLIENTS)))
        .collect();
    let micros = clients
        .into_iter()
        .flat_map(|client| client.join().unwrap());
    let (median, p99) = percentiles(micros.collect());
    let rate = REQUESTS as f64 / started.elapsed().as_secs_f64();
    row("service_requests_per_s", rate, "1/s");
    row("service_request_us", median, "us");
    row("service_request_p99_us", p99, "us");
}

/// Asks on one connection, so many times; microseconds of each.
fn ask(port: u16, times: usize) -> Vec<f64> {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut bytes = [0; 4_096];
    let mut took = Vec::new();
    for _ in 0..times {
        let started = Instant::now();
        let request = b"GET /hello HTTP/1.1\r\nhost: web\r\n\r\n";
        stream.write_all(request).unwrap();
        let mut len = 0;
        while !bytes[..len].ends_with(b"0\r\n\r\n") {
            let count = stream.read(&mut bytes[len..]).unwrap();
            assert!(count > 0, "hung up");
            len += count;
        }
        took.push(started.elapsed().as_secs_f64() * 1e6);
    }
    took
}

/// What a spinning neighbour on each processor costs a task that has a whole one; and what it loses
/// where no neighbour is in its executor, but processes that are nobody's keep the other processors busy:
/// that much is the machine's.
fn neighbour_loss() {
    let (_code, mut executor) = executor();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let (mut alone, mut busy, mut beside) = (Vec::new(), Vec::new(), Vec::new());
    work(&mut executor, "warm");
    for round in 0..ROUNDS {
        alone.push(work(&mut executor, &format!("alone-{round}")));
        let others: Vec<_> = (1..processors).map(|_| Spinning::start()).collect();
        busy.push(work(&mut executor, &format!("busy-{round}")));
        drop(others);
        let spin = |place: usize| format!("spin-{round}-{place}");
        let share = MilliCpus(1000 * (processors as u64 - 1) / processors as u64);
        for place in 0..processors {
            executor.launch(Builder::wasm(&spin(place), programs::spins()).cpus(share));
            env::eventually("it spins", || {
                executor.output(&spin(place), "stdout") == "spin\n"
            });
        }
        beside.push(work(&mut executor, &format!("beside-{round}")));
        for place in 0..processors {
            executor.kill(&spin(place), 0);
            executor.end(&spin(place));
        }
    }
    let [alone, busy, beside] = [alone, busy, beside].map(|seconds| percentiles(seconds).0);
    row(
        "neighbour_loss_percent",
        100.0 * (1.0 - alone / beside),
        "%",
    );
    row(
        "busy_machine_loss_percent",
        100.0 * (1.0 - alone / busy),
        "%",
    );
}

/// A process that spins, until it is dropped.
struct Spinning(std::process::Child);

impl Spinning {
    fn start() -> Self {
        let mut command = std::process::Command::new("sh");
        Self(command.args(["-c", "while :; do :; done"]).spawn().unwrap())
    }
}

impl Drop for Spinning {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Seconds that a task takes for its work.
fn work(executor: &mut Executor, name: &str) -> f64 {
    let builder = Builder::wasm(name, programs::works(TURNS)).cpus(MilliCpus(1000));
    let started = Instant::now();
    executor.launch(builder);
    let end = executor.end(name);
    assert_eq!(end.state, TaskState::Finished, "{:?}", end.reason);
    started.elapsed().as_secs_f64()
}
