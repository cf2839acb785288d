//! The host binaries, and everything that `up`, `test` and `bench` need before they start.
//!
//! Always the release profile and always the same package selection: the second of two commands
//! compiles no dependency again.

use anyhow::Result;

use crate::workspace::{HOST_PACKAGES, Workspace};
use crate::{guests, process, say, setup, tasks, wasm_target, web};

/// Installs what the build needs, then builds dashboard, guests and host binaries.
pub fn everything(workspace: &Workspace, c: tasks::C) -> Result<()> {
    setup::ensure(&setup::BUILD)?;
    wasm_target::ensure(workspace)?;
    // The master embeds the dashboard, so the dashboard comes first.
    web::build(workspace)?;
    guests::build(workspace)?;
    tasks::build(workspace, c)?;
    host(workspace)
}

/// Builds the host binaries into `release/` of the target folder.
pub fn host(workspace: &Workspace) -> Result<()> {
    let first_time = !workspace.release().join("tepui-master").exists();
    let what = if first_time {
        "building the host binaries (RocksDB and wasmtime take 10 to 20 minutes the first time)"
    } else {
        "building the host binaries"
    };
    say::step(what, || {
        process::run(
            workspace
                .cargo()
                .args(["build", "--release"])
                .args(HOST_PACKAGES),
        )
    })
}
