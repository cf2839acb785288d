//! A task whose program is at hand: what its instances are given, and what they used together.
//!
//! A command has one instance, a service one for each request. All of a task's write to the same
//! outputs, and are charged to the same account.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use tepui_executor::cgroup::limits::{Limits, memory_of};
use tepui_executor::environment;
use tepui_executor::packs::{self, Packed, Packer};
use tepui_types::task::{WasmWorkload, reason};
use tepui_types::wasm::Stdin;
use tepui_types::wire::agent::TaskLaunch;
use tepui_types::wire::executor::ExecutorLaunch;
use tepui_types::{Reason, Resources, TaskState};
use wasmtime::Store;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::cli::InputFile;
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};
use wasmtime_wasi_http::WasiHttpCtx;

use crate::cpu::Cpu;
use crate::disk::Disk;
use crate::files::{Files, NAMES};
use crate::host::Host;
use crate::limits::{Memory, MemoryLimiter};
use crate::meter::Counters;
use crate::module_files::FIRST_FOLDER;
use crate::network::Network;
use crate::outgoing::Outgoing;
use crate::output::Output;
use crate::program::{ComponentState, Program};
use crate::task::plain;
use crate::throttle::Throttle;

/// The sandbox as guests see it.
const GUEST_SANDBOX: &str = "/sandbox";
/// Handles of one instance at once: far more than programs have open, and they are memory of the
/// host's.
const MAX_HANDLES: usize = 64 * 1024;

/// A task with its program.
pub struct Guest {
    /// What it shares with others.
    pub host: Arc<Host>,
    /// The task, with all that the agent prepared.
    pub prepared: Box<ExecutorLaunch>,
    /// What it runs.
    pub workload: WasmWorkload,
    /// The program's code.
    pub program: Arc<Program>,
    /// Its standard output.
    pub stdout: Output,
    /// Its standard error.
    pub stderr: Output,
    /// What its instances take.
    pub counters: Counters,
    /// What its sandbox may take of the disk, if that has a limit.
    disk: Option<Arc<Disk>>,
    environment: Vec<(String, String)>,
    network: Arc<Network>,
    outgoing: Outgoing,
}

impl Guest {
    /// Nothing of it runs yet.
    pub fn new(
        host: Arc<Host>,
        prepared: Box<ExecutorLaunch>,
        workload: WasmWorkload,
        program: Arc<Program>,
        throttle: Throttle,
    ) -> Self {
        let sandbox = Path::new(&prepared.sandbox);
        let beside = sandbox.parent().unwrap_or(Path::new("/"));
        let output = |name| Output::new(beside.join(name), host.output_limit, host.flusher.clone());
        let (stdout, stderr) = (output("stdout"), output("stderr"));
        let options = workload.options.as_deref().cloned().unwrap_or_default();
        let network = Network::new(&options, &prepared.launch.resources.ports);
        let environment = environment::of(&prepared.launch, host.agent, GUEST_SANDBOX);
        Self {
            stdout,
            stderr,
            counters: Counters::new(
                cpu_of(&host, &prepared.launch.resources, throttle),
                Memory::new(memory_of(&prepared.launch.resources)),
            ),
            disk: disk_of(&prepared),
            environment: environment.into_iter().collect(),
            outgoing: Outgoing::new(network.clone()),
            network,
            host,
            prepared,
            workload,
            program,
        }
    }

    /// The task as it was launched.
    pub fn launch(&self) -> &TaskLaunch {
        &self.prepared.launch
    }

    /// Tells the agent that it runs.
    pub async fn say_running(&self) {
        let running = plain(self.launch().task.clone(), TaskState::Running);
        // The receiver lives as long as the process.
        let _ = self.host.updates.send(running).await;
    }

    /// The WASI of a command: that of any instance, and the standard input.
    pub fn wasi_of_command(&self) -> Result<WasiCtxBuilder, Reason> {
        let mut wasi = self.wasi()?;
        let options = self.workload.options.as_deref();
        match options.and_then(|options| options.stdin.as_ref()) {
            Some(Stdin::Text(text)) => {
                wasi.stdin(MemoryInputPipe::new(text.clone()));
            }
            Some(Stdin::Artifact(_)) => {
                wasi.stdin(InputFile::new(self.open_stdin()?));
            }
            None => {}
        }
        Ok(wasi)
    }

    fn open_stdin(&self) -> Result<File, Reason> {
        let path = self.prepared.stdin.as_deref();
        let path = path.ok_or_else(|| {
            let message = "the agent named no file for the standard input";
            Reason::new(reason::EXECUTOR_FAILED, message)
        })?;
        File::open(path).map_err(|error| {
            let message = format!("the standard input cannot be had from {path}: {error}");
            Reason::new(reason::ARTIFACT_UNAVAILABLE, message)
        })
    }

    /// Nothing more is written: what is not in files yet goes there, or into a pack if it is all that
    /// the task leaves behind and little.
    pub fn finish_outputs(&self) {
        let packer = self.host.packer.as_ref();
        let most = packer.map_or(0, |_| packs::MOST);
        let left = match (packer, self.stdout.finish(most), self.stderr.finish(most)) {
            (Some(packer), Some(stdout), Some(stderr))
                if stdout.len() + stderr.len() <= packs::MOST && self.left_no_files() =>
            {
                self.pack(packer, stdout, stderr)
            }
            (_, stdout, stderr) => Some((stdout.unwrap_or_default(), stderr.unwrap_or_default())),
        };
        if let Some((stdout, stderr)) = left {
            self.stdout.restore(stdout);
            self.stderr.restore(stderr);
        }
    }

    /// Whether its folder is gone, for nothing was in its sandbox.
    fn left_no_files(&self) -> bool {
        let sandbox = Path::new(&self.prepared.sandbox);
        let is_gone = match std::fs::remove_dir(sandbox) {
            Ok(()) => true,
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        };
        if let Some(folder) = sandbox.parent().filter(|_| is_gone) {
            // What else is in there stays.
            let _ = std::fs::remove_dir(folder);
        }
        is_gone
    }

    /// Gives back what could not be packed.
    fn pack(
        &self,
        packer: &Packer,
        stdout: Vec<u8>,
        stderr: Vec<u8>,
    ) -> Option<(Vec<u8>, Vec<u8>)> {
        if stdout.is_empty() && stderr.is_empty() {
            return None;
        }
        let task = self.launch().task.clone();
        let packed = Packed {
            task,
            stdout,
            stderr,
        };
        let error = packer.add(&packed).err()?;
        tracing::debug!(task = %packed.task, %error, "an output is not packed, and goes to its file");
        Some((packed.stdout, packed.stderr))
    }

    /// The WASI of any instance.
    pub fn wasi(&self) -> Result<WasiCtxBuilder, Reason> {
        let mut wasi = WasiCtxBuilder::new();
        wasi.stdout(self.stdout.clone()).stderr(self.stderr.clone());
        wasi.arg(self.launch().task.name.as_str())
            .args(&self.workload.args)
            .envs(&self.environment);
        self.network.grant(&mut wasi);
        if self.program.wants_files {
            self.open_files(&mut wasi).map_err(|error| {
                let sandbox = &self.prepared.sandbox;
                let message = format!("the sandbox {sandbox} cannot be opened: {error}");
                Reason::new(reason::EXECUTOR_FAILED, message)
            })?;
        }
        Ok(wasi)
    }

    fn open_files(&self, wasi: &mut WasiCtxBuilder) -> wasmtime::Result<()> {
        let sandbox = Path::new(&self.prepared.sandbox);
        std::fs::create_dir_all(sandbox)?;
        wasi.preopened_dir(sandbox, GUEST_SANDBOX, FsPerms::ReadWrite)?;
        // As for native tasks, relative paths are in the sandbox.
        wasi.preopened_dir(sandbox, ".", FsPerms::ReadWrite)?;
        // Volumes are opened beside the sandbox: a link out of it would lead nowhere.
        for volume in &self.prepared.volumes {
            tepui_executor::volume::make(volume)?;
            let guest = format!("{GUEST_SANDBOX}/{}", volume.path);
            wasi.preopened_dir(&volume.folder, guest, FsPerms::ReadWrite)?;
            wasi.preopened_dir(&volume.folder, &volume.path, FsPerms::ReadWrite)?;
        }
        Ok(())
    }

    /// The part of the task's memory that one more instance has.
    pub fn limiter(&self) -> MemoryLimiter {
        MemoryLimiter::new(self.counters.memory.clone())
    }

    /// What an instance of a component can reach that has this WASI.
    pub fn component_state(&self, mut wasi: WasiCtxBuilder) -> ComponentState {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_HANDLES);
        ComponentState {
            wasi: wasi.build(),
            http: WasiHttpCtx::new(),
            outgoing: self.outgoing.clone(),
            table,
            files: Files::new(self.disk.clone()),
            memory: self.limiter(),
        }
    }

    /// The files of an instance of a module: its folders are open from the start.
    pub fn module_files(&self) -> Files {
        let mut files = Files::new(self.disk.clone());
        let volumes = self.prepared.volumes.len() as u32;
        files.streams(0..FIRST_FOLDER);
        files.preopened(FIRST_FOLDER..FIRST_FOLDER + NAMES * (1 + volumes));
        files
    }

    /// A store whose guest yields at every epoch.
    pub fn store<T: 'static>(
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
}

/// What was asked for is guaranteed, and no limit: unused time is there to be used. A task that
/// asked for nothing gets as little as a native one.
fn cpu_of(host: &Host, resources: &Resources, throttle: Throttle) -> Cpu {
    let guarantee = Limits::of(resources, None).cpus;
    let ceiling = (resources.cpus.0 == 0).then_some(guarantee);
    let (gate, stir) = (host.gate.clone(), host.stir.clone());
    Cpu::new(gate, guarantee, ceiling, throttle, stir)
}

/// What was asked for of the disk is the limit of the sandbox; who asked for none has none.
fn disk_of(prepared: &ExecutorLaunch) -> Option<Arc<Disk>> {
    let limit = prepared.launch.resources.disk;
    (limit.0 > 0).then(|| Disk::new(Path::new(&prepared.sandbox), limit))
}
