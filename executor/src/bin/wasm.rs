//! `tepui-executor-wasm`: runs the WebAssembly tasks of one trust domain.
//!
//! Many tasks share the process, its compiled programs and its threads; each
//! has a store of its own. It is started by an agent and outlives it; see
//! [`tepui_executor::startup`]. Guests run on a runtime of their own, so that
//! none of them holds up the agent's connection.

use std::process::ExitCode;

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tepui_executor::log;
use tepui_executor::startup::{self, Startup};
use tracing_subscriber::EnvFilter;

#[path = "../wasm/agent.rs"]
mod agent;
#[path = "../wasm/code_cache.rs"]
mod code_cache;
#[path = "../wasm/command.rs"]
mod command;
#[path = "../wasm/compiler.rs"]
mod compiler;
#[path = "../wasm/component_files.rs"]
mod component_files;
#[path = "../wasm/cpu.rs"]
mod cpu;
#[path = "../wasm/disk.rs"]
mod disk;
#[path = "../wasm/engine.rs"]
mod engine;
#[path = "../wasm/files.rs"]
mod files;
#[path = "../wasm/gate.rs"]
mod gate;
#[path = "../wasm/guest.rs"]
mod guest;
#[path = "../wasm/host.rs"]
mod host;
#[path = "../wasm/kill.rs"]
mod kill;
#[path = "../wasm/limits.rs"]
mod limits;
#[path = "../wasm/line.rs"]
mod line;
#[path = "../wasm/machine_code.rs"]
mod machine_code;
#[path = "../wasm/meter.rs"]
mod meter;
#[path = "../wasm/module_files.rs"]
mod module_files;
#[path = "../wasm/network.rs"]
mod network;
#[path = "../wasm/outgoing.rs"]
mod outgoing;
#[path = "../wasm/output.rs"]
mod output;
#[path = "../wasm/program.rs"]
mod program;
#[path = "../wasm/programs.rs"]
mod programs;
#[path = "../wasm/request.rs"]
mod request;
#[path = "../wasm/server.rs"]
mod server;
#[path = "../wasm/service.rs"]
mod service;
#[path = "../wasm/share.rs"]
mod share;
#[path = "../wasm/task.rs"]
mod task;
#[path = "../wasm/throttle.rs"]
mod throttle;
#[path = "../wasm/tls.rs"]
mod tls;
#[path = "../wasm/verdict.rs"]
mod verdict;

/// What is logged where nobody says: not what guests do wrong in their HTTP, which they are told.
const LOG: &str = "info,wasmtime_wasi_http=error";
/// Between two looks of a guest thread at timers and sockets, in polls. At
/// tokio's default of 61, guests that spin held up a timer for 0.6 s.
const GUEST_EVENT_INTERVAL: u32 = 1;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let ended = match arguments.next() {
        Some(first) if first == compiler::ARGUMENT => compiler::run(arguments),
        // SAFETY: nothing before this has started a thread.
        _ => unsafe { startup::detach() }
            .map_err(anyhow::Error::from)
            .and_then(run)
            .map(|()| ExitCode::SUCCESS),
    };
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tepui-executor-wasm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(startup: Startup) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_env("TEPUI_LOG").unwrap_or_else(|_| EnvFilter::new(LOG));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(log::stderr)
        // Its log is a file of the agent's.
        .with_ansi(false)
        .init();
    raise_file_limit();
    let guests = tokio::runtime::Builder::new_multi_thread()
        .thread_name("guest")
        .event_interval(GUEST_EVENT_INTERVAL)
        .enable_all()
        .build()
        .context("failed to start the guests' threads")?;
    let control = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the control thread")?;
    let result = control.block_on(server::serve(startup, guests.handle().clone()));
    // A guest in the middle of a blocking call would hold up the end.
    guests.shutdown_background();
    result
}

/// Each task with files has two descriptors at least.
fn raise_file_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // The soft limit stays as it is then, and a task that is refused says so.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
