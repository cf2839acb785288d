//! A program: machine code that was linked to what its host gives.
//!
//! What kind it is, its exports say. What it lacks, or wants and is not given, is told to its author
//! in words that name it.

use tepui_types::Reason;
use tepui_types::task::reason;
use wasmtime::component::{self, Component};
use wasmtime::{Engine, InstancePre, Linker, Module, UnknownImportError};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::{ResourceTable, WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::files::Files;
use crate::limits::MemoryLimiter;
use crate::outgoing::Outgoing;
use crate::{component_files, module_files};

/// The whole of a refusal: wasmtime's sentences can be long.
const MAX_MESSAGE: usize = 600;

/// What a running core module can reach.
pub struct ModuleState {
    /// Its WASI preview 1.
    pub wasi: WasiP1Ctx,
    /// Where its files are.
    pub files: Files,
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
    /// Where its files are.
    pub files: Files,
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

/// Machine code that is not linked yet.
pub enum Compiled {
    /// Of a core module.
    Module(Module),
    /// Of a component.
    Component(Component),
}

/// What the host gives to programs.
pub struct Linkers {
    engine: Engine,
    modules: Linker<ModuleState>,
    components: component::Linker<ComponentState>,
}

impl Linkers {
    /// All that programs are given.
    pub fn new(engine: Engine) -> wasmtime::Result<Self> {
        let mut modules = Linker::new(&engine);
        wasmtime_wasi::p1::add_to_linker_async(&mut modules, |state: &mut ModuleState| {
            &mut state.wasi
        })?;
        module_files::bound(&mut modules)?;
        let mut components = component::Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut components)?;
        component_files::bound(&mut components)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut components)?;
        Ok(Self {
            engine,
            modules,
            components,
        })
    }

    /// Makes a program of machine code.
    pub fn link(&self, compiled: &Compiled) -> Result<Program, Reason> {
        match compiled {
            Compiled::Module(module) => self.module(module),
            Compiled::Component(component) => self.component(component),
        }
    }

    fn module(&self, module: &Module) -> Result<Program, Reason> {
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
            .instantiate_pre(module)
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

    fn component(&self, component: &Component) -> Result<Program, Reason> {
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
        let linked = self.components.instantiate_pre(component);
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

/// Bytes that are no program that can run here.
pub fn invalid(message: &str) -> Reason {
    Reason::new(reason::WASM_INVALID, message)
}

/// Bytes that are not what they begin as.
pub fn not_valid(kind: &str, error: &wasmtime::Error) -> Reason {
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
