//! Has programs compiled apart from the processes that run any.
//!
//! `tepui-executor-wasm --compile DIGEST FOLDER LIMITS…`, started by an executor and by nobody else.
//! Beside its limits the process has few privileges; it alone writes the machine code that executors
//! map. Where a program is refused, its standard output is the [`Reason`].

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use tepui_compiler::process::{self, DAMAGED, REFUSED};
use tepui_compiler::{Compiler, Limits, Outcome};
use tepui_executor::confinement;
use tepui_types::task::reason;
use tepui_types::{Digest, Reason};

use crate::code_cache::{CodeCache, LIMIT};
use crate::{engine, machine_code};

/// What the process is started with.
pub const ARGUMENT: &str = "--compile";
/// How long it may take by the clock, on a machine that has much else to do: what it may use is
/// bounded besides.
const PATIENCE: Duration = Duration::from_secs(600);

/// Has the program with this digest, whose bytes lie at `path`, compiled into `folder`. The outer
/// error may pass, the inner one is the program's.
pub async fn compile(
    digest: Digest,
    path: &Path,
    folder: &Path,
) -> Result<Result<(), Reason>, Reason> {
    let artifact = File::open(path);
    let artifact = artifact.map_err(|error| machine_code::unavailable(digest, path, error))?;
    let failed = |why: String| {
        let message = format!("the program could not be compiled: {why}");
        Reason::new(reason::EXECUTOR_FAILED, message)
    };
    let invalid = |why: String| Reason::new(reason::WASM_INVALID, why);
    let compiler = Compiler {
        wait: PATIENCE,
        ..Compiler::default()
    };
    let digest_text = digest.to_string();
    let arguments = [ARGUMENT.as_ref(), digest_text.as_ref(), folder.as_os_str()];
    let child = compiler.start("tepui-executor-wasm", arguments, artifact, Stdio::piped());
    let child = child.map_err(|error| failed(error.to_string()))?;
    let ended = compiler.end(child).await;
    let ended = ended.map_err(|error| failed(error.to_string()))?;
    let said = ended.said;
    match ended.outcome {
        Outcome::Done => Ok(Ok(())),
        Outcome::Refused => {
            let reason = postcard::from_bytes::<Reason>(&ended.answer);
            Ok(Err(reason.map_err(|error| failed(error.to_string()))?))
        }
        Outcome::Damaged => Err(machine_code::damaged(digest, path)),
        Outcome::OverLimit(what) => Ok(Err(invalid(format!(
            "compiling it takes more than {what}: make it smaller"
        )))),
        Outcome::TooSlow => Err(failed(format!(
            "it took more than {} s",
            PATIENCE.as_secs()
        ))),
        Outcome::NoRoom => Err(failed("the disk of its agent is full".into())),
        Outcome::Crashed(status) if !is_of_its_own(status) => {
            Err(failed(format!("its compiler ended with {status}: {said}")))
        }
        // What ends it so is in the program.
        Outcome::Crashed(status) => Ok(Err(invalid(format!(
            "its compiler ended with {status}: make it smaller. {said}"
        )))),
    }
}

/// Whether a signal ended it that comes of what it does, and not of others or of a machine that is short of
/// memory.
fn is_of_its_own(status: ExitStatus) -> bool {
    let faults = [
        libc::SIGSEGV,
        libc::SIGABRT,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGFPE,
    ];
    status
        .signal()
        .is_some_and(|signal| faults.contains(&signal))
}

/// All that the process does; its arguments follow [`ARGUMENT`].
pub fn run(arguments: impl Iterator<Item = String>) -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = arguments.collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [digest, folder, memory, cpu_s, code] = arguments[..] else {
        anyhow::bail!(
            "usage: an executor starts this program as `{ARGUMENT} DIGEST FOLDER LIMITS…`"
        );
    };
    let digest: Digest = digest.parse()?;
    let limits = Limits::parse([memory, cpu_s, code]).context("its limits are no numbers")?;
    limits.impose()?;
    confinement::confine()?;
    let bytes = process::artifact(digest).context("failed to read the artifact")?;
    let Some(bytes) = bytes else {
        return Ok(DAMAGED.into());
    };
    let engine = engine::for_compiling();
    let engine =
        engine.map_err(|error| anyhow::anyhow!("failed to prepare wasmtime: {error:#}"))?;
    match machine_code::precompile(&engine, &bytes) {
        Ok(code) => {
            let cache = CodeCache::new(PathBuf::from(folder), &engine);
            let kept = cache.insert(digest, &code, LIMIT);
            kept.context("failed to keep the machine code; see that the agent's disk has room")?;
            Ok(ExitCode::SUCCESS)
        }
        Err(refusal) => {
            let answer = postcard::to_stdvec(&refusal).context("failed to write the answer")?;
            process::answer(&answer).context("failed to write the answer")?;
            Ok(REFUSED.into())
        }
    }
}
