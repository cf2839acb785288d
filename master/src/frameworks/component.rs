//! Components: from an artifact's digest to something that can be started.
//!
//! They are compiled in a process apart ([`super::compiler`]), kept on disk ([`super::code`]) and, by
//! digest, in memory. What cannot be a framework is refused before it is deployed, with what would
//! mend it.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tepui_types::Digest;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use wasmtime::component::Component;

use super::bindings::FrameworkPre;
use super::code::{Code, CodeError};
use super::compiler::process::{EXPORT, Refusal};
use super::compiler::{CompileError, Compiler, compile};
use super::engine::Engine;
use super::host::HostState;
use super::limits;
use crate::artifacts::{ArtifactError, Artifacts};

/// Why an artifact cannot run as a framework.
#[derive(Debug, thiserror::Error)]
pub enum ComponentError {
    /// Nothing is stored under this digest.
    #[error("artifact {0} is not known: upload it first")]
    Unknown(Digest),
    /// It is stored, but cannot be read.
    #[error("failed to read artifact {0}")]
    Read(Digest, #[source] ArtifactError),
    /// It is no framework.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It could not be compiled.
    #[error(transparent)]
    Compile(CompileError),
    /// What was compiled could not be kept.
    #[error(transparent)]
    Keep(#[from] CodeError),
    /// What was compiled a moment ago is of no use.
    #[error("failed to load what the compiler made")]
    Load(#[source] wasmtime::Error),
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
    compiler: Compiler,
    code: Code,
    /// The master's own, which has I/O.
    runtime: Handle,
    /// The latest used last.
    kept: Mutex<VecDeque<(Digest, Compiled)>>,
    /// One compilation at a time: each uses several cores.
    compiling: Semaphore,
}

impl Components {
    /// Keeps nothing in memory yet. Must be called in a runtime that has I/O.
    pub fn new(
        engine: Arc<Engine>,
        artifacts: Artifacts,
        compiler: Compiler,
        folder: &Path,
    ) -> Result<Self, CodeError> {
        Ok(Self {
            code: Code::open(folder, engine.wasmtime(), limits::CODE_BYTES)?,
            engine,
            artifacts,
            compiler,
            runtime: Handle::current(),
            kept: Mutex::default(),
            compiling: Semaphore::new(1),
        })
    }

    /// The compiled component of an artifact.
    pub async fn load(&self, digest: Digest) -> Result<Compiled, ComponentError> {
        if let Some(compiled) = self.kept(digest) {
            return Ok(compiled);
        }
        let turn = self.compiling.acquire().await;
        let _turn = turn.map_err(|_| ComponentError::Stopping)?;
        // Someone else may have compiled it in the meantime.
        if let Some(compiled) = self.kept(digest) {
            return Ok(compiled);
        }
        let component = match self.load_kept(digest).await? {
            Some(component) => component,
            None => self.compile(digest).await?,
        };
        let compiled = Arc::new(link(&self.engine, &component)?);
        self.keep(digest, &compiled);
        Ok(compiled)
    }

    /// What was compiled before, by this process or another.
    async fn load_kept(&self, digest: Digest) -> Result<Option<Component>, ComponentError> {
        let (code, engine) = (self.code.clone(), self.engine.clone());
        self.blocking(move || {
            let path = code.get(digest)?;
            let loaded = load(&engine, &path);
            let useless = |error: &wasmtime::Error| {
                tracing::warn!(%digest, error = format!("{error:#}"), "it is compiled again");
                code.remove(&path);
            };
            loaded.inspect_err(useless).ok()
        })
        .await
    }

    async fn compile(&self, digest: Digest) -> Result<Component, ComponentError> {
        let read = |error| ComponentError::Read(digest, error);
        let artifact = self.artifacts.open(digest).await.map_err(read)?;
        let (artifact, size) = artifact.ok_or(ComponentError::Unknown(digest))?;
        if size > limits::COMPONENT_BYTES {
            return Err(Refusal::TooLarge(size, limits::COMPONENT_BYTES).into());
        }
        let unfinished = self.code.begin(digest)?;
        let file = unfinished.file()?;
        let artifact = artifact.into_std().await;
        let compiled = compile(&self.compiler, &self.runtime, digest, artifact, file);
        compiled.await.map_err(|error| match error {
            CompileError::Refused(refusal) => refusal.into(),
            CompileError::Damaged => read(self.artifacts.damaged(digest)),
            error => ComponentError::Compile(error),
        })?;
        let (code, engine) = (self.code.clone(), self.engine.clone());
        self.blocking(move || {
            let path = code.keep(unfinished)?;
            load(&engine, &path).map_err(ComponentError::Load)
        })
        .await?
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ComponentError> {
        let done = self.runtime.spawn_blocking(work).await;
        done.map_err(|error| match error.is_panic() {
            // The panic itself was printed.
            true => ComponentError::Load(wasmtime::Error::msg("the loader panicked")),
            false => ComponentError::Stopping,
        })
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

fn load(engine: &Engine, path: &Path) -> wasmtime::Result<Component> {
    // SAFETY: the file is the output of our own compiler, a process of this very program, in a folder
    // that only this user may write; its digest was checked just now. It is never written again, only
    // unlinked, so what is mapped stays as it is.
    unsafe { Component::deserialize_file(engine.wasmtime(), path) }
}

/// Gives a component all that it may import, and finds its exports.
fn link(engine: &Engine, component: &Component) -> Result<FrameworkPre<HostState>, Refusal> {
    check_imports(engine, component)?;
    if component.get_export_index(None, EXPORT).is_none() {
        return Err(Refusal::MissingExport);
    }
    let mismatch = |error: wasmtime::Error| Refusal::Mismatch(format!("{error:#}"));
    let linked = engine.linker().instantiate_pre(component);
    FrameworkPre::new(linked.map_err(mismatch)?).map_err(mismatch)
}

/// Refuses the first import that no framework is given. One that is given, but
/// with another type, is found when it is linked.
fn check_imports(engine: &Engine, component: &Component) -> Result<(), Refusal> {
    for (name, _) in component.component_type().imports(engine.wasmtime()) {
        let (interface, version) = name.split_once('@').unwrap_or((name, ""));
        let (package, interface) = interface.split_once('/').unwrap_or((interface, ""));
        let hint = match package {
            "tepui:framework" => {
                let known = ["types", "cluster", "operations", "store", "timers", "log"];
                let known = known.contains(&interface);
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
        return Err(Refusal::MissingImport {
            name: name.to_owned(),
            hint: hint.to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

    fn refusal(bytes: &[u8]) -> String {
        let engine = Engine::new().unwrap();
        let component = Component::from_binary(engine.wasmtime(), bytes).unwrap();
        match link(&engine, &component) {
            Ok(_) => panic!("this should be no framework"),
            Err(refusal) => refusal.to_string(),
        }
    }

    #[test]
    fn a_component_that_is_no_scheduler_is_refused() {
        assert!(refusal(COMPONENT).contains("tepui_sdk::export!"));
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
