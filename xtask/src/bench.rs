//! `cargo xtask bench NAME`: builds what the cluster needs, then runs `tepui-bench`.
//!
//! The measured binaries are the ones that `up` and `test` use. All arguments go to `tepui-bench`,
//! which knows the benchmarks, prints the table and writes the JSON file.

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
    build::everything(workspace, tasks::C::IfCompilerPresent)?;
    let mut bench = Command::new(workspace.release().join("tepui-bench"));
    bench.args(arguments);
    let error = bench.exec();
    Err(error).with_context(|| format!("failed to start `{}`", process::line(&bench)))
}
