//! Helper programs of e2fsprogs: found, run with an end, and heard.
//!
//! They die with the thread that waits for them, so that none of a killed agent's is still at an
//! image when the next agent looks at it.

use std::ffi::OsStr;
use std::io::{self, PipeReader, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::error::BoundsError;

/// Where administration programs are, whatever the agent's PATH.
const ELSEWHERE: [&str; 2] = ["/usr/sbin", "/sbin"];
/// How much of a program's words stands in an error, in bytes: its last few lines.
const SAID: usize = 1024;

/// How a program ended, and its last words.
pub(crate) struct Ended {
    pub status: ExitStatus,
    pub said: String,
}

impl Ended {
    /// An error that says so.
    pub fn error(self, program: &'static str, path: &Path) -> BoundsError {
        BoundsError::Program {
            program,
            path: path.to_owned(),
            status: self.status.to_string(),
            said: self.said,
        }
    }
}

/// Finds a program.
pub(crate) fn find(program: &'static str) -> Result<PathBuf, BoundsError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(ELSEWHERE.map(PathBuf::from));
    let mut programs = folders.map(|folder| folder.join(program));
    let found = programs.find(|path| path.is_file());
    found.ok_or(BoundsError::NoProgram(program))
}

/// Runs a program on a file, its last argument, for at most that long.
pub(crate) fn run(
    program: &'static str,
    arguments: &[&str],
    file: &Path,
    limit: Duration,
) -> Result<Ended, BoundsError> {
    let found = find(program)?;
    let io = |source| BoundsError::io("run a program of e2fsprogs on", file, source);
    let arguments = arguments.iter().map(OsStr::new).chain([file.as_os_str()]);
    let (mut words, child) = start(&found, arguments).map_err(io)?;
    let mut child = Killed(child);
    let said = listen(&mut words, limit).map_err(io)?;
    let Some(said) = said else {
        let said = format!("it was stopped after {} s", limit.as_secs());
        let status = child.end().map_err(io)?;
        return Err(Ended { status, said }.error(program, file));
    };
    // It has closed its output: it has ended, or is about to.
    let status = child.0.wait().map_err(io)?;
    Ok(Ended { status, said })
}

fn start<'a>(
    program: &Path,
    arguments: impl Iterator<Item = &'a OsStr>,
) -> io::Result<(PipeReader, Child)> {
    let (words, writer) = io::pipe()?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("LC_ALL", "C");
    command.stdin(Stdio::null());
    command.stdout(writer.try_clone()?).stderr(writer);
    let die_with_us = || Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?);
    // SAFETY: one system call, which allocates nothing and takes no lock.
    unsafe { command.pre_exec(die_with_us) };
    let child = command.spawn()?;
    Ok((words, child))
}

/// A program that does not outlive the call.
struct Killed(Child);

impl Killed {
    fn end(&mut self) -> io::Result<ExitStatus> {
        self.0.kill()?;
        self.0.wait()
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // One that has ended is not signalled: its status is known.
        let _ = self.end();
    }
}

/// The end of what it says, once it has said all; none if that takes too long.
#[expect(clippy::disallowed_methods, reason = "a real program, in real time")]
fn listen(words: &mut PipeReader, limit: Duration) -> io::Result<Option<String>> {
    let deadline = Instant::now() + limit;
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut ready = [PollFd::new(words.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, timeout) {
            Ok(0) if deadline <= Instant::now() => return Ok(None),
            Ok(0) | Err(nix::errno::Errno::EINTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let count = words.read(&mut buffer)?;
        if count == 0 {
            let said = String::from_utf8_lossy(&said);
            return Ok(Some(said.trim().to_owned()));
        }
        said.extend_from_slice(&buffer[..count]);
        let excess = said.len().saturating_sub(SAID);
        said.drain(..excess);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_missing_program_names_the_package() {
        let error = run("mkfs.none", &[], Path::new("x"), LONG).err().unwrap();
        assert!(error.to_string().contains("install e2fsprogs"), "{error}");
        assert!(error.cannot_enforce());
    }

    #[test]
    fn the_end_of_what_a_program_says_is_kept() {
        let script = "yes | head -c 100000; echo bad >&2; exit 3; :";
        let ended = run("sh", &["-c", script], Path::new("x"), LONG).unwrap();
        assert_eq!(ended.status.code(), Some(3));
        assert!(ended.said.ends_with("y\nbad"), "{}", ended.said);
        assert!(ended.said.len() <= SAID);
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let limit = Duration::from_millis(50);
        let error = run("sh", &["-c", "exec sleep 1000"], Path::new("x"), limit);
        let error = error.err().unwrap().to_string();
        assert!(error.contains("stopped after"), "{error}");
    }
}
