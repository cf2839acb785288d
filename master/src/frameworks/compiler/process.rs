//! What the compiler's process does: an artifact's bytes in, machine code out.
//!
//! `tepui-master compile-component`, started by [`super::Compiler`] and by nobody else. The artifact
//! is its standard input. Its standard output is a file that gets the machine code or, where it ends
//! with [`REFUSED`], a [`Refusal`] as JSON. A plain wasm32-unknown-unknown module that describes its
//! world becomes a component here; a component is taken as it is.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd;
use std::process::ExitCode;

use anyhow::Context as _;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use serde::{Deserialize, Serialize};
use tepui_types::{Bytes, Digest};
use wasmtime::Module;
use wit_component::ComponentEncoder;

use crate::frameworks::engine;

/// What a framework must export.
pub const EXPORT: &str = "tepui:framework/scheduler@0.1.0";
/// The hidden subcommand.
const COMMAND: &str = "compile-component";
/// Exit code: the output says why there is no code.
pub const REFUSED: u8 = 3;
/// Exit code: the artifact is not the one that was asked for.
pub const DAMAGED: u8 = 4;

/// Why an artifact cannot run as a framework, however often it is tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// More bytes than are compiled.
    #[error("the artifact has {}, and a framework has at most {}", Bytes(*.0), Bytes(*.1))]
    TooLarge(u64, u64),
    /// The bytes are something else.
    #[error("the artifact is not WebAssembly: {0}")]
    NotWasm(String),
    /// The bytes begin as WebAssembly and then are not, or use what is not
    /// compiled here.
    #[error("the artifact is not valid WebAssembly: {0}")]
    Invalid(String),
    /// A module that says nothing of the world it is for.
    #[error(
        "the artifact is a WebAssembly module, but not one of a framework: it has no section that \
         describes its world. Build it with the SDK for wasm32-unknown-unknown, or make it a \
         component with wit-bindgen"
    )]
    NotFramework,
    /// A module that cannot be made a component.
    #[error("the module cannot be made a component: {0}")]
    NotComponent(String),
    /// An import that is not given.
    #[error("the component wants the import `{name}`, which frameworks are not given: {hint}")]
    MissingImport {
        /// Its name.
        name: String,
        /// What would mend it.
        hint: String,
    },
    /// An import or export is there, but has another type.
    #[error(
        "the component does not fit this master's `tepui:framework@0.1.0`: {0}. Build it again with \
         an SDK of this release"
    )]
    Mismatch(String),
    /// It is no scheduler.
    #[error(
        "the component lacks the export `{EXPORT}`, which makes it a framework: implement the \
         SDK's `Scheduler` and call `tepui_sdk::export!`"
    )]
    MissingExport,
}

/// What one compilation may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: u64,
    /// Seconds of processor time, of all threads together.
    pub cpu_s: u64,
    /// Bytes of machine code.
    pub code: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // An interpreter of 18 MiB takes 0.4 GiB; the largest that is taken, three times that.
            memory: Bytes::gib(2).0,
            // Every thread busy for as long as a master waits: it ends those whose master is gone.
            cpu_s: 480,
            // Eight times the largest component; they become two to four times as large.
            code: Bytes::mib(512).0,
        }
    }
}

/// The command line of the process.
pub fn arguments(digest: Digest, limits: &Limits) -> [String; 5] {
    let Limits {
        memory,
        cpu_s,
        code,
    } = limits;
    let numbers = [memory, cpu_s, code].map(u64::to_string);
    let [memory, cpu_s, code] = numbers;
    [COMMAND.into(), digest.to_string(), memory, cpu_s, code]
}

/// Compiles standard input.
#[derive(Debug, Clone, clap::Args)]
pub struct Compilation {
    /// What is to be compiled.
    digest: Digest,
    #[command(flatten)]
    limits: Limits,
}

impl Compilation {
    /// All that the process does.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        self.limits.impose()?;
        let mut artifact = Vec::new();
        own(io::stdin())?
            .read_to_end(&mut artifact)
            .context("failed to read the artifact")?;
        if Digest::of(&artifact) != self.digest {
            return Ok(DAMAGED.into());
        }
        let (answer, code) = match compile(&artifact) {
            Ok(code) => (code, ExitCode::SUCCESS),
            Err(refusal) => (serde_json::to_vec(&refusal)?, REFUSED.into()),
        };
        own(io::stdout())?
            .write_all(&answer)
            .context("failed to write the answer")?;
        Ok(code)
    }
}

impl Limits {
    /// From here on this process has no more.
    fn impose(&self) -> anyhow::Result<()> {
        // A name of its own in lists of processes, and the first to go where memory is short.
        nix::sys::prctl::set_name(c"tepui-compiler").ok();
        std::fs::write("/proc/self/oom_score_adj", "1000").ok();
        for (resource, soft, hard) in [
            // What is written to, not what is reserved: threads reserve much and use little.
            (Resource::RLIMIT_DATA, self.memory, self.memory),
            // The softer one ends it with a signal that says why.
            (
                Resource::RLIMIT_CPU,
                self.cpu_s,
                self.cpu_s.saturating_add(1),
            ),
            (Resource::RLIMIT_FSIZE, self.code, self.code),
            (Resource::RLIMIT_CORE, 0, 0),
        ] {
            limit(resource, soft, hard).with_context(|| format!("failed to set {resource:?}"))?;
        }
        Ok(())
    }
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

/// Makes machine code of an artifact's bytes.
fn compile(artifact: &[u8]) -> Result<Vec<u8>, Refusal> {
    let invalid = |error: wasmtime::Error| Refusal::Invalid(format!("{error:#}"));
    let engine = wasmtime::Engine::new(&engine::config()).map_err(invalid)?;
    let code = match kind(artifact)? {
        Kind::Component => engine.precompile_component(artifact),
        Kind::Module => engine.precompile_component(&componentize(&engine, artifact)?),
    };
    code.map_err(invalid)
}

enum Kind {
    Module,
    Component,
}

/// The first eight bytes: magic, version and layer.
fn kind(bytes: &[u8]) -> Result<Kind, Refusal> {
    match bytes {
        [b'\0', b'a', b's', b'm', 1, 0, 0, 0, ..] => Ok(Kind::Module),
        [b'\0', b'a', b's', b'm', _, _, 1, 0, ..] => Ok(Kind::Component),
        [b'\0', b'a', b's', b'm', ..] => {
            Err(Refusal::NotWasm("its version is not known here".into()))
        }
        [] => Err(Refusal::NotWasm("it is empty".into())),
        [b'(', ..] => Err(Refusal::NotWasm(
            "it is WebAssembly text; translate it with `wasm-tools parse`".into(),
        )),
        _ => Err(Refusal::NotWasm("it does not begin with `\\0asm`".into())),
    }
}

/// Wraps a module that describes its world.
fn componentize(engine: &wasmtime::Engine, module: &[u8]) -> Result<Vec<u8>, Refusal> {
    let invalid = |error: wasmtime::Error| Refusal::Invalid(format!("{error:#}"));
    Module::validate(engine, module).map_err(invalid)?;
    let not_component = |error: anyhow::Error| Refusal::NotComponent(explain(&error));
    let (described, _) = wit_component::metadata::decode(module).map_err(not_component)?;
    if described.is_none() {
        return Err(Refusal::NotFramework);
    }
    let encoder = ComponentEncoder::default().validate(true);
    encoder
        .module(module)
        .and_then(|mut encoder| encoder.encode())
        .map_err(not_component)
}

/// The error, and what the commonest ones mean.
fn explain(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let hint = if text.contains("wasi_snapshot_preview1") {
        ". It was built for wasm32-wasip1: build it for wasm32-unknown-unknown or wasm32-wasip2"
    } else if text.contains("`env`") {
        ". It wants symbols of a C library that was not linked into it"
    } else {
        ""
    };
    text + hint
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(bytes: &[u8]) -> String {
        compile(bytes).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_framework_is_refused_with_what_would_mend_it() {
        const MODULE: &[u8] = b"\0asm\x01\0\0\0";
        const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
        assert!(refusal(b"").contains("it is empty"));
        assert!(refusal(b"\x7fELF").contains("does not begin with"));
        assert!(refusal(b"(module)").contains("wasm-tools parse"));
        assert!(refusal(MODULE).contains("Build it with the SDK"));
        let torn = [MODULE, &[1, 200]].concat();
        assert!(refusal(&torn).contains("at offset"), "{}", refusal(&torn));
        let torn = [COMPONENT, &[1, 200]].concat();
        assert!(refusal(&torn).contains("at offset"), "{}", refusal(&torn));
    }

    #[test]
    fn a_refusal_is_the_same_on_the_other_side() {
        let refusal = Refusal::NotComponent("why".into());
        let json = serde_json::to_vec(&refusal).unwrap();
        assert_eq!(serde_json::from_slice::<Refusal>(&json).unwrap(), refusal);
    }
}
