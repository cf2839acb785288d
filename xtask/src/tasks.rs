//! The example tasks in `examples/tasks`, which the README and the tests run.
//!
//! Each Rust program is built twice: as a wasi:cli component, `release/tasks/<name>.wasm`, and as
//! a core module of preview 1, `<name>-p1.wasm`. The C program is a core module too. They form a
//! workspace of their own, so that nothing ever builds them for the host.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace::{Workspace, copy_if_changed};
use crate::{process, say};

/// What to do about the C program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum C {
    /// Build it if clang is there, else say that it was left out.
    IfCompilerPresent,
    /// Build it; without clang that is an error.
    Required,
}

/// The targets, and what a program's name ends with when built for it.
const TARGETS: [(&str, &str); 2] = [("wasm32-wasip2", ""), ("wasm32-wasip1", "-p1")];
const CLANG: &str = "clang-19";

/// Builds the example tasks.
pub fn build(workspace: &Workspace, c: C) -> Result<()> {
    let folder = workspace.root.join("examples/tasks");
    say::step("building the example tasks", || {
        for (target, suffix) in TARGETS {
            build_rust(workspace, &folder, target, suffix)?;
        }
        if c == C::IfCompilerPresent && !process::exists(CLANG) {
            say::note(
                "hello-c is left out: it wants clang-19, lld-19, libclang-rt-19-dev-wasm32 and wasi-libc",
            );
            return Ok(());
        }
        build_c(&folder, &workspace.tasks().join("hello-c.wasm"))
    })
}

fn build_rust(workspace: &Workspace, folder: &Path, target: &str, suffix: &str) -> Result<()> {
    let built = workspace.tools().join("tasks");
    let mut cargo = workspace.cargo_at(folder, &built);
    process::run(cargo.args(["build", "--release", "--locked", "--target", target]))?;
    let programs = folder.join("src/bin");
    for entry in std::fs::read_dir(&programs)
        .with_context(|| format!("failed to list {}", programs.display()))?
    {
        let source = entry?.path();
        let Some(name) = source.file_stem().map(|stem| stem.to_string_lossy()) else {
            continue;
        };
        copy_if_changed(
            &built
                .join(target)
                .join("release")
                .join(format!("{name}.wasm")),
            &workspace.tasks().join(format!("{name}{suffix}.wasm")),
        )?;
    }
    Ok(())
}

fn build_c(folder: &Path, program: &Path) -> Result<()> {
    let source = folder.join("c/hello.c");
    if newer(program, &source) {
        return Ok(());
    }
    process::run(
        Command::new(CLANG)
            .args([
                "--target=wasm32-wasi",
                "-Os",
                "-Wl,--strip-all",
                "-Wall",
                "-Werror",
                "-o",
            ])
            .arg(program)
            .arg(&source),
    )
}

fn newer(result: &Path, source: &Path) -> bool {
    let changed = |path: &Path| path.metadata().and_then(|metadata| metadata.modified());
    matches!((changed(result), changed(source)), (Ok(result), Ok(source)) if result > source)
}
