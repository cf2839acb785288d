//! Another OCI runtime: a program with the command line of runc and crun.
//!
//! `create` makes the container and waits before its program, `start` lets it go on, `exec` runs
//! something beside it. All are called by a helper (see [`attempt`](crate::attempt)); what they make is
//! orphaned, and so becomes its child, and then the executor's.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tepui_types::wire::executor::RunBeside;

use crate::runtime::{ID, STATE};

/// A runtime, and the folder of what it notes.
pub struct Program<'a> {
    /// The program.
    pub path: &'a Path,
    /// The container's own.
    pub dir: &'a Path,
}

impl Program<'_> {
    /// Starts the container of that bundle.
    pub fn start(&self, bundle: &Path, stdio: [OwnedFd; 3]) -> Result<Pid, String> {
        let pid_file = self.dir.join("pid");
        let log = self.dir.join("runtime.log");
        let mut create = self.verb("create", &log);
        create.arg("--bundle").arg(bundle);
        create.arg("--pid-file").arg(&pid_file).arg(ID);
        call(create, &log, stdio)?;
        let pid = read_pid(&pid_file)?;
        let mut start = self.verb("start", &log);
        start.arg(ID);
        // Its own output is not the container's.
        call(start, &log, self.nothing()?).inspect_err(|_| {
            // It may have ended by itself.
            let _ = kill(pid, Signal::SIGKILL);
        })?;
        Ok(pid)
    }

    /// Starts a command in the container. A terminal does not control it: that is one which the
    /// runtime has made itself.
    pub fn run(&self, run: &RunBeside, stdio: [OwnedFd; 3]) -> Result<Pid, String> {
        // Others may be started at the same time.
        let files = Files::of_this_process(self.dir);
        let mut exec = self.verb("exec", &files.log);
        exec.arg("--detach").arg("--pid-file").arg(&files.pid);
        for (name, value) in &run.env {
            exec.arg("--env").arg(format!("{name}={value}"));
        }
        exec.arg(ID).args(&run.argv);
        call(exec, &files.log, stdio)?;
        read_pid(&files.pid)
    }

    fn verb(&self, verb: &str, log: &Path) -> Command {
        let mut command = Command::new(self.path);
        command.arg("--root").arg(self.dir.join(STATE));
        command.arg("--log").arg(log).arg(verb);
        command
    }

    fn nothing(&self) -> Result<[OwnedFd; 3], String> {
        let one = || crate::runtime::nothing().map_err(|reason| reason.message);
        Ok([one()?, one()?, one()?])
    }
}

/// What a runtime writes when something is run beside the container; removed when dropped.
struct Files {
    pid: PathBuf,
    log: PathBuf,
}

impl Files {
    fn of_this_process(dir: &Path) -> Self {
        let this = std::process::id();
        Self {
            pid: dir.join(format!("beside-{this}.pid")),
            log: dir.join(format!("beside-{this}.log")),
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for file in [&self.pid, &self.log] {
            // It may never have been there.
            let _ = std::fs::remove_file(file);
        }
    }
}

/// Calls it; what it says when it fails stands at the end of its log.
fn call(
    mut command: Command,
    log: &Path,
    [stdin, stdout, stderr]: [OwnedFd; 3],
) -> Result<(), String> {
    command.stdin(Stdio::from(stdin));
    command
        .stdout(Stdio::from(stdout))
        .stderr(Stdio::from(stderr));
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command
        .status()
        .map_err(|error| format!("{name}: {error}"))?;
    if status.success() {
        return Ok(());
    }
    let said = std::fs::read_to_string(log).unwrap_or_default();
    let said = said.trim().lines().last().unwrap_or_default();
    Err(format!("{name} failed ({status}): {said}"))
}

fn read_pid(path: &Path) -> Result<Pid, String> {
    let pid = std::fs::read_to_string(path).ok();
    let pid = pid.and_then(|pid| pid.trim().parse().ok());
    let pid = pid.ok_or("the runtime did not say which process it has made")?;
    Ok(Pid::from_raw(pid))
}
