//! Starting a container from its specification: by the built-in runtime (libcontainer), or by
//! another that is a program of the machine.
//!
//! Either way a helper does it (see [`attempt`](crate::attempt)), and the process that was made has
//! executed its program when it answers: what kept it from that is the error.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::fchown;
use std::path::{Path, PathBuf};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use nix::sched::{CloneFlags, setns};
use nix::unistd::{Pid, setgroups};
use oci_spec::runtime::{Spec, User};
use tepui_executor::confinement;
use tepui_executor::privileges::Privileges;
use tepui_executor::runtime::Runtime;
use tepui_executor::startup::Startup;
use tepui_types::task::reason;
use tepui_types::wire::executor::RunBeside;
use tepui_types::{Bytes, Reason};

use crate::attempt::Attempt;
use crate::beside::{Begun, Stdio};
use crate::lookup::Unfit;
use crate::program::Program;
use crate::tenant::{Joins, Tenant};
use crate::userns::UserNamespace;
use crate::{command, limits, lookup, process, tenant, userns};

/// The one container of a folder.
pub const ID: &str = "task";
/// What the runtime notes of it, in that folder.
pub const STATE: &str = "runtime";
/// What the container is made of, in that folder.
pub const BUNDLE: &str = "bundle";
/// Its specification, in there.
const SPEC: &str = "config.json";
/// What a runtime's complaint is cut to, in bytes.
const MAX_COMPLAINT: u64 = 1024;

/// With less memory than this a container may have too little to be started: runtimes need some MiB.
const SCARCE: Bytes = Bytes::mib(64);
/// Where the kernel counts, among others, whom it has killed for memory.
const COUNTS: &str = "/proc/vmstat";

/// How a container is started.
pub struct Start<'a> {
    /// By whom.
    pub runtime: &'a Runtime,
    /// With how much memory.
    pub mem: Bytes,
    /// Whether it is confined.
    pub privileges: Privileges,
    /// What it reads and writes by.
    pub stdio: [OwnedFd; 3],
    /// Whether that is a terminal.
    pub has_terminal: bool,
    /// What it is started in, where its specification does not say so.
    pub outside: Outside<'a>,
}

/// What containers whose users are none of the machine's own are started in.
#[derive(Clone, Copy, Default)]
pub struct Outside<'a> {
    /// The network, where that is the machine's: they may not join it themselves.
    pub network: Option<&'a Path>,
    /// Their users.
    pub users: Option<&'a UserNamespace>,
}

impl Outside<'_> {
    /// Has the helper, and all that it starts, there from now on.
    fn enter(&self) -> io::Result<()> {
        if let Some(network) = self.network {
            setns(File::open(network)?, CloneFlags::CLONE_NEWNET)?;
        }
        if self.users.is_some() {
            // Groups of the machine's root are none of theirs.
            setgroups(&[])?;
        }
        Ok(())
    }

    /// The same beside a container of that specification, which may have more than this process.
    fn enter_beside(&self, spec: &Spec) -> Result<(), String> {
        let entered = self.enter();
        entered.map_err(|error| format!("its network and users: {error}"))?;
        match self.users {
            Some(_) => limits::raise(spec),
            None => Ok(()),
        }
    }

    /// Lets its user open these once more, as by `/dev/stdout`.
    fn give(&self, stdio: &[OwnedFd; 3], user: &User) -> Result<(), String> {
        let own = (user.uid(), user.gid());
        let (uid, gid) = match self.users {
            Some(users) => users.of_machine(own.0, own.1)?,
            None => own,
        };
        let mut files = stdio.iter();
        let given = files.try_for_each(|file| fchown(file, Some(uid), Some(gid)));
        given.map_err(|error| format!("its output: {error}"))
    }
}

/// The path by which a runtime finds a namespace that this process has open. The built-in one is forked
/// from this process, and looks for it when it may look into no other.
pub fn path_of(runtime: &Runtime, namespace: &OwnedFd) -> PathBuf {
    let number = namespace.as_raw_fd();
    match runtime {
        Runtime::BuiltIn => format!("/proc/self/fd/{number}").into(),
        Runtime::Program(_) => format!("/proc/{}/fd/{number}", std::process::id()).into(),
    }
}

/// Starts the container; its files go into `dir`. A terminal controls it where the runtime is the
/// built-in one; another is given it as an open file like any other.
pub fn start(start: Start<'_>, spec: &Spec, dir: &Path) -> Result<Attempt, Reason> {
    let failed = |error: String| {
        Reason::new(
            reason::EXECUTOR_FAILED,
            format!("the container's runtime: {error}"),
        )
    };
    let bundle = dir.join(BUNDLE);
    std::fs::create_dir_all(&bundle).map_err(|error| failed(error.to_string()))?;
    forget(dir).map_err(|error| failed(error.to_string()))?;
    let saved = spec.save(bundle.join(SPEC));
    saved.map_err(|error| failed(error.to_string()))?;
    let attempt = Attempt::begin(|| {
        let entered = start.outside.enter();
        entered.map_err(|error| failed(error.to_string()))?;
        limits::raise(spec).map_err(|why| Reason::new(reason::CONTAINER_REFUSED, why))?;
        // Root of a container with users of its own may not say so itself.
        process::be_no_dearer();
        let before = (start.mem < SCARCE).then(killed_for_memory);
        let started = match start.runtime {
            Runtime::BuiltIn => built_in(
                &bundle,
                dir,
                start.stdio,
                start.has_terminal,
                start.privileges,
            ),
            Runtime::Program(path) => {
                let program = Program { path, dir };
                program.start(&bundle, start.stdio)
            }
        };
        started.map_err(|why| match before {
            // With a container that they cannot start, runtimes remove its cgroup and what that counted.
            Some(before) if why.code == reason::EXECUTOR_FAILED && killed_for_memory() > before => {
                Reason::new(reason::MEMORY_LIMIT, why.message)
            }
            _ => why,
        })
    });
    attempt.map_err(|error| failed(error.to_string()))
}

/// How many processes the kernel has killed for memory on the whole machine.
fn killed_for_memory() -> u64 {
    let counts = std::fs::read_to_string(COUNTS).unwrap_or_default();
    let count = counts
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Takes away what was noted of the container's run before.
fn forget(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(dir.join(STATE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn built_in(
    bundle: &Path,
    dir: &Path,
    [stdin, stdout, stderr]: [OwnedFd; 3],
    has_terminal: bool,
    privileges: Privileges,
) -> Result<Pid, Reason> {
    let failed = |error: &dyn std::error::Error| {
        let message = format!("the container could not be made: {}", chain(error));
        Reason::new(reason::EXECUTOR_FAILED, message)
    };
    let (complaints, complain) = io::pipe().map_err(|error| failed(&error))?;
    let entry = Entry {
        privileges,
        complain: complain.as_raw_fd(),
        has_terminal,
        joins: None,
    };
    let builder = ContainerBuilder::new(ID.to_owned(), SyscallType::default())
        .with_root_path(dir.join(STATE))
        .map_err(|error| failed(&error))?
        .with_executor(entry)
        .with_stdin(stdin)
        .with_stdout(stdout)
        .with_stderr(stderr);
    let made = builder
        .as_init(bundle)
        .with_systemd(false)
        .with_detach(true)
        .build();
    let started = made.and_then(|mut container| {
        container.start()?;
        Ok(container)
    });
    drop(complain);
    let complaint = read_complaint(complaints);
    match (started, complaint) {
        (_, Ok(Some(complaint))) => Err(lookup::of_task(complaint)),
        (Ok(container), Ok(None)) => match container.pid() {
            Some(pid) => Ok(Pid::from_raw(pid.as_raw())),
            None => Err(failed(&io::Error::other("it has no process"))),
        },
        (Err(error), _) => Err(failed(&error)),
        (Ok(_), Err(error)) => Err(failed(&error)),
    }
}

/// What nobody writes to, or reads.
pub fn nothing() -> Result<OwnedFd, Reason> {
    let nothing = command::nothing()?.try_clone_to_owned();
    nothing.map_err(|error| Reason::new(reason::EXECUTOR_FAILED, format!("/dev/null: {error}")))
}

/// Starts a command in the container of that folder, which runs: as its user, in its working folder.
pub fn run(
    startup: &Startup,
    dir: &Path,
    outside: Outside<'_>,
    run: &RunBeside,
    stdio: Stdio,
) -> Result<Begun, String> {
    let failed = |error: io::Error| format!("its output: {error}");
    let stderr = match startup.runtime {
        Runtime::BuiltIn => stdio.stderr().map_err(failed)?,
        // It is given that, and says there itself why it fails.
        Runtime::Program(_) => None,
    };
    let spec = Spec::load(dir.join(BUNDLE).join(SPEC));
    let spec = spec.map_err(|error| format!("its container's specification: {}", chain(&error)))?;
    let (has_terminal, is_nothing) = (stdio.is_terminal(), matches!(stdio, Stdio::Nothing));
    let stdio = stdio.into_three().map_err(failed)?;
    if !is_nothing {
        outside.give(&stdio, &tenant::user(&spec))?;
    }
    let attempt = Attempt::begin(|| {
        let entered = outside.enter_beside(&spec);
        // While `/proc` is the machine's.
        process::be_no_dearer();
        entered.map_err(|why| Reason::new(reason::COMMAND_FAILED, why))?;
        match &startup.runtime {
            Runtime::BuiltIn => {
                let tenant = Tenant::of(&spec, run, outside.users);
                let tenant = tenant.map_err(|error| command_failed(&error))?;
                run_by_built_in(startup, dir, tenant, stdio, has_terminal)
            }
            Runtime::Program(path) => Program { path, dir }.run(run, stdio),
        }
    });
    let attempt = attempt.map_err(|error| format!("its helper: {error}"))?;
    Ok(Begun::Attempted(attempt, stderr))
}

fn run_by_built_in(
    startup: &Startup,
    dir: &Path,
    tenant: Tenant,
    [stdin, stdout, stderr]: [OwnedFd; 3],
    has_terminal: bool,
) -> Result<Pid, Reason> {
    let (complaints, complain) = io::pipe().map_err(|error| command_failed(&error))?;
    let entry = Entry {
        privileges: startup.privileges,
        complain: complain.as_raw_fd(),
        has_terminal,
        joins: tenant.joins(),
    };
    let builder = ContainerBuilder::new(ID.to_owned(), SyscallType::default())
        .with_root_path(dir.join(STATE))
        .map_err(|error| command_failed(&error))?
        .with_executor(entry)
        .with_stdin(stdin)
        .with_stdout(stdout)
        .with_stderr(stderr);
    let builder = builder.as_tenant().with_process(Some(tenant.path()));
    let started = builder.with_detach(true).build();
    drop(complain);
    if let Ok(Some(complaint)) = read_complaint(complaints) {
        return Err(complaint);
    }
    let pid = started.map_err(|error| match tenant.lacks_workdir(dir) {
        Some(why) => refused(why),
        None => command_failed(&error),
    })?;
    Ok(Pid::from_raw(pid.as_raw()))
}

/// Waits until nobody can complain any more: the program is being executed, or its process gone. How
/// long that may take is for who waits for the helper.
fn read_complaint(complaints: PipeReader) -> io::Result<Option<Reason>> {
    let mut bytes = Vec::new();
    complaints.take(MAX_COMPLAINT).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text
        .split_once('\n')
        .map(|(code, why)| Reason::new(code, why)))
}

/// What an error says, with all that is behind it.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    message
}

/// What the container's first process does when all is set up around it.
#[derive(Clone)]
struct Entry {
    privileges: Privileges,
    /// A pipe that is closed by execve(2).
    complain: std::os::fd::RawFd,
    /// Whether its standard input is a terminal, which is to control it.
    has_terminal: bool,
    /// The users that it is still to be among.
    joins: Option<Joins>,
}

impl Entry {
    fn complain(&self, why: &Reason) {
        // SAFETY: it is open in this process until it executes its program.
        let to = unsafe { BorrowedFd::borrow_raw(self.complain) };
        let line = format!("{}\n{}", why.code, why.message);
        let _ = to
            .try_clone_to_owned()
            .map(|to| PipeWriter::from(to).write_all(line.as_bytes()));
    }

    fn program(spec: &Spec) -> Result<(PathBuf, &[String], &[String]), Reason> {
        let process = spec.process().as_ref();
        let args = process
            .and_then(|process| process.args().as_deref())
            .unwrap_or_default();
        let env = process
            .and_then(|process| process.env().as_deref())
            .unwrap_or_default();
        let path = env
            .iter()
            .find_map(|variable| variable.strip_prefix("PATH="));
        let name = args.first().ok_or_else(|| refused("there is no program"))?;
        let workdir = process.map_or(Path::new("/"), |process| process.cwd());
        let found = lookup::program(name, path.unwrap_or_default(), workdir, "the container");
        Ok((found.map_err(Unfit::into_reason)?, args, env))
    }
}

impl Executor for Entry {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        Self::program(spec).map(drop).map_err(|why| {
            self.complain(&why);
            ExecutorValidationError::ArgValidationError(why.message)
        })
    }

    /// They are given to execve(2).
    fn setup_envs(
        &self,
        _: std::collections::HashMap<String, String>,
    ) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let why = match self.execute(spec) {
            Ok(never) => match never {},
            Err(why) => why,
        };
        self.complain(&why);
        Err(ExecutorError::Other(why.message))
    }
}

impl Entry {
    fn execute(&self, spec: &Spec) -> Result<std::convert::Infallible, Reason> {
        self.prepare()?;
        let (path, args, env) = Self::program(spec)?;
        if self.has_terminal {
            let taken = process::take_terminal();
            taken.map_err(|error| refused(format!("its terminal: {error}")))?;
        }
        if self.privileges == Privileges::Confined {
            confinement::confine().map_err(|error| refused(chain(&error)))?;
        }
        let texts = |texts: &[String]| process::c_strings(texts.iter().map(String::as_str));
        let nul = |_| refused("a NUL is in its arguments or its environment");
        let path_text = process::c_strings([path.to_string_lossy().as_ref()]).map_err(nul)?;
        let (args, env) = (texts(args).map_err(nul)?, texts(env).map_err(nul)?);
        let path_text = path_text.first();
        let path_text = path_text.ok_or_else(|| refused("there is no program"))?;
        let executed = nix::unistd::execve(path_text, &args, &env);
        executed.map_err(|errno| lookup::not_executable(&path, errno.into()).into_reason())
    }

    /// What comes before its program is looked for.
    fn prepare(&self) -> Result<(), Reason> {
        // First: nothing is done as the machine's root among the container's files.
        if let Some(joins) = &self.joins {
            // SAFETY: it is open in this process until it executes its program.
            let users = unsafe { BorrowedFd::borrow_raw(joins.users) };
            let joined = userns::join(users, &joins.user);
            joined.map_err(|error| refused(format!("its users: {error}")))?;
        }
        process::begin_anew().map_err(|error| refused(format!("its signals: {error}")))
    }
}

fn command_failed(error: &dyn std::error::Error) -> Reason {
    Reason::new(reason::COMMAND_FAILED, chain(error))
}

fn refused(why: impl Into<String>) -> Reason {
    Reason::new(reason::COMMAND_FAILED, why)
}
