//! An attempt to start a process of a container, made by a process of its own.
//!
//! A runtime takes as long as the container lets it: who may send signals in there can stop whatever
//! comes in before it executes its program. So this process never calls one itself. A helper, forked
//! from it, does, and answers with the process that was made, which becomes this one's child when the
//! helper ends. An attempt that is given up, or dropped before its answer, leaves no process behind.

use std::collections::HashSet;
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::prctl::{set_child_subreaper, set_pdeathsig};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid};
use tepui_types::Reason;
use tepui_types::task::reason;

use crate::processes;

/// How long a process may take to execute its program: far more than a busy machine needs.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How long one that is not wanted any more may still take: what executes its program by then is asked to
/// end as any other, which it may have begun to count on.
pub const LAST_PATIENCE: Duration = Duration::from_secs(1);
/// An answer is written and read at once, for which it must be no larger than what a pipe takes whole
/// (pipe(7)); a reason's message is at most half of that.
const MAX_ANSWER: usize = libc::PIPE_BUF;
/// How often what a helper has made is looked for when it is given up. Who was killed makes no process
/// more, so the second look finds the last; the others are for what nobody has thought of.
const ROUNDS: usize = 8;

/// One that was begun.
pub struct Attempt {
    helper: Pid,
    answers: PipeReader,
    is_over: bool,
}

impl Attempt {
    /// Has a helper start something. It has all that this process has, and changes nothing of it.
    ///
    /// # Errors
    /// When the system gives no more processes or descriptors.
    pub fn begin(start: impl FnOnce() -> Result<Pid, Reason>) -> io::Result<Self> {
        let (answers, answer) = pipe()?;
        fcntl(&answers, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let executor = getpid();
        // SAFETY: this process has one thread, so the other may do anything.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Self {
                helper: child,
                answers,
                is_over: false,
            }),
            ForkResult::Child => help(executor, start, answer),
        }
    }

    /// What has become of it, once that is known.
    pub fn answer(&mut self) -> Option<Result<Pid, Reason>> {
        let mut bytes = [0; MAX_ANSWER];
        let length = match self.answers.read(&mut bytes) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(error) if error.kind() == ErrorKind::Interrupted => return None,
            Err(_) => 0,
        };
        self.is_over = true;
        let answer = postcard::from_bytes::<Result<i32, Reason>>(&bytes[..length]);
        // It was killed, as for memory: what it was about to make does not go on without it.
        Some(answer.map_or_else(|_| Err(lost()), |started| started.map(Pid::from_raw)))
    }

    /// What has become of it, now that this process was reaped: before that, a helper answers.
    pub fn answer_before(&mut self, reaped: Pid) -> Option<Result<Pid, Reason>> {
        let answer = self.answer();
        if reaped != self.helper {
            return answer;
        }
        // Its number may soon be another's.
        self.is_over = true;
        Some(answer.unwrap_or_else(|| Err(lost())))
    }
}

impl AsFd for Attempt {
    /// Can be read when there is an answer.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.answers.as_fd()
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        // What it has made stays below it while it lives, and it makes no more.
        let _ = kill(self.helper, Signal::SIGSTOP);
        let mut killed = HashSet::new();
        for _ in 0..ROUNDS {
            let mut below = processes::descendants(self.helper);
            below.retain(|pid| killed.insert(*pid));
            if below.is_empty() {
                break;
            }
            for pid in below {
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
        if let Some(Ok(pid)) = self.answer() {
            // It was quicker, and may be this process's child by now.
            let _ = kill(pid, Signal::SIGKILL);
        }
        // Reaped by the server, as all of them are.
        let _ = kill(self.helper, Signal::SIGKILL);
    }
}

/// Says that nothing was started for so long.
pub fn late(patience: Duration) -> String {
    format!(
        "its program was not executed within {} ms, and it was given up: look for what stops \
         (SIGSTOP) other processes of the container",
        patience.as_millis()
    )
}

fn lost() -> Reason {
    failed("its helper ended before it was started")
}

fn failed(message: &str) -> Reason {
    Reason::new(reason::EXECUTOR_FAILED, message)
}

/// The helper's life.
fn help(executor: Pid, start: impl FnOnce() -> Result<Pid, Reason>, mut answers: PipeWriter) -> ! {
    let bound = bind_to(executor);
    close_sockets();
    // Whatever unwinds must not get into the executor's loop.
    let started = catch_unwind(AssertUnwindSafe(|| {
        bound.map_err(|errno| failed(&format!("its helper: {errno}")))?;
        start()
    }));
    let started = started.unwrap_or_else(|_| Err(failed("its helper panicked")));
    if let Ok(bytes) = postcard::to_allocvec(&started.map(Pid::as_raw)) {
        // Who does not read it has given up.
        let _ = answers.write_all(&bytes);
    }
    // SAFETY: it ends this process at once: what it shares with the executor is not touched.
    unsafe { libc::_exit(0) }
}

/// Closes what connects the executor with its agent: nobody must think that it is still there because
/// this process, or what it makes, is. What the command reads and writes by is no socket.
fn close_sockets() {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
    let is_socket = |entry: &std::fs::DirEntry| {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        target.to_string_lossy().starts_with("socket:")
    };
    let sockets = entries.flatten().filter(is_socket);
    let numbers = sockets.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    for number in numbers.collect::<Vec<_>>() {
        // SAFETY: this copy of the process uses none of them and ends without dropping whoever owns
        // one.
        unsafe { libc::close(number) };
    }
}

/// Ends with that process, and keeps below it what it makes.
fn bind_to(executor: Pid) -> Result<(), Errno> {
    set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != executor {
        return Err(Errno::ESRCH);
    }
    set_child_subreaper(true)
}
