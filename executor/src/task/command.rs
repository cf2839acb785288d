//! Starting a command: found, confined and executed, or a reason why not.
//!
//! The new process is in its cgroup before it executes anything, leads a
//! session of its own, and has no more than its three standard descriptors, an
//! empty signal mask and the environment that it was given.

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::fs::{self, DirBuilder, File};
use std::io::{self, PipeWriter, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use nix::fcntl::OFlag;
use nix::unistd::{AccessFlags, Pid, access, pipe2};
use tepui_types::task::reason;
use tepui_types::{Bytes, Reason};

use crate::group::TaskGroup;
use crate::outputs::Outputs;

/// The search path of a command that brings none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Said by the new process right before it executes the program.
const PREPARED: u8 = b'p';

/// A command with all that it gets.
pub struct Prepared<'a> {
    /// Program and arguments; at least the program.
    pub argv: &'a [String],
    /// What it asked for, and the `TEPUI_…` names.
    pub env: BTreeMap<String, String>,
    /// Its working folder, made when absent; its output goes beside it.
    pub sandbox: &'a Path,
    /// How much of each of its outputs is kept.
    pub output_limit: Bytes,
    /// Where it is put first.
    pub group: Option<&'a TaskGroup>,
}

impl Prepared<'_> {
    /// Starts it.
    pub fn start(mut self) -> Result<(Pid, Outputs), Reason> {
        let made = self.make_folder();
        let (outputs, [stdout, stderr]) = made.map_err(|error| {
            let sandbox = self.sandbox.display();
            executor_failed(format!("the sandbox {sandbox} could not be made: {error}"))
        })?;
        self.complete_env();
        let program = self.find_program()?;
        let entrances = self.group.map_or(&[][..], TaskGroup::entrances);
        let (progress, report) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
            .map_err(|errno| executor_failed(format!("no pipe could be made: {errno}")))?;
        let mut command = Command::new(&program);
        command.arg0(&self.argv[0]).args(&self.argv[1..]);
        command
            .env_clear()
            .envs(&self.env)
            .current_dir(self.sandbox);
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let confinement = Confinement::new(entrances, &report, self.group.is_none());
        // SAFETY: `enter` makes system calls alone, and allocates nothing.
        unsafe { command.pre_exec(move || confinement.enter()) };
        let spawned = command.spawn();
        drop(report);
        match spawned {
            // Reaped by the server, which reaps everyone.
            Ok(child) => Ok((Pid::from_raw(child.id() as i32), outputs)),
            Err(error) if was_prepared(progress) => Err(self.not_executable(&program, &error)),
            Err(error) => Err(executor_failed(format!(
                "the command's process failed: {error}"
            ))),
        }
    }

    fn make_folder(&self) -> io::Result<(Outputs, [PipeWriter; 2])> {
        let beside = self.sandbox.parent().unwrap_or(self.sandbox);
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o755);
        // The outer one first: looking for it from within costs a call more.
        builder.create(beside)?;
        builder.create(self.sandbox)?;
        Outputs::make(beside, self.output_limit)
    }

    fn complete_env(&mut self) {
        self.env
            .entry("PATH".into())
            .or_insert_with(|| DEFAULT_PATH.into());
        let home = self.sandbox.display().to_string();
        self.env.entry("HOME".into()).or_insert(home);
    }

    /// The file to execute: looked up as a shell would, so that what is wrong
    /// can be said in more than one number.
    fn find_program(&self) -> Result<PathBuf, Reason> {
        let name = self.argv[0].as_str();
        if name.contains('/') {
            let path = self.sandbox.join(name);
            return match executable(&path) {
                Ok(()) => Ok(path),
                Err(why) => Err(command_failed(format!(
                    "`{name}` cannot be executed: {why}"
                ))),
            };
        }
        let search = &self.env["PATH"];
        let candidates = search
            .split(':')
            .map(|folder| self.sandbox.join(folder).join(name));
        let mut refused = None;
        for path in candidates {
            match executable(&path) {
                Ok(()) => return Ok(path),
                Err(why) if path.exists() => refused = refused.or(Some((path, why))),
                Err(_) => {}
            }
        }
        Err(command_failed(match refused {
            Some((path, why)) => format!("`{}` cannot be executed: {why}", path.display()),
            None => format!(
                "`{name}` was not found in PATH ({search}): No such file or directory (os error \
                 2). Is it installed on the agent's machine?"
            ),
        }))
    }

    fn not_executable(&self, program: &Path, error: &io::Error) -> Reason {
        let hint = match error.raw_os_error() {
            Some(libc::ENOENT) => ", though the file is there: the interpreter it names is not",
            _ => "",
        };
        let (name, path) = (&self.argv[0], program.display());
        command_failed(format!(
            "`{name}` ({path}) could not be executed: {error}{hint}"
        ))
    }
}

fn executable(path: &Path) -> Result<(), io::Error> {
    if fs::metadata(path)?.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    Ok(access(path, AccessFlags::X_OK)?)
}

/// Whether the new process got as far as executing.
fn was_prepared(progress: OwnedFd) -> bool {
    let mut word = [0];
    File::from(progress)
        .read(&mut word)
        .is_ok_and(|count| count == 1 && word[0] == PREPARED)
}

fn command_failed(message: String) -> Reason {
    Reason::new(reason::COMMAND_FAILED, message)
}

fn executor_failed(message: String) -> Reason {
    Reason::new(reason::EXECUTOR_FAILED, message)
}

/// What the new process does to itself between fork and exec.
struct Confinement {
    entrances: Vec<RawFd>,
    report: RawFd,
    /// An agent under nohup or in a shell's background ignores signals.
    ignored: &'static [c_int],
    dies_with_executor: bool,
}

impl Confinement {
    fn new(entrances: &[File], report: &OwnedFd, dies_with_executor: bool) -> Self {
        Self {
            entrances: entrances.iter().map(AsRawFd::as_raw_fd).collect(),
            report: report.as_raw_fd(),
            ignored: ignored_signals(),
            dies_with_executor,
        }
    }

    /// Runs in the new process, where only async-signal-safe calls are allowed.
    fn enter(&self) -> io::Result<()> {
        // SAFETY: plain system calls on descriptors that are open here and on
        // constants; `mask` is initialized by sigemptyset before it is used.
        unsafe {
            check(libc::setsid())?;
            for entrance in &self.entrances {
                check(libc::write(*entrance, c"0".as_ptr().cast(), 1))?;
            }
            check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            if self.dies_with_executor {
                // Without a cgroup nobody could find it after the executor's death.
                check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            }
            // Agents may have been made dear to the OOM killer; tasks are not.
            let score = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY);
            if score >= 0 {
                libc::write(score, c"0".as_ptr().cast(), 1);
                libc::close(score);
            }
            for signal in self.ignored {
                libc::signal(*signal, libc::SIG_DFL);
            }
            let mut mask = std::mem::zeroed();
            libc::sigemptyset(&mut mask);
            check(libc::sigprocmask(
                libc::SIG_SETMASK,
                &mask,
                std::ptr::null_mut(),
            ))?;
            // Everything of the executor is opened close-on-exec; this is for
            // what a library may forget. Kernels before 5.11 refuse the call.
            libc::close_range(
                3,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC as libc::c_int,
            );
            check(libc::write(self.report, [PREPARED].as_ptr().cast(), 1))?;
        }
        Ok(())
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
            libc::sigaction(*signal, std::ptr::null(), &mut action) == 0
                && action.sa_sigaction == libc::SIG_IGN
        }
    };
    IGNORED.get_or_init(|| (1..=libc::SIGRTMAX()).filter(is_ignored).collect())
}

fn check(result: impl TryInto<i64>) -> io::Result<()> {
    match result.try_into() {
        Ok(number) if number >= 0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
