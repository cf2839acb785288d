//! The dashboard: from the Leptos crate in `web-ui` to the files that the master embeds.
//!
//! cargo compiles it for the browser, our own small caller of wasm-bindgen's library writes the
//! module and its JavaScript, and binaryen makes it smaller where npm can fetch it. The result is
//! `web-ui/dist`. Nothing there is touched unless its content changes, because the master is built
//! again whenever it does.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::workspace::{Workspace, copy_if_changed, write_if_changed};
use crate::{process, say};

const TARGET: &str = "wasm32-unknown-unknown";
const NAME: &str = "tepui-web";
/// Files of `web-ui/static`, which are served as they are.
const ASSETS: [&str; 4] = ["index.html", "boot.js", "style.css", "icon.svg"];
/// Debian's binaryen (108) corrupts modules of today; this one, from npm, does not.
const BINARYEN: &str = "132.0.0";
/// What rustc and wasm-bindgen use. All of binaryen's features would be too much: it then writes
/// import sections that browsers do not read yet.
const FEATURES: [&str; 6] = [
    "bulk-memory",
    "multivalue",
    "mutable-globals",
    "nontrapping-float-to-int",
    "reference-types",
    "sign-ext",
];
/// Leptos without a type for every view: a quarter less code. Its own switch for this is a `cfg`.
const ERASED: &str = "target.wasm32-unknown-unknown.rustflags=[\"--cfg=erase_components\"]";
const NPM_QUIET: Duration = Duration::from_secs(60);

/// Builds the dashboard into `web-ui/dist`.
pub fn build(workspace: &Workspace) -> Result<()> {
    say::step("building the dashboard", || {
        let mut cargo = workspace.cargo();
        cargo.args(["build", "--profile", "guest", "--target", TARGET]);
        cargo.args(["--config", ERASED]);
        process::run(cargo.args(["--package", NAME]))?;
        let module = workspace
            .target
            .join(TARGET)
            .join("guest")
            .join(format!("{NAME}.wasm"));
        let bindgen = build_bindgen(workspace)?;
        bind(workspace, &module, &bindgen)
    })
}

/// Binds the module, unless what lies in `dist` was made from these very inputs.
fn bind(workspace: &Workspace, module: &Path, bindgen: &Path) -> Result<()> {
    let dist = workspace.root.join("web-ui/dist");
    let wasm_opt = wasm_opt(workspace);
    for asset in ASSETS {
        copy_if_changed(
            &workspace.root.join("web-ui/static").join(asset),
            &dist.join(asset),
        )?;
    }
    let stamp = dist.join(".stamp");
    let inputs = hash_of(
        &[module, bindgen],
        wasm_opt.is_some().then_some(FEATURES.as_slice()),
    )?;
    let outputs = [format!("{NAME}.js"), format!("{NAME}_bg.wasm")];
    let all_there = outputs.iter().all(|name| dist.join(name).is_file());
    if all_there && fs::read_to_string(&stamp).is_ok_and(|present| present == inputs) {
        return Ok(());
    }

    let fresh = workspace.tools().join("web-dist");
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    process::run(Command::new(bindgen).arg(module).arg(&fresh).arg(NAME))?;
    if let Some(wasm_opt) = wasm_opt {
        optimize(&wasm_opt, &fresh.join(format!("{NAME}_bg.wasm")))?;
    }
    for path in files_below(&fresh)? {
        copy_if_changed(&path, &dist.join(path.strip_prefix(&fresh)?))?;
    }
    // What an earlier build left and this one did not make.
    for path in files_below(&dist)? {
        let name = path.strip_prefix(&dist)?;
        let asset = ASSETS.iter().any(|asset| Path::new(asset) == name);
        if !asset && path != stamp && !fresh.join(name).exists() {
            fs::remove_file(&path)?;
        }
    }
    write_if_changed(&stamp, inputs.as_bytes())?;
    Ok(())
}

/// Builds the caller of wasm-bindgen's library; about half a minute, once.
fn build_bindgen(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.root.join("xtask/web-bindgen");
    let ours = locked_version(&workspace.root.join("Cargo.lock"), "wasm-bindgen")?;
    let library = locked_version(&folder.join("Cargo.lock"), "wasm-bindgen-cli-support")?;
    if ours != library {
        bail!(
            "Cargo.lock has wasm-bindgen {ours}, but xtask/web-bindgen has {library}; set the \
             version in xtask/web-bindgen/Cargo.toml to {ours} and run `cargo update` there"
        );
    }
    let target = workspace.tools().join("web-bindgen");
    let mut cargo = workspace.cargo_at(&folder, &target);
    process::run(cargo.args(["build", "--quiet", "--release", "--locked"]))?;
    Ok(target.join("release/tepui-web-bindgen"))
}

fn locked_version(lock: &Path, package: &str) -> Result<String> {
    let text =
        fs::read_to_string(lock).with_context(|| format!("failed to read {}", lock.display()))?;
    let name = format!("name = \"{package}\"");
    text.lines()
        .skip_while(|line| *line != name)
        .find_map(|line| line.strip_prefix("version = "))
        .map(|version| version.trim_matches('"').to_string())
        .with_context(|| format!("{} has no {package}", lock.display()))
}

/// binaryen's `wasm-opt`, if node is here and npm can fetch it. Without it the page is larger and
/// otherwise the same.
fn wasm_opt(workspace: &Workspace) -> Option<PathBuf> {
    let folder = workspace.tools().join(format!("binaryen-{BINARYEN}"));
    let program = folder.join("node_modules/binaryen/bin/wasm-opt");
    if program.is_file() {
        return Some(program);
    }
    if !process::exists("npm") || !process::exists("node") {
        say::note("no npm here: the dashboard is not made smaller by wasm-opt");
        return None;
    }
    let failed = folder.join("failed");
    if failed.exists() {
        say::note(&format!(
            "npm could not fetch binaryen before, so the dashboard is not made smaller; remove {} \
             to try again",
            failed.display()
        ));
        return None;
    }
    let fetched = fs::create_dir_all(&folder)
        .map_err(anyhow::Error::from)
        .and_then(|()| {
            let mut npm = Command::new("npm");
            npm.args([
                "install",
                "--silent",
                "--no-save",
                "--no-fund",
                "--no-audit",
            ]);
            npm.arg("--prefix").arg(&folder);
            npm.arg(format!("binaryen@{BINARYEN}"));
            npm.stdout(Stdio::null());
            process::run_while_moving(&mut npm, NPM_QUIET, || 0)
        });
    match fetched {
        Ok(()) if program.is_file() => Some(program),
        _ => {
            say::note("npm did not get binaryen: the dashboard is not made smaller by wasm-opt");
            // A machine without a network should not wait for npm at every build. Where even the
            // marker cannot be written, it does.
            let _ = fs::write(&failed, "");
            None
        }
    }
}

/// Makes the module smaller, if what comes out is something that an engine of today takes.
fn optimize(wasm_opt: &Path, module: &Path) -> Result<()> {
    let smaller = module.with_extension("opt");
    let check =
        "process.exit(WebAssembly.validate(require('fs').readFileSync(process.argv[1])) ? 0 : 1)";
    let made = process::run(
        Command::new(wasm_opt)
            .arg("-Os")
            .args(FEATURES.map(|feature| format!("--enable-{feature}")))
            .arg("-o")
            .arg(&smaller)
            .arg(module),
    )
    .and_then(|()| process::run(Command::new("node").args(["-e", check]).arg(&smaller)));
    match made {
        Ok(()) => fs::rename(&smaller, module)?,
        Err(error) => {
            say::note(&format!("the dashboard is not made smaller: {error:#}"));
            // It may or may not be there.
            let _ = fs::remove_file(&smaller);
        }
    }
    Ok(())
}

fn hash_of(files: &[&Path], optimized_for: Option<&[&str]>) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    optimized_for.hash(&mut hasher);
    for path in files {
        let bytes = fs::read(path).with_context(|| format!("failed to read {}", path.display()))?;
        bytes.hash(&mut hasher);
    }
    Ok(format!("{:016x}\n", hasher.finish()))
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries =
        fs::read_dir(folder).with_context(|| format!("failed to list {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(files_below(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}
