//! A new process, from its birth to the program that it executes.
//!
//! It is born as posix_spawn(3) does it: until it executes, it runs in this process's memory while
//! this process waits, so nothing is copied that would be thrown away at once. What it does in
//! between to confine itself is more than posix_spawn can be told.

use std::ffi::{CStr, CString, NulError, c_char, c_int, c_void};
use std::fs::File;
use std::io;
use std::iter::once;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;
use std::sync::OnceLock;

use nix::sys::wait::waitpid;
use nix::unistd::Pid;

/// The stack on which it prepares itself, in bytes; far more than a few system calls need.
const STACK: usize = 64 * 1024;
/// What it says of itself; makes it like any other to the OOM killer.
const OOM_SCORE: &CStr = c"/proc/self/oom_score_adj";

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
    /// Where it writes `0` to be in its cgroup.
    pub entrances: &'a [File],
    /// It ends with this process: without a cgroup nobody could find it afterwards.
    pub dies_with_executor: bool,
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

/// Text as the system takes it.
///
/// # Errors
/// When there is a NUL in it.
pub fn c_strings<T: Into<Vec<u8>>>(
    texts: impl IntoIterator<Item = T>,
) -> Result<Vec<CString>, NulError> {
    texts.into_iter().map(CString::new).collect()
}

impl Program<'_> {
    /// Executes it in a new process, which the caller reaps.
    ///
    /// # Errors
    /// When it runs nowhere; nothing is left to reap then.
    pub fn start(&self) -> Result<Pid, StartError> {
        let (argv, env) = (pointers(&self.argv), pointers(&self.env));
        let mut birth = Birth {
            path: self.path.as_ptr(),
            argv: argv.as_ptr(),
            env: env.as_ptr(),
            dir: self.dir.as_ptr(),
            stdio: self.stdio.map(|fd| fd.as_raw_fd()),
            entrances: self.entrances.iter().map(AsRawFd::as_raw_fd).collect(),
            dies_with_executor: self.dies_with_executor,
            ignored: ignored_signals(),
            is_dear: is_dear_to_the_oom_killer(),
            failure: None,
        };
        let mut stack = Box::<[u128]>::new_uninit_slice(STACK / size_of::<u128>());
        // SAFETY: the stack is aligned, grows downwards from its end and outlives the call, as
        // `birth` does: with CLONE_VFORK this process goes on only when the new one has executed
        // or ended. Until then `be_born` is all that runs in this memory. It makes system calls
        // alone, allocates nothing and does not unwind.
        let pid = unsafe {
            libc::clone(
                be_born,
                stack.as_mut_ptr_range().end.cast(),
                libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
                ptr::from_mut(&mut birth).cast(),
            )
        };
        if pid < 0 {
            return Err(StartError::Process {
                step: "make a process",
                source: io::Error::last_os_error(),
            });
        }
        let pid = Pid::from_raw(pid);
        // It may have been written by the other process, which the compiler does not know of.
        // SAFETY: a reference to a living value.
        let failure = unsafe { ptr::read_volatile(&birth.failure) };
        let Some((step, errno)) = failure else {
            return Ok(pid);
        };
        // It has ended; who else would wait for it does not know it.
        let _ = waitpid(pid, None);
        let source = io::Error::from_raw_os_error(errno);
        Err(match step {
            Step::Execute => StartError::Program(source),
            Step::Confine(step) => StartError::Process { step, source },
        })
    }
}

fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    let texts = texts.iter().map(|text| text.as_ptr());
    texts.chain(once(ptr::null())).collect()
}

/// What the new process needs, all of it made before.
struct Birth {
    path: *const c_char,
    argv: *const *const c_char,
    env: *const *const c_char,
    dir: *const c_char,
    stdio: [RawFd; 3],
    entrances: Vec<RawFd>,
    dies_with_executor: bool,
    /// An agent under nohup or in a shell's background ignores signals.
    ignored: &'static [c_int],
    is_dear: bool,
    /// Where it failed, and why.
    failure: Option<(Step, c_int)>,
}

#[derive(Clone, Copy)]
enum Step {
    Confine(&'static str),
    Execute,
}

/// The new process. It returns, and so ends, only when it has failed.
extern "C" fn be_born(birth: *mut c_void) -> c_int {
    // SAFETY: it is the `Birth` of `start`, which waits and touches it no more until then.
    let birth = unsafe { &mut *birth.cast::<Birth>() };
    let failed = match birth.confine() {
        Err(step) => Step::Confine(step),
        Ok(()) => {
            // SAFETY: NUL-terminated strings, and lists of them with a null pointer at the end.
            unsafe { libc::execve(birth.path, birth.argv, birth.env) };
            Step::Execute
        }
    };
    let errno = io::Error::last_os_error().raw_os_error();
    birth.failure = Some((failed, errno.unwrap_or(libc::EIO)));
    127
}

impl Birth {
    /// Only async-signal-safe calls are allowed here. `Err` names the one that failed.
    fn confine(&self) -> Result<(), &'static str> {
        // SAFETY: plain system calls on descriptors that are open here and on constants; `mask` is
        // initialized by sigemptyset before it is used.
        unsafe {
            check(libc::setsid(), "begin a session")?;
            for entrance in &self.entrances {
                let written = libc::write(*entrance, c"0".as_ptr().cast(), 1);
                check(written as c_int, "enter the cgroup")?;
            }
            for (target, source) in self.stdio.iter().enumerate() {
                check(
                    libc::dup2(*source, target as RawFd),
                    "set up its input and output",
                )?;
            }
            check(libc::chdir(self.dir), "enter its sandbox")?;
            let no_privileges = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            check(no_privileges, "give up privileges")?;
            if self.dies_with_executor {
                let bound = libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                check(bound, "be bound to its executor")?;
            }
            if self.is_dear {
                let score = libc::open(OOM_SCORE.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
                libc::write(score, c"0".as_ptr().cast(), 1);
            }
            for signal in self.ignored {
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

fn check(result: c_int, step: &'static str) -> Result<(), &'static str> {
    match result {
        0.. => Ok(()),
        _ => Err(step),
    }
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
