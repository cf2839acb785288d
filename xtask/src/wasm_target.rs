//! Rust's standard library for the WebAssembly targets.
//!
//! `ensure` is called before anything is built for WebAssembly. A probe decides: a program that
//! prints a HashMap is compiled and linked for each target. Where that fails, rustup is asked
//! first; where rustup's server cannot be reached, `wasm_std` builds the library from Debian's
//! sources. The probe has the last word both times.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;
use crate::{process, say, wasm_std};

/// The targets: frameworks and dashboard, wasi:cli components, core modules of preview 1.
pub const TARGETS: [&str; 3] = ["wasm32-unknown-unknown", "wasm32-wasip2", "wasm32-wasip1"];

/// How long rustup may stand still before it is given up.
const RUSTUP_QUIET: Duration = Duration::from_secs(30);

const PROBE: &str = r#"
use std::collections::HashMap;
fn main() {
    println!("{:?}", HashMap::from([(1, "one")]));
}
"#;

/// Makes sure that programs can be compiled and linked for every target.
pub fn ensure(workspace: &Workspace) -> Result<()> {
    let missing = missing(workspace)?;
    if missing.is_empty() {
        return Ok(());
    }
    forget_builds(workspace, &missing)?;
    let targets = missing.join(", ");
    let from_rustup = say::step(
        &format!("asking rustup for the standard library of {targets}"),
        || add_by_rustup(&missing),
    );
    let missing = self::missing(workspace)?;
    if missing.is_empty() {
        return Ok(());
    }
    if let Err(error) = from_rustup {
        say::note(&format!("rustup could not: {error:#}"));
    }
    say::step(
        "building that standard library from Debian's sources (about 2 minutes, once)",
        || wasm_std::install(workspace, &missing),
    )
    .with_context(|| {
        format!(
            "no standard library for {}. With a network that reaches rustup's server this is \
             enough:\n\n    rustup target add {}\n",
            missing.join(", "),
            missing.join(" ")
        )
    })?;
    let missing = self::missing(workspace)?;
    if !missing.is_empty() {
        bail!(
            "the standard library was put in place, and yet nothing links for {}",
            missing.join(", ")
        );
    }
    Ok(())
}

/// Removes what was built for these targets before: it was compiled against a standard library that
/// is gone, and cargo, which looks at the compiler's version only, would not see that.
fn forget_builds(workspace: &Workspace, targets: &[&str]) -> Result<()> {
    for target in targets {
        for folder in [&workspace.target, &workspace.tools().join("tasks")] {
            let built = folder.join(target);
            if built.exists() {
                std::fs::remove_dir_all(&built)
                    .with_context(|| format!("failed to remove {}", built.display()))?;
            }
        }
    }
    Ok(())
}

/// The toolchain's folder, with its libraries under `lib/rustlib`.
pub fn sysroot(workspace: &Workspace) -> Result<PathBuf> {
    let mut rustc = rustc(workspace);
    Ok(process::output(rustc.args(["--print", "sysroot"]))?.into())
}

/// The compiler's version: `1.95.0`.
pub fn rustc_version(workspace: &Workspace) -> Result<String> {
    let line = process::output(rustc(workspace).arg("--version"))?;
    line.split_whitespace()
        .nth(1)
        .map(str::to_string)
        .with_context(|| format!("rustc calls itself `{line}`"))
}

fn rustc(workspace: &Workspace) -> Command {
    let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.current_dir(&workspace.root);
    command
}

fn missing(workspace: &Workspace) -> Result<Vec<&'static str>> {
    let folder = workspace.tools().join("wasm-probe");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("failed to create {}", folder.display()))?;
    let source = folder.join("probe.rs");
    std::fs::write(&source, PROBE)?;
    let works = |target: &&str| probe(workspace, &folder, &source, target);
    Ok(TARGETS
        .into_iter()
        .filter(|target| !works(target))
        .collect())
}

fn probe(workspace: &Workspace, folder: &Path, source: &Path, target: &str) -> bool {
    let program = folder.join(format!("{target}.wasm"));
    let compiled = rustc(workspace)
        .args(["--edition=2024", "--target", target, "-o"])
        .arg(&program)
        .arg(source)
        .output();
    compiled.is_ok_and(|output| output.status.success())
}

fn add_by_rustup(targets: &[&str]) -> Result<()> {
    if !process::exists("rustup") {
        bail!("there is no rustup on PATH");
    }
    let home = std::env::var_os("RUSTUP_HOME").map_or_else(
        || std::env::home_dir().unwrap_or_default().join(".rustup"),
        PathBuf::from,
    );
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "add"]).args(targets);
    rustup.env("RUSTUP_MAX_RETRIES", "1");
    process::run_while_moving(&mut rustup, RUSTUP_QUIET, || {
        bytes_below(&home.join("downloads")) + bytes_below(&home.join("tmp"))
    })
}

/// The size of everything below a folder: how far a download has come.
fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}
