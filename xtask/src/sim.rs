//! `cargo xtask sim --seeds N [--from S]`: builds what the simulation needs, then runs `tepui-sim`.
//!
//! All arguments go to `tepui-sim`, which prints for each seed that fails the line that repeats it.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace::Workspace;
use crate::{build, process, tasks};

/// Builds and becomes `tepui-sim`; returns only on an error.
pub fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    build::everything(workspace, tasks::C::IfCompilerPresent)?;
    let mut sim = Command::new(workspace.release().join("tepui-sim"));
    sim.args(arguments);
    let error = sim.exec();
    Err(error).with_context(|| format!("failed to start `{}`", process::line(&sim)))
}
