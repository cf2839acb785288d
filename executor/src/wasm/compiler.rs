//! The process that compiles a program, apart from those that run any.
//!
//! `tepui-executor-wasm --compile DIGEST FOLDER`, started by an executor and by nobody else. The
//! artifact is its standard input. It has few privileges and hard limits, since a program may be
//! made so that compiling it never ends; it alone writes the machine code that executors map. Where
//! it ends with [`REFUSED`], its standard output is the [`Reason`].

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use tepui_executor::confinement;
use tepui_types::task::reason;
use tepui_types::{Bytes, Digest, Reason};
use tokio::process::Command;
use tokio::time::timeout;

use crate::code_cache::{CodeCache, LIMIT};
use crate::{engine, machine_code};

/// What the process is started with.
pub const ARGUMENT: &str = "--compile";
/// Exit code: the output says why there is no code.
const REFUSED: u8 = 3;
/// Exit code: the artifact is not the one that was asked for.
const DAMAGED: u8 = 4;
/// Memory of the process: an interpreter of 18 MiB takes 0.4 GiB; the largest artifact, some times
/// that.
const MEMORY: Bytes = Bytes::gib(2);
/// Processor time, of all its threads together, in seconds: minutes of every processor.
const CPU_S: u64 = 480;
/// The largest machine code: it is two to four times as large as its program.
const MAX_CODE: Bytes = Bytes::mib(512);
/// How long it may take by the clock, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(600);
/// What is read of its words.
const MAX_WORDS: usize = 16 * 1024;

/// Has the program with this digest, whose bytes lie at `path`, compiled into `folder`. The outer
/// error may pass, the inner one is the program's.
pub async fn compile(
    digest: Digest,
    path: &Path,
    folder: &Path,
) -> Result<Result<(), Reason>, Reason> {
    let artifact = File::open(path);
    let artifact = artifact.map_err(|error| machine_code::unavailable(digest, path, error))?;
    let process = Command::new("/proc/self/exe")
        .arg(ARGUMENT)
        .arg(digest.to_string())
        .arg(folder)
        .env_clear()
        .stdin(Stdio::from(artifact))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let failed = |why: String| {
        let message = format!("the program could not be compiled: {why}");
        Reason::new(reason::EXECUTOR_FAILED, message)
    };
    let process = process.map_err(|error| failed(error.to_string()))?;
    let ended = timeout(PATIENCE, process.wait_with_output()).await;
    let seconds = PATIENCE.as_secs();
    let ended = ended.map_err(|_| failed(format!("it took more than {seconds} s")))?;
    let output = ended.map_err(|error| failed(error.to_string()))?;
    let words = &output.stderr[..output.stderr.len().min(MAX_WORDS)];
    let words = String::from_utf8_lossy(words).trim().to_owned();
    match output.status.code() {
        Some(0) => Ok(Ok(())),
        Some(code) if code == i32::from(REFUSED) => {
            let reason = postcard::from_bytes::<Reason>(&output.stdout);
            Ok(Err(reason.map_err(|error| failed(error.to_string()))?))
        }
        Some(code) if code == i32::from(DAMAGED) => Err(machine_code::damaged(digest, path)),
        Some(code) => Err(failed(format!("its compiler ended with {code}: {words}"))),
        // The limits end it with a signal, or by an allocation that fails.
        None => Ok(Err(Reason::new(
            reason::WASM_INVALID,
            format!(
                "compiling it took more than {MEMORY} of memory or {CPU_S} s of processor time \
                 ({}): make it smaller. {words}",
                output.status
            ),
        ))),
    }
}

/// All that the process does; its arguments follow [`ARGUMENT`].
pub fn run(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<ExitCode> {
    let (Some(digest), Some(folder), None) = (arguments.next(), arguments.next(), arguments.next())
    else {
        anyhow::bail!("usage: an executor starts this program as `{ARGUMENT} DIGEST FOLDER`");
    };
    let digest: Digest = digest.parse()?;
    impose_limits()?;
    confinement::confine()?;
    let mut bytes = Vec::new();
    own(io::stdin())?
        .read_to_end(&mut bytes)
        .context("failed to read the artifact")?;
    if Digest::of(&bytes) != digest {
        return Ok(DAMAGED.into());
    }
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
            own(io::stdout())?
                .write_all(&answer)
                .context("failed to write the answer")?;
            Ok(REFUSED.into())
        }
    }
}

/// From here on this process has no more.
fn impose_limits() -> anyhow::Result<()> {
    // A name of its own in lists of processes, and the first to go where memory is short.
    nix::sys::prctl::set_name(c"tepui-compiler").ok();
    std::fs::write("/proc/self/oom_score_adj", "1000").ok();
    for (resource, soft, hard) in [
        // What is written to, not what is reserved: threads reserve much and use little.
        (Resource::RLIMIT_DATA, MEMORY.0, MEMORY.0),
        // The softer one ends it with a signal that says why.
        (Resource::RLIMIT_CPU, CPU_S, CPU_S + 1),
        (Resource::RLIMIT_FSIZE, MAX_CODE.0, MAX_CODE.0),
    ] {
        limit(resource, soft, hard).with_context(|| format!("failed to set {resource:?}"))?;
    }
    Ok(())
}

/// Never above what an operator has set.
fn limit(resource: Resource, soft: rlim_t, hard: rlim_t) -> nix::Result<()> {
    let (_, most) = getrlimit(resource)?;
    setrlimit(resource, soft.min(most), hard.min(most))
}

/// A standard stream without its buffer, which would look for ends of lines.
fn own(stream: impl AsFd) -> io::Result<File> {
    Ok(stream.as_fd().try_clone_to_owned()?.into())
}
