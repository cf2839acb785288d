//! The clock by which guests yield: epochs pass while guests run, and an executor whose guests all wait
//! for something sleeps.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use wasmtime::Engine;

/// How long a guest runs before others on its thread have their turn: many short tasks are over by then,
/// and spinning ones cost 500 switches a second.
const EPOCH: Duration = Duration::from_millis(2);
/// Epochs without a guest that runs, after which none pass any more: to wake the clock costs more than a
/// few of them.
const LINGER: u32 = 10;

/// Lets epochs pass.
#[derive(Clone)]
pub struct Ticker {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Engine,
    running: AtomicUsize,
    /// Whether the clock waits to be woken.
    sleeps: AtomicBool,
    /// Held while that is decided.
    lock: Mutex<()>,
    woken: Condvar,
}

/// While it exists, epochs pass.
pub struct Running<'a> {
    shared: &'a Shared,
}

impl Ticker {
    /// Starts the clock of `engine`, on a thread of its own.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(engine: Engine) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            engine,
            running: AtomicUsize::new(0),
            sleeps: AtomicBool::new(false),
            lock: Mutex::new(()),
            woken: Condvar::new(),
        });
        let ours = shared.clone();
        thread::Builder::new()
            .name("epoch".into())
            .spawn(move || ours.tick())?;
        Ok(Self { shared })
    }

    /// A guest runs, until the guard is dropped.
    pub fn run(&self) -> Running<'_> {
        let shared = &*self.shared;
        shared.running.fetch_add(1, Ordering::SeqCst);
        if shared.sleeps.load(Ordering::SeqCst) {
            shared.wake();
        }
        Running { shared }
    }

    /// All guests that run yield at once.
    pub fn interrupt(&self) {
        self.shared.engine.increment_epoch();
    }
}

impl Shared {
    #[expect(clippy::disallowed_methods, reason = "on a thread of its own")]
    fn tick(&self) {
        let mut idle = 0;
        loop {
            thread::sleep(EPOCH);
            self.engine.increment_epoch();
            idle = match self.running.load(Ordering::Relaxed) {
                0 => idle + 1,
                _ => 0,
            };
            if idle == LINGER {
                self.sleep();
                idle = 0;
            }
        }
    }

    /// Returns when a guest runs.
    fn sleep(&self) {
        let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleeps.store(true, Ordering::SeqCst);
        // Who began before that was stored is seen here; who begins after it sees it.
        let idle = |_: &mut ()| self.running.load(Ordering::SeqCst) == 0;
        drop(self.woken.wait_while(guard, idle));
        self.sleeps.store(false, Ordering::SeqCst);
    }

    fn wake(&self) {
        let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.woken.notify_one();
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.shared.running.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Long enough for any machine.
    const DEADLINE: Duration = Duration::from_secs(60);

    #[expect(clippy::disallowed_methods, reason = "a test on a thread of its own")]
    fn eventually(what: &str, is_so: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < DEADLINE, "{what}");
            // sleep: between two looks.
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn the_clock_sleeps_while_no_guest_runs_and_is_woken_by_the_next() {
        let ticker = Ticker::start(Engine::default()).unwrap();
        let sleeps = || ticker.shared.sleeps.load(Ordering::SeqCst);
        for _ in 0..3 {
            eventually("it sleeps", sleeps);
            let running = [ticker.run(), ticker.run()];
            eventually("it is woken", || !sleeps());
            drop(running);
        }
    }
}
