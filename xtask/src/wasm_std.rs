//! The standard library for WebAssembly, built once from Debian's sources.
//!
//! `wasm_target` calls this where rustup's server cannot be reached. The library's sources are the
//! toolchain's own if it has them, else Debian's package of exactly the compiler's version; WASI's
//! libc is Debian's too. The result goes into the toolchain, prepared beside and renamed into
//! place, with a stamp: only what this module put there is ever replaced. The system's own apt
//! configuration is never touched.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;
use crate::{process, say, wasm_target};

const STAMP: &str = "built-by-tepui-xtask";
/// The name of the empty package whose dependencies are what we are after.
const SHELL: &str = "tepui_std_shell";
const MIRROR: &str = "http://deb.debian.org/debian";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// In order of preference: backports hold every compiler of the last months.
const SUITES: [&str; 3] = ["trixie-backports", "trixie", "sid"];
/// WASI's libc of Debian 12 is too old for preview 2.
const LIBC_SUITES: [&str; 2] = ["trixie-backports", "sid"];

/// Builds and installs the standard library of these targets.
pub fn install(workspace: &Workspace, targets: &[&str]) -> Result<()> {
    let sysroot = wasm_target::sysroot(workspace)?;
    let version = wasm_target::rustc_version(workspace)?;
    let rustlib = sysroot.join("lib/rustlib");
    for target in targets {
        let present = rustlib.join(target);
        if present.exists() && !present.join("lib").join(STAMP).exists() {
            bail!(
                "{} is there, was not put there by this command, and does not work; remove it",
                present.display()
            );
        }
    }
    let work = workspace.tools().join(format!("wasm-std-{version}"));
    let apt = Apt::new(work.join("apt"));
    let library = library_sources(&apt, &rustlib, &version, &work)?;
    let shell = write_shell(&work)?;
    for target in targets {
        let beside = rustlib.join(format!("{target}.new"));
        remove_if_present(&beside)?;
        let lib = beside.join("lib");
        fs::create_dir_all(lib.join("self-contained"))
            .with_context(|| format!("cannot write to the toolchain in {}", sysroot.display()))?;
        if let Some(folder) = libc_folder(target) {
            let libc = apt.unpack("wasi-libc", &LIBC_SUITES, |_| true, &work.join("libc"))?;
            copy_libc(&libc.join(folder), &lib.join("self-contained"))?;
        }
        say::step(&format!("building std for {target}"), || {
            build(workspace, &sysroot, &shell, &library, target)
        })?;
        copy_rlibs(
            &shell.join("target").join(target).join("release/deps"),
            &lib,
        )?;
        fs::write(lib.join(STAMP), format!("std {version} from source\n"))?;
        remove_if_present(&rustlib.join(target))?;
        fs::rename(&beside, rustlib.join(target))?;
    }
    Ok(())
}

/// Where Debian's wasi-libc keeps a target's objects; `None` for a target without a libc.
fn libc_folder(target: &str) -> Option<&'static str> {
    match target {
        "wasm32-wasip1" => Some("usr/lib/wasm32-wasi"),
        "wasm32-wasip2" => Some("usr/lib/wasm32-wasip2"),
        _ => None,
    }
}

fn library_sources(apt: &Apt, rustlib: &Path, version: &str, work: &Path) -> Result<PathBuf> {
    let own = rustlib.join("src/rust/library");
    if own.join("Cargo.lock").is_file() {
        return Ok(own);
    }
    let exactly = |candidate: &str| {
        candidate
            .strip_prefix(version)
            .is_some_and(|rest| rest.starts_with(['+', '-', '~']))
    };
    let unpacked = apt
        .unpack("rust-src", &SUITES, exactly, &work.join("sources"))
        .with_context(|| format!("no sources of Rust {version}"))?;
    let library = unpacked.join(format!("usr/src/rustc-{version}/library"));
    if !library.join("std/Cargo.toml").is_file() {
        bail!("Debian's rust-src has no {}", library.display());
    }
    Ok(library)
}

/// An empty library: with `-Zbuild-std`, building it builds std.
fn write_shell(work: &Path) -> Result<PathBuf> {
    let shell = work.join("shell");
    fs::create_dir_all(shell.join("src"))?;
    fs::write(
        shell.join("Cargo.toml"),
        format!(
            "[package]\nname = \"{SHELL}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
             [workspace]\n\n[profile.release]\npanic = \"unwind\"\n"
        ),
    )?;
    fs::write(shell.join("src/lib.rs"), "#![no_std]\n")?;
    Ok(shell)
}

fn build(
    workspace: &Workspace,
    sysroot: &Path,
    shell: &Path,
    library: &Path,
    target: &str,
) -> Result<()> {
    let mut cargo = workspace.cargo_at(shell, &shell.join("target"));
    cargo
        // Outside the checkout, rustup would take another compiler than the one that it pins.
        .env("RUSTC", sysroot.join("bin/rustc"))
        .env("RUSTC_BOOTSTRAP", "1")
        .env("__CARGO_TESTS_ONLY_SRC_ROOT", library)
        // Guests are built with LTO, which wants bitcode.
        .env("RUSTFLAGS", "-Cembed-bitcode=yes")
        .args(["build", "--release", "--target", target])
        .arg("-Zbuild-std=std,panic_abort,proc_macro,test");
    process::run(&mut cargo)
}

fn copy_libc(from: &Path, to: &Path) -> Result<()> {
    copy_matching(from, to, |name| {
        name == "crt1-command.o" || name == "crt1-reactor.o" || name.ends_with(".a")
    })
    .with_context(|| format!("Debian's wasi-libc has no {}", from.display()))
}

fn copy_rlibs(from: &Path, to: &Path) -> Result<()> {
    copy_matching(from, to, |name| {
        name.ends_with(".rlib") && !name.starts_with(&format!("lib{SHELL}"))
    })
}

fn copy_matching(from: &Path, to: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if wanted(&name.to_string_lossy()) {
            fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}

fn remove_if_present(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("failed to remove {}", folder.display()))?;
    }
    Ok(())
}

/// An apt with lists, cache and sources of its own, all below one folder.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Downloads the newest version that `wanted` takes and unpacks it. No root is needed.
    fn unpack(
        &self,
        package: &str,
        suites: &[&str],
        wanted: impl Fn(&str) -> bool,
        into: &Path,
    ) -> Result<PathBuf> {
        let done = into.join(".unpacked");
        if done.exists() {
            return Ok(into.to_path_buf());
        }
        self.update()?;
        let table = process::output(self.command("apt-cache").args(["madison", package]))?;
        let version = choose(&table, suites, wanted).with_context(|| {
            format!(
                "Debian's {} hold no such version of {package}; they hold:\n{table}",
                suites.join(", ")
            )
        })?;
        remove_if_present(into)?;
        fs::create_dir_all(into)?;
        say::note(&format!("fetching Debian's {package} {version}"));
        let mut download = self.command("apt-get");
        download.current_dir(into).args(["-qq", "download"]);
        if let Err(error) = process::run(download.arg(format!("{package}={version}"))) {
            // The lists may have aged since; the next attempt fetches them anew.
            fs::remove_file(self.folder.join("updated"))?;
            return Err(error);
        }
        for entry in fs::read_dir(into)? {
            let deb = entry?.path();
            if deb.extension().is_some_and(|extension| extension == "deb") {
                process::run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(into))?;
                fs::remove_file(&deb)?;
            }
        }
        fs::write(done, &version)?;
        Ok(into.to_path_buf())
    }

    fn update(&self) -> Result<()> {
        if self.folder.join("updated").exists() {
            return Ok(());
        }
        if !process::exists("apt-get") || !Path::new(KEYRING).exists() {
            bail!("this machine has no apt-get, or not Debian's keys in {KEYRING}");
        }
        for below in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(self.folder.join(below))?;
        }
        let sources: String = SUITES
            .iter()
            .map(|suite| format!("deb [signed-by={KEYRING}] {MIRROR} {suite} main\n"))
            .collect();
        fs::write(self.folder.join("sources.list"), sources)?;
        process::run(self.command("apt-get").args(["-qq", "update"]))
            .with_context(|| format!("failed to reach {MIRROR}"))?;
        fs::write(self.folder.join("updated"), "")?;
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for (key, below) in [
            ("Dir::Etc::sourcelist", Some("sources.list")),
            ("Dir::Etc::sourceparts", None),
            ("Dir::State", Some("state")),
            ("Dir::Cache", Some("cache")),
        ] {
            let mut option = OsString::from(format!("{key}="));
            match below {
                Some(below) => option.push(self.folder.join(below)),
                None => option.push("-"),
            }
            command.arg("-o").arg(option);
        }
        command.args(["-o", "APT::Sandbox::User=root"]);
        command
    }
}

/// Picks a version from `apt-cache madison`: the first suite that has one that is wanted.
fn choose(table: &str, suites: &[&str], wanted: impl Fn(&str) -> bool) -> Option<String> {
    suites.iter().find_map(|suite| {
        table.lines().find_map(|row| {
            let mut columns = row.split('|').map(str::trim);
            let (_, version, source) = (columns.next()?, columns.next()?, columns.next()?);
            let here = source.contains(&format!(" {suite}/"));
            (here && wanted(version)).then(|| version.to_string())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
 rust-src | 1.97.1+dfsg1-1 | http://deb.debian.org/debian sid/main amd64 Packages
 rust-src | 1.96.1+dfsg1-2~bpo13+1 | http://deb.debian.org/debian trixie-backports/main amd64 Packages
 rust-src | 1.95.0+dfsg1-2~bpo13+1 | http://deb.debian.org/debian trixie-backports/main amd64 Packages
 rust-src | 1.85.1+dfsg1-1+deb13u1 | http://deb.debian.org/debian trixie/main amd64 Packages";

    #[test]
    fn the_first_suite_with_a_wanted_version_is_chosen() {
        let any = choose(TABLE, &SUITES, |_| true);
        assert_eq!(any.as_deref(), Some("1.96.1+dfsg1-2~bpo13+1"));
        let exact = choose(TABLE, &SUITES, |version| version.starts_with("1.95.0+"));
        assert_eq!(exact.as_deref(), Some("1.95.0+dfsg1-2~bpo13+1"));
        assert_eq!(
            choose(TABLE, &SUITES, |version| version.starts_with("1.80")),
            None
        );
    }
}
