//! What the compiler's process does: an artifact's bytes in, machine code out.
//!
//! `tepui-master compile-component`, started by [`super::compile`] and by nobody else. Its standard
//! output is a file that gets the machine code or, where it ends with [`REFUSED`], a [`Refusal`] as
//! JSON. A plain wasm32-unknown-unknown module that describes its
//! world becomes a component here; a component is taken as it is.

use std::process::ExitCode;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tepui_compiler::Limits;
use tepui_compiler::process::{DAMAGED, REFUSED, answer, artifact};
use tepui_types::{Bytes, Digest};
use wasmtime::Module;
use wit_component::ComponentEncoder;

use crate::frameworks::engine;

/// What a framework must export.
pub const EXPORT: &str = "tepui:framework/scheduler@0.1.0";
/// The hidden subcommand.
const COMMAND: &str = "compile-component";
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

/// What the process is started with, before its limits.
pub fn arguments(digest: Digest) -> [String; 2] {
    [COMMAND.into(), digest.to_string()]
}

/// Compiles standard input.
#[derive(Debug, Clone, clap::Args)]
pub struct Compilation {
    /// What is to be compiled.
    digest: Digest,
    /// The most bytes of memory.
    memory: u64,
    /// The most seconds of processor time.
    cpu_s: u64,
    /// The most bytes of machine code.
    code: u64,
}

impl Compilation {
    /// All that the process does.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let limits = Limits {
            memory: self.memory,
            cpu_s: self.cpu_s,
            code: self.code,
        };
        limits.impose()?;
        let artifact = artifact(self.digest).context("failed to read the artifact")?;
        let Some(artifact) = artifact else {
            return Ok(DAMAGED.into());
        };
        let (result, code) = match compile(&artifact) {
            Ok(code) => (code, ExitCode::SUCCESS),
            Err(refusal) => (serde_json::to_vec(&refusal)?, REFUSED.into()),
        };
        answer(&result).context("failed to write the answer")?;
        Ok(code)
    }
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
