//! What all tasks of the process share.

use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use tepui_epoch::{Clock, Pace};
use tepui_executor::packs::Packer;
use tepui_executor::startup::Startup;
use tepui_types::wire::executor::TaskUpdate;
use tepui_types::{AgentId, Bytes};
use tokio::sync::{Semaphore, mpsc};
use wasmtime::Engine;

use crate::engine::{MAX_INSTANCES, MAX_REQUESTS};
use crate::gate::Gate;
use crate::meter::Stir;
use crate::output::Flusher;
use crate::programs::Programs;

/// How long a guest runs before others on its thread have their turn: many short tasks are over by then,
/// and spinning ones cost 500 switches a second.
const EPOCH: Duration = Duration::from_millis(2);
const PACE: Pace = Pace {
    epoch: EPOCH,
    look: EPOCH,
    looks: 10,
};

/// Engine, programs, places and ways out.
pub struct Host {
    /// Compiles and instantiates.
    pub engine: Engine,
    /// Shares the processors among tasks.
    pub gate: Arc<Gate>,
    /// Told when a task uses something.
    pub stir: Arc<Stir>,
    /// Compiled programs.
    pub programs: Programs,
    /// Appends outputs.
    pub flusher: Flusher,
    /// Places for instances of commands.
    pub places: Semaphore,
    /// Places for instances that answer requests, so that no number of waiting commands holds up a
    /// service.
    pub request_places: Semaphore,
    /// The agent, for the environment.
    pub agent: AgentId,
    /// Keeps small outputs together.
    pub packer: Option<Packer>,
    /// How much of each output of a task is kept.
    pub output_limit: Bytes,
    /// Where updates go.
    pub updates: mpsc::Sender<TaskUpdate>,
}

impl Host {
    /// With places for as many instances as the engine has.
    pub fn new(startup: &Startup, updates: mpsc::Sender<TaskUpdate>) -> anyhow::Result<Self> {
        let engine = crate::engine::new().map_err(prepare_failed)?;
        // As many as the guests' runtime has.
        let threads = available_parallelism().map_or(1, usize::from);
        Ok(Self {
            gate: Gate::new(threads, Clock::start(engine.clone(), PACE)?),
            stir: Arc::default(),
            programs: Programs::new(engine.clone(), startup.code_cache.clone())
                .map_err(prepare_failed)?,
            flusher: Flusher::start()?,
            places: Semaphore::new(MAX_INSTANCES),
            request_places: Semaphore::new(MAX_REQUESTS),
            engine,
            agent: startup.agent,
            packer: packer(startup),
            output_limit: startup.output_limit,
            updates,
        })
    }
}

fn packer(startup: &Startup) -> Option<Packer> {
    // The name of its folder is its number.
    let prefix = startup.dir.file_name()?.to_string_lossy().into_owned();
    Some(Packer::new(startup.packs.clone()?, prefix))
}

/// wasmtime's errors are of a type of their own.
fn prepare_failed(error: wasmtime::Error) -> anyhow::Error {
    anyhow::anyhow!("{error:#}")
}
