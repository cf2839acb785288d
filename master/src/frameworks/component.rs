//! Components: from an artifact's bytes to something that can be started.
//!
//! A plain wasm32-unknown-unknown module that describes its world becomes a
//! component here; a component is taken as it is. What cannot be a framework is
//! refused before it is deployed, with what would mend it. Compiled components
//! are kept in memory by digest.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tepui_types::Digest;
use tokio::sync::Semaphore;
use wasmtime::Module;
use wasmtime::component::Component;
use wit_component::ComponentEncoder;

use super::bindings::FrameworkPre;
use super::engine::Engine;
use super::host::HostState;
use super::limits;
use crate::artifacts::{ArtifactError, Artifacts};

/// What a framework must export.
const EXPORT: &str = "tepui:framework/scheduler@0.1.0";
/// Waiting longer for a compilation helps nobody; the largest interpreters
/// take some seconds.
const COMPILE_WAIT: Duration = Duration::from_secs(120);

/// Why an artifact cannot run as a framework.
#[derive(Debug, thiserror::Error)]
pub enum ComponentError {
    /// Nothing is stored under this digest.
    #[error("artifact {0} is not known: upload it first")]
    Unknown(Digest),
    /// It is stored, but cannot be read.
    #[error("failed to read artifact {0}")]
    Read(Digest, #[source] ArtifactError),
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
        hint: &'static str,
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
    /// The compiler has a fault.
    #[error("the compiler failed on this component; the master's log says where")]
    Compiler,
    /// Compiling takes too long.
    #[error("compiling takes longer than {} s: make the component smaller", COMPILE_WAIT.as_secs())]
    Slow,
    /// The master is stopping.
    #[error("the master is stopping")]
    Stopping,
}

/// A component that is ready to be instantiated.
pub type Compiled = Arc<FrameworkPre<HostState>>;

/// Reads, checks, compiles and keeps components.
pub struct Components {
    engine: Arc<Engine>,
    artifacts: Artifacts,
    /// The latest used last.
    kept: Mutex<VecDeque<(Digest, Compiled)>>,
    /// One compilation at a time: each uses every core.
    compiling: Arc<Semaphore>,
}

impl Components {
    /// Keeps nothing yet.
    pub fn new(engine: Arc<Engine>, artifacts: Artifacts) -> Self {
        let compiling = Arc::new(Semaphore::new(1));
        Self {
            engine,
            artifacts,
            kept: Mutex::default(),
            compiling,
        }
    }

    /// The compiled component of an artifact.
    pub async fn load(&self, digest: Digest) -> Result<Compiled, ComponentError> {
        if let Some(compiled) = self.kept(digest) {
            return Ok(compiled);
        }
        let turn = self.compiling.clone().acquire_owned().await;
        let turn = turn.map_err(|_| ComponentError::Stopping)?;
        // Someone else may have compiled it in the meantime.
        if let Some(compiled) = self.kept(digest) {
            return Ok(compiled);
        }
        let bytes = self.artifacts.read(digest, limits::COMPONENT_BYTES).await;
        let bytes = bytes.map_err(|error| ComponentError::Read(digest, error))?;
        let bytes = bytes.ok_or(ComponentError::Unknown(digest))?;
        let engine = self.engine.clone();
        let compile = self.engine.runtime().spawn_blocking(move || {
            let compiled = compile(&engine, &bytes);
            drop(turn);
            compiled
        });
        let compiled = tokio::time::timeout(COMPILE_WAIT, compile).await;
        let compiled = match compiled.map_err(|_| ComponentError::Slow)? {
            Ok(compiled) => Arc::new(compiled?),
            Err(error) if error.is_panic() => return Err(ComponentError::Compiler),
            Err(_) => return Err(ComponentError::Stopping),
        };
        self.keep(digest, &compiled);
        Ok(compiled)
    }

    fn kept(&self, digest: Digest) -> Option<Compiled> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let position = kept.iter().position(|(known, _)| *known == digest)?;
        let entry = kept.remove(position)?;
        kept.push_back(entry.clone());
        Some(entry.1)
    }

    fn keep(&self, digest: Digest, compiled: &Compiled) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == limits::COMPILED {
            kept.pop_front();
        }
        kept.push_back((digest, compiled.clone()));
    }
}

/// Makes something that can be started out of an artifact's bytes.
pub fn compile(engine: &Engine, bytes: &[u8]) -> Result<FrameworkPre<HostState>, ComponentError> {
    let component = match kind(bytes)? {
        Kind::Component => Component::from_binary(engine.wasmtime(), bytes),
        Kind::Module => Component::from_binary(engine.wasmtime(), &componentize(engine, bytes)?),
    };
    let component = component.map_err(|error| ComponentError::Invalid(format!("{error:#}")))?;
    check_imports(engine, &component)?;
    if component.get_export_index(None, EXPORT).is_none() {
        return Err(ComponentError::MissingExport);
    }
    let mismatch = |error: wasmtime::Error| ComponentError::Mismatch(format!("{error:#}"));
    let linked = engine
        .linker()
        .instantiate_pre(&component)
        .map_err(mismatch)?;
    FrameworkPre::new(linked).map_err(mismatch)
}

enum Kind {
    Module,
    Component,
}

/// The first eight bytes: magic, version and layer.
fn kind(bytes: &[u8]) -> Result<Kind, ComponentError> {
    match bytes {
        [b'\0', b'a', b's', b'm', 1, 0, 0, 0, ..] => Ok(Kind::Module),
        [b'\0', b'a', b's', b'm', _, _, 1, 0, ..] => Ok(Kind::Component),
        [b'\0', b'a', b's', b'm', ..] => Err(ComponentError::NotWasm(
            "its version is not known here".into(),
        )),
        [] => Err(ComponentError::NotWasm("it is empty".into())),
        [b'(', ..] => Err(ComponentError::NotWasm(
            "it is WebAssembly text; translate it with `wasm-tools parse`".into(),
        )),
        _ => Err(ComponentError::NotWasm(
            "it does not begin with `\\0asm`".into(),
        )),
    }
}

/// Wraps a module that describes its world.
fn componentize(engine: &Engine, module: &[u8]) -> Result<Vec<u8>, ComponentError> {
    let invalid = |error: wasmtime::Error| ComponentError::Invalid(format!("{error:#}"));
    Module::validate(engine.wasmtime(), module).map_err(invalid)?;
    let not_component = |error: anyhow::Error| ComponentError::NotComponent(explain(&error));
    let (described, _) = wit_component::metadata::decode(module).map_err(not_component)?;
    if described.is_none() {
        return Err(ComponentError::NotFramework);
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

/// Refuses the first import that no framework is given. One that is given, but
/// with another type, is found when it is linked.
fn check_imports(engine: &Engine, component: &Component) -> Result<(), ComponentError> {
    for (name, _) in component.component_type().imports(engine.wasmtime()) {
        let (interface, version) = name.split_once('@').unwrap_or((name, ""));
        let (package, interface) = interface.split_once('/').unwrap_or((interface, ""));
        let hint = match package {
            "tepui:framework" => {
                let known = ["types", "cluster", "store", "timers", "log"].contains(&interface);
                if known && version.starts_with("0.1.") {
                    continue;
                }
                "it was built with another SDK; upgrade the master, or build it with this \
                 release's SDK"
            }
            "wasi:io" | "wasi:clocks" | "wasi:random" | "wasi:cli" | "wasi:filesystem"
            | "wasi:sockets"
                if version.starts_with("0.2.") =>
            {
                continue;
            }
            "wasi:http" => {
                "a framework makes no connections; let a task of it do that, and answer HTTP in \
                 `on-request`"
            }
            _ if package.starts_with("wasi:") => {
                "frameworks may use the interfaces of wasi:cli 0.2; build it for wasm32-wasip2"
            }
            _ => "remove what uses it, or link a component that gives it (`wac plug`)",
        };
        return Err(ComponentError::MissingImport {
            name: name.to_owned(),
            hint,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(bytes: &[u8]) -> String {
        match compile(&Engine::new().unwrap(), bytes) {
            Ok(_) => panic!("this should be no framework"),
            Err(error) => error.to_string(),
        }
    }

    const MODULE: &[u8] = b"\0asm\x01\0\0\0";
    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

    #[test]
    fn what_is_no_framework_is_refused_with_what_would_mend_it() {
        assert!(refusal(b"").contains("it is empty"));
        assert!(refusal(b"\x7fELF").contains("does not begin with"));
        assert!(refusal(b"(module)").contains("wasm-tools parse"));
        assert!(refusal(MODULE).contains("Build it with the SDK"));
        assert!(refusal(COMPONENT).contains("tepui_sdk::export!"));
        let torn = [MODULE, &[1, 200]].concat();
        assert!(refusal(&torn).contains("at offset"), "{}", refusal(&torn));
        let torn = [COMPONENT, &[1, 200]].concat();
        assert!(refusal(&torn).contains("at offset"), "{}", refusal(&torn));
    }

    #[test]
    fn an_import_that_is_not_given_is_named() {
        // (component (import "acme:db/query@1.0.0" (instance)))
        let name = b"acme:db/query@1.0.0";
        let mut bytes = COMPONENT.to_vec();
        bytes.extend([7, 3, 1, 0x42, 0]);
        bytes.extend([10, name.len() as u8 + 5, 1, 0, name.len() as u8]);
        bytes.extend(name);
        bytes.extend([5, 0]);
        let refusal = refusal(&bytes);
        assert!(refusal.contains("`acme:db/query@1.0.0`"), "{refusal}");
    }
}
