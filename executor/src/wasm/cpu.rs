//! Processor time of one task among many on a thread.
//!
//! The thread's CPU clock is read around each poll of the task's futures, host
//! calls included; what they wait for is not counted.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

/// What the futures of one task took together.
#[derive(Debug, Clone, Default)]
pub struct Cpu {
    nanos: Arc<AtomicU64>,
}

impl Cpu {
    /// Microseconds so far, rounded up: no task that ran took nothing.
    pub fn micros(&self) -> u64 {
        self.nanos.load(Ordering::Relaxed).div_ceil(1000)
    }

    /// Charges what the polls of `future` take.
    pub fn charge<'a, T>(&self, future: impl Future<Output = T> + Send + 'a) -> Charged<'a, T> {
        Charged {
            inner: Box::pin(future),
            cpu: self.clone(),
        }
    }
}

/// A future whose polls are charged.
pub struct Charged<'a, T> {
    inner: Pin<Box<dyn Future<Output = T> + Send + 'a>>,
    cpu: Cpu,
}

impl<T> Future for Charged<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let before = thread_nanos();
        let result = self.inner.as_mut().poll(context);
        let took = thread_nanos().saturating_sub(before);
        self.cpu.nanos.fetch_add(took, Ordering::Relaxed);
        result
    }
}

/// Nanoseconds of processor time that the calling thread has used.
fn thread_nanos() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a timespec of our own, written by the call alone.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    if result != 0 {
        return 0;
    }
    (time.tv_sec as u64)
        .saturating_mul(1_000_000_000)
        .saturating_add(time.tv_nsec as u64)
}
