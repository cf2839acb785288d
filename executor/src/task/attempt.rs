//! An attempt to start a process of a container, made by a process of its own.
//!
//! A runtime takes as long as the container lets it: who may send signals in there can stop whatever
//! comes in before it executes its program. So this process never calls one itself. A helper does, and
//! answers with the process that was made. Between the two stands a guard, forked from this process as the
//! helper is from it: whatever becomes of the helper, what it has made is the guard's child then. If that
//! is what was wanted, the guard hands on the answer and goes, and the process is this one's child; else it
//! ends all of it before it says so. So no attempt that fails, is given up, or dropped before its answer
//! leaves a process behind.

use std::collections::HashSet;
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::prctl::{set_child_subreaper, set_pdeathsig};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
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
/// How often what is below a guard is looked for when it is given up. Who was killed makes no process
/// more, so the second look finds the last; the others are for what nobody has thought of.
const ROUNDS: usize = 8;

/// One that was begun.
pub struct Attempt {
    guard: Pid,
    answers: PipeReader,
    is_over: bool,
    /// What a helper looks for among this process's open files.
    kept: Option<OwnedFd>,
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
                guard: child,
                answers,
                is_over: false,
                kept: None,
            }),
            ForkResult::Child => guard(executor, start, answer),
        }
    }

    /// Keeps that open for as long as this is kept.
    pub fn keep(&mut self, file: OwnedFd) {
        self.kept = Some(file);
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
        let answer = postcard::from_bytes::<Said>(&bytes[..length]);
        Some(answer.map_or_else(|_| Err(lost()), |started| started.map(Pid::from_raw)))
    }

    /// What has become of it, now that this process was reaped: before that, a guard answers.
    pub fn answer_before(&mut self, reaped: Pid) -> Option<Result<Pid, Reason>> {
        let answer = self.answer();
        if reaped != self.guard {
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
        // What was made stays below it while it lives.
        let _ = kill(self.guard, Signal::SIGSTOP);
        let mut killed = HashSet::new();
        for _ in 0..ROUNDS {
            let mut below = processes::descendants(self.guard);
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
        let _ = kill(self.guard, Signal::SIGKILL);
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

/// The guard's life.
fn guard(executor: Pid, start: impl FnOnce() -> Result<Pid, Reason>, mut answers: PipeWriter) -> ! {
    // Whatever unwinds must not get into the executor's loop.
    let started = catch_unwind(AssertUnwindSafe(|| {
        let failed = |error: io::Error| failed(&format!("its guard: {error}"));
        bind_to(executor).map_err(|errno| failed(errno.into()))?;
        close_sockets();
        let (told, tell) = pipe().map_err(failed)?;
        let guard = getpid();
        // SAFETY: this process has one thread, so the other may do anything.
        match unsafe { fork() }.map_err(|errno| failed(errno.into()))? {
            ForkResult::Child => help(guard, start, tell),
            ForkResult::Parent { child } => outlive(child, told),
        }
    }));
    let started = started.unwrap_or_else(|_| Err(failed("its guard panicked")));
    if started.is_err() {
        end_all_below();
    }
    tell(&started, &mut answers);
    // SAFETY: it ends this process at once: what it shares with the executor is not touched.
    unsafe { libc::_exit(0) }
}

/// What a helper has said, once it has ended. Who is only about to execute a program may have the other
/// end of the pipe as well.
fn outlive(helper: Pid, mut told: PipeReader) -> Result<Pid, Reason> {
    while waitpid(helper, None) == Err(Errno::EINTR) {}
    let not_waited_for = fcntl(&told, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
    let mut bytes = [0; MAX_ANSWER];
    let read = not_waited_for.map_err(io::Error::from);
    let read = read.and_then(|_| told.read(&mut bytes));
    let said = postcard::from_bytes::<Said>(&bytes[..read.unwrap_or(0)]);
    // It was killed, as for memory.
    said.map_or_else(|_| Err(lost()), |started| started.map(Pid::from_raw))
}

/// Ends all that is below this process, and waits until it has.
fn end_all_below() {
    loop {
        processes::kill_descendants();
        // What each leaves is below this process then.
        match waitpid(None, None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// The helper's life.
fn help(guard: Pid, start: impl FnOnce() -> Result<Pid, Reason>, mut tells: PipeWriter) -> ! {
    let started = catch_unwind(AssertUnwindSafe(|| {
        bind_to(guard).map_err(|errno| failed(&format!("its helper: {errno}")))?;
        start()
    }));
    let started = started.unwrap_or_else(|_| Err(failed("its helper panicked")));
    tell(&started, &mut tells);
    // SAFETY: as for the guard.
    unsafe { libc::_exit(0) }
}

/// The process that was made, or what kept it from that.
type Said = Result<i32, Reason>;

fn tell(started: &Result<Pid, Reason>, to: &mut PipeWriter) {
    let said: Said = started.clone().map(Pid::as_raw);
    if let Ok(bytes) = postcard::to_allocvec(&said) {
        // Who does not read it has given up.
        let _ = to.write_all(&bytes);
    }
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

/// Ends with the process that has made it, and keeps below it what it makes.
fn bind_to(parent: Pid) -> Result<(), Errno> {
    set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != parent {
        return Err(Errno::ESRCH);
    }
    set_child_subreaper(true)
}
