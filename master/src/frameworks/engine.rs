//! Where guests run: wasmtime, the threads for it, and the clock that stops them.
//!
//! Guests have threads of their own, so that one that spins delays neither
//! HTTP nor agents, and leave them to each other by a clock.

use std::future::Future;
use std::time::Duration;

use tepui_epoch::{Clock, Pace};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle as Task;
use wasmtime::component::{HasSelf, Linker};

use super::bindings::Framework;
use super::code::CodeError;
use super::host::HostState;

/// How long a guest may keep its thread.
const PACE: Pace = Pace {
    epoch: Duration::from_millis(1),
    look: Duration::from_millis(5),
    looks: 20,
};
/// Threads for guests, each with its own frameworks: among threads that take each other's work, every
/// turn would wake two. A turn is short, and two that spin leave two.
const THREADS: usize = 4;

/// The framework host could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// wasmtime refused its configuration.
    #[error("failed to set up the WebAssembly engine")]
    Wasmtime(#[source] wasmtime::Error),
    /// There is no place for compiled components.
    #[error(transparent)]
    Code(#[from] CodeError),
    /// The system gave no thread.
    #[error("failed to start a thread for guests")]
    Thread(#[source] std::io::Error),
}

/// One for the whole master.
pub struct Engine {
    wasmtime: wasmtime::Engine,
    linker: Linker<HostState>,
    clock: Clock,
    /// One for each thread.
    runtimes: Vec<Runtime>,
}

impl Engine {
    /// Sets up wasmtime, its threads and what guests may import.
    pub fn new() -> Result<Self, EngineError> {
        let wasmtime = wasmtime::Engine::new(&config()).map_err(EngineError::Wasmtime)?;
        let linker = link(&wasmtime).map_err(EngineError::Wasmtime)?;
        let runtimes = (0..THREADS).map(|_| one_thread());
        let runtimes: Result<_, _> = runtimes.collect();
        let runtimes = runtimes.map_err(EngineError::Thread)?;
        let clock = Clock::start(wasmtime.clone(), PACE).map_err(EngineError::Thread)?;
        Ok(Self {
            wasmtime,
            linker,
            clock,
            runtimes,
        })
    }

    /// wasmtime's engine.
    pub fn wasmtime(&self) -> &wasmtime::Engine {
        &self.wasmtime
    }

    /// All that a guest may import.
    pub fn linker(&self) -> &Linker<HostState> {
        &self.linker
    }

    /// Runs what drives a guest, on the thread that has fewest of them.
    pub fn spawn<F>(&self, actor: F) -> Task<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let load = |runtime: &&Runtime| runtime.metrics().num_alive_tasks();
        let runtime = self.runtimes.iter().min_by_key(load);
        // invariant: there is one at least, until this is dropped.
        runtime.expect("threads for guests").spawn(actor)
    }

    /// Runs a guest: epochs pass until the future is done or dropped.
    pub async fn ticking<F: Future>(&self, guest: F) -> F::Output {
        let _running = self.clock.run();
        guest.await
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for runtime in self.runtimes.drain(..) {
            // The engine may be dropped by a task, which cannot wait for threads.
            runtime.shutdown_background();
        }
    }
}

/// What guests are compiled and run by; the compiler's process takes the same.
pub fn config() -> wasmtime::Config {
    let mut config = wasmtime::Config::new();
    config.epoch_interruption(true);
    // A turn that is run again with the same input gives the same output.
    config.cranelift_nan_canonicalization(true);
    config.relaxed_simd_deterministic(true);
    config
}

/// A runtime of one thread.
fn one_thread() -> std::io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("framework")
        // Otherwise spinning guests keep timers waiting for many ticks.
        .event_interval(1)
        .global_queue_interval(1)
        .enable_time()
        .build()
}

fn link(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<HostState>> {
    let mut linker = Linker::new(engine);
    Framework::add_to_linker::<HostState, HasSelf<HostState>>(&mut linker, |state| state)?;
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    Ok(linker)
}
