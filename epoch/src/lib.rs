//! The clock by which WebAssembly guests yield.
//!
//! A guest leaves its thread to others when an epoch has passed (wasmtime's epoch interruption), and
//! epochs pass while a guest runs. After the last one the clock looks by itself for a moment whether
//! another has begun, since to wake it for each of many short ones would cost more than they do. Then its
//! thread sleeps: a process whose guests all wait for something costs nothing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Builder, JoinHandle};
use std::time::Duration;

use wasmtime::Engine;

/// How a clock goes.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// An epoch, while a guest runs.
    pub epoch: Duration,
    /// Between two looks for one, while none does. One that begins keeps its thread for so much longer at
    /// first, at most.
    pub look: Duration,
    /// Looks in vain, after which the thread sleeps until it is woken.
    pub looks: u32,
}

/// The clock of one engine, on a thread of its own, which ends with it.
pub struct Clock {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    engine: Engine,
    pace: Pace,
    running: AtomicUsize,
    /// Whether the thread is to be woken for the first guest.
    sleeps: AtomicBool,
    stopped: AtomicBool,
}

/// Counts a guest as running until it is dropped.
pub struct Running<'a>(&'a Shared);

impl Clock {
    /// Starts the clock of `engine`.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(engine: Engine, pace: Pace) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            engine,
            pace,
            running: AtomicUsize::new(0),
            sleeps: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        });
        let ours = shared.clone();
        let thread = Builder::new()
            .name("epoch".into())
            .spawn(move || ours.go())?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// A guest runs, until the guard is dropped.
    pub fn run(&self) -> Running<'_> {
        let shared = &*self.shared;
        let is_first = shared.running.fetch_add(1, Ordering::SeqCst) == 0;
        if is_first && shared.sleeps.load(Ordering::SeqCst) {
            self.wake();
        }
        Running(shared)
    }

    /// All guests that run yield at once.
    pub fn interrupt(&self) {
        self.shared.engine.increment_epoch();
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Shared {
    fn go(&self) {
        let mut looks = 0;
        while !self.stopped.load(Ordering::SeqCst) {
            if self.running.load(Ordering::SeqCst) > 0 {
                looks = 0;
                thread::park_timeout(self.pace.epoch);
                self.engine.increment_epoch();
            } else if looks < self.pace.looks {
                looks += 1;
                thread::park_timeout(self.pace.look);
            } else {
                self.sleep();
                looks = 0;
            }
        }
    }

    /// Until a guest runs, or all is over.
    fn sleep(&self) {
        self.sleeps.store(true, Ordering::SeqCst);
        // Whoever begins is counted, and then looks whether to wake this thread: one of the two sees the
        // other. A wake that comes before the park is kept.
        if self.running.load(Ordering::SeqCst) == 0 && !self.stopped.load(Ordering::SeqCst) {
            thread::park();
        }
        self.sleeps.store(false, Ordering::SeqCst);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.wake();
        if let Some(thread) = self.thread.take() {
            // It ends within an epoch; a panic in it has been printed already.
            drop(thread.join());
        }
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
    fn it_sleeps_while_no_guest_runs_and_is_woken_by_the_next() {
        let pace = Pace {
            epoch: Duration::from_millis(1),
            look: Duration::from_millis(1),
            looks: 3,
        };
        let clock = Clock::start(Engine::default(), pace).unwrap();
        let sleeps = || clock.shared.sleeps.load(Ordering::SeqCst);
        for _ in 0..3 {
            eventually("it sleeps", sleeps);
            let running = [clock.run(), clock.run()];
            eventually("it is woken", || !sleeps());
            drop(running);
        }
        eventually("it sleeps", sleeps);
        drop(clock);
    }
}
