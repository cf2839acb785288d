//! Starting a command: found, confined and executed, or a reason why not.
//!
//! The new process is in its cgroup before it executes anything, leads a session of its own, and has no more than its three standard descriptors, an
//! empty signal mask and the environment that it was given.

use std::collections::BTreeMap;
use std::ffi::{CString, NulError};
use std::fs::{self, DirBuilder, File};
use std::io::{self, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::unistd::{AccessFlags, Pid, access};
use tepui_types::task::reason;
use tepui_types::wire::executor::VolumeFolder;
use tepui_types::{Bytes, Reason};

use crate::outputs::Outputs;
use crate::process::{Newborn, Program, StartError, c_strings};

/// The search path of a command that brings none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command with all that it gets.
pub struct Prepared<'a> {
    /// Program and arguments; at least the program.
    pub argv: &'a [String],
    /// What it asked for, and the `TEPUI_…` names.
    pub env: BTreeMap<String, String>,
    /// Its working folder, made when absent; its output goes beside it.
    pub sandbox: &'a Path,
    /// Its persistent volumes.
    pub volumes: &'a [VolumeFolder],
    /// How much of each of its outputs is kept.
    pub output_limit: Bytes,
    /// Without a cgroup it ends with this process.
    pub dies_with_executor: bool,
}

impl Prepared<'_> {
    /// Starts it in that process.
    pub fn start(mut self, newborn: Newborn) -> Result<(Pid, Outputs), Reason> {
        let made = self.make_folder();
        let (outputs, [stdout, stderr]) = made.map_err(|error| {
            let sandbox = self.sandbox.display();
            executor_failed(format!("the sandbox {sandbox} could not be made: {error}"))
        })?;
        self.complete_env();
        let path = self.find_program()?;
        let stdio = [nothing()?, stdout.as_fd(), stderr.as_fd()];
        let program = self.program(&path, stdio).map_err(|_| {
            command_failed(
                "a NUL is in its arguments or its environment, which no program takes".into(),
            )
        })?;
        match newborn.execute(&program) {
            // Reaped by the server, which reaps everyone.
            Ok(pid) => Ok((pid, outputs)),
            Err(StartError::Program(error)) => Err(self.not_executable(&path, &error)),
            Err(error) => Err(executor_failed(format!("the command's process: {error}"))),
        }
    }

    fn program<'a>(
        &'a self,
        path: &Path,
        stdio: [BorrowedFd<'a>; 3],
    ) -> Result<Program<'a>, NulError> {
        let text = |path: &Path| CString::new(path.as_os_str().as_bytes());
        let variables = self
            .env
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        Ok(Program {
            path: text(path)?,
            argv: c_strings(self.argv.iter().map(String::as_str))?,
            env: c_strings(variables)?,
            dir: text(self.sandbox)?,
            stdio,
            dies_with_executor: self.dies_with_executor,
        })
    }

    fn make_folder(&self) -> io::Result<(Outputs, [PipeWriter; 2])> {
        let beside = self.sandbox.parent().unwrap_or(self.sandbox);
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o755);
        // The outer one first: looking for it from within costs a call more.
        builder.create(beside)?;
        builder.create(self.sandbox)?;
        for volume in self.volumes {
            tepui_executor::volume::link(self.sandbox, volume)?;
        }
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

/// What a command reads that is given no input.
fn nothing() -> Result<BorrowedFd<'static>, Reason> {
    static NOTHING: OnceLock<File> = OnceLock::new();
    if let Some(nothing) = NOTHING.get() {
        return Ok(nothing.as_fd());
    }
    let opened = File::open("/dev/null");
    let opened = opened.map_err(|error| executor_failed(format!("/dev/null: {error}")))?;
    Ok(NOTHING.get_or_init(|| opened).as_fd())
}

fn command_failed(message: String) -> Reason {
    Reason::new(reason::COMMAND_FAILED, message)
}

fn executor_failed(message: String) -> Reason {
    Reason::new(reason::EXECUTOR_FAILED, message)
}
