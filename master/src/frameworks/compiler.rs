//! The compiler: a process for each compilation, apart from the master.
//!
//! A component comes from strangers, and a compiler is large: one that loops, crashes or wants all
//! memory takes its own process with it, and the deployment fails with the reason. The process is
//! this very program under another name (see [`process`]), with limits and without an environment.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use tepui_types::{Bytes, Digest};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};

pub mod process;

pub use process::Limits;
use process::Refusal;

/// The file that this process was started from, also when a new release lies at its path by now:
/// compiler and master must be of one build.
const THIS_PROGRAM: &str = "/proc/self/exe";
/// Threads of the compiler: some are left to the cluster on a large machine, and its memory does not
/// grow with the machine.
const MAX_THREADS: usize = 4;
/// The longest compilation. Large interpreters take some ten seconds; waiting longer helps nobody.
const WAIT: Duration = Duration::from_secs(120);
/// What is kept of a failed compiler's last words: a panic with its place.
const SAID_BYTES: u64 = 4 * 1024;

/// Why nothing was compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The artifact is not what it must be.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The artifact's bytes are not those of its digest.
    #[error("the artifact is damaged")]
    Damaged,
    /// It used all that it may.
    #[error("compiling takes more than {0}: make the component smaller")]
    OverLimit(String),
    /// It ended in no way that was foreseen.
    #[error(
        "the compiler failed on this component ({0}); the master's log has what it said. It is a \
         fault of this release, or the machine is out of memory"
    )]
    Crashed(ExitStatus),
    /// There is no compiler.
    #[error("failed to start the compiler {program}")]
    Start {
        /// What was started.
        program: PathBuf,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// Its answer cannot be read, or it cannot be waited for.
    #[error("failed to hear the compiler's answer")]
    Answer(#[source] io::Error),
}

/// How to compile.
#[derive(Debug, Clone)]
pub struct Compiler {
    /// A `tepui-master`.
    pub program: PathBuf,
    /// What one compilation may use.
    pub limits: Limits,
    /// How long one may take.
    pub wait: Duration,
}

impl Default for Compiler {
    fn default() -> Self {
        Self {
            program: THIS_PROGRAM.into(),
            limits: Limits::default(),
            wait: WAIT,
        }
    }
}

impl Compiler {
    /// Compiles an artifact into a file. A compilation that nobody waits for any more is killed.
    pub async fn compile(
        &self,
        runtime: &tokio::runtime::Handle,
        digest: Digest,
        artifact: File,
        mut code: File,
    ) -> Result<(), CompileError> {
        let answer = code.try_clone().map_err(CompileError::Answer)?;
        let mut child = self.spawn(runtime, digest, artifact, answer)?;
        let Ok(ended) = tokio::time::timeout(self.wait, end(&mut child)).await else {
            // It may have ended by itself meanwhile.
            child.kill().await.ok();
            let wait = format!("{} s", self.wait.as_secs());
            return Err(CompileError::OverLimit(wait));
        };
        let (status, said) = ended.map_err(CompileError::Answer)?;
        match status.code().map(u8::try_from) {
            Some(Ok(0)) => Ok(()),
            Some(Ok(process::DAMAGED)) => Err(CompileError::Damaged),
            Some(Ok(process::REFUSED)) => {
                let refusal = read_refusal(&mut code).map_err(CompileError::Answer)?;
                Err(refusal.into())
            }
            _ => Err(self.explain(digest, status, &said)),
        }
    }

    fn spawn(
        &self,
        runtime: &tokio::runtime::Handle,
        digest: Digest,
        artifact: File,
        code: File,
    ) -> Result<Child, CompileError> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut command = Command::new(&self.program);
        command
            .arg0("tepui-master")
            .args(process::arguments(digest, &self.limits))
            .env_clear()
            .env("RAYON_NUM_THREADS", threads.min(MAX_THREADS).to_string())
            .stdin(artifact)
            .stdout(code)
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // Guests' threads, from which a component may be asked for, have no I/O of their own.
        let _entered = runtime.enter();
        command.spawn().map_err(|source| CompileError::Start {
            program: self.program.clone(),
            source,
        })
    }

    fn explain(&self, digest: Digest, status: ExitStatus, said: &str) -> CompileError {
        tracing::warn!(%digest, %status, said, "a compilation failed");
        let signal = status
            .signal()
            .and_then(|signal| Signal::try_from(signal).ok());
        let limits = &self.limits;
        match signal {
            Some(Signal::SIGXCPU) => {
                CompileError::OverLimit(format!("{} s of processor time", limits.cpu_s))
            }
            Some(Signal::SIGXFSZ) => {
                CompileError::OverLimit(format!("{} of compiled code", Bytes(limits.code)))
            }
            // The words of Rust's standard library, where memory is refused.
            _ if said.contains("memory allocation of") => {
                CompileError::OverLimit(format!("{} of memory", Bytes(limits.memory)))
            }
            _ => CompileError::Crashed(status),
        }
    }
}

/// Waits for the process, and hears what it says.
async fn end(child: &mut Child) -> io::Result<(ExitStatus, String)> {
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        stderr.take(SAID_BYTES).read_to_end(&mut said).await?;
    }
    let status = child.wait().await?;
    Ok((status, String::from_utf8_lossy(&said).trim().to_owned()))
}

fn read_refusal(file: &mut File) -> io::Result<Refusal> {
    let mut json = String::new();
    file.rewind()?;
    file.read_to_string(&mut json)?;
    Ok(serde_json::from_str(&json)?)
}
