//! The test binaries that run in the virtual machine: one for each crate whose tests want it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace::{HOST_PACKAGES, Workspace};
use crate::{process, say};

/// The source of every crate's one binary of integration tests.
const TESTS: &str = "tests/it/main.rs";
/// Programs that tests start, by their sources: the executors.
const PROGRAMS: [&str; 2] = ["executor/src/bin/task.rs", "executor/src/bin/wasm.rs"];

/// Some tests of one crate.
#[derive(Debug)]
pub struct Suite {
    /// The crate's folder; its package is named like it.
    pub folder: &'static str,
    /// Which of its tests run when nobody names any; none is all of them.
    pub filters: &'static [&'static str],
}

/// What cargo compiled of the suites.
#[derive(Debug)]
pub struct Compiled {
    tests: Vec<Tests>,
    /// Where the tests look for them: the same path in the virtual machine.
    pub programs: Vec<PathBuf>,
}

/// The compiled tests of a suite.
#[derive(Debug)]
struct Tests {
    suite: &'static Suite,
    program: PathBuf,
    /// The crate's folder in the checkout, where its tests run.
    at: PathBuf,
}

/// What of a suite is to run.
#[derive(Debug)]
pub struct Chosen<'a> {
    pub suite: &'static Suite,
    pub program: &'a Path,
    /// The folder in which it runs.
    pub at: &'a Path,
    pub filters: Vec<&'a str>,
}

/// Compiles what `cargo xtask test` has compiled, or these crates alone without optimisations.
pub fn build(workspace: &Workspace, suites: &'static [Suite], debug: bool) -> Result<Compiled> {
    say::step("building the tests for the virtual machine", || {
        let mut cargo = workspace.cargo();
        cargo.args([
            "test",
            "--no-run",
            "--message-format=json-render-diagnostics",
        ]);
        match debug {
            true => cargo.args(
                suites
                    .iter()
                    .map(|it| format!("--package=tepui-{}", it.folder)),
            ),
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
        let found = |source: &Path| {
            executable(&messages, source)
                .with_context(|| format!("cargo compiled no program of {}", source.display()))
        };
        let tests = suites.iter().map(|suite| {
            let at = workspace.root.join(suite.folder);
            let program = found(&at.join(TESTS))?;
            Ok(Tests { suite, program, at })
        });
        let programs = PROGRAMS.map(|source| found(&workspace.root.join(source)));
        Ok(Compiled {
            tests: tests.collect::<Result<_>>()?,
            programs: programs.into_iter().collect::<Result<_>>()?,
        })
    })
}

impl Compiled {
    /// The suites with tests that these filters name, each with the filters; without any, all of them with
    /// their own.
    pub fn choose<'a>(&'a self, given: &[&'a str]) -> Result<Vec<Chosen<'a>>> {
        let mut chosen = Vec::new();
        for tests in &self.tests {
            let filters = match given {
                [] => tests.suite.filters.to_vec(),
                given => given.to_vec(),
            };
            if given.is_empty() || has_tests(&tests.program, &filters)? {
                chosen.push(Chosen {
                    suite: tests.suite,
                    program: &tests.program,
                    at: &tests.at,
                    filters,
                });
            }
        }
        if chosen.is_empty() {
            bail!("no test has such a name: {}", given.join(" "));
        }
        Ok(chosen)
    }
}

/// Whether a test binary has tests that one of these filters names; it lists them on the host.
fn has_tests(program: &Path, filters: &[&str]) -> Result<bool> {
    let listed = process::output(Command::new(program).arg("--list").args(filters))?;
    Ok(listed.lines().any(|line| line.ends_with(": test")))
}

/// The program that cargo's messages say was made of a source file. A binary is named twice: as
/// itself, and as a test of itself, which lies in `deps`.
fn executable(messages: &str, source: &Path) -> Option<PathBuf> {
    let made_of_it = format!("\"src_path\":\"{}\"", source.display());
    let is_tests = source.ends_with(TESTS);
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
}
