//! One process of a cluster: spawned with a log, killed without mercy, or asked
//! to end. Also where the binaries and guests under test are found.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::eventually::eventually_blocking;

/// How many lines of a log a failure prints.
const SHOWN_LINES: usize = 60;

/// The folder of the binaries under test: `TEPUI_BIN_DIR`, or where cargo put
/// this very program.
pub fn bin_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("TEPUI_BIN_DIR") {
        return Ok(dir.into());
    }
    let program = std::env::current_exe().context("failed to find this program's own file")?;
    let folder = program.parent().context("this program has no folder")?;
    // Test programs are in `deps`, beside them lies what they test.
    match folder.ends_with("deps") {
        true => Ok(folder.parent().unwrap_or(folder).to_owned()),
        false => Ok(folder.to_owned()),
    }
}

/// A binary under test.
pub fn program(name: &str) -> Result<PathBuf> {
    existing(bin_dir()?.join(name))
}

/// A guest under test, such as `tasks/hello.wasm`.
pub fn guest(path: &str) -> Result<PathBuf> {
    existing(bin_dir()?.join(path))
}

fn existing(path: PathBuf) -> Result<PathBuf> {
    if !path.is_file() {
        bail!(
            "{} is missing: build everything first with `cargo xtask build`",
            path.display()
        );
    }
    Ok(path)
}

/// A process with its log.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts a program; what it says goes to `log`, behind what is there.
    pub fn spawn(name: &str, program: &Path, args: &[OsString], log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("failed to open {}", log.display()))?;
        let child = Command::new(program)
            .args(args)
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("failed to start {}", program.display()))?;
        Ok(Self {
            name: name.to_owned(),
            log: log.to_owned(),
            child,
        })
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// `kill -9`, and wait until it is gone.
    pub fn kill(&mut self) {
        // It may be gone already; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end and waits for that.
    pub fn terminate(&mut self) -> ExitStatus {
        let _ = kill(Pid::from_raw(self.pid()), Signal::SIGTERM);
        self.wait()
    }

    /// Waits until it ends.
    pub fn wait(&mut self) -> ExitStatus {
        let name = self.name.clone();
        eventually_blocking(&format!("{name} ends"), || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it still runs".to_owned()),
            Err(error) => Err(error.to_string()),
        })
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Where what it says is kept.
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// All that it said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// Prints the end of a log.
pub fn print_log(log: &Path) {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let first = lines.len().saturating_sub(SHOWN_LINES);
    eprintln!("---- {} ({first} lines before)", log.display());
    for line in &lines[first..] {
        eprintln!("{line}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
