//! `cargo xtask vm [FILTER…]`: tests of what a host's kernel seldom has, in a virtual machine.
//!
//! Hosts often have cgroup v1 controllers, and a machine has one kind alone; their disks have no
//! project quotas. So a small virtual machine under software emulation (no KVM is needed) boots
//! Debian's cloud kernel from a disk that holds busybox, the test binaries of some crates ([`SUITES`])
//! and what these run, runs the tests and powers off. Nothing may be skipped in there for want of
//! cgroups or disks. Called by `cargo xtask test` as well. All of it lies in `tools/vm` of the target
//! folder; of the kernel nothing is installed into the host, and QEMU ends with this process, however
//! that ends.

mod console;
mod disk;
mod kernel;
mod machine;
mod suite;

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;
use crate::{say, setup};
use suite::Suite;

/// Set to `1`, `cargo xtask test` says that it leaves this out, and does.
pub const SKIP: &str = "TEPUI_SKIP_VM";

/// What says something about cgroups and disks; emulation is too slow for all the rest.
const SUITES: [Suite; 2] = [
    Suite {
        folder: "executor",
        filters: &[
            "native_limits::",
            "native::",
            "shares::",
            "groups::",
            "restarts::",
            "lifecycle::",
            "containers::",
            "userns::",
            "device",
        ],
    },
    Suite {
        folder: "quota",
        filters: &[],
    },
];

/// Boots the virtual machine and runs those tests in it that the filters name.
pub fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let debug = arguments.iter().any(|argument| argument == "--debug");
    let given = arguments.iter().filter(|argument| *argument != "--debug");
    let filters: Vec<&str> = given.map(String::as_str).collect();
    if let Some(bad) = filters.iter().find(|filter| !is_filter(filter)) {
        bail!("`vm` takes --debug and parts of tests' names, but was given `{bad}`");
    }
    if std::env::consts::ARCH != "x86_64" {
        say::note("skipped: the tests in a virtual machine need an x86_64 machine");
        return Ok(());
    }
    setup::ensure(&setup::VM)?;
    let folder = workspace.tools().join("vm");
    let kernel = kernel::ensure(&folder.join("kernel"))?;
    let compiled = suite::build(workspace, &SUITES, debug)?;
    let chosen = compiled.choose(&filters)?;
    let image = say::step("making the virtual machine's disk", || {
        disk::make(&folder, &kernel, &compiled.programs, &chosen)
    })?;
    let log = folder.join("console.log");
    let names: Vec<&str> = chosen.iter().map(|tests| tests.suite.folder).collect();
    let title = format!("running tests of {} in it", names.join(" and "));
    let summary = say::step(&title, || {
        machine::run(&kernel.image, &image, &log)?;
        verdict_of(&log, &names)
    });
    // It is as large as what was compiled, and is made anew each time.
    let _ = std::fs::remove_file(&image);
    for result in summary? {
        say::note(&result);
    }
    Ok(())
}

fn verdict_of(log: &Path, suites: &[&str]) -> Result<Vec<String>> {
    let bytes = std::fs::read(log).with_context(|| format!("failed to read {}", log.display()))?;
    let text = String::from_utf8_lossy(&bytes).replace('\r', "");
    console::verdict(&text, suites).map_err(|why| {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parts_of_names_reach_the_shell() {
        let mut filters = SUITES.iter().flat_map(|suite| suite.filters);
        assert!(filters.all(|filter| is_filter(filter)));
        for word in ["", "a b", "$(reboot)", "--nocapture"] {
            assert!(!is_filter(word), "{word}");
        }
    }
}
