//! Another OCI runtime: a program with the command line of runc and crun.
//!
//! `create` makes the container and waits before its program, `start` lets it go on, `exec` runs
//! something beside it. What they make is orphaned, and so becomes this process's child.

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
        let mut create = self.verb("create");
        create.arg("--bundle").arg(bundle);
        create.arg("--pid-file").arg(&pid_file).arg(ID);
        call(create, self.log(), stdio)?;
        let pid = read_pid(&pid_file)?;
        let mut start = self.verb("start");
        start.arg(ID);
        // Its own output is not the container's.
        call(start, self.log(), self.nothing()?).inspect_err(|_| {
            // It may have ended by itself.
            let _ = kill(pid, Signal::SIGKILL);
        })?;
        Ok(pid)
    }

    /// Starts a command in the container. A terminal does not control it: that is one which the
    /// runtime has made itself.
    pub fn run(&self, run: &RunBeside, stdio: [OwnedFd; 3]) -> Result<Pid, String> {
        let pid_file = self.dir.join("pid-beside");
        let mut exec = self.verb("exec");
        exec.arg("--detach").arg("--pid-file").arg(&pid_file);
        for (name, value) in &run.env {
            exec.arg("--env").arg(format!("{name}={value}"));
        }
        exec.arg(ID).args(&run.argv);
        call(exec, self.log(), stdio)?;
        read_pid(&pid_file)
    }

    fn verb(&self, verb: &str) -> Command {
        let mut command = Command::new(self.path);
        command.arg("--root").arg(self.dir.join(STATE));
        command.arg("--log").arg(self.log()).arg(verb);
        command
    }

    fn log(&self) -> PathBuf {
        self.dir.join("runtime.log")
    }

    fn nothing(&self) -> Result<[OwnedFd; 3], String> {
        let one = || crate::runtime::nothing().map_err(|reason| reason.message);
        Ok([one()?, one()?, one()?])
    }
}

/// Calls it; what it says when it fails stands at the end of its log.
fn call(
    mut command: Command,
    log: PathBuf,
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
