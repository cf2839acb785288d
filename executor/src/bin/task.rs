//! `tepui-executor-task`: runs native commands of one trust domain, one after another, or the
//! containers of one task.
//!
//! It has one thread, so that it may fork freely and stays small. It is started
//! by an agent and outlives it; see [`tepui_executor::startup`]. Neither tokio
//! nor wasmtime is linked.

#![expect(
    clippy::disallowed_methods,
    reason = "one thread and its poll: there is no tokio"
)]

use std::process::ExitCode;

use tepui_executor::startup::{self, Startup};

#[path = "../task/attempt.rs"]
mod attempt;
#[path = "../task/beside.rs"]
mod beside;
#[path = "../task/callers.rs"]
mod callers;
#[path = "../task/cast.rs"]
mod cast;
#[path = "../task/command.rs"]
mod command;
#[path = "../task/connection.rs"]
mod connection;
#[path = "../task/container.rs"]
mod container;
#[path = "../task/container/devices.rs"]
mod devices;
#[path = "../task/container/files.rs"]
mod files;
#[path = "../task/folder.rs"]
mod folder;
#[path = "../task/fullness.rs"]
mod fullness;
#[path = "../task/group.rs"]
mod group;
#[path = "../task/container/hooks.rs"]
mod hooks;
#[path = "../task/container/idmapped.rs"]
mod idmapped;
#[path = "../task/input.rs"]
mod input;
#[path = "../task/latest.rs"]
mod latest;
#[path = "../task/container/limits.rs"]
mod limits;
#[path = "../task/lookup.rs"]
mod lookup;
#[path = "../task/member.rs"]
mod member;
#[path = "../task/outputs.rs"]
mod outputs;
#[path = "../task/container/places.rs"]
mod places;
#[path = "../task/process.rs"]
mod process;
#[path = "../task/processes.rs"]
mod processes;
#[path = "../task/container/program.rs"]
mod program;
#[path = "../task/container/root.rs"]
mod root;
#[path = "../task/container/runtime.rs"]
mod runtime;
#[path = "../task/server.rs"]
mod server;
#[path = "../task/share.rs"]
mod share;
#[path = "../task/container/shared.rs"]
mod shared;
#[path = "../task/container/signals.rs"]
mod signals;
#[path = "../task/container/sources.rs"]
mod sources;
#[path = "../task/spare.rs"]
mod spare;
#[path = "../task/container/spec.rs"]
mod spec;
#[path = "../task/stdio.rs"]
mod stdio;
#[path = "../task/supervision.rs"]
mod supervision;
#[path = "../task/task.rs"]
mod task;
#[path = "../task/container/tenant.rs"]
mod tenant;
#[path = "../task/container/userns.rs"]
mod userns;
#[path = "../task/container/users.rs"]
mod users;
#[path = "../task/verdict.rs"]
mod verdict;

fn main() -> ExitCode {
    // SAFETY: nothing before this has started a thread.
    match unsafe { startup::detach() }
        .map_err(anyhow::Error::from)
        .and_then(run)
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tepui-executor-task: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(startup: Startup) -> anyhow::Result<()> {
    server::Server::new(startup)?.run()
}
