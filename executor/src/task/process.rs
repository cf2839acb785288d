//! A new process, from its birth to the program that it executes.
//!
//! Until it executes, it runs in this process's memory, as with posix_spawn(3): nothing is copied
//! that would be thrown away at once. But this process does not wait for all of it. A newborn enters
//! its cgroup, which takes the kernel milliseconds at times, and waits to be told its program; so it
//! can be made before there is one.

use std::cell::UnsafeCell;
use std::ffi::{CStr, CString, NulError, c_char, c_int, c_void};
use std::fs::File;
use std::io;
use std::iter::once;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr::{self, NonNull};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::futex;

/// The stack on which it prepares itself, in bytes; far more than a few system calls need.
const STACK: usize = 64 * 1024;
/// What it says of itself; makes it like any other to the OOM killer.
const OOM_SCORE: &CStr = c"/proc/self/oom_score_adj";
/// How long the end of one that is not needed is waited for.
const END_PATIENCE: futex::Timespec = futex::Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// A process that waits for its program, or will be. Dropped before, it ends.
pub struct Newborn {
    /// Once it was made.
    pid: Option<Pid>,
    /// Freed only when it has let go of it.
    shared: NonNull<Shared>,
    has_executed: bool,
}

/// A program with all that it gets.
pub struct Program<'a> {
    /// What is executed.
    pub path: CString,
    /// Its arguments, its own name first.
    pub argv: Vec<CString>,
    /// `NAME=value`.
    pub env: Vec<CString>,
    /// Its working folder.
    pub dir: CString,
    /// Its standard input, output and error.
    pub stdio: [BorrowedFd<'a>; 3],
    /// It ends with this process: without a cgroup nobody could find it afterwards.
    pub dies_with_executor: bool,
    /// Whether its standard input is a terminal, which is to control it.
    pub has_terminal: bool,
}

/// Why there is no process.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It could not be made, or not confined.
    #[error("failed to {step}: {source}")]
    Process {
        /// What.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The program cannot be executed.
    #[error("{0}")]
    Program(io::Error),
}

impl StartError {
    /// What the system says.
    pub fn source(&self) -> &io::Error {
        match self {
            Self::Process { source, .. } | Self::Program(source) => source,
        }
    }
}

/// Text as the system takes it.
///
/// # Errors
/// When there is a NUL in it.
pub fn c_strings<T: Into<Vec<u8>>>(
    texts: impl IntoIterator<Item = T>,
) -> Result<Vec<CString>, NulError> {
    texts.into_iter().map(CString::new).collect()
}

/// Makes this process, a container's first, as any program finds itself: it hears all signals, and is
/// no dearer than others. What cannot be said of the last is not.
///
/// # Errors
/// When the kernel refuses.
pub fn begin_anew() -> io::Result<()> {
    for signal in ignored_signals() {
        // SAFETY: the default action replaces none of this program's own.
        unsafe { libc::signal(*signal, libc::SIG_DFL) };
    }
    be_no_dearer();
    Ok(SigSet::empty().thread_set_mask()?)
}

/// Makes this process, and those that it starts, no dearer to the OOM killer than any other; what cannot
/// be said is not.
pub fn be_no_dearer() {
    if is_dear_to_the_oom_killer() {
        let _ = std::fs::write("/proc/self/oom_score_adj", "0");
    }
}

/// Makes the terminal that is this process's standard input the controlling one of its session, which
/// is made if it leads none.
///
/// # Errors
/// When the kernel refuses: another session has the terminal.
pub fn take_terminal() -> io::Result<()> {
    // Who leads a session already is refused another.
    let _ = rustix::process::setsid();
    // SAFETY: it takes a number, and nothing of this process's memory.
    match unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Newborn {
    /// Makes one that goes through these entrances, which stay open until it is told its program.
    ///
    /// # Errors
    /// When the kernel makes no process more.
    pub fn make(entrances: &[File]) -> Result<Self, StartError> {
        let mut this = Self::to_be_made(entrances);
        this.clone_off(0)?;
        Ok(this)
    }

    /// One that is made only when it is told its program, and waited for: it cannot be chosen to be
    /// killed for memory, and this process with it.
    pub fn to_be_made(entrances: &[File]) -> Self {
        let shared = Box::new(Shared {
            tid: AtomicU32::new(0),
            is_told: AtomicU32::new(0),
            told: UnsafeCell::new(None),
            failure: UnsafeCell::new(None),
            parent: rustix::process::getpid(),
            entrances: entrances.iter().map(AsRawFd::as_raw_fd).collect(),
            ignored: ignored_signals(),
            is_dear: is_dear_to_the_oom_killer(),
            stack: UnsafeCell::new(Box::new_uninit_slice(STACK / size_of::<u128>())),
        });
        Self {
            pid: None,
            shared: NonNull::from(Box::leak(shared)),
            has_executed: false,
        }
    }

    fn clone_off(&mut self, more: c_int) -> Result<Pid, StartError> {
        let flags = libc::CLONE_VM
            | libc::CLONE_FILES
            | libc::CLONE_PARENT_SETTID
            | libc::CLONE_CHILD_CLEARTID
            | libc::SIGCHLD;
        // SAFETY: the stack is aligned, grows downwards from its end and is freed, as `shared` is,
        // only after the kernel has cleared `tid`, which it does when the process has executed or
        // ended. `be_born` makes system calls alone, allocates nothing and does not unwind. It has
        // this thread's errno, so while this thread runs too, it calls what knows no errno.
        let pid = unsafe {
            let top = (*self.shared().stack.get()).as_mut_ptr_range().end;
            let tid = self.shared().tid.as_ptr();
            let none = ptr::null_mut::<c_void>();
            let argument = self.shared.as_ptr().cast();
            libc::clone(be_born, top.cast(), flags | more, argument, tid, none, tid)
        };
        if pid < 0 {
            let (step, source) = ("make a process", io::Error::last_os_error());
            return Err(StartError::Process { step, source });
        }
        Ok(*self.pid.insert(Pid::from_raw(pid)))
    }

    /// Whether it was made and waits, or will.
    pub fn is_alive(&self) -> bool {
        self.shared().tid.load(Ordering::Acquire) != 0
    }

    /// Executes the program in it. From then on the caller reaps it.
    ///
    /// # Errors
    /// When it runs nowhere; nothing is left to reap then.
    pub fn execute(mut self, program: &Program<'_>) -> Result<Pid, StartError> {
        let (argv, env) = (pointers(&program.argv), pointers(&program.env));
        let told = Told {
            path: program.path.as_ptr(),
            argv: argv.as_ptr(),
            env: env.as_ptr(),
            dir: program.dir.as_ptr(),
            stdio: program.stdio.map(|fd| fd.as_raw_fd()),
            dies_with_executor: program.dies_with_executor,
            has_terminal: program.has_terminal,
        };
        let shared = self.shared();
        // SAFETY: the other process reads it only once `is_told` is set.
        unsafe { *shared.told.get() = Some(told) };
        shared.is_told.store(1, Ordering::Release);
        let pid = match self.pid {
            Some(pid) => {
                let _ = futex::wake(&shared.is_told, futex::Flags::PRIVATE, 1);
                pid
            }
            None => self.clone_off(libc::CLONE_VFORK)?,
        };
        self.wait_until_it_lets_go(None);
        // SAFETY: the other process no longer has this memory.
        let failure = unsafe { *self.shared().failure.get() };
        let Some((step, errno)) = failure else {
            self.has_executed = true;
            return Ok(pid);
        };
        let source = io::Error::from_raw_os_error(errno);
        Err(match step {
            Step::Execute => StartError::Program(source),
            Step::Confine(step) => StartError::Process { step, source },
        })
    }

    fn shared(&self) -> &Shared {
        // SAFETY: it is freed in `drop` alone; what both processes change is atomic, or changed by
        // one of them while the other does not look.
        unsafe { self.shared.as_ref() }
    }

    /// False when the patience is at its end.
    fn wait_until_it_lets_go(&self, patience: Option<&futex::Timespec>) -> bool {
        let tid = &self.shared().tid;
        loop {
            let now = tid.load(Ordering::Acquire);
            if now == 0 {
                return true;
            }
            // The kernel wakes those who wait as for a thread's end: not privately.
            if futex::wait(tid, futex::Flags::empty(), now, patience) == Err(Errno::TIMEDOUT) {
                return false;
            }
        }
    }
}

impl Drop for Newborn {
    fn drop(&mut self) {
        if let Some(pid) = self.pid.filter(|_| self.is_alive()) {
            let _ = kill(pid, Signal::SIGKILL);
        }
        if !self.wait_until_it_lets_go(Some(&END_PATIENCE)) {
            // It is frozen. What it may still use is never freed.
            return;
        }
        if let Some(pid) = self.pid.filter(|_| !self.has_executed) {
            // Who else waits for children may have reaped it.
            let _ = waitpid(pid, None);
        }
        // SAFETY: it came from a Box, and the other process has let go of it.
        drop(unsafe { Box::from_raw(self.shared.as_ptr()) });
    }
}

fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    let texts = texts.iter().map(|text| text.as_ptr());
    texts.chain(once(ptr::null())).collect()
}

/// What both processes know.
struct Shared {
    /// The kernel sets it to 0 when the new process has let go of this memory.
    tid: AtomicU32,
    /// Whether `told` is there.
    is_told: AtomicU32,
    told: UnsafeCell<Option<Told>>,
    /// Where the new process failed, and why.
    failure: UnsafeCell<Option<(Step, c_int)>>,
    parent: rustix::process::Pid,
    entrances: Vec<RawFd>,
    /// An agent under nohup or in a shell's background ignores signals.
    ignored: &'static [c_int],
    is_dear: bool,
    /// The other process's alone.
    stack: UnsafeCell<Box<[MaybeUninit<u128>]>>,
}

/// A program, as the system takes it.
struct Told {
    path: *const c_char,
    argv: *const *const c_char,
    env: *const *const c_char,
    dir: *const c_char,
    stdio: [RawFd; 3],
    dies_with_executor: bool,
    has_terminal: bool,
}

#[derive(Clone, Copy)]
enum Step {
    Confine(&'static str),
    Execute,
}

/// The new process. It returns, and so ends, only when it has failed.
extern "C" fn be_born(shared: *mut c_void) -> c_int {
    // SAFETY: it is the `Shared` of `make`, which is not freed while this process has its memory.
    let shared = unsafe { &*shared.cast::<Shared>() };
    let failed = match shared.enter() {
        Ok(told) => told.execute(shared.ignored),
        Err((step, errno)) => (Step::Confine(step), errno.raw_os_error()),
    };
    // SAFETY: the other process looks when this one has ended.
    unsafe { *shared.failure.get() = Some(failed) };
    127
}

impl Shared {
    /// What needs no program, then the program. The executor goes on meanwhile: nothing here may
    /// set errno.
    fn enter(&self) -> Result<&Told, (&'static str, Errno)> {
        let death = rustix::process::Signal::KILL;
        let bound = rustix::process::set_parent_process_death_signal(Some(death));
        bound.map_err(|errno| ("be bound to its executor", errno))?;
        if rustix::process::getppid() != Some(self.parent) {
            return Err(("find its executor", Errno::SRCH));
        }
        rustix::process::setsid().map_err(|errno| ("begin a session", errno))?;
        for entrance in &self.entrances {
            // SAFETY: the executor keeps it open until `is_told` is set or this process has ended.
            let entrance = unsafe { BorrowedFd::borrow_raw(*entrance) };
            let entered = rustix::io::write(entrance, b"0");
            entered.map_err(|errno| ("enter the cgroup", errno))?;
        }
        let confined = rustix::thread::set_no_new_privs(true);
        confined.map_err(|errno| ("give up privileges", errno))?;
        if self.is_dear
            && let Ok(score) =
                rustix::fs::open(OOM_SCORE, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        {
            let _ = rustix::io::write(score, b"0");
        }
        while self.is_told.load(Ordering::Acquire) == 0 {
            let _ = futex::wait(&self.is_told, futex::Flags::PRIVATE, 0, None);
        }
        // SAFETY: it was written before `is_told` was set, and is not changed any more.
        let told = unsafe { &*self.told.get() };
        told.as_ref().ok_or(("be told a program", Errno::INVAL))
    }
}

impl Told {
    /// The executor waits meanwhile. Only async-signal-safe calls are allowed here.
    fn execute(&self, ignored: &[c_int]) -> (Step, c_int) {
        if let Err((step, errno)) = self.confine(ignored) {
            return (Step::Confine(step), errno);
        }
        // SAFETY: NUL-terminated strings, and lists of them with a null pointer at the end.
        unsafe { libc::execve(self.path, self.argv, self.env) };
        (Step::Execute, errno())
    }

    fn confine(&self, ignored: &[c_int]) -> Result<(), (&'static str, c_int)> {
        // SAFETY: plain system calls on descriptors that are open here and on constants; `mask` is
        // initialized by sigemptyset before it is used.
        unsafe {
            // Until now they were the executor's own.
            check(libc::unshare(libc::CLONE_FILES), "have its own files")?;
            for (target, source) in self.stdio.iter().enumerate() {
                check(
                    libc::dup2(*source, target as RawFd),
                    "set up its input and output",
                )?;
            }
            if self.has_terminal {
                let controlled = libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0);
                check(controlled, "have its terminal")?;
            }
            check(libc::chdir(self.dir), "enter its sandbox")?;
            if !self.dies_with_executor {
                let freed = libc::prctl(libc::PR_SET_PDEATHSIG, 0);
                check(freed, "outlive its executor")?;
            }
            for signal in ignored {
                libc::signal(*signal, libc::SIG_DFL);
            }
            let mut mask = std::mem::zeroed();
            libc::sigemptyset(&mut mask);
            let unmasked = libc::sigprocmask(libc::SIG_SETMASK, &mask, ptr::null_mut());
            check(unmasked, "take all signals")?;
            // Everything of the executor is opened close-on-exec; this is for what a library may
            // forget. Kernels before 5.11 refuse the call.
            libc::close_range(
                3,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC as libc::c_int,
            );
        }
        Ok(())
    }
}

fn check(result: c_int, step: &'static str) -> Result<(), (&'static str, c_int)> {
    match result {
        0.. => Ok(()),
        _ => Err((step, errno())),
    }
}

fn errno() -> c_int {
    let error = io::Error::last_os_error();
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// The signals that this process ignores, from its start on, and with it what it executes.
fn ignored_signals() -> &'static [c_int] {
    static IGNORED: OnceLock<Vec<c_int>> = OnceLock::new();
    let is_ignored = |signal: &c_int| {
        // SAFETY: it is asked for, into a value of the call's own; numbers that are no signal of a
        // program's are refused.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(*signal, ptr::null(), &mut action) == 0
                && action.sa_sigaction == libc::SIG_IGN
        }
    };
    IGNORED.get_or_init(|| (1..=libc::SIGRTMAX()).filter(is_ignored).collect())
}

/// Agents may have been made dear to the OOM killer, and with them this process; tasks are not.
fn is_dear_to_the_oom_killer() -> bool {
    static IS_DEAR: OnceLock<bool> = OnceLock::new();
    *IS_DEAR.get_or_init(|| {
        let score = std::fs::read_to_string("/proc/self/oom_score_adj");
        score.map_or(true, |score| score.trim() != "0")
    })
}
