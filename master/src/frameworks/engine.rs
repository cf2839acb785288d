//! Where guests run: wasmtime, the threads for it, and the clock that stops them.
//!
//! Guests have threads of their own, so that one that spins delays neither
//! HTTP nor agents. A thread advances wasmtime's epoch every millisecond while
//! any guest runs, looks now and then whether one does for a moment after, and
//! sleeps otherwise; at each tick a guest yields its thread.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle as Task;
use wasmtime::component::{HasSelf, Linker};

use super::bindings::Framework;
use super::code::CodeError;
use super::host::HostState;

/// How long a guest may keep its thread.
const TICK: Duration = Duration::from_millis(1);
/// How often is looked for guests after the last one: waking the thread for each of many short turns
/// would cost more than they do. A guest that spins keeps its thread so much longer at first.
const LULL: Duration = Duration::from_millis(5);
/// So many looks that found nobody, and the thread sleeps until it is woken.
const LULLS: u32 = 20;
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
    ticker: Arc<Ticker>,
    ticking: Option<JoinHandle<()>>,
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

    /// Runs a guest: the epoch advances until the future is done or dropped.
    pub async fn ticking<F: Future>(&self, guest: F) -> F::Output {
        let running = Running(&self.ticker);
        if running.0.running.fetch_add(1, Ordering::SeqCst) == 0
            && self.ticker.sleeps.load(Ordering::SeqCst)
            && let Some(thread) = &self.ticking
        {
            thread.thread().unpark();
        }
        guest.await
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for runtime in self.runtimes.drain(..) {
            // The engine may be dropped by a task, which cannot wait for threads.
            runtime.shutdown_background();
        }
        self.ticker.stopped.store(true, Ordering::SeqCst);
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

#[derive(Debug, Default)]
struct Ticker {
    running: AtomicUsize,
    /// Whether its thread is to be woken for the first guest.
    sleeps: AtomicBool,
    stopped: AtomicBool,
}

impl Ticker {
    fn run(&self, engine: &wasmtime::Engine) {
        let mut lulls = 0;
        while !self.stopped.load(Ordering::Acquire) {
            if self.running.load(Ordering::SeqCst) > 0 {
                lulls = 0;
                std::thread::park_timeout(TICK);
                engine.increment_epoch();
            } else if lulls < LULLS {
                lulls += 1;
                std::thread::park_timeout(LULL);
            } else {
                self.sleep();
                lulls = 0;
            }
        }
    }

    /// Until a guest is started, or all is over.
    fn sleep(&self) {
        self.sleeps.store(true, Ordering::SeqCst);
        // Whoever starts the first guest counts it, and then looks whether to wake this thread: one of
        // the two sees the other. A wake that comes before the park is kept.
        if self.running.load(Ordering::SeqCst) == 0 && !self.stopped.load(Ordering::SeqCst) {
            std::thread::park();
        }
        self.sleeps.store(false, Ordering::SeqCst);
    }
}

/// Counts a guest as running until it is dropped.
struct Running<'a>(&'a Ticker);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}
