//! `cargo xtask test [FILTER]`: from a fresh machine to every test run.
//!
//! Installs what the tests need beyond `up` (a browser, a C compiler for WebAssembly), checks
//! formatting and house rules, builds everything, runs `cargo test`, and then the executor's tests
//! once more in a virtual machine ([`crate::vm`]). The exit code is that of the tests; a failed check
//! fails the whole all the same, but does not keep the tests from running.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::workspace::{HOST_PACKAGES, Workspace};
use crate::{build, process, say, setup, tasks, tidy, vm};

/// Packages outside the main workspace, which `cargo fmt --all` does not see.
const OWN_WORKSPACES: [&str; 2] = ["examples/tasks", "xtask/web-bindgen"];

/// Installs, checks, builds and tests.
pub fn run(workspace: &Workspace, filter: &[String]) -> Result<ExitCode> {
    setup::ensure(&[setup::BUILD.as_slice(), setup::TEST.as_slice()].concat())?;
    let tidy = tidy::run(workspace);
    let format = check_format(workspace);
    build::everything(workspace, tasks::C::Required)?;
    let status = say::step("running the tests", || {
        let mut cargo = workspace.cargo();
        cargo.args(["test", "--release", "--no-fail-fast"]);
        cargo.args(HOST_PACKAGES).args(filter);
        cargo
            .status()
            .with_context(|| format!("failed to start `{}`", process::line(&cargo)))
    })?;
    let vm = virtual_machine(workspace, filter);
    // Said last, where they are seen.
    for failed in [tidy, format, vm].into_iter().filter_map(Result::err) {
        say::error(&format!("{failed:#}"));
        if status.success() {
            return Ok(ExitCode::FAILURE);
        }
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}

/// The tests that say something of cgroup v2, where it is alone; who asked for some tests by name gets
/// those only.
fn virtual_machine(workspace: &Workspace, filter: &[String]) -> Result<()> {
    if std::env::var_os(vm::SKIP).is_some_and(|value| value == "1") {
        say::note(&format!(
            "skipped, for {} is 1: the tests with cgroup v2 alone",
            vm::SKIP
        ));
        return Ok(());
    }
    match filter {
        [] => vm::run(workspace, &[]),
        _ => Ok(()),
    }
}

fn check_format(workspace: &Workspace) -> Result<()> {
    say::step("checking the format", || {
        let main = ["."].iter().chain(&OWN_WORKSPACES);
        for folder in main.map(Path::new) {
            let folder = workspace.root.join(folder);
            let mut cargo = workspace.cargo_at(&folder, &workspace.target);
            process::run(cargo.args(["fmt", "--all", "--check"])).context(
                "the code is not formatted; `cargo fmt --all` in that folder formats it",
            )?;
        }
        Ok(())
    })
}
