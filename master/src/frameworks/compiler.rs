//! Has components compiled in a process apart from the master.
//!
//! The process is this very program under another name (see [`process`]), as `tepui-compiler` starts
//! it; the deployment fails with the reason where it does.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use tepui_compiler::Outcome;
pub use tepui_compiler::{Compiler, Limits};
use tepui_types::Digest;
use tokio::runtime::Handle;

pub mod process;

use process::Refusal;

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
    /// The disk is full.
    #[error(
        "the disk of this master has no room for the compiled component: make room, and deploy again"
    )]
    NoRoom,
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

/// Compiles an artifact into a file. A compilation that nobody waits for any more is killed.
pub async fn compile(
    compiler: &Compiler,
    runtime: &Handle,
    digest: Digest,
    artifact: File,
    mut code: File,
) -> Result<(), CompileError> {
    let answer = code.try_clone().map_err(CompileError::Answer)?;
    let arguments = process::arguments(digest);
    let child = {
        // Guests' threads, from which a component may be asked for, have no I/O of their own.
        let _entered = runtime.enter();
        compiler.start("tepui-master", arguments, artifact, Stdio::from(answer))
    };
    let child = child.map_err(|source| CompileError::Start {
        program: compiler.program.clone(),
        source,
    })?;
    let ended = compiler.end(child).await.map_err(CompileError::Answer)?;
    let failure = match ended.outcome {
        Outcome::Done => return Ok(()),
        Outcome::Damaged => return Err(CompileError::Damaged),
        Outcome::Refused => {
            let refusal = read_refusal(&mut code).map_err(CompileError::Answer)?;
            return Err(refusal.into());
        }
        Outcome::OverLimit(what) => CompileError::OverLimit(what),
        Outcome::TooSlow => CompileError::OverLimit(format!("{} s", compiler.wait.as_secs())),
        Outcome::NoRoom => CompileError::NoRoom,
        Outcome::Crashed(status) => CompileError::Crashed(status),
    };
    tracing::warn!(%digest, said = ended.said, "a compilation failed: {failure}");
    Err(failure)
}

fn read_refusal(file: &mut File) -> io::Result<Refusal> {
    let mut json = String::new();
    file.rewind()?;
    file.read_to_string(&mut json)?;
    Ok(serde_json::from_str(&json)?)
}
