//! A program that is run to its end within bounds of time and output.
//!
//! It gets a process group of its own. At its end, or when a bound is passed, the whole group is
//! killed, so that nothing of it goes on in the background or holds its pipes open.

use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};
use tokio::time::Instant;

/// How long a program may take, and how much it may write.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub time: Duration,
    /// Of each of its two outputs, in bytes.
    pub output: usize,
}

/// How it ended, and what it wrote.
#[derive(Debug)]
pub(crate) struct Output {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// Why there is no [`Output`].
#[derive(Debug)]
pub(crate) enum Failure {
    TimedOut,
    TooMuchOutput,
    Start(io::Error),
    Talk(io::Error),
}

/// A started program; its group is killed when this is dropped.
struct Group {
    child: Child,
}

impl Group {
    fn kill(&self) {
        // The leader has not been waited for, so that the number is still its group's.
        killpg(
            Pid::from_raw(self.child.id().cast_signed()),
            Signal::SIGKILL,
        )
        .ok();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        self.child.wait().ok();
    }
}

/// Runs it with these bytes as its input. Blocks, for as long as its bounds say.
pub(crate) fn run(mut command: Command, input: &[u8], bounds: Bounds) -> Result<Output, Failure> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let deadline = Instant::now() + bounds.time;
    let mut group = Group {
        child: command.spawn().map_err(Failure::Start)?,
    };
    let mut talk = Talk::new(&mut group.child, input, bounds.output).map_err(Failure::Talk)?;
    talk.until_exit(&group.child, deadline)?;
    // What it leaves in the background would hold the pipes open.
    group.kill();
    talk.stdout.read()?;
    talk.stderr.read()?;
    let Talk { stdout, stderr, .. } = talk;
    let status = group.child.wait().map_err(Failure::Talk)?;
    Ok(Output {
        status,
        stdout: stdout.bytes,
        stderr: stderr.bytes,
    })
}

/// The three pipes of a program.
struct Talk<'a> {
    /// None once everything is written.
    stdin: Option<std::process::ChildStdin>,
    input: &'a [u8],
    stdout: Reading<std::process::ChildStdout>,
    stderr: Reading<std::process::ChildStderr>,
}

impl<'a> Talk<'a> {
    fn new(child: &mut Child, input: &'a [u8], most: usize) -> io::Result<Self> {
        let missing = || io::Error::other("a pipe of the program is missing");
        let stdin = child.stdin.take().ok_or_else(missing)?;
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let stderr = child.stderr.take().ok_or_else(missing)?;
        for pipe in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
            fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(Self {
            stdin: Some(stdin),
            input,
            stdout: Reading::new(stdout, most),
            stderr: Reading::new(stderr, most),
        })
    }

    /// Writes and reads until the program has ended.
    fn until_exit(&mut self, child: &Child, deadline: Instant) -> Result<(), Failure> {
        let pid = rustix::process::Pid::from_child(child);
        let exit = pidfd_open(pid, PidfdFlags::empty()).map_err(|e| Failure::Talk(e.into()))?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::TimedOut);
            }
            if self.wait(exit.as_fd(), left)? {
                return Ok(());
            }
            self.write()?;
            self.stdout.read()?;
            self.stderr.read()?;
        }
    }

    /// Waits until there is something to do; true if that is the program's end.
    fn wait(&self, exit: BorrowedFd<'_>, left: Duration) -> Result<bool, Failure> {
        let mut fds = vec![PollFd::new(exit, PollFlags::POLLIN)];
        if let Some(stdin) = &self.stdin {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLOUT));
        }
        let outputs = [
            self.stdout.pipe.as_ref().map(AsFd::as_fd),
            self.stderr.pipe.as_ref().map(AsFd::as_fd),
        ];
        let readable = outputs.into_iter().flatten();
        fds.extend(readable.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        // Rounded up, so that the last millisecond is not spent spinning.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1));
        match poll(&mut fds, timeout.unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(nix::Error::EINTR) => Ok(fds[0].any().unwrap_or(false)),
            Err(error) => Err(Failure::Talk(error.into())),
        }
    }

    fn write(&mut self) -> Result<(), Failure> {
        while let Some(stdin) = &mut self.stdin {
            if self.input.is_empty() {
                self.stdin = None;
                break;
            }
            match stdin.write(self.input) {
                Ok(count) => self.input = &self.input[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // It need not read all that it is told.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.stdin = None,
                Err(error) => return Err(Failure::Talk(error)),
            }
        }
        Ok(())
    }
}

/// An output that is read up to a limit.
struct Reading<R> {
    /// None once it has ended.
    pipe: Option<R>,
    bytes: Vec<u8>,
    most: usize,
}

impl<R: Read> Reading<R> {
    fn new(pipe: R, most: usize) -> Self {
        Self {
            pipe: Some(pipe),
            bytes: Vec::new(),
            most,
        }
    }

    /// Reads what is there.
    fn read(&mut self) -> Result<(), Failure> {
        let mut buffer = [0; 8192];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(count) => self.bytes.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::Talk(error)),
            }
            if self.bytes.len() > self.most {
                return Err(Failure::TooMuchOutput);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        time: Duration::from_secs(60),
        output: 100_000,
    };

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    /// It is gone, or dead and its new parent has not looked yet.
    fn is_dead(pid: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.map_or(true, |stat| stat.contains(") Z"))
    }

    #[test]
    fn input_output_and_status_are_passed_on() {
        let input = vec![b'x'; 90_000];
        let output = run(shell("cat; echo e >&2; exit 3"), &input, BOUNDS).unwrap();
        assert_eq!(output.status.code(), Some(3));
        assert!(output.stdout == input && output.stderr == b"e\n");
    }

    #[test]
    fn input_that_is_not_read_is_no_error() {
        let input = vec![b'x'; 1_000_000];
        let output = run(shell("exec <&-; echo done"), &input, BOUNDS).unwrap();
        assert_eq!(output.stdout, b"done\n");
    }

    #[test]
    fn what_stays_in_the_background_holds_nothing_up() {
        let output = run(shell("sleep 1000 & echo $!"), b"", BOUNDS).unwrap();
        let pid = String::from_utf8(output.stdout).unwrap();
        let deadline = Instant::now() + BOUNDS.time;
        // A signal takes its time.
        while !is_dead(pid.trim()) {
            assert!(Instant::now() < deadline, "it goes on");
            std::thread::yield_now();
        }
    }

    #[test]
    fn bounds_end_it() {
        let short = Bounds {
            time: Duration::from_millis(50),
            ..BOUNDS
        };
        let hangs = run(shell("sleep 1000 & sleep 1000"), b"", short);
        assert!(matches!(hangs, Err(Failure::TimedOut)));
        let floods = run(shell("yes"), b"", BOUNDS);
        assert!(matches!(floods, Err(Failure::TooMuchOutput)));
        let missing = run(Command::new("/no/such/program"), b"", BOUNDS);
        assert!(matches!(missing, Err(Failure::Start(_))));
    }
}
