//! What an agent adds to its executors: how soon a task runs, how many run a second, what the agent
//! and its executors cost at rest. The binaries are real, and the master is reduced to its wire.
//!
//!     cargo bench -p tepui-agent --bench agent [-- ROW]
//!
//! Sandboxes lie below `$TMPDIR`; how fast folders are made there is a large part of what many short
//! tasks cost.

#[path = "../tests/it/master.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod master;
#[path = "../tests/it/process.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod process;

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use master::{FakeMaster, Session, shell, wasm};
use process::AgentProcess;
use tepui_types::wire::agent::{AgentEffect, AgentFrame, MasterFrame, TaskLaunch};
use tepui_types::{Bytes, Digest, MilliCpus, TaskState};
use tokio::time::Instant;

/// Until caches are warm and the executor of this trust domain runs.
const WARM_UP: usize = 50;
const STARTS: usize = 1_000;
/// Short tasks, and how many of them are under way at a time.
const SHORT_TASKS: usize = 20_000;
const WINDOW: usize = 2_000;
/// Launches in one frame.
const BATCH: usize = 250;
/// Tasks of each kind that wait.
const RESTING: usize = 500;
/// Until what their start sets off is over, and how long is measured.
const SETTLE: Duration = Duration::from_secs(15);
const SPAN: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_secs(10);

fn main() {
    let arguments = std::env::args().skip(1);
    let chosen: BTreeSet<String> = arguments.filter(|word| !word.starts_with("--")).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let wants = |name: &str| chosen.is_empty() || chosen.contains(name);
    if wants("wasm_end_to_end") {
        runtime.block_on(end_to_end());
    }
    if wants("wasm_tasks") {
        runtime.block_on(short_tasks());
    }
    if wants("idle_cpu") {
        runtime.block_on(at_rest());
    }
}

fn row(name: &str, value: f64, unit: &str) {
    println!("{name} {value:.2} {unit}");
}

/// Median and 99th percentile.
fn percentiles(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[values.len() * 99 / 100])
}

/// A core module whose `_start` is `body`.
fn module(data: &str, body: &str) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write"
                (func $fd_write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "clock_time_get"
                (func $now (param i32 i64 i32) (result i32)))
            (import "wasi_snapshot_preview1" "poll_oneoff"
                (func $poll (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            {data}
            (func $say (param $len i32)
                (i32.store (i32.const 0) (i32.const 16))
                (i32.store (i32.const 4) (local.get $len))
                (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
            (func (export "_start") {body}))"#
    ))
    .unwrap()
}

/// Writes the time of day, in nanoseconds, before all else.
fn tells_the_time() -> Vec<u8> {
    module(
        "",
        "(drop (call $now (i32.const 0) (i64.const 1) (i32.const 16))) (call $say (i32.const 8))",
    )
}

/// Writes a hundred bytes.
fn says_a_line() -> Vec<u8> {
    let line = "x".repeat(99);
    module(
        &format!(r#"(data (i32.const 16) "{line}\n")"#),
        "(call $say (i32.const 100))",
    )
}

/// Waits for eleven days.
fn waits() -> Vec<u8> {
    module(
        "",
        "(i32.store (i32.const 80) (i32.const 1))
         (i64.store (i32.const 88) (i64.const 1000000000000000))
         (drop (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 256)))",
    )
}

async fn end_to_end() {
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let program = master.add_artifact(&tells_the_time());
    let mut session = master.session().await;
    let mut micros = Vec::new();
    for place in 0..WARM_UP + STARTS {
        let launch = small(&format!("t-{place}"), program);
        #[expect(
            clippy::disallowed_methods,
            reason = "the program tells the time of day"
        )]
        let sent = SystemTime::now();
        session.launch(&launch).await;
        session.until(&launch.task, TaskState::Finished).await;
        let stdout = agent.written(&launch.task);
        let began = Duration::from_nanos(u64::from_le_bytes(stdout.try_into().unwrap()));
        let sent = sent.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        if place >= WARM_UP {
            micros.push(began.saturating_sub(sent).as_secs_f64() * 1e6);
        }
    }
    let (median, p99) = percentiles(micros);
    row("wasm_end_to_end_us", median, "us");
    row("wasm_end_to_end_p99_us", p99, "us");
}

async fn short_tasks() {
    let mut master = FakeMaster::start().await;
    let _agent = AgentProcess::start(&master);
    let program = master.add_artifact(&says_a_line());
    let mut session = master.session().await;
    run(&mut session, program, "warm", WINDOW).await;
    let begun = Instant::now();
    run(&mut session, program, "t", SHORT_TASKS).await;
    let rate = SHORT_TASKS as f64 / begun.elapsed().as_secs_f64();
    row("wasm_tasks_per_s", rate, "1/s");
}

/// Runs so many tasks, a window of them at a time.
async fn run(session: &mut Session, program: Digest, name: &str, count: usize) {
    let (mut launched, mut ended) = (0, 0);
    while ended < count {
        while launched < count && launched - ended + BATCH <= WINDOW {
            let more = BATCH.min(count - launched);
            let launch = |place| small(&format!("{name}-{place}"), program);
            let launches = (launched..launched + more).map(launch);
            let effects = launches.map(|launch| AgentEffect::Launch(Box::new(launch)));
            session.effects(effects.collect()).await;
            launched += more;
        }
        let reports = match session.next().await {
            AgentFrame::Statuses(reports) => reports,
            AgentFrame::Heartbeat(_) => {
                session.send(MasterFrame::Heartbeat).await;
                continue;
            }
            _ => continue,
        };
        let ends = reports.iter().filter(|report| report.state.is_terminal());
        ended += ends
            .inspect(|report| assert_eq!(report.state, TaskState::Finished, "{report:?}"))
            .count();
        let recorded = reports
            .into_iter()
            .map(|report| (report.task, report.state));
        session
            .send(MasterFrame::Recorded(recorded.collect()))
            .await;
    }
}

async fn at_rest() {
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let program = master.add_artifact(&waits());
    let mut session = master.session().await;
    let sleep = |place| shell(&format!("n-{place}"), "exec sleep 1000000");
    let wait = |place| small(&format!("w-{place}"), program);
    let mut launches: Vec<TaskLaunch> = (0..RESTING).map(sleep).collect();
    launches.extend((0..RESTING).map(wait));
    // As many at a time as machines of two processors start within the time of a test.
    for some in launches.chunks(50) {
        let effects = some.iter().cloned().map(Box::new).map(AgentEffect::Launch);
        session.effects(effects.collect()).await;
        for launch in some {
            session.until(&launch.task, TaskState::Running).await;
        }
    }
    rest(&mut session, SETTLE).await;
    let pids = || {
        let executors = agent.executors();
        let executors = executors.iter().map(|executor| executor.pid);
        executors.chain([agent.pid().as_raw()]).collect::<Vec<_>>()
    };
    let of_agent = [agent.pid().as_raw()];
    let (begun, before, alone) = (Instant::now(), ticks(&pids()), ticks(&of_agent));
    rest(&mut session, SPAN).await;
    let span = begun.elapsed().as_secs_f64();
    // A tick is a hundredth of a second.
    row("idle_cpu_percent", (ticks(&pids()) - before) / span, "%");
    row(
        "idle_cpu_of_agent_percent",
        (ticks(&of_agent) - alone) / span,
        "%",
    );
}

/// Lets so much time pass with the session alive, which waits for nothing longer than a test does.
async fn rest(session: &mut Session, span: Duration) {
    let until = Instant::now() + span;
    while Instant::now() < until {
        let step = (Instant::now() + STEP).min(until);
        // sleep: what rests is what is measured.
        session.meanwhile(tokio::time::sleep_until(step)).await;
    }
}

/// What these processes have run, in ticks.
fn ticks(pids: &[i32]) -> f64 {
    let of = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        // Fields 14 and 15 of proc_pid_stat(5); the first here is field 3.
        let fields = fields.split_ascii_whitespace().skip(11).take(2);
        fields
            .map(|ticks| ticks.parse::<f64>().unwrap())
            .sum::<f64>()
    };
    pids.iter().map(of).sum()
}

/// A WebAssembly task that asks for little, so that many fit.
fn small(name: &str, program: Digest) -> TaskLaunch {
    let mut launch = wasm(name, program);
    launch.resources.cpus = MilliCpus(10);
    launch.resources.mem = Bytes::mib(1);
    launch
}
