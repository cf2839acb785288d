//! Starting a command: found, confined and executed, or a reason why not.
//!
//! The new process is in its cgroup before it executes anything, leads a session of its own, and has no more than its three standard descriptors, an
//! empty signal mask and the environment that it was given.

use std::collections::BTreeMap;
use std::ffi::{CString, NulError};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::unistd::Pid;
use tepui_executor::output::Keep;
use tepui_types::command::CommandStdin;
use tepui_types::task::reason;
use tepui_types::wire::executor::VolumeFolder;
use tepui_types::{Bytes, Reason};

use crate::beside::{Begun, Stdio};
use crate::folder::{self, SpareFolder};
use crate::lookup::{self, Unfit};
use crate::process::{Newborn, Program, StartError, c_strings};
use crate::stdio::{CommandStdio, Theirs};
use crate::verdict;

/// The search path of a command that brings none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The longest argument that execve(2) takes (MAX_ARG_STRLEN).
const MAX_ARGUMENT: usize = 128 * 1024;

/// A command with all that it gets.
pub struct Prepared<'a> {
    /// Program and arguments; at least the program.
    pub argv: &'a [String],
    /// Where it runs.
    pub scene: &'a Scene,
    /// Its persistent volumes.
    pub volumes: &'a [VolumeFolder],
    /// What it reads.
    pub stdin: CommandStdin,
    /// What is kept of each of its outputs.
    pub keep: Keep,
    /// A folder that may be its own.
    pub folder: Option<SpareFolder>,
}

/// Where commands of a task run, on the machine as it is.
#[derive(Clone)]
pub struct Scene {
    env: BTreeMap<String, String>,
    sandbox: PathBuf,
    /// The memory of their cgroup; without one they end with this process.
    mem: Option<Bytes>,
}

impl Scene {
    /// With the environment that a task asked for and its `TEPUI_…` names, in its sandbox, and in its
    /// cgroup if that has so much memory.
    pub fn new(mut env: BTreeMap<String, String>, sandbox: PathBuf, mem: Option<Bytes>) -> Self {
        env.entry("PATH".into())
            .or_insert_with(|| DEFAULT_PATH.into());
        let home = sandbox.display().to_string();
        env.entry("HOME".into()).or_insert(home);
        Self { env, sandbox, mem }
    }

    /// Starts a command in that process, beside the task.
    ///
    /// # Errors
    /// Says what kept it from that, where that is not the command's own doing.
    pub fn run(
        &self,
        argv: &[String],
        env: &[(String, String)],
        stdio: Stdio,
        newborn: Newborn,
    ) -> Result<Begun, String> {
        let stderr = stdio.stderr().map_err(|error| error.to_string())?;
        match self.start_beside(argv, env, stdio, newborn) {
            Ok(pid) => Ok(Begun::Runs(pid)),
            Err(reason) if lookup::exit_code(&reason).is_some() => Ok(Begun::Unfit(reason, stderr)),
            Err(reason) => Err(reason.message),
        }
    }

    fn start_beside(
        &self,
        argv: &[String],
        env: &[(String, String)],
        stdio: Stdio,
        newborn: Newborn,
    ) -> Result<Pid, Reason> {
        let has_terminal = stdio.is_terminal();
        let stdio = stdio.into_three();
        let stdio = stdio.map_err(|error| executor_failed(format!("its output: {error}")))?;
        let stdio = stdio.each_ref().map(AsFd::as_fd);
        let mut scene = self.clone();
        scene.env.extend(env.iter().cloned());
        scene.start(argv, stdio, has_terminal, newborn)
    }

    fn start(
        &self,
        argv: &[String],
        stdio: [BorrowedFd<'_>; 3],
        has_terminal: bool,
        newborn: Newborn,
    ) -> Result<Pid, Reason> {
        let name = argv.first().map_or("", String::as_str);
        let path = lookup::program(
            name,
            &self.env["PATH"],
            &self.sandbox,
            "the agent's machine",
        );
        let path = path.map_err(Unfit::into_reason)?;
        let program = self.program(argv, &path, stdio, has_terminal);
        let program = program.map_err(|_| {
            command_failed(
                "a NUL is in its arguments or its environment, which no program takes".into(),
            )
        })?;
        match newborn.execute(&program) {
            // Reaped by the server, which reaps everyone.
            Ok(pid) => Ok(pid),
            Err(error) => Err(self.not_started(error, &program, &path)),
        }
    }

    fn not_started(&self, error: StartError, program: &Program<'_>, path: &Path) -> Reason {
        match (self.mem, error) {
            (Some(mem), error) if is_for_memory(&error, program) => verdict::too_little(mem),
            (_, StartError::Program(error)) => lookup::not_executable(path, error).into_reason(),
            (_, error) => executor_failed(format!("the command's process: {error}")),
        }
    }

    fn program<'a>(
        &self,
        argv: &[String],
        path: &Path,
        stdio: [BorrowedFd<'a>; 3],
        has_terminal: bool,
    ) -> Result<Program<'a>, NulError> {
        let text = |path: &Path| CString::new(path.as_os_str().as_bytes());
        let variables = self
            .env
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        Ok(Program {
            path: text(path)?,
            argv: c_strings(argv.iter().map(String::as_str))?,
            env: c_strings(variables)?,
            dir: text(&self.sandbox)?,
            stdio,
            dies_with_executor: self.mem.is_none(),
            has_terminal,
        })
    }
}

impl Prepared<'_> {
    /// Starts it in that process. Its working folder is made when absent; its output goes beside it.
    pub fn start(mut self, newborn: Newborn) -> Result<(Pid, CommandStdio), Reason> {
        let spare = self.folder.take();
        let made = self.make_folder(spare);
        let stdio = made.map_err(|error| {
            let sandbox = self.scene.sandbox.display();
            executor_failed(format!("the sandbox {sandbox} could not be made: {error}"))
        })?;
        let pid = self.start_again(&stdio.theirs, newborn)?;
        Ok((pid, stdio))
    }

    /// Starts it where it has run before.
    pub fn start_again(&self, theirs: &Theirs, newborn: Newborn) -> Result<Pid, Reason> {
        let files = theirs.files.each_ref().map(AsFd::as_fd);
        let started = self
            .scene
            .start(self.argv, files, theirs.is_terminal, newborn);
        started.map_err(lookup::of_task)
    }

    fn make_folder(&self, spare: Option<SpareFolder>) -> io::Result<CommandStdio> {
        let sandbox = self.scene.sandbox.as_path();
        let beside = sandbox.parent().unwrap_or(sandbox);
        if !spare.is_some_and(|spare| spare.give(beside)) {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(folder::MODE);
            // The outer one first: looking for it from within costs a call more.
            builder.create(beside)?;
            builder.create(sandbox)?;
        }
        for volume in self.volumes {
            tepui_executor::volume::link(sandbox, volume)?;
        }
        CommandStdio::make(self.stdin, beside, self.keep)
    }
}

/// Whether that was for want of memory. execve(2) says of arguments that there is no room for, too, that
/// they are too long, though it takes what is no longer than a single one may be.
fn is_for_memory(error: &StartError, program: &Program<'_>) -> bool {
    let words = program.argv.iter().chain(&program.env);
    let length: usize = words.map(|word| word.as_bytes_with_nul().len()).sum();
    match error.source().raw_os_error() {
        Some(libc::ENOMEM) => true,
        Some(libc::E2BIG) => length < MAX_ARGUMENT,
        _ => false,
    }
}

/// What a command reads that is given no input, and writes to when nobody reads.
pub fn nothing() -> Result<BorrowedFd<'static>, Reason> {
    static NOTHING: OnceLock<File> = OnceLock::new();
    if let Some(nothing) = NOTHING.get() {
        return Ok(nothing.as_fd());
    }
    let opened = File::options().read(true).write(true).open("/dev/null");
    let opened = opened.map_err(|error| executor_failed(format!("/dev/null: {error}")))?;
    Ok(NOTHING.get_or_init(|| opened).as_fd())
}

fn command_failed(message: String) -> Reason {
    Reason::new(reason::COMMAND_FAILED, message)
}

fn executor_failed(message: String) -> Reason {
    Reason::new(reason::EXECUTOR_FAILED, message)
}
