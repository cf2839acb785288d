//! One task, from its launch to its end, as a future on the guests' threads.
//!
//! It waits for its program and for a place, runs, and returns what became of
//! it. A kill ends it wherever it is: a guest that spins at its next yield, one
//! that waits at once.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tepui_executor::cgroup::limits::memory_of;
use tepui_executor::environment;
use tepui_executor::startup::Startup;
use tepui_types::task::{TaskUsage, WasmWorkload, Workload, reason};
use tepui_types::wire::executor::{ExecutorLaunch, TaskUpdate};
use tepui_types::{AgentId, Bytes, Reason, TaskId, TaskState};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use wasmtime::{AsContextMut, Engine, InstancePre, Store};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::{FsPerms, ResourceTable, WasiCtxBuilder};

use crate::cpu::Metered;
use crate::engine::{MAX_INSTANCES, Ticker};
use crate::limits::MemoryLimiter;
use crate::output::{Flusher, Output};
use crate::program::{Code, ComponentState, ModuleState, Program, Programs};
use crate::verdict::{self, Verdict};

/// The sandbox as guests see it.
const GUEST_SANDBOX: &str = "/sandbox";

/// What all tasks of the process share.
pub struct Host {
    /// Compiles and instantiates.
    pub engine: Engine,
    /// Lets guests yield.
    pub ticker: Ticker,
    /// Compiled programs.
    pub programs: Programs,
    /// Appends outputs.
    pub flusher: Flusher,
    /// Places for instances.
    pub places: Semaphore,
    /// The agent, for the environment.
    pub agent: AgentId,
    /// How much of each output of a task is kept.
    pub output_limit: Bytes,
    /// Where updates go.
    pub updates: mpsc::Sender<TaskUpdate>,
}

impl Host {
    /// With places for as many instances as the engine has.
    pub fn new(startup: &Startup, updates: mpsc::Sender<TaskUpdate>) -> anyhow::Result<Self> {
        let engine = crate::engine::new().map_err(prepare_failed)?;
        Ok(Self {
            ticker: Ticker::start(engine.clone())?,
            programs: Programs::new(engine.clone()).map_err(prepare_failed)?,
            flusher: Flusher::start()?,
            places: Semaphore::new(MAX_INSTANCES),
            engine,
            agent: startup.agent,
            output_limit: startup.output_limit,
            updates,
        })
    }
}

/// wasmtime's errors are of a type of their own.
fn prepare_failed(error: wasmtime::Error) -> anyhow::Error {
    anyhow::anyhow!("{error:#}")
}

/// Ends a task, once, and says why.
#[derive(Clone, Default)]
pub struct Kill {
    asked: CancellationToken,
    reason: Arc<OnceLock<&'static str>>,
}

impl Kill {
    /// Asks for the end, for the reason of that code; the first reason counts.
    pub fn ask(&self, reason: &'static str) {
        let _ = self.reason.set(reason);
        self.asked.cancel();
    }

    fn verdict(&self) -> Verdict {
        verdict::killed(self.reason.get().copied().unwrap_or(reason::KILL_REQUESTED))
    }
}

/// An update without anything but the state.
pub fn plain(task: TaskId, state: TaskState) -> TaskUpdate {
    TaskUpdate {
        task,
        state,
        reason: None,
        exit_code: None,
        usage: None,
    }
}

/// Runs the task, and returns its end.
pub async fn run(host: Arc<Host>, launch: Box<ExecutorLaunch>, kill: Kill) -> TaskUpdate {
    let task = launch.launch.task.clone();
    let started = tokio::select! {
        biased;
        () = kill.asked.cancelled() => Err(kill.verdict()),
        prepared = prepare(&host, &launch) => prepared.map_err(error),
    };
    let (verdict, usage) = match started {
        Ok((program, workload)) => {
            let guest = Guest {
                host: &host,
                launch: &launch,
                workload,
                kill: &kill,
            };
            guest.run(&program).await
        }
        Err(verdict) => (verdict, None),
    };
    let (state, reason, exit_code) = verdict;
    TaskUpdate {
        task,
        state,
        reason,
        exit_code,
        usage,
    }
}

fn error(reason: Reason) -> Verdict {
    (TaskState::Error, Some(reason), None)
}

async fn prepare<'a>(
    host: &Host,
    launch: &'a ExecutorLaunch,
) -> Result<(Arc<Program>, &'a WasmWorkload), Reason> {
    let failed = |message: &str| Reason::new(reason::EXECUTOR_FAILED, message);
    let Workload::Wasm(workload) = &launch.launch.spec.workload else {
        return Err(failed("this executor runs WebAssembly alone"));
    };
    let Some(path) = &launch.program else {
        return Err(failed("the agent named no program file"));
    };
    let program = host
        .programs
        .get(workload.artifact, PathBuf::from(path))
        .await?;
    Ok((program, workload))
}

/// A task whose program is at hand.
struct Guest<'a> {
    host: &'a Host,
    launch: &'a ExecutorLaunch,
    workload: &'a WasmWorkload,
    kill: &'a Kill,
}

impl Guest<'_> {
    async fn run(&self, program: &Program) -> (Verdict, Option<TaskUsage>) {
        let place = tokio::select! {
            biased;
            () = self.kill.asked.cancelled() => return (self.kill.verdict(), None),
            place = self.host.places.acquire() => place,
        };
        let beside = Path::new(&self.launch.sandbox)
            .parent()
            .unwrap_or(Path::new("/"));
        let output = |name| {
            let (limit, flusher) = (self.host.output_limit, self.host.flusher.clone());
            Output::new(beside.join(name), limit, flusher)
        };
        let (stdout, stderr) = (output("stdout"), output("stderr"));
        let mut wasi = match self.wasi(program, &stdout, &stderr) {
            Ok(wasi) => wasi,
            Err(reason) => return (error(reason), None),
        };
        // The receiver lives as long as the process.
        let running = plain(self.launch.launch.task.clone(), TaskState::Running);
        let _ = self.host.updates.send(running).await;
        let _running = self.host.ticker.run();
        let memory = MemoryLimiter::new(memory_of(&self.launch.launch.resources));
        let ended = match &program.code {
            Code::Module(code) => {
                let state = ModuleState {
                    wasi: wasi.build_p1(),
                    memory,
                };
                let mut store = self.store(state, |state| &mut state.memory);
                let (result, cpu_micros) = self.drive(run_module(code, &mut store)).await;
                self.judge(result, cpu_micros, &store.data().memory)
            }
            Code::Component(code) => {
                let (wasi, table) = (wasi.build(), ResourceTable::new());
                let state = ComponentState {
                    wasi,
                    table,
                    memory,
                };
                let mut store = self.store(state, |state| &mut state.memory);
                let (result, cpu_micros) = self.drive(run_component(code, &mut store)).await;
                self.judge(result, cpu_micros, &store.data().memory)
            }
        };
        drop(place);
        stdout.finish();
        stderr.finish();
        ended
    }

    fn wasi(
        &self,
        program: &Program,
        stdout: &Output,
        stderr: &Output,
    ) -> Result<WasiCtxBuilder, Reason> {
        let launch = &self.launch.launch;
        let mut wasi = WasiCtxBuilder::new();
        wasi.stdout(stdout.clone()).stderr(stderr.clone());
        wasi.arg(launch.task.name.as_str())
            .args(&self.workload.args);
        for (name, value) in environment::of(launch, self.host.agent, GUEST_SANDBOX) {
            wasi.env(name, value);
        }
        wasi.allow_tcp(false).allow_udp(false);
        if program.wants_files {
            let sandbox = Path::new(&self.launch.sandbox);
            let opened = std::fs::create_dir_all(sandbox).map_err(wasmtime::Error::from);
            let opened = opened.and_then(|()| {
                wasi.preopened_dir(sandbox, GUEST_SANDBOX, FsPerms::ReadWrite)?;
                // As for native tasks, relative paths are in the sandbox.
                wasi.preopened_dir(sandbox, ".", FsPerms::ReadWrite)
                    .map(drop)
            });
            let opened = opened.and_then(|()| self.open_volumes(&mut wasi));
            opened.map_err(|error| {
                let message = format!(
                    "the sandbox {} cannot be opened: {error}",
                    sandbox.display()
                );
                Reason::new(reason::EXECUTOR_FAILED, message)
            })?;
        }
        Ok(wasi)
    }

    /// Volumes are opened beside the sandbox: a link out of it would lead nowhere.
    fn open_volumes(&self, wasi: &mut WasiCtxBuilder) -> wasmtime::Result<()> {
        for volume in &self.launch.volumes {
            tepui_executor::volume::make(volume)?;
            let guest = format!("{GUEST_SANDBOX}/{}", volume.path);
            wasi.preopened_dir(&volume.folder, guest, FsPerms::ReadWrite)?;
            wasi.preopened_dir(&volume.folder, &volume.path, FsPerms::ReadWrite)?;
        }
        Ok(())
    }

    fn store<T: 'static>(
        &self,
        state: T,
        memory: impl Fn(&mut T) -> &mut MemoryLimiter + Send + Sync + 'static,
    ) -> Store<T> {
        let mut store = Store::new(&self.host.engine, state);
        store.limiter(move |state| memory(state));
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        store
    }

    /// The guest's result, none if it was killed, and its processor time.
    async fn drive<T>(&self, run: impl Future<Output = T> + Send) -> (Option<T>, u64) {
        let mut metered = Metered::new(run);
        let result = tokio::select! {
            biased;
            () = self.kill.asked.cancelled() => None,
            result = &mut metered => Some(result),
        };
        (result, metered.micros())
    }

    fn judge(
        &self,
        result: Option<wasmtime::Result<Result<(), ()>>>,
        cpu_micros: u64,
        memory: &MemoryLimiter,
    ) -> (Verdict, Option<TaskUsage>) {
        let verdict = match result {
            Some(result) => verdict::of(result, memory),
            None => self.kill.verdict(),
        };
        (
            verdict,
            Some(TaskUsage {
                cpu_micros,
                mem_peak_bytes: memory.peak().0,
            }),
        )
    }
}

async fn run_module(
    code: &InstancePre<ModuleState>,
    store: &mut Store<ModuleState>,
) -> wasmtime::Result<Result<(), ()>> {
    let instance = code.instantiate_async(store.as_context_mut()).await?;
    let start = instance.get_typed_func::<(), ()>(store.as_context_mut(), "_start")?;
    start.call_async(store, ()).await.map(Ok)
}

async fn run_component(
    code: &CommandPre<ComponentState>,
    store: &mut Store<ComponentState>,
) -> wasmtime::Result<Result<(), ()>> {
    let command = code.instantiate_async(store.as_context_mut()).await?;
    command.wasi_cli_run().call_run(store).await
}
