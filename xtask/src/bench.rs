//! `cargo xtask bench NAME`: builds what the cluster needs, then runs `tepui-bench`.
//!
//! The measured binaries are the ones that `up` and `test` use. All arguments go to `tepui-bench`,
//! which knows the benchmarks, prints the table and writes the JSON file. The allocator's is a bench
//! of the pure crate, so that it is built in seconds.

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
    if arguments[0] == "allocator" {
        return allocator(workspace, &arguments[1..]);
    }
    build::everything(workspace, tasks::C::IfCompilerPresent)?;
    let mut bench = Command::new(workspace.release().join("tepui-bench"));
    bench.args(arguments);
    let error = bench.exec();
    Err(error).with_context(|| format!("failed to start `{}`", process::line(&bench)))
}

/// Builds and becomes the allocator's benchmark; returns only on an error.
fn allocator(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let mut bench = workspace.cargo();
    // The whole workspace, so that its features are those of every other build.
    bench.args(["bench", "--workspace", "--bench", "allocator", "--"]);
    let mut is_path = false;
    for argument in arguments {
        // Cargo runs benches in their package's folder.
        match is_path {
            true => bench.arg(std::path::absolute(argument)?),
            false => bench.arg(argument),
        };
        is_path = argument == "--json";
    }
    let error = bench.exec();
    Err(error).with_context(|| format!("failed to start `{}`", process::line(&bench)))
}
