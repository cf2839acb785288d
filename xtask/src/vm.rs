//! `cargo xtask vm [FILTER…]`: the native executor's tests where cgroup v2 is the only hierarchy.
//!
//! Hosts of tests often have v1 controllers, and a machine has one kind alone. So a small virtual
//! machine under software emulation (no KVM is needed) boots Debian's cloud kernel from a disk that
//! holds busybox, the executor and its test binary, runs the tests and powers off. Called by
//! `cargo xtask test` as well. All of it lies in `tools/vm` of the target folder; nothing but QEMU is
//! installed into the host, and QEMU ends with this process, however that ends.

mod console;
mod disk;
mod kernel;
mod machine;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::workspace::{HOST_PACKAGES, Workspace};
use crate::{process, say, setup};

/// Set to `1`, `cargo xtask test` says that it leaves this out, and does.
pub const SKIP: &str = "TEPUI_SKIP_VM";

/// What says something about cgroups; emulation is too slow for all the rest.
const FILTERS: [&str; 8] = [
    "native_limits::",
    "native::",
    "shares::",
    "groups::",
    "restarts::",
    "lifecycle::",
    "containers::",
    "device",
];

/// What cargo compiled of the executor.
#[derive(Debug, PartialEq)]
struct Binaries {
    tests: PathBuf,
    /// Where the tests look for the executors: the same path in the virtual machine.
    executors: Vec<PathBuf>,
}

/// Boots the virtual machine and runs those of the executor's tests that the filters name.
pub fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let debug = arguments.iter().any(|argument| argument == "--debug");
    let given = arguments.iter().filter(|argument| *argument != "--debug");
    let mut filters: Vec<&str> = given.map(String::as_str).collect();
    if let Some(bad) = filters.iter().find(|filter| !is_filter(filter)) {
        bail!("`vm` takes --debug and parts of tests' names, but was given `{bad}`");
    }
    if filters.is_empty() {
        filters = FILTERS.to_vec();
    }
    if std::env::consts::ARCH != "x86_64" {
        say::note("skipped: the tests with cgroup v2 alone need an x86_64 machine");
        return Ok(());
    }
    setup::ensure(&setup::VM)?;
    let folder = workspace.tools().join("vm");
    let kernel = kernel::ensure(&folder.join("kernel"))?;
    let binaries = build(workspace, debug)?;
    let image = say::step("making the virtual machine's disk", || {
        disk::make(&folder, workspace, &kernel, &binaries, &filters)
    })?;
    let log = folder.join("console.log");
    let summary = say::step("running the executor's tests with cgroup v2 alone", || {
        machine::run(&kernel.image, &image, &log)?;
        verdict_of(&log)
    });
    // It is as large as what was compiled, and is made anew each time.
    let _ = std::fs::remove_file(&image);
    say::note(&summary?);
    Ok(())
}

fn verdict_of(log: &Path) -> Result<String> {
    let bytes = std::fs::read(log).with_context(|| format!("failed to read {}", log.display()))?;
    let text = String::from_utf8_lossy(&bytes).replace('\r', "");
    console::verdict(&text).map_err(|why| {
        eprintln!("{}", console::report(&text));
        anyhow::anyhow!(
            "{why}: the virtual machine's console is in {}",
            log.display()
        )
    })
}

/// Whether it can stand in a shell script as it is.
fn is_filter(word: &str) -> bool {
    let part_of_path = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    !word.is_empty() && word.chars().all(part_of_path)
}

/// Compiles what `cargo xtask test` has compiled, or the executor alone without optimisations.
fn build(workspace: &Workspace, debug: bool) -> Result<Binaries> {
    say::step("building the executor's tests", || {
        let mut cargo = workspace.cargo();
        cargo.args([
            "test",
            "--no-run",
            "--message-format=json-render-diagnostics",
        ]);
        match debug {
            true => cargo.args(["--package", "tepui-executor"]),
            false => cargo.arg("--release").args(HOST_PACKAGES),
        };
        let output = cargo
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("failed to start `{}`", process::line(&cargo)))?;
        if !output.status.success() {
            bail!("`{}` failed ({})", process::line(&cargo), output.status);
        }
        let messages = String::from_utf8_lossy(&output.stdout);
        let found = |source: &str| {
            let source = workspace.root.join("executor").join(source);
            executable(&messages, &source)
                .with_context(|| format!("cargo compiled no program of {}", source.display()))
        };
        let executors = ["src/bin/task.rs", "src/bin/wasm.rs"].map(found);
        Ok(Binaries {
            tests: found("tests/it/main.rs")?,
            executors: executors.into_iter().collect::<Result<_>>()?,
        })
    })
}

/// The program that cargo's messages say was made of a source file. A binary is named twice: as
/// itself, and as a test of itself, which lies in `deps`.
fn executable(messages: &str, source: &Path) -> Option<PathBuf> {
    let made_of_it = format!("\"src_path\":\"{}\"", source.display());
    let is_tests = source.ends_with("tests/it/main.rs");
    let mut programs = messages
        .lines()
        .filter(|line| line.contains(&made_of_it))
        .filter_map(|line| {
            let (_, rest) = line.split_once("\"executable\":\"")?;
            Some(PathBuf::from(rest.split_once('"')?.0))
        });
    let in_deps = |program: &PathBuf| program.parent().is_some_and(|p| p.ends_with("deps"));
    programs.find(|program| in_deps(program) == is_tests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"src_path":"/w/executor/src/bin/task.rs"},"executable":"/t/debug/deps/task-1"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"src_path":"/w/executor/src/bin/task.rs"},"executable":"/t/debug/task"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"src_path":"/w/executor/tests/it/main.rs"},"executable":"/t/debug/deps/it-2"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"src_path":"/w/executor/src/lib.rs"},"executable":null}"#,
        );
        let found = |source: &str| executable(messages, Path::new(source));
        assert_eq!(
            found("/w/executor/src/bin/task.rs"),
            Some("/t/debug/task".into())
        );
        assert_eq!(
            found("/w/executor/tests/it/main.rs"),
            Some("/t/debug/deps/it-2".into())
        );
        assert_eq!(found("/w/executor/src/lib.rs"), None);
    }

    #[test]
    fn only_parts_of_names_reach_the_shell() {
        assert!(FILTERS.iter().all(|filter| is_filter(filter)));
        for word in ["", "a b", "$(reboot)", "--nocapture"] {
            assert!(!is_filter(word), "{word}");
        }
    }
}
