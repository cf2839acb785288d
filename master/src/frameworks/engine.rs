//! Where guests run: wasmtime, the threads for it, and the clock that stops them.
//!
//! Guests have a runtime of their own, so that one that spins delays neither
//! HTTP nor agents. A thread advances wasmtime's epoch every millisecond while
//! any guest runs and sleeps otherwise; at each tick a guest yields its thread.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use wasmtime::component::{HasSelf, Linker};

use super::bindings::Framework;
use super::code::CodeError;
use super::host::HostState;

/// How long a guest may keep its thread.
const TICK: Duration = Duration::from_millis(1);
/// Threads for guests: a turn is short, and two that spin leave two.
const MAX_THREADS: usize = 4;

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
    ticker: Arc<Ticker>,
    ticking: Option<JoinHandle<()>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Engine {
    /// Sets up wasmtime, its threads and what guests may import.
    pub fn new() -> Result<Self, EngineError> {
        let wasmtime = wasmtime::Engine::new(&config()).map_err(EngineError::Wasmtime)?;
        let linker = link(&wasmtime).map_err(EngineError::Wasmtime)?;
        let threads = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(MAX_THREADS);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("framework")
            // Otherwise spinning guests keep timers waiting for many ticks.
            .event_interval(1)
            .global_queue_interval(1)
            .enable_time()
            .build()
            .map_err(EngineError::Thread)?;
        let ticker = Arc::new(Ticker::default());
        let ticking = std::thread::Builder::new()
            .name("epoch".into())
            .spawn({
                let (ticker, wasmtime) = (ticker.clone(), wasmtime.clone());
                move || ticker.run(&wasmtime)
            })
            .map_err(EngineError::Thread)?;
        Ok(Self {
            wasmtime,
            linker,
            ticker,
            ticking: Some(ticking),
            runtime: Some(runtime),
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

    /// The runtime for guests.
    pub fn runtime(&self) -> &tokio::runtime::Runtime {
        // invariant: only `drop` takes it.
        self.runtime
            .as_ref()
            .expect("the runtime lives as long as the engine")
    }

    /// Runs a guest: the epoch advances until the future is done or dropped.
    pub async fn ticking<F: Future>(&self, guest: F) -> F::Output {
        let running = Running(&self.ticker);
        if running.0.running.fetch_add(1, Ordering::AcqRel) == 0
            && let Some(thread) = &self.ticking
        {
            thread.thread().unpark();
        }
        guest.await
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // The engine may be dropped by a task, which cannot wait for threads.
            runtime.shutdown_background();
        }
        self.ticker.stopped.store(true, Ordering::Release);
        if let Some(thread) = self.ticking.take() {
            thread.thread().unpark();
            // It ends within a tick; a panic in it has been printed already.
            drop(thread.join());
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

fn link(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<HostState>> {
    let mut linker = Linker::new(engine);
    Framework::add_to_linker::<HostState, HasSelf<HostState>>(&mut linker, |state| state)?;
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    Ok(linker)
}

#[derive(Debug, Default)]
struct Ticker {
    running: AtomicUsize,
    stopped: AtomicBool,
}

impl Ticker {
    fn run(&self, engine: &wasmtime::Engine) {
        while !self.stopped.load(Ordering::Acquire) {
            if self.running.load(Ordering::Acquire) == 0 {
                // Whoever starts the first guest wakes this thread; a wake that
                // comes before the park is kept.
                std::thread::park();
            } else {
                std::thread::park_timeout(TICK);
                engine.increment_epoch();
            }
        }
    }
}

/// Counts a guest as running until it is dropped.
struct Running<'a>(&'a Ticker);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}
