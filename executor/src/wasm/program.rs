//! Compiled programs, by digest.
//!
//! A program is compiled once, however many launches of it come at the same
//! time, and off the guests' threads. What is wrong with its bytes is kept like
//! a program: a thousand launches of garbage look at it once.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tepui_types::task::reason;
use tepui_types::{Digest, Reason};
use tokio::sync::OnceCell;
use wasmtime::component::{self, Component};
use wasmtime::{Engine, InstancePre, Linker, Module, UnknownImportError};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::{ResourceTable, WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::limits::MemoryLimiter;
use crate::outgoing::Outgoing;

/// Programs that are kept when nothing runs them. A compiled program takes
/// some MiB.
const MAX_PROGRAMS: usize = 64;
/// The whole of a refusal: wasmtime's sentences can be long.
const MAX_MESSAGE: usize = 600;

/// The first four bytes of any WebAssembly, then version and layer.
const MAGIC: &[u8; 4] = b"\0asm";
const CORE_MODULE: [u8; 4] = [1, 0, 0, 0];
const COMPONENT_LAYER: [u8; 2] = [1, 0];

/// What a running core module can reach.
pub struct ModuleState {
    /// Its WASI preview 1.
    pub wasi: WasiP1Ctx,
    /// Its memory.
    pub memory: MemoryLimiter,
}

/// What a running component can reach.
pub struct ComponentState {
    /// Its WASI preview 2.
    pub wasi: WasiCtx,
    /// Its limits of HTTP.
    pub http: WasiHttpCtx,
    /// Its way out by HTTP.
    pub outgoing: Outgoing,
    /// Its handles.
    pub table: ResourceTable,
    /// Its memory.
    pub memory: MemoryLimiter,
}

impl WasiView for ComponentState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for ComponentState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.outgoing,
            table: &mut self.table,
            ctx: &mut self.http,
        }
    }
}

/// A program that can be instantiated.
pub struct Program {
    /// Compiled and linked.
    pub code: Code,
    /// Whether it may look for files: only then it gets a sandbox.
    pub wants_files: bool,
}

/// The kinds of program.
pub enum Code {
    /// A WASI preview 1 command.
    Module(InstancePre<ModuleState>),
    /// A `wasi:cli/command`.
    Component(CommandPre<ComponentState>),
    /// A `wasi:http/proxy`.
    Service(ProxyPre<ComponentState>),
}

/// All programs of this process.
pub struct Programs {
    compiler: Arc<Compiler>,
    cache: Mutex<Cache>,
}

type Slot = Arc<OnceCell<Result<Arc<Program>, Reason>>>;

#[derive(Default)]
struct Cache {
    slots: HashMap<Digest, (Slot, u64)>,
    /// Counts uses: the slot with the lowest number was used longest ago.
    uses: u64,
}

impl Cache {
    fn slot(&mut self, digest: Digest) -> Slot {
        self.uses += 1;
        if self.slots.len() >= MAX_PROGRAMS && !self.slots.contains_key(&digest) {
            let oldest = self.slots.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(oldest) = oldest.map(|(digest, _)| *digest) {
                self.slots.remove(&oldest);
            }
        }
        let (slot, used) = self.slots.entry(digest).or_default();
        *used = self.uses;
        slot.clone()
    }
}

impl Programs {
    /// None compiled yet.
    pub fn new(engine: Engine) -> wasmtime::Result<Self> {
        Ok(Self {
            compiler: Arc::new(Compiler::new(engine)?),
            cache: Mutex::default(),
        })
    }

    /// The program with this digest, whose bytes lie at `path`. To be called
    /// inside a tokio runtime.
    pub async fn get(&self, digest: Digest, path: PathBuf) -> Result<Arc<Program>, Reason> {
        let slot = self
            .cache
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .slot(digest);
        let compile = || async {
            let compiler = self.compiler.clone();
            let compiled = tokio::task::spawn_blocking(move || {
                // Bytes that could not be read may be there the next time.
                let bytes = read(digest, &path)?;
                Ok(compiler.compile(&bytes).map(Arc::new))
            });
            let stopped =
                |error| Reason::new(reason::EXECUTOR_FAILED, format!("compiling: {error}"));
            compiled.await.map_err(stopped)?
        };
        slot.get_or_try_init(compile).await?.clone()
    }
}

fn read(digest: Digest, path: &Path) -> Result<Vec<u8>, Reason> {
    let unavailable = |why: String| {
        let message = format!(
            "the artifact {digest} cannot be had from {}: {why}",
            path.display()
        );
        Reason::new(reason::ARTIFACT_UNAVAILABLE, message)
    };
    let bytes = std::fs::read(path).map_err(|error| unavailable(error.to_string()))?;
    if Digest::of(&bytes) != digest {
        return Err(unavailable("the bytes there have another digest".into()));
    }
    Ok(bytes)
}

struct Compiler {
    engine: Engine,
    modules: Linker<ModuleState>,
    components: component::Linker<ComponentState>,
}

impl Compiler {
    fn new(engine: Engine) -> wasmtime::Result<Self> {
        let mut modules = Linker::new(&engine);
        wasmtime_wasi::p1::add_to_linker_async(&mut modules, |state: &mut ModuleState| {
            &mut state.wasi
        })?;
        let mut components = component::Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut components)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut components)?;
        Ok(Self {
            engine,
            modules,
            components,
        })
    }

    fn compile(&self, bytes: &[u8]) -> Result<Program, Reason> {
        match bytes.split_first_chunk() {
            Some((MAGIC, rest)) if rest.starts_with(&CORE_MODULE) => self.module(bytes),
            Some((MAGIC, rest)) if rest.get(2..4) == Some(&COMPONENT_LAYER) => {
                self.component(bytes)
            }
            Some((MAGIC, _)) => Err(invalid("it is WebAssembly of an unknown version")),
            _ => Err(invalid(
                "the artifact is not WebAssembly: it does not begin with the bytes `\\0asm`. \
                 Upload the compiled .wasm file",
            )),
        }
    }

    fn module(&self, bytes: &[u8]) -> Result<Program, Reason> {
        let module = Module::new(&self.engine, bytes).map_err(|e| not_valid("module", &e))?;
        if module.get_export("_start").is_none() {
            return Err(invalid(
                "the module exports no `_start`: build it as a command (a binary), not as a library",
            ));
        }
        let wants_files = module
            .imports()
            .any(|import| import.name().starts_with("path_") || import.name() == "fd_prestat_get");
        let code = self
            .modules
            .instantiate_pre(&module)
            .map_err(|error| match error.downcast_ref::<UnknownImportError>() {
                Some(unknown) => import_missing(&format!(
                    "it imports `{}` from `{}`",
                    unknown.name(),
                    unknown.module()
                )),
                None => not_valid("module", &error),
            })?;
        Ok(Program {
            code: Code::Module(code),
            wants_files,
        })
    }

    fn component(&self, bytes: &[u8]) -> Result<Program, Reason> {
        let component =
            Component::new(&self.engine, bytes).map_err(|e| not_valid("component", &e))?;
        let kind = component.component_type();
        let wants_files = kind
            .imports(&self.engine)
            .any(|(name, _)| name.starts_with("wasi:filesystem/"));
        let exports = |prefix: &str| {
            let mut names = kind.exports(&self.engine);
            names.any(|(name, _)| name.starts_with(prefix))
        };
        // A program of another kind is told that first, if it also wants what
        // only its own host gives.
        let linked = self.components.instantiate_pre(&component);
        let linked = linked.map_err(|error| import_missing(&words(&error)))?;
        // Toolchains give services a `run` that does nothing, too.
        let code = if exports("wasi:http/incoming-handler@0.2") {
            ProxyPre::new(linked).map(Code::Service)
        } else if exports("wasi:cli/run@0.2") {
            CommandPre::new(linked).map(Code::Component)
        } else {
            return Err(invalid(
                "the component is neither a command nor a service: it exports no `wasi:cli/run@0.2` \
                 and no `wasi:http/incoming-handler@0.2`. Build a binary for wasm32-wasip2",
            ));
        };
        let code = code.map_err(|e| not_valid("component", &e))?;
        Ok(Program { code, wants_files })
    }
}

fn invalid(message: &str) -> Reason {
    Reason::new(reason::WASM_INVALID, message)
}

fn not_valid(kind: &str, error: &wasmtime::Error) -> Reason {
    invalid(&format!("the {kind} does not validate: {}", words(error)))
}

fn import_missing(what: &str) -> Reason {
    let message = format!(
        "{what}, which tasks are not given: they have WASI preview 1 as core modules and \
         wasi:cli/imports@0.2 and wasi:http/proxy@0.2 as components"
    );
    Reason::new(reason::WASM_IMPORT_MISSING, message)
}

/// The error with its causes, on one line and bounded.
pub fn words(error: &wasmtime::Error) -> String {
    let text = format!("{error:#}");
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{} […]", &line[..end]),
        None => line,
    }
}
