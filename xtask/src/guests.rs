//! The frameworks in `examples/frameworks`, as plain modules for wasm32-unknown-unknown.
//!
//! A folder is a framework and gives it its name. The master turns the module into a component
//! itself, so what cargo builds is what one deploys: `release/frameworks/<name>.wasm`, where `tepui
//! dev` finds what is built in. Those to copy, and those that only the tests deploy, lie apart.

use std::path::Path;

use anyhow::{Context, Result};

use crate::workspace::{Workspace, copy_if_changed};
use crate::{process, say};

const TARGET: &str = "wasm32-unknown-unknown";

/// Where frameworks are, and where below `release` they are built to.
const FOLDERS: [(&str, &str); 2] = [
    ("examples/frameworks", "example-frameworks"),
    ("tests/frameworks", "test-frameworks"),
];
/// Those that every cluster is to have.
const BUILT_IN: [&str; 1] = ["batch"];
const BUILT_IN_FOLDER: &str = "frameworks";

struct Framework {
    /// Where it is built to, below `release`.
    folder: &'static str,
    /// The folder's name, and the name it is deployed by.
    name: String,
    /// The package's name, which cargo wants.
    package: String,
}

/// Builds every framework and copies it to where `tepui dev` and the tests look.
pub fn build(workspace: &Workspace) -> Result<()> {
    let mut frameworks = Vec::new();
    for (sources, folder) in FOLDERS {
        frameworks.extend(list(&workspace.root.join(sources), folder)?);
    }
    say::step("building the frameworks", || {
        let mut cargo = workspace.cargo();
        cargo.args(["build", "--profile", "guest", "--target", TARGET, "--lib"]);
        for framework in &frameworks {
            cargo.args(["--package", &framework.package]);
        }
        process::run(&mut cargo)?;
        let built = workspace.target.join(TARGET).join("guest");
        for framework in &frameworks {
            let module = framework.package.replace('-', "_");
            copy_if_changed(
                &built.join(format!("{module}.wasm")),
                &workspace
                    .release()
                    .join(framework.folder)
                    .join(format!("{}.wasm", framework.name)),
            )?;
        }
        Ok(())
    })
}

fn list(folder: &Path, built: &'static str) -> Result<Vec<Framework>> {
    let mut frameworks = Vec::new();
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("failed to list {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let manifest = path.join("Cargo.toml");
        let (Some(name), true) = (path.file_name(), manifest.is_file()) else {
            continue;
        };
        let name = name.to_string_lossy().into_owned();
        frameworks.push(Framework {
            folder: match BUILT_IN.contains(&name.as_str()) {
                true => BUILT_IN_FOLDER,
                false => built,
            },
            name,
            package: package_name(&manifest)?,
        });
    }
    frameworks.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(frameworks)
}

/// The package's name: the first `name` key, which cargo's own layout puts under `[package]`.
fn package_name(manifest: &Path) -> Result<String> {
    let text = std::fs::read_to_string(manifest)
        .with_context(|| format!("failed to read {}", manifest.display()))?;
    text.lines()
        .filter_map(|line| line.split_once('='))
        .find(|(key, _)| key.trim() == "name")
        .map(|(_, value)| value.trim().trim_matches('"').to_string())
        .with_context(|| format!("{} names no package", manifest.display()))
}
