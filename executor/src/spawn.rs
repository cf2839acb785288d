//! Starting an executor, and reaching it: the agent's side.
//!
//! The agent binds the socket in the executor's folder and hands the listening
//! descriptor down as standard input, so that a connection made before the
//! executor is ready waits in the backlog. The process started here forks once
//! more and ends (see [`startup`](crate::startup)), so the executor is nobody's
//! child: it outlives the agent, and the agent has nothing to wait for.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use tepui_types::{AgentId, Bytes};

use crate::privileges::Privileges;
use crate::runtime::Runtime;

/// The socket in the executor's folder.
pub const SOCKET_FILE: &str = "socket";
/// The token in the executor's folder, readable by its owner alone.
pub const TOKEN_FILE: &str = "token";
/// What the executor itself has to say, in its folder.
pub const LOG_FILE: &str = "log";

/// The longest path that `sockaddr_un` takes, without its closing NUL.
const MAX_SOCKET_PATH: usize = 107;
/// How much of a failed executor's log stands in the error, in bytes.
const LOG_TAIL: u64 = 1024;
/// The only variables that an executor inherits.
const INHERITED: [&str; 2] = ["TEPUI_LOG", "RUST_BACKTRACE"];

/// An executor to be started.
#[derive(Debug, Clone)]
pub struct Spawn<'a> {
    /// The executor's binary.
    pub program: &'a Path,
    /// Its folder; made when absent. One executor has it for ever.
    pub dir: &'a Path,
    /// What the agent will prove itself with; random.
    pub token: u128,
    /// The agent, for `TEPUI_AGENT_ID`.
    pub agent: AgentId,
    /// How much of each output of a task is kept.
    pub output_limit: Bytes,
    /// What it and its tasks may do.
    pub privileges: Privileges,
    /// Who makes its container; none for what runs no container.
    pub runtime: Option<&'a Runtime>,
    /// Where machine code of WebAssembly programs is kept, absolute: one folder for all executors of
    /// the agent, which make it. Where there is none, each compiles by itself.
    pub code_cache: Option<&'a Path>,
    /// Where the small outputs of WebAssembly programs are kept together ([`crate::packs`]), absolute. Where
    /// there is none, each output is a file.
    pub packs: Option<&'a Path>,
    /// The cgroup of the executor itself, below the hierarchies' roots; made by
    /// the executor. None where there are no cgroups.
    pub cgroup: Option<&'a str>,
}

/// Why an executor was not started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// Its folder could not be prepared.
    #[error("failed to prepare the executor's folder {path}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its socket could not be bound.
    #[error("failed to bind the executor's socket in {path}")]
    Socket {
        /// In which folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its binary could not be executed.
    #[error("failed to execute {program}")]
    Program {
        /// Which.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended before it was ready.
    #[error("{program} ended while it started ({status}): {log}")]
    Ended {
        /// Which.
        program: PathBuf,
        /// How.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
}

/// Starts an executor, and returns when it runs on its own. Blocks for the few
/// milliseconds that this takes.
///
/// # Errors
/// Every [`SpawnError`]; the folder may be left behind.
pub fn spawn(request: &Spawn<'_>) -> Result<(), SpawnError> {
    let folder = |source| SpawnError::Folder {
        path: request.dir.to_owned(),
        source,
    };
    let log = prepare_folder(request).map_err(folder)?;
    let dir = request.dir.canonicalize().map_err(folder)?;
    let listener = bind(&dir).map_err(|source| SpawnError::Socket {
        path: request.dir.to_owned(),
        source,
    })?;
    let mut command = Command::new(request.program);
    command
        .arg("--dir")
        .arg(&dir)
        .arg("--agent")
        .arg(request.agent.to_string())
        .arg("--output-limit")
        .arg(request.output_limit.0.to_string())
        .arg("--privileges")
        .arg(request.privileges.as_str());
    if let Some(runtime) = request.runtime {
        command.arg("--runtime").arg(runtime.to_string());
    }
    if let Some(folder) = request.code_cache {
        command.arg("--code-cache").arg(folder);
    }
    if let Some(folder) = request.packs {
        command.arg("--packs").arg(folder);
    }
    if let Some(cgroup) = request.cgroup {
        command.arg("--cgroup").arg(cgroup);
    }
    command.env_clear();
    let inherited = INHERITED
        .iter()
        .filter_map(|name| Some((name, std::env::var_os(name)?)));
    command.envs(inherited);
    // A group of its own, so that a Ctrl-C meant for the agent ends no task.
    command.process_group(0);
    command.stdin(OwnedFd::from(listener));
    let outputs = log.try_clone().and_then(|out| Ok((out, log.try_clone()?)));
    let (stdout, stderr) = outputs.map_err(folder)?;
    command
        .stdout(Stdio::from(stdout))
        .stderr(Stdio::from(stderr));
    let status = command.status().map_err(|source| SpawnError::Program {
        program: request.program.to_owned(),
        source,
    })?;
    if status.success() {
        return Ok(());
    }
    let log = tail(log).unwrap_or_default();
    Err(SpawnError::Ended {
        program: request.program.to_owned(),
        status,
        log,
    })
}

/// Makes the folder with its token, and opens its log.
fn prepare_folder(request: &Spawn<'_>) -> io::Result<File> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(request.dir)?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut token = options.open(request.dir.join(TOKEN_FILE))?;
    write!(token, "{:032x}", request.token)?;
    let mut options = OpenOptions::new();
    options
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(request.dir.join(LOG_FILE))
}

fn tail(mut log: File) -> io::Result<String> {
    let len = log.metadata()?.len();
    log.seek(SeekFrom::Start(len.saturating_sub(LOG_TAIL)))?;
    let mut bytes = Vec::new();
    log.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

fn bind(dir: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(dir.join(SOCKET_FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    at_socket(dir, |path| UnixListener::bind(path))
}

/// Connects to the executor in `dir`. A refused connection or a missing socket
/// means that it is gone.
///
/// # Errors
/// Those of connect(2).
pub fn connect(dir: &Path) -> io::Result<UnixStream> {
    at_socket(dir, |path| UnixStream::connect(path))
}

/// Calls `with` with a path of the socket that is short enough for the kernel.
fn at_socket<T>(dir: &Path, with: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
    let path = dir.join(SOCKET_FILE);
    if path.as_os_str().len() <= MAX_SOCKET_PATH {
        return with(&path);
    }
    let folder = File::open(dir)?;
    with(
        &Path::new("/proc/self/fd")
            .join(folder.as_raw_fd().to_string())
            .join(SOCKET_FILE),
    )
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn sockets_work_in_folders_with_long_paths() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("x".repeat(200));
        fs::create_dir(&dir).unwrap();
        let listener = bind(&dir).unwrap();
        connect(&dir).unwrap();
        drop(listener);
        assert_eq!(refusal(&dir), io::ErrorKind::ConnectionRefused);
        bind(&dir).unwrap();
    }

    /// Why nobody can be reached. A process that another test is starting holds
    /// our listener, too, until it executes its program.
    #[expect(clippy::disallowed_methods, reason = "real processes, in real time")]
    fn refusal(dir: &Path) -> io::ErrorKind {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match connect(dir) {
                Err(error) => return error.kind(),
                Ok(_) => assert!(Instant::now() < deadline, "somebody still listens"),
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_program_that_fails_is_named_with_its_words() {
        let root = tempfile::tempdir().unwrap();
        let request = |program| Spawn {
            program: Path::new(program),
            dir: root.path(),
            token: 1,
            agent: AgentId(1),
            privileges: Privileges::default(),
            output_limit: Bytes(0),
            runtime: None,
            code_cache: None,
            packs: None,
            cgroup: None,
        };
        let error = spawn(&request("/no/such/executor")).unwrap_err();
        assert_eq!(error.to_string(), "failed to execute /no/such/executor");
        // `ls` does not know `--dir`, which does for a failing executor.
        let error = spawn(&request("/bin/ls")).unwrap_err().to_string();
        assert!(error.contains("/bin/ls ended while it started"), "{error}");
        assert!(error.contains("--dir"), "{error}");
    }
}
