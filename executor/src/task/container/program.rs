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
use serde::Deserialize;
use tepui_types::Reason;
use tepui_types::task::reason;
use tepui_types::wire::executor::RunBeside;

use crate::lookup::{self, Unfit};
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
    ///
    /// # Errors
    /// In the runtime's words; of a command that is no program as of any other.
    pub fn start(&self, bundle: &Path, stdio: [OwnedFd; 3]) -> Result<Pid, Reason> {
        let started = self.create_and_start(bundle, stdio);
        started.map_err(|failure| match unfit(&failure.said) {
            Some(unfit) => lookup::of_task(unfit.into_reason()),
            None => {
                let message = format!("the container's runtime: {failure}");
                Reason::new(reason::EXECUTOR_FAILED, message)
            }
        })
    }

    fn create_and_start(&self, bundle: &Path, stdio: [OwnedFd; 3]) -> Result<Pid, Failure> {
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
    ///
    /// # Errors
    /// As of [`Program::start`].
    pub fn run(&self, run: &RunBeside, stdio: [OwnedFd; 3]) -> Result<Pid, Reason> {
        // Others may be started at the same time.
        let files = Files::of_this_process(self.dir);
        let mut exec = self.verb("exec", &files.log);
        exec.arg("--detach").arg("--pid-file").arg(&files.pid);
        for (name, value) in &run.env {
            exec.arg("--env").arg(format!("{name}={value}"));
        }
        exec.arg(ID).args(&run.argv);
        let called = call(exec, &files.log, stdio).and_then(|()| read_pid(&files.pid));
        called.map_err(|failure| match unfit(&failure.said) {
            Some(unfit) => unfit.into_reason(),
            None => Reason::new(reason::COMMAND_FAILED, failure.to_string()),
        })
    }

    fn verb(&self, verb: &str, log: &Path) -> Command {
        let mut command = Command::new(self.path);
        command.arg("--root").arg(self.dir.join(STATE));
        command.arg("--log").arg(log);
        command.args(["--log-format", "json", verb]);
        command
    }

    fn nothing(&self) -> Result<[OwnedFd; 3], Failure> {
        let one = || crate::runtime::nothing().map_err(|reason| Failure::of(reason.message));
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

/// That a runtime did not do what it was called for.
#[derive(Debug, Default)]
struct Failure {
    /// What this process knows of it.
    how: String,
    /// What the runtime says, if anything.
    said: String,
}

impl Failure {
    fn of(how: impl Into<String>) -> Self {
        let how = how.into();
        Self {
            how,
            said: String::new(),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.said.as_str() {
            "" => f.write_str(&self.how),
            said => f.write_str(said),
        }
    }
}

/// A line of the log.
#[derive(Deserialize)]
struct Line {
    msg: String,
}

/// Calls it; what it says when it fails stands at the end of its log.
fn call(
    mut command: Command,
    log: &Path,
    [stdin, stdout, stderr]: [OwnedFd; 3],
) -> Result<(), Failure> {
    command.stdin(Stdio::from(stdin));
    command
        .stdout(Stdio::from(stdout))
        .stderr(Stdio::from(stderr));
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command
        .status()
        .map_err(|error| Failure::of(format!("{name}: {error}")))?;
    if status.success() {
        return Ok(());
    }
    let log = std::fs::read_to_string(log).unwrap_or_default();
    Err(Failure {
        how: format!("{name} failed ({status})"),
        said: last_word(&log),
    })
}

/// What the last line says; a runtime that writes no JSON says it plainly.
fn last_word(log: &str) -> String {
    let line = log.trim().lines().last().unwrap_or_default();
    let parsed = serde_json::from_str::<Line>(line);
    parsed.map_or_else(|_| line.to_owned(), |line| line.msg)
}

/// What is wrong with the command that was to be executed, if it is that: runtimes written in Go say it
/// in the words of its `os/exec`.
fn unfit(said: &str) -> Option<Unfit> {
    let at = said.find("exec: \"")?;
    let why = said[at..].to_owned();
    let is_missing = ["executable file not found", "no such file or directory"];
    match is_missing.iter().any(|words| why.contains(words)) {
        true => Some(Unfit::Missing(why)),
        false => Some(Unfit::NotExecutable(why)),
    }
}

fn read_pid(path: &Path) -> Result<Pid, Failure> {
    let pid = std::fs::read_to_string(path).ok();
    let pid = pid.and_then(|pid| pid.trim().parse().ok());
    let missing = "the runtime did not say which process it has made";
    pid.map(Pid::from_raw).ok_or_else(|| Failure::of(missing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_in_json_and_plain() {
        let json = "{\"level\":\"warning\",\"msg\":\"slow\",\"time\":\"t\"}\n\
                    {\"level\":\"error\",\"msg\":\"no \\\"such\\\"\",\"time\":\"t\"}\n";
        assert_eq!(last_word(json), "no \"such\"");
        assert_eq!(last_word("time=t msg=x\n"), "time=t msg=x");
        assert_eq!(last_word(""), "");
    }

    #[test]
    fn a_command_that_is_no_program_is_told_from_other_failures() {
        let runc = |words: &str| {
            unfit(&format!(
                "runc create failed: unable to start container process: {words}"
            ))
        };
        let missing = "exec: \"a\": executable file not found in $PATH";
        assert_eq!(runc(missing), Some(Unfit::Missing(missing.into())));
        let missing = "exec: \"/a/b\": stat /a/b: no such file or directory";
        assert_eq!(runc(missing), Some(Unfit::Missing(missing.into())));
        let refused = "exec: \"/srv\": permission denied";
        assert_eq!(runc(refused), Some(Unfit::NotExecutable(refused.into())));
        assert_eq!(
            runc("error mounting \"sysfs\": no such file or directory"),
            None
        );
    }
}
