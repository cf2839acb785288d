//! `cargo xtask bench NAME`: builds what the cluster needs, then runs `tepui-bench`.
//!
//! The measured binaries are the ones that `up` and `test` use. All arguments go to `tepui-bench`,
//! which knows the benchmarks, prints the table and writes the JSON file. Those of the
//! allocator are benches of the pure crate, so that they are built in seconds. `agent` has rows
//! besides that are benches of the agent and of its executors, which speak to them as their tests do.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;
use crate::{build, process, tasks};

/// Builds and becomes `tepui-bench`; returns only on an error.
pub fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    if arguments.is_empty() {
        bail!("`bench` wants the name of a benchmark, for example: cargo xtask bench path");
    }
    if ["allocator", "packing"].contains(&arguments[0].as_str()) {
        return pure(workspace, &arguments[0], &arguments[1..]);
    }
    build::everything(workspace, tasks::C::IfCompilerPresent)?;
    let mut bench = Command::new(workspace.release().join("tepui-bench"));
    bench.args(arguments);
    if arguments[0] == "agent" {
        process::run(&mut bench)?;
        let mut beside = workspace.cargo();
        beside.args([
            "bench",
            "--workspace",
            "--bench",
            "agent",
            "--bench",
            "wasm",
        ]);
        return process::run(&mut beside);
    }
    let error = bench.exec();
    Err(error).with_context(|| format!("failed to start `{}`", process::line(&bench)))
}

/// Builds and becomes a benchmark of the pure crates; returns only on an error.
fn pure(workspace: &Workspace, name: &str, arguments: &[String]) -> Result<()> {
    let mut bench = workspace.cargo();
    // The whole workspace, so that its features are those of every other build.
    bench.args(["bench", "--workspace", "--bench", name, "--"]);
    for argument in arguments {
        // Cargo runs benches in their package's folder, so files are named from the root.
        let path = std::path::Path::new(argument);
        let is_path = path.components().count() > 1 || path.exists() || argument.ends_with(".json");
        match is_path {
            true => bench.arg(std::path::absolute(path)?),
            false => bench.arg(argument),
        };
    }
    let error = bench.exec();
    Err(error).with_context(|| format!("failed to start `{}`", process::line(&bench)))
}
